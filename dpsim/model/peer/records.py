"""Records that the peer's families share, in both directions: layers, networks, collections, statistics.

dpsim's names below a prefix: ``weight``, ``bias`` of a linear map; ``layers.<i>.linear.weight``, ``layers.<i>.idt`` of
an embedding network; ``hidden.<i>.…`` and ``output.…`` of a fitting network; ``linear.weight`` of a type embedding;
``mean`` and ``stddev`` of an environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dpsim.errors import ModelError
from dpsim.model.peer.family import Arrays, TorchTensor, Tree
from dpsim.model.peer.section import Section
from dpsim.nn.activation_name import read_activation

State = Mapping[str, np.ndarray]
_PRECISIONS = {"default": "float64", "double": "float64", "single": "float32"}


def precision(name: Any) -> Any:
    """dpsim's name of a floating-point type."""
    return _PRECISIONS.get(name, name)


def pairs(value: Any) -> list[list[int]]:
    """Pairs of excluded types, each once: files hold them in one order or in both."""
    return [list(pair) for pair in dict.fromkeys(tuple(sorted(pair)) for pair in value or ())]


# --- layers ---------------------------------------------------------------------------------------------------------


def read_layer(node: Any, where: str, prefix: str, *, residual: bool = False) -> Arrays:
    """Arrays of a ``Layer``: ``weight``, ``bias`` and ``idt`` where present.

    Parameters
    ----------
    residual
        Names of a `dpsim.nn.linear.ResidualLayer`: ``linear.weight``, ``linear.bias``, ``idt``.
    """
    section = Section(node, where)
    section.expect("Layer", (1, 2))
    inner = f"{prefix}linear." if residual else prefix
    named = {
        f"{inner}weight": section.array("w"),
        f"{inner}bias": section.array("b", None),
        f"{prefix}idt": section.array("idt", None),
    }
    section.ignore("bias", "use_timestep", "activation_function", "resnet", "precision", "trainable", "seed")
    section.ignore("num_in", "num_out", "init", "bavg", "stddev", "use_econf_tebd")
    section.finish()
    return {name: value for name, value in named.items() if value is not None}


def write_layer(
    state: State,
    prefix: str,
    *,
    precision: str,
    activation: str = "none",
    resnet: bool = False,
    residual: bool = False,
) -> Tree:
    """``Layer`` of the arrays below a prefix; the inverse of `read_layer`."""
    inner = f"{prefix}linear." if residual else prefix
    arrays = {"w": state[f"{inner}weight"], "b": state.get(f"{inner}bias"), "idt": state.get(f"{prefix}idt")}
    return {
        "@class": "Layer",
        "@version": 2,
        "bias": arrays["b"] is not None,
        "use_timestep": arrays["idt"] is not None,
        "activation_function": activation,
        "resnet": resnet,
        "precision": precision,
        "trainable": True,
        "@variables": arrays,
    }


def read_layer_norm(node: Any, where: str, prefix: str) -> Arrays:
    """``weight`` and ``bias`` of a ``LayerNorm``."""
    section = Section(node, where)
    section.expect("LayerNorm", (1,))
    return {f"{prefix}weight": section.array("w"), f"{prefix}bias": section.array("b")}


def write_layer_norm(state: State, prefix: str, *, precision: str, eps: float = 1e-5, trainable: bool = True) -> Tree:
    """``LayerNorm`` of the arrays below a prefix."""
    return {
        "@class": "LayerNorm",
        "@version": 1,
        "eps": eps,
        "trainable": trainable,
        "precision": precision,
        "@variables": {"w": state[f"{prefix}weight"], "b": state[f"{prefix}bias"]},
    }


# --- networks -------------------------------------------------------------------------------------------------------


class NetworkShape(NamedTuple):
    """Settings that the networks of one component share; the records repeat them."""

    neuron: tuple[int, ...]
    activation_function: str
    resnet_dt: bool
    precision: str


def shape_of(config: Any, neuron: Sequence[int] | None = None) -> NetworkShape:
    """Shape from a component's settings: a `Config` or a dict of one."""
    get: Callable[[str], Any] = config.__getitem__ if isinstance(config, dict) else lambda name: getattr(config, name)
    widths = tuple(get("neuron")) if neuron is None else tuple(neuron)
    return NetworkShape(widths, get("activation_function"), get("resnet_dt"), get("precision"))


