// The least that a test needs: cases that register themselves, checks that say where they failed.
//
//   RX_TEST(sums) { CHECK_EQUAL(1 + 1, 2); }
//   int main() { return rx::test::run_all(); }
//
// The exit code is 0, 1 where a check failed, 77 where what the test needs is not there.
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

namespace rx::test {

constexpr int kSkipped = 77;

struct Case {
  const char* name;
  std::function<void()> body;
};

inline std::vector<Case>& cases() {
  static std::vector<Case> all;
  return all;
}

inline int& failures() {
  static int count = 0;
  return count;
}

inline void fail(const char* file, int line, const std::string& what) {
  std::cerr << file << ":" << line << ": " << what << std::endl;
  ++failures();
}

struct Registered {
  Registered(const char* name, std::function<void()> body) {
    cases().push_back({name, std::move(body)});
  }
};

// Runs every case, also after one failed.
inline int run_all() {
  for (const Case& one : cases()) {
    const int before = failures();
    try {
      one.body();
    } catch (const std::exception& error) {
      fail(one.name, 0, std::string("threw: ") + error.what());
    }
    std::cout << (failures() == before ? "ok   " : "FAIL ") << one.name << std::endl;
  }
  return failures() == 0 ? 0 : 1;
}

// What `body` throws must contain `part`.
template <typename Body>
void check_throws(const char* file, int line, const std::string& part, Body&& body) {
  try {
    body();
  } catch (const std::exception& error) {
    if (std::string(error.what()).find(part) == std::string::npos)
      fail(file, line, "threw '" + std::string(error.what()) + "', expected '" + part + "' in it");
    return;
  }
  fail(file, line, "did not throw; expected '" + part + "'");
}

}  // namespace rx::test

#define RX_TEST(name)                                                       \
  static void test_##name();                                                \
  static const rx::test::Registered registered_##name(#name, &test_##name); \
  static void test_##name()
#define CHECK(...)                                                        \
  do {                                                                    \
    if (!(__VA_ARGS__)) rx::test::fail(__FILE__, __LINE__, #__VA_ARGS__); \
  } while (false)
#define CHECK_EQUAL(found, expected)                                           \
  do {                                                                         \
    const auto& rx_found = (found);                                            \
    const auto& rx_expected = (expected);                                      \
    if (!(rx_found == rx_expected)) {                                          \
      std::ostringstream rx_text;                                              \
      rx_text << #found << " is " << rx_found << ", expected " << rx_expected; \
      rx::test::fail(__FILE__, __LINE__, rx_text.str());                       \
    }                                                                          \
  } while (false)
#define CHECK_THROWS(part, ...) \
  rx::test::check_throws(__FILE__, __LINE__, part, [&] { __VA_ARGS__; })
