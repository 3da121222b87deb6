"""A LAMMPS input of the user, of which dpsim writes the pair lines and nothing else.

The lines are put behind every command that makes a box (``read_data``, ``read_restart``, ``create_box``), or wherever
the input says ``# dpsim: pair``. The input gets these variables: ``start`` (data file of the start structure, where one
is declared), ``seed``, ``resumed`` (``yes`` where an earlier attempt left a restart file, else ``no``), ``resume`` (the
newest of them, else ``none``), and its own.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dpsim.calculators.lammps_data import elements_of, lammps_box, write_data
from dpsim.calculators.md.analysis import rdf
from dpsim.calculators.md.config import MDConfig, ScriptConfig
from dpsim.calculators.md.deck import DATA_FILE, dpsim_pair_lines, lammps_seed, with_route
from dpsim.calculators.md.output import read_error
from dpsim.calculators.md.process import LammpsProcess
from dpsim.calculators.md.results import write_frames, write_rdf
from dpsim.calculators.md.start import model_files
from dpsim.calculators.md.stop import Deadline
from dpsim.data.files import read_json, write_json, write_text
from dpsim.errors import ConfigError, DataError, StageError

if TYPE_CHECKING:
    from ase import Atoms

    from dpsim.calculators.md.lammps import Launcher, Progress

MARKER = "# dpsim: pair"
INPUT, LOG = "in.lammps", "log.lammps"
_BOX = ("read_data", "read_restart", "create_box")
_RESTARTS = ("*restart*",)
_STATE = "script.json"
_POLL = 0.2


class Injected(NamedTuple):
    """An input with the pair lines, and where they are: numbers of the lines of the user they follow."""

    text: str
    after: tuple[int, ...]


def inject(text: str, pair_lines: Sequence[str], name: str = "script") -> Injected:
    """Put the pair lines into an input.

    Parameters
    ----------
    text
        The input.
    pair_lines
        The ``pair_style`` and ``pair_coeff`` lines.
    name
        Of the input, for errors.

    Raises
    ------
    ConfigError
        If the input has such lines of its own, or no place for them is found.
    """
    lines = text.splitlines()
    commands = list(_commands(lines))
    for first, _, words in commands:
        if words[0] in ("pair_style", "pair_coeff"):
            raise ConfigError(
                f"{name}:{first + 1}: {words[0]} is written by dpsim, which knows the model and its elements: remove "
                f"the line (the lines go behind the box, or where the input says '{MARKER}')"
            )
    marked = [index for index, line in enumerate(lines) if line.strip() == MARKER]
    places = marked or [last for _, last, words in commands if words[0] in _BOX and "add" not in words]
    if not places:
        raise ConfigError(
            f"{name}: there is no line {', '.join(_BOX[:-1])} or {_BOX[-1]} behind which pair lines could go: "
            f"write '{MARKER}' where they belong"
        )
    result: list[str] = []
    for index, line in enumerate(lines):
        result.append(line)
        if index in places:
            result += ["# ---- by dpsim", *pair_lines, "# ----"]
    return Injected("\n".join(result) + "\n", tuple(place + 1 for place in places))


def _commands(lines: Sequence[str]) -> Iterator[tuple[int, int, list[str]]]:
    """First line, last line and words of each command; a line that ends in & goes on."""
    index = 0
    while index < len(lines):
        first, parts = index, [_code(lines[index])]
        while parts[-1].endswith("&") and index + 1 < len(lines):
            index += 1
            parts[-1] = parts[-1][:-1]
            parts.append(_code(lines[index]))
        if words := " ".join(parts).split():
            yield first, index, words
        index += 1


def _code(line: str) -> str:
    """A line without its comment; a # in quotes is none."""
    quote = ""
    for place, letter in enumerate(line):
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter == "#":
            return line[:place].rstrip()
    return line.rstrip()


