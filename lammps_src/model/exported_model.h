// A frozen model (.pt2): loaded, checked, evaluated. The only room that knows AOTInductor.
#pragma once

#include "model/model_info.h"
#include "model/model_inputs.h"

#include <cstdint>
#include <memory>
#include <string>

namespace at {
class Tensor;
}

namespace dpsim {

struct GraphTensors;
struct LongRange;
struct ModelOutput;
struct Surroundings;

class ExportedModel {
 public:
  // Loads `path`. device: "auto" (what the model was frozen for), "cpu" or "cuda"; with several
  // GPUs, `local_rank` modulo their number is taken. Nothing of the package stays on disk. A file
  // that was loaded before in this process and has not changed is not loaded again.
  // Throws std::runtime_error with one sentence that names the file, what was found and what to do.
  ExportedModel(const std::string &path, const std::string &device, int local_rank);
  ~ExportedModel();
  ExportedModel(const ExportedModel &) = delete;
  ExportedModel &operator=(const ExportedModel &) = delete;

  const ModelInfo &info() const;
  const std::string &path() const;
  const std::string &device() const;    // as torch writes it, "cpu" or "cuda:0"

  // Largest amount of GPU memory that torch has held so far in this process; 0 on the CPU.
  std::int64_t peak_device_bytes() const;

  // The extra inputs of all evaluations from now on; as choose_inputs gives them.
  void set_inputs(const ModelInputs &inputs);

  // Those that change from step to step: of the frame, and (N,n_aparam) of the centres.
  void set_fparam(const std::vector<double> &values);
  void set_atomic_parameters(const std::vector<double> &values);

  // What the model gives for the centres of a piece, on its device: of models with electrostatics the short-range
  // part and the dipoles. Collective over the ranks of the plan if `plan` is not 0. Throws std::runtime_error.
  ModelOutput evaluate(const GraphTensors &graph, std::int64_t plan);

  // Of models with electrostatics: what the charges of the box do to all centres of the rank, types (N) and dipoles
  // (N,3) Å; collective over the ranks of the surroundings. Then, by the edges of a piece, what the forces (N,3) eV/Å
  // on the centroids of its centres do through the dipoles: an edge gradient alone. Throw std::runtime_error.
  LongRange electrostatics(const at::Tensor &types, const at::Tensor &dipoles, const Surroundings &around);
  ModelOutput pull(const GraphTensors &graph, std::int64_t plan, const at::Tensor &centroid_forces);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// While it lives, torch computes with `n` threads in this process (if n > 0), and then with as many as before.
class Threads {
 public:
  explicit Threads(int n);
  ~Threads();
  Threads(const Threads &) = delete;
  Threads &operator=(const Threads &) = delete;

 private:
  int before_;
};

}    // namespace dpsim
