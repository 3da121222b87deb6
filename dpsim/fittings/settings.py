"""Settings that all fitting nets share. No torch here."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from dpsim.config import Config
from dpsim.nn.activation_name import ActivationName


class FittingSettings(Config):
    """Residual network from the descriptor of an atom, and from parameters, to what is predicted."""

    output: ClassVar[str]
    """What is predicted: ``energy``, ``dipole``, ``polarizability``, ``dos``, ``property`` or ``population``."""
    needs_basis: ClassVar[bool] = False
    """Whether the descriptor must give directions."""

    neuron: tuple[Annotated[int, Field(gt=0)], ...] = (120, 120, 120)
    """Widths of the hidden layers."""
    activation_function: ActivationName = "tanh"
    """Activation of the hidden layers."""
    resnet_dt: bool = True
    """Learned scale on the residual updates."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the network."""
    numb_fparam: Annotated[int, Field(ge=0)] = 0
    """Number of parameters of a frame that enter beside the descriptor."""
    numb_aparam: Annotated[int, Field(ge=0)] = 0
    """Number of parameters of an atom that enter beside the descriptor."""
    default_fparam: tuple[float, ...] | None = None
    """Frame parameters where none are given."""
    dim_case_embd: Annotated[int, Field(ge=0)] = 0
    """Length of the constant vector that tells the heads of a multi-task model apart; 0: none."""
    exclude_types: tuple[int, ...] = ()
    """Types for which the network counts as zero."""

    @model_validator(mode="after")
    def _check_default(self) -> FittingSettings:
        if self.default_fparam is not None and len(self.default_fparam) != self.numb_fparam:
            raise ValueError(
                f"default_fparam has {len(self.default_fparam)} numbers, expected numb_fparam ({self.numb_fparam})"
            )
        return self

    def check_types(self, n_types: int) -> None:
        """Refuse settings that do not fit the number of types of the model.

        Raises
        ------
        ValueError
            Naming the setting.
        """
        outside = sorted(t for t in self.exclude_types if not 0 <= t < n_types)
        if outside:
            raise ValueError(f"exclude_types: {outside} are outside 0..{n_types - 1}")

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of what is predicted for one atom."""
        raise NotImplementedError

    @property
    def bias_shape(self) -> tuple[int, ...]:
        """Shape of the output bias of one type."""
        return self.output_shape
