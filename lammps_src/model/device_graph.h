// The model's graph by tensor operations on its device; made through ModelGraph::make.
#pragma once

#include "model/graph_tensors.h"
#include "model/model_graph.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace dpsim {

class DeviceGraph : public ModelGraph {
 public:
  DeviceGraph(const NeighborSpec &spec, const std::string &device, const PieceRule &rule);
  DeviceGraph(const DeviceGraph &) = delete;    // nodes_ points into spec_
  DeviceGraph &operator=(const DeviceGraph &) = delete;

  void renew(const PairList &list, std::vector<std::int64_t> row, std::vector<std::int64_t> row_types) override;
  void place(const double *positions) override;
  const at::Tensor &types() const override { return types_; }
  const GraphTensors &edges(const Piece &piece) override;
  void begin(Want want) override;
  void add(const ModelOutput &output) override;
  void add(const LongRange &output) override;
  const Response &gather() override;

 private:
  // Neighbours within the outermost cutoff, or those of them that are edges of a list.
  struct Members {
    at::Tensor center, r2, place, place_in_type, type, type_pair;    // what no list asks for is undefined
    void select(const at::Tensor &index);
  };
  // The limits of a list as tensors.
  struct Limits {
    at::Tensor sel_by_type, allowed;    // (T) and (T*T) bool, or undefined
  };

  void take_rows();
  void take_candidates();
  void count_places();
  bool may_drop(const NeighborSpec &spec) const;
  bool may_drop_by_type(const NeighborSpec &spec) const;
  at::Tensor kept(std::size_t k, const Members &members) const;
  void fill_outermost();
  void fill_inner(std::size_t k);
  PairTensors all_pairs(const at::Tensor &center) const;
  at::Tensor to_device(const std::vector<std::int64_t> &v) const;
  const double *to_host(const at::Tensor &device_tensor, at::Tensor &host) const;

  NeighborSpec spec_;
  std::vector<ListNode> nodes_;
  std::vector<Limits> limits_;                           // by list
  at::Device device_;
  PairList list_;
  std::vector<std::int64_t> row_;
  std::int64_t n_atoms_ = 0;
  std::int64_t most_ = 0;                                // largest number of neighbours in LAMMPS's list
  std::vector<std::int64_t> most_by_type_;               // likewise of one type
  at::Tensor center_atom_, far_row_, far_atom_, near_row_;    // of LAMMPS's list
  std::vector<std::int64_t> first_listed_;               // (N+1) where each centre begins in these
  at::Tensor own_atom_, types_, row_types_;              // (N), (N) and (R); atom of each centre first
  at::Tensor one_of_each_;                               // (T) the types
  at::Tensor staging_, positions_, edge_atom_, edge_center_atom_;
  Piece piece_;
  bool is_current_ = false;                              // whether the edges are those of piece_ at the positions
  std::vector<Members> members_;                         // by list
  GraphTensors tensors_;
  Want want_;
  at::Tensor values_, forces_, virial_, atom_virial_;    // sums over the pieces
  at::Tensor host_values_, host_forces_, host_atom_virial_, host_sums_;
  Response response_;
};

}    // namespace dpsim
