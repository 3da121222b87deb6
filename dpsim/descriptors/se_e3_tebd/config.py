"""Settings of the three-body descriptor with type embedding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from dpsim.config import Distance, Length
from dpsim.descriptors.blocks import EnvironmentBlock, scaled_sel
from dpsim.descriptors.settings import CompressibleSettings
from dpsim.errors import ConfigError
from dpsim.nn.activation_name import ActivationName
from dpsim.physics.neighbors import NeighborSpec

if TYPE_CHECKING:
    from dpsim.descriptors.se_e3_tebd.descriptor import SeE3Tebd

Width = Annotated[int, Field(gt=0)]


class SeE3TebdConfig(CompressibleSettings):
    """Three-body embedding of the angles between neighbours, one network for all types."""

    gives_basis: ClassVar[bool] = False

    type: Literal["se_e3_tebd"] = "se_e3_tebd"
    sel: Width = 40
    """Nearest neighbours kept for an atom; its square normalises the sum over pairs."""
    rcut: Length = 6.0
    """Cutoff radius."""
    rcut_smth: Distance = 0.5
    """Distance at which the switch begins to fall."""
    neuron: Annotated[tuple[Width, ...], Field(min_length=1)] = (10, 20, 40)
    """Widths of the embedding network."""
    tebd_dim: Width = 8
    """Width of the type embedding."""
    tebd_input_mode: Literal["concat", "strip"] = "concat"
    """Types enter the network beside the angle, or through a network of their own whose output multiplies."""
    resnet_dt: bool = False
    """Learned time steps in the networks' residual layers."""
    set_davg_zero: bool = True
    """Keep the mean of the environment at zero."""
    activation_function: ActivationName = "tanh"
    """Activation of the networks."""
    env_protection: Annotated[float, Field(ge=0)] = 0.0
    """Added to distances before division, in Å."""
    smooth: bool = True
    """With ``strip``: let the effect of the types fade out at the cutoff."""
    exclude_types: tuple[tuple[int, int], ...] = ()
    """Unordered pairs of types that do not see each other."""
    concat_output_tebd: bool = True
    """Append the type embedding to the output."""
    use_econf_tebd: bool = False
    """Type embedding from the electronic configuration of the elements."""
    use_tebd_bias: bool = True
    """Bias in the type embedding."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the descriptor."""

    @model_validator(mode="after")
    def _check(self) -> SeE3TebdConfig:
        if not self.rcut_smth < self.rcut:
            raise ValueError(f"rcut_smth ({self.rcut_smth} Å) must be smaller than rcut ({self.rcut} Å)")
        return self

    def with_cutoff(self, cutoff: float) -> SeE3TebdConfig:
        """The same with another cutoff, in Å.

        The switch begins at the same fraction of it, and the nominal number of neighbours follows the volume.
        """
        ratio = cutoff / self.rcut
        update = {"rcut": cutoff, "rcut_smth": self.rcut_smth * ratio, "sel": scaled_sel(self.sel, ratio)}
        return SeE3TebdConfig.model_validate(self.model_dump() | update)

    def neighbors(self, n_types: int) -> NeighborSpec:
        """What this descriptor needs of its neighbourhood.

        Excluded pairs leave the list: what counts is the vector part of the environment, where their rows are zero
        and those of empty places are as well.
        """
        return NeighborSpec(self.rcut, self.sel, exclude_types=self.exclude_types, pairs=True)

    def environments(self) -> tuple[EnvironmentBlock, ...]:
        """Statistics that are taken from the data."""
        return (
            EnvironmentBlock(
                "three_body.environment", (), self.rcut, self.rcut_smth, self.sel, self.env_protection,
                zero_mean=self.set_davg_zero,
            ),
        )  # fmt: skip

    def build(self, type_map: Sequence[str], *, basis: bool = False) -> SeE3Tebd:
        """Make the module, with fresh parameters from torch's generator.

        Raises
        ------
        ConfigError
            If directions are asked for: its output is a sum over angles, which point nowhere.
        """
        if basis:
            raise ConfigError(
                "descriptor 'se_e3_tebd' gives no directions, which fittings of vectors and tensors need: "
                "use another descriptor"
            )
        from dpsim.descriptors.se_e3_tebd.descriptor import SeE3Tebd

        return self.with_tables(SeE3Tebd(self, type_map))

    @classmethod
    def tiny(cls, n_types: int = 2) -> SeE3TebdConfig:
        """Smallest instance that uses every part: for tests."""
        return cls(sel=30, rcut=3.5, rcut_smth=1.0, neuron=(4, 8), tebd_dim=3)
