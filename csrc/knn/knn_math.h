// Scores in double, summed in one order on every back end: 32 partial sums of every 32nd element,
// then a tree. Products of floats are exact in double, so that the order is all that matters for
// inner products of float rows.
#pragma once

#include "core/host_device.h"
#include "knn/knn.h"

namespace facekernels::knn {

constexpr int kPartialSums = 32;

template <class T>
FK_HOST_DEVICE inline double term(Metric metric, T q, T x) {
  const double a = static_cast<double>(q), b = static_cast<double>(x);
  return metric == Metric::kInnerProduct ? a * b : -(a - b) * (a - b);
}

FK_HOST_DEVICE inline double scaled(double sum, const Rows& queries, int64_t q,
                                    const Rows& database, int64_t x) {
  return queries.scale ? sum * queries.scale[q] * database.scale[x] : sum;
}

}  // namespace facekernels::knn
