// Loops over independent work items on torch's own OpenMP pool: the module links the libgomp that
// torch has already loaded, so torch.set_num_threads() is obeyed without being asked.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace facekernels {

// Calls f(begin, end) on disjoint ranges that cover [0, items). A range costs at least `grain`
// units of `cost_per_item`; below that the loop stays on the calling thread, because waking a
// second one costs more than it saves.
template <class F>
void parallel_for(int64_t items, int64_t cost_per_item, F f, int64_t grain = 32 * 1024) {
  if (items <= 0) return;
  const int64_t useful = std::max<int64_t>(1, items * std::max<int64_t>(cost_per_item, 1) / grain);
  const int threads = static_cast<int>(std::min<int64_t>({omp_get_max_threads(), useful, items}));
  if (threads <= 1 || omp_in_parallel()) {
    f(int64_t{0}, items);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const int64_t count = omp_get_num_threads();
    const int64_t rank = omp_get_thread_num();
    f(items * rank / count, items * (rank + 1) / count);
  }
}

}  // namespace facekernels
