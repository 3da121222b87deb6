"""Looking for what is wrong in a data set: broken values, missing labels, duplicates, collisions, outliers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from data_tools.clean_config import NearDuplicates, Outliers, Removable
from data_tools.near import find_near_duplicates
from data_tools.outliers import Far, far_energies, far_forces
from dpsim.data import Dataset, Frame, open_dataset
from dpsim.data.distances import pairs
from dpsim.data.frame import check_cell, check_finite, fingerprint
from dpsim.data.summary import Summary, format_table, summarize
from dpsim.errors import DataError
from dpsim.fields import BY_NAME

__all__ = ["InspectionReport", "Place", "Problem", "inspect_dataset", "open_parts"]


class Place(NamedTuple):
    """A frame of a data set."""

    part: str
    row: int
    """In the part."""
    name: str
    """For people: ``part: system/set.000#12``."""


@dataclass
class Problem:
    """One kind of thing that is wrong, and where."""

    kind: str
    """nan, bad_cell, missing_type, missing_label, duplicate, duplicate_<part>_<part>, near_duplicate,
    near_duplicate_<part>_<part>, too_close, force_outlier, energy_outlier."""
    message: str
    """One sentence about the first or worst case."""
    frames: list[str] = field(default_factory=list)
    """All frames concerned, as ``part: system/set.000#12``."""


