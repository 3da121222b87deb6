"""Settings of DPA-3; hyper-parameters keep the names of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from dpsim.config import Config, Distance, Length
from dpsim.descriptors.blocks import EnvironmentBlock, scaled_sel
from dpsim.descriptors.settings import DescriptorSettings
from dpsim.nn.activation_name import ActivationName
from dpsim.physics.neighbors import CHARGES, SPINS, NeighborSpec

if TYPE_CHECKING:
    from dpsim.descriptors.dpa3.descriptor import DPA3

Width = Annotated[int, Field(gt=0)]


class RepFlowConfig(Config):
    """The stack of layers that updates node, edge and angle features."""

    n_dim: Width = 128
    """Width of the node features and of the output."""
    e_dim: Width = 64
    """Width of the edge features."""
    a_dim: Width = 64
    """Width of the angle features."""
    nlayers: Width = 6
    """Number of layers."""
    e_rcut: Length = 6.0
    """Cutoff radius of the edges."""
    e_rcut_smth: Distance = 5.0
    """Distance at which the switch of the edges begins to fall."""
    e_sel: Width = 120
    """Nearest neighbours kept for an atom; also normalises the sums over edges."""
    a_rcut: Length = 4.0
    """Cutoff radius of the edges that form angles."""
    a_rcut_smth: Distance = 3.5
    """Distance at which the switch of the angles begins to fall."""
    a_sel: Width = 20
    """Nearest neighbours that may form angles; also normalises the sums over angles."""
    a_compress_rate: Annotated[int, Field(ge=0)] = 0
    """0: angle messages see full node and edge features; c > 0: they see ``a_dim // c`` of the node's."""
    a_compress_e_rate: Width = 1
    """With ``a_compress_rate`` c: angle messages see ``a_dim // (2c)`` times this many edge features."""
    a_compress_use_split: bool = False
    """Compress by taking the first components instead of a learned map."""
    n_multi_edge_message: Width = 1
    """Number of parallel messages from edges to nodes."""
    axis_neuron: Width = 4
    """Columns used on one side of the symmetrised product."""
    update_angle: bool = True
    """Whether there are angle features at all."""
    update_style: Literal["res_residual", "res_avg", "res_incr"] = "res_residual"
    """How updates are added to a feature."""
    update_residual: float = 0.1
    """Scale of the initial residual vectors (``res_residual``)."""
    update_residual_init: Literal["const", "norm"] = "const"
    """Residual vectors start constant, or normally distributed."""
    fix_stat_std: Annotated[float, Field(ge=0)] = 0.3
    """Constant standard deviation that scales the environment; 0: computed from the data."""
    smooth_edge_update: bool = False
    """Keep the edge update continuous where an edge leaves the angle cutoff."""
    edge_init_use_dist: bool = False
    """Start edge features from the bare distance."""
    use_exp_switch: bool = False
    """Exponential switch instead of the polynomial one."""
    use_dynamic_sel: bool = False
    """Normalise by ``sel / sel_reduce_factor``, for large `e_sel` and `a_sel` that never truncate."""
    sel_reduce_factor: Annotated[float, Field(gt=0)] = 10.0
    """See `use_dynamic_sel`."""
    sequential_update: bool = False
    """Update angles, edges and nodes one after the other instead of all from the previous layer."""

    @model_validator(mode="after")
    def _check(self) -> RepFlowConfig:
        if not self.e_rcut_smth < self.e_rcut:
            raise ValueError(f"e_rcut_smth ({self.e_rcut_smth} Å) must be smaller than e_rcut ({self.e_rcut} Å)")
        if not self.a_rcut_smth < self.a_rcut <= self.e_rcut:
            raise ValueError(
                f"a_rcut_smth ({self.a_rcut_smth} Å) < a_rcut ({self.a_rcut} Å) <= e_rcut ({self.e_rcut} Å) is needed"
            )
        if self.a_sel > self.e_sel:
            raise ValueError(f"a_sel ({self.a_sel}) must not exceed e_sel ({self.e_sel})")
        if self.axis_neuron > min(self.n_dim, self.e_dim):
            raise ValueError(
                f"axis_neuron ({self.axis_neuron}) must not exceed n_dim ({self.n_dim}) and e_dim ({self.e_dim})"
            )
        if self.use_exp_switch and not (self.e_rcut_smth > 0 and self.a_rcut_smth > 0):
            raise ValueError("use_exp_switch needs e_rcut_smth and a_rcut_smth above zero")
        if self.use_dynamic_sel and not self.smooth_edge_update:
            raise ValueError("use_dynamic_sel needs smooth_edge_update: true")
        if self.sequential_update and not (self.update_style == "res_residual" and self.update_angle):
            raise ValueError("sequential_update needs update_style: res_residual and update_angle: true")
        if self.a_compress_rate and (self.a_dim * self.a_compress_e_rate) % (2 * self.a_compress_rate):
            raise ValueError(
                f"a_dim · a_compress_e_rate ({self.a_dim * self.a_compress_e_rate}) must be divisible by "
                f"2 · a_compress_rate ({2 * self.a_compress_rate})"
            )
        n_compressed, e_compressed = self.compressed_widths
        if self.a_compress_use_split and (n_compressed > self.n_dim or e_compressed > self.e_dim):
            raise ValueError("a_compress_use_split takes more components than n_dim or e_dim have")
        return self

    @property
    def compressed_widths(self) -> tuple[int, int]:
        """Widths of the node and edge features that angle messages see."""
        if self.a_compress_rate == 0:
            return self.n_dim, self.e_dim
        return (
            self.a_dim // self.a_compress_rate,
            self.a_dim // (2 * self.a_compress_rate) * self.a_compress_e_rate,
        )

    @property
    def normalizers(self) -> tuple[float, float]:
        """Nominal numbers of edges and angle-edges by which sums are divided."""
        factor = self.sel_reduce_factor if self.use_dynamic_sel else 1.0
        return self.e_sel / factor, self.a_sel / factor


