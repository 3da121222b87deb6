"""Molecular dynamics with LAMMPS: write the deck, start it under MPI, follow its log, collect and analyse.

A run lives in a work folder. If it is killed, the next call with the same settings goes on from the last checkpoint
there; what the outputs hold does not depend on whether or where that happened.
"""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dpsim.calculators.ase_frame import spins_of
from dpsim.calculators.lammps_data import LammpsBox, elements_of, lammps_box, write_data
from dpsim.calculators.md.config import MDConfig, place_of
from dpsim.calculators.md.deck import (
    DATA_FILE,
    Attempt,
    DeckSettings,
    check_box,
    deck_text,
    deviation_name,
    dpsim_pair_lines,
    dump_name,
    first_span,
    spans,
)
from dpsim.calculators.md.deviation_output import DeviationFollower
from dpsim.calculators.md.output import DumpFollower, LogFollower, Trajectory, log_name, read_error
from dpsim.calculators.md.process import LammpsProcess
from dpsim.calculators.md.results import MDResult, check_analyses, collect, reference_frames
from dpsim.calculators.md.segments import MinimizeSegment, NPTSegment
from dpsim.calculators.md.start import check_start, model_files
from dpsim.calculators.md.stop import Deadline, Watch
from dpsim.data.files import read_json, write_json, write_text
from dpsim.errors import StageError
from dpsim.export.metadata import read_metadata

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms
    from numpy.typing import NDArray

ATTEMPTS = "attempts.json"
KEPT_CHECKPOINTS = 2
_POLL = 0.2
_REPORT = 1.0


class Launcher(Protocol):
    """Builds the command that runs a LAMMPS input on some ranks: argument list and environment."""

    def __call__(self, ranks: int, input: Path, /) -> tuple[list[str], dict[str, str]]: ...


Progress = Callable[..., None]
"""Called as ``progress(step, total_steps, message, **values)``: temperature (K), steps_per_second, seconds_left.

It may raise, which stops the run.
"""


def run_md(
    config: MDConfig,
    start_atoms: Atoms,
    potentials: Sequence[Path],
    work: Path,
    out: Path,
    *,
    type_map: Sequence[str],
    ranks: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
    reference: Sequence[Path] = (),
    mpi: str | None = None,
    deadline: Deadline | None = None,
) -> MDResult:
    """Run molecular dynamics with a frozen model, or with several, of which the first drives.

    Parameters
    ----------
    config
        The run; its `start` and `reference` have been resolved to `start_atoms` and `reference`.
    start_atoms
        Structure to begin with, periodic in any subset of directions. A spin model takes the spins from it, as
        `DPCalculator` does; they stay as they are.
    potentials
        The frozen model; more of them, if `config` asks for their deviation.
    work
        Folder kept between attempts.
    out
        Folder that receives ``thermo.csv``, ``trajectory.extxyz``, ``final.extxyz``, ``final.data``,
        ``analysis.json``, and ``rdf.csv``, ``msd.csv``, ``model_devi.out`` where asked for.
    type_map
        Elements the model knows.
    ranks
        MPI ranks.
    seed
        Of velocities and noise, where `config` names none.
    progress
        Called about once a second.
    reference
        Files that ASE reads, or data sets, with frames whose g(r) is put beside that of the run.
    mpi
        How ranks exchange data: ``auto``, ``device`` (from GPU to GPU) or ``host``. It may change when a run goes on.
    deadline
        End of the wall time of several runs together; by default `MDConfig.walltime` counts from the start of this one.

    Raises
    ------
    ConfigError, DataError, ModelError
        If the settings, the structure and the model do not fit together.
    StageError
        If LAMMPS fails, an atom is lost, a number is not finite, or a stop condition is met.
    Interrupted
        On SIGTERM; calling again continues.
    """
    models = model_files(config, potentials)
    elements = elements_of(start_atoms, tuple(type_map))
    references = reference_frames(reference, type_map, elements) if reference else None
    spins = None if read_metadata(models[0]).spin is None else spins_of(start_atoms)
    names = ["model.pt2", *(f"model-{k}.pt2" for k in range(2, len(models) + 1))]
    digests = [hashlib.blake2b(model.read_bytes(), digest_size=20).hexdigest() for model in models]
    return run_lammps(
        config, start_atoms, dpsim_pair_lines(names[0], elements), work, out, elements=elements, ranks=ranks, seed=seed,
        progress=progress, reference=references, files=dict(zip(names, models, strict=True)),
        fingerprint=" ".join(digests), spins=spins, ensemble=tuple(names) if len(names) > 1 else (), mpi=mpi,
        deadline=deadline,
    )  # fmt: skip


