// Our own declarations of the part of OpenCL 1.2 that the library calls (Khronos, "The OpenCL
// Specification", version 1.2): no header of a vendor is needed to build.
//
// Every platform carries its own table of functions, because several libraries may be open at
// once. RX_OPENCL_FUNCTIONS lists them with their index in the dispatch table of cl_khr_icd.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rx::opencl {

using cl_int = std::int32_t;
using cl_uint = std::uint32_t;
using cl_ulong = std::uint64_t;
using cl_bool = cl_uint;
using cl_bitfield = cl_ulong;

// The first member of every OpenCL object of an installable driver is its dispatch table.
struct PlatformObject {
  void* const* dispatch;
};
using cl_platform_id = PlatformObject*;
using cl_device_id = struct DeviceObject*;
using cl_context = struct ContextObject*;
using cl_command_queue = struct QueueObject*;
using cl_mem = struct MemoryObject*;
using cl_program = struct ProgramObject*;
using cl_kernel = struct KernelObject*;
using cl_event = struct EventObject*;

constexpr cl_int kSuccess = 0;
constexpr cl_int kDeviceNotFound = -1;
constexpr cl_int kMemoryAllocationFailure = -4;
constexpr cl_int kOutOfResources = -5;
constexpr cl_int kOutOfHostMemory = -6;
constexpr cl_int kBuildProgramFailure = -11;
constexpr cl_int kMapFailure = -12;
constexpr cl_int kInvalidBinary = -42;
constexpr cl_int kInvalidKernelName = -46;
constexpr cl_int kInvalidBufferSize = -61;
constexpr cl_int kPlatformNotFound = -1001;

constexpr cl_bool kFalse = 0;
constexpr cl_bool kTrue = 1;

constexpr cl_uint kPlatformVersion = 0x0901;
constexpr cl_uint kPlatformName = 0x0902;
constexpr cl_uint kPlatformVendor = 0x0903;

constexpr cl_bitfield kDeviceTypeCpu = 1 << 1;
constexpr cl_bitfield kDeviceTypeGpu = 1 << 2;
constexpr cl_bitfield kDeviceTypeAll = 0xFFFFFFFF;
constexpr cl_uint kDeviceType = 0x1000;
constexpr cl_uint kDeviceMaxComputeUnits = 0x1002;
constexpr cl_uint kDeviceMaxWorkGroupSize = 0x1004;
constexpr cl_uint kDeviceMaxWorkItemSizes = 0x1005;
constexpr cl_uint kDeviceMaxAllocation = 0x1010;
constexpr cl_uint kDeviceBaseAddressAlign = 0x1019;  // bits
constexpr cl_uint kDeviceGlobalMemory = 0x101F;
constexpr cl_uint kDeviceLocalMemory = 0x1023;
constexpr cl_uint kDeviceAvailable = 0x1027;
constexpr cl_uint kDeviceCompilerAvailable = 0x1028;
constexpr cl_uint kDeviceName = 0x102B;
constexpr cl_uint kDeviceVendor = 0x102C;
constexpr cl_uint kDriverVersion = 0x102D;
constexpr cl_uint kDeviceVersion = 0x102F;
constexpr cl_uint kDeviceExtensions = 0x1030;
constexpr cl_uint kDeviceUnifiedMemory = 0x1035;
constexpr cl_uint kDeviceBoardNameAmd = 0x4038;  // cl_amd_device_attribute_query

constexpr cl_bitfield kQueueProfiling = 1 << 1;

constexpr cl_bitfield kMemoryReadWrite = 1 << 0;
constexpr cl_bitfield kMemoryReadOnly = 1 << 2;
constexpr cl_bitfield kMemoryUseHostPointer = 1 << 3;
constexpr cl_bitfield kMapRead = 1 << 0;
constexpr cl_bitfield kMapWrite = 1 << 1;

constexpr cl_uint kProgramBinarySizes = 0x1165;
constexpr cl_uint kProgramBinaries = 0x1166;
constexpr cl_uint kProgramBuildLog = 0x1183;
constexpr cl_uint kKernelArguments = 0x1191;
constexpr cl_uint kKernelWorkGroupSize = 0x11B0;
constexpr cl_uint kKernelLocalMemory = 0x11B2;

constexpr cl_uint kEventStatus = 0x11D3;
constexpr cl_uint kProfilingStart = 0x1282;
constexpr cl_uint kProfilingEnd = 0x1283;

