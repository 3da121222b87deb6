"""Settings of the optimizers. No torch here: a declaration is checked without it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from dpsim.config import Config

AtLeastZero = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(gt=0)]
Memory = Annotated[float, Field(ge=0, lt=1)]
"""What a running mean keeps of its old value at a step."""
Positive = Annotated[float, Field(gt=0)]


class AdamConfig(Config):
    """Adam, with weight decay in the gradient (``Adam``) or apart from it (``AdamW``)."""

    type: Literal["Adam", "AdamW"] = "AdamW"
    """Which of the two."""
    betas: tuple[Memory, Memory] = (0.9, 0.999)
    """Decay of the running means of the gradient and of its square."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    weight_decay: AtLeastZero | None = None
    """By default 0 for ``Adam`` and 0.001 for ``AdamW``."""

    @property
    def decay(self) -> float:
        """`weight_decay` with its default filled in."""
        return self.weight_decay if self.weight_decay is not None else {"Adam": 0.0, "AdamW": 1e-3}[self.type]


class MuonConfig(Config):
    """Matrices move along their orthogonalized momentum, everything else is Adam's.

    ``AdaMuon`` orthogonalizes the signs of the momentum and divides each element by a running root mean square.
    """

    type: Literal["Muon", "AdaMuon"] = "Muon"
    """Which of the two."""
    momentum: Memory = 0.95
    """Decay of the running mean of a matrix's gradient (and of the squares of ``AdaMuon``)."""
    scaling: Literal["rms", "aspect"] = "rms"
    """Size of a matrix's step: ``rms`` makes the root mean square of its elements `coefficient` times the learning
    rate; ``aspect`` makes its singular values the learning rate times ``sqrt(max(1, outputs / inputs))``."""
    coefficient: Positive | None = None
    """Of ``scaling: rms``; by default 0.18 for ``Muon`` and 0.2 for ``AdaMuon``."""
    smallest_matrix: Annotated[int, Field(ge=1)] = 2
    """Matrices with fewer rows or columns are Adam's."""
    adam_factor: Positive = 1.0
    """Adam's learning rate as a multiple of the schedule's."""
    betas: tuple[Memory, Memory] = (0.9, 0.95)
    """Adam's running means of the gradient and of its square."""
    eps: Positive = 1e-8
    """Added to denominators."""
    weight_decay: AtLeastZero = 1e-3
    """Of the matrices, apart from the gradient."""

    @model_validator(mode="after")
    def _check(self) -> MuonConfig:
        if self.scaling == "aspect" and self.coefficient is not None:
            raise ValueError("coefficient has no effect with scaling: aspect: remove it or write scaling: rms")
        return self

    @property
    def rms(self) -> float:
        """`coefficient` with its default filled in."""
        return self.coefficient if self.coefficient is not None else {"Muon": 0.18, "AdaMuon": 0.2}[self.type]


class KalmanConfig(Config):
    """Extended Kalman filter whose covariance is cut into blocks of parameters, for energies and forces.

    It has neither learning rate nor gradient clipping; a step needs several evaluations of the model, and memory for
    up to `block_size` numbers a parameter.
    """

    type: Literal["LKF"] = "LKF"
    block_size: Count = 5120
    """Most parameters in a block."""
    energy: tuple[AtLeastZero, AtLeastZero] = (1.0, 1.0)
    """[start, limit] of the factor of energies; in between it changes exponentially. Zeros: no energies."""
    forces: tuple[AtLeastZero, AtLeastZero] = (1.0, 1.0)
    """[start, limit] of the factor of forces."""
    force_updates: Count = 4
    """Updates with forces in a step, each with other atoms."""
    atoms_per_update: Count = 6
    """Atoms of a frame whose forces make such an update, chosen at random."""
    forgetting: Annotated[float, Field(gt=0, le=1)] = 0.98
    """First forgetting factor; it goes to 1, and old frames then count as much as new ones."""
    forgetting_growth: Annotated[float, Field(gt=0, le=1)] = 0.9987
    """Part of the distance to 1 that the forgetting factor keeps at each update."""

    @model_validator(mode="after")
    def _check(self) -> KalmanConfig:
        for name, (start, limit) in (("energy", self.energy), ("forces", self.forces)):
            if (start == 0) != (limit == 0):
                raise ValueError(f"{name}: [{start:g}, {limit:g}] has a zero: make both zero or none")
        if self.energy[0] == 0 and self.forces[0] == 0:
            raise ValueError("energy and forces are both off: give at least one of them a factor")
        return self


AnyOptimizer = AdamConfig | MuonConfig | KalmanConfig


def _typed(value: Any) -> Any:
    return {"type": "AdamW", **value} if isinstance(value, dict) and "type" not in value else value


OptimizerConfig = Annotated[
    Annotated[AnyOptimizer, Field(discriminator="type")], BeforeValidator(_typed, json_schema_input_type=AnyOptimizer)
]
