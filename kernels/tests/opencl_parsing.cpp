// JSON and expressions: what they take, what they refuse, and where they say it is.
#include <limits>
#include <random>

#include "base/error.h"
#include "base/expression.h"
#include "base/json.h"
#include "check.h"

namespace {

using rx::Expression;
using rx::json::parse;

std::int64_t value_of(const std::string& expression, std::int64_t a = 0, std::int64_t b = 0,
                      std::int64_t c = 0) {
  const std::vector<std::string> names{"a", "b", "c"};
  const std::vector<std::int64_t> values{a, b, c};
  return Expression(expression, names).evaluate(values);
}

void refused(const std::string& text) {
  CHECK_THROWS("t:", parse(text, "t"));
}

}  // namespace

RX_TEST(json_reads_every_type) {
  const auto all = parse(R"( {"i": -12, "d": 1.5e3, "s": "a\"\\\/\b\f\n\r\té\ud83d\ude00é",
    "a": [true, false, null, []], "o": {"": {}}} )",
                         "t");
  CHECK_EQUAL(all.at("i").integer(), -12);
  CHECK_EQUAL(all.at("i").number(), -12.0);
  CHECK_EQUAL(all.at("d").number(), 1500.0);
  CHECK_EQUAL(all.at("s").string(), "a\"\\/\b\f\n\r\t\xC3\xA9\xF0\x9F\x98\x80\xC3\xA9");
  CHECK_EQUAL(all.at("a").array().size(), std::size_t{4});
  CHECK_EQUAL(all.object()[0].first, "i");
  CHECK_EQUAL(parse("9223372036854775807", "t").integer(),
              std::numeric_limits<std::int64_t>::max());
  CHECK_EQUAL(parse("-9223372036854775808", "t").integer(),
              std::numeric_limits<std::int64_t>::min());
}

RX_TEST(json_refuses_what_the_standard_refuses) {
  for (const char* text : {"",
                           " ",
                           "{",
                           "[",
                           "[1,]",
                           "{\"a\":1,}",
                           "{a:1}",
                           "{\"a\" 1}",
                           "[1 2]",
                           "01",
                           "-",
                           "+1",
                           "1.",
                           ".5",
                           "1e",
                           "0x10",
                           "NaN",
                           "tru",
                           "'a'",
                           "\"a",
                           "\"\\x\"",
                           "\"\\u12g4\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"\\ud800\\u0041\"",
                           "\"\t\"",
                           "1 2",
                           "[1]]",
                           "9223372036854775808",
                           "1e999",
                           "{\"a\":1,\"a\":2}",
                           "// c\n1"})
    refused(text);
  refused("\"\xC3\"");
  refused("\"\xC0\xAF\"");
  refused("\"\xED\xA0\x80\"");
  refused("\"\xF4\x90\x80\x80\"");
  refused(std::string("1\0", 2));
  refused(std::string(100000, '['));
}

RX_TEST(json_errors_have_a_place) {
  CHECK_THROWS("t:2:7: ", parse("{\"a\":\n  [1, x]}", "t"));
  CHECK_THROWS("t:2:2: the key \"b\" is missing", parse("\n {}", "t").at("b"));
  CHECK_THROWS("t:1:6: expected an integer", parse("{\"a\":1.5}", "t").at("a").integer());
}

RX_TEST(json_never_crashes_on_damage) {
  const std::string whole = R"({"a": [1, -2.5e3, "xA\n"], "b": {"c": null, "d": true}})";
  std::mt19937 random(1);
  for (int round = 0; round < 5000; ++round) {
    std::string text = whole;
    for (unsigned edits = random() % 4 + 1; edits > 0; --edits)
      text[random() % text.size()] = static_cast<char>(random());
    text.resize(random() % (text.size() + 1));
    try {
      parse(text, "t");
    } catch (const rx::Error&) {
    }
  }
}

RX_TEST(json_quotes_anything) {
  const std::string wild("\"\\\n\x01\x7F\xC3\xA9\xFF\0z", 10);
  CHECK_EQUAL(rx::json::quoted(wild), "\"\\\"\\\\\\u000a\\u0001\\u007f\xC3\xA9?\\u0000z\"");
}

