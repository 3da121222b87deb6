"""DeePMD-kit's ``input.json`` (v2, v3, and v1's place of the data): a training in the words of dpsim.

Every key is either honoured or refused with its place. What asks for nothing in dpsim (names of log files, timers)
is named in a note. Defaults are those of the peer, whatever dpsim's own are.
"""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpsim.errors import ConfigError
from dpsim.model.peer.families import FAMILIES
from dpsim.model.peer.family import Context, SelPlace, Settings, setting_at
from dpsim.model.peer.inputs.loop import STEPS, loop_settings, validating_settings
from dpsim.model.peer.inputs.multi_input import is_multi_task, split_branches
from dpsim.model.peer.inputs.optimizers import for_kalman, optimizer_settings
from dpsim.model.peer.inputs.sampling import matching_systems, sampling_settings
from dpsim.model.peer.inputs.training import learning_rate_settings, loss_settings
from dpsim.model.peer.inputs.transfer import take_frozen, take_pretrained
from dpsim.model.peer.section import InputSection

_DATA_KEYS = ("systems", "set_prefix", "batch_size", "sys_probs", "sys_weights", "auto_prob", "auto_prob_style")
_OPTIMIZER_KEYS = (
    "kf_blocksize", "kf_start_pref_e", "kf_limit_pref_e", "kf_start_pref_f", "kf_limit_pref_f", "weight_decay",
    "momentum", "muon_momentum", "adam_beta1", "adam_beta2", "lr_adjust", "lr_adjust_coeff", "muon_2d_only",
    "min_2d_dim",
)  # fmt: skip
_MULTI_TASK = ("model_dict", "shared_dict", "loss_dict", "data_dict", "model_prob", "num_epoch_dict")


@dataclass
class TrainingInput:
    """What an ``input.json`` asks for."""

    type_map: tuple[str, ...]
    settings: Settings
    """Of dpsim's `TrainConfig`; ``model`` may have ``sel`` settings that are ``"auto"``."""
    train_systems: list[Path]
    valid_systems: list[Path]
    sel_places: tuple[SelPlace, ...] = ()
    """Settings of ``model`` that may be ``"auto"``."""
    notes: list[str] = field(default_factory=list)
    """What was read and has no effect, one sentence each."""
    head: str | None = None
    """Head of the model to fine-tune, ``finetune_head``."""
    heads: dict[str, TrainingInput] = field(default_factory=dict)
    """What the branches of a multi-task input ask for, each as if it were alone."""


def read_input(path: str | Path, overrides: Sequence[str] = (), *, pretrained: bool = False) -> TrainingInput:
    """Read an ``input.json``.

    Parameters
    ----------
    overrides
        ``key.key=value`` in the words of the input.
    pretrained
        The settings of a pretrained model replace those of the section ``model``.

    Raises
    ------
    ConfigError
        If the file is no such input, or asks for something that dpsim does not do.
    """
    path = Path(path)
    tree = read_json_input(path)
    for text in overrides:
        _override(tree, text)
    return translate(tree, str(path), path.parent, pretrained=pretrained)


