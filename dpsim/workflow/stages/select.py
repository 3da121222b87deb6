"""Stage ``select``: the frames of an exploration that are worth labelling."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from dpsim.calculators.selection_config import AdaptiveTrust, SelectConfig
from dpsim.workflow.stage import Inputs, Output, Resources, SeededStage, Slot

if TYPE_CHECKING:
    from ase import Atoms

    from dpsim.calculators.evaluate import Potential
    from dpsim.calculators.selection import FloatArray, Selection
    from dpsim.workflow.context import Artifact, Context

_REFERENCE_FRAMES = 500
"""Frames on which the models are compared for limits that adapt; of more, every n-th is taken."""


class SelectStage(SelectConfig, SeededStage):
    """Sorts frames by how far several models are from each other, and selects what is worth labelling."""

    slots: ClassVar[Mapping[str, Slot]] = {
        "from": Slot(frozenset({"frames", "structures", "dataset"}), many=True),
        "deviation": Slot(frozenset({"table"}), many=True),
        "models": Slot(frozenset({"weights", "frozen"}), many=True),
        "reference": Slot(frozenset({"dataset", "frames"}), many=True),
    }
    outputs: ClassVar[Mapping[str, Output]] = {
        "frames": Output("frames.extxyz", "structures"),
        "accurate": Output("metrics.json", "metrics"),
        "histogram": Output("histogram.csv", "table"),
        "table": Output("deviations.csv", "table"),
    }
    main: ClassVar[str] = "frames"
    uses_type_map: ClassVar[bool] = True
    wants: ClassVar[Resources] = Resources(ranks=1, cpus=None, gpus=1)
    soft: ClassVar[tuple[str, ...]] = ("torch", "ase")
    result_version: ClassVar[int] = 2  # near duplicates by distances instead of descriptors

    uses: Literal["select"] = "select"
    from_: Inputs = Field(alias="from")
    """Frames to select from: of a stage ``md`` with a `deviation`, or of anything else with `models`."""
    deviation: Inputs | None = None
    """Tables of deviations (``model_devi.out``), one for each of `from`; by default those of the stages there."""
    models: Inputs | None = None
    """Trained models, the first of which gives the descriptor; by default those behind the stages in `from`. Two or
    more give the deviation where no table does."""
    reference: Inputs | None = None
    """Data there are already: their deviations set the limits of ``trust: {mode: adaptive}``, and near duplicates of
    them are dropped; by default what the first model was trained on. Without any, limits come from the frames."""

    @property
    def inherits(self) -> tuple[str, ...]:
        """What is taken from the stages behind the frames where it is not declared."""
        return ("deviation", "models", *(("reference",) if self._uses_reference else ()))

    @property
    def _uses_reference(self) -> bool:
        return isinstance(self.trust, AdaptiveTrust) or "near_duplicate" in self.drop

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Check that a reference has a use."""
        if self.reference is not None and not self._uses_reference:
            yield (
                ("reference",),
                "a reference sets limits that adapt (trust: {mode: adaptive}), or is compared with (drop: "
                "[near_duplicate]); here the limits are fixed and nothing is compared",
            )

    def seed_for(self, workflow_seed: int) -> int | None:
        """Return the seed of a random choice, None without one."""
        is_random = self.diversify is not None and self.diversify.method == "random"
        return super().seed_for(workflow_seed) if is_random else None

    def execute(self, context: Context) -> None:
        """Select, and write frames, shares, histogram and the table of all frames."""
        from dpsim.calculators.selection import frame_features, select
        from dpsim.data.files import write_json, write_text

        frames, origins = _frames(context)
        known = _tables(context, frames, origins)
        models = _Models(context)
        deviations, forces = _complete(frames, known, models, context)
        selection = select(
            SelectConfig.model_validate({name: getattr(self, name) for name in SelectConfig.model_fields}),
            frames,
            deviations,
            reference=self._reference(context, models),
            forces=forces,
            features=(lambda chosen: frame_features(models.first(), chosen)) if models.paths else None,
            known=self._known(context),
            seed=context.seed,
        )
        _write_frames(context.out / "frames.extxyz", frames, origins, selection)
        write_json(context.out / "metrics.json", selection.metrics())
        write_text(context.out / "histogram.csv", _histogram(selection))
        write_text(context.out / "deviations.csv", _deviations(selection, frames, origins))
        _tell(selection, context)

    def _reference(self, context: Context, models: _Models) -> FloatArray | None:
        """Return the deviations on what sets the limits; None for the frames themselves."""
        from dpsim.calculators.md.results import read_frames
        from dpsim.calculators.selection import ensemble_deviation

        paths = context.paths("reference")
        if not paths or len(models.paths) < 2:
            return None
        frames = [atoms for path in paths for atoms in read_frames(path, context.type_map)]
        found = frames[:: math.ceil(len(frames) / _REFERENCE_FRAMES)]
        return ensemble_deviation(models.all(), found, context.progress)[0]

    def _known(self, context: Context) -> Iterator[Atoms]:
        """Yield the structures of the reference, where near duplicates are dropped."""
        from dpsim.calculators.md.results import read_frames

        for path in context.paths("reference") if "near_duplicate" in self.drop else ():
            yield from read_frames(path, context.type_map)


