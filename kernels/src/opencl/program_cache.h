// Entries of the cache of programs on disk.
//
// An entry holds its whole key, so that two programs whose names collide cannot be mistaken, and a
// checksum, so that a damaged one is seen. It is written beside and renamed: readers see all or
// nothing, and processes may share a folder.
#pragma once

#include <optional>
#include <string>

namespace rx::opencl {

// The file of that key.
std::string entry_path(const std::string& folder, const std::string& key);

// The binary stored under `key`; nothing where there is none, or the file is damaged or of another
// key (with a note in the log).
std::optional<std::string> read_entry(const std::string& folder, const std::string& key);

// Stores it; makes the folder. A failure is only noted in the log.
void write_entry(const std::string& folder, const std::string& key,
                 const std::string& binary) noexcept;

}  // namespace rx::opencl
