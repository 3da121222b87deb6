"""Hybrids in DeePMD-kit's files (spec classic.md §5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from dpsim.descriptors.hybrid.config import HybridConfig
from dpsim.model.peer.family import (
    Arrays,
    Context,
    DescriptorFamily,
    Families,
    SelPlace,
    Settings,
    TorchNames,
    Tree,
    joined,
    split,
)
from dpsim.model.peer.section import InputSection, Section


class HybridPeer(DescriptorFamily[HybridConfig]):
    """``hybrid``."""

    type = "hybrid"
    names = ("hybrid",)
    inert = (  # of members: tables of compression, and networks of se_e3 that nothing uses
        r"(?:descrpt_list\.\d+\.)+(?:sea\.|seat\.)?compress_(?:info|data)\.\d+",
        r"(?:descrpt_list\.\d+\.)+seat\.filter_layers\.networks\.\d+\..+",
    )

    def read(self, section: Section, context: Context) -> tuple[Settings, Arrays]:
        """See `Family.read`."""
        section.expect("Descriptor", (1, 2))
        section.require(type=self.type)
        members: list[Settings] = []
        state: Arrays = {}
        for k, inner in enumerate(section.sections("list")):
            family = context.families.descriptor(inner.node.get("type"), inner.where)
            settings, arrays = family.read(inner, context)
            members.append(settings)
            state |= joined(f"members.{k}.", arrays)
        section.ignore("ntypes", "trainable", "type_map", "seed")
        section.finish()
        return {"type": self.type, "list": members}, state

    def write(self, config: HybridConfig, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `Family.write`."""
        members = []
        for k, member in enumerate(config.list):
            family = context.families.descriptor(member.type, f"descriptor.list[{k}]")
            members.append(family.write(member, split(state, f"members.{k}."), context))
        return {"@class": "Descriptor", "type": self.type, "@version": 1, "list": members}

    def torch_names(self, config: HybridConfig, names: Sequence[str], context: Context) -> TorchNames:
        """See `Family.torch_names`."""
        found: TorchNames = {}
        for k, member in enumerate(config.list):
            prefix, own = f"members.{k}.", [name for name in names if name.startswith(f"members.{k}.")]
            family = context.families.descriptor(member.type, f"descriptor.list[{k}]")
            tensors = family.torch_names(member, [name.removeprefix(prefix) for name in own], context)
            found |= joined(prefix, {name: tensor.below(f"descrpt_list.{k}.") for name, tensor in tensors.items()})
        return found

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """See `Family.from_input`."""
        section.ignore("type")
        section.for_training(context.training, context.notes)
        members = []
        for k, node in enumerate(section.take("list")):
            inner = type(section)(node, f"{section.where}.list[{k}]")
            kind = inner.node.get("type", "se_e2_a")
            family = context.families.descriptor(kind, inner.where, inner.error)
            members.append(family.from_input(inner, context))
        section.finish()
        return {"type": self.type, "list": members}

    def sel_places(self, config: Settings, families: Families) -> tuple[SelPlace, ...]:
        """See `DescriptorFamily.sel_places`."""
        return tuple(
            place._replace(path=("list", k, *place.path))
            for k, member in enumerate(config["list"])
            for place in families.descriptor(member["type"], "").sel_places(member, families)
        )
