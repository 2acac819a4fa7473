// How the lanes of a mask meet in a warp function.
#include <algorithm>
#include <cstring>

#include "block_engine.h"
#include "sanitizer_hooks.h"

namespace facekernels::emulation {
namespace {

bool needs_whole_warp(Operation operation) {
  return operation == Operation::kMatrixLoad || operation == Operation::kMatrixProduct;
}

}  // namespace

void warp_collective(const WarpCall& call, const SourceLocation& where) {
  BlockEngine::current().meet_lanes(call, where);
}

PendingWarpCall& BlockEngine::join_warp_call(Warp& warp, const WarpCall& call,
                                             const SourceLocation& where) {
  for (unsigned k = 0; k < warp.pending_count; ++k) {
    PendingWarpCall& pending = warp.pending[k];
    if (pending.mask != call.mask) continue;
    const bool same_call = pending.operation == call.operation &&
                           pending.input_bytes == call.input_bytes &&
                           (!config().strict || same_place(pending.where, where));
    if (!same_call) {
      fail("divergent warp function: this lane is in " +
           std::string(operation_name(call.operation)) + " at " + location_text(where) +
           " but other lanes of mask " + mask_text(call.mask) + " are in " +
           operation_name(pending.operation) + " at " + location_text(pending.where));
    }
    return pending;
  }
  PendingWarpCall& pending = warp.pending[warp.pending_count++];
  pending = {call.operation,
             call.mask,
             0,
             call.input_bytes,
             call.combine,
             where,
             warp.calls++ % Warp::kEdges};
  return pending;
}

void BlockEngine::meet_lanes(const WarpCall& call, const SourceLocation& where) {
  Fiber& fiber = *running_;
  Warp& warp = warps_[fiber.warp];
  if (!((call.mask >> fiber.lane) & 1)) {
    fail(std::string(operation_name(call.operation)) + " at " + location_text(where) +
         ": the calling lane is not in its own mask " + mask_text(call.mask));
  }
  if (call.input_bytes) {
    const sanitizer::IgnoreAccesses ignore;
    std::memcpy(fiber.lane_data.input, call.input, call.input_bytes);
  }
  fiber.lane_data.source_lane = call.source_lane;
  fiber.operation = call.operation;
  fiber.mask = call.mask;
  fiber.where = where;

  PendingWarpCall& pending = join_warp_call(warp, call, where);
  pending.arrived |= 1u << fiber.lane;
  void* edge = &warp.edges[pending.edge];
  const bool orders_memory = call.operation == Operation::kSyncWarp;
  if (orders_memory) sanitizer::release(edge);

  // The last lane to arrive completes the call for all and goes on without a switch.
  fiber.state = ThreadState::kInWarpCall;
  complete_warp_calls(warp, fiber.warp);
  if (fiber.state == ThreadState::kInWarpCall) run_next();

  if (orders_memory) sanitizer::acquire(edge);
  if (call.output_bytes) {
    const sanitizer::IgnoreAccesses ignore;
    std::memcpy(call.output, fiber.lane_data.output, call.output_bytes);
  }
}

void BlockEngine::complete_warp_calls(Warp& warp, uint32_t warp_index) {
  for (unsigned k = 0; k < warp.pending_count;) {
    const PendingWarpCall call = warp.pending[k];
    if (call.arrived != warp.expected(call.mask)) {
      ++k;
      continue;
    }
    warp.pending[k] = warp.pending[--warp.pending_count];
    finish_warp_call(call, warp_index);
  }
}

// Computes the outputs of all lanes at once, so that a fast lane cannot overwrite an input which a
// slow lane still has to read.
void BlockEngine::finish_warp_call(const PendingWarpCall& call, uint32_t warp_index) {
  const uint32_t first = warp_index * kLanes;
  const uint32_t count = std::min(kLanes, thread_count_ - first);
  const auto takes_part = [&](uint32_t lane) { return ((call.arrived >> lane) & 1) != 0; };

  LaneData* lanes[kLanes] = {};
  for (uint32_t l = 0; l < count; ++l) {
    if (takes_part(l)) lanes[l] = &fibers_[first + l].lane_data;
  }
  if (call.operation == Operation::kShuffle && config().strict) {
    check_shuffle_sources(call, lanes, warp_index);
  }
  if (needs_whole_warp(call.operation) && call.arrived != 0xffffffffu) {
    fail(std::string(operation_name(call.operation)) + " at " + location_text(call.where) +
         ": all 32 lanes must take part, present " + mask_text(call.arrived));
  }
  if (call.combine) {
    const sanitizer::IgnoreAccesses ignore;
    call.combine(lanes, call.arrived, call.input_bytes);
  }
  Fiber* const completing = running_;
  make_ready(first, count,
             [&](const Fiber& fiber) { return takes_part(fiber.lane) && &fiber != completing; });
  if (completing->state == ThreadState::kInWarpCall) completing->state = ThreadState::kReady;
}

void BlockEngine::check_shuffle_sources(const PendingWarpCall& call, LaneData* const lanes[kLanes],
                                        uint32_t warp_index) {
  for (unsigned l = 0; l < kLanes; ++l) {
    if (!lanes[l] || lanes[lanes[l]->source_lane]) continue;
    fail(fibers_[warp_index * kLanes + l],
         std::string(operation_name(call.operation)) + " at " + location_text(call.where) +
             ": this lane reads lane " + std::to_string(lanes[l]->source_lane) +
             ", which takes no part (mask " + mask_text(call.mask) + ", present " +
             mask_text(call.arrived) + "): the value is undefined");
  }
}

}  // namespace facekernels::emulation
