#include "system/neighborhood.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

namespace dpsim {
namespace {

struct Candidate {
  double d[3], r2;
  int atom;
  std::int64_t type;
  std::int64_t place = 0, place_in_type = 0;    // set only where a list may be too short
};

// An edge of a list: which candidate it is, and where it stands in the list.
struct Member {
  std::size_t candidate;
  std::int64_t position;
};

void collect(const NeighborSpec &spec, ListNode node, std::vector<ListNode> &out)
{
  const int me = static_cast<int>(out.size());
  out.push_back(node);
  for (const auto &inner : spec.inner) collect(inner, {&inner, me}, out);
}

// Finds the edges of one centre after the other. Keeps its memory between centres.
class Builder {
 public:
  Builder(const NeighborSpec &spec, const PairList &list, const double *positions, const std::int64_t *row,
          const std::int64_t *row_types, const Piece &piece, Graph &graph) :
      nodes_(all_lists(spec)), list_(list), positions_(positions), row_(row), row_types_(row_types), piece_(piece),
      by_type_alone_(piece.size() < list.n_centers), graph_(graph), members_(nodes_.size())
  {
  }

  void clear();
  void add_center(std::int64_t c);

 private:
  void find_candidates(int center);
  bool may_drop(const NeighborSpec &spec);
  void count_places();
  bool keeps(const NeighborSpec &spec, const Candidate &c, std::int64_t type) const;
  void fill_outermost(std::int64_t center);
  void fill_inner(std::size_t k, std::int64_t type);
  static void append_pairs(EdgeList &list, std::int64_t first, std::int64_t end);

