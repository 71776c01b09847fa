#include "base/log.h"

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace rx {
namespace {

std::atomic<LogSink> g_sink{nullptr};

bool to_standard_error() {
  const char* wanted = std::getenv("ONNXSLIM_RX_LOG");
  return wanted != nullptr && *wanted != '\0' && std::strcmp(wanted, "0") != 0;
}

}  // namespace

void set_log_sink(LogSink sink) noexcept {
  g_sink.store(sink);
}

void note(const std::string& message) noexcept {
  if (const LogSink sink = g_sink.load())
    sink(message.c_str());
  else if (to_standard_error())
    std::fprintf(stderr, "onnxslim_rx: %s\n", message.c_str());
}

}  // namespace rx