def read_json_input(path: Path) -> dict[str, Any]:
    """Content of an ``input.json``.

    Raises
    ------
    ConfigError
        If it is no JSON object.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}, expected an input of DeePMD-kit: a JSON object")
    return tree


def translate(tree: dict[str, Any], where: str, base: Path, *, pretrained: bool = False) -> TrainingInput:
    """Translate the content of an ``input.json``; paths of data are looked for in `base`, then as they are.

    Parameters
    ----------
    pretrained
        See `read_input`.

    Raises
    ------
    ConfigError
        Naming the first key that dpsim does not honour.
    """
    if is_multi_task(tree):
        return _several(tree, where, base, pretrained)
    root = InputSection(tree, where)
    if "model" not in root:
        raise ConfigError(f"{where}: there is no section 'model': inputs before DeePMD-kit 1.0 are not read")
    notes: list[str] = []
    model, training = _part(root, "model"), _part(root, "training")
    _refuse_multi_task(model, training, root)
    type_map = tuple(model.node.get("type_map", ()))
    if not type_map:
        raise ConfigError(f"{where}: model.type_map is missing: name the elements in the order of the types")
    context = Context(type_map, FAMILIES, training=True, notes=notes, folder=base)
    head, frozen = model.take("finetune_head", None), take_frozen(model)
    places: tuple[SelPlace, ...] = ()
    settings: Settings = {"frozen": frozen} if frozen else {}
    if pretrained:
        take_pretrained(model, notes)
    else:
        settings["model"], places = _model(model, context)
    _old_forms(training, root)
    settings |= {
        "learning_rate": learning_rate_settings(_part(root, "learning_rate", {})),
        "loss": loss_settings(_part(root, "loss", {}), notes),
        "optimizer": optimizer_settings(_part(root, "optimizer", {}), notes),
        "keep_checkpoints": training.take("max_ckpt_keep", 5),
    }
    train, batches = _systems(_part(training, "training_data"), base, notes)
    settings |= batches | loop_settings(training, notes)
    valid = _validation(training, base, notes)
    settings |= validating_settings(_part(root, "validating", {}), notes)
    if settings["optimizer"]["type"] == "LKF":
        settings = for_kalman(settings, where, notes)
    root.require(nvnmd=None)
    training.finish()
    root.finish()
    return TrainingInput(type_map, settings, train, valid, places, _merged(notes), head)


def _several(tree: dict[str, Any], where: str, base: Path, pretrained: bool) -> TrainingInput:
    """Translate a multi-task input: each branch is a head."""
    branches = split_branches(tree, where)
    parts = {name: translate(one, where, base, pretrained=pretrained) for name, one in branches.trees.items()}
    maps = {one.type_map for one in parts.values()}
    if len(maps) > 1:
        raise ConfigError(f"{where}: model.model_dict: branches have different type maps: refer to one of shared_dict")
    first = next(iter(parts.values()))
    common = {key: value for key, value in first.settings.items() if key not in (*_OF_HEADS, "frozen")}
    heads: Settings = {}
    for name, one in parts.items():
        other = next((key for key, value in common.items() if one.settings.get(key) != value), None)
        if other is not None:
            raise ConfigError(f"{where}: training.data_dict.{name}: {other} differs from that of other branches")
        heads[name] = {key: one.settings[key] for key in _OF_HEADS if key in one.settings}
        heads[name] |= {"aliases": branches.aliases[name]} if branches.aliases[name] else {}
        heads[name] |= {"probability": branches.chances[name]} if name in branches.chances else {}
        heads[name] |= {"start_head": one.head} if one.head is not None else {}
    frozen = [f"{name}.{part}" for name, one in parts.items() for part in one.settings.get("frozen", ())]
    settings = common | {"heads": heads, "shared": branches.shared} | ({"frozen": frozen} if frozen else {})
    notes = _merged(dict.fromkeys(note for one in parts.values() for note in one.notes))
    return TrainingInput(first.type_map, settings, [], [], notes=notes, heads=parts)


_OF_HEADS = ("model", "loss", "batch_size", "sampling", "epochs")
"""Settings that each head has for itself."""

PARTS = {
    "model": ("fitting_net", "use_srtab"),
    "learning_rate": ("start_lr", "stop_lr", "stop_lr_ratio"),
    "loss": (
        "start_pref_e",
        "limit_pref_e",
        "start_pref_f",
        "limit_pref_f",
        "loss_func",
        "use_huber",
        "pref",
        "pref_atomic",
        "start_pref_dos",
        "start_pref_cdf",
        "start_pref_ados",
        "start_pref_acdf",
        "start_pref_spin",
        "start_pref_pop",
    ),
    "optimizer": ("adam_beta1", "adam_beta2", "lr_adjust", "muon_mode", "kf_blocksize", "kf_start_pref_e"),
}
"""Sections of the input that a train stage may have as well, and keys by which they are told from dpsim's own."""
PART_TYPES = {"model": "linear_ener", "optimizer": "HybridMuon"}
"""A ``type`` by which they are told as well."""


def is_part(key: str, node: Any) -> bool:
    """Whether a section of a train stage is written in the words of the peer."""
    own_type = PART_TYPES.get(key, "")
    return isinstance(node, dict) and (node.get("type") == own_type or any(name in node for name in PARTS[key]))


