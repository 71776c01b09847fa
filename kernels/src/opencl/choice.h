// Which parameters a family gets for given sizes on a device.
#pragma once

#include <cstddef>
#include <vector>

#include "base/error.h"
#include "opencl/descriptor.h"
#include "opencl/device.h"
#include "opencl/params.h"

namespace rx::opencl {

// No legal parameters fit the device.
class NothingFits final : public Error {
 public:
  explicit NothingFits(const std::string& message) : Error(Code::kFail, message) {}
};

class Chooser {
 public:
  // All three must outlive it.
  Chooser(const Device& device, const Descriptor& family, const std::vector<Tuned>& tuned)
      : device_(device), family_(family), tuned_(tuned) {}

  // A derived row for a row with sizes and options: the first tuned entry that applies and is
  // legal, else the descriptor's class. Where that needs more work-items in a group than
  // `most_items` or more of the device's local memory than there is, the legal parameters that are
  // the fewest steps away from it. Throws NothingFits.
  Descriptor::Row choose(Descriptor::Row row, std::size_t most_items) const;

 private:
  Descriptor::Row wanted(Descriptor::Row row) const;
  Descriptor::Row nearest(const Descriptor::Row& wanted, std::size_t most_items) const;
  void set(Descriptor::Row& row, const Values& parameters) const;
  bool applies(const Tuned& one, const std::string& size_class, const Descriptor::Row& row) const;
  bool works(Descriptor::Row& row) const;  // derives; legal, and fits these sizes
  bool fits(const Descriptor::Row& row, std::size_t most_items) const;

  const Device& device_;
  const Descriptor& family_;
  const std::vector<Tuned>& tuned_;
};

}  // namespace rx::opencl
