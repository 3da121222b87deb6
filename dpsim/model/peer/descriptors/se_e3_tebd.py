"""The three-body descriptor with type embedding in DeePMD-kit's files (spec classic.md §4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dpsim.descriptors.se_e3_tebd.config import SeE3TebdConfig
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

_KEYS = (
    "rcut", "rcut_smth", "neuron", "tebd_dim", "tebd_input_mode", "resnet_dt", "set_davg_zero", "activation_function",
    "env_protection", "smooth", "concat_output_tebd", "use_econf_tebd",
)  # fmt: skip
_NETWORKS = {"embeddings": "network", "embeddings_strip": "type_network"}
Rule = tuple[str, str | Callable[[str], TorchTensor]]


class SeE3TebdPeer(DescriptorFamily[SeE3TebdConfig]):
    """``se_e3_tebd``."""

    type = "se_e3_tebd"
    names = ("se_e3_tebd",)

    def read(self, section: Section, context: Context) -> tuple[Settings, Arrays]:
        """See `Family.read`."""
        section.expect("Descriptor", (1, 2))
        section.require(type=self.type)
        embedding = section.section("type_embedding")
        bias = bool(embedding.node.get("use_tebd_bias", True))
        config = {
            "type": self.type,
            "sel": total_sel(section.take("sel")),
            **{key: section.take(key) for key in _KEYS},
            "exclude_types": records.pairs(section.take("exclude_types", ())),
            "precision": records.precision(section.take("precision", "default")),
            "use_tebd_bias": bias,
        }
        state = records.read_type_embedding(embedding, "type_embedding.", bias=bias)
        state |= read_block(section, "three_body.", records.shape_of(config), context.n_types)
        check_directions(state, "three_body.", section.where)
        section.ignore("ntypes", "trainable", "seed", "type_map", "use_tebd_bias")
        section.finish()
        return config, state

    def write(self, config: SeE3TebdConfig, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `Family.write`."""
        return {
            "@class": "Descriptor",
            "type": self.type,
            "@version": 1,
            "sel": [config.sel],
            "ntypes": context.n_types,
            **{key: getattr(config, key) for key in _KEYS},
            "neuron": list(config.neuron),
            "exclude_types": [list(pair) for pair in config.exclude_types],
            "precision": config.precision,
            "trainable": True,
            "type_map": list(context.type_map),
            "type_embedding": records.write_type_embedding(
                state, "type_embedding.", type_map=context.type_map, precision=config.precision,
                econf=config.use_econf_tebd,
            ),
            **write_block(state, "three_body.", config, context.n_types),
        }  # fmt: skip

    def torch_names(self, config: SeE3TebdConfig, names: Sequence[str], context: Context) -> TorchNames:
        """See `Family.torch_names`."""
        rules = [
            *records.type_embedding_rule("type_embedding", "type_embedding"),
            *block_rules("three_body", "se_ttebd"),
        ]
        return renamed(names, *rules)

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """See `Family.from_input`."""
        section.ignore("type")
        section.for_training(context.training, context.notes)
        config = {
            "type": self.type,
            "sel": total_sel(section.take("sel", "auto")),
            **{key: section.take(key, SeE3TebdConfig.model_fields[key].default) for key in _KEYS},
            "exclude_types": records.pairs(section.take("exclude_types", ())),
            "precision": records.precision(section.take("precision", "default")),
            "use_tebd_bias": section.take("use_tebd_bias", True),
        }
        section.finish()
        return config

    def sel_places(self, config: Settings, families: Families) -> tuple[SelPlace, ...]:
        """See `DescriptorFamily.sel_places`."""
        return (SelPlace(("sel",), config["rcut"]),)


def total_sel(sel: Any) -> Any:
    """Number of neighbours: lists give it by type, but it counts as a whole."""
    return sum(sel) if isinstance(sel, list | tuple) else sel


def read_block(section: Section, prefix: str, shape: records.NetworkShape, n_types: int) -> Arrays:
    """Networks and statistics of an embedding that is the same for all types: ``embeddings`` and its companions."""
    state = records.read_statistics(section, f"{prefix}environment.")
    for peer_name, name in _NETWORKS.items():
        if peer_name in section:
            (network,) = records.read_collection(section.section(peer_name), 0, n_types)
            if network is None:
                raise section.error(f"{section.where}.{peer_name}: the network is missing: the file is damaged")
            state |= records.read_network(network, f"{prefix}{name}.", shape)
    section.ignore("env_mat", "compress")
    return state


def write_block(state: Mapping[str, np.ndarray], prefix: str, config: SeE3TebdConfig, n_types: int) -> Tree:
    """The inverse of `read_block`."""
    return write_networks(state, prefix, records.shape_of(config), n_types) | {
        "env_mat": records.env_mat(config.rcut, config.rcut_smth, config.env_protection),
        "@variables": records.write_statistics(state, f"{prefix}environment.", config.sel),
    }


def write_networks(state: Mapping[str, np.ndarray], prefix: str, shape: records.NetworkShape, n_types: int) -> Tree:
    """``embeddings`` and, where there is a network of types, ``embeddings_strip``."""
    return {
        peer_name: records.write_collection([records.write_network(state, f"{prefix}{name}.", shape)], 0, n_types)
        for peer_name, name in _NETWORKS.items()
        if any(key.startswith(f"{prefix}{name}.") for key in state)
    }


def block_rules(pattern: str, torch: str) -> list[Rule]:
    """Torch names of what `read_block` reads."""
    return [
        *records.statistics_rule(rf"{pattern}\.environment", torch),
        *records.embedding_rule(rf"{pattern}\.network", f"{torch}.filter_layers.networks.0"),
        *records.embedding_rule(rf"{pattern}\.type_network", f"{torch}.filter_layers_strip.networks.0"),
    ]


def check_directions(state: Mapping[str, np.ndarray], prefix: str, where: str) -> None:
    """Refuse a mean of the vector part: the sum over angles would then depend on the orientation of the structure.

    Raises
    ------
    ModelError
        Statistics of data never have one.
    """
    if np.any(state[f"{prefix}environment.mean"][:, 1:]):
        raise ModelError(
            f"{where}.davg: the mean of the vector part is not zero, expected zeros: the energy would depend on the "
            "orientation"
        )
