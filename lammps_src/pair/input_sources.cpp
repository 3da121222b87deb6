#include "pair/input_sources.h"

#include "model/model_inputs.h"

#include "compute.h"
#include "error.h"
#include "fix.h"
#include "modify.h"

using namespace LAMMPS_NS;

void InputSources::choose(const dpsim::Keywords &keywords, std::int64_t n_fparam, std::int64_t n_aparam)
{
  fparam_compute_id_ = keywords.fparam_compute;
  aparam_compute_id_ = keywords.aparam_compute;
  fparam_fix_id_ = keywords.fparam_fix;
  fparam_fix_index_ = keywords.fparam_fix_index;
  n_fparam_ = n_fparam;
  n_aparam_ = n_aparam;
  fparam_compute_ = aparam_compute_ = nullptr;
  fparam_fix_ = nullptr;
}

void InputSources::init()
{
  fresh_ = true;
  if (!fparam_compute_id_.empty()) check_fparam_compute();
  if (!fparam_fix_id_.empty()) check_fparam_fix();
  if (!aparam_compute_id_.empty()) check_aparam_compute();
}

// Energies and pressures follow from what the pair style is about to compute.
Compute *InputSources::find_compute(const std::string &keyword, const std::string &id)
{
  Compute *compute = modify->get_compute_by_id(id);
  if (!compute)
    error->all(FLERR, "{}: there is no compute {} for {}; define it before the run", who_, id, keyword);
  if (compute->peflag || compute->pressflag || compute->peatomflag || compute->pressatomflag)
    error->all(FLERR, "{}: compute {} for {} needs the forces of this step, which are not there yet; take one that "
               "follows from positions and velocities", who_, id, keyword);
  return compute;
}

void InputSources::check_fparam_compute()
{
  fparam_compute_ = find_compute("fparam_from_compute", fparam_compute_id_);
  const bool one = n_fparam_ == 1 && fparam_compute_->scalar_flag;
  if (!one && (!fparam_compute_->vector_flag || fparam_compute_->size_vector < n_fparam_))
    error->all(FLERR, "{}: compute {} for fparam_from_compute gives no global {}, which the model takes; choose "
               "another compute", who_, fparam_compute_id_,
               n_fparam_ == 1 ? std::string("scalar") : "vector of " + std::to_string(n_fparam_) + " numbers");
}

void InputSources::check_fparam_fix()
{
  fparam_fix_ = modify->get_fix_by_id(fparam_fix_id_);
  if (!fparam_fix_)
    error->all(FLERR, "{}: there is no fix {} for fparam_from_fix; define it before the run", who_, fparam_fix_id_);
  if (fparam_fix_index_ == 0 && n_fparam_ == 1 && fparam_fix_->scalar_flag) return;
  const int first = fparam_fix_index_ == 0 ? 1 : fparam_fix_index_;
  if (!fparam_fix_->vector_flag || fparam_fix_->size_vector < first - 1 + n_fparam_)
    error->all(FLERR, "{}: fix {} for fparam_from_fix gives no numbers {} to {} of a global vector; the model takes {} "
               "frame parameters", who_, fparam_fix_id_, first, first - 1 + n_fparam_, n_fparam_);
  fparam_fix_index_ = first;
}

void InputSources::check_aparam_compute()
{
  aparam_compute_ = find_compute("aparam_from_compute", aparam_compute_id_);
  const int columns = aparam_compute_->size_peratom_cols;
  if (!aparam_compute_->peratom_flag || (columns == 0 ? 1 : columns) < n_aparam_)
    error->all(FLERR, "{}: compute {} for aparam_from_compute gives no {} numbers for each atom, which the model takes; "
               "choose another compute", who_, aparam_compute_id_, n_aparam_);
}

// LAMMPS does it after the first forces of a run; a temperature has no degrees of freedom before.
void InputSources::set_up()
{
  if (!fresh_) return;
  fresh_ = false;
  for (Compute *compute : {fparam_compute_, aparam_compute_})
    if (compute) compute->setup();
}

// Always afresh: during a minimization positions change while the number of the step stays.
const std::vector<double> &InputSources::fparam()
{
  set_up();
  fparam_.resize(n_fparam_);
  if (fparam_compute_ && n_fparam_ == 1 && fparam_compute_->scalar_flag) {
    fparam_[0] = fparam_compute_->compute_scalar();
    fparam_compute_->invoked_flag |= Compute::INVOKED_SCALAR;
  } else if (fparam_compute_) {
    fparam_compute_->compute_vector();
    fparam_compute_->invoked_flag |= Compute::INVOKED_VECTOR;
    fparam_.assign(fparam_compute_->vector, fparam_compute_->vector + n_fparam_);
  } else if (fparam_fix_index_ == 0) {
    fparam_[0] = fparam_fix_->compute_scalar();
  } else {
    for (std::int64_t k = 0; k < n_fparam_; ++k)
      fparam_[k] = fparam_fix_->compute_vector(fparam_fix_index_ - 1 + static_cast<int>(k));
  }
  return fparam_;
}

const std::vector<double> &InputSources::aparam(const std::vector<int> &centers)
{
  set_up();
  aparam_compute_->compute_peratom();
  aparam_compute_->invoked_flag |= Compute::INVOKED_PERATOM;
  aparam_.clear();
  for (const int i : centers)
    for (std::int64_t k = 0; k < n_aparam_; ++k)
      aparam_.push_back(aparam_compute_->size_peratom_cols == 0 ? aparam_compute_->vector_atom[i]
                                                                : aparam_compute_->array_atom[i][k]);
  return aparam_;
}