RX_TEST(expressions_follow_python) {
  CHECK_EQUAL(value_of("1 + 2 * 3 - 4"), 3);
  CHECK_EQUAL(value_of("-7 / 2"), -4);
  CHECK_EQUAL(value_of("7 / -2"), -4);
  CHECK_EQUAL(value_of("-7 % 3"), 2);
  CHECK_EQUAL(value_of("7 % -3"), -2);
  CHECK_EQUAL(value_of("--a - -b", 3, 4), 7);
  CHECK_EQUAL(value_of("a < b < c", 1, 2, 3), 1);
  CHECK_EQUAL(value_of("a < b < c", 1, 3, 3), 0);
  CHECK_EQUAL(value_of("5 > 4 > 3 > 2 != 7"), 1);
  CHECK_EQUAL(value_of("5 > 4 > 3 > 3 != 7"), 0);
  CHECK_EQUAL(value_of("a and b", 2, 5), 5);
  CHECK_EQUAL(value_of("a or b", 2, 5), 2);
  CHECK_EQUAL(value_of("a and 1 / a", 0), 0);
  CHECK_EQUAL(value_of("a == 0 or 1 / a", 0), 1);
  CHECK_EQUAL(value_of("not a == 1", 2), 1);
  CHECK_EQUAL(value_of("not not a", 2), 1);
  CHECK_EQUAL(value_of("not a and b or c", 0, 0, 9), 9);
  CHECK_EQUAL(value_of("min(a, b, c) + max(a, b)", 3, 1, 2), 4);
  CHECK_EQUAL(value_of("ceil_div(a, b) + round_up(a, b)", 7, 3), 12);
  CHECK_EQUAL(value_of("ceil_div(a, b)", -7, 3), -2);
  CHECK_EQUAL(value_of("select(a < b, 10, 20)", 1, 2), 10);
  CHECK_EQUAL(value_of("(((1)))"), 1);
}

RX_TEST(expressions_refuse_the_rest) {
  CHECK_THROWS("at 5: the name x is unknown", value_of("a + x"));
  CHECK_THROWS("at 1: the function f is unknown", value_of("f(1)"));
  CHECK_THROWS("at 1: min is called with 1 values", value_of("min(1)"));
  CHECK_THROWS("at 1: select is called with 2 values", value_of("select(1, 2)"));
  CHECK_THROWS("expected an operator", value_of("1 2"));
  CHECK_THROWS("expected a number", value_of("2 ** 3"));
  CHECK_THROWS("expected ')'", value_of("(1"));
  for (const char* text : {"", "1 +", "a b", "a // b", "a & b", "1.5", "01", "0x1", "a == not b",
                           "and", "a()", "min(1, 2", "'a'", "a = 1", "1;", "99999999999999999999"})
    CHECK_THROWS("the expression", value_of(text));
  CHECK_THROWS("nested too deep", value_of(std::string(100000, '(')));
  std::string deep = "1";  // every sum waits for the next: a stack of 200 values
  for (int i = 0; i < 200; ++i) deep = "1 + (" + deep + ")";
  CHECK_THROWS("nested too deep", value_of(deep));
}

RX_TEST(expressions_check_arithmetic) {
  const std::int64_t most = std::numeric_limits<std::int64_t>::max();
  const std::int64_t least = std::numeric_limits<std::int64_t>::min();
  CHECK_THROWS("division by zero", value_of("a / b", 1, 0));
  CHECK_THROWS("division by zero", value_of("a % b", 1, 0));
  CHECK_THROWS("division by zero", value_of("ceil_div(a, b)", 1, 0));
  CHECK_THROWS("overflow", value_of("a + 1", most));
  CHECK_THROWS("overflow", value_of("a - 1", least));
  CHECK_THROWS("overflow", value_of("a * 2", most));
  CHECK_THROWS("overflow", value_of("-a", least));
  CHECK_THROWS("overflow", value_of("a / -1", least));
  CHECK_THROWS("overflow", value_of("round_up(a, 2)", most));
  CHECK_EQUAL(value_of("a % -1", least), 0);
}

int main() {
  return rx::test::run_all();
}