def run_script(
    config: MDConfig,
    script: ScriptConfig,
    source: Path,
    start_atoms: Atoms | None,
    potentials: Sequence[Path],
    work: Path,
    out: Path,
    *,
    type_map: Sequence[str],
    files: Sequence[Path] = (),
    ranks: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
    launcher: Launcher | None = None,
    pair_lines: Sequence[str] | None = None,
    mpi: str | None = None,
) -> dict[str, Any]:
    """Run an input of the user with a frozen model.

    Parameters
    ----------
    config
        Its `analyse.rdf` is used, where the input writes frames.
    script
        What is said of the input.
    source
        The input itself.
    start_atoms
        Structure that is written as a data file, if any.
    potentials
        The frozen model.
    work, out
        Folder kept between attempts, in which the input runs, and folder of the outputs: ``in.lammps`` (as it was run),
        ``log.lammps``, ``thermo.csv``, ``files/`` (all that it wrote), ``analysis.json``, and ``trajectory.extxyz`` and
        ``rdf.csv`` where asked for.
    files
        Linked into the working folder.
    type_map, ranks, seed, progress, mpi
        As in `dpsim.calculators.md.lammps.run_md`.
    launcher, pair_lines
        Instead of those of dpsim.

    Returns
    -------
    dict
        What ``analysis.json`` holds.

    Raises
    ------
    ConfigError
        If the input has pair lines of its own, or its atom types are not known.
    StageError
        If LAMMPS fails.
    Interrupted
        On SIGTERM; calling again gives the input its restart file.
    """
    from dpsim.calculators.md.lammps import product_launcher

    (model,) = model_files(config, potentials)
    elements = script.types or (() if start_atoms is None else elements_of(start_atoms, tuple(type_map)))
    if not elements:
        raise ConfigError("script.types: name the element of each LAMMPS atom type, such as [O, H], or give start")
    if unknown := [element for element in elements if element != "NULL" and element not in type_map]:
        raise ConfigError(f"script.types: {unknown[0]} is not in type_map, which holds {', '.join(type_map)}")
    plain = list(pair_lines or dpsim_pair_lines("model.pt2", elements))
    text = source.read_text(encoding="utf-8")
    injected = inject(text, plain, str(script.path))
    folder = _Folder(work / "run")
    links = {"model.pt2": model, **{path.name: path.resolve() for path in files}}
    given = {"seed": str(lammps_seed(seed)), **script.variables}
    key = [injected.text, given, [hashlib.blake2b(path.read_bytes()).hexdigest() for path in links.values()]]
    start = None if start_atoms is None else [start_atoms.positions.tolist(), start_atoms.cell.array.tolist(), elements]
    if not folder.open(hashlib.blake2b(json.dumps([key, start]).encode(), digest_size=20).hexdigest()):
        for name, path in links.items():
            (folder.path / name).symlink_to(path)
        if start_atoms is not None:
            box, keep = lammps_box(start_atoms), start_atoms.has("momenta")
            write_data(folder.path / DATA_FILE, start_atoms, elements, box, tilt=False, velocities=keep)
    lines = with_route(plain, mpi)  # an input that goes on may exchange data in another way
    if not folder.finished:
        write_text(folder.path / INPUT, inject(text, lines, str(script.path)).text)
    if start_atoms is not None:
        given["start"] = DATA_FILE
    if progress is not None:
        progress(0, None, f"pair lines behind line {', '.join(map(str, injected.after))}: {' | '.join(lines)}")
    if not folder.finished:
        _launch(folder, given, ranks, launcher or product_launcher(progress, 0), progress, Deadline(config.walltime))
    summary = {"script": script.path, "injected": lines, "after_lines": list(injected.after), "ranks": ranks,
               "variables": given, "attempts": folder.attempts}  # fmt: skip
    return _collect(config, script, folder, {*links, DATA_FILE}, elements, out, summary)


@dataclass
class _Folder:
    """Where the input runs."""

    path: Path
    finished: bool = False
    attempts: int = 0
    key: str = ""

    def open(self, key: str) -> bool:
        """Whether earlier attempts of this very input are there; others are cleared away."""
        state = read_json(self.path / _STATE) if (self.path / _STATE).exists() else {}
        self.key = key
        if state.get("key") == key:
            self.finished, self.attempts = bool(state["finished"]), int(state["attempts"])
            return True
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir(parents=True)
        return False

    def save(self) -> None:
        """Record what was done."""
        write_json(self.path / _STATE, {"key": self.key, "finished": self.finished, "attempts": self.attempts})

    def newest_restart(self) -> str:
        """Name of the newest restart file, or ``none``."""
        found = [path for pattern in _RESTARTS for path in self.path.glob(pattern) if path.is_file()]
        return max(found, key=lambda path: path.stat().st_mtime_ns).name if found else "none"


def _launch(
    folder: _Folder,
    variables: Mapping[str, str],
    ranks: int,
    launcher: Launcher,
    progress: Progress | None,
    deadline: Deadline,
) -> None:
    resume = folder.newest_restart() if folder.attempts else "none"
    folder.attempts += 1
    folder.save()
    argv, env = launcher(ranks, (folder.path / INPUT).absolute())
    given = {**variables, "resumed": "no" if resume == "none" else "yes", "resume": resume}
    words = [word for name, value in given.items() for word in ("-var", name, value)]
    log, screen = folder.path / LOG, folder.path / "screen.txt"
    if log.exists():
        log.rename(folder.path / f"log-{folder.attempts - 1:03d}.lammps")
    with LammpsProcess([*argv, *words, "-log", LOG, "-nocite"], env, folder.path, screen, deadline) as process:
        while not process.wait(_POLL):
            step = _last_step(log)
            if progress is not None:
                progress(step, None, f"step {step}")
            process.check_signal(f"md was stopped at step {step}")
    if process.exit_code != 0:
        reason = read_error(log) or read_error(screen) or f"it ended with code {process.exit_code}, without a message"
        raise StageError(f"LAMMPS failed in the script: {reason}; see {log if log.exists() else screen}")
    folder.finished = True
    folder.save()


