#include "model/error_words.h"

#include <c10/util/Exception.h>

#include <exception>

namespace dpsim {

std::string error_words()
{
  try {
    throw;
  } catch (const c10::Error &e) {
    return e.what_without_backtrace();
  } catch (const std::exception &e) {
    return e.what();
  }
}

bool tells_of_memory(const std::string &words)
{
  for (const char *sign : {"out of memory", "can't allocate memory", "bad_alloc"})
    if (words.find(sign) != std::string::npos) return true;
  return false;
}

}    // namespace dpsim
