"""The standard model of DeePMD-kit: one descriptor, one fitting, an output bias (spec common.md §11, §17)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from dpsim.config import first_problem
from dpsim.descriptors import DescriptorConfig
from dpsim.errors import ModelError
from dpsim.model.config import ModelConfig
from dpsim.model.peer import records
from dpsim.model.peer.family import (
    Arrays,
    Context,
    Families,
    Family,
    ModelFamily,
    SelPlace,
    Settings,
    TorchNames,
    TorchTensor,
    Tree,
    joined,
    split,
)
from dpsim.model.peer.section import InputSection, Section


class StandardPeer(ModelFamily[ModelConfig]):
    """``standard``."""

    type = "standard"
    names = ("standard",)

    def read(self, section: Section, context: Context) -> tuple[Settings, Arrays]:
        """See `Family.read`."""
        section.expect("Model", (1, 2))
        section.require(type="standard")
        families, settings = context.families, model_settings(section)
        inner = section.section("descriptor")
        family = families.descriptor(inner.node.get("type"), inner.where)
        descriptor, state = family.read(inner, context)
        mixed = mixed_types(descriptor, inner.where)
        inner = section.section("fitting")
        fitting_family = families.fitting(inner.node.get("type"), inner.where)
        fitting, fitting_state = fitting_family.read(inner, context.inside(mixed_types=mixed))
        masked = set(settings["atom_exclude_types"])
        fitting["exclude_types"] = [t for t in fitting.get("exclude_types", ()) if t not in masked]
        state = joined("descriptor.", state) | joined("fitting.", fitting_state) | read_output(section)
        state |= {name: fitting_family.read_bias(state[name]) for name in OUTPUT}
        section.finish()
        return {"type": self.type, **settings, "descriptor": descriptor, "fitting": fitting}, state

    def write(self, config: ModelConfig, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `Family.write`."""
        families = context.families
        module = config.descriptor.build(config.type_map, basis=config.fitting.needs_basis)
        inner = context.inside(
            mixed_types=config.descriptor.mixed_types,
            dim_descriptor=module.dim_out,
            dim_basis=module.dim_basis,
            atom_exclude_types=config.atom_exclude_types,
        )
        descriptor = families.descriptor(config.descriptor.type, "descriptor")
        fitting = families.fitting(config.fitting.type, "fitting")
        return {
            "@class": "Model",
            "@version": 2,
            "type": "standard",
            "type_map": list(config.type_map),
            "atom_exclude_types": list(config.atom_exclude_types),
            "pair_exclude_types": [list(pair) for pair in config.pair_exclude_types],
            "rcond": None,
            "preset_out_bias": None,
            "@variables": write_output({name: fitting.write_bias(state[name]) for name in OUTPUT}),
            "descriptor": descriptor.write(config.descriptor, split(state, "descriptor."), inner),
            "fitting": fitting.write(config.fitting, split(state, "fitting."), inner),
        }

    def torch_names(self, config: ModelConfig, names: Sequence[str], context: Context) -> TorchNames:
        """See `Family.torch_names`."""
        fitting = context.families.fitting(config.fitting.type, "fitting")
        parts: dict[str, tuple[Family[Any], Any, str]] = {
            "descriptor.": (
                context.families.descriptor(config.descriptor.type, "descriptor"), config.descriptor, "descriptor."
            ),
            "fitting.": (fitting, config.fitting, "fitting_net."),
        }  # fmt: skip
        found = output_torch_names(fitting.read_bias)
        for prefix, (family, part, torch_prefix) in parts.items():
            own = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
            tensors = family.torch_names(part, [*own, *family.beside], context)
            found |= joined(prefix, {name: tensor.below(torch_prefix) for name, tensor in tensors.items()})
        return found

    def inert_names(self, config: ModelConfig, families: Families) -> tuple[str, ...]:
        """See `ModelFamily.inert_names`."""
        descriptor, fitting = families.descriptor(config.descriptor.type, ""), families.fitting(config.fitting.type, "")
        return (
            *(rf"descriptor\.{name}" for name in descriptor.inert),
            *(rf"fitting_net\.{name}" for name in fitting.inert),
        )

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """See `Family.from_input`."""
        section.ignore("type")
        settings = input_settings(section, context)
        context = context.inside(type_map=tuple(settings["type_map"]))
        inner: Any = section.section("descriptor")
        kind = inner.node.get("type", "se_e2_a")
        descriptor = context.families.descriptor(kind, inner.where, inner.error).from_input(inner, context)
        inner = type(section)(section.take("fitting_net", {}), f"{section.where}.fitting_net")
        kind = inner.node.get("type", "ener")
        fitting = context.families.fitting(kind, inner.where, inner.error).from_input(inner, context)
        section.finish()
        return {"type": self.type, **settings, "descriptor": descriptor, "fitting": fitting}

    def sel_places(self, config: Settings, families: Families) -> tuple[SelPlace, ...]:
        """See `ModelFamily.sel_places`."""
        inner = config["descriptor"]
        places = families.descriptor(inner["type"], "").sel_places(inner, families)
        return tuple(place._replace(path=("descriptor", *place.path)) for place in places)


