"""Selecting the frames that are worth labelling: neither known already nor out of reach, and different from each other.

F frames, C candidates, D components of the features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from data_tools.clean_config import NearDuplicates
from data_tools.near import find_near_duplicates
from dpsim.calculators.ase_frame import as_frame, frame_of
from dpsim.calculators.deviation import deviation
from dpsim.calculators.evaluate import Potential
from dpsim.calculators.selection_config import AdaptiveTrust, Diversify, SelectConfig, Trust
from dpsim.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
CLASSES: Final = ("accurate", "candidate", "failed")
_BINS: Final = 40
_CHUNK: Final = 64


@dataclass(frozen=True)
class Selection:
    """What became of the frames.

    Attributes
    ----------
    deviation
        (F,) eV/Å, largest of a force in each frame.
    classes
        (F,) index into `CLASSES`.
    flaws
        Numbers of the frames that were dropped, by flaw.
    chosen
        Numbers of the frames that are worth labelling, ascending.
    low, high
        Limits between the classes, eV/Å; `high` may be infinite.
    """

    deviation: FloatArray
    classes: IntArray
    flaws: dict[str, IntArray]
    chosen: IntArray
    low: float
    high: float

    def metrics(self) -> dict[str, Any]:
        """Return shares, counts, limits and the histogram, as they are written."""
        counts = np.bincount(self.classes, minlength=len(CLASSES))
        total = max(len(self.classes), 1)
        finite = self.deviation[np.isfinite(self.deviation)]
        found: dict[str, Any] = {"frames": len(self.classes), "selected": len(self.chosen)}
        found |= {name: float(count / total) for name, count in zip(CLASSES, counts, strict=True)}
        found["counts"] = {name: int(count) for name, count in zip(CLASSES, counts, strict=True)}
        found["dropped"] = {name: len(numbers) for name, numbers in self.flaws.items()}
        found["low"] = self.low
        found["high"] = self.high if np.isfinite(self.high) else None
        if len(finite):
            found["deviation"] = {"mean": float(finite.mean()), "max": float(finite.max())}
        edges, rows = self.histogram()
        found["histogram"] = {"edges": edges.tolist(), **{name: row.tolist() for name, row in rows.items()}}
        return found

    def histogram(self) -> tuple[FloatArray, dict[str, IntArray]]:
        """Return the edges (eV/Å) of the bins, and how many frames of each class are in each."""
        finite = np.isfinite(self.deviation)
        top = float(self.deviation[finite].max(initial=0.0)) or 1.0
        edges = np.linspace(0.0, top, _BINS + 1)
        return edges, {
            name: np.histogram(self.deviation[finite & (self.classes == number)], edges)[0].astype(np.int64)
            for number, name in enumerate(CLASSES)
        }


def select(
    config: SelectConfig,
    frames: Sequence[Atoms],
    deviations: FloatArray,
    *,
    reference: FloatArray | None = None,
    forces: Sequence[FloatArray | None] | None = None,
    features: Callable[[Sequence[Atoms]], FloatArray] | None = None,
    known: Iterable[Atoms] = (),
    seed: int = 0,
) -> Selection:
    """Sort frames by how far the models are from each other, and choose those to label.

    Parameters
    ----------
    config
        Limits, number and what to drop.
    frames
        F structures.
    deviations
        (F,) largest deviation of a force in each, eV/Å.
    reference
        Deviations on what the models have learnt, for limits that adapt to them.
    forces
        Of each frame (n_atoms, 3) in eV/Å, labelled or predicted; None where they are not known.
    features
        Gives (C, D) features of structures, if the settings ask for them.
    known
        Structures that there are data of already: near duplicates of them are dropped too. Read once.
    seed
        Of a random choice.

    Raises
    ------
    DataError
        If there are no frames, or something is asked for that is not known of them.
    """
    if not len(frames):
        raise DataError("select: there are no frames to select from")
    low, high = trust_levels(config.trust, deviations, reference)
    classes = classify(deviations, low, high)
    flaws: dict[str, IntArray] = {}
    if "unphysical" in config.drop:
        bad = np.array(
            [bool(_unphysical(config, frames[i], None if forces is None else forces[i])) for i in _of(frames)]
        )
        bad |= ~np.isfinite(deviations)
        flaws["unphysical"] = np.flatnonzero(bad)
        classes[bad] = CLASSES.index("failed")
    candidates = np.flatnonzero(classes == CLASSES.index("candidate"))
    if "near_duplicate" in config.drop:
        distance = config.limits.duplicate_distance
        kept = distinct([frames[int(i)] for i in candidates], distance, deviations[candidates], known)
        flaws["near_duplicate"] = np.delete(candidates, kept)
        candidates = candidates[kept]
    table: FloatArray | None = None
    if config.needs_descriptor and len(candidates):
        if features is None:
            raise DataError("select: farthest points need a model with a descriptor")
        table = scaled(features([frames[int(i)] for i in candidates]))
    if config.diversify is not None:
        candidates = candidates[_chosen(config.diversify, deviations[candidates], table, seed)]
    return Selection(deviations, classes, flaws, candidates, low, high)


def _of(frames: Sequence[Any]) -> range:
    return range(len(frames))


def trust_levels(trust: Trust, deviations: FloatArray, reference: FloatArray | None) -> tuple[float, float]:
    """Return the deviations (eV/Å) up to which a frame is accurate and from which it has failed."""
    if not isinstance(trust, AdaptiveTrust):
        return trust.low, trust.high
    high = np.inf if trust.ceiling is None else trust.ceiling
    measured = deviations if reference is None else reference
    measured = measured[np.isfinite(measured)]
    if not len(measured):
        return min(0.0, high), high
    return float(min(np.quantile(measured, trust.quantile), high)), float(high)


def classify(deviations: FloatArray, low: float, high: float) -> IntArray:
    """Return the class of each deviation: accurate up to `low`, failed from `high` on or if it is no number."""
    classes = np.full(len(deviations), CLASSES.index("candidate"), dtype=np.int64)
    classes[deviations <= low] = CLASSES.index("accurate")
    classes[~(deviations < high) & ~(deviations <= low)] = CLASSES.index("failed")
    return classes


def _unphysical(config: SelectConfig, atoms: Atoms, forces: FloatArray | None) -> str:
    """Return what is unphysical about a frame, an empty text if nothing is."""
    if not np.isfinite(atoms.positions).all() or not np.isfinite(np.asarray(atoms.cell)).all():
        return "coordinates are not finite"
    if forces is not None:
        if not np.isfinite(forces).all():
            return "a force is not finite"
        longest = float(np.linalg.norm(forces, axis=1).max(initial=0.0))
        if config.limits.max_force is not None and longest > config.limits.max_force:
            return f"a force is {longest:.3g} eV/Å"
    elif config.limits.max_force is not None:
        raise DataError("select: limits.max_force needs labelled frames, or models that predict their forces")
    return "atoms are too close" if is_too_close(atoms, config.limits.contact) else ""


def is_too_close(atoms: Atoms, contact: float) -> bool:
    """Whether two atoms, images included, are nearer than a share of the sum of their covalent radii."""
    from ase.data import covalent_radii
    from ase.neighborlist import neighbor_list

    radii = contact * covalent_radii[atoms.numbers]
    if not len(atoms) or not radii.any():
        return False
    i, j, d = neighbor_list("ijd", atoms, 2.0 * float(radii.max()))
    return bool((d < radii[i] + radii[j]).any())


def distinct(frames: Sequence[Atoms], distance: float, deviations: FloatArray, known: Iterable[Atoms] = ()) -> IntArray:
    """Return the numbers of the frames that are left without near duplicates (`data_tools.near`).

    Parameters
    ----------
    distance
        Largest difference of two distances between near duplicates, Å.
    deviations
        Of frames like each other, the one with the largest deviation stays.
    known
        Structures that none may be like.
    """
    formulas = {_formula(atoms) for atoms in frames}
    there = [as_frame(atoms) for atoms in known if _formula(atoms) in formulas]
    both = [*there, *map(as_frame, frames)]
    order = len(there) + np.argsort(-deviations, kind="stable")
    found = find_near_duplicates(both, order.tolist(), NearDuplicates(tol=distance), fixed=range(len(there)))
    return np.array([i for i in range(len(frames)) if i + len(there) not in found], dtype=np.int64)


def _formula(atoms: Atoms) -> bytes:
    return np.sort(atoms.numbers).tobytes()


# --- features -----------------------------------------------------------------------------------------------------


def frame_features(potential: Potential, frames: Sequence[Atoms]) -> FloatArray:
    """Return (F, D): of each element of the model, the mean descriptor of its atoms; zero if there is none.

    Raises
    ------
    ModelError
        If the model is frozen, which holds energies only.
    """
    rows = []
    for atoms in frames:
        frame = frame_of(atoms, potential)
        values = potential.descriptor(**frame)
        symbols = np.array(atoms.get_chemical_symbols())
        masks = [symbols == symbol for symbol in potential.type_map]
        means = [values[m].mean(axis=0) if m.any() else np.zeros(values.shape[1]) for m in masks]
        rows.append(np.concatenate(means))
    return np.array(rows)


def scaled(features: FloatArray) -> FloatArray:
    """Return features (C, D) with unit variance in each component that varies, and mean squared length one."""
    spread = features.std(axis=0)
    varies = spread > 1e-9 * (np.abs(features).max(initial=0.0) or 1.0)
    if not varies.any():
        return np.zeros((len(features), 1))
    kept = (features[:, varies] - features[:, varies].mean(axis=0)) / spread[varies]
    found: FloatArray = kept / np.sqrt(varies.sum())
    return found


def farthest_points(features: FloatArray, count: int, first: int) -> IntArray:
    """Return `count` rows of features (C, D), each the one that is farthest from all rows before it.

    Parameters
    ----------
    first
        The row to begin with. Of rows equally far, the first is taken.
    """
    chosen = [first]
    nearest = np.linalg.norm(features - features[first], axis=1)
    nearest[first] = -np.inf  # so that a row is not taken twice where rows are equal
    while len(chosen) < min(count, len(features)):
        row = int(np.argmax(nearest))
        chosen.append(row)
        nearest = np.minimum(nearest, np.linalg.norm(features - features[row], axis=1))
        nearest[chosen] = -np.inf
    return np.array(chosen, dtype=np.int64)


def _chosen(diversify: Diversify, deviations: FloatArray, features: FloatArray | None, seed: int) -> IntArray:
    count = len(deviations)
    if count <= diversify.max:
        return np.arange(count)
    if diversify.method == "random":
        return np.sort(np.random.default_rng(seed).choice(count, diversify.max, replace=False))
    by_deviation = np.argsort(-deviations, kind="stable")
    if diversify.method == "deviation":
        return np.sort(by_deviation[: diversify.max])
    assert features is not None
    return np.sort(farthest_points(features, diversify.max, int(by_deviation[0])))


# --- deviations of an ensemble ----------------------------------------------------------------------------------


def ensemble_deviation(
    models: Sequence[Potential], frames: Sequence[Atoms], progress: Callable[..., None] | None = None
) -> tuple[FloatArray, list[FloatArray | None]]:
    """Return the largest deviation of a force in each frame (eV/Å), and the forces (eV/Å) by the first model.

    Raises
    ------
    ModelError
        If an element is unknown to a model.
    """
    largest = np.full(len(frames), np.nan)
    forces: list[FloatArray | None] = [None] * len(frames)
    whole = [i for i, atoms in enumerate(frames) if np.isfinite(atoms.positions).all()]
    for start in range(0, len(whole), _CHUNK):
        chunk = whole[start : start + _CHUNK]
        rows = [one.evaluate_many(frame_of(frames[i], one) for i in chunk) for one in models]
        for i, predictions in zip(chunk, zip(*rows, strict=True), strict=True):
            largest[i] = deviation(predictions).forces.max(initial=0.0)
            forces[i] = predictions[0].forces
        if progress is not None:
            progress(start + len(chunk), len(whole), "deviation of the models")
    return largest, forces
