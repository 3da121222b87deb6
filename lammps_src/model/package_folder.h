// A .pt2 package unpacked into a private temporary folder.
#pragma once

#include <filesystem>
#include <string>

namespace dpsim {

// Unpacks on construction; the folder disappears with the object or with remove(). Loaded shared
// libraries stay valid without their files, so remove() is called as early as possible: whatever
// happens later, also an abort, leaves nothing behind.
class PackageFolder {
 public:
  // Throws std::runtime_error, one sentence that names `package`.
  explicit PackageFolder(const std::string &package);
  ~PackageFolder();
  PackageFolder(const PackageFolder &) = delete;
  PackageFolder &operator=(const PackageFolder &) = delete;

  const std::filesystem::path &path() const { return path_; }    // empty after remove()
  void remove();

 private:
  std::filesystem::path path_;
};

}    // namespace dpsim