// X(index in the dispatch table, name, result, arguments)
#define RX_OPENCL_FUNCTIONS(X)                                                                     \
  X(0, clGetPlatformIDs, cl_int, (cl_uint, cl_platform_id*, cl_uint*))                             \
  X(1, clGetPlatformInfo, cl_int, (cl_platform_id, cl_uint, std::size_t, void*, std::size_t*))     \
  X(2, clGetDeviceIDs, cl_int, (cl_platform_id, cl_bitfield, cl_uint, cl_device_id*, cl_uint*))    \
  X(3, clGetDeviceInfo, cl_int, (cl_device_id, cl_uint, std::size_t, void*, std::size_t*))         \
  X(4, clCreateContext, cl_context,                                                                \
    (const std::intptr_t*, cl_uint, const cl_device_id*,                                           \
     void (*)(const char*, const void*, std::size_t, void*), void*, cl_int*))                      \
  X(7, clReleaseContext, cl_int, (cl_context))                                                     \
  X(9, clCreateCommandQueue, cl_command_queue, (cl_context, cl_device_id, cl_bitfield, cl_int*))   \
  X(11, clReleaseCommandQueue, cl_int, (cl_command_queue))                                         \
  X(14, clCreateBuffer, cl_mem, (cl_context, cl_bitfield, std::size_t, void*, cl_int*))            \
  X(18, clReleaseMemObject, cl_int, (cl_mem))                                                      \
  X(26, clCreateProgramWithSource, cl_program,                                                     \
    (cl_context, cl_uint, const char**, const std::size_t*, cl_int*))                              \
  X(27, clCreateProgramWithBinary, cl_program,                                                     \
    (cl_context, cl_uint, const cl_device_id*, const std::size_t*, const unsigned char**, cl_int*, \
     cl_int*))                                                                                     \
  X(29, clReleaseProgram, cl_int, (cl_program))                                                    \
  X(30, clBuildProgram, cl_int,                                                                    \
    (cl_program, cl_uint, const cl_device_id*, const char*, void (*)(cl_program, void*), void*))   \
  X(32, clGetProgramInfo, cl_int, (cl_program, cl_uint, std::size_t, void*, std::size_t*))         \
  X(33, clGetProgramBuildInfo, cl_int,                                                             \
    (cl_program, cl_device_id, cl_uint, std::size_t, void*, std::size_t*))                         \
  X(34, clCreateKernel, cl_kernel, (cl_program, const char*, cl_int*))                             \
  X(37, clReleaseKernel, cl_int, (cl_kernel))                                                      \
  X(38, clSetKernelArg, cl_int, (cl_kernel, cl_uint, std::size_t, const void*))                    \
  X(39, clGetKernelInfo, cl_int, (cl_kernel, cl_uint, std::size_t, void*, std::size_t*))           \
  X(40, clGetKernelWorkGroupInfo, cl_int,                                                          \
    (cl_kernel, cl_device_id, cl_uint, std::size_t, void*, std::size_t*))                          \
  X(41, clWaitForEvents, cl_int, (cl_uint, const cl_event*))                                       \
  X(42, clGetEventInfo, cl_int, (cl_event, cl_uint, std::size_t, void*, std::size_t*))             \
  X(44, clReleaseEvent, cl_int, (cl_event))                                                        \
  X(45, clGetEventProfilingInfo, cl_int, (cl_event, cl_uint, std::size_t, void*, std::size_t*))    \
  X(46, clFlush, cl_int, (cl_command_queue))                                                       \
  X(47, clFinish, cl_int, (cl_command_queue))                                                      \
  X(48, clEnqueueReadBuffer, cl_int,                                                               \
    (cl_command_queue, cl_mem, cl_bool, std::size_t, std::size_t, void*, cl_uint, const cl_event*, \
     cl_event*))                                                                                   \
  X(49, clEnqueueWriteBuffer, cl_int,                                                              \
    (cl_command_queue, cl_mem, cl_bool, std::size_t, std::size_t, const void*, cl_uint,            \
     const cl_event*, cl_event*))                                                                  \
  X(56, clEnqueueMapBuffer, void*,                                                                 \
    (cl_command_queue, cl_mem, cl_bool, cl_bitfield, std::size_t, std::size_t, cl_uint,            \
     const cl_event*, cl_event*, cl_int*))                                                         \
  X(58, clEnqueueUnmapMemObject, cl_int,                                                           \
    (cl_command_queue, cl_mem, void*, cl_uint, const cl_event*, cl_event*))                        \
  X(59, clEnqueueNDRangeKernel, cl_int,                                                            \
    (cl_command_queue, cl_kernel, cl_uint, const std::size_t*, const std::size_t*,                 \
     const std::size_t*, cl_uint, const cl_event*, cl_event*))

struct Api {
#define RX_OPENCL_MEMBER(index, name, result, arguments) result(*name) arguments = nullptr;
  RX_OPENCL_FUNCTIONS(RX_OPENCL_MEMBER)
#undef RX_OPENCL_MEMBER
};

// "CL_OUT_OF_RESOURCES (-5)".
const char* name_of(cl_int code);

}  // namespace rx::opencl
