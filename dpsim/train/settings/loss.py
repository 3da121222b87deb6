"""Settings of the losses, one for each kind of output. No torch here: a declaration is checked without it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from dpsim.config import Config, Force

AtLeastZero = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Pair = tuple[float, float]

DEFAULT_HUBER_DELTA = 0.01


def _prefactors(value: Any) -> Any:
    if value is False or value == "off":
        return (0.0, 0.0)
    return (value, value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Prefactors = Annotated[
    tuple[AtLeastZero, AtLeastZero],
    BeforeValidator(
        _prefactors, json_schema_input_type=AtLeastZero | Literal["off", False] | tuple[AtLeastZero, AtLeastZero]
    ),
]
"""Weight at the start and at the end of the schedule; one number stands for both, ``off`` for none."""


class _Loss(Config):
    """Sum of terms, each with a weight that follows the learning rate.

    A weight is ``limit + (start − limit) · rate(t) / rate_start``. Frames without a label do not enter its term.
    """

    outputs: ClassVar[tuple[str, ...]]
    """What a model may predict to be trained with this loss."""
    terms: ClassVar[tuple[str, ...]]
    """Fields of this class that hold the weights of terms."""
    begins_or_ends: ClassVar[tuple[str, ...]] = ()
    """Those of them that may have a weight of zero at one end of the schedule."""

    @model_validator(mode="after")
    def _check_terms(self) -> _Loss:
        for name, (start, limit) in self.prefactors.items():
            if (start == 0) != (limit == 0) and name not in self.begins_or_ends:
                raise ValueError(
                    f"{name}: [{start:g}, {limit:g}] has a zero, which switches the term off: make both zero or none"
                )
        if not self.active:
            raise ValueError(f"every term is off: give at least one of {', '.join(self.terms[:3])} a weight")
        return self

    @property
    def prefactors(self) -> dict[str, Pair]:
        """Start and limit of every term, on or off."""
        return {name: getattr(self, name) for name in self.terms}

    @property
    def active(self) -> dict[str, Pair]:
        """Start and limit of the terms that are on."""
        return {name: pair for name, pair in self.prefactors.items() if pair != (0.0, 0.0)}

    def needs(self, term: str, output: str) -> tuple[str, ...]:
        """Fields of a frame that a term compares with, for a model with this output."""
        return (term,)


class EnergyLossConfig(_Loss):
    """Of energies and their derivatives: sum of terms, each with a weight that follows the learning rate.

    A weight is ``limit + (start − limit) · rate(t) / rate_start``. Frames without a label do not enter its term.
    """

    outputs: ClassVar[tuple[str, ...]] = ("energy",)
    terms: ClassVar[tuple[str, ...]] = (
        "energy", "forces", "virial", "atomic_energy", "weighted_forces", "generalized_forces", "magnetic_forces",
        "hessian",
    )  # fmt: skip
    begins_or_ends: ClassVar[tuple[str, ...]] = ("hessian",)

    type: Literal["mse", "mae", "huber"] = "mse"
    """Squared errors, absolute errors, or squared below `huber_delta` and linear above."""
    energy: Prefactors = (0.02, 1.0)
    """[start, limit] of the energies of frames; errors are per atom."""
    forces: Prefactors = (1000.0, 1.0)
    """[start, limit] of the force components."""
    virial: Prefactors = (0.0, 0.0)
    """[start, limit] of the virial; errors are per atom."""
    atomic_energy: Prefactors = (0.0, 0.0)
    """[start, limit] of the energies of atoms (label ``atom_ener``)."""
    weighted_forces: Prefactors = (0.0, 0.0)
    """[start, limit] of the forces weighted atom by atom (label ``atom_pref``)."""
    generalized_forces: Prefactors = (0.0, 0.0)
    """[start, limit] of the forces along generalized coordinates (label ``drdq``); squared whatever `type` is."""
    magnetic_forces: Prefactors = (0.0, 0.0)
    """[start, limit] of the components of the forces on spins, of atoms that have one (label ``force_mag``)."""
    hessian: Prefactors = (0.0, 0.0)
    """[start, limit] of the second derivatives of the energy (label ``hessian``); one of them may be zero. A step takes
    longer by as many times as a frame has coordinates."""
    default_force_weight: bool = False
    """Where a frame has no ``atom_pref``, `weighted_forces` takes a weight of 1 instead of leaving the frame out."""
    energy_coefficients: bool = False
    """Compare the energy with a sum in which each atom counts as often as its label ``atom_ener_coeff`` says (1 where
    there is none)."""
    huber_delta: Rate | tuple[Rate, Rate, Rate] = DEFAULT_HUBER_DELTA
    """Where ``huber`` becomes linear: one number, or [energy, forces, virial], in eV an atom and eV/Å."""
    force_norm: bool = False
    """Measure the length of an atom's force error instead of its components (``mae`` and ``huber``)."""
    relative_forces: Annotated[Force, Field(gt=0)] | None = None
    """Divide the force error of an atom by the length of its force plus this, in eV/Å."""
    intensive: bool = False
    """Divide squared energy and virial errors by the square of the number of atoms instead of the number."""

    @model_validator(mode="after")
    def _check(self) -> EnergyLossConfig:
        if self.type != "huber" and self.huber_delta != DEFAULT_HUBER_DELTA:
            raise ValueError(f"huber_delta has no effect with type: {self.type}: remove it or write type: huber")
        if self.force_norm and self.type == "mse":
            raise ValueError("force_norm has no effect with type: mse: remove it or choose mae or huber")
        if self.intensive and self.type != "mse":
            raise ValueError(f"intensive has no effect with type: {self.type}: remove it or choose mse")
        derived = {"weighted_forces", "generalized_forces", "magnetic_forces", "hessian"} & set(self.active)
        if self.type == "huber" and (self.relative_forces is not None or derived):
            raise ValueError(
                "relative_forces, weighted, generalized and magnetic forces and hessian do not go with type: huber: "
                "choose mse or mae"
            )
        if self.default_force_weight and "weighted_forces" not in self.active:
            raise ValueError("default_force_weight has no effect without weighted_forces: remove it or give a weight")
        return self

    @model_serializer(mode="wrap")
    def _without_defaults(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out options that came later, where they have no effect: older trainings can be continued."""
        later = ("generalized_forces", "magnetic_forces", "hessian", "default_force_weight", "energy_coefficients")
        defaults = {name: type(self).model_fields[name].default for name in later}
        return {key: value for key, value in handler(self).items() if getattr(self, key) != defaults.get(key, ...)}

    def needs(self, term: str, output: str) -> tuple[str, ...]:
        """See `_Loss.needs`."""
        if term == "weighted_forces":
            return ("forces",) if self.default_force_weight else ("forces", "force_weight")
        return ("forces", "drdq") if term == "generalized_forces" else (term,)

    @property
    def deltas(self) -> tuple[float, float, float]:
        """`huber_delta` of energy, forces and virial."""
        return self.huber_delta if isinstance(self.huber_delta, tuple) else (self.huber_delta,) * 3


class TensorLossConfig(_Loss):
    """Of dipoles and polarizabilities: mean squared errors of structures and of atoms."""

    outputs: ClassVar[tuple[str, ...]] = ("dipole", "polarizability")
    terms: ClassVar[tuple[str, ...]] = ("total", "atomic")

    type: Literal["tensor"]
    total: AtLeastZero = 0.0
    """Weight of the sum over the atoms of a structure (label ``dipole`` or ``polarizability``)."""
    atomic: AtLeastZero = 0.0
    """Weight of the values of the atoms (label ``atomic_dipole`` or ``atomic_polarizability``)."""
    atomic_weight: bool = False
    """Multiply the error of each atom by the label ``atomic_weight`` (1 where there is none)."""

    @model_validator(mode="after")
    def _check(self) -> TensorLossConfig:
        if self.atomic_weight and not self.atomic:
            raise ValueError("atomic_weight has no effect without atomic: remove it or give atomic a weight")
        return self

    @property
    def prefactors(self) -> dict[str, Pair]:
        """See `_Loss.prefactors`; these weights are constant."""
        return {"total": (self.total, self.total), "atomic": (self.atomic, self.atomic)}

    def needs(self, term: str, output: str) -> tuple[str, ...]:
        """See `_Loss.needs`."""
        return (output if term == "total" else f"atomic_{output}",)


class DOSLossConfig(_Loss):
    """Of densities of states: mean squared errors on the grid and of the sums up to each point of it."""

    outputs: ClassVar[tuple[str, ...]] = ("dos",)
    terms: ClassVar[tuple[str, ...]] = ("dos", "cumulative", "atomic_dos", "atomic_cumulative")

    type: Literal["dos"]
    dos: Prefactors = (0.0, 0.0)
    """[start, limit] of the density of a structure."""
    cumulative: Prefactors = (0.0, 0.0)
    """[start, limit] of its sums up to each grid point."""
    atomic_dos: Prefactors = (1.0, 1.0)
    """[start, limit] of the densities of atoms (label ``atom_dos``)."""
    atomic_cumulative: Prefactors = (0.0, 0.0)
    """[start, limit] of their sums up to each grid point."""

    def needs(self, term: str, output: str) -> tuple[str, ...]:
        """See `_Loss.needs`."""
        return ("atomic_dos",) if term.startswith("atomic") else ("dos",)


class PropertyLossConfig(_Loss):
    """Of any property: errors in units of its deviation over the data; per atom unless it is intensive."""

    outputs: ClassVar[tuple[str, ...]] = ("property",)
    terms: ClassVar[tuple[str, ...]] = ("property",)

    type: Literal["property"]
    function: Literal["smooth_mae", "mae", "mse", "rmse", "mape"] = "smooth_mae"
    """Sum over the batch of absolute errors (``smooth_mae``: squared below `beta`), or of squared ones; root of their
    mean; mean of the errors divided by the label (``mape``, which is not in units of the deviation)."""
    beta: Rate | None = None
    """Where ``smooth_mae`` becomes linear; by default 1."""

    @model_validator(mode="after")
    def _check(self) -> PropertyLossConfig:
        if self.beta is not None and self.function != "smooth_mae":
            raise ValueError(f"beta has no effect with function: {self.function}: remove it or choose smooth_mae")
        return self

    @property
    def prefactors(self) -> dict[str, Pair]:
        """See `_Loss.prefactors`: one term."""
        return {"property": (1.0, 1.0)}


class PopulationLossConfig(_Loss):
    """Of spin populations: errors of atoms are summed over the batch and divided by the number of atoms."""

    outputs: ClassVar[tuple[str, ...]] = ("population",)
    terms: ClassVar[tuple[str, ...]] = ("spin", "total_spin", "populations", "total_alpha", "total_beta")

    type: Literal["population"]
    spin: Prefactors = (1.0, 1.0)
    """[start, limit] of the difference between the spins at each atom."""
    total_spin: Prefactors = (1.0, 1.0)
    """[start, limit] of the sum of these differences over a structure."""
    populations: Prefactors = (1.0, 1.0)
    """[start, limit] of the two populations of each atom."""
    total_alpha: Prefactors = (1.0, 1.0)
    """[start, limit] of the sum of the first population over a structure."""
    total_beta: Prefactors = (1.0, 1.0)
    """[start, limit] of the sum of the second population over a structure."""
    function: Literal["smooth_mae", "mae", "rmse"] = "smooth_mae"
    """Absolute errors (``smooth_mae``: squared below `beta`), or the root of their mean square for each of them."""
    beta: Rate | None = None
    """Where ``smooth_mae`` becomes linear; by default 1."""

    @model_validator(mode="after")
    def _check(self) -> PopulationLossConfig:
        if self.beta is not None and self.function != "smooth_mae":
            raise ValueError(f"beta has no effect with function: {self.function}: remove it or choose smooth_mae")
        return self

    def needs(self, term: str, output: str) -> tuple[str, ...]:
        """See `_Loss.needs`."""
        return ("atomic_population",)


def _typed(value: Any) -> Any:
    return {"type": "mse", **value} if isinstance(value, dict) and "type" not in value else value


_AnyLoss = EnergyLossConfig | TensorLossConfig | DOSLossConfig | PropertyLossConfig | PopulationLossConfig
LossConfig = Annotated[
    Annotated[_AnyLoss, Field(discriminator="type")], BeforeValidator(_typed, json_schema_input_type=_AnyLoss)
]
"""Union of all losses; without a `type` it is that of energies with squared errors."""
