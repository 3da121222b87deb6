#include "model/json_value.h"

#include <cstddef>
#include <cstdlib>
#include <stdexcept>

namespace dpsim {
namespace {

class Reader {
 public:
  explicit Reader(const std::string &text) : text_(text) {}

  JsonValue document()
  {
    JsonValue value = any(0);
    skip();
    if (at_ != text_.size()) fail("the end of the text");
    return value;
  }

 private:
  [[noreturn]] void fail(const std::string &expected) const
  {
    throw std::runtime_error("not JSON at character " + std::to_string(at_) + ", expected " + expected);
  }
  void skip()
  {
    while (at_ < text_.size() && std::string(" \t\r\n").find(text_[at_]) != std::string::npos) ++at_;
  }
  bool accept(const std::string &word)
  {
    skip();
    if (text_.compare(at_, word.size(), word) != 0) return false;
    at_ += word.size();
    return true;
  }
  void expect(const std::string &word)
  {
    if (!accept(word)) fail("\"" + word + "\"");
  }

  JsonValue any(int depth)
  {
    if (depth > 64) fail("less nesting");
    JsonValue out;
    skip();
    if (accept("{")) {
      out.value = object(depth);
    } else if (accept("[")) {
      out.value = array(depth);
    } else if (at_ < text_.size() && text_[at_] == '"') {
      out.value = string();
    } else if (accept("true")) {
      out.value = true;
    } else if (accept("false")) {
      out.value = false;
    } else if (!accept("null")) {
      out.value = number();
    }
    return out;
  }

  JsonValue::Object object(int depth)
  {
    JsonValue::Object members;
    if (accept("}")) return members;
    do {
      skip();
      const std::string key = string();
      expect(":");
      members[key] = any(depth + 1);
    } while (accept(","));
    expect("}");
    return members;
  }

  JsonValue::Array array(int depth)
  {
    JsonValue::Array items;
    if (accept("]")) return items;
    do items.push_back(any(depth + 1));
    while (accept(","));
    expect("]");
    return items;
  }

  double number()
  {
    const char *begin = text_.c_str() + at_;
    char *end = nullptr;
    const double x = std::strtod(begin, &end);    // also takes NaN and Infinity, as Python writes
    if (end == begin) fail("a value");
    at_ += static_cast<std::size_t>(end - begin);
    return x;
  }

  std::string string()
  {
    if (at_ >= text_.size() || text_[at_] != '"') fail("a string");
    std::string out;
    for (++at_; at_ < text_.size() && text_[at_] != '"'; ++at_) {
      if (text_[at_] == '\\') {
        if (++at_ == text_.size()) break;
        escape(out);
      } else {
        out += text_[at_];
      }
    }
    if (at_ >= text_.size()) fail("the closing quote of a string");
    ++at_;
    return out;
  }

  void escape(std::string &out)
  {
    static const std::string from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
    const auto k = from.find(text_[at_]);
    if (k != std::string::npos) {
      out += to[k];
    } else if (text_[at_] == 'u' && at_ + 4 < text_.size()) {
      append_utf8(out, std::strtoul(text_.substr(at_ + 1, 4).c_str(), nullptr, 16));
      at_ += 4;
    } else {
      fail("an escape sequence");
    }
  }

  static void append_utf8(std::string &out, unsigned long c)
  {
    if (c < 0x80) {
      out += static_cast<char>(c);
    } else if (c < 0x800) {
      out += static_cast<char>(0xC0 | (c >> 6));
      out += static_cast<char>(0x80 | (c & 0x3F));
    } else {
      out += static_cast<char>(0xE0 | (c >> 12));
      out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
      out += static_cast<char>(0x80 | (c & 0x3F));
    }
  }

  const std::string &text_;
  std::size_t at_ = 0;
};

}    // namespace

JsonValue JsonValue::parse(const std::string &text) { return Reader(text).document(); }

const JsonValue *JsonValue::find(const std::string &key) const
{
  const auto *members = std::get_if<Object>(&value);
  if (!members) return nullptr;
  const auto found = members->find(key);
  return found == members->end() ? nullptr : &found->second;
}

const JsonValue &JsonValue::at(const std::string &key) const
{
  const auto *found = find(key);
  if (!found) throw std::runtime_error("the key \"" + key + "\" is missing");
  return *found;
}

bool JsonValue::flag() const
{
  if (const auto *x = std::get_if<bool>(&value)) return *x;
  throw std::runtime_error("true or false was expected");
}

double JsonValue::number() const
{
  if (const auto *x = std::get_if<double>(&value)) return *x;
  throw std::runtime_error("a number was expected");
}

const std::string &JsonValue::text() const
{
  if (const auto *x = std::get_if<std::string>(&value)) return *x;
  throw std::runtime_error("a string was expected");
}

const JsonValue::Array &JsonValue::array() const
{
  if (const auto *x = std::get_if<Array>(&value)) return *x;
  throw std::runtime_error("a list was expected");
}

}    // namespace dpsim
