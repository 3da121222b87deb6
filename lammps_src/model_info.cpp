#include "model_info.h"

#include "json_value.h"

#include <stdexcept>

namespace dpsim {
namespace {

std::int64_t integer(const JsonValue &json, const std::string &key)
{
  return static_cast<std::int64_t>(json.at(key).number());
}

std::int64_t integer_or_zero(const JsonValue &json, const std::string &key)
{
  return json.find(key) ? integer(json, key) : 0;
}

std::vector<std::string> texts(const JsonValue &json, const std::string &key)
{
  std::vector<std::string> out;
  for (const auto &item : json.at(key).array()) out.push_back(item.text());
  return out;
}

std::vector<char> excluded_pairs(const JsonValue &json, std::int64_t n_types)
{
  std::vector<char> out;
  for (const auto &pair : json.at("exclude_types").array()) {
    out.resize(static_cast<std::size_t>(n_types * n_types), 0);
    const auto a = static_cast<std::int64_t>(pair.array().at(0).number());
    const auto b = static_cast<std::int64_t>(pair.array().at(1).number());
    if (a < 0 || b < 0 || a >= n_types || b >= n_types)
      throw std::runtime_error("exclude_types names a type that type_map lacks");
    out[a * n_types + b] = out[b * n_types + a] = 1;
  }
  return out;
}

CutoffRule cutoff_rule(const JsonValue &json, std::int64_t n_types)
{
  CutoffRule rule;
  rule.cutoff = json.at("cutoff").number();
  rule.e_sel = integer(json, "e_sel");
  rule.a_rcut = json.at("a_rcut").number();
  rule.a_sel = integer(json, "a_sel");
  rule.n_types = n_types;
  rule.excluded = excluded_pairs(json, n_types);
  if (!(rule.cutoff > 0.0)) throw std::runtime_error("cutoff must be positive");
  return rule;
}

}    // namespace

ModelInfo parse_model_info(const std::string &text)
{
  const JsonValue json = JsonValue::parse(text);
  if (const auto format = integer(json, "format"); format != MODEL_FORMAT)
    throw std::runtime_error("it has format " + std::to_string(format) + ", this plugin reads format " +
                             std::to_string(MODEL_FORMAT) + "; freeze the model again with this dpsim");
  ModelInfo info;
  info.type_map = texts(json, "type_map");
  info.rule = cutoff_rule(json, static_cast<std::int64_t>(info.type_map.size()));
  info.dtype = json.at("dtype").text();
  info.device = json.at("device").text();
  info.torch = json.at("torch").text();
  info.dpsim = json.at("dpsim").text();
  info.digest = json.at("digest").text();
  info.message_passing_layers = integer(json, "message_passing_layers");
  info.n_fparam = integer_or_zero(json, "n_fparam");
  info.n_aparam = integer_or_zero(json, "n_aparam");
  info.outputs = texts(json, "outputs");
  return info;
}

}    // namespace dpsim