class _Models:
    """The models of a selection, loaded when they are needed."""

    def __init__(self, context: Context) -> None:
        self.paths = context.paths("models")
        self._device = "auto" if context.resources.gpus else "cpu"
        self._loaded: dict[Path, Potential] = {}

    def _load(self, path: Path) -> Potential:
        from dpsim.calculators.evaluate import load

        if path not in self._loaded:
            self._loaded[path] = load(path, device=self._device)
        return self._loaded[path]

    def first(self) -> Potential:
        """Return the first model."""
        return self._load(self.paths[0])

    def all(self) -> list[Potential]:
        """Return all models."""
        return [self._load(path) for path in self.paths]


def _frames(context: Context) -> tuple[list[Atoms], list[tuple[Artifact, int]]]:
    """Return all frames, and from which input and place in it each is."""
    from dpsim.calculators.md.results import read_frames

    frames, origins = [], []
    for artifact in context.inputs["from"]:
        for path in artifact.paths:
            for number, atoms in enumerate(read_frames(path, context.type_map)):
                frames.append(atoms)
                origins.append((artifact, number))
    return frames, origins


def _tables(context: Context, frames: Sequence[Atoms], origins: Sequence[tuple[Artifact, int]]) -> list[float | None]:
    """Return the deviation of each frame that a table holds; frames are found by their step, else by their place."""
    from dpsim.errors import ConfigError

    given = list(context.inputs.get("deviation", ()))
    sources = list(context.inputs["from"])
    by_stage = {artifact.stage: _read_table(artifact.paths[0]) for artifact in given if artifact.stage is not None}
    matched: dict[int, _Table] = {}
    for number, source in enumerate(sources):
        if source.stage is not None and source.stage in by_stage:
            matched[id(source)] = by_stage[source.stage]
        elif len(given) == len(sources):
            matched[id(source)] = _read_table(given[number].paths[0])
        elif given:
            raise ConfigError(f"deviation: {len(given)} tables are given for {len(sources)} inputs of frames")
    return [
        matched[id(source)].of(atoms, number) if id(source) in matched else None
        for atoms, (source, number) in zip(frames, origins, strict=True)
    ]


class _Table:
    """Deviations of a run by step; of runs from several starts, where steps begin again, also by start."""

    def __init__(self, rows: Sequence[tuple[int, float]]) -> None:
        self._by_step = dict(rows)
        self._by_start: dict[tuple[int, int], float] = {}
        start, last = 0, -1
        for step, value in rows:
            start += step <= last
            last = step
            self._by_start[start, step] = value

    def of(self, atoms: Atoms, number: int) -> float | None:
        """Return the deviation of a frame, None if there is none; a frame without a step is found by its number."""
        step = int(atoms.info.get("step", number))
        if "start" in atoms.info:
            return self._by_start.get((int(atoms.info["start"]), step))
        return self._by_step.get(step)


def _read_table(path: Path) -> _Table:
    """Return the largest deviations of a force."""
    from dpsim.errors import DataError

    lines = path.read_text(encoding="utf-8").splitlines()
    header = lines[0].lstrip("#").split() if lines else []
    column = next((header.index(name) for name in ("max_devi_f", "max_devi_fr") if name in header), None)
    if column is None:
        raise DataError(f"{path} is no table of deviations: its first line has no column max_devi_f")
    try:
        return _Table([(int(row[0]), float(row[column])) for row in (line.split() for line in lines[1:]) if row])
    except (ValueError, IndexError):
        raise DataError(f"{path} is damaged: a row is not a step with numbers") from None


