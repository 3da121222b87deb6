"""What is checked: a model with random parameters, and how its answers are compared."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dpsim.calculators.engines import ModuleEngine
from dpsim.calculators.evaluate import Potential, Prediction
from dpsim.model.base import Model
from dpsim.model.config import AnyModelConfig
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


class Subject:
    """A model in float64 with random parameters and energy bias.

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
        noise = np.random.default_rng(seed).normal(size=len(config.type_map))
        model.out_bias.copy_(torch.from_numpy(noise))
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

    def evaluate(self, structure: Structure) -> Prediction:
        """Prediction for one structure."""
        return self.potential.evaluate(**structure.as_frame())

    def evaluate_many(self, structures: list[Structure]) -> list[Prediction]:
        """Predictions for many structures, evaluated together."""
        return self.potential.evaluate_many(s.as_frame() for s in structures)

    def energies(self, structures: list[Structure]) -> npt.NDArray[np.float64]:
        """Energies of many structures, eV."""
        return np.array([p.energy for p in self.evaluate_many(structures)])

    def molecule(self, n_atoms: int = 6, seed: int = 0) -> Structure:
        """A random molecule."""
        return molecule(self.model.neighbors, self.n_types, n_atoms, seed)

    def crystal(self, n_atoms: int = 9, seed: int = 0) -> Structure:
        """A random triclinic crystal; 2 atoms make a cell smaller than the cutoff."""
        return crystal(self.model.neighbors, self.n_types, n_atoms, seed)

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
        """Compare energy, atomic energies, forces and virial of two predictions."""
        for name in ("energy", "atomic_energy", "forces", "virial"):
            self.agree(f"{what}: {name}", getattr(found, name), getattr(expected, name), relative)
