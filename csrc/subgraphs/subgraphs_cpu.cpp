// Pivot by pivot, with a hash table from node to row that stays in the first cache level.
#include <algorithm>
#include <bit>
#include <vector>

#include "core/parallel.h"
#include "subgraphs/subgraphs.h"
#include "subgraphs/subgraphs_math.h"

namespace facekernels::subgraphs::FK_CPU_VARIANT {
namespace {

// Nodes of one subgraph and their rows. Open addressing, at most half full.
class RowOf {
 public:
  explicit RowOf(int64_t most_nodes)
      : bits_(std::bit_width(static_cast<uint64_t>(2 * most_nodes))),
        slots_(size_t{1} << bits_, Slot{kEmpty, 0}) {}

  static constexpr int64_t kEmpty = -1;

  bool insert(int64_t node) {
    Slot& slot = find(node);
    const bool fresh = slot.node == kEmpty;
    slot.node = node;
    return fresh;
  }
  void set(int64_t node, int32_t row) { find(node).row = row; }

  // Its row, or -1.
  int32_t operator()(int64_t node) {
    const Slot& slot = find(node);
    return slot.node == kEmpty ? -1 : slot.row;
  }

  void clear() { std::fill(slots_.begin(), slots_.end(), Slot{kEmpty, 0}); }

 private:
  struct Slot {
    int64_t node;
    int32_t row;
  };

  Slot& find(int64_t node) {
    const uint64_t mask = slots_.size() - 1;
    uint64_t at = static_cast<uint64_t>(node) * 0x9e3779b97f4a7c15ull >> (64 - bits_);
    while (slots_[at].node != kEmpty && slots_[at].node != node) at = (at + 1) & mask;
    return slots_[at];
  }

  int bits_;
  std::vector<Slot> slots_;
};

class Subgraph {
 public:
  explicit Subgraph(const Neighborhoods& graph) : graph_(graph), row_of_(graph.most_nodes()) {}

  void visit(int64_t pivot) {
    row_of_.clear();
    nodes_.clear();
    add(pivot);
    const int64_t* const one_hop = graph_.knn + pivot * graph_.k;
    for (int64_t i = 0; i < graph_.k1; ++i) {
      add(one_hop[i]);
      const int64_t* const two_hop = graph_.knn + one_hop[i] * graph_.k;
      for (int64_t j = 0; j < graph_.k2; ++j) add(two_hop[j]);
    }
    std::sort(nodes_.begin(), nodes_.end());
    for (size_t row = 0; row < nodes_.size(); ++row) {
      row_of_.set(nodes_[row], static_cast<int32_t>(row));
    }
  }

  const std::vector<int64_t>& nodes() const { return nodes_; }

  // f(a, b) for every directed edge between rows, each once.
  template <class F>
  void for_each_edge(F f) {
    for (size_t a = 0; a < nodes_.size(); ++a) {
      const int64_t* const neighbors = graph_.knn + nodes_[a] * graph_.k;
      for (int64_t j = 0; j < graph_.u; ++j) {
        const int32_t b = row_of_(neighbors[j]);
        if (b < 0 || b == static_cast<int32_t>(a)) continue;
        f(static_cast<int32_t>(a), b);
        if (!links(graph_, neighbors[j], nodes_[a])) f(b, static_cast<int32_t>(a));
      }
    }
  }

  int32_t row_of(int64_t node) { return row_of_(node); }

 private:
  void add(int64_t node) {
    if (row_of_.insert(node)) nodes_.push_back(node);
  }

  const Neighborhoods& graph_;
  RowOf row_of_;
  std::vector<int64_t> nodes_;
};

// f(subgraph, p) for every pivot, with one Subgraph per thread.
template <class F>
void for_each_pivot(const Neighborhoods& graph, F f) {
  const int64_t cost = graph.most_nodes() * (graph.u + 8);
  parallel_for(graph.pivot_count, cost, [&](int64_t begin, int64_t end) {
    Subgraph subgraph(graph);
    for (int64_t p = begin; p < end; ++p) {
      subgraph.visit(graph.pivots[p]);
      f(subgraph, p);
    }
  });
}

}  // namespace

void sizes_cpu(const SizesArgs& args) {
  for_each_pivot(args.graph, [&](Subgraph& subgraph, int64_t p) {
    int64_t edges = 0;
    subgraph.for_each_edge([&](int32_t, int32_t) { ++edges; });
    args.nodes[p] = std::ssize(subgraph.nodes());
    args.edges[p] = edges;
  });
}

void fill_cpu(const FillArgs& args) {
  args.indptr[0] = 0;
  for_each_pivot(args.graph, [&](Subgraph& subgraph, int64_t p) {
    const int64_t first = args.node_offsets[p];
    const std::vector<int64_t>& nodes = subgraph.nodes();
    std::copy(nodes.begin(), nodes.end(), args.nodes + first);

    thread_local std::vector<int64_t> next;  // where a row's next edge goes
    next.assign(nodes.size(), 0);
    subgraph.for_each_edge([&](int32_t a, int32_t) { ++next[a]; });
    int64_t begin = args.edge_offsets[p];
    for (size_t row = 0; row < nodes.size(); ++row) {
      const int64_t degree = next[row];
      next[row] = begin;
      begin += degree;
      args.indptr[first + row + 1] = begin;
    }
    subgraph.for_each_edge([&](int32_t a, int32_t b) { args.indices[next[a]++] = first + b; });
    begin = args.edge_offsets[p];
    for (size_t row = 0; row < nodes.size(); ++row) {
      const int64_t end = args.indptr[first + row + 1];
      std::sort(args.indices + begin, args.indices + end);
      begin = end;
    }

    int64_t* const one_hop = args.one_hop + p * args.graph.k1;
    const int64_t* const neighbors = args.graph.knn + args.graph.pivots[p] * args.graph.k;
    for (int64_t i = 0; i < args.graph.k1; ++i) one_hop[i] = first + subgraph.row_of(neighbors[i]);
    std::sort(one_hop, one_hop + args.graph.k1);
  });
}

}  // namespace facekernels::subgraphs::FK_CPU_VARIANT
