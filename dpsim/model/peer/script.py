"""The section ``model`` of an input that would make a serialised model: the peer keeps it beside the numbers.

It is the settings of the sections, without their numbers and without what follows from the rest of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpsim.model.peer.family import Tree

_ARGUMENTS = {"repflow_args": "repflow", "repinit_args": "repinit", "repformer_args": "repformer"}
"""Sections of settings that an input names otherwise."""
_DERIVED = {
    "ntypes", "dim_descrpt", "mixed_types", "var_name", "dim_out", "embedding_width", "r_differentiable",
    "c_differentiable", "tot_ener_zero", "spin", "layer_name", "rcond", "type_map", "trainable",
}  # fmt: skip
_TYPES = {"se_r": "se_e2_r"}


def script_of(model: Mapping[str, Any]) -> Tree:
    """Section ``model`` of an input for the tree of a standard model; empty for other kinds."""
    if model.get("type") != "standard":
        return {}
    fitting = _settings(model["fitting"])
    for key in ("exclude_types", "use_aparam_as_mask"):
        fitting.pop(key, None)
    if fitting["type"] == "property":
        fitting["property_name"] = model["fitting"]["var_name"]
    if fitting["type"] == "dos":
        fitting["numb_dos"] = model["fitting"]["dim_out"]
    if fitting["type"] == "polar":
        fitting["scale"] = [float(number) for number in np.ravel(model["fitting"]["@variables"]["scale"])]
    return {
        "type_map": list(model["type_map"]),
        "descriptor": _settings(model["descriptor"]),
        "fitting_net": fitting,
        "pair_exclude_types": model["pair_exclude_types"],
        "atom_exclude_types": model["atom_exclude_types"],
    }


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
