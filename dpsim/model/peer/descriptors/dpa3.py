"""DPA-3 in DeePMD-kit's files (spec dpa3.md §5.1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dpsim.descriptors.dpa3.config import DPA3Config, RepFlowConfig
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

_LINEARS = {
    "node_self_mlp": "node_self",
    "node_sym_linear": "node_sym",
    "node_edge_linear": "node_edge",
    "edge_self_linear": "edge_self",
    "edge_angle_linear1": "edge_angle1",
    "edge_angle_linear2": "edge_angle2",
    "angle_self_linear": "angle_self",
    "a_compress_n_linear": "compress_node",
    "a_compress_e_linear": "compress_edge",
}
_RESIDUALS = {"n_residual": "node_residual", "e_residual": "edge_residual", "a_residual": "angle_residual"}
_TABLES = {"chg_embedding": "charge", "spin_embedding": "spin"}
_LAYER_KEYS = (
    "a_compress_rate", "a_compress_e_rate", "a_compress_use_split", "n_multi_edge_message", "axis_neuron",
    "update_angle", "update_style", "update_residual", "update_residual_init", "smooth_edge_update",
    "use_dynamic_sel", "sel_reduce_factor", "sequential_update",
)  # fmt: skip
_REQUIRED = ("e_rcut", "e_rcut_smth", "e_sel", "a_rcut", "a_rcut_smth", "a_sel")
_ALIASES = {"edge_init_use_dist": ("edge_use_dist",), "use_exp_switch": ("use_env_envelope",)}


class DPA3Peer(DescriptorFamily[DPA3Config]):
    """``dpa3``."""

    type = "dpa3"
    names = ("dpa3",)

    def read(self, section: Section, context: Context) -> tuple[Settings, Arrays]:
        """See `Family.read`."""
        section.expect("Descriptor", (1, 2))
        section.require(type="dpa3")
        config = {
            "type": self.type,
            "repflow": _flow(section.section("repflow_args"), {}),
            "activation_function": section.take("activation_function", "silu"),
            "precision": records.precision(section.take("precision", "default")),
            "concat_output_tebd": section.take("concat_output_tebd", False),
            "exclude_types": records.pairs(section.take("exclude_types", ())),
            "env_protection": section.take("env_protection", 0.0),
            "use_econf_tebd": section.take("use_econf_tebd", False),
            "use_tebd_bias": section.take("use_tebd_bias", False),
            **_charge_spin(section),
        }
        state = records.read_type_embedding(
            section.section("type_embedding"), "type_embedding.", bias=config["use_tebd_bias"]
        )
        state |= self._flow_state(section.section("repflow_variable"))
        if config["add_chg_spin_ebd"]:
            for peer_name, name in _TABLES.items():
                state |= records.read_type_embedding(section.section(peer_name), f"charge_spin.{name}.", bias=False)
            mixing = section.take("mix_cs_mlp")
            state |= records.read_layer(mixing, f"{section.where}.mix_cs_mlp", "charge_spin.mix.")
        section.ignore(*_TABLES, "mix_cs_mlp")  # null in models without
        section.ignore("ntypes", "trainable", "use_loc_mapping", "type_map", "seed")
        section.finish()
        return config, state

    def _flow_state(self, section: Section) -> Arrays:
        where = section.where
        state = records.read_layer(section.take("edge_embd"), f"{where}.edge_embd", "edge_embedding.")
        state |= records.read_layer(section.take("angle_embd"), f"{where}.angle_embd", "angle_embedding.")
        for index, layer in enumerate(section.sections("repflow_layers")):
            state |= _layer_state(layer, f"layers.{index}.")
        state |= records.read_statistics(section, "environment.")
        section.ignore("env_mat")
        section.finish()
        return state

    def write(self, config: DPA3Config, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `Family.write`."""
        flow, precision = config.repflow, config.precision
        default = config.default_chg_spin
        arguments = flow.model_dump() | {"optim_update": True}
        return {
            "@class": "Descriptor",
            "type": "dpa3",
            "@version": 2,
            "ntypes": context.n_types,
            "repflow_args": arguments,
            "concat_output_tebd": config.concat_output_tebd,
            "activation_function": config.activation_function,
            "precision": precision,
            "exclude_types": [list(pair) for pair in config.exclude_types],
            "env_protection": config.env_protection,
            "trainable": True,
            "use_econf_tebd": config.use_econf_tebd,
            "use_tebd_bias": config.use_tebd_bias,
            "use_loc_mapping": True,
            "add_chg_spin_ebd": config.add_chg_spin_ebd,
            "default_chg_spin": None if default is None else list(default),
            **_charge_spin_tree(config, state),
            "type_map": list(context.type_map),
            "type_embedding": records.write_type_embedding(
                state, "type_embedding.", type_map=context.type_map, precision=precision, econf=config.use_econf_tebd
            ),
            "repflow_variable": {
                "edge_embd": records.write_layer(state, "edge_embedding.", precision=precision),
                "angle_embd": records.write_layer(state, "angle_embedding.", precision=precision),
                "repflow_layers": [_layer_tree(config, state, index, context) for index in range(flow.nlayers)],
                "env_mat": records.env_mat(flow.e_rcut, flow.e_rcut_smth),
                "@variables": records.write_statistics(state, "environment.", flow.e_sel),
            },
        }

    def torch_names(self, config: DPA3Config, names: Sequence[str], context: Context) -> TorchNames:
        """See `Family.torch_names`."""
        rules: list[Any] = [
            *records.type_embedding_rule(r"type_embedding", "type_embedding"),
            *records.type_embedding_rule(r"charge_spin\.charge", "chg_embedding"),
            *records.type_embedding_rule(r"charge_spin\.spin", "spin_embedding"),
            *records.linear_rule(r"charge_spin\.mix", "mix_cs_mlp"),
            *records.linear_rule(r"edge_embedding", "repflows.edge_embd"),
            *records.linear_rule(r"angle_embedding", "repflows.angle_embd"),
            *records.statistics_rule(r"environment", "repflows"),
        ]
        for peer_name, name in _LINEARS.items():
            rules += records.linear_rule(rf"layers\.(\d+)\.{name}", rf"repflows.layers.\1.{peer_name}")
        for peer_name, name in _RESIDUALS.items():
            rules.append((rf"layers\.(\d+)\.{name}\.(\d+)", rf"repflows.layers.\1.{peer_name}.\2"))
        return renamed(names, *rules)

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """See `Family.from_input`."""
        section.ignore("type", "use_loc_mapping")
        section.for_training(context.training, context.notes)
        flow = section.section("repflow")
        config = {
            "type": self.type,
            "repflow": _flow(flow, {key: flow.take(key) for key in _REQUIRED}),
            "activation_function": section.take("activation_function", "silu"),
            "precision": records.precision(section.take("precision", "default")),
            "concat_output_tebd": section.take("concat_output_tebd", False),
            "exclude_types": records.pairs(section.take("exclude_types", ())),
            "env_protection": section.take("env_protection", 0.0),
            "use_econf_tebd": section.take("use_econf_tebd", False),
            "use_tebd_bias": section.take("use_tebd_bias", False),
            **_charge_spin(section),
        }
        section.finish()
        return config

    def sel_places(self, config: Settings, families: Families) -> tuple[SelPlace, ...]:
        """See `DescriptorFamily.sel_places`."""
        flow = config["repflow"]
        return (
            SelPlace(("repflow", "e_sel"), flow["e_rcut"]),
            SelPlace(("repflow", "a_sel"), flow["a_rcut"]),
        )


