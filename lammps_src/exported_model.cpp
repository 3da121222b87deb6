#include "exported_model.h"

#include "graph_tensors.h"
#include "json_value.h"
#include "package_folder.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/version.h>

#include <dlfcn.h>
#include <fstream>
#include <iterator>
#include <new>
#include <sstream>
#include <stdexcept>

namespace dpsim {
namespace fs = std::filesystem;
namespace {

constexpr std::size_t N_OUTPUTS = 2;

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

void check_device(const std::string &path, const ModelInfo &info, const std::string &wanted)
{
  if (wanted != "auto" && wanted != info.device)
    fail(path, "was frozen for the device " + info.device + ", not " + wanted +
                   "; freeze it with \"--device " + wanted + "\" or write \"device " + info.device + "\"");
}

// The CUDA half of torch is loaded only by those who need it.
at::Device find_device(const std::string &path, const ModelInfo &info, int local_rank)
{
  if (info.device == "cpu") return at::kCPU;
  if (!dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL))
    fail(path, "was frozen for a GPU, but this torch has no CUDA part; install a CUDA build of torch "
               "or freeze the model with \"--device cpu\"");
  const c10::impl::VirtualGuardImpl guard(c10::DeviceType::CUDA);
  const int count = guard.deviceCount();
  if (count == 0)
    fail(path, "was frozen for a GPU, but this machine has none that CUDA can use; freeze the model "
               "with \"--device cpu\"");
  const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(local_rank % count));
  guard.setDevice(device);
  return device;
}

}    // namespace

struct ExportedModel::State {
  std::string path, device_name;
  ModelInfo info;
  at::Device device = at::kCPU;
  std::unique_ptr<PackageFolder> folder;
  std::unique_ptr<torch::inductor::AOTIModelPackageLoader> loader;
  ModelOutput output;

  void load(const std::string &wanted, int local_rank);
  void read_info(const std::string &wanted);
};

void ExportedModel::State::read_info(const std::string &wanted)
{
  const JsonValue metadata = package_metadata(folder->path());
  const JsonValue *own = metadata.find("dpsim");
  if (!own) fail(path, "was not written by dpsim; write one with \"dpsim freeze MODEL -o OUT.pt2\"");
  try {
    info = parse_model_info(own->text());
  } catch (const std::exception &e) {
    fail(path, std::string("cannot be used: ") + e.what());
  }
  check_torch(path, info);
  check_device(path, info, wanted);
  check_processor(path, metadata);
}

void ExportedModel::State::load(const std::string &wanted, int local_rank)
{
  folder = std::make_unique<PackageFolder>(path);
  read_info(wanted);
  device = find_device(path, info, local_rank);
  device_name = device.str();
  try {
    loader = std::make_unique<torch::inductor::AOTIModelPackageLoader>(
        folder->path().string(), "model", /*run_single_threaded=*/true, /*num_runners=*/1,
        device.is_cpu() ? -1 : device.index());
  } catch (const c10::Error &e) {
    fail(path, std::string("cannot be loaded: ") + e.what_without_backtrace());
  } catch (const std::exception &e) {
    fail(path, std::string("cannot be loaded: ") + e.what());
  }
  // GPU code is read from the folder when a kernel runs first; everything else is in memory now.
  if (device.is_cpu()) folder.reset();
}

ExportedModel::ExportedModel(const std::string &path, const std::string &device, int local_rank) :
    state_(std::make_unique<State>())
{
  state_->path = path;
  state_->load(device, local_rank);
}

ExportedModel::~ExportedModel() = default;

const ModelInfo &ExportedModel::info() const { return state_->info; }
const std::string &ExportedModel::path() const { return state_->path; }
const std::string &ExportedModel::device() const { return state_->device_name; }

const ModelOutput &ExportedModel::evaluate(const GraphTensors &graph, std::int64_t plan)
{
  const std::unique_ptr<PackageFolder> first_run = std::move(state_->folder);
  const c10::InferenceMode inference;
  try {
    const auto out = state_->loader->run({graph.displacements, graph.types, graph.row_types, graph.frame,
                                    graph.center, graph.neighbor, graph.edge_ptr, graph.angle_edge,
                                    graph.angle_ij, graph.angle_ik, graph.angle_ptr,
                                    at::full({1}, plan, at::kLong)});
    if (out.size() < N_OUTPUTS)
      throw std::runtime_error(std::to_string(out.size()) + " outputs, expected " + std::to_string(N_OUTPUTS));
    state_->output = {out[0].to(at::kDouble), out[1].to(at::kDouble)};
    return state_->output;
  } catch (const c10::Error &e) {
    fail(state_->path, std::string("failed: ") + e.what_without_backtrace() + FROZEN_ELSEWHERE);
  } catch (const std::bad_alloc &) {
    fail(state_->path, "needs more memory than there is; use more ranks or fewer atoms");
  } catch (const std::exception &e) {
    fail(state_->path, std::string("failed: ") + e.what() + FROZEN_ELSEWHERE);
  }
}

void set_threads(int n)
{
  if (n > 0) at::set_num_threads(n);
}

}    // namespace dpsim
