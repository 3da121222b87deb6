"""The section ``model`` of an input that would make a serialised model: the peer keeps it beside the numbers.

It is the settings of the sections, without their numbers and without what follows from the rest of the model. A table
of pair energies is named as a file, which is not looked for where the numbers stand beside the section.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpsim.model.compose.config import ZBLModelConfig
from dpsim.model.peer.family import Tree
from dpsim.model.peer.models.compose import STORED_ALPHA

_ARGUMENTS = {"repflow_args": "repflow", "repinit_args": "repinit", "repformer_args": "repformer"}
"""Sections of settings that an input names otherwise."""
_DERIVED = {
    "ntypes", "dim_descrpt", "mixed_types", "var_name", "dim_out", "embedding_width", "r_differentiable",
    "c_differentiable", "tot_ener_zero", "spin", "layer_name", "rcond", "type_map", "trainable",
}  # fmt: skip
_TYPES = {"se_r": "se_e2_r"}
_EXCLUSIONS = ("pair_exclude_types", "atom_exclude_types")
_TABLE = "table.txt"


def script_of(model: Mapping[str, Any], config: Any) -> Tree:
    """Section ``model`` of an input for the tree of a model with these settings; empty where an input has no words."""
    kind = model.get("type")
    if kind == "spin_ener":  # that of the doubled system, as the peer has it in what it freezes
        inner = script_of(model["backbone_model"], config.backbone)
        return inner and inner | {"spin": model["spin"]}
    if kind == "pairtab":
        return {"type": "pairtab", "tab_file": _TABLE, "rcut": model["rcut"], "sel": model["sel"]} | _common(model)
    if kind == "zbl":
        return _zbl(model, config)
    if kind == "linear_ener":
        return _linear(model, config)
    return _standard(model)


def _common(model: Mapping[str, Any]) -> Tree:
    return {key: list(model[key]) for key in ("type_map", *_EXCLUSIONS)}


def _excludes(model: Mapping[str, Any]) -> bool:
    """Whether a part has exclusions of its own, for which an input has no place."""
    return any(model[key] for key in _EXCLUSIONS)


def _linear(model: Mapping[str, Any], config: Any) -> Tree:
    members = [script_of(tree, part) for tree, part in zip(model["models"], config.members, strict=True)]
    if not all(members) or any(_excludes(tree) for tree in model["models"]):
        return {}
    parts = [{key: value for key, value in member.items() if key not in _EXCLUSIONS} for member in members]
    return {"type": "linear_ener", "models": parts, "weights": model["weights"]} | _common(model)


def _zbl(model: Mapping[str, Any], config: ZBLModelConfig) -> Tree:
    learned, table = model["models"]
    reach = config.model.neighbors()
    fits = (config.table.rcut, config.table.sel, config.smin_alpha) == (reach.cutoff, reach.sel, STORED_ALPHA)
    if not fits or _excludes(learned) or _excludes(table):
        return {}
    switch = {key: model[key] for key in ("sw_rmin", "sw_rmax", "smin_alpha")}
    return _standard(learned) | _common(model) | {"use_srtab": _TABLE} | switch


def _standard(model: Mapping[str, Any]) -> Tree:
    fitting = _settings(model["fitting"])
    for key in ("exclude_types", "use_aparam_as_mask"):
        fitting.pop(key, None)
    if fitting["type"] == "property":
        fitting["property_name"] = model["fitting"]["var_name"]
    if fitting["type"] == "dos":
        fitting["numb_dos"] = model["fitting"]["dim_out"]
    if fitting["type"] == "polar":
        fitting["scale"] = [float(number) for number in np.ravel(model["fitting"]["@variables"]["scale"])]
    return {"descriptor": _settings(model["descriptor"]), "fitting_net": fitting} | _common(model)


def _settings(section: Mapping[str, Any]) -> Tree:
    found: Tree = {}
    for key, value in section.items():
        if key in _ARGUMENTS:
            found[_ARGUMENTS[key]] = dict(value)
        elif key == "list":
            found[key] = [_settings(member) for member in value]
        elif not key.startswith("@") and key not in _DERIVED and not (value is None or isinstance(value, Mapping)):
            found[key] = value
    if isinstance(embedding := section.get("type_embedding"), Mapping):
        found.setdefault("use_tebd_bias", embedding["use_tebd_bias"])
    if "type" in found:
        found["type"] = _TYPES.get(found["type"], found["type"])
    return found