@dataclass
class InspectionReport:
    """What was found."""

    problems: list[Problem]
    table: str
    """Systems and labels of each part, then compositions, as text."""
    parts: dict[str, Summary]
    largest_force: float | None
    """eV/Å; None if no frame has forces."""
    removed: dict[str, list[Place]] = field(default_factory=dict)
    """Frames to take out by what is wrong with them, each under the first of the flaws that were asked for."""
    kept: dict[str, list[int]] = field(default_factory=dict)
    """The others, by part."""

    def count(self, kind: str) -> int:
        """Return the number of frames with a problem of a kind; ``duplicate`` counts those between parts too."""
        return sum(len(p.frames) for p in self.problems if p.kind == kind or p.kind.startswith(f"{kind}_"))

    def counts_removed(self) -> dict[str, int]:
        """Return how many frames are taken out, by flaw."""
        return {flaw: len(places) for flaw, places in self.removed.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain values for JSON; what is taken out only where that was asked for."""
        found: dict[str, Any] = {
            "problems": [asdict(problem) for problem in self.problems],
            "parts": {name: summary.to_dict() for name, summary in self.parts.items()},
            "largest_force": self.largest_force,
        }
        if self.removed:
            found["removed"] = {"total": sum(self.counts_removed().values()), **self.counts_removed()}
            found["kept"] = {part or ".": len(rows) for part, rows in self.kept.items()}
            found["removed_frames"] = {flaw: [one.name for one in places] for flaw, places in self.removed.items()}
        return found


@dataclass
class _Found:
    """What one pass over the frames collects."""

    broken: dict[str, list[tuple[Place, str]]] = field(default_factory=dict)
    prints: dict[bytes, list[Place]] = field(default_factory=dict)
    forces: list[tuple[float, Place]] = field(default_factory=list)
    energies: list[tuple[float, np.ndarray, Place]] = field(default_factory=list)

    def add(self, kind: str, where: Place, message: str) -> None:
        self.broken.setdefault(kind, []).append((where, message))


@dataclass(frozen=True)
class _Limits:
    """What one frame is held against."""

    allowed: Sequence[str] | None
    labels: Sequence[str]
    contact: float
    min_distance: float | None


def inspect_dataset(
    data: str | Path | Dataset | Mapping[str, str | Path | Dataset],
    *,
    type_map: Sequence[str] | None = None,
    labels: Sequence[str] = ("energy", "forces"),
    contact: float = 0.6,
    min_distance: float | None = None,
    force_max: float | None = None,
    outliers: Outliers | None = None,
    near: NearDuplicates | None = None,
    drop: Sequence[str] = (),
    progress: Callable[[int, int, str], None] | None = None,
) -> InspectionReport:
    """Read every frame of a data set and report what looks wrong.

    Parameters
    ----------
    data
        A folder (with ``train``, ``valid``, ``test`` in it, these are the parts), a data set, or parts by name.
    type_map
        Elements that may occur; others are reported.
    labels
        Fields that every frame should have.
    contact
        Atoms nearer than this share of the sum of their covalent radii are too close.
    min_distance
        Å; overrides `contact` with one distance for all pairs.
    force_max
        eV/Å; larger forces are reported. By default, those far from the rest of the data are.
    outliers
        What is far from the rest of the data.
    near
        What counts as nearly the same; without it, only frames that are the same to 1e-6 Å are looked for.
    drop
        Flaws for which frames are to be taken out (see `Removable`); ``near_duplicate`` means equal ones too. Equal
        frames are looked for among those that no other flaw takes out; the first stays, in the order of the parts.
    progress
        Called with frames done, frames in all, and what is done.

    Raises
    ------
    DataError
        If the data cannot be opened at all, or `drop` names what is no such flaw.
    """
    parts = open_parts(data)
    _check_words(labels, BY_NAME, "labels", "a field")
    _check_words(drop, get_args(Removable), "drop", "a flaw that frames are taken out for")
    limits = _Limits(type_map, labels, contact, min_distance)
    found, total, done = _Found(), sum(map(len, parts.values())), 0
    for part, dataset in parts.items():
        for index, frame in enumerate(_unchecked(dataset)):
            where = Place(part, index, f"{part}: {frame.source}" if part else frame.source)
            _look(frame, where, dataset.type_map, limits, found)
            done += 1
            if progress is not None:
                progress(done, total, "frames inspected")
    problems = [
        Problem(kind, f"{cases[0][0].name}: {cases[0][1]}", [where.name for where, _ in cases])
        for kind, cases in found.broken.items()
    ]
    flagged = {kind: [where for where, _ in cases] for kind, cases in found.broken.items()}
    outliers = outliers or Outliers()
    forces = far_forces([force for force, _ in found.forces], force_max, outliers)
    energies = far_energies([e for e, _, _ in found.energies], [c for _, c, _ in found.energies], outliers)
    problems += _report_far("force_outlier", forces, [where for _, where in found.forces], flagged)
    problems += _report_far("energy_outlier", energies, [where for _, _, where in found.energies], flagged)
    out = {where for flaw in drop for where in flagged.get(flaw, ())}
    equal = _equal(found.prints, out)
    problems += _same_problems("duplicate", "the same structure as", equal)
    flagged["duplicate"] = [where for where, _ in equal]
    if near is not None or "near_duplicate" in drop:
        alike = _alike(parts, found.prints, out | set(flagged["duplicate"]), near or NearDuplicates(), progress)
        problems += _same_problems("near_duplicate", "nearly the same structure as", alike)
        flagged["near_duplicate"] = [where for where, _ in alike]
    summaries = {part or ".": summarize(dataset) for part, dataset in parts.items()}
    largest = max((force for force, _ in found.forces), default=None)
    report = InspectionReport(problems, _table(summaries), summaries, largest)
    _take_out(report, parts, flagged, drop)
    return report


def _check_words(words: Iterable[str], known: Iterable[str], what: str, meaning: str) -> None:
    unknown = [word for word in words if word not in known]
    if unknown:
        raise DataError(f"{what}: {', '.join(unknown)} is not {meaning}, expected some of {', '.join(known)}")


def _take_out(
    report: InspectionReport,
    parts: Mapping[str, Dataset],
    flagged: Mapping[str, Sequence[Place]],
    drop: Sequence[str],
) -> None:
    """Enter which frames are taken out for which flaw, and which are left."""
    gone: set[tuple[str, int]] = set()
    asked = {*drop, *(("duplicate",) if "near_duplicate" in drop else ())}
    for flaw in (name for name in get_args(Removable) if name in asked):
        places = [one for one in dict.fromkeys(flagged.get(flaw, ())) if (one.part, one.row) not in gone]
        report.removed[flaw] = sorted(places, key=lambda one: (list(parts).index(one.part), one.row))
        gone |= {(one.part, one.row) for one in places}
    report.kept = {part: [i for i in range(len(one)) if (part, i) not in gone] for part, one in parts.items()}


def _unchecked(dataset: Dataset) -> Iterable[Frame]:
    return (system.frame(i, check=False) for system in dataset.systems for i in range(system.n_frames))


def open_parts(
    data: str | Path | Dataset | Mapping[str, str | Path | Dataset], property_name: str = ""
) -> dict[str, Dataset]:
    """Return the parts of a data set with one type map; one with an empty name if it is not divided.

    Raises
    ------
    DataError
        If the data cannot be opened.
    """
    if isinstance(data, Dataset):
        return {"": data}
    if not isinstance(data, Mapping):
        names = [name for name in ("train", "valid", "test") if (Path(data) / name).is_dir()]
        data = {name: Path(data) / name for name in names} if names else {"": data}
    opened = {
        part: one if isinstance(one, Dataset) else open_dataset(one, property_name=property_name)
        for part, one in data.items()
    }
    names = list(dict.fromkeys(name for dataset in opened.values() for name in dataset.type_map))
    return {
        part: dataset
        if dataset.type_map == tuple(names)
        else open_dataset([s.path for s in dataset.systems], names, property_name=property_name)
        for part, dataset in opened.items()
    }


def _look(frame: Frame, where: Place, names: Sequence[str], limits: _Limits, found: _Found) -> None:
    """Examine one frame by itself."""
    allowed = limits.allowed
    outside = sorted({names[t] for t in frame.types} - set(allowed)) if allowed is not None else []
    if outside:
        found.add("missing_type", where, f"has {', '.join(outside)}, not in the type_map ({' '.join(allowed or ())})")
    missing = [name for name in limits.labels if name not in frame.labels]
    if missing:
        found.add("missing_label", where, f"has no {', '.join(missing)}")
    try:
        check_finite(frame.positions, "coordinates", "")
        for name, value in frame.labels.items():
            check_finite(value, name, "")
        if frame.cell is not None:
            check_finite(frame.cell, "box", "")
    except DataError as error:
        found.add("nan", where, str(error).removeprefix(": "))
        return
    try:
        check_cell(frame.cell, frame.n_atoms, "")
    except DataError as error:
        found.add("bad_cell", where, str(error).removeprefix(": "))
        return
    found.prints.setdefault(fingerprint(frame), []).append(where)
    close = _too_close(frame, names, limits.contact, limits.min_distance)
    if close:
        found.add("too_close", where, close)
    if "forces" in frame.labels and frame.n_atoms > 1:
        found.forces.append((float(np.linalg.norm(frame.labels["forces"], axis=1).max()), where))
    if "energy" in frame.labels and frame.n_atoms > 0:
        counts = np.bincount(frame.types, minlength=len(names)).astype(float)
        found.energies.append((float(frame.labels["energy"]), counts, where))


def _too_close(frame: Frame, names: Sequence[str], contact: float, min_distance: float | None) -> str | None:
    from ase.data import atomic_numbers, covalent_radii

    radii = np.array([covalent_radii[atomic_numbers.get(name, 0)] for name in names])
    least = (
        np.full((len(names),) * 2, min_distance) if min_distance is not None else contact * np.add.outer(radii, radii)
    )
    present = np.unique(frame.types)
    if len(present) == 0 or least[np.ix_(present, present)].max() <= 0:
        return None
    i, j, d = pairs(frame, float(least[np.ix_(present, present)].max()))
    limit = least[frame.types[i], frame.types[j]]
    bad = np.flatnonzero(d < limit)
    if len(bad) == 0:
        return None
    k = bad[np.argmin((d / limit)[bad])]
    pair = f"{names[frame.types[i[k]]]} {i[k]} and {names[frame.types[j[k]]]} {j[k]}"
    return f"atoms {pair} are {d[k]:.3f} Å apart, expected at least {limit[k]:.3f} Å"


def _report_far(kind: str, far: Far, places: Sequence[Place], flagged: dict[str, list[Place]]) -> list[Problem]:
    flagged[kind] = [places[row] for row in far.rows]
    if not far.rows:
        return []
    return [Problem(kind, f"{flagged[kind][0].name}: {far.message}", [where.name for where in flagged[kind]])]


def _equal(prints: Mapping[bytes, Sequence[Place]], out: set[Place]) -> list[tuple[Place, Place]]:
    """Return each frame that equals earlier ones, with the first one of each part among these."""
    found = []
    for places in prints.values():
        first_of: dict[str, Place] = {}
        for where in (one for one in places if one not in out):
            found += [(where, first) for first in first_of.values()]
            first_of.setdefault(where.part, where)
    return found


def _alike(
    parts: Mapping[str, Dataset],
    prints: Mapping[bytes, Sequence[Place]],
    out: set[Place],
    near: NearDuplicates,
    progress: Callable[[int, int, str], None] | None,
) -> list[tuple[Place, Place]]:
    """Return each frame that is nearly the same as an earlier one, with the latter."""
    looked_at = {where for places in prints.values() for where in places if where not in out}
    order = [where for part in parts for where in sorted(one for one in looked_at if one.part == part)]
    found = find_near_duplicates(_InOrder(parts, order), range(len(order)), near, progress=progress)
    return [(order[i], order[stays]) for i, stays in sorted(found.items())]


@dataclass(frozen=True)
class _InOrder:
    """Frames of several parts in one row."""

    parts: Mapping[str, Dataset]
    places: Sequence[Place]

    def __getitem__(self, i: int) -> Frame:
        return self.parts[self.places[i].part][self.places[i].row]


def _same_problems(kind: str, words: str, pairs: Iterable[tuple[Place, Place]]) -> list[Problem]:
    problems: dict[str, Problem] = {}
    for where, first in pairs:
        named = kind if where.part == first.part else f"{kind}_{first.part}_{where.part}"
        problem = problems.setdefault(named, Problem(named, f"{where.name} is {words} {first.name}"))
        problem.frames.append(where.name)
    return list(problems.values())


def _table(summaries: Mapping[str, Summary]) -> str:
    blocks = [(f"{part}\n" if len(summaries) > 1 else "") + summary.table() for part, summary in summaries.items()]
    total: dict[str, Counter[str]] = {}
    for part, summary in summaries.items():
        for formula, count in summary.compositions.items():
            total.setdefault(formula, Counter())[part] += count
    rows = [[formula, *[str(counts[part]) for part in summaries]] for formula, counts in total.items()]
    header = ["composition", *(["frames"] if len(summaries) == 1 else list(summaries))]
    return "\n\n".join([*blocks, format_table(header, rows)])