class DPA3Config(DescriptorSettings):
    """DPA-3: message passing on the line-graph series of the atomic structure (arXiv:2506.01686)."""

    type: Literal["dpa3"] = "dpa3"
    repflow: RepFlowConfig = RepFlowConfig()
    """The layers."""
    activation_function: ActivationName = "silu"
    """Activation of the whole descriptor, for example ``silut:10``."""
    precision: Literal["float32", "float64"] = "float64"
    """Floating-point type of the descriptor."""
    concat_output_tebd: bool = False
    """Append the type embedding to the output."""
    exclude_types: tuple[tuple[int, int], ...] = ()
    """Unordered pairs of types that do not see each other."""
    env_protection: Annotated[float, Field(ge=0)] = 0.0
    """Added to distances before division, in Å."""
    use_econf_tebd: bool = False
    """Type embedding from the electron configurations of the elements."""
    use_tebd_bias: bool = False
    """Bias in the type embedding."""

    add_chg_spin_ebd: bool = False
    """Take total charge and spin multiplicity of a frame."""
    default_chg_spin: tuple[int, int] | None = None
    """Charge and multiplicity where none are given."""

    @model_validator(mode="after")
    def _check(self) -> DPA3Config:
        if self.default_chg_spin is None:
            return self
        if not self.add_chg_spin_ebd:
            raise ValueError("default_chg_spin has no effect without add_chg_spin_ebd: true")
        charge, spin = self.default_chg_spin
        if charge not in CHARGES or spin not in SPINS:
            raise ValueError(
                f"default_chg_spin is {list(self.default_chg_spin)}, expected a charge of {CHARGES[0]} to "
                f"{CHARGES[-1]} and a multiplicity of {SPINS[0]} to {SPINS[-1]}"
            )
        return self

    @property
    def takes_charge_spin(self) -> bool:
        """Whether total charge and spin multiplicity enter."""
        return self.add_chg_spin_ebd

    @property
    def default_charge_spin(self) -> tuple[int, int] | None:
        """`default_chg_spin`."""
        return self.default_chg_spin

    @property
    def message_passing_layers(self) -> int:
        """Layers whose input crosses a rank boundary: all but the first, which follows from the types."""
        return self.repflow.nlayers - 1

    def with_cutoff(self, cutoff: float) -> DPA3Config:
        """The same with another cutoff, in Å.

        The switches keep their width. The nominal numbers of neighbours grow and shrink with the volume, so that no
        neighbour is lost in matter of the density that the settings were made for.
        """
        flow = self.repflow
        a_rcut, e_sel = min(flow.a_rcut, cutoff), scaled_sel(flow.e_sel, cutoff / flow.e_rcut)
        update = {
            "e_rcut": cutoff,
            "e_rcut_smth": max(0.0, cutoff - (flow.e_rcut - flow.e_rcut_smth)),
            "e_sel": e_sel,
            "a_rcut": a_rcut,
            "a_rcut_smth": max(0.0, a_rcut - (flow.a_rcut - flow.a_rcut_smth)),
            "a_sel": min(e_sel, scaled_sel(flow.a_sel, a_rcut / flow.a_rcut)),
        }
        settings = self.model_dump()
        return DPA3Config.model_validate(settings | {"repflow": settings["repflow"] | update})

    def neighbors(self, n_types: int) -> NeighborSpec:
        """What this descriptor needs of its neighbourhood."""
        flow = self.repflow
        angles = (NeighborSpec(flow.a_rcut, flow.a_sel, pairs=True, strict=True),) if flow.update_angle else ()
        return NeighborSpec(flow.e_rcut, flow.e_sel, exclude_types=self.exclude_types, inner=angles)

    def environments(self) -> tuple[EnvironmentBlock, ...]:
        """Statistics that are taken from the data."""
        flow = self.repflow
        return (
            EnvironmentBlock(
                "environment", (), flow.e_rcut, flow.e_rcut_smth, flow.e_sel, self.env_protection,
                constant_stddev=flow.fix_stat_std,
            ),
        )  # fmt: skip

    def build(self, type_map: Sequence[str], *, basis: bool = False) -> DPA3:
        """Make the module, with fresh parameters from torch's generator."""
        from dpsim.descriptors.dpa3.descriptor import DPA3

        return DPA3(self, type_map, basis=basis)

    @classmethod
    def tiny(cls, n_types: int = 2) -> DPA3Config:
        """Smallest instance that uses every part: for tests."""
        flow = RepFlowConfig(
            n_dim=8, e_dim=6, a_dim=4, nlayers=3, e_rcut=4.0, e_rcut_smth=3.0, e_sel=40, a_rcut=3.0, a_rcut_smth=2.5,
            a_sel=20, a_compress_rate=1, a_compress_e_rate=2, a_compress_use_split=True, smooth_edge_update=True,
            edge_init_use_dist=True,
        )  # fmt: skip
        return cls(repflow=flow, activation_function="silut:10")
