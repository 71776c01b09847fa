// Marks what is seen from outside the library; version.map has the same names.
#pragma once

#if defined(_WIN32)
#define RX_EXPORT __declspec(dllexport)
#else
#define RX_EXPORT __attribute__((visibility("default")))
#endif
