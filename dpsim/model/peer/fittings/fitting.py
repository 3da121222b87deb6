"""What the peer's fitting nets share (spec fittings.md §1); each kind adds its own keys in a module of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

from dpsim.fittings.settings import FittingSettings
from dpsim.model.peer import records
from dpsim.model.peer.family import Arrays, Context, FittingFamily, Settings, TorchNames, TorchTensor, Tree, renamed
from dpsim.model.peer.section import InputSection, Section

FittingT = TypeVar("FittingT", bound=FittingSettings)
_BUFFERS = {
    "fparam_avg": "fparam_mean",
    "fparam_inv_std": "fparam_inv_std",
    "aparam_avg": "aparam_mean",
    "aparam_inv_std": "aparam_inv_std",
    "case_embd": "case_embedding",
}


class NetPeer(FittingFamily[FittingT]):
    """Base of the fittings that are one network (or one a type).

    A kind states its names and versions and what it adds: `read_extra`, `write_extra` and `input_extra`.
    """

    versions: ClassVar[tuple[int, ...]] = (1, 2, 3, 4)
    """Accepted ``@version``; the last one is written."""
    own_bias: ClassVar[bool] = False
    """Whether ``bias_atom_e`` stays with the network, as `bias_by_type`; otherwise it joins the model's output bias."""
    default_neuron: ClassVar[tuple[int, ...]] = (120, 120, 120)
    """Widths of the hidden layers where an input gives none."""
    inert = ("default_fparam_tensor",)

    def read_extra(self, section: Section, config: Settings, state: Arrays, context: Context) -> None:
        """Take the keys and arrays of this kind alone, and add them to `config` and `state`."""

    def write_extra(self, config: FittingT, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """Keys of this kind alone, with at least ``var_name`` and ``dim_out``; arrays below ``@variables``."""
        raise NotImplementedError

    def input_extra(self, section: InputSection, config: Settings, context: Context) -> None:
        """Take the input keys of this kind alone, and add them to `config`."""

    @property
    def beside(self) -> tuple[str, ...]:
        """See `Family.beside`."""
        return () if self.own_bias else ("@out_bias",)

    def read(self, section: Section, context: Context) -> tuple[Settings, Arrays]:
        """See `Family.read`."""
        section.expect("Fitting", self.versions)
        section.ignore("type", "ntypes", "dim_descrpt", "rcond", "type_map", "trainable", "seed", "layer_name")
        section.require(use_aparam_as_mask=False, spin=None, tot_ener_zero=False, mixed_types=context.mixed_types)
        config = self._shared(section)
        config["exclude_types"] = list(section.take("exclude_types", None) or ())
        state = self._networks(section, config, context)
        for peer_name, name in _BUFFERS.items():
            values = section.array(peer_name, None)
            if values is not None:
                state[name] = np.reshape(values, -1)
        bias = section.array("bias_atom_e", None)
        if bias is not None:
            state["bias_by_type" if self.own_bias else "@out_bias"] = self._bias(bias, config["exclude_types"], context)
        self.read_extra(section, config, state, context)
        section.finish()
        return config, state

    def _bias(self, bias: np.ndarray, excluded: Sequence[int], context: Context) -> np.ndarray:
        """Bias (n_types, n_out) of the rows; the output bias, which it may join, also counts for excluded types."""
        rows = np.array(bias, dtype=np.float64).reshape(context.n_types, -1)
        if not self.own_bias:
            rows[list(excluded)] = 0.0
        return rows

    def _shared(self, section: Section) -> Settings:
        """Settings that files and inputs name alike; the few defaults that differ are never left out of files."""
        return {
            "type": self.type,
            "neuron": section.take("neuron", list(self.default_neuron), alias=("n_neuron",)),
            "activation_function": section.take("activation_function", "tanh"),
            "resnet_dt": section.take("resnet_dt", True),
            "precision": records.precision(section.take("precision", "default")),
            "numb_fparam": section.take("numb_fparam", 0),
            "numb_aparam": section.take("numb_aparam", 0),
            "default_fparam": section.take("default_fparam", None),
            "dim_case_embd": section.take("dim_case_embd", 0),
        }

    def _networks(self, section: Section, config: Settings, context: Context) -> Arrays:
        ndim = 0 if context.mixed_types else 1
        state: Arrays = {}
        for index, net in enumerate(records.read_collection(section.section("nets"), ndim, context.n_types)):
            if net is None:
                raise section.error(f"{section.where}.nets: network {index} is missing: the file is damaged")
            state |= records.read_network(net, f"networks.{index}.", records.shape_of(config))
        return state

    def write(self, config: FittingT, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `Family.write`."""
        ndim, shape = 0 if context.mixed_types else 1, records.shape_of(config)
        nets = [records.write_network(state, f"networks.{index}.", shape) for index in range(context.n_types**ndim)]
        n_out = nets[0]["out_dim"]
        tree: Tree = {
            "@class": "Fitting",
            "@version": self.versions[-1],
            "type": self.names[0],
            "ntypes": context.n_types,
            "dim_descrpt": context.dim_descriptor,
            "neuron": list(config.neuron),
            "resnet_dt": config.resnet_dt,
            "numb_fparam": config.numb_fparam,
            "numb_aparam": config.numb_aparam,
            "dim_case_embd": config.dim_case_embd,
            "default_fparam": None if config.default_fparam is None else list(config.default_fparam),
            "activation_function": config.activation_function,
            "precision": config.precision,
            "mixed_types": context.mixed_types,
            "nets": records.write_collection(nets, ndim, context.n_types),
            "rcond": None,
            "exclude_types": sorted({*config.exclude_types, *context.atom_exclude_types}),
            "use_aparam_as_mask": False,
            "type_map": list(context.type_map),
            "trainable": [True] * (len(config.neuron) + 1),
            "layer_name": None,
            "spin": None,
            "tot_ener_zero": False,
        }
        extra = self.write_extra(config, state, context)
        buffers = {peer_name: state.get(name) for peer_name, name in _BUFFERS.items()}
        bias = {"bias_atom_e": state.get("bias_by_type", np.zeros((context.n_types, n_out)))}
        return tree | extra | {"@variables": bias | buffers | extra.get("@variables", {})}

    def torch_names(self, config: FittingT, names: Sequence[str], context: Context) -> TorchNames:
        """See `Family.torch_names`."""
        nets: list[Any] = records.fitting_rule(r"networks\.(\d+)", r"filter_layers.networks.\1", len(config.neuron))
        flat = [(name, _flat(peer_name)) for peer_name, name in _BUFFERS.items()]
        default = None if self.own_bias else np.zeros((context.n_types, 1))
        bias = TorchTensor(
            "bias_atom_e", read=lambda values: self._bias(values, config.exclude_types, context), default=default
        )
        return renamed(names, *nets, *flat, ("bias_by_type|@out_bias", lambda _: bias))

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """See `Family.from_input`."""
        section.ignore("type")
        section.require(use_aparam_as_mask=False, layer_name=None)
        section.for_training(context.training, context.notes)
        rcond = section.take("rcond", None)
        if context.training and rcond is not None:
            raise section.error(f"{section.where}.rcond: {rcond!r} is not supported: leave it out")
        config = self._shared(section)
        if not context.training:
            section.ignore("exclude_types")  # those of the model replace it when the reference builds from an input
        self.input_extra(section, config, context)
        section.finish()
        return config


def _flat(peer_name: str) -> Any:
    return lambda _: TorchTensor(peer_name, read=lambda values: values.reshape(-1))


def refuse_selected_types(section: InputSection, alias: str, context: Context) -> None:
    """Take ``sel_type``, which the PyTorch backend of the reference does not look at.

    Raises
    ------
    ConfigError
        If the model is to be trained: there it would have to mean something.
    """
    selected = section.take("sel_type", None, alias=(alias,))
    if context.training and selected is not None:
        raise section.error(
            f"{section.where}.sel_type: {selected!r} is not supported: "
            "leave it out, and name the other types in atom_exclude_types of the model"
        )
