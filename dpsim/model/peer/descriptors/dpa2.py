"""DPA-2 in DeePMD-kit's files (spec dpa2.md §8)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpsim.descriptors.dpa2.config import DPA2Config, RepformerConfig, RepinitConfig
from dpsim.errors import ModelError
from dpsim.model.peer import records
from dpsim.model.peer.descriptors.se_e3_tebd import (
    Rule,
    block_rules,
    check_directions,
    read_block,
    write_block,
    write_networks,
)
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

_LINEARS = {
    "linear1": "linear1",
    "g1_self_mlp": "self_mlp",
    "proj_g1g2": "conv",
    "linear2": "linear2",
    "proj_g1g1g2": "g1g1",
}
"""Linear maps of a layer."""
_PARTS: dict[str, tuple[str, tuple[int, ...], dict[str, str]]] = {
    "loc_attn": ("LocalAtten", (1,), {
        "mapq": "local_attention.query", "mapkv": "local_attention.key_value", "head_map": "local_attention.head",
    }),
    "attn2g_map": ("Atten2Map", (1,), {"mapqk": "pair_attention.query_key"}),
    "attn2_mh_apply": ("Atten2MultiHeadApply", (1,), {
        "mapv": "pair_attention.value", "head_map": "pair_attention.head",
    }),
    "attn2_ev_apply": ("Atten2EquiVarApply", (1,), {"head_map": "pair_attention.vector_head"}),
}  # fmt: skip
"""Records within a layer: class, versions, linear maps."""
_NORM, _NORM_NAME = "attn2_lm", "pair_attention.norm"
_RESIDUALS = ("g1_residual", "g2_residual", "h2_residual")
_LAYER_KEYS = (
    "g1_dim", "g2_dim", "axis_neuron", "update_g1_has_conv", "update_g1_has_drrd", "update_g1_has_grrg",
    "update_g1_has_attn", "attn1_hidden", "attn1_nhead", "attn2_hidden", "attn2_nhead", "attn2_has_gate",
    "activation_function", "update_style", "trainable_ln", "use_sqrt_nnei", "g1_out_conv", "g1_out_mlp", "ln_eps",
)  # fmt: skip
"""Settings that the record of a layer repeats."""
_PAIR_KEYS = ("update_g2_has_g1g1", "update_g2_has_attn", "update_h2")
"""Those that are off in the last layer."""
_TOP = ("concat_output_tebd", "smooth", "env_protection", "use_econf_tebd", "use_tebd_bias", "add_tebd_to_repinit_out")
_ALIASES = {"add_tebd_to_repinit_out": ("repformer_add_type_ebd_to_seq",)}
_SINCE_3 = ("use_sqrt_nnei", "g1_out_conv", "g1_out_mlp")
"""Settings that were off before version 3 of the record, whatever it says."""
_REQUIRED = ("rcut", "rcut_smth", "nsel")


class DPA2Peer(DescriptorFamily[DPA2Config]):
    """``dpa2``."""

    type = "dpa2"
    names = ("dpa2",)

    def read(self, section: Section, context: Context) -> tuple[Settings, Arrays]:
        """See `Family.read`."""
        version = section.expect("Descriptor", (1, 2, 3, 4))
        section.require(type=self.type)
        config = _settings(section)
        if version == 1 and "use_tebd_bias" not in config:
            config["use_tebd_bias"] = True
        if version < 3:
            config["repformer"] |= dict.fromkeys(_SINCE_3, False)
        checked = DPA2Config.model_validate(config)
        state = records.read_type_embedding(
            section.section("type_embedding"), "type_embedding.", bias=checked.use_tebd_bias
        )
        state |= _maps(section, checked)
        state |= self._variables(section, checked, context.n_types)
        section.ignore("ntypes", "trainable", "seed", "type_map")
        section.finish()
        return config, state

    def _variables(self, section: Section, config: DPA2Config, n_types: int) -> Arrays:
        first, three_body = config.repinit, config.three_body
        inner = section.section("repinit_variable")
        shape = records.NetworkShape(first.neuron, first.activation_function, first.resnet_dt, config.precision)
        state = read_block(inner, "repinit.", shape, n_types)
        inner.finish()
        if three_body is not None:
            inner = section.section("repinit_three_body_variable")
            state |= read_block(inner, "three_body.", records.shape_of(three_body), n_types)
            check_directions(state, "three_body.", inner.where)
            inner.finish()
        inner = section.section("repformers_variable")
        state |= records.read_statistics(inner, "environment.")
        state |= records.read_layer(inner.take("g2_embd"), f"{inner.where}.g2_embd", "g2_embedding.")
        for index, layer in enumerate(inner.sections("repformer_layers")):
            state |= _layer_state(layer, f"layers.{index}.")
        inner.ignore("env_mat")
        inner.finish()
        return state

    def write(self, config: DPA2Config, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `Family.write`."""
        precision, layers = config.precision, config.repformer
        tree: Tree = {
            "@class": "Descriptor",
            "type": self.type,
            "@version": 3,
            "ntypes": context.n_types,
            "repinit_args": config.repinit.model_dump(mode="json"),
            "repformer_args": layers.model_dump(mode="json"),
            **{key: getattr(config, key) for key in _TOP},
            "precision": precision,
            "exclude_types": [list(pair) for pair in config.exclude_types],
            "trainable": True,
            "type_map": list(context.type_map),
            "type_embedding": records.write_type_embedding(
                state, "type_embedding.", type_map=context.type_map, precision=precision, econf=config.use_econf_tebd
            ),
            "g1_shape_tranform": _shape_tree(config, state),
            "repinit_variable": self._repinit(config, state, context),
            "repformers_variable": {
                "g2_embd": records.write_layer(state, "g2_embedding.", precision=precision),
                "repformer_layers": [_layer_tree(config, state, index, context) for index in range(layers.nlayers)],
                "env_mat": records.env_mat(layers.rcut, layers.rcut_smth, config.env_protection),
                "@variables": records.write_statistics(state, "environment.", layers.nsel),
            },
        }
        if config.add_tebd_to_repinit_out:
            tree["tebd_transform"] = records.write_layer(state, "tebd_transform.", precision=precision)
        if config.three_body is not None:
            tree["repinit_three_body_variable"] = write_block(state, "three_body.", config.three_body, context.n_types)
        return tree

    def _repinit(self, config: DPA2Config, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        first = config.repinit
        shape = records.NetworkShape(first.neuron, first.activation_function, first.resnet_dt, config.precision)
        return write_networks(state, "repinit.", shape, context.n_types) | {
            "env_mat": records.env_mat(first.rcut, first.rcut_smth, config.env_protection),
            "@variables": records.write_statistics(state, "repinit.environment.", first.nsel),
        }

    def torch_names(self, config: DPA2Config, names: Sequence[str], context: Context) -> TorchNames:
        """See `Family.torch_names`."""
        rules: list[Rule] = [
            *records.type_embedding_rule("type_embedding", "type_embedding"),
            *block_rules("repinit", "repinit"),
            *block_rules("three_body", "repinit_three_body"),
            *records.statistics_rule("environment", "repformers"),
            *records.linear_rule("shape", "g1_shape_tranform"),
            *records.linear_rule("tebd_transform", "tebd_transform"),
            *records.linear_rule("g2_embedding", "repformers.g2_embd"),
        ]
        maps = dict(_LINEARS) | {_NORM: _NORM_NAME}
        for part, (_, _, inside) in _PARTS.items():
            maps |= {f"{part}.{peer_name}": name for peer_name, name in inside.items()}
        for peer_name, name in maps.items():
            pattern = rf"layers\.(\d+)\.{re.escape(name)}"
            rules += records.linear_rule(pattern, rf"repformers.layers.\1.{peer_name}")
        for name in _RESIDUALS:
            rules.append((rf"layers\.(\d+)\.{name}\.(\d+)", rf"repformers.layers.\1.{name}.\2"))
        return renamed(names, *rules)

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """See `Family.from_input`."""
        section.ignore("type")
        section.for_training(context.training, context.notes)
        config = _settings(section, ("repinit", "repformer"))
        section.finish()
        return config

    def sel_places(self, config: Settings, families: Families) -> tuple[SelPlace, ...]:
        """See `DescriptorFamily.sel_places`."""
        first, layers = config["repinit"], config["repformer"]
        three_body = first.get("three_body_rcut", RepinitConfig.model_fields["three_body_rcut"].default)
        return (
            SelPlace(("repinit", "nsel"), first["rcut"]),
            SelPlace(("repinit", "three_body_sel"), three_body),
            SelPlace(("repformer", "nsel"), layers["rcut"]),
        )


def _settings(section: Section, parts: tuple[str, str] = ("repinit_args", "repformer_args")) -> Settings:
    """Config of a section; defaults of files and inputs are the same, and those of `DPA2Config`."""
    first, layers = (section.section(name) for name in parts)
    config: Settings = {
        "type": "dpa2",
        "repinit": _part(first, RepinitConfig),
        "repformer": _part(layers, RepformerConfig),
        "exclude_types": records.pairs(section.take("exclude_types", ())),
        "precision": records.precision(section.take("precision", "default")),
    }
    for key in _TOP:
        aliases = _ALIASES.get(key, ())
        if any(name in section for name in (key, *aliases)):
            config[key] = section.take(key, alias=aliases)
    return config


def _part(section: Section, kind: type[RepinitConfig] | type[RepformerConfig]) -> Settings:
    config = {key: section.take(key) for key in _REQUIRED}
    config |= {key: section.take(key) for key in kind.model_fields if key in section}
    if config.get("ln_eps", 0.0) is None:
        del config["ln_eps"]
    section.finish()
    return config


def _maps(section: Section, config: DPA2Config) -> Arrays:
    """Maps between the first part and the layers."""
    state: Arrays = {}
    node, where = section.take("g1_shape_tranform"), f"{section.where}.g1_shape_tranform"
    if config.repinit.dim_out != config.repformer.g1_dim:
        state |= records.read_layer(node, where, "shape.")
    elif node.get("@class") != "Layer":
        Section(node, where).expect("Identity", (1,))
    elif not np.array_equal(records.read_layer(node, where, "")["weight"], np.eye(config.repformer.g1_dim)):
        raise ModelError(f"{where}: found a map between equal widths, expected none: the file is damaged")
    node, where = section.take("tebd_transform", None), f"{section.where}.tebd_transform"
    if config.add_tebd_to_repinit_out:
        state |= records.read_layer(node, where, "tebd_transform.")
    return state


def _shape_tree(config: DPA2Config, state: Mapping[str, np.ndarray]) -> Tree:
    """The map from the first part to the layers, in a form that the peer reads back.

    Its reader decides whether there is a map without regard to the three-body part.

    Raises
    ------
    ModelError
        If the peer would take random numbers instead.
    """
    first, width, precision = config.repinit, config.repformer.g1_dim, config.precision
    expects_none = first.neuron[-1] * first.axis_neuron == width
    if "shape.weight" in state:
        if expects_none:
            raise ModelError(
                f"neuron[-1] · axis_neuron of repinit equals g1_dim ({width}) beside a three-body part: DeePMD-kit "
                "reads such files with random numbers, so none is written"
            )
        return records.write_layer(state, "shape.", precision=precision)
    if expects_none:
        return {"@class": "Identity", "@version": 1}
    return records.write_layer({"weight": np.eye(width)}, "", precision=precision)


def _layer_state(section: Section, prefix: str) -> Arrays:
    section.expect("RepformerLayer", (1, 2))
    state: Arrays = {}
    for peer_name, name in _LINEARS.items():
        node = section.take(peer_name, None)
        if node is not None:
            state |= records.read_layer(node, f"{section.where}.{peer_name}", f"{prefix}{name}.")
    for part, (kind, versions, maps) in _PARTS.items():
        if section.node.get(part) is None:
            section.ignore(part)
            continue
        inner = section.section(part)
        inner.expect(kind, versions)
        inner.require(attnw_shift=20.0)
        for peer_name, name in maps.items():
            state |= records.read_layer(inner.take(peer_name), f"{inner.where}.{peer_name}", f"{prefix}{name}.")
        inner.ignore("input_dim", "hidden_dim", "head_num", "has_gate", "smooth", "precision", "trainable", "seed")
        inner.finish()
    node = section.take(_NORM, None)
    if node is not None:
        state |= records.read_layer_norm(node, f"{section.where}.{_NORM}", f"{prefix}{_NORM_NAME}.")
    for name in _RESIDUALS:
        # older files keep the vectors among the settings
        vectors = section.array(name, None) or section.take(name, None) or []
        state |= {f"{prefix}{name}.{i}": np.asarray(vector) for i, vector in enumerate(vectors)}
    section.ignore("rcut", "rcut_smth", "sel", "ntypes", "smooth", "precision", "trainable", "seed", "update_chnnl_2")
    section.ignore("update_residual", "update_residual_init", *_LAYER_KEYS, *_PAIR_KEYS)
    section.finish()
    return state


def _layer_tree(config: DPA2Config, state: Mapping[str, np.ndarray], index: int, context: Context) -> Tree:
    layers, prefix, precision = config.repformer, f"layers.{index}.", config.precision
    last = index == layers.nlayers - 1
    tree: Tree = {
        "@class": "RepformerLayer",
        "@version": 2,
        "rcut": layers.rcut,
        "rcut_smth": layers.rcut_smth,
        "sel": [layers.nsel],
        "ntypes": context.n_types,
        "update_chnnl_2": not last,
        **{key: getattr(layers, key) for key in _LAYER_KEYS},
        **{key: getattr(layers, key) and not last for key in _PAIR_KEYS},
        "smooth": config.smooth,
        "precision": precision,
    }
    for peer_name, name in _LINEARS.items():
        if f"{prefix}{name}.weight" in state:
            tree[peer_name] = records.write_layer(state, f"{prefix}{name}.", precision=precision)
    for part, (kind, versions, maps) in _PARTS.items():
        if all(f"{prefix}{name}.weight" in state for name in maps.values()):
            tree[part] = {"@class": kind, "@version": versions[-1], **_part_settings(config, part)} | {
                peer_name: records.write_layer(state, f"{prefix}{name}.", precision=precision)
                for peer_name, name in maps.items()
            }
    if f"{prefix}{_NORM_NAME}.weight" in state:
        tree[_NORM] = records.write_layer_norm(
            state, f"{prefix}{_NORM_NAME}.", precision=precision, eps=layers.ln_eps, trainable=layers.trainable_ln
        )
    if layers.update_style == "res_residual":
        vectors = {name: sum(key.startswith(f"{prefix}{name}.") for key in state) for name in _RESIDUALS}
        tree["@variables"] = {
            name: [state[f"{prefix}{name}.{i}"] for i in range(count)] for name, count in vectors.items()
        }
    return tree


def _part_settings(config: DPA2Config, part: str) -> dict[str, Any]:
    """Settings that a record within a layer repeats."""
    layers = config.repformer
    first = part == "loc_attn"
    settings: dict[str, Any] = {
        "input_dim": layers.g1_dim if first else layers.g2_dim,
        "head_num": layers.attn1_nhead if first else layers.attn2_nhead,
        "precision": config.precision,
    }
    if part in ("loc_attn", "attn2g_map"):
        hidden = layers.attn1_hidden if first else layers.attn2_hidden
        settings |= {"hidden_dim": hidden, "smooth": config.smooth, "attnw_shift": 20.0}
    if part == "attn2g_map":
        settings["has_gate"] = layers.attn2_has_gate
    return settings