def translate_part(
    key: str, node: Any, where: str, type_map: tuple[str, ...], base: Path = Path()
) -> tuple[Settings, list[str]]:
    """One section in the words of dpsim, and what in it has no effect.

    Parameters
    ----------
    key
        One of `PARTS`.
    type_map
        Elements of the model; a section ``model`` that has its own must have the same.
    base
        Folder to which the names of files are relative.

    Raises
    ------
    ConfigError
        Naming the first key that dpsim does not honour.
    """
    notes: list[str] = []
    section = InputSection(node, where)
    if key == "learning_rate":
        return learning_rate_settings(section), notes
    if key != "model":
        return (loss_settings if key == "loss" else optimizer_settings)(section, notes), notes
    _refuse_multi_task(section)
    own = tuple(section.node.setdefault("type_map", list(type_map)))
    if own != type_map:
        raise ConfigError(f"{where}.type_map is {list(own)}, but the elements here are {list(type_map)}")
    context = Context(type_map, FAMILIES, training=True, notes=notes, folder=base)
    config, places = _model(section, context)
    for place in places:
        if isinstance(setting_at(config, place.path), str):
            raise ConfigError(
                f"{where}.{'.'.join(map(str, place.path))}: {setting_at(config, place.path)!r} is counted by "
                "'dpsim train input.json' only: a number is expected here"
            )
    return config, _merged(notes)


def _part(section: InputSection, key: str, default: Any = ...) -> InputSection:
    node = section.take(key) if default is ... else section.take(key, default)
    return InputSection(node, f"{section.where}: {key}" if ":" not in section.where else f"{section.where}.{key}")


def _refuse_multi_task(*sections: InputSection) -> None:
    for section in sections:
        found = [key for key in _MULTI_TASK if key in section]
        if found:
            raise ConfigError(f"{section.where}: {found[0]!r} belongs to a multi-task training, which is not supported")


def _model(section: InputSection, context: Context) -> tuple[Settings, tuple[SelPlace, ...]]:
    section.require(
        data_stat_nbatch=10, data_stat_protect=0.01, data_bias_nsample=10, finetune_head=None,
    )  # fmt: skip
    modifier = _modifier(section, context)
    section.ignore("srtab_add_bias", "bridging_r_inner", "bridging_r_outer", "hessian_mode")
    given = {"preset_out_bias": section.take("preset_out_bias", None)}
    family, config = FAMILIES.from_input(section, context)
    preset = _preset_bias(InputSection(given, section.where), context.type_map, config)
    places = family.sel_places(config, context.families)
    del config["type_map"]
    settings = {key: value for key, value in config.items() if (key, value) != ("type", "standard")}
    if modifier:
        if settings.get("type", "standard") != "standard":
            raise ConfigError(f"{section.where}.modifier: goes with a model of one descriptor and one fitting only")
        settings = {"type": "dplr", "model": settings, **modifier}
        places = tuple(place._replace(path=("model", *place.path)) for place in places)
    return settings | ({"preset_out_bias": preset} if preset else {}), places


def _modifier(section: InputSection, context: Context) -> Settings:
    """Electrostatics of DPLR from ``modifier``; charges stay lists, in the order of types."""
    node = section.take("modifier", None)
    if not node:
        return {}
    inner = InputSection(node, f"{section.where}.modifier")
    inner.require(type="dipole_charge")
    name = Path(str(inner.take("model_name")))
    beside = context.folder / name if context.folder is not None else name
    settings = {
        "dipole": str((beside if beside.exists() or not name.exists() else name).resolve()),
        "model_charge_map": inner.take("model_charge_map"),
        "sys_charge_map": inner.take("sys_charge_map"),
        "ewald_h": inner.take("ewald_h", 1.0),
        "ewald_beta": inner.take("ewald_beta", 0.4),
    }
    inner.finish()
    return settings


def _preset_bias(section: InputSection, type_map: Sequence[str], config: Settings) -> dict[str, float | list[float]]:
    """Biases by element of ``preset_out_bias``, which the peer gives by output and type, null where they are fitted."""
    node, fitting = section.node.get("preset_out_bias"), config.get("fitting", {"type": "ener"})
    if not node:
        return {}
    where = f"{section.where}.preset_out_bias"
    outputs = _BIASED.get(fitting["type"], ()) or (fitting.get("property_name", "energy"),)
    key = next(iter(node)) if isinstance(node, dict) and len(node) == 1 else ""
    given = node[key] if key in outputs else None
    if not isinstance(given, list) or len(given) != len(type_map):
        raise ConfigError(f"{where}: {node!r}: expected {{{outputs[0]}: [...]}} with a number or null for each element")
    flat = [None if value is None else _numbers(value) for value in given]
    if any(value is not None and (not value or (fitting["type"] == "ener" and len(value) > 1)) for value in flat):
        what = "a number" if fitting["type"] == "ener" else "numbers"
        raise ConfigError(f"{where}.{key}: {given!r}: expected {what} or null for each element")
    named = {name: value for name, value in zip(type_map, flat, strict=True) if value is not None}
    return {name: value[0] if len(value) == 1 else value for name, value in named.items()}


