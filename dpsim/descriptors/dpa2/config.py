"""Settings of DPA-2; hyper-parameters keep the names of the paper."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from dpsim.config import Config, Distance, Length
from dpsim.descriptors.blocks import EnvironmentBlock, scaled_sel
from dpsim.descriptors.se_e3_tebd.config import SeE3TebdConfig
from dpsim.descriptors.settings import CompressibleSettings
from dpsim.nn.activation_name import ActivationName
from dpsim.physics.neighbors import NeighborSpec

if TYPE_CHECKING:
    from dpsim.descriptors.dpa2.descriptor import DPA2

Width = Annotated[int, Field(gt=0)]


class RepinitConfig(Config):
    """The first part: an embedding of the environment of each atom, from which its features start."""

    rcut: Length = 6.0
    """Cutoff radius."""
    rcut_smth: Distance = 0.5
    """Distance at which the switch begins to fall."""
    nsel: Width = 120
    """Nearest neighbours kept for an atom; also normalises the sum over them."""
    neuron: Annotated[tuple[Width, ...], Field(min_length=1)] = (25, 50, 100)
    """Widths of the embedding network."""
    axis_neuron: Width = 16
    """Columns used on one side of the symmetrised product."""
    tebd_dim: Width = 8
    """Width of the type embedding."""
    tebd_input_mode: Literal["concat", "strip"] = "concat"
    """Types enter the network beside the distance, or through a network of their own whose output multiplies."""
    set_davg_zero: bool = True
    """Keep the mean of the environment at zero, here and in the three-body part."""
    activation_function: ActivationName = "tanh"
    """Activation of the networks."""
    resnet_dt: bool = False
    """Learned time steps in the networks' residual layers."""
    type_one_side: bool = False
    """The networks see the type of the neighbour alone."""
    use_three_body: bool = False
    """Whether there is an embedding of angles as well."""
    three_body_neuron: Annotated[tuple[Width, ...], Field(min_length=1)] = (2, 4, 8)
    """Widths of the network of the angles."""
    three_body_sel: Width = 40
    """Nearest neighbours that form angles; its square normalises the sum over pairs."""
    three_body_rcut: Length = 4.0
    """Cutoff radius of the edges that form angles."""
    three_body_rcut_smth: Distance = 0.5
    """Distance at which the switch of these edges begins to fall."""

    @model_validator(mode="after")
    def _check(self) -> RepinitConfig:
        if not self.rcut_smth < self.rcut:
            raise ValueError(f"rcut_smth ({self.rcut_smth} Å) must be smaller than rcut ({self.rcut} Å)")
        if self.axis_neuron > self.neuron[-1]:
            raise ValueError(f"axis_neuron ({self.axis_neuron}) must not exceed the last of neuron ({self.neuron[-1]})")
        if self.use_three_body and not self.three_body_rcut_smth < self.three_body_rcut:
            raise ValueError(
                f"three_body_rcut_smth ({self.three_body_rcut_smth} Å) must be smaller than three_body_rcut "
                f"({self.three_body_rcut} Å)"
            )
        return self

    @property
    def dim_out(self) -> int:
        """Width of what it gives, the three-body part included."""
        three_body = self.three_body_neuron[-1] if self.use_three_body else 0
        return self.neuron[-1] * self.axis_neuron + three_body


