"""Models made of others: ``pairtab``, ``linear`` (``linear_ener`` in inputs) and ``zbl`` (spec fittings.md §4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
from pydantic import TypeAdapter

from dpsim.descriptors import DescriptorConfig
from dpsim.errors import ConfigError
from dpsim.model.compose.config import LinearModelConfig, PairTableConfig, ZBLModelConfig
from dpsim.model.compose.table import pair_of_types, read_rows, read_table, spline
from dpsim.model.peer.family import (
    Arrays,
    Context,
    Families,
    ModelFamily,
    SelPlace,
    Settings,
    TorchNames,
    Tree,
    joined,
    split,
)
from dpsim.model.peer.models.standard import (
    OUTPUT,
    input_settings,
    model_settings,
    output_torch_names,
    read_output,
    write_output,
)
from dpsim.model.peer.section import InputSection, Section

CombinedT = TypeVar("CombinedT", LinearModelConfig, ZBLModelConfig)
STORED_ALPHA = 0.1
"""What the peer's PyTorch models compute with, whatever ``smin_alpha`` their input has (golden/README)."""


class PairTablePeer(ModelFamily[PairTableConfig]):
    """``pairtab``."""

    type = "pairtab"
    names = ("pairtab",)
    inert = ("tab_info", "tab_data", "bias_atom_e")

    def read(self, section: Section, context: Context) -> tuple[Settings, Arrays]:
        """See `Family.read`."""
        section.expect("Model", (1, 2))
        section.require(type="pairtab")
        settings, state = model_settings(section), read_output(section)
        tab = section.section("tab")
        tab.expect("PairTab", (1,))
        rows, stored = np.asarray(tab.array("vdata"), dtype=np.float64), tab.array("tab_data")
        tab.ignore("rmin", "rmax", "hh", "ntypes", "rcut", "nspline")
        tab.ignore_arrays("tab_info")
        tab.finish()
        wanted = _by_types(spline(rows), len(settings["type_map"])).reshape(-1)
        if stored.size != wanted.size or np.abs(stored.reshape(-1) - wanted).max() > 1e-6 * np.abs(wanted).max():
            raise section.error(f"{tab.where}: the spline is not that of the table: the file is damaged")
        settings |= {"rcut": section.take("rcut"), "sel": _number(section.take("sel")), "table": rows.tolist()}
        section.finish()
        return {"type": self.type, **settings}, state

    def write(self, config: PairTableConfig, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `Family.write`."""
        rows, n_types = np.array(config.table, dtype=np.float64), len(config.type_map)
        step, intervals = float(rows[1, 0] - rows[0, 0]), len(rows) - 1
        tab = {
            "@class": "PairTab",
            "@version": 1,
            "rmin": float(rows[0, 0]),
            "rmax": float(rows[-1, 0]),
            "hh": step,
            "ntypes": n_types,
            "rcut": config.rcut,
            "nspline": intervals,
            "@variables": {
                "vdata": rows,
                "tab_info": np.array([rows[0, 0], step, intervals, n_types]),
                "tab_data": _by_types(spline(rows), n_types).reshape(-1),
            },
        }
        return _head(config, state, "pairtab", 2) | {"tab": tab, "rcut": config.rcut, "sel": config.sel}

    def torch_names(self, config: PairTableConfig, names: Sequence[str], context: Context) -> TorchNames:
        """See `Family.torch_names`."""
        return output_torch_names(lambda values: values)

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """See `Family.from_input`; the table of a checkpoint is that of its tensors."""
        section.ignore("type")
        settings = input_settings(section, context)
        name, rcut = section.take("tab_file"), float(section.take("rcut"))
        settings |= {"rcut": rcut, "sel": _number(section.take("sel"))}
        settings["table"] = _table(name, rcut, len(settings["type_map"]), section, context)
        section.finish()
        return {"type": self.type, **settings}

    def sel_places(self, config: Settings, families: Families) -> tuple[SelPlace, ...]:
        """See `ModelFamily.sel_places`."""
        return (SelPlace(("sel",), config["rcut"]),)


class CombinedPeer(ModelFamily[CombinedT]):
    """What models of several parts share: the parts stand below ``models``."""

    version: ClassVar[int]

    def read(self, section: Section, context: Context) -> tuple[Settings, Arrays]:
        """See `Family.read`."""
        section.expect("Model", tuple(range(1, self.version + 1)))
        section.ignore("type")
        settings, state = model_settings(section), read_output(section)
        members = []
        for index, inner in enumerate(section.sections("models")):
            family = context.families.model(inner.node.get("type", "standard"), inner.where)
            context = context.inside(type_map=tuple(inner.node.get("type_map", ())))
            member, arrays = family.read(inner, context)
            members.append(member)
            state |= joined(f"models.{index}.", arrays)
        settings |= self.read_settings(section, members)
        section.finish()
        return {"type": self.type, **settings}, state

    def write(self, config: CombinedT, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """See `Family.write`."""
        models = []
        for index, member in enumerate(config.members):
            family, inner = context.families.model(member.type, ""), context.inside(type_map=member.type_map)
            models.append(family.write(member, split(state, f"models.{index}."), inner))
        return _head(config, state, self.names[0], self.version) | {"models": models} | self.write_settings(config)

    def torch_names(self, config: CombinedT, names: Sequence[str], context: Context) -> TorchNames:
        """See `Family.torch_names`."""
        found = output_torch_names(lambda values: values)
        for index, member in enumerate(config.members):
            prefix, family = f"models.{index}.", context.families.model(member.type, "")
            own = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
            tensors = family.torch_names(member, own, context.inside(type_map=member.type_map))
            found |= joined(prefix, {name: tensor.below(prefix) for name, tensor in tensors.items()})
        return found

    def inert_names(self, config: CombinedT, families: Families) -> tuple[str, ...]:
        """See `ModelFamily.inert_names`."""
        return tuple(
            rf"models\.{index}\.{pattern}"
            for index, member in enumerate(config.members)
            for pattern in families.model(member.type, "").inert_names(member, families)
        )

    def read_settings(self, section: Section, members: list[Settings]) -> Settings:
        """Settings of this kind of combination, from a serialised section."""
        raise NotImplementedError

    def write_settings(self, config: CombinedT) -> Tree:
        """Serialised form of the settings of this kind of combination."""
        raise NotImplementedError


class LinearPeer(CombinedPeer[LinearModelConfig]):
    """``linear_ener`` in inputs, ``linear`` where the peer serialises it.

    The peer's PyTorch reader knows the first name only (golden/README), so it is the one that is written.
    """

    type = "linear"
    names = ("linear_ener", "linear")
    version = 3

    def read_settings(self, section: Section, members: list[Settings]) -> Settings:
        """See `CombinedPeer.read_settings`."""
        return {"models": members, "weights": section.take("weights", "mean")}

    def write_settings(self, config: LinearModelConfig) -> Tree:
        """See `CombinedPeer.write_settings`."""
        return {"weights": config.weights if isinstance(config.weights, str) else list(config.weights)}

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """See `Family.from_input`."""
        section.ignore("type")
        shared = section.take("shared_dict", {}) or {}
        if shared and context.training:
            raise ConfigError(f"{section.where}.shared_dict: parts are trained apart: give each its own descriptor")
        inner = section.sections("models")
        if "type_map" not in section:
            section.node["type_map"] = _common_type_map(inner, section)
        settings = input_settings(section, context)
        weights = section.take("weights", "mean")
        members = [
            self._member(one, index, shared, context.inside(type_map=tuple(settings["type_map"])))
            for index, one in enumerate(inner)
        ]
        section.finish()
        return {"type": self.type, **settings, "models": members, "weights": weights}

    def _member(self, section: Any, index: int, shared: Mapping[str, Any], context: Context) -> Settings:
        for key, value in section.node.items():
            section.node[key] = shared[value.partition(":")[0]] if _refers(key, value, shared) else value
        section.node.setdefault("type_map", list(context.type_map))
        if context.tensors is not None:
            section.ignore("pair_exclude_types", "atom_exclude_types")  # the peer does not look at those of a part
            context = context.inside(tensors=split(context.tensors, f"models.{index}."))
        return context.families.from_input(section, context)[1]

    def sel_places(self, config: Settings, families: Families) -> tuple[SelPlace, ...]:
        """See `ModelFamily.sel_places`."""
        return tuple(
            place._replace(path=("models", index, *place.path))
            for index, member in enumerate(config["models"])
            for place in families.model(member["type"], "").sel_places(member, families)
        )


class ZBLPeer(CombinedPeer[ZBLModelConfig]):
    """``zbl``: in inputs a standard model with the key ``use_srtab``."""

    type = "zbl"
    names = ("zbl",)
    version = 2

    def read_settings(self, section: Section, members: list[Settings]) -> Settings:
        """See `CombinedPeer.read_settings`."""
        if [member["type"] for member in members] != ["standard", "pairtab"]:
            raise section.error(f"{section.where}.models: expected a standard model and a table")
        section.ignore("weights")
        switch = {key: section.take(key) for key in ("sw_rmin", "sw_rmax", "smin_alpha")}
        return {"model": members[0], "table": members[1], **switch}

    def write_settings(self, config: ZBLModelConfig) -> Tree:
        """See `CombinedPeer.write_settings`."""
        switch = {key: getattr(config, key) for key in ("sw_rmin", "sw_rmax", "smin_alpha")}
        return {"weights": "mean", **switch}

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """See `Family.from_input`; the table has the cutoff and the number of neighbours of the descriptor."""
        section.require(type="standard")
        settings = input_settings(section, context)
        name, type_map = section.take("use_srtab"), list(settings["type_map"])
        switch = {key: section.take(key) for key in ("sw_rmin", "sw_rmax")}
        alpha = section.take("smin_alpha", STORED_ALPHA)
        standard: Any = {"type_map": type_map, "descriptor": section.take("descriptor")}
        standard["fitting_net"] = section.take("fitting_net", {})
        context = context.inside(type_map=tuple(type_map))
        _, learned = context.families.from_input(type(section)(standard, section.where), context)
        rcut, sel = _reach(learned["descriptor"], len(type_map), context.families, section)
        table_context = context.inside(tensors=None if context.tensors is None else split(context.tensors, "models.1."))
        rows = _table(name, rcut, len(type_map), section, table_context)
        table = {"type": "pairtab", "type_map": type_map, "rcut": rcut, "sel": sel, "table": rows}
        switch["smin_alpha"] = alpha if context.tensors is None else STORED_ALPHA
        section.finish()
        return {"type": self.type, **settings, "model": learned, "table": table, **switch}

    def sel_places(self, config: Settings, families: Families) -> tuple[SelPlace, ...]:
        """See `ModelFamily.sel_places`."""
        learned = config["model"]
        places = families.model(learned["type"], "").sel_places(learned, families)
        inner = tuple(place._replace(path=("model", *place.path)) for place in places)
        return (*inner, SelPlace(("table", "sel"), config["table"]["rcut"]))


def _head(config: Any, state: Mapping[str, np.ndarray], kind: str, version: int) -> Tree:
    """Serialised settings that all kinds share."""
    return {
        "@class": "Model",
        "@version": version,
        "type": kind,
        "type_map": list(config.type_map),
        "atom_exclude_types": list(config.atom_exclude_types),
        "pair_exclude_types": [list(pair) for pair in config.pair_exclude_types],
        "rcond": None,
        "preset_out_bias": None,
        "@variables": write_output({name: state[name].reshape(-1, 1) for name in OUTPUT}),
    }


def _by_types(coefficients: np.ndarray, n_types: int) -> np.ndarray:
    """Coefficients ``(n_types, n_types, P − 1, 4)`` of those of the pairs."""
    return coefficients[pair_of_types(n_types)]


def _number(sel: Any) -> Any:
    """Number of neighbours; a list has one number a type."""
    return sum(sel) if isinstance(sel, list) else sel


def _refers(key: str, value: Any, shared: Mapping[str, Any]) -> bool:
    return key in ("type_map", "descriptor", "fitting_net") and isinstance(value, str) and value.split(":")[0] in shared


def _common_type_map(members: Sequence[Section], section: InputSection) -> Any:
    maps = [member.node.get("type_map") for member in members]
    if not maps or maps[0] is None or any(one != maps[0] for one in maps):
        raise section.error(f"{section.where}.type_map is missing: give it here, or the same in each of the models")
    return maps[0]


def _table(name: Any, rcut: float, n_types: int, section: InputSection, context: Context) -> list[list[float]]:
    """Rows of the table of a file beside the input, or of the tensors of a checkpoint.

    A training's settings have the table as it stands in the file, to be extended to the cutoff there.
    """
    if context.tensors is None:
        path = Path(str(name))
        beside = context.folder / path if context.folder is not None else path
        path = beside if beside.exists() or not path.exists() else path
        return (read_rows(path, n_types) if context.training else read_table(path, rcut, n_types)).tolist()
    if not {"tab_info", "tab_data"} <= set(context.tensors):
        raise section.error(f"{section.where}: the checkpoint has no table of pair energies: the file is damaged")
    r_first, step, intervals, n_tab = (float(x) for x in np.asarray(context.tensors["tab_info"]))
    if n_tab != n_types:
        raise section.error(f"{section.where}: the table has {n_tab:g} types, the type map {n_types}")
    data = np.asarray(context.tensors["tab_data"]).reshape(n_types, n_types, int(intervals), 4)
    pairs = data[np.triu_indices(n_types)]
    values = np.concatenate([pairs[..., 3], pairs[:, -1:].sum(axis=-1)], axis=1)
    r = r_first + step * np.arange(int(intervals) + 1)
    return np.concatenate([r[:, None], values.T], axis=1).tolist()


def _reach(descriptor: Settings, n_types: int, families: Families, section: InputSection) -> tuple[float, Any]:
    """Cutoff and number of neighbours of a descriptor; the latter may still be ``"auto"``."""
    for place in families.descriptor(descriptor["type"], section.where).sel_places(descriptor, families):
        value: Any = descriptor
        for key in place.path:
            value = value[key]
        if isinstance(value, str):
            return place.cutoff, value
    config: Any = TypeAdapter[Any](DescriptorConfig).validate_python(descriptor)
    spec = config.neighbors(n_types)
    return spec.cutoff, spec.sel
