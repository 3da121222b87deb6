"""Settings of the standard model: one descriptor and one fitting. No torch here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from dpsim.config import Config
from dpsim.descriptors import DescriptorConfig, DPA3Config
from dpsim.descriptors.blocks import EnvironmentBlock
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
        try:
            self.fitting.check_types(n_types)
        except ValueError as error:
            raise ValueError(f"fitting.{error}") from None
        try:
            self.neighbors()
        except ValueError as error:
            raise ValueError(f"descriptor.{error}") from None
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