class RepformerConfig(Config):
    """The second part: layers that update features of atoms (g1), of pairs (g2) and their vectors (h2)."""

    rcut: Length = 4.0
    """Cutoff radius of the pairs."""
    rcut_smth: Distance = 3.5
    """Distance at which the switch begins to fall."""
    nsel: Width = 48
    """Nearest neighbours kept for an atom; also normalises the sums over them."""
    nlayers: Width = 3
    """Number of layers."""
    g1_dim: Width = 128
    """Width of the atoms' features and of the output."""
    g2_dim: Width = 16
    """Width of the pairs' features."""
    axis_neuron: Width = 4
    """Columns used on one side of the symmetrised products."""
    direct_dist: bool = False
    """Pairs start from the distance and the bare vector, instead of from the environment matrix."""
    update_g1_has_conv: bool = True
    """Atoms are updated by a convolution with the pairs."""
    update_g1_has_drrd: bool = True
    """Atoms are updated by the symmetrised product of their neighbours' features."""
    update_g1_has_grrg: bool = True
    """Atoms are updated by the symmetrised product of their pairs' features."""
    update_g1_has_attn: bool = True
    """Atoms are updated by attention to their neighbours."""
    update_g2_has_g1g1: bool = True
    """Pairs are updated by the product of their atoms' features."""
    update_g2_has_attn: bool = True
    """Pairs are updated by attention to the other pairs of the same atom."""
    update_h2: bool = False
    """Vectors of pairs are updated by the same attention."""
    attn1_hidden: Width = 64
    """Width of a head of the attention of atoms."""
    attn1_nhead: Width = 4
    """Number of its heads."""
    attn2_hidden: Width = 16
    """Width of a head of the attention of pairs."""
    attn2_nhead: Width = 4
    """Number of its heads."""
    attn2_has_gate: bool = False
    """The attention of pairs is gated by the angle between them."""
    activation_function: ActivationName = "tanh"
    """Activation of all updates."""
    update_style: Literal["res_avg", "res_incr", "res_residual"] = "res_avg"
    """How updates are added to a feature."""
    update_residual: float = 0.001
    """Scale of the initial residual vectors (``res_residual``)."""
    update_residual_init: Literal["norm", "const"] = "norm"
    """Residual vectors start normally distributed, or constant."""
    set_davg_zero: bool = True
    """Keep the mean of the environment at zero."""
    trainable_ln: bool = True
    """Whether the layer normalisations are trained."""
    ln_eps: Annotated[float, Field(gt=0)] = 1e-5
    """Added to the variance in the layer normalisations."""
    use_sqrt_nnei: bool = True
    """Symmetrised products are normalised by the square root of the number of neighbours."""
    g1_out_conv: bool = True
    """The convolution is an update of its own, as wide as the atoms' features."""
    g1_out_mlp: bool = True
    """The atoms' own features give an update of their own."""

    @model_validator(mode="after")
    def _check(self) -> RepformerConfig:
        if not self.rcut_smth < self.rcut:
            raise ValueError(f"rcut_smth ({self.rcut_smth} Å) must be smaller than rcut ({self.rcut} Å)")
        widths = {"g1_dim": self.update_g1_has_drrd, "g2_dim": self.update_g1_has_grrg}
        for name, used in widths.items():
            if used and self.axis_neuron > getattr(self, name):
                raise ValueError(f"axis_neuron ({self.axis_neuron}) must not exceed {name} ({getattr(self, name)})")
        if self.dim_invariants == 0:
            raise ValueError(
                "g1_out_mlp: true needs an update by the neighbours: set one of update_g1_has_grrg and "
                "update_g1_has_drrd, or update_g1_has_conv with g1_out_conv: false"
            )
        return self

    @property
    def dim_invariants(self) -> int:
        """Width of the invariants that are mapped to an update of the atoms."""
        widths = (
            (self.g1_dim, not self.g1_out_mlp),
            (self.g2_dim, self.update_g1_has_conv and not self.g1_out_conv),
            (self.axis_neuron * self.g2_dim, self.update_g1_has_grrg),
            (self.axis_neuron * self.g1_dim, self.update_g1_has_drrd),
        )
        return sum(width for width, present in widths if present)

    @property
    def has_pair_attention(self) -> bool:
        """Whether pairs of pairs are needed."""
        return self.nlayers > 1 and (self.update_g2_has_attn or self.update_h2)


