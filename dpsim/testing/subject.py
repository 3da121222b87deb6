"""What is checked: a model with random parameters, and how its answers are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential, Prediction
from dpsim.calculators.inputs import read_frame
from dpsim.model.base import Model
from dpsim.model.config import AnyModelConfig
from dpsim.physics.neighbors import FrameGraph, NeighborSpec
from dpsim.testing.structures import Structure, crystal, molecule


class ContractError(AssertionError):
    """A model breaks its contract."""


class Tolerances(NamedTuple):
    """What counts as equal, relative to the largest component of what is expected (taken as 0.01 if it is less)."""

    exact: float = 1e-10
    """Two evaluations in float64 that are equal by mathematics and differ by rounding."""
    derivative: float = 1e-7
    """An analytic derivative and a central difference of fourth order."""
    single: float = 1e-4
    """The networks in float32 and in float64."""
    jump: float = 1e-8
    """Change of energy and forces where a neighbour crosses a cutoff. A switch that is not zero there, such as the
    exponential one (about ``exp(−exp(20 (rcut − rcut_smth)/rcut_smth))``), needs more."""


DEFAULT = Tolerances()
"""Tolerances of models whose switches vanish at the cutoff."""


RANK = {"forces": 1, "magnetic_forces": 1, "virial": 2, "dipole": 1, "polarizability": 2}
"""How many axes of a quantity turn with the structure; quantities that are not named do not turn."""
_Check = TypeVar("_Check", bound=Callable[..., None])


def only_for(*outputs: str) -> Callable[[_Check], _Check]:
    """Mark a check that has a meaning for models with these outputs alone."""

    def mark(check: _Check) -> _Check:
        check.outputs = outputs  # type: ignore[attr-defined]
        return check

    return mark


def only_for_spins(check: _Check) -> _Check:
    """Mark a check that has a meaning for models that take spins alone."""
    check.spins = True  # type: ignore[attr-defined]
    return check


def not_for_spins(check: _Check) -> _Check:
    """Mark a check that has no meaning for models that take spins."""
    check.spins = False  # type: ignore[attr-defined]
    return check


def turned(name: str, values: npt.ArrayLike | None, q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """What a rotation or reflection `q` (3, 3) makes of a quantity with one or no axis of atoms."""
    array, rank = np.asarray(values, dtype=np.float64), RANK.get(name.removeprefix("atomic_"), 0)
    if rank == 0:
        return array
    return array @ q.T if rank == 1 else q @ array @ q.T


class Subject:
    """A model in float64 with random parameters and output bias.

    Attributes
    ----------
    config
        Settings, as given.
    model, potential
        The same model as a module and as what users evaluate.
    tolerances
        See `Tolerances`.
    """

    def __init__(self, model: Model, tolerances: Tolerances = DEFAULT) -> None:
        self.model = model
        self.config = model.config
        self.tolerances = tolerances
        self.potential = Potential(ModuleEngine(model, "cpu"), "the model under test")

    @classmethod
    def from_config(cls, config: AnyModelConfig, tolerances: Tolerances = DEFAULT, seed: int = 0) -> Subject:
        """Build the model that `config` declares, in float64."""
        model = config.build(seed).with_precision("float64")
        rng = np.random.default_rng(seed)
        model.out_bias.copy_(torch.from_numpy(rng.normal(size=tuple(model.out_bias.shape))))
        for name, buffer in model.named_buffers():  # zero and one in a fresh model, which would hide mistakes
            if name.endswith("bias_by_type"):
                buffer.copy_(torch.from_numpy(rng.normal(size=tuple(buffer.shape))))
            if name.endswith("out_std"):
                buffer.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, tuple(buffer.shape))))
        return cls(model, tolerances)

    def variant(self, **changes: object) -> Subject:
        """The same parameters with other settings of the whole model, such as exclusions."""
        config = self.model.config.model_copy(update=changes)
        model = config.build(0)
        model.load_state_dict(self.model.state_dict())
        return Subject(model, self.tolerances)

    @property
    def n_types(self) -> int:
        """Number of types the model knows."""
        return len(self.config.type_map)

    @property
    def output(self) -> str:
        """What the model predicts; the field of a prediction that holds the value of a structure."""
        return self.model.output

    @property
    def atomic(self) -> str:
        """The field of a prediction that holds the values of the atoms."""
        return f"atomic_{self.output}"

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of its predictions that are compared."""
        magnetic = () if self.model.spin is None else ("magnetic_forces",)
        return self.output, self.atomic, *(("forces", "virial", *magnetic) if self.output == "energy" else ())

    @property
    def per_atom(self) -> tuple[str, ...]:
        """Those of them with one row an atom."""
        return tuple(name for name in self.fields if name in ("forces", "magnetic_forces", self.atomic))

    def frame(self, structure: Structure) -> dict[str, Any]:
        """Arguments of `dpsim.Potential.evaluate`; parameters and spins of atoms follow from their types."""
        inputs, frame = self.model.inputs, structure.as_frame()
        if inputs.n_fparam:
            frame["fparam"] = 0.3 + 0.1 * np.arange(inputs.n_fparam)
        if inputs.n_aparam:
            frame["aparam"] = np.sin(structure.types[:, None] + 1.0 + np.arange(inputs.n_aparam))
        if inputs.charge_spin:
            frame["charge_spin"] = np.array([1.0, 2.0])
        if self.model.spin is not None:
            frame["spin"] = self.spins(structure)
        return frame

    def spins(self, structure: Structure) -> npt.NDArray[np.float64]:
        """Spins (n, 3) of a structure: its own, or the same for all atoms of a type."""
        if structure.spin is not None:
            return structure.spin
        t = structure.types[:, None] + np.array([1.0, 2.5, 4.0])
        return np.sin(t) + 0.3 * np.cos(2.0 * t)

    def graph(self, structure: Structure) -> FrameGraph:
        """Neighbourhood of a structure, with what the model takes beside it."""
        return read_frame(self.potential.facts, self.frame(structure), "the structure", "the model under test")[0]

    def evaluate(self, structure: Structure) -> Prediction:
        """Prediction for one structure."""
        return self.potential.evaluate(**self.frame(structure))

    def evaluate_many(self, structures: list[Structure]) -> list[Prediction]:
        """Predictions for many structures, evaluated together."""
        return self.potential.evaluate_many(self.frame(s) for s in structures)

    def totals(self, structures: list[Structure]) -> npt.NDArray[np.float64]:
        """Values of many structures, (M, ...)."""
        return np.array([getattr(p, self.output) for p in self.evaluate_many(structures)])

    def molecule(self, n_atoms: int = 6, seed: int = 0) -> Structure:
        """A random molecule."""
        return molecule(self._room, self.n_types, n_atoms, seed)

    def crystal(self, n_atoms: int = 9, seed: int = 0) -> Structure:
        """A random triclinic crystal; 2 atoms make a cell smaller than the cutoff."""
        return crystal(self._room, self.n_types, n_atoms, seed)

    @property
    def _room(self) -> NeighborSpec:
        """Lists that structures fit into: virtual atoms take half of the places."""
        spec = self.model.neighbors
        return spec if self.model.spin is None else _halved(spec, self.n_types)

    def samples(self) -> dict[str, Structure]:
        """A molecule, a crystal, and a crystal in a cell smaller than the cutoff."""
        return {"molecule": self.molecule(), "crystal": self.crystal(), "small cell": self.crystal(2, seed=1)}

    def agree(
        self, what: str, found: npt.ArrayLike | None, expected: npt.ArrayLike | None, relative: float | None = None
    ) -> None:
        """Raise `ContractError` unless two arrays agree.

        Parameters
        ----------
        what
            Begins the message, for example ``"rotation: forces of the molecule"``.
        relative
            Allowed difference; ``tolerances.exact`` by default.
        """
        relative = self.tolerances.exact if relative is None else relative
        a, b = np.asarray(found, dtype=np.float64), np.asarray(expected, dtype=np.float64)
        if a.shape != b.shape:
            raise ContractError(f"{what}: shape {a.shape}, expected {b.shape}")
        if not a.size:
            return
        if not (np.all(np.isfinite(a)) and np.all(np.isfinite(b))):
            raise ContractError(f"{what}: not finite")
        largest = float(np.abs(b).max())
        allowed = relative * max(0.01, largest)
        difference = np.abs(a - b)
        if difference.max() > allowed:
            place = np.unravel_index(int(difference.argmax()), difference.shape)
            raise ContractError(
                f"{what}{list(map(int, place)) or ''}: {a[place]:.12g} differs from {b[place]:.12g} "
                f"by {difference.max():.1e}, allowed {allowed:.1e} (largest value {largest:.2e})"
            )

    def agree_all(self, what: str, found: Prediction, expected: Prediction, relative: float | None = None) -> None:
        """Compare all that two predictions hold: values, atomic values and, for energies, forces and virial."""
        for name in self.fields:
            self.agree(f"{what}: {name}", getattr(found, name), getattr(expected, name), relative)


def _halved(spec: NeighborSpec, n_types: int) -> NeighborSpec:
    inner = tuple(_halved(one, n_types) for one in spec.inner)
    return spec._replace(sel=(spec.sel - 1) // 2, sel_by_type=spec.sel_by_type[:n_types], inner=inner)