def read_network(section: Section, prefix: str, shape: NetworkShape) -> Arrays:
    """Arrays of an ``EmbeddingNetwork`` or a ``FittingNetwork``.

    Raises
    ------
    ModelError
        If it has not the given shape.
    """
    kind = section.node.get("@class", "EmbeddingNetwork")
    fitting = kind == "FittingNetwork"
    section.expect(kind if fitting else "EmbeddingNetwork", (1,) if fitting else (1, 2))
    found = (list(section.take("neuron")), section.take("activation_function"), section.take("resnet_dt"))
    if found[0] != list(shape.neuron) or found[2] != shape.resnet_dt or not _same(found[1], shape.activation_function):
        raise ModelError(
            f"{section.where}: found a network of {found}, expected {list(shape[:3])}: the file is damaged"
        )
    layers = section.take("layers")
    if len(layers) != len(shape.neuron) + fitting:
        raise ModelError(f"{section.where}: found {len(layers)} layers, expected {len(shape.neuron) + fitting}")
    state: Arrays = {}
    for index, node in enumerate(layers):
        where = f"{section.where}.layers[{index}]"
        if fitting and index == len(shape.neuron):
            state |= read_layer(node, where, f"{prefix}output.")
        else:
            name = "hidden" if fitting else "layers"
            state |= read_layer(node, where, f"{prefix}{name}.{index}.", residual=True)
    section.ignore("in_dim", "out_dim", "precision", "bias", "bias_out", "trainable", "seed")
    section.finish()
    return state


def _same(a: str, b: str) -> bool:
    return read_activation(a) == read_activation(b) or {a.lower(), b.lower()} == {"none", "linear"}


def write_network(state: State, prefix: str, shape: NetworkShape) -> Tree:
    """``FittingNetwork`` where there is an ``output.weight``, else ``EmbeddingNetwork``."""
    fitting = f"{prefix}output.weight" in state
    name = "hidden" if fitting else "layers"
    layers = [
        write_layer(
            state,
            f"{prefix}{name}.{index}.",
            precision=shape.precision,
            activation=shape.activation_function,
            resnet=True,
            residual=True,
        )
        for index in range(len(shape.neuron))
    ]
    first = state[f"{prefix}{name}.0.linear.weight"] if shape.neuron else state[f"{prefix}output.weight"]
    tree: Tree = {
        "@class": "FittingNetwork" if fitting else "EmbeddingNetwork",
        "@version": 1 if fitting else 2,
        "in_dim": int(first.shape[0]),
        "neuron": list(shape.neuron),
        "activation_function": shape.activation_function,
        "resnet_dt": shape.resnet_dt,
        "precision": shape.precision,
    }
    if fitting:
        layers.append(write_layer(state, f"{prefix}output.", precision=shape.precision))
        tree |= {"out_dim": int(state[f"{prefix}output.weight"].shape[1]), "bias_out": layers[-1]["bias"]}
    else:
        tree["bias"] = all(layer["bias"] for layer in layers)
    return tree | {"layers": layers}


def read_collection(section: Section, ndim: int, n_types: int) -> list[Section | None]:
    """Networks of a ``NetworkCollection`` in its order (spec common.md §9); None where the file has null.

    Raises
    ------
    ModelError
        If it is for another number of types.
    """
    section.expect("NetworkCollection", (1,))
    found, types = section.take("ndim"), section.take("ntypes")
    if (found, types) != (ndim, n_types):
        raise ModelError(
            f"{section.where}: found networks for {types} types with {found} indices, "
            f"expected {n_types} types and {ndim}: the file is damaged"
        )
    section.ignore("network_type")
    nodes = section.take("networks")
    if len(nodes) != n_types**ndim:
        raise ModelError(f"{section.where}: found {len(nodes)} networks, expected {n_types**ndim}: the file is damaged")
    section.finish()
    return [
        None if node is None else Section(node, f"{section.where}.networks[{index}]")
        for index, node in enumerate(nodes)
    ]


def write_collection(networks: Sequence[Tree | None], ndim: int, n_types: int) -> Tree:
    """``NetworkCollection`` of networks from `write_network`."""
    kinds = {net["@class"] for net in networks if net is not None}
    return {
        "@class": "NetworkCollection",
        "@version": 1,
        "ndim": ndim,
        "ntypes": n_types,
        "network_type": "fitting_network" if kinds == {"FittingNetwork"} else "embedding_network",
        "networks": list(networks),
    }


# --- type embedding, statistics -------------------------------------------------------------------------------------


def read_type_embedding(section: Section, prefix: str, *, bias: bool) -> Arrays:
    """``linear.weight`` (and ``linear.bias``) of a ``TypeEmbedNet``.

    Raises
    ------
    ModelError
        If it is anything but one linear layer.
    """
    version = section.expect("TypeEmbedNet", (1, 2))
    written = section.take("use_tebd_bias", version == 1)
    if written != bias:
        raise ModelError(f"{section.where}.use_tebd_bias: found {written}, expected {bias} as in the descriptor")
    network = section.section("embedding")
    layers = network.take("layers")
    if len(layers) != 1:
        raise ModelError(f"{network.where}: expected one layer in the type embedding, found {len(layers)}")
    state = read_layer(layers[0], f"{network.where}.layers[0]", f"{prefix}linear.")
    if not bias:
        state.pop(f"{prefix}linear.bias", None)
    section.require(resnet_dt=False)
    section.ignore("ntypes", "neuron", "precision", "trainable", "padding", "use_econf_tebd", "type_map")
    section.ignore("activation_function")
    section.finish()
    return state


