// A frozen model (.pt2): loaded, checked, evaluated. The only room that knows AOTInductor.
#pragma once

#include "model_info.h"
#include "model_inputs.h"

#include <cstdint>
#include <memory>
#include <string>

namespace dpsim {

struct GraphTensors;
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

  // What the model gives for its centres and, of energies, the gradient with respect to the edges, on the
  // model's device. Collective over the ranks of the plan if `plan` is not 0. Valid until the next call.
  // Models with electrostatics need the surroundings, and are collective over the ranks of these.
  // Throws std::runtime_error.
  const ModelOutput &evaluate(const GraphTensors &graph, std::int64_t plan, const Surroundings *around = nullptr);

  // (N, output_size) of the last evaluation, on the host; valid until the next.
  const double *atomic_values();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Threads that torch uses in this process from now on.
void set_threads(int n);

}    // namespace dpsim
