#include "model/package_folder.h"

#include <c10/util/Exception.h>
#include <caffe2/serialize/inline_container.h>

#include <fstream>
#include <stdexcept>
#include <stdlib.h>
#include <system_error>

namespace dpsim {
namespace fs = std::filesystem;
namespace {

fs::path new_private_folder()
{
  std::error_code error;
  const fs::path parent = fs::temp_directory_path(error);
  std::string name = (parent / "dpsim-XXXXXX").string();
  if (error || !mkdtemp(name.data()))
    throw std::runtime_error("no temporary folder can be made in " + parent.string() +
                             "; set TMPDIR to a folder that can be written");
  return name;
}

// Names inside a package are relative paths; anything that would leave the folder is refused.
fs::path inside(const fs::path &folder, const std::string &record)
{
  const fs::path relative = fs::path(record).lexically_normal();
  if (relative.empty() || relative.is_absolute() || *relative.begin() == "..")
    throw std::runtime_error("it holds a file named \"" + record + "\"");
  return folder / relative;
}

void write(const fs::path &file, const void *data, std::size_t size)
{
  fs::create_directories(file.parent_path());
  std::ofstream out(file, std::ios::binary);
  out.write(static_cast<const char *>(data), static_cast<std::streamsize>(size));
  out.close();
  if (!out)
    throw std::runtime_error("it cannot be unpacked into " + file.parent_path().string() +
                             "; make room there or set TMPDIR to another folder");
}

}    // namespace

PackageFolder::PackageFolder(const std::string &package)
{
  std::error_code error;
  if (!fs::is_regular_file(package, error))
    throw std::runtime_error("model file " + package + " does not exist; give the path of a model "
                             "written by \"dpsim freeze\"");
  try {
    caffe2::serialize::PyTorchStreamReader reader(package);
    path_ = new_private_folder();
    for (const auto &record : reader.getAllRecords()) {
      const auto [data, size] = reader.getRecord(record);
      write(inside(path_, record), data.get(), size);
    }
  } catch (const c10::Error &) {
    remove();
    throw std::runtime_error("model file " + package + " is not a frozen model (or is damaged); "
                             "write one with \"dpsim freeze MODEL -o OUT.pt2\"");
  } catch (const std::exception &e) {
    remove();
    throw std::runtime_error("model file " + package + " cannot be read: " + e.what());
  }
}

PackageFolder::~PackageFolder() { remove(); }

void PackageFolder::remove()
{
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
  path_.clear();
}

}    // namespace dpsim
