"""Descriptors with networks for each type of neighbour in DeePMD-kit's files (spec classic.md §0)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from dpsim.descriptors.typed_config import TypedSettings, places
from dpsim.errors import ModelError
from dpsim.model.peer import records
from dpsim.model.peer.family import (
    Arrays,
    Context,
    DescriptorFamily,
    Families,
    SelPlace,
    Settings,
    TorchNames,
    TorchTensor,
    Tree,
    renamed,
)
from dpsim.model.peer.section import InputSection, Section

TypedT = TypeVar("TypedT", bound=TypedSettings)
_STATISTICS = {"davg": "mean", "dstd": "stddev"}


class TypedPeer(DescriptorFamily[TypedT]):
    """Base of these descriptors; a kind states what is below and the order of its networks."""

    config: ClassVar[Any]
    """dpsim's Config."""
    in_files: ClassVar[str]
    """``type`` in serialised models."""
    defaults: ClassVar[Settings]
    """What a file means that does not say."""
    torch_prefix: ClassVar[str]
    """Before the names of the state, with a point."""

    def order(self, config: Settings, n_types: int) -> tuple[int, list[int]]:
        """Number of indices of the collection, and for each of its places the number of the network in dpsim.

        Where several places have the same number, the last one counts.
        """
        raise NotImplementedError

    def check_statistics(self, where: str, mean: np.ndarray) -> None:
        """Refuse statistics ``(n_types, n_types, columns)`` that the descriptor has no meaning for."""

    def extra(self, config: TypedT) -> Tree:
        """Keys of a serialised section that this kind alone has."""
        return {}

    def read(self, section: Section, context: Context) -> tuple[Settings, Arrays]:
        """See `Family.read`."""
        section.expect("Descriptor", (1, 2, 3))
        section.require(type=self.in_files, spin=None)
        config = {key: section.take(key, default) for key, default in self.defaults.items()}
        config |= {
            "type": self.type,
            "rcut": section.take("rcut"),
            "rcut_smth": section.take("rcut_smth"),
            "sel": [int(count) for count in section.take("sel")],
            "precision": records.precision(section.take("precision", "default")),
            "exclude_types": records.pairs(section.take("exclude_types", ())),
        }
        state = self._networks(section.section("embeddings"), config, context)
        state |= self._statistics(section, config["sel"])
        section.ignore("ntypes", "trainable", "env_mat", "type_map", "seed", "type_one_side")
        section.finish()
        return config, state

    def _networks(self, section: Section, config: Settings, context: Context) -> Arrays:
        ndim, order = self.order(config, context.n_types)
        state: Arrays = {}
        networks = dict(zip(order, records.read_collection(section, ndim, context.n_types), strict=True))
        for number, network in networks.items():
            if network is None:
                raise section.error(f"{section.where}: a network is missing: the file is damaged")
            state |= records.read_network(network, f"networks.{number}.", records.shape_of(config))
        return state

    def _statistics(self, section: Section, sel: Sequence[int]) -> Arrays:
        state: Arrays = {}
        for peer_name, name in _STATISTICS.items():
            try:
                state[f"environment.{name}"] = by_section(section.array(peer_name), sel)
            except ValueError as error:
                raise ModelError(f"{section.where}.{peer_name}: {error}") from None
        self.check_statistics(section.where, state["environment.mean"])
        return state

    def write(self, config: TypedT, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `Family.write`."""
        n_types, shape = context.n_types, records.shape_of(config)
        sel = places(config.sel, n_types)
        ndim, order = self.order(config.model_dump(), n_types)
        networks: list[Tree | None] = [records.write_network(state, f"networks.{number}.", shape) for number in order]
        return {
            "@class": "Descriptor",
            "type": self.in_files,
            "@version": 2,
            "rcut": config.rcut,
            "rcut_smth": config.rcut_smth,
            "sel": list(sel),
            **{key: getattr(config, key) for key in self.defaults},
            "neuron": list(config.neuron),
            "precision": config.precision,
            "embeddings": records.write_collection(networks, ndim, n_types),
            "env_mat": records.env_mat(config.rcut, config.rcut_smth, config.env_protection),
            "exclude_types": [list(pair) for pair in config.exclude_types],
            "@variables": {
                peer_name: over_slots(np.asarray(state[f"environment.{name}"]), sel)
                for peer_name, name in _STATISTICS.items()
            },
            "type_map": list(context.type_map),
            "trainable": True,
            **self.extra(config),
        }

    def torch_names(self, config: TypedT, names: Sequence[str], context: Context) -> TorchNames:
        """See `Family.torch_names`."""
        _, order = self.order(config.model_dump(), context.n_types)
        place = {number: index for index, number in enumerate(order)}
        sel, networks = places(config.sel, context.n_types), f"{self.torch_prefix}filter_layers.networks."

        def statistic(name: str) -> TorchTensor:
            torch_name = self.torch_prefix + name.removeprefix("environment.")
            return TorchTensor(torch_name, read=lambda values: by_section(values, sel))

        def network(name: str) -> TorchTensor:
            match = re.fullmatch(r"networks\.(\d+)\.(.+)", name)
            assert match is not None
            (found,) = renamed(["." + match[2]], *records.embedding_rule("", "")).values()
            return TorchTensor(f"{networks}{place[int(match[1])]}{found.names[0]}")

        return renamed(names, (r"environment\.(?:mean|stddev)", statistic), (r"networks\..+", network))

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """See `Family.from_input`."""
        section.ignore("type")
        section.for_training(context.training, context.notes)
        config = {
            "type": self.type,
            "sel": section.take("sel", "auto"),
            "precision": records.precision(section.take("precision", "default")),
            "exclude_types": records.pairs(section.take("exclude_types", ())),
        }
        aliases = {"axis_neuron": ("n_axis_neuron",)}
        for key, field in self.config.model_fields.items():
            if key not in (*config, "compressed"):
                config[key] = section.take(key, field.default, alias=aliases.get(key, ()))
        self.input_extra(section, context)
        section.finish()
        return config

    def input_extra(self, section: InputSection, context: Context) -> None:
        """Take input keys that have no effect on this kind."""

    def sel_places(self, config: Settings, families: Families) -> tuple[SelPlace, ...]:
        """See `DescriptorFamily.sel_places`."""
        return (SelPlace(("sel",), config["rcut"], by_type=True),)


def by_section(values: np.ndarray, sel: Sequence[int]) -> np.ndarray:
    """Statistics ``(n_types, n_types, columns)``, neighbour first, from ``(n_types, Σ sel, columns)``, centre first.

    Raises
    ------
    ValueError
        If they are not for these places, or differ from one place to the next for the same type of neighbour.
    """
    values = np.asarray(values)
    if values.ndim != 3 or values.shape[1] != sum(sel):
        raise ValueError(f"found an array of shape {values.shape}, expected {sum(sel)} neighbour slots")
    ends = np.cumsum(sel)
    parts = [values[:, end - count : end] for end, count in zip(ends, sel, strict=True)]
    if any(np.any(part != part[:, :1]) for part in parts):
        raise ValueError("expected the same numbers in every neighbour slot of one type")
    # types without places have no numbers, and none are ever used
    return np.stack([part[:, 0] if part.shape[1] else np.ones_like(values[:, 0]) for part in parts])


def over_slots(values: np.ndarray, sel: Sequence[int]) -> np.ndarray:
    """The inverse of `by_section`."""
    return np.concatenate([np.repeat(part[:, None], count, axis=1) for part, count in zip(values, sel, strict=True)], 1)
