"""Errors of a model on labelled data: per system, overall, and the pairs for a parity plot."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dpsim.calculators.evaluate import Potential, Prediction, load
from dpsim.data import Dataset, Frame, open_dataset
from dpsim.data.files import new_file, write_json
from dpsim.errors import DataError

Pairs = dict[str, list[np.ndarray]]
_CHUNK = 64
QUANTITIES = ("energy", "forces", "virial")


def evaluate_dataset(
    model: str | Path | Potential,
    data: Sequence[str | Path],
    output_dir: str | Path | None = None,
    *,
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

    Returns
    -------
    dict
        ``overall`` and ``systems`` (by name), each with ``frames``, ``atoms`` and, where there are labels,
        ``energy_rmse``, ``energy_mae`` (eV/atom), ``forces_rmse``, ``forces_mae`` (eV/Å), ``virial_rmse``,
        ``virial_mae`` (eV/atom).

    Raises
    ------
    DataError
        If the data cannot be read, or no frame has a label.
    """
    potential = model if isinstance(model, Potential) else load(model, device=device)
    dataset = open_dataset([Path(p) for p in data], potential.type_map)
    per_system = _collect(potential, dataset, progress)
    metrics: dict[str, Any] = {"systems": {name: _errors(pairs) for name, pairs in per_system.items()}}
    total: Pairs = {}
    for pairs in per_system.values():
        for key, values in pairs.items():
            total.setdefault(key, []).extend(values)
    metrics["overall"] = _errors(total)
    if not any(f"{q}_rmse" in metrics["overall"] for q in QUANTITIES):
        raise DataError(f"{', '.join(map(str, data))}: no frame has an energy, forces or a virial to compare with")
    if output_dir is not None:
        folder = Path(output_dir)
        write_json(folder / "metrics.json", metrics)
        _write_parity(folder / "parity.npz", per_system)
    return metrics


def _collect(potential: Potential, dataset: Dataset, progress: Callable[..., None] | None) -> dict[str, Pairs]:
    result: dict[str, Pairs] = {}
    done, total = 0, len(dataset)
    for system in dataset.systems:
        pairs: Pairs = {}
        for start in range(0, system.n_frames, _CHUNK):
            frames = [system.frame(i) for i in range(start, min(start + _CHUNK, system.n_frames))]
            inputs = ({"positions": f.positions, "types": f.types, "cell": f.cell} for f in frames)
            for frame, prediction in zip(frames, potential.evaluate_many(inputs), strict=True):
                _append(pairs, frame, prediction)
            done += len(frames)
            if progress is not None:
                progress(done, total, f"testing {system.name}")
        result[_unused(system.name, result)] = pairs
    return result


def _unused(name: str, taken: Container[str]) -> str:
    """Return a name that is not taken: systems of different data sets may have the same."""
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)


def _append(pairs: Pairs, frame: Frame, prediction: Prediction) -> None:
    real = frame.types >= 0
    n_atoms = max(int(real.sum()), 1)
    pairs.setdefault("atoms", []).append(np.array([n_atoms]))
    for name in QUANTITIES:
        label = frame.labels.get(name)
        if label is None:
            continue
        scale = 1.0 if name == "forces" else 1.0 / n_atoms
        for side, values in (("reference", label), ("predicted", getattr(prediction, name))):
            array = np.asarray(values, dtype=float)
            kept = array[real] if name == "forces" else array  # placeholders would make errors look smaller
            pairs.setdefault(f"{name}_{side}", []).append(kept.reshape(-1) * scale)


def _errors(pairs: Pairs) -> dict[str, float | int]:
    atoms = np.concatenate(pairs["atoms"]) if pairs.get("atoms") else np.zeros(0, dtype=int)
    result: dict[str, float | int] = {"frames": len(atoms), "atoms": int(atoms.sum())}
    for name in QUANTITIES:
        if f"{name}_reference" in pairs:
            difference = np.concatenate(pairs[f"{name}_predicted"]) - np.concatenate(pairs[f"{name}_reference"])
            result[f"{name}_rmse"] = float(np.sqrt(np.mean(difference**2)))
            result[f"{name}_mae"] = float(np.mean(np.abs(difference)))
    return result


def _write_parity(path: Path, per_system: dict[str, Pairs]) -> None:
    arrays: dict[str, np.ndarray] = {"systems": np.array(list(per_system), dtype=str)}
    for name in QUANTITIES:
        found = [(i, pairs) for i, pairs in enumerate(per_system.values()) if f"{name}_reference" in pairs]
        if not found:
            continue
        for side in ("reference", "predicted"):
            values = np.concatenate([np.concatenate(pairs[f"{name}_{side}"]) for _, pairs in found])
            arrays[f"{name}_{side}"] = values if name == "energy" else values.reshape(-1, 3 if name == "forces" else 9)
        counts = [sum(map(len, pairs[f"{name}_reference"])) for _, pairs in found]
        width = {"energy": 1, "forces": 3, "virial": 9}[name]
        arrays[f"{name}_system"] = np.repeat([i for i, _ in found], [c // width for c in counts])
    with new_file(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
