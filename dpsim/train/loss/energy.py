"""The loss of energies, forces and virials (spec common.md §12, fittings.md §3.1).

Real atoms of all frames are pooled, as in release 3.2.0 of the reference. F frames, N atoms.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from dpsim import ops
from dpsim.errors import ConfigError
from dpsim.model.base import Model
from dpsim.physics.derivatives import Derivatives, sum_by_frame
from dpsim.physics.hessian import Bend
from dpsim.train.batches.loader import Batch, Label
from dpsim.train.loss.base import Loss
from dpsim.train.loss.terms import Measure, Term, Terms, both, expanded, huber, inverse, measure, or_one, reduced
from dpsim.train.settings.loss import EnergyLossConfig

FROM_DERIVATIVES = {"forces", "virial", "weighted_forces", "generalized_forces", "magnetic_forces"}


class EnergyLoss(Loss[EnergyLossConfig, Derivatives]):
    """Terms of energies and of what follows from them by differentiation."""

    labels: tuple[str, ...] = (
        "energy", "forces", "virial", "atomic_energy", "force_weight", "drdq", "energy_coefficient", "magnetic_forces",
    )  # fmt: skip
    quantities: tuple[str, ...] = ("energy", "forces", "virial")

    def __init__(self, config: EnergyLossConfig, model: Model) -> None:
        super().__init__(config, model)
        if model.spin is not None:
            self.quantities = (*self.quantities, "magnetic_forces")
        elif "magnetic_forces" in config.active:
            raise ConfigError(
                "loss.magnetic_forces has no effect on a model that takes no spins: write `magnetic_forces: off`, or a "
                "model of type spin"
            )
        if "hessian" in config.active:
            self.labels, self.quantities = (*self.labels, "hessian"), (*self.quantities, "hessian")

    def predict(self, batch: Batch, *, training: bool) -> Derivatives:
        """See `Loss.predict`; nothing is differentiated where neither the loss nor the labels ask for it."""
        model, hood = self.model, batch.neighborhood
        if "hessian" in batch.labels:
            return self._with_hessians(batch, training)
        derived = FROM_DERIVATIVES & {*self.config.active, *batch.labels}
        if derived or not training or model.spin is not None:
            return model.derivatives(hood, batch.n_frames, create_graph=training)
        atomic = model.values(hood)
        none = torch.zeros(0, dtype=torch.float64)
        return Derivatives(sum_by_frame(atomic, batch.frame, batch.n_frames), none, none, atomic, none)

    def _with_hessians(self, batch: Batch, training: bool) -> Derivatives:
        hood, n_frames = batch.neighborhood, batch.n_frames
        with ops.any_order():
            found = self.model.derivatives(hood, n_frames, create_graph=True)
        assert found.displacements is not None
        n_types = len(self.model.type_map)
        bend = Bend(found.edge_gradient, found.displacements, hood, n_frames, n_types, create_graph=training)
        found = found._replace(hessian=torch.cat([matrix.flatten() for matrix in bend.matrices()]))
        return found if training else Derivatives._make(None if x is None else x.detach() for x in found)

    def blank(self, batch: Batch) -> Derivatives:
        """See `Loss.blank`."""
        n_frames, n_atoms = batch.n_frames, len(batch.frame)
        zeros, hessian = batch.n_atoms.new_zeros, batch.labels.get("hessian")
        return Derivatives(
            energy=zeros(n_frames),
            forces=zeros((n_atoms, 3)),
            virial=zeros((n_frames, 3, 3)),
            atomic_energy=zeros(n_atoms),
            edge_gradient=zeros((0, 3)),
            magnetic_forces=zeros((n_atoms, 3)) if self.model.spin is not None else None,
            hessian=None if hessian is None else torch.zeros_like(hessian.values),
        )

    def errors(self, predicted: Derivatives, batch: Batch, power: int = 2) -> Terms:
        """See `Loss.errors`: energy per atom, forces per component, virial per atom and component."""
        found: Terms = {}
        per_atom = inverse(batch.n_atoms, power)

        def size(difference: Tensor) -> Tensor:
            return difference.detach().abs().pow(power)

        if (label := batch.labels.get("energy")) is not None:
            found["energy"] = reduced(size(predicted.energy - label.values) * per_atom, label)
        if (label := batch.labels.get("forces")) is not None:
            found["forces"] = reduced(size(predicted.forces - label.values), label)
        if predicted.magnetic_forces is not None and (label := batch.labels.get("magnetic_forces")) is not None:
            found["magnetic_forces"] = reduced(size(predicted.magnetic_forces - label.values), label)
        if predicted.hessian is not None and (label := batch.labels.get("hessian")) is not None:
            assert label.weight is not None
            found["hessian"] = Term((size(predicted.hessian - label.values) * label.weight).sum(), label.size)
        if (label := batch.labels.get("virial")) is not None:
            difference = size(predicted.virial - label.values)
            found["virial"] = reduced(difference * expanded(per_atom, difference), label)
        return found

    def _measure(self, delta: float) -> Measure:
        if self.config.type == "huber":
            return lambda x: huber(x, delta)
        return measure(self.config.type, None)

    def _per_atom(self, difference: Tensor, batch: Batch, delta: float) -> Tensor:
        """Errors of extensive quantities: squares over N (or N²), all others of the error per atom."""
        factor = expanded(inverse(batch.n_atoms, 2 if self.config.intensive else 1), difference)
        if self.config.type == "mse":
            return difference.square() * factor
        return self._measure(delta)(difference * factor)

    def _energy(self, predicted: Derivatives, batch: Batch) -> Term | None:
        label = batch.labels.get("energy")
        if label is None:
            return None
        energy = predicted.energy
        if self.config.energy_coefficients:
            factors = or_one(batch.labels.get("energy_coefficient"), predicted.atomic_energy)
            energy = sum_by_frame(factors * predicted.atomic_energy, batch.frame, batch.n_frames)
        return reduced(self._per_atom(energy - label.values, batch, self.config.deltas[0]), label)

    def _virial(self, predicted: Derivatives, batch: Batch) -> Term | None:
        label = batch.labels.get("virial")
        if label is None:
            return None
        return reduced(self._per_atom(predicted.virial - label.values, batch, self.config.deltas[2]), label)

    def _force_difference(self, predicted: Derivatives, label: Label) -> Tensor:
        difference = predicted.forces - label.values
        if self.config.relative_forces is None:
            return difference
        size = torch.linalg.vector_norm(label.values, dim=1, keepdim=True)
        return difference / (size + self.config.relative_forces)

    def _forces(self, predicted: Derivatives, batch: Batch) -> Term | None:
        label = batch.labels.get("forces")
        if label is None:
            return None
        difference = self._force_difference(predicted, label)
        if self.config.force_norm:
            difference = torch.linalg.vector_norm(difference, dim=1)
        return reduced(self._measure(self.config.deltas[1])(difference), label)

    def _magnetic_forces(self, predicted: Derivatives, batch: Batch) -> Term | None:
        label = batch.labels.get("magnetic_forces")
        if label is None or predicted.magnetic_forces is None:
            return None
        return reduced(self._measure(0.0)(predicted.magnetic_forces - label.values), label)

    def _hessian(self, predicted: Derivatives, batch: Batch) -> Term | None:
        """Means over the entries of each matrix, averaged over the frames."""
        label = batch.labels.get("hessian")
        if label is None or predicted.hessian is None:
            return None
        assert label.weight is not None
        return Term((self._measure(0.0)(predicted.hessian - label.values) * label.weight).sum(), label.size)

    def _weighted_forces(self, predicted: Derivatives, batch: Batch) -> Term | None:
        forces, weight = batch.labels.get("forces"), batch.labels.get("force_weight")
        if forces is None:
            return None
        if self.config.default_force_weight:
            weight = Label(or_one(weight, forces.values), None, len(forces.values))
        counting = both(forces, weight) if weight is not None else None
        if weight is None or counting is None or counting.size == 0:
            return None
        error = self._measure(0.0)(self._force_difference(predicted, forces))
        return reduced(weight.values[:, None] * error, counting)

    def _generalized_forces(self, predicted: Derivatives, batch: Batch) -> Term | None:
        """Squared errors of ``Σ_i F_i · dr_i/dq``, whatever the type of the loss and without `relative_forces`."""
        forces, directions = batch.labels.get("forces"), batch.labels.get("drdq")
        if forces is None or directions is None:
            return None
        counting = both(forces, directions)
        along = (directions.values * (predicted.forces - forces.values).unsqueeze(2)).sum(1)
        if counting.weight is None:
            counted = torch.ones(batch.n_frames, dtype=torch.float64, device=along.device)
        else:
            along = along * counting.weight[:, None]
            counted = (sum_by_frame(counting.weight, batch.frame, batch.n_frames) > 0).to(torch.float64)
        if not counted.any():
            return None
        squares = sum_by_frame(along, batch.frame, batch.n_frames).square()
        return reduced(squares, Label(squares, counted, int(counted.sum())))

    def _atomic_energy(self, predicted: Derivatives, batch: Batch) -> Term | None:
        label = batch.labels.get("atomic_energy")
        if label is None:
            return None
        return reduced(self._measure(self.config.deltas[0])(predicted.atomic_energy - label.values), label)

    makers: ClassVar = {
        "energy": _energy,
        "forces": _forces,
        "virial": _virial,
        "atomic_energy": _atomic_energy,
        "weighted_forces": _weighted_forces,
        "generalized_forces": _generalized_forces,
        "magnetic_forces": _magnetic_forces,
        "hessian": _hessian,
    }