def run_lammps(
    config: MDConfig,
    start_atoms: Atoms,
    pair_lines: Sequence[str],
    work: Path,
    out: Path,
    *,
    elements: tuple[str, ...],
    ranks: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
    reference: Sequence[Atoms] | None = None,
    files: Mapping[str, Path] | None = None,
    fingerprint: str = "",
    launcher: Launcher | None = None,
    spins: NDArray[np.float64] | None = None,
    ensemble: tuple[str, ...] = (),
    mpi: str | None = None,
    deadline: Deadline | None = None,
) -> MDResult:
    """Run molecular dynamics with any pair style; see `run_md`.

    Parameters
    ----------
    config, start_atoms, work, out, ranks, seed, progress
        As in `run_md`.
    reference
        Frames whose g(r) is put beside that of the run.
    pair_lines
        The ``pair_style`` and ``pair_coeff`` lines, for LAMMPS types in the order of `elements`.
    elements
        Element of LAMMPS type 1, 2, …
    files
        Files that the pair lines name, linked into the work folder under their key.
    fingerprint
        Of the contents of those files: a change means another run.
    launcher
        Builds the command; if None, that of `dpsim.lammps.launcher`.
    spins
        (n_atoms, 3) μB, for pair styles that look at them.
    ensemble
        Of `files`, the models whose deviation is written; the first is that of `pair_lines`.
    mpi
        As in `run_md`; None for pair styles other than dpsim's.
    deadline
        As in `run_md`.
    """
    check_start(config, start_atoms)
    check_box(config, start_atoms.pbc)
    check_analyses(config, start_atoms)
    box = lammps_box(start_atoms)
    work.mkdir(parents=True, exist_ok=True)
    seed = seed if config.seed is None else config.seed
    run = _Run(config, start_atoms, box, tuple(pair_lines), elements, work, seed, spins, ensemble, mpi, deadline)
    run.prepare(files or {}, fingerprint)
    stop = run.watch.first(run.record())
    if stop is None and not run.finished:
        try:
            run.launch(ranks, launcher or product_launcher(progress, run.total_steps), progress)
        except StageError:
            # What went wrong may have come after a condition that ends the run, before that was seen.
            if (stop := run.watch.first(run.record())) is None:
                raise
        stop = run.watch.first(run.record())
    if stop is not None and config.stop_if.then == "fail":
        raise StageError(f"md stopped in {place_of(config, stop.segment)} at step {stop.step}: {stop.reason}")
    if progress is not None:
        if stop is not None:
            progress(stop.step, run.total_steps, f"stopped at step {stop.step}: {stop.reason}")
        progress(run.total_steps, run.total_steps, "analysing")
    return collect(config, run.record(), out, ranks=ranks, reference=reference, stop=stop)


def product_launcher(progress: Progress | None, total: int) -> Launcher:
    """Launcher of dpsim's own LAMMPS, which tells `progress` of a build of the plugin."""
    from dpsim.lammps.launcher import lammps_command

    if progress is None:
        return lammps_command
    # The plugin is built at the first use, which takes a minute.
    return partial(lammps_command, progress=lambda line: progress(0, total, line))


