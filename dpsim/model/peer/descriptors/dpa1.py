"""DPA-1 (se_atten) and se_atten_v2 in DeePMD-kit's files (spec dpa1.md §6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from dpsim.descriptors.dpa1.config import AttentionSettings, DPA1Config, SeAttenV2Config
from dpsim.model.peer import records
from dpsim.model.peer.family import (
    Arrays,
    Context,
    DescriptorFamily,
    Families,
    SelPlace,
    Settings,
    TorchNames,
    Tree,
    renamed,
)
from dpsim.model.peer.section import InputSection, Section

_PLAIN: Settings = {
    "neuron": (25, 50, 100), "axis_neuron": 16, "tebd_dim": 8, "type_one_side": False, "attn": 128, "attn_layer": 2,
    "attn_dotr": True, "normalize": True, "scaling_factor": 1.0, "temperature": None, "set_davg_zero": True,
    "activation_function": "tanh", "resnet_dt": False, "trainable_ln": True, "lmax": 1, "concat_output_tebd": True,
    "use_econf_tebd": False, "env_protection": 0.0,
}  # fmt: skip
"""Settings that are the same in files and here, with what a file means that does not say."""
_ALIASES = {"axis_neuron": ("n_axis_neuron",), "smooth_type_embedding": ("smooth_type_embdding",)}
_LAYER_KEYS = {"dotr": "attn_dotr", "normalize": "normalize", "scaling_factor": "scaling_factor",
               "temperature": "temperature"}  # fmt: skip
_PROJECTIONS = ("in_proj", "out_proj")
_ATTENTION = r"se_atten.dpa1_attention.attention_layers.\1"


class AttentionPeer(DescriptorFamily[AttentionSettings]):
    """What both share."""

    own: ClassVar[Settings] = {}
    """Further settings, with what a file means that does not say."""
    config: ClassVar[Any]

    def read(self, section: Section, context: Context) -> tuple[Settings, Arrays]:
        """See `Family.read`."""
        version = section.expect("Descriptor", (1, 2, 3, 4))
        section.require(type=self.type, attn_mask=False, spin=None)
        config = {key: section.take(key, default) for key, default in (_PLAIN | self.own).items()}
        config |= {
            "type": self.type,
            "sel": int(np.sum(section.take("sel"))),
            "rcut": section.take("rcut"),
            "rcut_smth": section.take("rcut_smth"),
            "ln_eps": section.take("ln_eps", None) or 1e-5,
            "use_tebd_bias": section.take("use_tebd_bias", version == 1),
            "exclude_types": records.pairs(section.take("exclude_types", ())),
            "precision": records.precision(section.take("precision", "default")),
        }
        state = self._state(section, config, context)
        section.ignore("ntypes", "trainable", "env_mat", "type_map", "seed", "compress")
        section.finish()
        return config, state

    def _state(self, section: Section, config: Settings, context: Context) -> Arrays:
        state = records.read_type_embedding(
            section.section("type_embedding"), "type_embedding.", bias=config["use_tebd_bias"]
        )
        networks = {"embeddings": "embedding.network."}
        if config.get("tebd_input_mode", "strip") == "strip":
            networks["embeddings_strip"] = "embedding.type_network."
        for key, prefix in networks.items():
            (network,) = records.read_collection(section.section(key), 0, context.n_types)
            if network is None:
                raise section.error(f"{section.where}.{key}: the network is missing: the file is damaged")
            state |= records.read_network(network, prefix, records.shape_of(config))
        state |= _read_attention(section.section("attention_layers"), config)
        state |= records.read_statistics(section, "embedding.environment.")
        if config["lmax"] > 1:
            state["degree_gain"] = section.array("degree_gain_raw")
        return state

    def write(self, config: AttentionSettings, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `Family.write`."""
        shape = records.shape_of(config)
        statistics = records.write_statistics(state, "embedding.environment.", config.sel)
        tree: Tree = {
            "@class": "Descriptor",
            "type": self.type,
            "@version": 2 if config.lmax == 1 else 4,
            "rcut": config.rcut,
            "rcut_smth": config.rcut_smth,
            "sel": [config.sel],
            "ntypes": context.n_types,
            **{key: getattr(config, key) for key in (*_PLAIN, *self.own) if key != "lmax"},
            "neuron": list(config.neuron),
            "attn_mask": False,
            "ln_eps": config.ln_eps,
            "use_tebd_bias": config.use_tebd_bias,
            "type_map": list(context.type_map),
            "precision": config.precision,
            "embeddings": records.write_collection(
                [records.write_network(state, "embedding.network.", shape)], 0, context.n_types
            ),
            "attention_layers": _write_attention(config, state),
            "env_mat": records.env_mat(config.rcut, config.rcut_smth, config.env_protection),
            "type_embedding": records.write_type_embedding(
                state, "type_embedding.", type_map=context.type_map, precision=config.precision,
                econf=config.use_econf_tebd,
            ),
            "exclude_types": [list(pair) for pair in config.exclude_types],
            "@variables": statistics,
            "trainable": True,
            "spin": None,
        }  # fmt: skip
        if config.strip:
            network = records.write_network(state, "embedding.type_network.", shape)
            tree["embeddings_strip"] = records.write_collection([network], 0, context.n_types)
        if config.lmax > 1:
            tree["lmax"] = config.lmax
            statistics["degree_gain_raw"] = state["degree_gain"]
        return tree

    def torch_names(self, config: AttentionSettings, names: Sequence[str], context: Context) -> TorchNames:
        """See `Family.torch_names`."""
        return renamed(
            names,
            *records.type_embedding_rule(r"type_embedding", "type_embedding"),
            *records.embedding_rule(r"embedding\.network", "se_atten.filter_layers.networks.0"),
            *records.embedding_rule(r"embedding\.type_network", "se_atten.filter_layers_strip.networks.0"),
            *records.statistics_rule(r"embedding\.environment", "se_atten"),
            *records.linear_rule(r"attention\.(\d+)\.(in_proj|out_proj)", _ATTENTION + r".attention_layer.\2"),
            *records.linear_rule(r"attention\.(\d+)\.norm", _ATTENTION + ".attn_layer_norm"),
            ("degree_gain", "se_atten.adam_degree_gain_raw"),
        )

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """See `Family.from_input`."""
        section.ignore("type")
        section.require(attn_mask=False)
        section.for_training(context.training, context.notes)
        sel = section.take("sel", "auto")
        config = {
            "type": self.type,
            "sel": sum(sel) if isinstance(sel, list) else sel,
            "precision": records.precision(section.take("precision", "default")),
            "exclude_types": records.pairs(section.take("exclude_types", ())),
        }
        defaults = {name: field.default for name, field in self.config.model_fields.items() if name != "compressed"}
        for key, default in defaults.items():
            if key not in config:
                config[key] = section.take(key, default, alias=_ALIASES.get(key, ()))
        config["ln_eps"] = config["ln_eps"] or defaults["ln_eps"]  # the peer's default is null
        section.finish()
        return config

    def sel_places(self, config: Settings, families: Families) -> tuple[SelPlace, ...]:
        """See `DescriptorFamily.sel_places`."""
        return (SelPlace(("sel",), config["rcut"]),)


