// Where work is shared out: ONNX Runtime's pool behind a custom operator, one thread in tests.
#pragma once

#include <cstddef>

namespace rx {

class Threads {
 public:
  // One unit of work; must not throw.
  using Body = void (*)(void* context, std::size_t index);

  virtual ~Threads() = default;
  // About how many threads run at once, 1 at least.
  virtual std::size_t count() const = 0;
  // Calls body(context, i) for i in [0, total), in any order, and returns when all have ended.
  virtual void run(std::size_t total, Body body, void* context) = 0;

  template <typename Function>
  void each(std::size_t total, Function&& function) {
    run(
        total, [](void* context, std::size_t index) { (*static_cast<Function*>(context))(index); },
        const_cast<void*>(static_cast<const void*>(&function)));
  }
};

class OneThread final : public Threads {
 public:
  std::size_t count() const override { return 1; }
  void run(std::size_t total, Body body, void* context) override {
    for (std::size_t index = 0; index < total; ++index) body(context, index);
  }
};

}  // namespace rx