@dataclass
class _Run:
    """The work folder of one run and what has been done in it."""

    config: MDConfig
    atoms: Atoms
    box: LammpsBox
    pair_lines: tuple[str, ...]
    elements: tuple[str, ...]
    work: Path
    seed: int
    spins: NDArray[np.float64] | None = None
    ensemble: tuple[str, ...] = ()
    mpi: str | None = None
    deadline: Deadline | None = None
    attempts: tuple[Attempt, ...] = ()
    finished: bool = False
    _key: str = ""

    def __post_init__(self) -> None:
        self.layout = spans(self.config)
        self.total_steps = max(span.end for span in self.layout)
        self.watch = Watch(self.config, self.atoms)
        self.dumped = dumped_columns(self.config)

    def record(self) -> Trajectory:
        """What was written so far."""
        return Trajectory(self.work, self.attempts, self.layout, self.atoms, self.box)

    def prepare(self, files: Mapping[str, Path], fingerprint: str) -> None:
        """Write the start structure, and recall earlier attempts if they belong to this very run."""
        for name, path in files.items():
            (self.work / name).unlink(missing_ok=True)
            (self.work / name).symlink_to(path)
        tilt = any(isinstance(s, NPTSegment) and s.coupling == "triclinic" for s in self.config.run)
        keep = self.config.velocities == "keep"
        write_data(
            self.work / DATA_FILE, self.atoms, self.elements, self.box, tilt=tilt, velocities=keep, spins=self.spins
        )
        self._key = self._fingerprint(fingerprint)
        self._recall()

    def _fingerprint(self, extra: str) -> str:
        # Frames that hold more than is needed do no harm; see `_recall`.
        text = json.dumps(
            [self.config.course(), self.pair_lines, self.elements, self.seed, self.box.rotation.tolist(), extra],
            sort_keys=True,
        )
        digest = hashlib.blake2b(text.encode(), digest_size=20)
        digest.update((self.work / DATA_FILE).read_bytes())
        return digest.hexdigest()

    def _recall(self) -> None:
        path = self.work / ATTEMPTS
        state = read_json(path) if path.exists() else {}
        known = state.get("dumped", [])
        enough = len(known) == len(self.dumped) and all(
            set(n) <= set(k) for n, k in zip(self.dumped, known, strict=True)
        )
        if state.get("key") == self._key and enough:
            self.dumped = known
            self.attempts = tuple(Attempt(*item) for item in state["attempts"])
            self.finished = bool(state["finished"])
        else:
            self._clear()

    def _clear(self) -> None:
        for pattern in ("checkpoint*", "dump-*", "deviation-*", "log-*", "screen-*", "in-*", ATTEMPTS):
            for path in self.work.glob(pattern):
                path.unlink()
        self.attempts = ()

    def _save(self) -> None:
        state = {"key": self._key, "finished": self.finished, "attempts": list(self.attempts), "dumped": self.dumped}
        write_json(self.work / ATTEMPTS, state)

    def _checkpoint(self) -> tuple[int, str] | None:
        """Return step and file of the newest checkpoint; older ones are removed."""
        found = sorted((int(path.stem.split("-")[1]), path) for path in self.work.glob("checkpoint-*.restart"))
        for _, path in found[:-KEPT_CHECKPOINTS]:
            path.unlink(missing_ok=True)
        return (found[-1][0], found[-1][1].name) if found else None

    def launch(self, ranks: int, launcher: Launcher, progress: Progress | None) -> None:
        """Start LAMMPS, fresh or from the newest checkpoint, and stay until it ends."""
        restart = self._checkpoint()
        if restart is None:
            self._clear()
        self.dumped = dumped_columns(self.config)
        number = self.attempts[-1].number + 1 if self.attempts else 1
        step = restart[0] if restart else None
        self.attempts += (Attempt(number, first_span(self.layout, step), step or 0),)
        self._save()
        deck = self.work / f"in-{number:03d}.lammps"
        settings = DeckSettings(
            self.elements, self.pair_lines, self.box.boundary, not any(self.box.pbc), self.seed, number, restart,
            "atomic" if self.spins is None else "spin", self.ensemble, self.mpi,
        )  # fmt: skip
        write_text(deck, deck_text(self.config, settings))
        argv, env = launcher(ranks, deck.absolute())
        log = LogFollower(self.work / log_name(number))
        screen = self.work / f"screen-{number:03d}.txt"
        dumps = DumpFollower([self.work / dump_name(span.index, number) for span in self.layout])
        followers = log, DeviationFollower(self.work / deviation_name(number)), dumps
        command, deadline = [*argv, "-log", log.path.name, "-nocite"], self.deadline or Deadline(self.config.walltime)
        with LammpsProcess(command, env, self.work, screen, deadline) as process:
            stopped = self._follow(process, *followers, progress)
        if stopped:  # the checkpoints stay: with another limit, the run goes on
            return
        self._judge(process, log, screen)
        self.finished = True
        self._save()
        # The frames stay, so that another analysis needs no other run; a longer run begins anew.
        for path in self.work.glob("checkpoint*"):
            path.unlink()

    def _follow(
        self,
        process: LammpsProcess,
        log: LogFollower,
        deviations: DeviationFollower,
        dumps: DumpFollower,
        progress: Progress | None,
    ) -> bool:
        """Look at what LAMMPS writes until it ends; return whether it met a condition to stop before."""
        meter = _Meter(self.total_steps)
        while True:
            ended = process.wait(_POLL)
            for row in log.poll():
                if not row.finite:
                    raise self._stopped(log, row.step, "temperature, energy or pressure is not a finite number")
                limit = self.config.stop_if.max_temperature
                if row.temperature > limit:
                    reason = (
                        f"the temperature {row.temperature:.0f} K passes stop_if.max_temperature ({limit:g} K): "
                        "train the model on structures like these, or raise the limit"
                    )
                    raise self._stopped(log, row.step, reason)
                meter.add(row.step, row.temperature)
            if self._is_over(deviations, dumps):
                return True
            if progress is not None and (ended or meter.due()) and log.segment >= 0:
                segment = self.config.run[log.segment]
                progress(meter.step, self.total_steps, f"{segment.ensemble}, segment {log.segment}", **meter.values())
            self._checkpoint()
            if ended:
                return False
            process.check_signal(f"md was stopped at step {meter.step} of {self.total_steps}")

    def _is_over(self, deviations: DeviationFollower, dumps: DumpFollower) -> bool:
        if any(self.watch.deviation(found) for _, found in deviations.poll()):
            return True
        return self.watch.bonds is not None and any(self.watch.frame(d.positions, d.vectors) for d in dumps.poll())

    def _stopped(self, log: LogFollower, step: int, reason: str) -> StageError:
        place = place_of(self.config, log.segment) if log.segment >= 0 else "the start"
        return StageError(f"md stopped in {place} at step {step}: {reason}; see {log.path}")

    def _judge(self, process: LammpsProcess, log: LogFollower, screen: Path) -> None:
        if log.finished and process.exit_code == 0:
            return
        error = log.error or read_error(screen)
        path = log.path if log.path.exists() else screen
        place = place_of(self.config, log.segment) if log.segment >= 0 else "its set-up"
        # mpiexec passes on the numbers of the signals that ended the ranks, joined bit by bit: one that was killed,
        # and the others, which it then ended itself.
        kill, both = signal.SIGKILL, signal.SIGKILL | signal.SIGTERM
        killed = process.exit_code in (kill, -kill, 128 + kill, both, 128 + both)
        ended = "a rank was killed, perhaps for want of memory" if killed else f"it ended with code {process.exit_code}"
        reason = error or f"{ended}, without a message"
        raise StageError(f"LAMMPS failed in {place}: {reason}; see {path}")


def dumped_columns(config: MDConfig) -> list[list[str]]:
    """What the frames of each segment hold beside positions."""
    moving = [None if isinstance(s, MinimizeSegment) else config.dumped(i) for i, s in enumerate(config.run)]
    return [[n for n in ("velocities", "forces") if d is not None and getattr(d, n)] for d in moving]


class _Meter:
    """Speed of a run from the steps it reports."""

    def __init__(self, total: int) -> None:
        self.total, self.step, self.temperature = total, 0, 0.0
        self._first: tuple[float, int] | None = None
        self._reported = 0.0

    def add(self, step: int, temperature: float) -> None:
        self.step, self.temperature = step, temperature
        if self._first is None or step < self._first[1]:
            self._first = (time.monotonic(), step)

    def due(self) -> bool:
        if time.monotonic() - self._reported < _REPORT:
            return False
        self._reported = time.monotonic()
        return True

    def values(self) -> dict[str, Any]:
        values: dict[str, Any] = {"temperature": self.temperature}
        if self._first is not None and self.step > self._first[1]:
            speed = (self.step - self._first[1]) / max(time.monotonic() - self._first[0], 1e-6)
            values |= {"steps_per_second": speed, "seconds_left": (self.total - self.step) / speed}
        return values
