// A JSON reader of the size this needs: numbers are doubles, and errors name the place.
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <variant>
#include <vector>

namespace dpsim {

class JsonValue {
 public:
  using Array = std::vector<JsonValue>;
  using Object = std::map<std::string, JsonValue>;

  // Throws std::runtime_error with one sentence.
  static JsonValue parse(const std::string &text);

  const JsonValue *find(const std::string &key) const;    // null if absent or not an object
  const JsonValue &at(const std::string &key) const;
  bool is_null() const { return std::holds_alternative<std::nullptr_t>(value); }
  bool flag() const;
  double number() const;
  const std::string &text() const;
  const Array &array() const;

  std::variant<std::nullptr_t, bool, double, std::string, Array, Object> value = nullptr;
};

}    // namespace dpsim
