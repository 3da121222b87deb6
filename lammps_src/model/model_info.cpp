#include "model/model_info.h"

#include "model/json_value.h"

#include <stdexcept>
#include <utility>

namespace dpsim {
namespace {

std::int64_t integer(const JsonValue &json, const std::string &key)
{
  return static_cast<std::int64_t>(json.at(key).number());
}

std::vector<std::string> texts(const JsonValue &json, const std::string &key)
{
  std::vector<std::string> out;
  for (const auto &item : json.at(key).array()) out.push_back(item.text());
  return out;
}

// Empty for null.
std::vector<double> numbers(const JsonValue &json, const std::string &key)
{
  std::vector<double> out;
  const JsonValue &value = json.at(key);
  if (value.is_null()) return out;
  for (const auto &item : value.array()) out.push_back(item.number());
  return out;
}

void check_size(const std::vector<double> &values, std::int64_t expected, const std::string &key)
{
  if (!values.empty() && static_cast<std::int64_t>(values.size()) != expected)
    throw std::runtime_error(key + " has " + std::to_string(values.size()) + " members, expected " +
                             std::to_string(expected));
}

// Pairs (a, b) of a list of two types each; `lowest` may be -1, for a type that no atom has.
std::vector<std::pair<std::int64_t, std::int64_t>> type_pairs(const JsonValue &json, const std::string &key,
                                                              std::int64_t lowest, std::int64_t n_types)
{
  std::vector<std::pair<std::int64_t, std::int64_t>> out;
  for (const auto &pair : json.at(key).array()) {
    const auto &types = pair.array();
    if (types.size() != 2) throw std::runtime_error(key + " has a member that is no pair");
    out.emplace_back(static_cast<std::int64_t>(types[0].number()), static_cast<std::int64_t>(types[1].number()));
    const auto [a, b] = out.back();
    if (a < lowest || b < lowest || a >= n_types || b >= n_types)
      throw std::runtime_error(key + " names a type that type_map lacks");
  }
  return out;
}

std::vector<char> excluded_pairs(const JsonValue &json, std::int64_t n_types)
{
  const auto only = type_pairs(json, "only", -1, n_types), excluded = type_pairs(json, "exclude_types", 0, n_types);
  if (only.empty() && excluded.empty()) return {};
  std::vector<char> out(static_cast<std::size_t>(n_types * n_types), only.empty() ? 0 : 1);
  for (const auto &[a, b] : only)
    if (a >= 0 && b >= 0) out[a * n_types + b] = 0;
  for (const auto &[a, b] : excluded) out[a * n_types + b] = out[b * n_types + a] = 1;
  return out;
}

void read_output(const JsonValue &json, ModelInfo &info)
{
  info.output = json.at("output").text();
  for (const double n : numbers(json, "output_shape")) info.output_size *= static_cast<std::int64_t>(n);
  info.intensive = json.at("intensive").flag();
  if (info.output_size < 1) throw std::runtime_error("output_shape has a size below one");
}

void read_charges(const JsonValue &json, ModelInfo &info)
{
  if (integer(json, "format") != LONG_RANGE_FORMAT) return;
  const JsonValue &found = json.at("electrostatics");
  info.charges = {numbers(found, "ion_charge"), numbers(found, "centroid_charge"), found.at("ewald_h").number(),
                  found.at("ewald_beta").number()};
  const auto n_types = static_cast<std::int64_t>(info.type_map.size());
  check_size(info.charges.ion, n_types, "ion_charge");
  check_size(info.charges.centroid, n_types, "centroid_charge");
  if (!(info.charges.spacing > 0.0 && info.charges.beta > 0.0))
    throw std::runtime_error("ewald_h and ewald_beta must be positive");
}

void read_inputs(const JsonValue &json, ModelInfo &info)
{
  info.n_fparam = integer(json, "n_fparam");
  info.n_aparam = integer(json, "n_aparam");
  info.default_fparam = numbers(json, "default_fparam");
  check_size(info.default_fparam, info.n_fparam, "default_fparam");
  info.charge_spin = json.at("charge_spin").flag();
  info.default_charge_spin = numbers(json, "default_charge_spin");
  check_size(info.default_charge_spin, 2, "default_charge_spin");
  const JsonValue &spin = json.at("spin");
  if (spin.is_null()) return;
  info.virtual_scale = numbers(spin, "virtual_scale");
  if (info.virtual_scale.size() != info.type_map.size())
    throw std::runtime_error("virtual_scale has " + std::to_string(info.virtual_scale.size()) +
                             " members, expected one for each of the " + std::to_string(info.type_map.size()) +
                             " types");
}

}    // namespace

NeighborSpec parse_neighbors(const JsonValue &json, std::int64_t n_types)
{
  NeighborSpec spec;
  spec.cutoff = json.at("cutoff").number();
  spec.sel = integer(json, "sel");
  for (const double n : numbers(json, "sel_by_type")) spec.sel_by_type.push_back(static_cast<std::int64_t>(n));
  spec.n_types = n_types;
  spec.excluded = excluded_pairs(json, n_types);
  spec.pairs = json.at("pairs").flag();
  spec.strict = json.at("strict").flag();
  for (const auto &inner : json.at("inner").array()) spec.inner.push_back(parse_neighbors(inner, n_types));
  if (!(spec.cutoff > 0.0)) throw std::runtime_error("cutoff must be positive");
  if (!spec.sel_by_type.empty() && static_cast<std::int64_t>(spec.sel_by_type.size()) != n_types)
    throw std::runtime_error("sel_by_type has " + std::to_string(spec.sel_by_type.size()) +
                             " members, expected one for each of the " + std::to_string(n_types) + " types");
  return spec;
}

ModelInfo parse_model_info(const std::string &text)
{
  const JsonValue json = JsonValue::parse(text);
  if (const auto format = integer(json, "format"); format != MODEL_FORMAT && format != LONG_RANGE_FORMAT)
    throw std::runtime_error("it has format " + std::to_string(format) + ", this plugin reads format " +
                             std::to_string(MODEL_FORMAT) + "; freeze the model again with this dpsim");
  ModelInfo info;
  info.type_map = texts(json, "type_map");
  info.dtype = json.at("dtype").text();
  info.device = json.at("device").text();
  info.torch = json.at("torch").text();
  info.dpsim = json.at("dpsim").text();
  info.digest = json.at("digest").text();
  info.message_passing_layers = integer(json, "message_passing_layers");
  read_output(json, info);
  read_inputs(json, info);
  read_charges(json, info);
  const auto n_types = static_cast<std::int64_t>(info.type_map.size());
  info.neighbors = parse_neighbors(json.at("neighbors"), info.has_spin() ? 2 * n_types : n_types);
  return info;
}

}    // namespace dpsim
