#include "opencl/program_cache.h"

#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <system_error>

#include "base/error.h"
#include "base/log.h"

namespace rx::opencl {
namespace {

namespace fs = std::filesystem;

// FNV-1a (Fowler, Noll, Vo): enough against damage, which is all that is asked of it.
std::uint64_t checksum(const std::string& bytes, std::uint64_t state) {
  for (const char byte : bytes) {
    state ^= static_cast<unsigned char>(byte);
    state *= 0x100000001B3;
  }
  return state;
}

constexpr std::uint64_t kSeed = 0xCBF29CE484222325;

struct Header {
  char magic[8];
  std::uint64_t key_size;
  std::uint64_t binary_size;
  std::uint64_t checksum;
};
constexpr char kMagic[8] = {'R', 'X', 'P', 'R', 'O', 'G', '0', '1'};

Header header_of(const std::string& key, const std::string& binary) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.key_size = key.size();
  header.binary_size = binary.size();
  header.checksum = checksum(binary, checksum(key, kSeed));
  return header;
}

// A file that is removed unless it was renamed.
class Temporary {
 public:
  explicit Temporary(std::string pattern) : path_(std::move(pattern)) {
    descriptor_ = mkstemp(path_.data());
    if (descriptor_ < 0)
      throw std::system_error(errno, std::generic_category(), "cannot write " + path_);
  }
  ~Temporary() {
    if (descriptor_ >= 0) close(descriptor_);
    if (!path_.empty()) unlink(path_.c_str());
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  void write(const char* data, std::size_t size) {
    while (size > 0) {
      const ssize_t count = ::write(descriptor_, data, size);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0)
        throw std::system_error(errno, std::generic_category(), "cannot write " + path_);
      data += count;
      size -= static_cast<std::size_t>(count);
    }
  }
  void rename_to(const std::string& path) {
    fs::rename(path_, path);
    path_.clear();
  }

 private:
  std::string path_;
  int descriptor_;
};

}  // namespace

std::string entry_path(const std::string& folder, const std::string& key) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string name;
  for (const std::uint64_t seed : {kSeed, kSeed ^ 0x9E3779B97F4A7C15}) {
    const std::uint64_t hash = checksum(key, seed);
    for (int shift = 60; shift >= 0; shift -= 4) name += kHex[(hash >> shift) & 15];
  }
  return (fs::path(folder) / (name + ".bin")).string();
}

std::optional<std::string> read_entry(const std::string& folder, const std::string& key) {
  const std::string path = entry_path(folder, key);
  std::ifstream file(path, std::ios::binary);
  if (!file) return std::nullopt;
  std::ostringstream read;  // its operator reports failures, where iterators over the file throw
  read << file.rdbuf();
  const std::string all = read.str();
  Header header{};
  if (all.size() >= sizeof header) {
    std::memcpy(&header, all.data(), sizeof header);
    const std::size_t rest = all.size() - sizeof header;
    if (header.key_size <= rest && header.binary_size == rest - header.key_size) {
      const std::string found = all.substr(sizeof header, header.key_size);
      std::string binary = all.substr(sizeof header + header.key_size);
      const Header wanted = header_of(found, binary);
      if (std::memcmp(&wanted, &header, sizeof header) == 0 && found == key && !binary.empty())
        return binary;
    }
  }
  note("the compiled program " + path + " is damaged or of another version: it is built again");
  return std::nullopt;
}

void write_entry(const std::string& folder, const std::string& key,
                 const std::string& binary) noexcept {
  try {
    fs::create_directories(folder);
    Temporary file((fs::path(folder) / "new-XXXXXX").string());
    const Header header = header_of(key, binary);
    file.write(reinterpret_cast<const char*>(&header), sizeof header);
    file.write(key.data(), key.size());
    file.write(binary.data(), binary.size());
    file.rename_to(entry_path(folder, key));
  } catch (const std::exception& error) {
    note("compiled programs are not kept in " + folder + ": " + error.what());
  }
}

}  // namespace rx::opencl
