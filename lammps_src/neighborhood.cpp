#include "neighborhood.h"

#include <algorithm>
#include <cstddef>

namespace dpsim {
namespace {

struct Candidate {
  double d[3], r2;
  int atom;
  bool edge, angle;
};

// Clears `flag` on all but the `limit` nearest of the candidates that carry it.
void keep_nearest(std::vector<Candidate> &found, bool Candidate::*flag, std::int64_t limit,
                  std::vector<int> &order)
{
  order.clear();
  for (std::size_t k = 0; k < found.size(); ++k)
    if (found[k].*flag) order.push_back(static_cast<int>(k));
  if (static_cast<std::int64_t>(order.size()) <= limit) return;
  const auto nearer = [&](int a, int b) {
    return found[a].r2 != found[b].r2 ? found[a].r2 < found[b].r2 : a < b;
  };
  std::nth_element(order.begin(), order.begin() + limit, order.end(), nearer);
  for (auto k = order.begin() + limit; k != order.end(); ++k) found[*k].*flag = false;
}

void find_candidates(const CutoffRule &rule, const PairList &list, int center,
                     const double *positions, const std::int64_t *row, std::vector<Candidate> &found)
{
  const double cut2 = rule.cutoff * rule.cutoff, angle2 = rule.a_rcut * rule.a_rcut;
  const double *xi = positions + 3 * static_cast<std::ptrdiff_t>(center);
  const int *neighbors = list.neighbors[center];
  found.clear();
  for (int k = 0; k < list.n_neighbors[center]; ++k) {
    const int atom = neighbors[k] & list.mask;
    if (row[atom] < 0) continue;
    const double *xj = positions + 3 * static_cast<std::ptrdiff_t>(atom);
    Candidate c{{xj[0] - xi[0], xj[1] - xi[1], xj[2] - xi[2]}, 0.0, atom, true, false};
    c.r2 = c.d[0] * c.d[0] + c.d[1] * c.d[1] + c.d[2] * c.d[2];
    c.angle = c.r2 < angle2;
    if (c.r2 <= cut2) found.push_back(c);
  }
}

void clear(Graph &graph)
{
  graph.displacements.clear();
  for (auto *v : {&graph.center, &graph.neighbor, &graph.angle_edge, &graph.angle_ij,
                  &graph.angle_ik})
    v->clear();
  graph.neighbor_atom.clear();
  graph.edge_ptr.assign(1, 0);
  graph.angle_ptr.assign(1, 0);
}

void append_edge(Graph &graph, const Candidate &c, std::int64_t center, std::int64_t row)
{
  if (c.angle) graph.angle_edge.push_back(graph.n_edges());
  graph.displacements.insert(graph.displacements.end(), c.d, c.d + 3);
  graph.center.push_back(center);
  graph.neighbor.push_back(row);
  graph.neighbor_atom.push_back(c.atom);
}

// All ordered pairs of the angle-edges [first, end) of one centre, each edge with itself included.
void append_angles(Graph &graph, std::int64_t first)
{
  const auto end = static_cast<std::int64_t>(graph.angle_edge.size());
  for (std::int64_t ij = first; ij < end; ++ij) {
    for (std::int64_t ik = first; ik < end; ++ik) {
      graph.angle_ij.push_back(ij);
      graph.angle_ik.push_back(ik);
    }
    graph.angle_ptr.push_back(static_cast<std::int64_t>(graph.angle_ij.size()));
  }
}

}    // namespace

void build_graph(const CutoffRule &rule, const PairList &list, const double *positions,
                 const std::int64_t *row, const std::int64_t *row_types, Graph &graph)
{
  std::vector<Candidate> found;
  std::vector<int> order;
  clear(graph);
  for (std::int64_t c = 0; c < list.n_centers; ++c) {
    find_candidates(rule, list, list.centers[c], positions, row, found);
    keep_nearest(found, &Candidate::edge, rule.e_sel, order);
    for (auto &f : found) f.angle = f.angle && f.edge;
    keep_nearest(found, &Candidate::angle, rule.a_sel, order);
    const auto first_angle = static_cast<std::int64_t>(graph.angle_edge.size());
    const char *excluded =
        rule.excluded.empty() ? nullptr : rule.excluded.data() + rule.n_types * row_types[c];
    for (const auto &f : found) {
      if (!f.edge || (excluded && excluded[row_types[row[f.atom]]])) continue;
      append_edge(graph, f, c, row[f.atom]);
    }
    graph.edge_ptr.push_back(graph.n_edges());
    append_angles(graph, first_angle);
  }
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
