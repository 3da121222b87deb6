#include "model/model_inputs.h"

#include "model/model_info.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <map>
#include <stdexcept>

namespace dpsim {
namespace {

// What each keyword takes, for messages.
constexpr const char *KEYWORDS =
    "device auto|cpu|cuda, mpi auto|device|host, chunk ATOMS, verbose yes|no, fparam NUMBERS, fparam_from_compute ID, "
    "fparam_from_fix ID [INDEX], aparam NUMBERS, aparam_from_compute ID, charge_spin CHARGE SPIN and, of several "
    "models, out_file FILE, out_freq STEPS, atomic, relative LEVEL, relative_v LEVEL";

// Rows of the tables that embed the charge and the spin of a frame.
constexpr double MIN_CHARGE = -100, MAX_CHARGE = 99, MIN_SPIN = 0, MAX_SPIN = 99;

using Words = std::vector<std::string>;

double number(const std::string &key, const std::string &word)
{
  char *end = nullptr;
  const double x = std::strtod(word.c_str(), &end);
  if (word.empty() || *end != '\0' || !std::isfinite(x))
    throw std::runtime_error("\"" + word + "\" behind " + key + " is not a number");
  return x;
}

std::vector<double> numbers(const std::string &key, const Words &words)
{
  std::vector<double> out;
  for (const auto &word : words) out.push_back(number(key, word));
  return out;
}

std::int64_t whole(const std::string &key, const std::string &word, std::int64_t lowest)
{
  const double x = number(key, word);
  if (x != std::floor(x) || x < static_cast<double>(lowest) || x > 9e15)
    throw std::runtime_error("\"" + word + "\" behind " + key + " is not a whole number of " +
                             std::to_string(lowest) + " or more");
  return static_cast<std::int64_t>(x);
}

double level(const std::string &key, const std::string &word)
{
  const double x = number(key, word);
  if (x < 0.0) throw std::runtime_error("the level \"" + word + "\" behind " + key + " is negative");
  return x;
}

std::string choice(const std::string &key, const std::string &word, std::initializer_list<const char *> choices)
{
  if (std::none_of(choices.begin(), choices.end(), [&](const char *c) { return word == c; }))
    throw std::runtime_error("\"" + key + " " + word + "\" is not a choice, expected: " + KEYWORDS);
  return word;
}

[[noreturn]] void refuse_ttm(Keywords &, const Words &)
{
  throw std::runtime_error("keyword ttm is not available, as LAMMPS keeps the temperatures of fix ttm to itself; put "
                           "them into a per-atom variable or property and write \"aparam_from_compute ID\"");
}

// How many words follow a keyword, and what they mean. Of as many as there are, all up to the next keyword are taken.
struct Rule {
  std::size_t least, most;
  std::function<void(Keywords &, const Words &)> read;
};
constexpr std::size_t ANY = 1000000;

Rule deviation_rule(std::size_t n, const std::string &key, std::function<void(DeviationKeywords &, const Words &)> read)
{
  return {n, n, [key, read](Keywords &k, const Words &w) {
            k.deviation.given = key;
            read(k.deviation, w);
          }};
}

const std::map<std::string, Rule> &rules()
{
  using D = DeviationKeywords;
  static const std::map<std::string, Rule> all = {
      {"device", {1, 1, [](Keywords &k, const Words &w) { k.device = choice("device", w[0], {"auto", "cpu", "cuda"}); }}},
      {"mpi", {1, 1, [](Keywords &k, const Words &w) { k.mpi = choice("mpi", w[0], {"auto", "device", "host"}); }}},
      {"chunk", {1, 1, [](Keywords &k, const Words &w) { k.chunk = whole("chunk", w[0], 0); }}},
      {"verbose", {1, 1, [](Keywords &k, const Words &w) {
         k.verbose = choice("verbose", w[0], {"yes", "no"}) == "yes";
       }}},
      {"fparam", {1, ANY, [](Keywords &k, const Words &w) { k.fparam = numbers("fparam", w); }}},
      {"aparam", {1, ANY, [](Keywords &k, const Words &w) { k.aparam = numbers("aparam", w); }}},
      {"charge_spin", {1, ANY, [](Keywords &k, const Words &w) { k.charge_spin = numbers("charge_spin", w); }}},
      {"fparam_from_compute", {1, 1, [](Keywords &k, const Words &w) { k.fparam_compute = w[0]; }}},
      {"aparam_from_compute", {1, 1, [](Keywords &k, const Words &w) { k.aparam_compute = w[0]; }}},
      {"fparam_from_fix", {1, 2, [](Keywords &k, const Words &w) {
         k.fparam_fix = w[0];
         k.fparam_fix_index = w.size() > 1 ? static_cast<int>(whole("fparam_from_fix", w[1], 1)) : 0;
       }}},
      {"ttm", {0, ANY, refuse_ttm}},
      {"out_file", deviation_rule(1, "out_file", [](D &d, const Words &w) { d.file = w[0]; })},
      {"out_freq", deviation_rule(1, "out_freq", [](D &d, const Words &w) { d.every = whole("out_freq", w[0], 0); })},
      {"atomic", deviation_rule(0, "atomic", [](D &d, const Words &) { d.atomic = true; })},
      {"relative", deviation_rule(1, "relative", [](D &d, const Words &w) { d.relative = level("relative", w[0]); })},
      {"relative_v",
       deviation_rule(1, "relative_v", [](D &d, const Words &w) { d.relative_v = level("relative_v", w[0]); })},
  };
  return all;
}

void check_one_source(const Keywords &k)
{
  const auto both = [](const char *a, const char *b) {
    throw std::runtime_error(std::string(a) + " and " + b + " are both given; leave one of them out");
  };
  if (!k.fparam_compute.empty() && !k.fparam_fix.empty()) both("fparam_from_compute", "fparam_from_fix");
  if (!k.fparam.empty() && !k.fparam_compute.empty()) both("fparam", "fparam_from_compute");
  if (!k.fparam.empty() && !k.fparam_fix.empty()) both("fparam", "fparam_from_fix");
  if (!k.aparam.empty() && !k.aparam_compute.empty()) both("aparam", "aparam_from_compute");
}

std::string example(const std::string &key, std::int64_t n)
{
  std::string out = "\"" + key;
  for (std::int64_t k = 1; k <= n; ++k) out += " v" + std::to_string(k);
  return out + "\"";
}

// `source` is the keyword by which values come from LAMMPS at every step, or empty.
std::vector<double> choose(const std::string &key, const std::string &what, const std::vector<double> &given,
                           std::int64_t expected, const std::vector<double> &defaults, const std::string &source)
{
  const std::string takes = "the model takes " + std::to_string(expected) + " " + what;
  if (expected == 0) {
    const std::string keyword = source.empty() ? key : source;
    if (!given.empty() || !source.empty())
      throw std::runtime_error("the model takes no " + what + "; leave out the keyword " + keyword);
    return {};
  }
  if (!source.empty()) return {};
  if (given.empty() && defaults.empty())
    throw std::runtime_error(takes + " and has no default; write " + example(key, expected) + " behind its file");
  if (!given.empty() && static_cast<std::int64_t>(given.size()) != expected)
    throw std::runtime_error(key + " has " + std::to_string(given.size()) + " values, but " + takes + "; write " +
                             example(key, expected));
  return given.empty() ? defaults : given;
}

std::vector<double> choose_charge_spin(const std::vector<double> &given, const ModelInfo &info)
{
  if (!info.charge_spin) {
    if (!given.empty())
      throw std::runtime_error("the model takes no charge and spin; leave out the keyword charge_spin");
    return {};
  }
  const auto &values = given.empty() ? info.default_charge_spin : given;
  if (values.empty())
    throw std::runtime_error("the model takes the charge and the spin of the system and has no default; write "
                             "\"charge_spin q s\" behind its file");
  const auto whole = [](double x, double low, double high) { return x == std::floor(x) && x >= low && x <= high; };
  if (values.size() != 2 || !whole(values[0], MIN_CHARGE, MAX_CHARGE) || !whole(values[1], MIN_SPIN, MAX_SPIN))
    throw std::runtime_error("charge_spin takes two numbers, a whole charge from -100 to 99 and a whole spin from 0 "
                             "to 99");
  return values;
}

}    // namespace

bool is_keyword(const std::string &word) { return rules().count(word) > 0; }

Keywords parse_keywords(const Words &words)
{
  Keywords out;
  for (std::size_t k = 0; k < words.size();) {
    const std::string &key = words[k++];
    const auto rule = rules().find(key);
    if (rule == rules().end())
      throw std::runtime_error("unknown keyword " + key + ", expected one of: " + KEYWORDS);
    const auto &[least, most, read] = rule->second;
    Words values;    // the first ones may be called like a keyword: "mpi device"
    while (k < words.size() && values.size() < most && (!is_keyword(words[k]) || (most < ANY && values.size() < least)))
      values.push_back(words[k++]);
    if (values.size() < least) throw std::runtime_error("keyword " + key + " has no value, expected: " + KEYWORDS);
    read(out, values);
  }
  check_one_source(out);
  return out;
}

ModelInputs choose_inputs(const Keywords &given, const ModelInfo &info)
{
  const std::string fparam_source = !given.fparam_compute.empty() ? "fparam_from_compute"
      : !given.fparam_fix.empty()                                 ? "fparam_from_fix"
                                                                  : "";
  const std::string aparam_source = given.aparam_compute.empty() ? "" : "aparam_from_compute";
  ModelInputs out;
  out.fparam = choose("fparam", "frame parameters", given.fparam, info.n_fparam, info.default_fparam, fparam_source);
  out.aparam = choose("aparam", "atomic parameters", given.aparam, info.n_aparam, {}, aparam_source);
  out.charge_spin = choose_charge_spin(given.charge_spin, info);
  return out;
}

}    // namespace dpsim
