#include "model_inputs.h"

#include "model_info.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <stdexcept>

namespace dpsim {
namespace {

// What each keyword takes, for messages.
constexpr const char *KEYWORDS = "device auto|cpu|cuda, mpi auto|device|host, verbose yes|no, fparam NUMBERS, aparam NUMBERS, "
                                 "charge_spin CHARGE SPIN";

// Rows of the tables that embed the charge and the spin of a frame.
constexpr double MIN_CHARGE = -100, MAX_CHARGE = 99, MIN_SPIN = 0, MAX_SPIN = 99;

bool is_choice(const std::string &word, std::initializer_list<const char *> choices)
{
  return std::any_of(choices.begin(), choices.end(), [&](const char *c) { return word == c; });
}

double number(const std::string &key, const std::string &word)
{
  char *end = nullptr;
  const double x = std::strtod(word.c_str(), &end);
  if (word.empty() || *end != '\0' || !std::isfinite(x))
    throw std::runtime_error("\"" + word + "\" behind " + key + " is not a number");
  return x;
}

const std::string &choice(const std::string &key, const std::vector<std::string> &values)
{
  const bool known = values.size() == 1 &&
      (key == "device"  ? is_choice(values[0], {"auto", "cpu", "cuda"})
           : key == "mpi" ? is_choice(values[0], {"auto", "device", "host"})
                          : is_choice(values[0], {"yes", "no"}));
  std::string line = key;
  for (const auto &value : values) line += " " + value;
  if (!known) throw std::runtime_error("\"" + line + "\" is not a choice, expected: " + KEYWORDS);
  return values[0];
}

std::string example(const std::string &key, std::int64_t n)
{
  std::string out = "\"" + key;
  for (std::int64_t k = 1; k <= n; ++k) out += " v" + std::to_string(k);
  return out + "\"";
}

std::vector<double> choose(const std::string &key, const std::string &what, const std::vector<double> &given,
                           std::int64_t expected, const std::vector<double> &defaults)
{
  const std::string takes = "the model takes " + std::to_string(expected) + " " + what;
  if (expected == 0) {
    if (!given.empty()) throw std::runtime_error("the model takes no " + what + "; leave out the keyword " + key);
    return {};
  }
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

bool is_keyword(const std::string &word)
{
  return is_choice(word, {"device", "mpi", "verbose", "fparam", "aparam", "charge_spin"});
}

Keywords parse_keywords(const std::vector<std::string> &words)
{
  Keywords out;
  for (std::size_t k = 0; k < words.size();) {
    const std::string &key = words[k++];
    if (!is_keyword(key)) throw std::runtime_error("unknown keyword " + key + ", expected one of: " + KEYWORDS);
    const bool numeric = !is_choice(key, {"device", "mpi", "verbose"});
    std::vector<std::string> values;
    if (!numeric && k < words.size()) values.push_back(words[k++]);    // "device" is a choice of mpi, too
    while (numeric && k < words.size() && !is_keyword(words[k])) values.push_back(words[k++]);
    if (values.empty())
      throw std::runtime_error("keyword " + key + " has no value, expected: " + KEYWORDS);
    if (key == "device") out.device = choice(key, values);
    if (key == "mpi") out.mpi = choice(key, values);
    if (key == "verbose") out.verbose = choice(key, values) == "yes";
    auto &numbers = key == "fparam" ? out.fparam : key == "aparam" ? out.aparam : out.charge_spin;
    if (!numeric) continue;
    numbers.clear();
    for (const auto &value : values) numbers.push_back(number(key, value));
  }
  return out;
}

ModelInputs choose_inputs(const Keywords &given, const ModelInfo &info)
{
  ModelInputs out;
  out.fparam = choose("fparam", "frame parameters", given.fparam, info.n_fparam, info.default_fparam);
  out.aparam = choose("aparam", "atomic parameters", given.aparam, info.n_aparam, {});
  out.charge_spin = choose_charge_spin(given.charge_spin, info);
  return out;
}

}    // namespace dpsim