def _last_step(log: Path) -> int:
    """Step of the last line of numbers in the end of a log."""
    if not log.exists():
        return 0
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        lines = file.read().decode("utf-8", "replace").splitlines()
    found = [match for line in lines if (match := re.match(r"^\s*(?:- \[)?(\d+)[,\s]", line))]
    return int(found[-1][1]) if found else 0


def _collect(
    config: MDConfig,
    script: ScriptConfig,
    folder: _Folder,
    given: set[str],
    elements: Sequence[str],
    out: Path,
    summary: dict[str, Any],
) -> dict[str, Any]:
    (out / "files").mkdir(parents=True, exist_ok=True)
    mine = given | {INPUT, LOG, _STATE, "screen.txt"}
    for path in sorted(folder.path.iterdir()):
        if path.name not in mine:
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, out / "files" / path.name)
    for name in (INPUT, LOG):
        shutil.copy2(folder.path / name, out / name)
    tables = read_thermo((folder.path / LOG).read_text(errors="replace"))
    write_text(out / "thermo.csv", thermo_csv(tables))
    summary["thermo_lines"] = sum(len(rows) for _, rows in tables)
    if script.frames is not None:
        frames = read_script_frames(folder.path / script.frames, elements)
        write_frames(out / "trajectory.extxyz", frames)
        summary["frames"] = len(frames)
        if (wanted := config.analyse.rdf) is not None:
            found = rdf(frames, wanted.pairs, wanted.r_max, wanted.bins, images=wanted.images)
            write_rdf(out / "rdf.csv", found, None)
            summary["rdf"] = {"frames": found.frames, "pairs": {"-".join(pair): {} for pair in found.g}}
    write_json(out / "analysis.json", summary)
    return summary


Table = tuple[list[str], list[list[float]]]
"""Names of columns, and rows, of one run."""


def read_thermo(log: str) -> list[Table]:
    """Read the thermodynamic tables of a log, written in one line or as YAML; lines of another style are left out."""
    tables: list[Table] = []
    inside = False
    for line in log.splitlines():
        words = line.split()
        if words[:1] == ["Step"] and not inside:
            tables.append((words, []))
            inside = True
        elif line.startswith("keywords:"):
            tables.append((re.findall(r"'([^']+)'", line), []))
        elif line.startswith("  - [") and tables:
            tables[-1][1].append([float(word) for word in line.strip(" -[]").split(",") if word.strip()])
        elif line.startswith("Loop time"):
            inside = False
        elif inside and words:
            try:
                row = [float(word) for word in words]
            except ValueError:
                continue
            if len(row) == len(tables[-1][0]):
                tables[-1][1].append(row)
    return [table for table in tables if table[1]]


def thermo_csv(tables: Sequence[Table]) -> str:
    """Write tables as one CSV: a column ``run``, and every column that any of them has."""
    names = list(dict.fromkeys(name for columns, _ in tables for name in columns))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", *names])
    for number, (columns, rows) in enumerate(tables):
        for row in rows:
            values = dict(zip(columns, row, strict=True))
            cells = [values.get(name, "") for name in names]
            writer.writerow([number, *(int(x) if isinstance(x, float) and x == int(x) else x for x in cells)])
    return text.getvalue()


def read_script_frames(path: Path, elements: Sequence[str]) -> list[Atoms]:
    """Read the frames of a dump, with their steps.

    Raises
    ------
    DataError
        If the file is missing or no dump in text.
    """
    from ase.io import read

    if not path.is_file():
        raise DataError(f"script.frames: the input wrote no {path.name}: name the file of its dump")
    try:
        frames: list[Atoms] = read(path, index=":", format="lammps-dump-text", specorder=list(elements))
    except (ValueError, KeyError, IndexError, AssertionError) as error:
        raise DataError(
            f"script.frames: {path.name} cannot be read as a text dump ({error}): write 'dump ID all custom N FILE id "
            "type xu yu zu'"
        ) from None
    steps = re.findall(r"ITEM: TIMESTEP\s+(\d+)", path.read_text())
    for atoms, step in zip(frames, steps, strict=False):
        atoms.info, atoms.calc = {"step": int(step)}, None
    return frames
