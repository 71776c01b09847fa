// The interface of an operator: one node, made once, run many times by several threads at once.
//
// Operators know neither ONNX Runtime nor how they are called: the region executor runs them, for
// the custom operators (a region of one node) as for the execution provider.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/attributes.h"
#include "base/span.h"
#include "base/tensor.h"
#include "base/threads.h"

namespace rx {

namespace opencl {
class Context;        // a device: programs, buffers, families of kernels
class Stream;         // an in-order queue that one run uses alone
struct DeviceTensor;  // type, shape, buffer
}  // namespace opencl

// What is known of a node when it is made.
struct NodeInfo {
  std::string op;    // "QuantMatMul"
  std::string name;  // of the node, for messages
  Attributes attributes;
  std::vector<Type> types;        // of the inputs; kNone: absent
  std::vector<Tensor> constants;  // of the inputs; not present(): not a constant. Valid while the
                                  // operator lives
  std::size_t outputs = 1;
};

class Operator {
 public:
  virtual ~Operator() = default;

  // Shapes of the outputs for these of the inputs (an absent input has an empty shape).
  // Throws Error where they contradict the operator.
  virtual std::vector<Shape> infer(Span<const Shape> inputs) const = 0;

  // Brings the constants into the order that run() reads; called once, before any run(), where the
  // CPU is the device.
  virtual void pack() = 0;

  // Computes on the CPU. Thread-safe.
  virtual void run(Threads& threads, Span<const Tensor> inputs,
                   Span<const Tensor> outputs) const = 0;

  // Uploads the constants and builds the programs; called once, before any enqueue().
  virtual void upload(opencl::Context& context) = 0;

  // Enqueues the launches that compute the outputs; returns before they are done. Thread-safe.
  // Inputs that are constants come with an invalid buffer: upload() has them.
  virtual void enqueue(opencl::Stream& stream, Span<const opencl::DeviceTensor> inputs,
                       Span<const opencl::DeviceTensor> outputs) const = 0;
};

// Checks attributes and constants, and makes the operator. Throws Error.
std::unique_ptr<Operator> make_operator(const NodeInfo& node);

}  // namespace rx
