// Adds kernel, block and thread to the reports of AddressSanitizer and
// UndefinedBehaviorSanitizer, which know only source lines.
#pragma once

namespace facekernels::emulation {

void name_thread_in_sanitizer_reports();

}  // namespace facekernels::emulation