_BIASED = {"ener": ("energy",), "dos": ("dos",), "polar": ("polarizability", "polar")}
"""Names of the outputs of fittings whose bias may be given; a property has its own."""


def _numbers(value: Any) -> list[float]:
    """Numbers of nested lists; none if there is anything else."""
    if isinstance(value, list):
        parts = [_numbers(one) for one in value]
        return [number for part in parts for number in part] if all(parts) else []
    return [float(value)] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _old_forms(training: InputSection, root: InputSection) -> None:
    """Bring v1's place of the data, and 3.1's of the optimizer and the warm-up, to where they stand now."""
    if "systems" in training:
        if "training_data" in training:
            raise ConfigError(f"{training.where}: 'systems' and 'training_data' exclude each other: give one of them")
        training.node["training_data"] = {k: training.node.pop(k) for k in _DATA_KEYS if k in training}
        _stop_of_decay_rate(training, root)
    moved = {key: training.node.pop(key) for key in _OPTIMIZER_KEYS if key in training}
    if "opt_type" in training:
        moved["type"] = training.node.pop("opt_type")
    if moved:
        root.node["optimizer"] = {**root.node.get("optimizer", {}), **moved}
    for key in ("warmup_steps", "warmup_ratio", "warmup_start_factor"):
        if key in training:
            rate = root.node.setdefault("learning_rate", {})
            if key in rate:
                raise ConfigError(f"{training.where}.{key} stands in learning_rate as well: give one of them")
            root.node["learning_rate"] = {**rate, key: training.node.pop(key)}


def _stop_of_decay_rate(training: InputSection, root: InputSection) -> None:
    """v1 inputs give the decay rate instead of the last learning rate."""
    rate = dict(root.node.get("learning_rate", {}))
    steps = next((training.node[key] for key in STEPS if key in training), None)
    if "decay_rate" in rate and isinstance(steps, int):
        every, start = rate.get("decay_steps", 5000), rate.get("start_lr", 1e-3)
        rate["stop_lr"] = start * rate.pop("decay_rate") ** (steps / every)
        root.node["learning_rate"] = rate


def _systems(section: InputSection, base: Path, notes: list[str]) -> tuple[list[Path], Settings]:
    """Folders of the training data, and how batches are drawn from them."""
    section.require(set_prefix="set")
    settings = sampling_settings(section, notes)
    systems = matching_systems(section, _paths(section.take("systems"), section, base))
    section.finish()
    return systems, settings


def _validation(training: InputSection, base: Path, notes: list[str]) -> list[Path]:
    node = training.take("validation_data", None)
    if node is None:
        return []
    section = InputSection(node, f"{training.where}.validation_data")
    section.require(set_prefix="set")
    aliases = {"numb_btch": ("numb_batch",), "auto_prob": ("auto_prob_style",), "sys_probs": ("sys_weights",)}
    for key in ("batch_size", "numb_btch", "auto_prob", "sys_probs"):
        if section.take(key, None, alias=aliases.get(key, ())) is not None:
            notes.append(f"{section.where}.{key}: all validation frames are evaluated")
    systems = matching_systems(section, _paths(section.take("systems"), section, base))
    section.finish()
    return systems


def _paths(value: Any, section: InputSection, base: Path) -> list[Path]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{section.where}.systems: {value!r}: a folder or a list of folders is expected")
    return [base / name if not _is_there(Path(name)) or _is_there(base / name) else Path(name) for name in names]


def _is_there(path: Path) -> bool:
    """Whether a path, or the HDF5 file before its ``#``, exists, or is a pattern that matches something."""
    file = Path(str(path).partition("#")[0])
    return path.exists() or file.exists() or bool(glob.glob(str(file), recursive=True))


def _merged(notes: Iterable[str]) -> list[str]:
    """Notes of the same text as one."""
    places: dict[str, list[str]] = {}
    for note in notes:
        place, _, text = note.rpartition(": ")
        places.setdefault(text, []).append(place.rpartition(": ")[2])
    return [f"{', '.join(found)}: {text}" for text, found in places.items()]


def _override(tree: dict[str, Any], text: str) -> None:
    keys, equal, value = text.partition("=")
    node: Any = tree
    *path, last = keys.split(".")
    for key in path:
        node = node.setdefault(key, {}) if isinstance(node, dict) else None
    if not equal or not last or not isinstance(node, dict):
        raise ConfigError(f"--set {text}: expected key.key=value with keys of the input")
    try:
        node[last] = json.loads(value)
    except ValueError:
        node[last] = value
