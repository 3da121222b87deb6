#include "model/exported_model.h"

#include "model/device_choice.h"
#include "model/electrostatics.h"
#include "model/error_words.h"
#include "model/graph_tensors.h"
#include "model/json_value.h"
#include "model/package_folder.h"
#include "system/surroundings.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/version.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <dlfcn.h>
#include <fstream>
#include <iterator>
#include <map>
#include <mutex>
#include <sstream>
#include <stdexcept>
#include <sys/stat.h>

namespace dpsim {
namespace fs = std::filesystem;
namespace {

// The operators inside a frozen graph may have changed with dpsim.
constexpr const char *FROZEN_ELSEWHERE = "; if dpsim has been updated since it was frozen, freeze it again";

[[noreturn]] void fail(const std::string &path, const std::string &sentence)
{
  throw std::runtime_error("model file " + path + " " + sentence);
}

JsonValue package_metadata(const fs::path &folder)
{
  for (const auto &entry : fs::recursive_directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.size() < 14 || name.substr(name.size() - 14) != "_metadata.json") continue;
    std::ifstream in(entry.path(), std::ios::binary);
    return JsonValue::parse({std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()});
  }
  return {};
}

std::string major_minor(const std::string &version)
{
  const auto second = version.find('.', version.find('.') + 1);
  return version.substr(0, second);
}

std::string running_torch()
{
  const std::uint64_t v = aoti_torch_abi_version();    // a byte each: major, minor, patch
  return std::to_string(v >> 56) + "." + std::to_string((v >> 48) & 0xff);
}

void check_torch(const std::string &path, const ModelInfo &info)
{
  const std::string built = major_minor(TORCH_VERSION), runs = running_torch();
  if (runs != built)
    throw std::runtime_error("the plugin was built for torch " + built + " but torch " + runs +
                             " is loaded; run \"dpsim lammps build --force\"");
  if (major_minor(info.torch) != runs)
    fail(path, "was frozen with torch " + info.torch + ", here is torch " + runs +
                   "; freeze the model again with this installation");
}

// Machine code for instructions that the processor lacks would end in an illegal instruction.
void check_processor(const std::string &path, const JsonValue &metadata)
{
#if defined(__x86_64__)
  const auto *isa = metadata.find("AOTI_CPU_ISA");
  if (!isa) return;
  std::istringstream words(isa->text());
  for (std::string word; words >> word;) {
    const bool lacks = (word == "AVX512" && !__builtin_cpu_supports("avx512f")) ||
                       (word == "AVX2" && !__builtin_cpu_supports("avx2"));
    if (lacks)
      fail(path, "was frozen for processors with " + word +
                     ", which this one lacks; freeze the model on this machine");
  }
#else
  (void) path;
  (void) metadata;
#endif
}

// What `action` throws, as a sentence about the file.
template <typename F> auto about(const std::string &path, F action)
{
  try {
    return action();
  } catch (const std::exception &) {
    fail(path, error_words());
  }
}

// The CUDA half of torch is loaded only by those who need it.
at::Device find_device(const std::string &path, const ModelInfo &info, int local_rank)
{
  if (info.device == "cpu") return at::kCPU;
  if (!dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL))
    fail(path, "was frozen for a GPU, but this torch has no CUDA part; install a CUDA build of torch "
               "or freeze the model with \"--device cpu\"");
  const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  const int gpu = about(path, [&] { return choose_gpu(guard.deviceCount(), local_rank); });
  const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(gpu));
  guard.setDevice(device);
  return device;
}

// A package in memory.
struct Package {
  ModelInfo info;
  at::Device device = at::kCPU;
  std::unique_ptr<PackageFolder> folder;    // GPU code is read from it when a kernel runs first

  // When all graphs have run; kernels of tensors without members do not run.
  void has_run(const std::vector<at::Tensor> &inputs)
  {
    if (folder && std::all_of(inputs.begin(), inputs.end(), [](const at::Tensor &t) { return t.numel() > 0; }))
      folder.reset();
  }
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader;
  // Of models with electrostatics: dipoles, and the gradient by edges of their product with given vectors.
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> dipole, dipole_gradient;
};

ModelInfo read_info(const std::string &path, const fs::path &folder)
{
  const JsonValue metadata = package_metadata(folder);
  const JsonValue *own = metadata.find("dpsim");
  if (!own) fail(path, "was not written by dpsim; write one with \"dpsim freeze MODEL -o OUT.pt2\"");
  ModelInfo info;
  try {
    info = parse_model_info(own->text());
  } catch (const std::exception &e) {
    fail(path, std::string("cannot be used: ") + e.what());
  }
  check_torch(path, info);
  check_processor(path, metadata);
  return info;
}