def _flow(section: Section, given: Settings) -> Settings:
    """Settings of the layers; defaults of files and inputs are the same, and those of `RepFlowConfig`."""
    config = dict(given)
    for key in RepFlowConfig.model_fields:
        if key not in config and any(name in section for name in (key, *_ALIASES.get(key, ()))):
            config[key] = section.take(key, alias=_ALIASES.get(key, ()))
    if section.take("skip_stat", False):
        config["fix_stat_std"] = 0.3
    section.ignore("optim_update")
    section.finish()
    return config


def _charge_spin(section: Section) -> Settings:
    taken, default = section.take("add_chg_spin_ebd", False), section.take("default_chg_spin", None)
    return {"add_chg_spin_ebd": taken, "default_chg_spin": default if taken else None}


def _charge_spin_tree(config: DPA3Config, state: Mapping[str, np.ndarray]) -> Tree:
    if not config.add_chg_spin_ebd:
        return {}
    trees: Tree = {
        peer_name: records.write_type_embedding(
            state, f"charge_spin.{name}.", type_map=None, precision=config.precision
        )
        for peer_name, name in _TABLES.items()
    }
    return trees | {"mix_cs_mlp": records.write_layer(state, "charge_spin.mix.", precision=config.precision)}


def _layer_state(section: Section, prefix: str) -> Arrays:
    section.expect("RepFlowLayer", (1, 2))
    state: Arrays = {}
    for peer_name, name in _LINEARS.items():
        node = section.take(peer_name, None)
        if node is not None:
            state |= records.read_layer(node, f"{section.where}.{peer_name}", f"{prefix}{name}.")
    for peer_name, name in _RESIDUALS.items():
        # older files keep the vectors among the settings
        vectors = section.array(peer_name, None) or section.take(peer_name, None) or []
        state |= {f"{prefix}{name}.{i}": np.asarray(vector) for i, vector in enumerate(vectors)}
    section.ignore("e_rcut", "e_rcut_smth", "e_sel", "a_rcut", "a_rcut_smth", "a_sel", "ntypes", "n_dim", "e_dim")
    section.ignore("a_dim", "activation_function", "precision", "optim_update", "trainable", "seed", *_LAYER_KEYS)
    section.finish()
    return state


def _layer_tree(config: DPA3Config, state: Mapping[str, np.ndarray], index: int, context: Context) -> Tree:
    flow, prefix = config.repflow, f"layers.{index}."
    tree: Tree = {
        "@class": "RepFlowLayer",
        "@version": 2,
        **{key: getattr(flow, key) for key in (*_REQUIRED, "n_dim", "e_dim", "a_dim", *_LAYER_KEYS)},
        "e_sel": [flow.e_sel],
        "ntypes": context.n_types,
        "activation_function": config.activation_function,
        "precision": config.precision,
        "optim_update": True,
    }
    for peer_name, name in _LINEARS.items():
        if f"{prefix}{name}.weight" in state:
            tree[peer_name] = records.write_layer(state, f"{prefix}{name}.", precision=config.precision)
    if flow.update_style == "res_residual":
        tree["@variables"] = {}
        for peer_name, name in _RESIDUALS.items():
            count = sum(key.startswith(f"{prefix}{name}.") for key in state)
            tree["@variables"][peer_name] = [state[f"{prefix}{name}.{i}"] for i in range(count)]
    return tree
