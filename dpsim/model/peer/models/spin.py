"""Spin models of virtual atoms in DeePMD-kit's files: ``spin_ener`` (spec fittings.md §7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpsim.model.compose.spin_config import SpinModelConfig, doubled_settings, doubled_type_map
from dpsim.model.peer.family import (
    Arrays,
    Context,
    Families,
    ModelFamily,
    SelPlace,
    Settings,
    TorchNames,
    Tree,
    joined,
    split,
)
from dpsim.model.peer.section import InputSection, Section

_PREFIX = "backbone."


class SpinPeer(ModelFamily[SpinModelConfig]):
    """``spin_ener``: in inputs a standard model with the section ``spin``."""

    type = "spin"
    names = ("spin_ener",)
    torch_root = "backbone_model.atomic_model."

    def read(self, section: Section, context: Context) -> tuple[Settings, Arrays]:
        """See `Family.read`."""
        section.ignore("type")
        inner = section.section("backbone_model")
        names = tuple(inner.node.get("type_map") or ())
        family = context.families.model(inner.node.get("type", "standard"), inner.where)
        backbone, state = family.read(inner, context.inside(type_map=names))
        type_map = names[: len(names) // 2]
        scale = _virtual_scale(section.section("spin"), type_map)
        section.finish()
        config = {"type": self.type, "type_map": type_map, "virtual_scale": scale, "backbone": backbone}
        return config, joined(_PREFIX, state)

    def write(self, config: SpinModelConfig, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `Family.write`."""
        family = context.families.model(config.backbone.type, "")
        inner = context.inside(type_map=config.backbone.type_map)
        return {
            "type": "spin_ener",
            "backbone_model": family.write(config.backbone, split(state, _PREFIX), inner),
            "spin": {"use_spin": list(config.use_spin), "virtual_scale": list(config.virtual_scale)},
        }

    def torch_names(self, config: SpinModelConfig, names: Sequence[str], context: Context) -> TorchNames:
        """See `Family.torch_names`."""
        family = context.families.model(config.backbone.type, "")
        own = [name.removeprefix(_PREFIX) for name in names]
        inner = context.inside(type_map=config.backbone.type_map)
        return joined(_PREFIX, family.torch_names(config.backbone, own, inner))

    def inert_names(self, config: SpinModelConfig, families: Families) -> tuple[str, ...]:
        """See `ModelFamily.inert_names`."""
        return families.model(config.backbone.type, "").inert_names(config.backbone, families)

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """See `Family.from_input`."""
        section.require(use_srtab=None)
        _hand_down(section)
        type_map = tuple(section.node.get("type_map") or context.type_map)
        real = type_map[: len(type_map) // 2]
        if type_map == doubled_type_map(real):  # a frozen model has the settings of the model within
            scale = _virtual_scale(section.section("spin"), real)
            _, backbone = context.families.from_input(section, context)
            return {"type": self.type, "type_map": real, "virtual_scale": scale, "backbone": backbone}
        scale = _virtual_scale(section.section("spin"), type_map)
        _drop_exclusions(section, context.notes)
        _, settings = context.families.from_input(section, context)
        if context.training:  # as the section of a training has it, where elements stand for types
            del settings["type_map"]
            by_element = {name: value for name, value in zip(type_map, scale, strict=True) if value}
            return {"type": self.type, "type_map": type_map, "virtual_scale": by_element, "model": settings}
        backbone = doubled_settings(settings, scale)
        return {"type": self.type, "type_map": type_map, "virtual_scale": scale, "backbone": backbone}

    def sel_places(self, config: Settings, families: Families) -> tuple[SelPlace, ...]:
        """See `ModelFamily.sel_places`; numbers by type are doubled with the model."""
        plain = config["model"]
        places = families.model(plain["type"], "").sel_places(plain, families)
        return tuple(place._replace(path=("model", *place.path), copies=2) for place in places)


def _virtual_scale(section: Section, type_map: Sequence[str]) -> list[float]:
    """Å/μB of each type from the section ``spin``, in any of its spellings; 0 where a type has no spin."""
    section.require(scheme="deepspin", allow_missing_label=False)
    section.ignore("spin_norm", "virtual_len")  # other names for the same, of the peer's TensorFlow models
    magnetic = _use_spin(section, type_map)
    given = section.take("virtual_scale")
    values = list(given) if isinstance(given, list | tuple) else [given] * len(type_map)
    if len(values) not in (len(type_map), sum(magnetic)):
        raise section.error(
            f"{section.where}.virtual_scale has {len(values)} numbers, expected one, {len(type_map)} (a type) or "
            f"{sum(magnetic)} (a magnetic type)"
        )
    if len(values) != len(type_map):
        left = iter(values)
        values = [next(left) if uses else 0.0 for uses in magnetic]
    section.finish()
    scale = [float(value) if uses else 0.0 for value, uses in zip(values, magnetic, strict=True)]
    if any(uses and not value > 0 for value, uses in zip(scale, magnetic, strict=True)):
        raise section.error(f"{section.where}.virtual_scale: {given!r} must be above 0 for magnetic types")
    return scale


def _use_spin(section: Section, type_map: Sequence[str]) -> list[bool]:
    """Which types are magnetic, from booleans, types or symbols."""
    given = section.take("use_spin")
    n, names = len(type_map), list(type_map)
    error = section.error(
        f"{section.where}.use_spin: {given!r}: expected {n} booleans, or a list of magnetic types or symbols of {names}"
    )
    if not isinstance(given, list | tuple) or not given:
        raise error
    if all(isinstance(one, bool) for one in given):
        if len(given) != len(type_map):
            raise error
        return list(given)
    known: dict[Any, int] = {name: t for t, name in enumerate(type_map)}
    known |= {t: t for t in range(len(type_map))}
    if any(isinstance(one, bool) or one not in known for one in given):
        raise error
    types = {known[one] for one in given}
    return [t in types for t in range(len(type_map))]


def _hand_down(section: InputSection) -> None:
    """Give the members of a hybrid what stands for all of them: the peer puts its settings there."""
    node = section.node.get("descriptor")
    if isinstance(node, dict) and node.get("type") == "hybrid" and isinstance(node.get("list"), list):
        shared = {key: node[key] for key in ("env_protection", "exclude_types") if key in node}
        members = [{**shared, **member} if isinstance(member, dict) else member for member in node["list"]]
        section.node["descriptor"] = {key: value for key, value in node.items() if key not in shared} | {
            "list": members
        }


def _drop_exclusions(section: InputSection, notes: list[str]) -> None:
    """The peer puts its own exclusions in the place of those of the descriptor."""
    descriptor = section.node.get("descriptor")
    if isinstance(descriptor, dict) and descriptor.get("exclude_types"):
        section.node["descriptor"] = {**descriptor, "exclude_types": []}
        notes.append(f"{section.where}.descriptor.exclude_types: has no effect in spin models: use pair_exclude_types")
