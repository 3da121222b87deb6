"""Settings of DPA-1 and of se_atten_v2; hyper-parameters keep the names of the input files of DeePMD-kit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from dpsim.config import Distance, Length
from dpsim.descriptors.blocks import EnvironmentBlock, scaled_sel
from dpsim.descriptors.settings import CompressibleSettings
from dpsim.nn.activation_name import ActivationName
from dpsim.physics.neighbors import NeighborSpec

if TYPE_CHECKING:
    from dpsim.descriptors.dpa1.descriptor import DPA1

Width = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


class AttentionSettings(CompressibleSettings):
    """What DPA-1 and se_atten_v2 share."""

    sel: Width = 120
    """Nearest neighbours kept for an atom; also normalises the sums over them."""
    rcut: Length = 6.0
    """Cutoff radius."""
    rcut_smth: Distance = 0.5
    """Distance at which the switch begins to fall."""
    neuron: Annotated[tuple[Width, ...], Field(min_length=1)] = (10, 20, 40)
    """Widths of the embedding network."""
    axis_neuron: Width = 4
    """Columns used on one side of the symmetrised product."""
    tebd_dim: Width = 8
    """Width of the type embedding."""
    type_one_side: bool = False
    """The networks see the type of the neighbour alone, not that of the centre."""
    attn: Width = 128
    """Width of the attention."""
    attn_layer: Annotated[int, Field(ge=0)] = 2
    """Number of attention layers."""
    attn_dotr: bool = True
    """Multiply the weights of the attention by the cosine of the angle between the neighbours."""
    normalize: bool = True
    """Queries, keys and values of the attention have length one."""
    scaling_factor: Positive = 1.0
    """The products of queries and keys are divided by ``√(attn · scaling_factor)``."""
    temperature: Positive | None = None
    """Factor of the products of queries and keys, instead of that from `scaling_factor`."""
    set_davg_zero: bool = True
    """Keep the mean of the environment at zero."""
    activation_function: ActivationName = "tanh"
    """Activation of the embedding networks."""
    resnet_dt: bool = False
    """Learned time steps in the networks' residual layers."""
    trainable_ln: bool = True
    """Whether scale and shift of the layer norms are trained."""
    ln_eps: Positive = 1e-5
    """Added to the variance in the layer norms."""
    lmax: Annotated[int, Field(ge=1, le=4)] = 1
    """Highest angular degree in the symmetrised product."""
    concat_output_tebd: bool = True
    """Append the type embedding to the output."""
    use_econf_tebd: bool = False
    """Type embedding from the electron configurations of the elements."""
    use_tebd_bias: bool = False
    """Bias in the type embedding."""
    exclude_types: tuple[tuple[int, int], ...] = ()
    """Unordered pairs of types that do not see each other."""
    env_protection: Annotated[float, Field(ge=0)] = 0.0
    """Added to distances before division, in Å."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the descriptor."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.rcut_smth < self.rcut:
            raise ValueError(f"rcut_smth ({self.rcut_smth} Å) must be smaller than rcut ({self.rcut} Å)")
        if self.axis_neuron > self.neuron[-1]:
            raise ValueError(f"axis_neuron ({self.axis_neuron}) must not exceed the last of neuron ({self.neuron[-1]})")
        return self

    @property
    def strip(self) -> bool:
        """Whether types enter through a network of their own."""
        raise NotImplementedError

    @property
    def smooth(self) -> bool:
        """Whether attention, and the effect of types, fade out with the switch."""
        raise NotImplementedError

    @property
    def counts_distant_neighbors(self) -> bool:
        """Whether a neighbour beyond the cutoff that has a place in the list is not the same as an empty place.

        In a hybrid such neighbours are listed. Attention that is not smooth sees them, and their types enter where
        the mean of the environment is not zero.
        """
        return not self.set_davg_zero or (self.attn_layer > 0 and not self.smooth)

    def with_cutoff(self, cutoff: float) -> Self:
        """The same with another cutoff, in Å.

        The switch begins at the same fraction of it, and the nominal number of neighbours follows the volume.
        """
        ratio = cutoff / self.rcut
        update = {"rcut": cutoff, "rcut_smth": self.rcut_smth * ratio, "sel": scaled_sel(self.sel, ratio)}
        return self.model_validate(self.model_dump() | update)

    def neighbors(self, n_types: int) -> NeighborSpec:
        """What this descriptor needs of its neighbourhood.

        Excluded pairs stay in the list: their rows count as zero, which is not what an empty place has where the mean
        of the environment is not zero.
        """
        return NeighborSpec(self.rcut, self.sel, pairs=self.attn_layer > 0)

    def environments(self) -> tuple[EnvironmentBlock, ...]:
        """Statistics that are taken from the data."""
        return (
            EnvironmentBlock(
                "embedding.environment", (), self.rcut, self.rcut_smth, self.sel, self.env_protection,
                zero_mean=self.set_davg_zero, exclude_types=self.exclude_types,
            ),
        )  # fmt: skip

    def build(self, type_map: Sequence[str], *, basis: bool = False) -> DPA1:
        """Make the module, with fresh parameters from torch's generator."""
        from dpsim.descriptors.dpa1.descriptor import DPA1

        return self.with_tables(DPA1(self, type_map, basis=basis))


class DPA1Config(AttentionSettings):
    """DPA-1: attention among the neighbours of an atom (arXiv:2208.08236)."""

    type: Literal["dpa1"] = "dpa1"
    tebd_input_mode: Literal["concat", "strip"] = "concat"
    """Types enter the network beside the distance, or through a network of their own whose output multiplies."""
    smooth_type_embedding: bool = False
    """Attention (and, with ``strip``, the effect of the types) fades out at the cutoff. Without it the energy jumps
    where a neighbour crosses the cutoff, if there are attention layers."""

    @property
    def strip(self) -> bool:
        """Whether types enter through a network of their own."""
        return self.tebd_input_mode == "strip"

    @property
    def smooth(self) -> bool:
        """Whether attention, and the effect of types, fade out with the switch."""
        return self.smooth_type_embedding

    @classmethod
    def tiny(cls, n_types: int = 2) -> DPA1Config:
        """Smallest instance that uses every part: for tests."""
        return cls(
            sel=40, rcut=4.0, rcut_smth=2.0, neuron=(3, 6), axis_neuron=2, tebd_dim=2, attn=4, attn_layer=2,
            smooth_type_embedding=True,
        )  # fmt: skip


class SeAttenV2Config(AttentionSettings):
    """The second version of se_atten: types enter through a network of their own, and everything fades out smoothly."""

    type: Literal["se_atten_v2"] = "se_atten_v2"
    set_davg_zero: bool = False
    """Keep the mean of the environment at zero."""

    @property
    def strip(self) -> bool:
        """Types enter through a network of their own."""
        return True

    @property
    def smooth(self) -> bool:
        """Attention and the effect of types fade out with the switch."""
        return True

    @classmethod
    def tiny(cls, n_types: int = 2) -> SeAttenV2Config:
        """Smallest instance that uses every part: for tests."""
        return cls(
            sel=40, rcut=4.0, rcut_smth=2.0, neuron=(3, 6), axis_neuron=2, tebd_dim=2, attn=4, attn_layer=1,
            resnet_dt=True, lmax=2,
        )  # fmt: skip
