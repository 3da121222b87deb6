"""Settings of a whole model, and the presets by name. No torch here: a declaration is checked without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from dpsim.config import Config
from dpsim.descriptors import DescriptorConfig, DPA3Config
from dpsim.descriptors.blocks import EnvironmentBlock
from dpsim.descriptors.dpa3.config import RepFlowConfig
from dpsim.errors import ConfigError
from dpsim.fittings import EnergyFittingConfig, FittingConfig
from dpsim.physics.neighbors import NeighborSpec

if TYPE_CHECKING:
    from dpsim.model.potential import PotentialModel


class ModelConfig(Config):
    """Descriptor and fitting of a potential, and the elements it knows."""

    type: Literal["standard"] = "standard"
    type_map: Annotated[tuple[str, ...], Field(min_length=1)]
    """Chemical symbols; the index of a symbol is the type."""
    descriptor: DescriptorConfig
    """From the neighbourhood to features of each atom."""
    fitting: FittingConfig = EnergyFittingConfig()
    """From the features to the atomic energy."""
    pair_exclude_types: tuple[tuple[int, int], ...] = ()
    """Unordered pairs of types that do not see each other."""
    atom_exclude_types: tuple[int, ...] = ()
    """Types that are neighbours of others but have no energy of their own."""

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        if len(set(self.type_map)) != len(self.type_map):
            raise ValueError(f"type_map {list(self.type_map)} names an element twice")
        n_types = len(self.type_map)
        excluded = {t for pair in (*self.pair_exclude_types, *self.descriptor.exclude_types) for t in pair}
        outside = sorted(t for t in excluded | set(self.atom_exclude_types) if not 0 <= t < n_types)
        if outside:
            raise ValueError(f"excluded types {outside} are outside 0..{n_types - 1}")
        return self

    def neighbors(self) -> NeighborSpec:
        """Lists of edges that the model needs."""
        spec = self.descriptor.neighbors(len(self.type_map))
        return spec._replace(exclude_types=(*spec.exclude_types, *self.pair_exclude_types))

    def environments(self) -> tuple[EnvironmentBlock, ...]:
        """Statistics of environments that are taken from the data; modules as paths within the model."""
        return tuple(block.inside("descriptor") for block in self.descriptor.environments())

    @property
    def precision(self) -> str:
        """Floating-point type that limits the digits: float32 if the descriptor or the fitting net has it."""
        return min(self.descriptor.precision, self.fitting.precision)

    def with_precision(self, precision: str, fitting: str | None = None) -> ModelConfig:
        """The same model with networks in ``"float32"`` or ``"float64"``; `fitting` may differ."""
        return self.model_copy(
            update={
                "descriptor": self.descriptor.model_copy(update={"precision": precision}),
                "fitting": self.fitting.model_copy(update={"precision": fitting or precision}),
            }
        )

    def build(self, seed: int = 0) -> PotentialModel:
        """Make the model with parameters drawn from `seed`."""
        import torch

        from dpsim.model.potential import PotentialModel

        with torch.random.fork_rng(devices=[]):  # torch's own generator stays as it is
            torch.manual_seed(seed)
            return PotentialModel(self)

    @classmethod
    def tiny(cls) -> ModelConfig:
        """Smallest instance, for tests."""
        return cls(type_map=("O", "H"), descriptor=DPA3Config.tiny(), fitting=EnergyFittingConfig.tiny())


AnyModelConfig = ModelConfig
"""Union of the settings of all kinds of models."""


def read_config(settings: Mapping[str, Any]) -> AnyModelConfig:
    """Settings of a model of any kind from their JSON form; raises pydantic's `ValidationError`."""
    return TypeAdapter[AnyModelConfig](AnyModelConfig).validate_python(settings)


def _dpa3(
    n: int, e: int, a: int, layers: int, neuron: tuple[int, ...], **flow: Any
) -> tuple[DPA3Config, EnergyFittingConfig]:
    settings: dict[str, Any] = {
        "n_dim": n, "e_dim": e, "a_dim": a, "nlayers": layers, "e_rcut": 6.0, "e_rcut_smth": 5.3, "e_sel": 120,
        "a_rcut": 4.0, "a_rcut_smth": 3.5, "a_sel": 30, "a_compress_rate": 1, "a_compress_e_rate": 2,
        "a_compress_use_split": True, "smooth_edge_update": True, "edge_init_use_dist": True, "use_exp_switch": True,
    } | flow  # fmt: skip
    descriptor = DPA3Config(repflow=RepFlowConfig(**settings), activation_function="silut:10", precision="float32")
    fitting = EnergyFittingConfig(neuron=neuron, activation_function="silut:10", precision="float32")
    return descriptor, fitting


PRESETS = {
    "dpa3-tiny": _dpa3(
        32, 16, 16, 2, (64, 64), e_rcut=4.5, e_rcut_smth=3.8, e_sel=60, a_rcut=3.2, a_rcut_smth=2.6, a_sel=20,
    ),
    "dpa3-small": _dpa3(
        64, 32, 16, 3, (128, 128), e_rcut=5.0, e_rcut_smth=4.3, e_sel=80, a_rcut=3.5, a_rcut_smth=3.0, a_sel=24,
    ),
    "dpa3-l3": _dpa3(128, 64, 32, 3, (240, 240, 240)),
    "dpa3-l6": _dpa3(128, 64, 32, 6, (240, 240, 240)),
}  # fmt: skip
"""Ready-made descriptor and fitting settings by name; `dpa3-l6` is the recommended production size."""


def preset(name: str, type_map: tuple[str, ...]) -> ModelConfig:
    """Settings of a preset for the given elements.

    Raises
    ------
    ConfigError
        If there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown: use one of {', '.join(PRESETS)}")
    descriptor, fitting = PRESETS[name]
    return ModelConfig(type_map=type_map, descriptor=descriptor, fitting=fitting)