def _complete(
    frames: Sequence[Atoms], known: Sequence[float | None], models: _Models, context: Context
) -> tuple[FloatArray, list[FloatArray | None]]:
    """Return the deviations of all frames, those that no table holds by the models, and the forces that are known."""
    import numpy as np

    from dpsim.calculators.selection import ensemble_deviation
    from dpsim.errors import DataError

    forces = [_labelled_forces(atoms) for atoms in frames]
    missing = [number for number, value in enumerate(known) if value is None]
    values = np.array([math.nan if value is None else value for value in known], dtype=float)
    if missing and len(models.paths) < 2:
        step = frames[missing[0]].info.get("step")
        where = f"step {step}" if step is not None else f"frame {missing[0]}"
        raise DataError(
            f"the deviation of {len(missing)} of {len(frames)} frames is not known ({where} is the first): write "
            "frames and deviations at the same steps (run: dump, deviation), or give two or more 'models'"
        )
    if missing:
        found, predicted = ensemble_deviation(models.all(), [frames[i] for i in missing], context.progress)
        values[missing] = found
        for number, one in zip(missing, predicted, strict=True):
            forces[number] = one if forces[number] is None else forces[number]
    return values, forces


def _labelled_forces(atoms: Atoms) -> FloatArray | None:
    import numpy as np

    for name in ("REF_forces", "forces"):
        if atoms.has(name):
            return np.asarray(atoms.get_array(name), dtype=float)
    held = atoms.calc.results.get("forces") if atoms.calc is not None else None
    return None if held is None else np.asarray(held, dtype=float)


def _name(artifact: Artifact) -> str:
    """Return where frames come from, the same in whatever folder the run is."""
    return artifact.stage or artifact.paths[0].name


def _write_frames(
    path: Path, frames: Sequence[Atoms], origins: Sequence[tuple[Artifact, int]], selection: Selection
) -> None:
    """Write the bare structures that were chosen; without any, an empty file."""
    from ase import Atoms

    from dpsim.calculators.md.results import write_frames

    def chosen() -> Iterator[Atoms]:
        for index in selection.chosen:
            atoms, (artifact, number) = frames[index], origins[index]
            info = {
                "source": f"{_name(artifact)}#{number}",
                "config_type": "selected",
                "max_devi_f": float(selection.deviation[index]),
            }
            yield Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)

    write_frames(path, chosen())


def _histogram(selection: Selection) -> str:
    edges, rows = selection.histogram()
    lines = [",".join(("low_eV_A", "high_eV_A", *rows))]
    lines += [
        f"{low:.8g},{high:.8g}," + ",".join(str(int(row[i])) for row in rows.values())
        for i, (low, high) in enumerate(itertools.pairwise(edges))
    ]
    return "\n".join(lines) + "\n"


def _deviations(selection: Selection, frames: Sequence[Atoms], origins: Sequence[tuple[Artifact, int]]) -> str:
    from dpsim.calculators.selection import CLASSES

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "frame", "step", "max_devi_f_eV_A", "class", "dropped", "selected"])
    flaws = {int(i): name for name, numbers in selection.flaws.items() for i in numbers}
    chosen = set(selection.chosen.tolist())
    for index, (atoms, (artifact, number)) in enumerate(zip(frames, origins, strict=True)):
        named = CLASSES[selection.classes[index]]
        row: list[Any] = [_name(artifact), number, atoms.info.get("step", ""), f"{selection.deviation[index]:.8g}"]
        writer.writerow([*row, named, flaws.get(index, ""), int(index in chosen)])
    return text.getvalue()


def _tell(selection: Selection, context: Context) -> None:
    """Log what was found, with what to do where nothing can be learnt from it."""
    found = selection.metrics()
    counts, total = found["counts"], found["frames"]
    said = ", ".join(f"{count} {name}" for name, count in counts.items())
    context.log(f"{total} frames: {said}; {found['selected']} selected")
    high = "" if found["high"] is None else f", failed from {found['high']:.4g}"
    context.log(f"limits in eV/Å: accurate up to {found['low']:.4g}{high}")
    for name, number in found["dropped"].items():
        if number:
            context.log(f"dropped as {name}: {number}")
    if counts["failed"] > 0.5 * total:
        context.log(
            "more than half of the frames have failed: explore more gently (lower temperature, shorter runs), train "
            "longer, or begin with more data; limits are of use only where the models are near right"
        )
    context.progress(
        total, total, "frames", accurate=found["accurate"], candidate=found["candidate"], failed=found["failed"],
        selected=found["selected"],
    )  # fmt: skip
