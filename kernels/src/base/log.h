// Notes that concern no caller's result: to the host's logger where the door set one.
#pragma once

#include <string>

namespace rx {

using LogSink = void (*)(const char* message);

// Where notes go; null: to standard error if ONNXSLIM_RX_LOG is set to something else than 0,
// otherwise nowhere. The sink must not throw, and several threads may call it.
void set_log_sink(LogSink sink) noexcept;
void note(const std::string& message) noexcept;

}  // namespace rx