  std::vector<ListNode> nodes_;
  const PairList &list_;
  const double *positions_;
  const std::int64_t *row_, *row_types_;
  const Piece &piece_;
  bool by_type_alone_;
  Graph &graph_;
  std::vector<std::vector<Member>> members_;    // by list
  std::vector<Candidate> found_;
  std::vector<std::size_t> order_;
  std::vector<std::int64_t> by_type_;
};

void Builder::clear()
{
  graph_.displacements.clear();
  graph_.center.clear();
  graph_.neighbor.clear();
  graph_.neighbor_atom.clear();
  graph_.lists.resize(nodes_.size());
  for (std::size_t k = 0; k < nodes_.size(); ++k) {
    auto &list = graph_.lists[k];
    for (auto *v : {&list.edge, &list.pair_ij, &list.pair_ik}) v->clear();
    list.edge_ptr.assign(1, 0);
    list.pair_ptr.assign(nodes_[k].spec->pairs ? 1 : 0, 0);
  }
}

void Builder::find_candidates(int center)
{
  const NeighborSpec &outermost = *nodes_[0].spec;
  const double *xi = positions_ + 3 * static_cast<std::ptrdiff_t>(center);
  const int *neighbors = list_.neighbors[center];
  found_.clear();
  for (int k = 0; k < list_.n_neighbors[center]; ++k) {
    const int atom = neighbors[k] & list_.mask;
    if (row_[atom] < 0) continue;
    const double *xj = positions_ + 3 * static_cast<std::ptrdiff_t>(atom);
    Candidate c{{xj[0] - xi[0], xj[1] - xi[1], xj[2] - xi[2]}, 0.0, atom, 0};
    c.r2 = c.d[0] * c.d[0] + c.d[1] * c.d[1] + c.d[2] * c.d[2];
    if (!outermost.reaches(c.r2)) continue;
    c.type = row_types_[row_[atom]];
    found_.push_back(c);
  }
}

// Whether a list reaches more candidates than it keeps; then the order of distances matters.
bool Builder::may_drop(const NeighborSpec &spec)
{
  const auto all = static_cast<std::int64_t>(found_.size());
  if (spec.sel_by_type.empty() && all <= spec.sel) return false;
  by_type_.assign(static_cast<std::size_t>(spec.n_types), 0);
  std::int64_t n = 0;
  for (const auto &c : found_) {
    if (!spec.reaches(c.r2)) continue;
    ++n;
    if (!spec.sel_by_type.empty() && ++by_type_[c.type] > spec.sel_by_type[c.type]) return true;
  }
  return n > spec.sel;
}

void Builder::count_places()
{
  order_.resize(found_.size());
  std::iota(order_.begin(), order_.end(), std::size_t{0});
  std::sort(order_.begin(), order_.end(), [&](std::size_t a, std::size_t b) {
    return found_[a].r2 != found_[b].r2 ? found_[a].r2 < found_[b].r2 : a < b;
  });
  by_type_.assign(static_cast<std::size_t>(nodes_[0].spec->n_types), 0);
  std::int64_t place = 0;
  for (const std::size_t k : order_) {
    found_[k].place = place++;
    found_[k].place_in_type = by_type_[found_[k].type]++;
  }
}

bool Builder::keeps(const NeighborSpec &spec, const Candidate &c, std::int64_t type) const
{
  return spec.reaches(c.r2) && c.place < spec.sel &&
      (spec.sel_by_type.empty() || c.place_in_type < spec.sel_by_type[c.type]) &&
      (spec.excluded.empty() || !spec.excluded[type * spec.n_types + c.type]);
}

void Builder::fill_outermost(std::int64_t center)
{
  for (std::size_t k = 0; k < found_.size(); ++k) {
    const Candidate &c = found_[k];
    if (!keeps(*nodes_[0].spec, c, row_types_[center])) continue;
    members_[0].push_back({k, graph_.n_edges()});
    graph_.displacements.insert(graph_.displacements.end(), c.d, c.d + 3);
    graph_.center.push_back(center - piece_.first);
    graph_.neighbor.push_back(by_type_alone_ ? piece_.size() + c.type : row_[c.atom]);
    graph_.neighbor_atom.push_back(c.atom);
  }
}

void Builder::fill_inner(std::size_t k, std::int64_t type)
{
  auto &edge = graph_.lists[k].edge;
  for (const Member &m : members_[nodes_[k].parent]) {
    if (!keeps(*nodes_[k].spec, found_[m.candidate], type)) continue;
    members_[k].push_back({m.candidate, static_cast<std::int64_t>(edge.size())});
    edge.push_back(m.position);
  }
}

// All ordered pairs of the edges [first, end) of one centre, each edge with itself included.
void Builder::append_pairs(EdgeList &list, std::int64_t first, std::int64_t end)
{
  for (std::int64_t ij = first; ij < end; ++ij) {
    for (std::int64_t ik = first; ik < end; ++ik) {
      list.pair_ij.push_back(ij);
      list.pair_ik.push_back(ik);
    }
    list.pair_ptr.push_back(static_cast<std::int64_t>(list.pair_ij.size()));
  }
}

void Builder::add_center(std::int64_t c)
{
  find_candidates(list_.centers[c]);
  for (const auto &node : nodes_)
    if (may_drop(*node.spec)) {
      count_places();
      break;
    }
  for (std::size_t k = 0; k < nodes_.size(); ++k) {
    members_[k].clear();
    if (k == 0)
      fill_outermost(c);
    else
      fill_inner(k, row_types_[c]);
    auto &list = graph_.lists[k];
    const std::int64_t first = list.edge_ptr.back();
    const std::int64_t end = first + static_cast<std::int64_t>(members_[k].size());
    list.edge_ptr.push_back(end);
    if (nodes_[k].spec->pairs) append_pairs(list, first, end);
  }
}

// Edges of the outermost list and pairs of all lists that a centre has, types not looked at.
std::int64_t items_of(const std::vector<ListNode> &nodes, const PairList &list, const double *positions,
                      const std::int64_t *row, int center)
{
  std::vector<std::int64_t> edges(nodes.size(), 0);
  const double *xi = positions + 3 * static_cast<std::ptrdiff_t>(center);
  for (int k = 0; k < list.n_neighbors[center]; ++k) {
    const int atom = list.neighbors[center][k] & list.mask;
    if (row[atom] < 0) continue;
    const double *xj = positions + 3 * static_cast<std::ptrdiff_t>(atom);
    const double d[3] = {xj[0] - xi[0], xj[1] - xi[1], xj[2] - xi[2]};
    const double r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
    for (std::size_t n = 0; n < nodes.size(); ++n) edges[n] += nodes[n].spec->reaches(r2);
  }
  std::int64_t items = std::min(edges[0], nodes[0].spec->sel);
  for (std::size_t n = 0; n < nodes.size(); ++n)
    if (nodes[n].spec->pairs) {
      const std::int64_t kept = std::min(edges[n], nodes[n].spec->sel);
      items += kept * kept;
    }
  return items;
}

}    // namespace

std::vector<ListNode> all_lists(const NeighborSpec &spec)
{
  std::vector<ListNode> out;
  collect(spec, {&spec, -1}, out);
  return out;
}

std::vector<Piece> divide_centers(const PieceRule &rule, const NeighborSpec &spec, const PairList &list,
                                  const double *positions, const std::int64_t *row)
{
  std::vector<Piece> out{{0, 0}};
  const auto nodes = all_lists(spec);
  std::int64_t items = 0;
  for (std::int64_t c = 0; c < list.n_centers; ++c) {
    const std::int64_t more = rule.centers < 0 ? items_of(nodes, list, positions, row, list.centers[c]) : 0;
    const bool full = rule.centers < 0 ? items + more > rule.items : rule.centers > 0 && out.back().size() == rule.centers;
    if (full && out.back().size() > 0) {
      out.push_back({c, c});
      items = 0;
    }
    ++out.back().end;
    items += more;
  }
  return out;
}

void build_graph(const NeighborSpec &spec, const PairList &list, const double *positions, const std::int64_t *row,
                 const std::int64_t *row_types, const Piece &piece, Graph &graph)
{
  Builder builder(spec, list, positions, row, row_types, piece, graph);
  builder.clear();
  for (std::int64_t c = piece.first; c < piece.end; ++c) builder.add_center(c);
}

void scatter_gradient(const Graph &graph, const int *centers, const double *gradient,
                      double *forces, double *virial, double *atom_virial)
{
  for (std::int64_t e = 0; e < graph.n_edges(); ++e) {
    const double *g = gradient + 3 * e, *d = graph.displacements.data() + 3 * e;
    double *fi = forces + 3 * static_cast<std::ptrdiff_t>(centers[graph.center[e]]);
    double *fj = forces + 3 * static_cast<std::ptrdiff_t>(graph.neighbor_atom[e]);
    for (int k = 0; k < 3; ++k) {
      fi[k] += g[k];
      fj[k] -= g[k];
    }
    double *w = atom_virial ? atom_virial + 9 * static_cast<std::ptrdiff_t>(graph.neighbor_atom[e])
                            : nullptr;
    for (int k = 0; k < 3 && (virial || w); ++k)
      for (int l = 0; l < 3; ++l) {
        const double term = -g[k] * d[l];
        if (virial) virial[3 * k + l] += term;
        if (w) w[3 * k + l] += term;
      }
  }
}

}    // namespace dpsim
