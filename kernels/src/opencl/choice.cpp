#include "opencl/choice.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

namespace rx::opencl {

using Row = Descriptor::Row;

void Chooser::set(Row& row, const Values& parameters) const {
  for (std::size_t i = 0; i < family_.parameters.size(); ++i) {
    const auto found = parameters.find(family_.parameters[i].name);
    if (found != parameters.end()) row[family_.first_parameter() + i] = found->second;
  }
}

bool Chooser::applies(const Tuned& one, const std::string& size_class, const Row& row) const {
  if (!one.size_class.empty() && one.size_class != size_class) return false;
  for (std::size_t i = 0; i < family_.options.size(); ++i) {
    const auto found = one.options.find(family_.options[i].name);
    if (found != one.options.end() && found->second != row[family_.first_option() + i])
      return false;
  }
  return true;
}

bool Chooser::works(Row& row) const try {
  family_.derive(row);
  return family_.legal(row) &&
         std::all_of(family_.fits.begin(), family_.fits.end(),
                     [&](const Expression& one) { return one.evaluate(row) != 0; });
} catch (const Error&) {
  return false;
}

bool Chooser::fits(const Row& row, std::size_t most_items) const try {
  for (const KernelShape& kernel : family_.kernels) {
    std::int64_t items = 1;
    for (std::size_t axis = 0; axis < 3; ++axis) {
      const std::int64_t size = kernel.local[axis].evaluate(row);
      if (size < 1 || size > static_cast<std::int64_t>(device_.items[axis])) return false;
      items *= size;
      if (items > static_cast<std::int64_t>(most_items)) return false;
    }
    const std::int64_t bytes = kernel.local_bytes.evaluate(row);
    if (bytes < 0 || static_cast<std::uint64_t>(bytes) > device_.local_memory) return false;
  }
  return true;
} catch (const Error&) {
  return false;
}

Row Chooser::wanted(Row row) const {
  for (std::size_t i = 0; i < family_.parameters.size(); ++i)
    row[family_.first_parameter() + i] = family_.parameters[i].otherwise;
  std::string size_class;
  for (const SizeClass& one : family_.classes) {
    if (one.when.evaluate(row) == 0) continue;
    size_class = one.name;
    set(row, one.parameters);
    break;
  }
  for (const Tuned& one : tuned_) {
    if (!applies(one, size_class, row)) continue;
    Row better = row;
    set(better, one.parameters);
    if (works(better)) return better;
  }
  return row;
}

// Tries every combination of parameters, as an odometer counts; this is rare, and its result is
// kept by the caller.
Row Chooser::nearest(const Row& wanted, std::size_t most_items) const {
  const std::size_t count = family_.parameters.size();
  const std::size_t first = family_.first_parameter();
  std::vector<std::int64_t> from(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto& values = family_.parameters[i].values;
    from[i] = std::find(values.begin(), values.end(), wanted[first + i]) - values.begin();
  }
  Row best;
  std::int64_t least = std::numeric_limits<std::int64_t>::max();
  std::vector<std::size_t> at(count, 0);
  for (std::size_t digit = 0; digit < count || count == 0;) {
    std::int64_t steps = 0;
    for (std::size_t i = 0; i < count; ++i)
      steps += std::abs(static_cast<std::int64_t>(at[i]) - from[i]);
    if (steps <= least) {  // of equals the last: its values are larger
      Row row = wanted;
      for (std::size_t i = 0; i < count; ++i) row[first + i] = family_.parameters[i].values[at[i]];
      if (works(row) && fits(row, most_items)) {
        least = steps;
        best = row;
      }
    }
    for (digit = 0; digit < count && ++at[digit] == family_.parameters[digit].values.size();)
      at[digit++] = 0;
    if (count == 0) break;
  }
  if (best.empty()) {
    std::string sizes;
    for (std::size_t i = 0; i < family_.sizes; ++i)
      sizes += text(i ? ", " : "", family_.names[i], "=", wanted[i]);
    throw NothingFits(text("no legal parameters of the family ", family_.family, " for ", sizes,
                           " fit ", device_.name, ", which has ", device_.local_memory,
                           " bytes of local memory and runs ", most_items,
                           " work-items in a group"));
  }
  return best;
}

Row Chooser::choose(Row row, std::size_t most_items) const {
  Row best = wanted(std::move(row));
  if (works(best) && fits(best, most_items)) return best;
  return nearest(best, most_items);
}

}  // namespace rx::opencl
