// Where time goes, by kernel, over all streams of the process.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

namespace rx::opencl {

class Profile {
 public:
  // The one of this process, never destroyed.
  static Profile& all();

  bool on() const { return on_.load(std::memory_order_relaxed); }
  void set(bool on);  // on: resets

  struct Kernel {
    long launches = 0;
    double seconds = 0;       // of the device
    double host_seconds = 0;  // to enqueue
    double bytes = 0;
    double flops = 0;
  };
  void add(const std::string& family, const std::string& kernel, const std::string& device,
           const Kernel& more);
  void add_transfer(bool up, double bytes, double seconds);

  std::string json() const;

 private:
  struct Transfers {
    double bytes = 0;
    double seconds = 0;
  };
  std::atomic<bool> on_{false};
  mutable std::mutex guard_;
  std::map<std::tuple<std::string, std::string, std::string>, Kernel> kernels_;
  Transfers up_;
  Transfers down_;
};

}  // namespace rx::opencl