class DPA2Config(CompressibleSettings):
    """DPA-2: attention and message passing between atoms and pairs of atoms (arXiv:2312.15492)."""

    type: Literal["dpa2"] = "dpa2"
    repinit: RepinitConfig = RepinitConfig()
    """The first part."""
    repformer: RepformerConfig = RepformerConfig()
    """The layers."""
    concat_output_tebd: bool = True
    """Append the type embedding to the output."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the descriptor."""
    smooth: bool = True
    """Let everything fade out at the cutoffs; without it energies jump where a neighbour crosses one."""
    exclude_types: tuple[tuple[int, int], ...] = ()
    """Unordered pairs of types that do not see each other."""
    env_protection: Annotated[float, Field(ge=0)] = 0.0
    """Added to distances before division, in Å."""
    add_tebd_to_repinit_out: bool = False
    """Add a map of the type embedding to the features that enter the layers."""
    use_econf_tebd: bool = False
    """Type embedding from the electronic configuration of the elements."""
    use_tebd_bias: bool = False
    """Bias in the type embedding."""

    @model_validator(mode="after")
    def _check(self) -> DPA2Config:
        first, layers = self.repinit, self.repformer
        if not (layers.rcut < first.rcut and layers.nsel < first.nsel):
            raise ValueError(
                f"repformer.rcut ({layers.rcut} Å) and repformer.nsel ({layers.nsel}) must be smaller than "
                f"repinit.rcut ({first.rcut} Å) and repinit.nsel ({first.nsel})"
            )
        blocks = [(layers.rcut, layers.nsel, "repformer"), (first.rcut, first.nsel, "repinit")]
        if first.use_three_body:
            blocks.append((first.three_body_rcut, first.three_body_sel, "three_body"))
        blocks.sort()
        for near, far in itertools.pairwise(blocks):
            if near[1] > far[1]:
                raise ValueError(
                    f"{near[2]} takes {near[1]} neighbours within {near[0]} Å but {far[2]} {far[1]} within {far[0]} Å: "
                    "the larger radius must not have the smaller number"
                )
        return self

    @property
    def message_passing_layers(self) -> int:
        """Layers whose input crosses a rank boundary: all, as the first one's depends on the environment."""
        return self.repformer.nlayers

    @property
    def three_body(self) -> SeE3TebdConfig | None:
        """Settings of the three-body part; None if there is none."""
        first = self.repinit
        if not first.use_three_body:
            return None
        return SeE3TebdConfig(
            sel=first.three_body_sel, rcut=first.three_body_rcut, rcut_smth=first.three_body_rcut_smth,
            neuron=first.three_body_neuron, tebd_dim=first.tebd_dim, tebd_input_mode=first.tebd_input_mode,
            resnet_dt=first.resnet_dt, set_davg_zero=first.set_davg_zero, smooth=self.smooth,
            activation_function=first.activation_function, env_protection=self.env_protection,
            exclude_types=self.exclude_types, precision=self.precision,
        )  # fmt: skip

    def with_cutoff(self, cutoff: float) -> DPA2Config:
        """The same with another cutoff, in Å.

        The inner radii stay as they are where they fit, and otherwise keep their ratio to the outer one. Nominal
        numbers of neighbours follow the volume, so that none is lost in matter of the density that the settings
        were made for.
        """
        first, layers = self.repinit, self.repformer
        ratio = cutoff / first.rcut
        inner_radii, inner_sel = [layers.rcut], [layers.nsel]
        if first.use_three_body:
            inner_radii.append(first.three_body_rcut)
            inner_sel.append(first.three_body_sel)
        fits = max(inner_radii) < cutoff and max(inner_sel) < scaled_sel(first.nsel, ratio)
        inner = 1.0 if fits else ratio
        repinit: dict[str, Any] = {
            "rcut": cutoff,
            "rcut_smth": first.rcut_smth * ratio,
            "nsel": max(scaled_sel(first.nsel, ratio), scaled_sel(max(inner_sel), inner) + 1),
            "three_body_rcut": first.three_body_rcut * inner,
            "three_body_rcut_smth": first.three_body_rcut_smth * inner,
            "three_body_sel": scaled_sel(first.three_body_sel, inner),
        }
        repformer: dict[str, Any] = {
            "rcut": layers.rcut * inner,
            "rcut_smth": layers.rcut_smth * inner,
            "nsel": scaled_sel(layers.nsel, inner),
        }
        settings = self.model_dump()
        parts = {"repinit": settings["repinit"] | repinit, "repformer": settings["repformer"] | repformer}
        return DPA2Config.model_validate(settings | parts)

    def neighbors(self, n_types: int) -> NeighborSpec:
        """What this descriptor needs: the list of the first part, within it that of the layers and of the angles.

        Excluded pairs stay in the outermost list, where they count as rows of zeros.
        """
        first, layers, three_body = self.repinit, self.repformer, self.three_body
        pairs = NeighborSpec(
            layers.rcut, layers.nsel, exclude_types=self.exclude_types, pairs=layers.has_pair_attention
        )
        angles = () if three_body is None else (three_body.neighbors(n_types),)
        return NeighborSpec(first.rcut, first.nsel, inner=(pairs, *angles))

    def environments(self) -> tuple[EnvironmentBlock, ...]:
        """Statistics that are taken from the data: of the first part, of the layers, of the angles."""
        first, layers, three_body = self.repinit, self.repformer, self.three_body
        blocks = [
            EnvironmentBlock(
                "repinit.environment", (), first.rcut, first.rcut_smth, first.nsel, self.env_protection,
                zero_mean=first.set_davg_zero, exclude_types=self.exclude_types,
            ),
            EnvironmentBlock(
                "environment", (0,), layers.rcut, layers.rcut_smth, layers.nsel, self.env_protection,
                zero_mean=layers.set_davg_zero,
            ),
        ]  # fmt: skip
        if three_body is not None:
            blocks += [block._replace(path=(1, *block.path)) for block in three_body.environments()]
        return tuple(blocks)

    def build(self, type_map: Sequence[str], *, basis: bool = False) -> DPA2:
        """Make the module, with fresh parameters from torch's generator."""
        from dpsim.descriptors.dpa2.descriptor import DPA2

        return self.with_tables(DPA2(self, type_map, basis=basis))

    @classmethod
    def tiny(cls, n_types: int = 2) -> DPA2Config:
        """Smallest instance that uses every part: for tests."""
        repinit = RepinitConfig(
            rcut=4.0, nsel=45, neuron=(5, 10), axis_neuron=3, tebd_dim=3, tebd_input_mode="strip", use_three_body=True,
            three_body_neuron=(2, 4), three_body_sel=20, three_body_rcut=3.0, three_body_rcut_smth=1.0,
        )  # fmt: skip
        repformer = RepformerConfig(
            rcut=3.3, rcut_smth=1.0, nsel=26, nlayers=3, g1_dim=8, g2_dim=6, axis_neuron=3, update_h2=True,
            attn1_hidden=4, attn1_nhead=2, attn2_hidden=4, attn2_nhead=2, attn2_has_gate=True,
            update_style="res_residual", update_residual=0.3,
        )  # fmt: skip
        return cls(repinit=repinit, repformer=repformer, add_tebd_to_repinit_out=True)
