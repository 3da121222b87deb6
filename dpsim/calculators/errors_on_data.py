"""Errors of a model on labelled data: per system, overall, and the pairs for a parity plot."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dpsim.calculators.engines import ModelFacts
from dpsim.calculators.evaluate import Potential, Prediction, load
from dpsim.data import Dataset, Frame, open_dataset
from dpsim.data.files import new_file, write_json
from dpsim.errors import DataError
from dpsim.fields import BY_NAME

Pairs = dict[str, list[np.ndarray]]
_CHUNK = 64
GroupBy = Literal["element", "formula", "source"]
"""What errors are listed by beside systems: the elements (of quantities of atoms), or what frames have in common."""
_BESIDE = ("fparam", "aparam", "charge_spin", "spin")


def quantities_of(facts: ModelFacts) -> tuple[str, ...]:
    """What of a model is compared with labels."""
    if facts.output == "energy":
        return ("energy", "forces", "virial", *(("magnetic_forces",) if facts.spin is not None else ()))
    return tuple(name for name in (facts.output, f"atomic_{facts.output}") if name in BY_NAME)


def evaluate_dataset(
    model: str | Path | Potential,
    data: Sequence[str | Path],
    output_dir: str | Path | None = None,
    *,
    head: str | None = None,
    group_by: GroupBy | None = None,
    device: str = "auto",
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Compare a model with the labels of data sets.

    Parameters
    ----------
    model
        A model file or a loaded one.
    data
        System folders, or folders searched for systems.
    output_dir
        Where ``metrics.json`` and ``parity.npz`` are written, if given.
    head
        Of a model file with several heads.
    group_by
        What errors are listed by too.

    Returns
    -------
    dict
        ``overall`` and ``systems`` (by name), each with ``frames``, ``atoms`` and, where there are labels,
        ``energy_rmse``, ``energy_mae`` (eV/atom), ``forces_rmse``, ``forces_mae`` (eV/Å), ``virial_rmse``,
        ``virial_mae`` (eV/atom); of other models the same with the name of what they predict, per atom where it is a
        sum over the atoms of a structure, for example ``dipole_rmse`` and ``atomic_dipole_rmse``. With `group_by`,
        ``groups`` (by name) has the same for each group; of an element, the errors of what atoms have.

    Raises
    ------
    DataError
        If the data cannot be read, or no frame has a label.
    """
    potential = model if isinstance(model, Potential) else load(model, head, device)
    facts = potential.facts
    dataset = open_dataset([Path(p) for p in data], facts.type_map, property_name=facts.property_name)
    per_group: dict[str, Pairs] = {}
    per_system = _collect(potential, dataset, progress, group_by, per_group)
    metrics: dict[str, Any] = {"systems": {name: _errors(pairs) for name, pairs in per_system.items()}}
    total: Pairs = {}
    for pairs in per_system.values():
        for key, values in pairs.items():
            total.setdefault(key, []).extend(values)
    metrics["overall"] = _errors(total)
    if group_by is not None:
        metrics["groups"] = {name: _errors(pairs) for name, pairs in sorted(per_group.items())}
    names = quantities_of(facts)
    if not any(f"{name}_rmse" in metrics["overall"] for name in names):
        raise DataError(
            f"{', '.join(map(str, data))}: no frame has one of the labels {', '.join(names)} to compare with"
        )
    if output_dir is not None:
        folder = Path(output_dir)
        write_json(folder / "metrics.json", metrics)
        _write_parity(folder / "parity.npz", per_system)
    return metrics


def _collect(
    potential: Potential,
    dataset: Dataset,
    progress: Callable[..., None] | None,
    group_by: GroupBy | None,
    groups: dict[str, Pairs],
) -> dict[str, Pairs]:
    result: dict[str, Pairs] = {}
    done, total = 0, len(dataset)
    for system in dataset.systems:
        pairs: Pairs = {}
        for start in range(0, system.n_frames, _CHUNK):
            frames = [system.frame(i) for i in range(start, min(start + _CHUNK, system.n_frames))]
            inputs = (_arguments(potential.facts, frame) for frame in frames)
            for frame, prediction in zip(frames, potential.evaluate_many(inputs), strict=True):
                _append(pairs, potential.facts, frame, prediction)
                for name, element in _groups(frame, dataset.type_map, group_by):
                    _append(groups.setdefault(name, {}), potential.facts, frame, prediction, element)
            done += len(frames)
            if progress is not None:
                progress(done, total, f"testing {system.name}")
        result[_unused(system.name, result)] = pairs
    return result


