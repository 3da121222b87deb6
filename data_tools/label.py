"""Labelling of structures with a calculator: in parallel, resumable, with failures counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from data_tools.calculators import (
    CalculatorConfig,
    EAMConfig,
    EMTConfig,
    LJConfig,
    Property,
    PySCFConfig,
    TBLiteConfig,
)
from data_tools.code_calculators import CodeConfig
from data_tools.journal import Journal, task_key
from data_tools.pool import run_tasks
from data_tools.structure_config import MDSampling
from data_tools.worker import atoms_from_dict, atoms_to_dict
from dpsim.data.files import new_file, write_json
from dpsim.data.frame import check_cell, check_finite
from dpsim.errors import DataError
from dpsim.fields import BY_NAME

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["CalculatorConfig", "LabelResult", "label"]

Progress = Callable[[int, int, str], None]
"""Called with frames done, frames in all, and the source of the frame just finished."""
_Calculator = EMTConfig | TBLiteConfig | EAMConfig | LJConfig | PySCFConfig | CodeConfig


@dataclass(frozen=True)
class LabelResult:
    """What labelling produced."""

    frames: Path
    """Extended XYZ with ``REF_energy`` (eV), ``REF_forces`` (eV/Å), ``REF_stress`` (9 numbers, eV/Å³)."""
    failed: Path
    """JSON list of what failed and why."""
    n_frames: int
    n_failed: int
    n_reused: int
    """Frames that an earlier run had labelled."""


@dataclass(frozen=True)
class _Failure:
    index: int
    source: str
    formula: str
    frames: int
    """Number of frames that are missing."""
    error: str


def label(
    structures: Sequence[Atoms],
    calculator: _Calculator,
    output_dir: str | Path,
    *,
    properties: Sequence[Property] = ("energy", "forces", "stress"),
    tolerate_failures: float = 0.0,
    workers: int = 1,
    on_progress: Progress | None = None,
) -> LabelResult:
    """Label structures, or the frames of molecular dynamics from them, and write ``frames.extxyz``.

    A structure whose ``info["sampling"]`` holds settings (`build_structures` puts them there) is the start of a
    trajectory; else it is one frame. Every finished frame is kept in ``journal.jsonl``, so that after a kill only
    the frames in flight are done again; the result is the same, in the order of the structures.

    Parameters
    ----------
    structures
        What to label; ``info["source"]`` and ``info["config_type"]`` are passed on.
    calculator
        Settings of the calculator.
    output_dir
        Folder of the result, the journal and the log.
    properties
        What to compute; structures with open boundaries get no stress.
    tolerate_failures
        Share of frames that may fail (no convergence, values that are not finite, a dead worker).
    workers
        Number of processes, each with one thread.
    on_progress
        Called after every frame.

    Raises
    ------
    DataError
        If an element is not known to the calculator, or more frames fail than tolerated.
    """
    output = Path(output_dir)
    chosen = tuple(properties)
    _check(structures, calculator, chosen, tolerate_failures, workers)
    output.mkdir(parents=True, exist_ok=True)
    settings = _key_settings(calculator)
    tasks = [_task(i, atoms, settings, chosen) for i, atoms in enumerate(structures)]
    planned = {task["task"]: _planned(task) for task in tasks}
    keys = {task["task"]: task_key(task) for task in tasks}
    if isinstance(calculator, CodeConfig):
        _add_code(tasks, keys, calculator, output)
    elif isinstance(calculator, EAMConfig):
        located = calculator.located().model_dump(mode="json")
        tasks = [{**task, "calculator": located} for task in tasks]
    with Journal(output / "journal.jsonl") as journal:
        reused = sum(len(journal.frames.get(key, ())) for key in set(keys.values()))
        errors = _work(tasks, keys, planned, journal, workers, output / "workers.log", structures, on_progress)
        frames = [
            _labelled(structures[i], journal.frames[key][number], number, i if tasks[i]["md"] else None)
            for i, key in keys.items()
            for number in sorted(journal.frames.get(key, ()))
        ]
        failures = [
            _Failure(
                i,
                _source(structures[i]),
                structures[i].get_chemical_formula(),
                planned[i] - len(journal.frames.get(keys[i], ())),
                error,
            )
            for i, error in sorted(errors.items())
        ]
    write_json(output / "failed.json", {"failed": [asdict(failure) for failure in failures]})
    n_failed = sum(failure.frames for failure in failures)
    _judge(failures, n_failed, sum(planned.values()), tolerate_failures, output)
    _write(output / "frames.extxyz", frames)
    return LabelResult(output / "frames.extxyz", output / "failed.json", len(frames), n_failed, reused)


def _check(
    structures: Sequence[Atoms],
    calculator: _Calculator,
    properties: tuple[Property, ...],
    tolerate_failures: float,
    workers: int,
) -> None:
    if not structures:
        raise DataError("label: there are no structures, expected at least one")
    unknown = [name for name in properties if name not in get_args(Property)]
    if unknown or not properties:
        raise DataError(f"label: properties are {list(properties)}, expected some of {', '.join(get_args(Property))}")
    if not 0 <= tolerate_failures <= 1:
        raise DataError(f"label: tolerate_failures is {tolerate_failures}, expected a share between 0 and 1")
    if workers < 1:
        raise DataError(f"label: workers is {workers}, expected at least one process")
    for i, atoms in enumerate(structures):
        if len(atoms) == 0:
            raise DataError(f"label: structure {i} ({_source(atoms)}) has no atoms")
        check_finite(atoms.positions, "coordinates", _source(atoms))
        if atoms.pbc.all():
            check_cell(atoms.cell.array, len(atoms), _source(atoms))
        calculator.check(atoms, properties)


def _key_settings(calculator: _Calculator) -> dict[str, Any]:
    """Return what of a calculator decides the labels, with the content of its files."""
    if isinstance(calculator, CodeConfig):
        return {**calculator.key_settings(), "files": calculator.digests()}
    return calculator.key_settings() if isinstance(calculator, EAMConfig) else calculator.model_dump(mode="json")


def _task(i: int, atoms: Atoms, settings: dict[str, Any], properties: tuple[Property, ...]) -> dict[str, Any]:
    return {
        "task": i,
        "atoms": atoms_to_dict(atoms),
        "calculator": settings,
        "properties": sorted(properties),
        "md": atoms.info.get("sampling"),
    }


def _add_code(tasks: Sequence[dict[str, Any]], keys: Mapping[int, str], config: CodeConfig, output: Path) -> None:
    """Give tasks what is not part of their key: how the code is started and where; the command is written down."""
    located = config.located()
    settings = located.model_dump(mode="json")
    write_json(output / "calculator.json", {"name": config.name, "command": located.command, "cores": config.cores})
    for task in tasks:
        task["calculator"] = settings
        task["folder"] = str(output.absolute() / "frames" / keys[task["task"]][:16])


def _planned(task: Mapping[str, Any]) -> int:
    if task["md"] is None:
        return 1
    settings = MDSampling.model_validate(task["md"]["md"])
    return settings.steps // settings.every


def _work(
    tasks: Sequence[dict[str, Any]],
    keys: Mapping[int, str],
    planned: Mapping[int, int],
    journal: Journal,
    workers: int,
    log: Path,
    structures: Sequence[Atoms],
    on_progress: Progress | None,
) -> dict[int, str]:
    """Label what the journal lacks; return the error of each task that failed."""
    first: dict[str, int] = {}
    for i, key in keys.items():  # equal structures are labelled once
        first.setdefault(key, i)
    todo = [tasks[i] for key, i in first.items() if key not in journal.finished]
    total = sum(planned.values())
    copies = {key: sum(other == key for other in keys.values()) for key in first}
    done = sum(len(journal.frames.get(key, ())) * copies[key] for key in first)
    if on_progress is not None and done:
        on_progress(done, total, "kept from an earlier run")
    states = {i: journal.states[key] for key, i in first.items() if key in journal.states}
    errors: dict[str, str] = {}
    for answer in run_tasks(todo, workers, log, states):
        i = answer["task"]
        key = keys[i]
        if "error" in answer:
            errors[key] = answer["error"]
            done += (planned[i] - len(journal.frames.get(key, ()))) * copies[key]
        else:
            journal.add(key, answer)
            if answer.get("state") is not None:
                states[i] = answer["state"]
            done += copies[key] if answer.get("frame") is not None else 0
        if on_progress is not None and ("error" in answer or answer.get("frame") is not None):
            on_progress(done, total, _source(structures[i]))
    return {i: errors[key] for i, key in keys.items() if key in errors}


def _source(atoms: Atoms) -> str:
    return str(atoms.info.get("source") or atoms.get_chemical_formula())


def _labelled(structure: Atoms, frame: Mapping[str, Any], number: int, trajectory: int | None) -> Atoms:
    """Return the structure of a frame with its labels where extended XYZ has them."""
    atoms = atoms_from_dict(dict(frame))
    atoms.info = {
        "source": _source(structure) + ("" if trajectory is None else f"/md-{trajectory}"),
        "config_type": str(structure.info.get("config_type", "structure")) if trajectory is None else "md",
    }
    if trajectory is not None:
        atoms.info["md_frame"], atoms.info["md_step"] = number, frame["step"]
    labels = frame["labels"]
    if "energy" in labels:
        atoms.info[str(BY_NAME["energy"].extxyz)] = labels["energy"]
    if "stress" in labels:
        atoms.info["REF_stress"] = np.array(labels["stress"])
    if "forces" in labels:
        atoms.set_array(str(BY_NAME["forces"].extxyz), np.array(labels["forces"]).reshape(-1, 3))
    return atoms


def _judge(failures: Sequence[_Failure], n_failed: int, total: int, tolerated: float, output: Path) -> None:
    if n_failed == 0 or (n_failed <= tolerated * total and n_failed < total):
        return
    listed = "; ".join(f"structure {failure.index} ({failure.source}): {failure.error}" for failure in failures[:3])
    more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
    raise DataError(
        f"label: {n_failed} of {total} frames failed ({n_failed / total:.0%}), at most {tolerated:.0%} are tolerated "
        f"(see {output / 'failed.json'}): {listed}{more}"
    )


def _write(path: Path, frames: Sequence[Atoms]) -> None:
    from ase.io import write

    with new_file(path) as temporary:
        write(temporary, list(frames), format="extxyz")
