// Union-find with path halving. The larger root is hung below the smaller one, so that a parent is
// never larger than its child, the root is the smallest member, and one sweep flattens all paths.
#include <algorithm>
#include <numeric>

#include "components/components.h"
#include "components/components_math.h"

namespace facekernels::components::FK_CPU_VARIANT {
namespace {

int32_t find(int32_t* parent, int32_t node) {
  while (parent[node] != node) {
    parent[node] = parent[parent[node]];
    node = parent[node];
  }
  return node;
}

}  // namespace

void components_cpu(const ComponentsArgs& args) {
  int32_t* const parent = args.parent;
  std::iota(parent, parent + args.nodes, 0);
  constexpr int64_t kAhead = 16;
  for (int64_t e = 0; e < args.edges; ++e) {
    if (e + kAhead < args.edges) {  // nodes are visited in no order that hardware could foresee
      __builtin_prefetch(parent + args.edge[2 * (e + kAhead)]);
      __builtin_prefetch(parent + args.edge[2 * (e + kAhead) + 1]);
    }
    if (!counts(args, e)) continue;
    const auto u = static_cast<int32_t>(args.edge[2 * e]);
    const auto v = static_cast<int32_t>(args.edge[2 * e + 1]);
    if (parent[u] == parent[v]) continue;  // most edges, once the components have formed
    const int32_t a = find(parent, u), b = find(parent, v);
    parent[std::max(a, b)] = std::min(a, b);
  }
  for (int64_t i = 0; i < args.nodes; ++i) args.roots[i] = parent[i] = parent[parent[i]];
}

}  // namespace facekernels::components::FK_CPU_VARIANT
