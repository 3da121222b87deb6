"""What is told to a selection of frames: which are worth labelling, how many, and what is dropped (no torch)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from dpsim.config import Config, Force, Fraction, Length

PositiveForce = Annotated[Force, Field(gt=0)]


class FixedTrust(Config):
    """Limits by value: below `low` the models agree, from `high` on the structure is out of reach."""

    mode: Literal["fixed"] = "fixed"
    low: PositiveForce
    """Largest deviation of a force up to which a frame is accurate, eV/Å."""
    high: PositiveForce
    """Largest deviation of a force from which a frame has failed, eV/Å."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g} eV/Å) must be smaller than high ({self.high:g} eV/Å)")
        return self


class AdaptiveTrust(Config):
    """Limits that follow the models: a frame is accurate if they agree on it as on what they have learnt."""

    mode: Literal["adaptive"] = "adaptive"
    quantile: Annotated[Fraction, Field(gt=0, lt=1)] = 0.95
    """Share of the reference frames, or without any of the frames themselves, that counts as accurate."""
    ceiling: PositiveForce | None = None
    """Deviation of a force from which a frame has failed, eV/Å, and which the lower limit does not pass."""


Trust = Annotated[FixedTrust | AdaptiveTrust, Field(discriminator="mode")]


class Diversify(Config):
    """Which candidates are taken where there are more than wanted."""

    method: Literal["fps", "random", "deviation"] = "fps"
    """``fps``: farthest points, beginning with the largest deviation; ``random``; ``deviation``: the largest ones."""
    features: Literal["descriptor"] = "descriptor"
    """Space of ``fps``: for each element, the mean descriptor of its atoms by the first model, scaled."""
    max: Annotated[int, Field(ge=1)]
    """Most frames that are taken."""


Flaw = Literal["unphysical", "near_duplicate"]


class Limits(Config):
    """What counts as unphysical, and as the same."""

    contact: Fraction = 0.5
    """Atoms nearer than this share of the sum of their covalent radii are unphysical."""
    max_force: PositiveForce | None = None
    """Longest force on an atom, eV/Å, of labelled frames or as predicted by the first model."""
    duplicate_distance: Length = 0.05
    """Largest difference of two distances between near duplicates, Å: `tol` of ``dedupe`` in stage inspect."""


class SelectConfig(Config):
    """How frames are selected."""

    trust: Trust = AdaptiveTrust()
    """``{mode: fixed, low: 0.1 eV/angstrom, high: 0.5 eV/angstrom}`` or ``{mode: adaptive, quantile: 0.95}``."""
    diversify: Diversify | None = None
    """``{method: fps, features: descriptor, max: 200}``; without it all candidates are taken."""
    drop: tuple[Flaw, ...] = ("unphysical",)
    """What is left out of the candidates: unphysical frames, which count as failed, and near duplicates, of each other
    (the one with the largest deviation stays) or of the `reference`."""
    limits: Limits = Limits()
    """Of what is dropped."""

    @model_validator(mode="after")
    def _limits_are_used(self) -> Self:
        given = self.limits.model_fields_set
        for names, flaw in ((("contact", "max_force"), "unphysical"), (("duplicate_distance",), "near_duplicate")):
            useless = [name for name in names if name in given]
            if useless and flaw not in self.drop:
                raise ValueError(f"limits.{useless[0]} has no effect without {flaw!r} in drop")
        return self

    @property
    def needs_descriptor(self) -> bool:
        """Whether the descriptor of a model is needed."""
        return self.diversify is not None and self.diversify.method == "fps"
