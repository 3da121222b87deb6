#include "model/device_choice.h"

#include <stdexcept>

namespace dpsim {

void check_device(const std::string &made_for, const std::string &wanted)
{
  if (wanted != "auto" && wanted != made_for)
    throw std::runtime_error("was frozen for the device " + made_for + ", not " + wanted + "; freeze it with \"--device " +
                             wanted + "\" or write \"device " + made_for + "\"");
}

int choose_gpu(int n_devices, int local_rank)
{
  if (n_devices < 1)
    throw std::runtime_error("was frozen for a GPU, but this machine has none that CUDA can use; freeze the model "
                             "with \"--device cpu\"");
  return local_rank % n_devices;
}

}    // namespace dpsim