def write_type_embedding(
    state: State, prefix: str, *, type_map: Sequence[str] | None, precision: str, econf: bool = False
) -> Tree:
    """``TypeEmbedNet`` of the arrays below a prefix; `type_map` is None for tables of charges and spins."""
    weight = state[f"{prefix}linear.weight"]
    n_in, width = (int(n) for n in weight.shape)
    layer = write_layer(state, f"{prefix}linear.", precision=precision, activation="Linear", resnet=True)
    shared: Tree = {"neuron": [width], "resnet_dt": False, "precision": precision, "activation_function": "Linear"}
    embedding = {"@class": "EmbeddingNetwork", "@version": 2, "in_dim": n_in, "bias": layer["bias"], "layers": [layer]}
    return {
        "@class": "TypeEmbedNet",
        "@version": 2,
        "ntypes": n_in if type_map is None else len(type_map),
        "trainable": True,
        "padding": True,
        "use_econf_tebd": econf,
        "use_tebd_bias": layer["bias"],
        "type_map": None if type_map is None else list(type_map),
        "embedding": shared | embedding,
        **shared,
    }


def constant_over_slots(values: np.ndarray) -> np.ndarray:
    """Statistics ``(n_types, columns)`` from ``(n_types, nsel, columns)``.

    Raises
    ------
    ValueError
        If they differ from one neighbour slot to the next.
    """
    if values.ndim != 3 or np.any(values != values[:, :1]):
        raise ValueError("expected the same numbers in every neighbour slot")
    return values[:, 0]


def read_statistics(section: Section, prefix: str) -> Arrays:
    """``mean`` and ``stddev`` from the arrays ``davg`` and ``dstd`` of a section.

    Raises
    ------
    ModelError
        If they are not the same in every neighbour slot.
    """
    state: Arrays = {}
    for peer_name, name in (("davg", "mean"), ("dstd", "stddev")):
        try:
            state[prefix + name] = constant_over_slots(section.array(peer_name))
        except ValueError as error:
            raise ModelError(f"{section.where}.{peer_name}: {error}") from None
    return state


def write_statistics(state: State, prefix: str, sel: int) -> Tree:
    """``davg`` and ``dstd``, repeated over `sel` slots."""
    return {
        peer_name: np.repeat(state[prefix + name][:, None, :], sel, axis=1)
        for peer_name, name in (("davg", "mean"), ("dstd", "stddev"))
    }


def env_mat(rcut: float, rcut_smth: float, protection: float = 0.0, use_exp_switch: bool = False) -> Tree:
    """The record ``env_mat``, which the peer writes and does not trust."""
    return {"rcut": rcut, "rcut_smth": rcut_smth, "protection": protection, "use_exp_switch": use_exp_switch}


# --- torch names: rules for `family.renamed` ------------------------------------------------------------------------


def linear_rule(pattern: str, torch: str) -> list[tuple[str, str]]:
    """Rules for the ``weight`` and ``bias`` of a linear map or layer norm at `pattern` (a regular expression)."""
    return [(pattern + r"\.weight", torch + ".matrix"), (pattern + r"\.bias", torch + ".bias")]


def type_embedding_rule(pattern: str, torch: str) -> list[tuple[str, str]]:
    """Rules for a type embedding."""
    return linear_rule(pattern + r"\.linear", torch + ".embedding.embedding_net.layers.0")


def statistics_rule(pattern: str, torch: str) -> list[tuple[str, Callable[[str], TorchTensor]]]:
    """Rules for ``mean`` and ``stddev`` of an environment."""

    def at(name: str) -> TorchTensor:
        base = re.sub(pattern, torch, name.rpartition(".")[0])
        return TorchTensor(f"{base}.{name.rpartition('.')[2]}", read=constant_over_slots)

    return [(pattern + r"\.(?:mean|stddev)", at)]


def embedding_rule(pattern: str, torch: str) -> list[tuple[str, str]]:
    """Rules for an embedding network at `pattern`, without groups of its own beyond those that `torch` names."""
    groups = re.compile(pattern).groups
    layer = rf"{torch}.layers.\{groups + 1}"
    return [
        (pattern + r"\.layers\.(\d+)\.linear\.weight", layer + ".matrix"),
        (pattern + r"\.layers\.(\d+)\.linear\.bias", layer + ".bias"),
        (pattern + r"\.layers\.(\d+)\.idt", layer + ".idt"),
    ]


def fitting_rule(pattern: str, torch: str, n_hidden: int) -> list[tuple[str, str]]:
    """Rules for a fitting network with `n_hidden` hidden layers."""
    groups = re.compile(pattern).groups
    layer, last = rf"{torch}.layers.\{groups + 1}", f"{torch}.layers.{n_hidden}"
    return [
        (pattern + r"\.hidden\.(\d+)\.linear\.weight", layer + ".matrix"),
        (pattern + r"\.hidden\.(\d+)\.linear\.bias", layer + ".bias"),
        (pattern + r"\.hidden\.(\d+)\.idt", layer + ".idt"),
        *linear_rule(pattern + r"\.output", last),
    ]