std::shared_ptr<Package> load_package(const std::string &path, const std::string &wanted, int local_rank)
{
  auto package = std::make_shared<Package>();
  package->folder = std::make_unique<PackageFolder>(path);
  package->info = read_info(path, package->folder->path());
  about(path, [&] { check_device(package->info.device, wanted); });
  package->device = find_device(path, package->info, local_rank);
  const bool on_cpu = package->device.is_cpu();
  try {
    const auto load = [&](const char *graph) {
      return std::make_unique<torch::inductor::AOTIModelPackageLoader>(
          package->folder->path().string(), graph, /*run_single_threaded=*/true, /*num_runners=*/1,
          on_cpu ? -1 : package->device.index());
    };
    package->loader = load("model");
    if (package->info.has_electrostatics()) {
      package->dipole = load("dipole");
      package->dipole_gradient = load("dipole_gradient");
    }
  } catch (const std::exception &) {
    fail(path, "cannot be loaded: " + error_words());
  }
  if (on_cpu) package->folder.reset();    // everything is in memory now
  return package;
}

// What tells one version of a file from the next.
std::string identity(const std::string &path)
{
  struct stat s;
  if (stat(path.c_str(), &s) != 0) return path;
  std::ostringstream out;
  out << s.st_dev << ' ' << s.st_ino << ' ' << s.st_size << ' ' << s.st_mtim.tv_sec << ' ' << s.st_mtim.tv_nsec;
  return out.str();
}

// The machine code of a package holds symbols that are unique in the process and therefore is never
// unloaded. Each file is loaded once, so that "clear" in a loop leaves nothing behind.
std::map<std::string, std::shared_ptr<Package>> &packages()
{
  static auto *all = new std::map<std::string, std::shared_ptr<Package>>;    // outlives all users
  return *all;
}

void remove_folders()
{
  for (auto &[name, package] : packages())
    if (package) package->folder.reset();
}

std::shared_ptr<Package> find_package(const std::string &path, const std::string &wanted, int local_rank)
{
  static std::mutex mutex;
  static const int at_exit = std::atexit(remove_folders);
  (void) at_exit;
  const std::lock_guard<std::mutex> lock(mutex);
  auto &package = packages()[identity(path)];
  if (!package) package = load_package(path, wanted, local_rank);
  about(path, [&] { check_device(package->info.device, wanted); });
  return package;
}

}    // namespace

struct ExportedModel::State {
  std::string path, device_name;
  std::shared_ptr<Package> package;
  at::Tensor fparam, charge_spin, aparam;    // (1,n_fparam), (1,2), and a row (1,n_aparam) that all atoms share
  at::Tensor aparam_rows;                    // (N,n_aparam) of all centres
  std::unique_ptr<Electrostatics> electrostatics;

  at::Tensor one_row(const std::vector<double> &values) const
  {
    const c10::InferenceMode inference;
    if (values.empty()) return {};
    return at::tensor(values, at::kDouble).unsqueeze(0).to(package->device);
  }
  const at::Tensor &atomic_parameters(std::int64_t n);
  std::vector<at::Tensor> inputs(const GraphTensors &graph, std::int64_t plan);
  ModelOutput evaluate(const GraphTensors &graph, std::int64_t plan);
  ModelOutput pull(const GraphTensors &graph, std::int64_t plan, const at::Tensor &centroid_forces);
};

// Virtual atoms of a spin model, the second half of its rows, have parameters of zero.
const at::Tensor &ExportedModel::State::atomic_parameters(std::int64_t n)
{
  if (aparam_rows.defined() && aparam_rows.size(0) == n) return aparam_rows;
  aparam_rows = at::zeros({n, aparam.size(1)}, aparam.options());
  aparam_rows.narrow(0, 0, package->info.has_spin() ? n / 2 : n).copy_(aparam);
  return aparam_rows;
}

std::vector<at::Tensor> ExportedModel::State::inputs(const GraphTensors &graph, std::int64_t plan)
{
  std::vector<at::Tensor> out = graph.in_order();
  if (fparam.defined()) out.push_back(fparam);
  if (package->info.n_aparam > 0)
    out.push_back(atomic_parameters(graph.n_all).narrow(0, graph.first, graph.types.size(0)));
  if (charge_spin.defined()) out.push_back(charge_spin);
  out.push_back(at::full({1}, plan, at::kLong));
  return out;
}

ModelOutput ExportedModel::State::evaluate(const GraphTensors &graph, std::int64_t plan)
{
  const auto given = inputs(graph, plan);
  const auto found = package->loader->run(given);
  const std::size_t expected = package->info.output == "energy" ? 2 : 1;
  if (found.size() != expected)
    throw std::runtime_error(std::to_string(found.size()) + " outputs, expected " + std::to_string(expected));
  ModelOutput out;
  out.atomic = found[0].to(at::kDouble);
  if (expected == 2) out.edge_gradient = found[1].to(at::kDouble);
  if (electrostatics) out.dipoles = package->dipole->run(given).at(0).to(at::kDouble);
  if (!electrostatics) package->has_run(given);    // else one graph is still to run, in pull()
  return out;
}