OUTPUT = ("out_bias", "out_std")


def mixed_types(descriptor: Settings, where: str) -> bool:
    """Whether one fitting net serves all types with this descriptor.

    Raises
    ------
    ModelError
        If the settings of the descriptor are not valid; `where` names their section.
    """
    try:
        config: Any = TypeAdapter[Any](DescriptorConfig).validate_python(descriptor)
    except ValidationError as error:
        raise ModelError(first_problem(error, where)) from None
    return bool(config.mixed_types)


def model_settings(section: Section) -> Settings:
    """Settings of a serialised model that all kinds share."""
    section.ignore("rcond", "preset_out_bias")
    return {
        "type_map": section.take("type_map"),
        "pair_exclude_types": records.pairs(section.take("pair_exclude_types", ())),
        "atom_exclude_types": sorted(section.take("atom_exclude_types", ()) or ()),
    }


def input_settings(section: InputSection, context: Context) -> Settings:
    """Settings of the input's section ``model`` that all kinds share.

    What only matters to a training is dropped here for models that are only evaluated; otherwise
    `dpsim.model.peer.inputs.input` has taken it before.
    """
    if not context.training:
        section.ignore("data_stat_nbatch", "data_stat_protect", "data_bias_nsample", "preset_out_bias", "finetune_head")
        section.ignore("srtab_add_bias", "hessian_mode", "bridging_r_inner", "bridging_r_outer")
    section.ignore("model_branch_alias", "info")
    section.require(bridging_method="None", modifier=None, compress=None, type_embedding=None, use_compressed_net=False)
    return {
        "type_map": section.take("type_map"),
        "pair_exclude_types": records.pairs(section.take("pair_exclude_types", ())),
        "atom_exclude_types": sorted(section.take("atom_exclude_types", ()) or ()),
    }


def read_output(section: Section) -> Arrays:
    """``out_bias`` and ``out_std`` (n_types, n) of a serialised model; old files have no deviation: it is one."""
    bias = np.asarray(section.array("out_bias"), dtype=np.float64)
    std = section.array("out_std", None)
    return {"out_bias": bias[0], "out_std": (np.ones_like(bias) if std is None else std.astype(np.float64))[0]}


def write_output(state: Mapping[str, np.ndarray]) -> Tree:
    """The peer's arrays (1, n_types, n) from ``out_bias`` and ``out_std`` (n_types, n)."""
    return {name: np.asarray(state[name], dtype=np.float64)[None] for name in OUTPUT}


def output_torch_names(read: Callable[[np.ndarray], np.ndarray]) -> TorchNames:
    """Torch names of ``out_bias`` and ``out_std``; `read` brings (n_types, n) to the model's shape."""
    return {name: TorchTensor(name, read=lambda values: read(values[0])) for name in OUTPUT}
