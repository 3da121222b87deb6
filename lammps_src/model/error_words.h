// What is said of an exception: without the stack of calls that torch's errors bring.
#pragma once

#include <string>

namespace dpsim {

// Of the exception that is being handled; one that is no std::exception goes on.
std::string error_words();

// Whether these words tell that memory has come to its end, on a CPU or a GPU.
bool tells_of_memory(const std::string &words);

}    // namespace dpsim