class SeAttenV2Peer(AttentionPeer):
    """``se_atten_v2``."""

    type = "se_atten_v2"
    names = ("se_atten_v2",)
    config = SeAttenV2Config


class DPA1Peer(AttentionPeer):
    """``dpa1``, also called ``se_atten``."""

    type = "dpa1"
    names = ("dpa1", "se_atten")
    own = {"tebd_input_mode": "concat", "smooth_type_embedding": True}
    config = DPA1Config

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """See `Family.from_input`."""
        stripped = section.take("stripped_type_embedding", None)
        config = super().from_input(section, context)
        return config if stripped is None else config | {"tebd_input_mode": "strip" if stripped else "concat"}


def _read_attention(section: Section, config: Settings) -> Arrays:
    section.expect("NeighborGatedAttention", (1,))
    layers = section.sections("attention_layers")
    if len(layers) != config["attn_layer"]:
        raise section.error(
            f"{section.where}: found {len(layers)} layers, expected {config['attn_layer']}: the file is damaged"
        )
    state: Arrays = {}
    for index, layer in enumerate(layers):
        inner, prefix = layer.section("attention_layer"), f"attention.{index}."
        inner.require(
            num_heads=1, bias=True, smooth=config.get("smooth_type_embedding", True),
            **{key: config[name] for key, name in _LAYER_KEYS.items()},
        )  # fmt: skip
        for name in _PROJECTIONS:
            state |= records.read_layer(inner.take(name), f"{inner.where}.{name}", f"{prefix}{name}.")
        norm = layer.take("attn_layer_norm")
        state |= records.read_layer_norm(norm, f"{layer.where}.attn_layer_norm", f"{prefix}norm.")
    return state


def _write_attention(config: AttentionSettings, state: Mapping[str, np.ndarray]) -> Tree:
    shared: Tree = {
        "nnei": config.sel,
        "embed_dim": config.neuron[-1],
        "hidden_dim": config.attn,
        **{key: getattr(config, name) for key, name in _LAYER_KEYS.items()},
        "do_mask": False,
        "precision": config.precision,
    }
    norm = {"trainable_ln": config.trainable_ln, "ln_eps": config.ln_eps}
    layers = []
    for index in range(config.attn_layer):
        prefix = f"attention.{index}."
        projections = {
            name: records.write_layer(state, f"{prefix}{name}.", precision=config.precision) for name in _PROJECTIONS
        }
        inner = {"num_heads": 1, "bias": True, "smooth": config.smooth, **projections}
        layer_norm = records.write_layer_norm(
            state, f"{prefix}norm.", precision=config.precision, eps=config.ln_eps, trainable=config.trainable_ln
        )
        layers.append({**shared, **norm, "attention_layer": shared | inner, "attn_layer_norm": layer_norm})
    return {
        "@class": "NeighborGatedAttention",
        "@version": 1,
        "layer_num": config.attn_layer,
        **shared,
        **norm,
        "attention_layers": layers,
    }
