"""From a serialised DeePMD-kit model to a `PotentialModel`.

Class and key names follow the peer's files; numbers are taken as they are (spec dpa3.md §5.1, common.md §17).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from dpsim.config import first_problem
from dpsim.errors import ModelError
from dpsim.model.checkpoint import check_finite
from dpsim.model.config import ModelConfig
from dpsim.model.peer.tree import Section, layer_state, read_tree
from dpsim.model.potential import PotentialModel

Arrays = dict[str, np.ndarray]

_PRECISION = {"default": "float64", "double": "float64", "single": "float32"}
_LAYER_LINEARS = {
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


def load_serialized(path: str | Path) -> PotentialModel:
    """Read a ``.dp`` or ``.yaml`` model of DeePMD-kit.

    Raises
    ------
    ModelError
        If the file is damaged, or holds something that dpsim does not implement.
    """
    where, tree = str(path), read_tree(path)
    try:
        return _convert(tree, where)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(
            f"{where}: the model's sections are not as expected ({error!r}): the file is damaged"
        ) from None


def _convert(tree: dict[str, Any], where: str) -> PotentialModel:
    model = Section(tree["model"], f"{where}: model")
    model.expect("Model", (1, 2))
    model.require(type="standard")
    descriptor, state = _descriptor(model.section("descriptor"))
    fitting, fitting_state = _fitting(model.section("fitting"))
    config = {
        "type_map": model.take("type_map"),
        "descriptor": descriptor,
        "fitting": fitting,
        "pair_exclude_types": model.take("pair_exclude_types", ()) or (),
        "atom_exclude_types": model.take("atom_exclude_types", ()) or (),
    }
    model.ignore("rcond", "preset_out_bias")
    model.finish()
    state = {f"descriptor.{k}": v for k, v in state.items()} | {f"fitting.{k}": v for k, v in fitting_state.items()}
    bias = np.asarray(model.variables["out_bias"], dtype=np.float64)[0, :, 0]
    state["out_bias"] = bias + fitting_state_bias(tree, len(bias))
    return _assemble(config, state, where)


def fitting_state_bias(tree: dict[str, Any], n_types: int) -> np.ndarray:
    """Bias (n_types,) that older models keep in the fitting net; it adds to the output bias."""
    variables = tree["model"]["fitting"].get("@variables") or {}
    bias = variables.get("bias_atom_e")
    return np.zeros(n_types) if bias is None else np.asarray(bias, dtype=np.float64).reshape(n_types)


def _assemble(config: dict[str, Any], state: Arrays, where: str) -> PotentialModel:
    try:
        model = PotentialModel.initialized(ModelConfig.model_validate(config), 0)
    except ValidationError as error:
        raise ModelError(first_problem(error, where)) from None
    dtypes = {name: tensor.dtype for name, tensor in model.state_dict().items()}
    tensors = {
        name: torch.from_numpy(np.array(value)).to(dtypes.get(name, torch.float64)) for name, value in state.items()
    }
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"{where}: the arrays do not fit the model's settings: {str(error).splitlines()[-1].strip()}"
        ) from None
    check_finite(model, where)
    return model


def _precision(value: str) -> str:
    return _PRECISION.get(value, value)


def _descriptor(section: Section) -> tuple[dict[str, Any], Arrays]:
    kind = section.take("type")
    if kind != "dpa3":
        raise ModelError(f"{section.where}: descriptor type {kind!r} is not supported yet: only 'dpa3' is")
    section.expect("Descriptor", (1, 2))
    flow = section.section("repflow_args")
    flow.ignore("skip_stat", "optim_update")
    variables = section.section("repflow_variable")
    state = _embedding(section.section("type_embedding"))
    where = variables.where
    state |= layer_state(variables.take("edge_embd"), f"{where}.edge_embd", "edge_embedding.")
    state |= layer_state(variables.take("angle_embd"), f"{where}.angle_embd", "angle_embedding.")
    for index, node in enumerate(variables.take("repflow_layers")):
        state |= _layer(Section(node, f"{where}.repflow_layers[{index}]"), f"layers.{index}.")
    state |= _statistics(variables)
    config = {
        "type": "dpa3",
        "repflow": dict(flow.node),
        "activation_function": section.take("activation_function"),
        "precision": _precision(section.take("precision")),
        "concat_output_tebd": section.take("concat_output_tebd", False),
        "exclude_types": section.take("exclude_types", ()) or (),
        "env_protection": section.take("env_protection", 0.0),
        "use_tebd_bias": section.take("use_tebd_bias", False),
    }
    section.require(use_econf_tebd=False, add_chg_spin_ebd=False)
    section.ignore("ntypes", "trainable", "use_loc_mapping", "type_map", "default_chg_spin", "seed")
    section.finish()
    return config, state


def _statistics(variables: Section) -> Arrays:
    state: Arrays = {}
    for peer_name, name in (("davg", "mean"), ("dstd", "stddev")):
        values = np.asarray(variables.variables[peer_name])
        if np.any(values != values[:, :1]):
            raise ModelError(f"{variables.where}.{peer_name}: expected the same numbers in every neighbour slot")
        state[name] = values[:, 0]
    return state


def _embedding(section: Section) -> Arrays:
    section.expect("TypeEmbedNet", (1, 2))
    network = section.section("embedding")
    layers = network.take("layers")
    if len(layers) != 1:
        raise ModelError(f"{network.where}: expected one layer in the type embedding, found {len(layers)}")
    state = layer_state(layers[0], network.where, "type_embedding.linear.")
    if not section.take("use_tebd_bias", False):
        state.pop("type_embedding.linear.bias", None)
    return state


def _layer(section: Section, prefix: str) -> Arrays:
    section.expect("RepFlowLayer", (1, 2))
    state: Arrays = {}
    for peer_name, name in _LAYER_LINEARS.items():
        node = section.take(peer_name, None)
        if node is not None:
            state |= layer_state(node, f"{section.where}.{peer_name}", f"{prefix}{name}.")
    for kind in ("n", "e", "a"):
        vectors = section.variables.get(f"{kind}_residual", section.take(f"{kind}_residual", None)) or []
        name = {"n": "node", "e": "edge", "a": "angle"}[kind]
        state |= {f"{prefix}{name}_residual.{i}": vector for i, vector in enumerate(vectors)}
    return state


def _fitting(section: Section) -> tuple[dict[str, Any], Arrays]:
    kind = section.take("type")
    if kind != "ener":
        raise ModelError(f"{section.where}: fitting type {kind!r} is not supported yet: only 'ener' is")
    section.expect("Fitting", (1, 2, 3, 4))
    config = {
        "type": "ener",
        "neuron": section.take("neuron"),
        "activation_function": section.take("activation_function"),
        "resnet_dt": section.take("resnet_dt"),
        "precision": _precision(section.take("precision")),
    }
    section.require(
        numb_fparam=0, numb_aparam=0, dim_case_embd=0, mixed_types=True, use_aparam_as_mask=False, spin=None,
        tot_ener_zero=False, dim_out=1, var_name="energy", default_fparam=None, layer_name=None,
    )  # fmt: skip
    if any(energy is not None for energy in section.take("atom_ener", None) or []):
        raise ModelError(f"{section.where}.atom_ener: fixed vacuum energies are not supported yet")
    nets = section.section("nets").take("networks")
    state: Arrays = {}
    for t, net in enumerate(nets):
        layers = Section(net, f"{section.where}.nets[{t}]").take("layers")
        for index, node in enumerate(layers):
            last = index == len(layers) - 1
            prefix = f"networks.{t}." + ("output." if last else f"hidden.{index}.linear.")
            tensors = layer_state(node, f"{section.where}.nets[{t}].layers[{index}]", prefix)
            if f"{prefix}idt" in tensors:
                tensors[f"networks.{t}.hidden.{index}.idt"] = tensors.pop(f"{prefix}idt")
            state |= tensors
    section.ignore("ntypes", "dim_descrpt", "rcond", "exclude_types", "type_map", "trainable", "seed")
    section.finish()
    return config, state