def _unused(name: str, taken: Container[str]) -> str:
    """Return a name that is not taken: systems of different data sets may have the same."""
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)


def _arguments(facts: ModelFacts, frame: Frame) -> dict[str, Any]:
    """What `Potential.evaluate` is given for a frame: of the labels, what the model takes."""
    inputs = facts.inputs
    takes = (inputs.n_fparam > 0, inputs.n_aparam > 0, inputs.charge_spin, facts.spin is not None)
    given = {
        name: frame.labels[name] for name, taken in zip(_BESIDE, takes, strict=True) if taken and name in frame.labels
    }
    return {"positions": frame.positions, "types": frame.types, "cell": frame.cell, "source": frame.source, **given}


def _groups(frame: Frame, names: Sequence[str], group_by: GroupBy | None) -> list[tuple[str, int | None]]:
    """Groups that a frame is in; those of elements with the type of their atoms."""
    if group_by == "element":
        return [(names[kind], int(kind)) for kind in np.unique(frame.types) if kind >= 0]
    if group_by == "formula":
        return [(frame.formula(names), None)]
    return [] if group_by is None else [(frame.origin or frame.source.partition("#")[0], None)]


def _append(pairs: Pairs, facts: ModelFacts, frame: Frame, prediction: Prediction, element: int | None = None) -> None:
    # placeholders, and atoms without an output of their own, would make errors look smaller
    counted = (frame.types >= 0) & ~np.isin(frame.types, facts.atom_exclude_types)
    there = frame.types >= 0
    if element is not None:
        counted, there = counted & (frame.types == element), frame.types == element
    n_atoms = max(int(counted.sum()), 1)
    pairs.setdefault("atoms", []).append(np.array([max(int(there.sum()), 1)]))
    for name in quantities_of(facts):
        label = frame.labels.get(name)
        if label is None or (element is not None and BY_NAME[name].kind != "atom"):
            continue
        atomic = BY_NAME[name].kind == "atom"
        rows = counted
        if name == "magnetic_forces" and facts.spin is not None:  # atoms whose type has no spin have no such force
            rows = counted & (np.asarray(facts.spin)[np.maximum(frame.types, 0)] != 0)
        scale = 1.0 if atomic or facts.intensive else 1.0 / n_atoms
        for side, values in (("reference", label), ("predicted", getattr(prediction, name))):
            array = np.asarray(values, dtype=float)
            pairs.setdefault(f"{name}_{side}", []).append((array[rows] if atomic else array).reshape(-1) * scale)


def _errors(pairs: Pairs) -> dict[str, float | int]:
    atoms = np.concatenate(pairs["atoms"]) if pairs.get("atoms") else np.zeros(0, dtype=int)
    result: dict[str, float | int] = {"frames": len(atoms), "atoms": int(atoms.sum())}
    for name in (key.removesuffix("_reference") for key in pairs if key.endswith("_reference")):
        if sum(map(len, pairs[f"{name}_reference"])):
            difference = np.concatenate(pairs[f"{name}_predicted"]) - np.concatenate(pairs[f"{name}_reference"])
            result[f"{name}_rmse"] = float(np.sqrt(np.mean(difference**2)))
            result[f"{name}_mae"] = float(np.mean(np.abs(difference)))
    return result


def _write_parity(path: Path, per_system: dict[str, Pairs]) -> None:
    arrays: dict[str, np.ndarray] = {"systems": np.array(list(per_system), dtype=str)}
    names = {key.removesuffix("_reference") for pairs in per_system.values() for key in pairs}
    for name in sorted(names & set(BY_NAME)):
        found = [(i, pairs) for i, pairs in enumerate(per_system.values()) if f"{name}_reference" in pairs]
        if not found:
            continue
        width = int(np.prod(BY_NAME[name].shape)) if -1 not in BY_NAME[name].shape else 1
        for side in ("reference", "predicted"):
            values = np.concatenate([np.concatenate(pairs[f"{name}_{side}"]) for _, pairs in found])
            arrays[f"{name}_{side}"] = values if width == 1 else values.reshape(-1, width)
        counts = [sum(map(len, pairs[f"{name}_reference"])) for _, pairs in found]
        arrays[f"{name}_system"] = np.repeat([i for i, _ in found], [c // width for c in counts])
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