ModelOutput ExportedModel::State::pull(const GraphTensors &graph, std::int64_t plan, const at::Tensor &centroid_forces)
{
  auto given = inputs(graph, plan);
  given.push_back(centroid_forces);
  ModelOutput out;
  out.edge_gradient = package->dipole_gradient->run(given).at(0).to(at::kDouble).neg();
  package->has_run(given);
  return out;
}

namespace {

// How much there was to do, and what makes it less: of a graph, and of electrostatics.
std::string too_much(const GraphTensors &graph, const ModelInfo &info)
{
  const std::int64_t n = graph.types.size(0);
  const std::string size = std::to_string(n) + " atoms and " + std::to_string(graph.center.size(0)) + " edges of one ";
  if (info.message_passing_layers > 0 || n < 2) return size + "rank; use more ranks on more machines or fewer atoms";
  return size + "piece; write \"chunk " + std::to_string(std::max<std::int64_t>(n / 4, 1)) +
      "\" or less behind the model, use more ranks on more machines or fewer atoms";
}

std::string too_much(const at::Tensor &types, const Surroundings &around)
{
  std::ostringstream out;
  out << "electrostatics of " << types.size(0) << " atoms of one rank, in a box of";
  for (int k = 0; k < 9; k += 3)
    out << (k > 0 ? " x " : " ") << std::hypot(around.cell[k], around.cell[k + 1], around.cell[k + 2]);
  out << " A; use a smaller box, fewer ranks on a machine or a model with a larger ewald_h";
  return out.str();
}

// What `action` gives. Where memory ends, `need` says for what.
template <typename N, typename F>
auto told(const std::string &path, N need, const std::string &advice, F action)
{
  std::string words;
  try {
    return action();
  } catch (const std::exception &) {
    words = error_words();
  }
  if (tells_of_memory(words)) fail(path, "needs more memory than there is for the " + need());
  fail(path, "failed: " + words + advice);
}

}    // namespace

ExportedModel::ExportedModel(const std::string &path, const std::string &device, int local_rank) :
    state_(std::make_unique<State>())
{
  state_->path = path;
  state_->package = find_package(path, device, local_rank);
  state_->device_name = state_->package->device.str();
  if (info().has_electrostatics())
    state_->electrostatics = std::make_unique<Electrostatics>(info().charges, state_->package->device);
}

ExportedModel::~ExportedModel() = default;

const ModelInfo &ExportedModel::info() const { return state_->package->info; }
const std::string &ExportedModel::path() const { return state_->path; }
const std::string &ExportedModel::device() const { return state_->device_name; }

std::int64_t ExportedModel::peak_device_bytes() const
{
  const at::Device &device = state_->package->device;
  if (device.is_cpu()) return 0;
  const auto stats = c10::getDeviceAllocator(device.type())->getDeviceStats(device.index());
  return stats.reserved_bytes[static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE)].peak;
}

void ExportedModel::set_inputs(const ModelInputs &inputs)
{
  state_->fparam = state_->one_row(inputs.fparam);
  state_->charge_spin = state_->one_row(inputs.charge_spin);
  state_->aparam = state_->one_row(inputs.aparam);
  state_->aparam_rows = at::Tensor();
}

void ExportedModel::set_fparam(const std::vector<double> &values) { state_->fparam = state_->one_row(values); }

// Copied, and on the model's device; virtual atoms have zeros.
void ExportedModel::set_atomic_parameters(const std::vector<double> &values)
{
  const c10::InferenceMode inference;
  const std::int64_t width = info().n_aparam, n = static_cast<std::int64_t>(values.size()) / width;
  at::Tensor rows = at::zeros({info().has_spin() ? 2 * n : n, width}, at::kDouble);
  std::copy(values.begin(), values.end(), rows.data_ptr<double>());
  state_->aparam_rows = rows.to(state_->package->device);
}

ModelOutput ExportedModel::evaluate(const GraphTensors &graph, std::int64_t plan)
{
  const c10::InferenceMode inference;
  return told(
      state_->path, [&] { return too_much(graph, info()); }, FROZEN_ELSEWHERE,
      [&] { return state_->evaluate(graph, plan); });
}

LongRange ExportedModel::electrostatics(const at::Tensor &types, const at::Tensor &dipoles, const Surroundings &around)
{
  const c10::InferenceMode inference;
  return told(
      state_->path, [&] { return too_much(types, around); }, "",
      [&] { return state_->electrostatics->evaluate(types, dipoles, around); });
}

ModelOutput ExportedModel::pull(const GraphTensors &graph, std::int64_t plan, const at::Tensor &centroid_forces)
{
  const c10::InferenceMode inference;
  return told(
      state_->path, [&] { return too_much(graph, info()); }, FROZEN_ELSEWHERE,
      [&] { return state_->pull(graph, plan, centroid_forces); });
}

Threads::Threads(int n) : before_(at::get_num_threads())
{
  if (n > 0 && n != before_) at::set_num_threads(n);
}

Threads::~Threads()
{
  if (at::get_num_threads() != before_) at::set_num_threads(before_);
}

}    // namespace dpsim
