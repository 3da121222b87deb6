"""Molecular dynamics with ASE's structures and any calculator of ASE, in this process.

It takes the same settings as LAMMPS and leaves the same outputs. A run that was killed goes on from its last saved
state, and does what the unbroken one did, to the last bit.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dpsim.calculators.lammps_data import elements_of
from dpsim.calculators.md.ase_record import STATE, AseRecord, Writer, read_state, write_state
from dpsim.calculators.md.config import MDConfig, place_of
from dpsim.calculators.md.deck import Span, check_box, first_span, spans
from dpsim.calculators.md.integrators import BAR_PER_EV_A3, Evaluated, Integrator, State
from dpsim.calculators.md.output import ThermoRow
from dpsim.calculators.md.results import MDResult, check_analyses, collect, reference_frames
from dpsim.calculators.md.segments import Dynamics, MinimizeSegment, NPTSegment, NVESegment, interval_steps
from dpsim.calculators.md.start import check_start, model_files
from dpsim.calculators.md.stop import Deadline, Watch
from dpsim.data.files import read_json, write_json
from dpsim.errors import ConfigError, Interrupted, StageError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator

    from dpsim.calculators.deviation import Deviation

Array = NDArray[np.float64]
Progress = Callable[..., None]
RUN = "run.json"
_REPORT = 1.0


def run_ase(
    config: MDConfig,
    start_atoms: Atoms,
    calculator: Calculator,
    work: Path,
    out: Path,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    reference: Sequence[Atoms] | None = None,
    fingerprint: str = "",
    deviation: Callable[[Atoms], Deviation] | None = None,
    deadline: Deadline | None = None,
) -> MDResult:
    """Run molecular dynamics with a calculator of ASE.

    Parameters
    ----------
    config, start_atoms, work, out, seed, progress, deadline
        As in `dpsim.calculators.md.lammps.run_md`.
    calculator
        Gives energies and forces, and for a barostat the stress.
    reference
        Frames whose g(r) is put beside that of the run.
    fingerprint
        Of what the calculator is: a change means another run.
    deviation
        Gives the deviation of several models, if `config` asks for it.

    Raises
    ------
    ConfigError, DataError
        If the settings and the structure do not fit together.
    StageError
        If a number is not finite, or a stop condition is met that fails the run.
    Interrupted
        From `progress`, with the state saved; calling again continues.
    """
    check_start(config, start_atoms)
    if "stress" not in calculator.implemented_properties:
        for index, segment in enumerate(config.run):
            if isinstance(segment, NPTSegment):
                raise ConfigError(f"run[{index}]: npt needs the stress, which this calculator does not give: use nvt")
    check_box(config, start_atoms.pbc)
    check_analyses(config, start_atoms)
    work.mkdir(parents=True, exist_ok=True)
    run = _Run(config, start_atoms, calculator, work, seed if config.seed is None else config.seed, deviation)
    run.recall(fingerprint)
    stop = run.watch.first(run.record())
    if stop is None and not run.finished:
        run.launch(progress, deadline or Deadline(config.walltime))
        stop = run.watch.first(run.record())
    if stop is not None and config.stop_if.then == "fail":
        raise StageError(f"md stopped in {place_of(config, stop.segment)} at step {stop.step}: {stop.reason}")
    if progress is not None:
        progress(run.total_steps, run.total_steps, "analysing" if stop is None else f"stopped: {stop.reason}")
    return collect(config, run.record(), out, ranks=1, reference=reference, stop=stop, engine="ase")


def run_md_ase(
    config: MDConfig,
    start_atoms: Atoms,
    potentials: Sequence[Path],
    work: Path,
    out: Path,
    *,
    type_map: Sequence[str],
    seed: int = 0,
    progress: Progress | None = None,
    reference: Sequence[Path] = (),
    deadline: Deadline | None = None,
) -> MDResult:
    """Run molecular dynamics with ASE and a model file, or several, of which the first drives.

    Parameters and errors are those of `dpsim.calculators.md.lammps.run_md`.
    """
    from dpsim.calculators.ase import DPCalculator
    from dpsim.calculators.deviation import model_deviation
    from dpsim.calculators.evaluate import load

    models = model_files(config, potentials)
    elements = elements_of(start_atoms, tuple(type_map))
    references = reference_frames(reference, type_map, elements) if reference else None
    loaded = [load(model) for model in models]
    wanted = config.deviation

    def deviation(atoms: Atoms) -> Deviation:
        assert wanted is not None
        return model_deviation(loaded, [atoms], relative=wanted.relative, relative_v=wanted.relative_v)[0]

    digests = [hashlib.blake2b(model.read_bytes(), digest_size=20).hexdigest() for model in models]
    return run_ase(
        config, start_atoms, DPCalculator(loaded[0]), work, out, seed=seed, progress=progress, reference=references,
        fingerprint=" ".join(digests), deviation=deviation if wanted is not None else None, deadline=deadline,
    )  # fmt: skip


class _Run:
    """The work folder of one run and what has been done in it."""

    def __init__(
        self,
        config: MDConfig,
        start: Atoms,
        calculator: Calculator,
        work: Path,
        seed: int,
        deviation: Callable[[Atoms], Deviation] | None,
    ) -> None:
        self.config, self.start, self.work, self.seed, self.deviation = config, start, work, seed, deviation
        self.layout = spans(config)
        self.total_steps = max(span.end for span in self.layout)
        self.watch = Watch(config, start)
        self.finished, self.starts, self._key = False, 0, ""
        self.atoms: Atoms = start.copy()
        self.atoms.calc = calculator
        self.full = bool(start.pbc.all())

    def record(self) -> AseRecord:
        """What was written so far."""
        return AseRecord(self.work, self.start, self.layout, self.starts)

    # ---- what is kept ------------------------------------------------------------------------------

    def recall(self, fingerprint: str) -> None:
        """Take up an earlier start if it belongs to this very run."""
        text = json.dumps([self.config.course(), self.seed, fingerprint], sort_keys=True)
        digest = hashlib.blake2b(text.encode(), digest_size=20)
        for name in sorted(self.start.arrays):
            digest.update(np.ascontiguousarray(self.start.arrays[name]).tobytes())
        digest.update(self.start.cell.array.tobytes() + self.start.pbc.tobytes())
        self._key = digest.hexdigest()
        path = self.work / RUN
        known = read_json(path) if path.exists() else {}
        if known.get("key") == self._key:
            self.finished, self.starts = bool(known["finished"]), int(known["starts"])
            return
        for name in (RUN, STATE):
            (self.work / name).unlink(missing_ok=True)
        Writer(self.work).close()

    def _save_run(self) -> None:
        write_json(self.work / RUN, {"key": self._key, "finished": self.finished, "starts": self.starts})

    def _save(self, state: State, step: int, writer: Writer, seconds: float) -> None:
        write_state(
            self.work / STATE,
            {
                "positions": state.positions, "velocities": state.velocities, "cell": state.cell,
                "energy": np.array(state.now.energy), "forces": state.now.forces, "stress": state.now.stress,
                "chain": state.chain, "rate": state.rate, "cell_chain": state.cell_chain, "step": np.array(step),
                "seconds": np.array(seconds), "lengths": np.array(writer.lengths()),
            },
        )  # fmt: skip

    # ---- the run -----------------------------------------------------------------------------------

    def launch(self, progress: Progress | None, deadline: Deadline) -> None:
        """Run, from the beginning or from the saved state, until the end or a condition that stops it."""
        self.starts += 1
        self._save_run()
        saved = read_state(self.work / STATE)
        begun = 0.0 if saved is None else float(saved["seconds"])
        writer = Writer(self.work, (0, 0, 0) if saved is None else [int(n) for n in saved["lengths"]])
        clock = _Clock(begun, self.total_steps, progress, deadline)
        try:
            if saved is None:
                state, step = self._begin(writer, clock), 0
            else:
                now = Evaluated(float(saved["energy"]), saved["forces"], saved["stress"])
                arrays = {name: saved[name] for name in ("positions", "velocities", "cell")}
                chains = {name: saved[name] for name in ("chain", "rate", "cell_chain")}
                state, step = State(**arrays, now=now, **chains), int(saved["step"])
            stopped = False
            for span in self.layout[first_span(self.layout, step) if saved is not None else 0 :]:
                if isinstance(span.segment, MinimizeSegment) or stopped:
                    continue
                if step == span.begin:
                    state.begin_segment()
                stopped = self._dynamics(span, span.segment, state, max(step, span.begin), writer, clock)
                step = span.end
            self.finished = not stopped
        finally:
            writer.close()
        self._save_run()

    def _begin(self, writer: Writer, clock: _Clock) -> State:
        if isinstance(first := self.config.run[0], MinimizeSegment):
            self._minimize(first, writer)
        atoms, moving = self.atoms, [s for s in self.config.run if not isinstance(s, MinimizeSegment)]
        if moving and self.config.velocities == "create":
            segment = moving[0]
            hot = segment.temperature if isinstance(segment, NVESegment) else segment.temperature[0]
            atoms.set_velocities(first_velocities(atoms, float(hot or 0.0), self.seed))
        elif moving:
            atoms.set_momenta(self.start.get_momenta())
        positions, cell = atoms.positions.copy(), np.array(atoms.cell)
        state = State(positions, atoms.get_velocities(), cell, self._evaluate(positions, cell))
        if not moving:
            self._save(state, 0, writer, clock.seconds())
        return state

    def _evaluate(self, positions: Array, cell: Array) -> Evaluated:
        self.atoms.set_cell(cell)
        self.atoms.positions = positions
        wants = self.full and "stress" in self.atoms.calc.implemented_properties
        forces = np.asarray(self.atoms.get_forces(), dtype=np.float64)
        stress = np.asarray(self.atoms.get_stress(voigt=False)) if wants else np.full((3, 3), np.nan)
        return Evaluated(float(self.atoms.get_potential_energy()), forces, stress)

    def _minimize(self, segment: MinimizeSegment, writer: Writer) -> None:
        """Relax the atoms; one that is interrupted begins again."""
        from ase.optimize import LBFGS

        optimizer = LBFGS(self.atoms, logfile=None)
        energy = float(self.atoms.get_potential_energy())
        for step, _ in enumerate(optimizer.irun(fmax=0.0, steps=segment.steps)):
            before, energy = energy, float(self.atoms.get_potential_energy())
            writer.row(ThermoRow(0, step, 0.0, 0.0, energy, 0.0, energy, np.nan, self._volume()))
            small = step > 0 and abs(energy - before) < segment.energy_tolerance * max(abs(energy), 1e-12)
            if small or float(np.linalg.norm(self.atoms.get_forces())) < segment.force_tolerance:
                break

    def _volume(self) -> float:
        return float(self.atoms.get_volume()) if self.full else float("nan")

    def _dynamics(self, span: Span, segment: Dynamics, state: State, step: int, writer: Writer, clock: _Clock) -> bool:
        """Run a segment from `step`; return whether it was stopped."""
        every = {n: interval_steps(getattr(segment, n).every, segment.step_length) for n in ("dump", "thermo")}
        chunk = interval_steps(self.config.checkpoint.every, segment.step_length)
        integrator = Integrator(segment, span.begin, span.end, self.start.get_masses(), self._evaluate, self.seed)
        if step == span.begin:
            writer.row(self._row(span, segment, integrator, state, step))
            if step == 0 and self._look(span, segment, state, step, writer, dump=True):
                return True
        while step < span.end:
            step += 1
            integrator.step(state, step)
            if step % every["thermo"] == 0 or step == span.end:
                row = self._row(span, segment, integrator, state, step)
                self._check(row)
                writer.row(row)
            stopped = self._look(span, segment, state, step, writer, dump=step % every["dump"] == 0)
            if stopped or step % chunk == 0 or step == span.end:
                self._save(state, step, writer, clock.seconds())
            if stopped:
                return True
            try:
                message = f"{segment.ensemble}, segment {span.index}"
                clock.report(step, message, lambda: integrator.temperature(state))
                clock.check(step)
            except Interrupted:
                self._save(state, step, writer, clock.seconds())
                raise
        return False

    def _row(self, span: Span, segment: Dynamics, integrator: Integrator, state: State, step: int) -> ThermoRow:
        kinetic = integrator.kinetic(state)
        pressure = float(np.trace(integrator.pressure(state))) / 3 * BAR_PER_EV_A3 if self.full else np.nan
        volume = abs(float(np.linalg.det(state.cell))) if self.full else np.nan
        time_ps = span.time + (step - span.begin) * segment.step_length
        potential = state.now.energy
        return ThermoRow(
            span.index, step, time_ps, integrator.temperature(state), potential, kinetic, potential + kinetic,
            pressure, volume,
        )  # fmt: skip

    def _check(self, row: ThermoRow) -> None:
        place = f"md stopped in {place_of(self.config, row.segment)} at step {row.step}"
        if not np.isfinite([row.temperature, row.total]).all():
            raise StageError(f"{place}: temperature or energy is not a finite number")
        limit = self.config.stop_if.max_temperature
        if row.temperature > limit:
            raise StageError(
                f"{place}: the temperature {row.temperature:.0f} K passes stop_if.max_temperature ({limit:g} K): "
                "train the model on structures like these, or raise the limit"
            )

    def _look(self, span: Span, segment: Dynamics, state: State, step: int, writer: Writer, *, dump: bool) -> bool:
        """Write a frame and a line of the deviation where they are due; return whether one of them stops the run."""
        reason = None
        if dump:
            writer.frame(span.index, step, state.cell, state.positions, state.velocities, state.now.forces)
            reason = self.watch.frame(state.positions, state.cell)
        if self.deviation is not None and self.config.deviation is not None and step % self.config.deviation_steps == 0:
            self.atoms.set_cell(state.cell)
            self.atoms.positions = state.positions
            found = self.deviation(self.atoms)
            names = [f"{what}_devi_{kind}" for kind in ("v", "f") for what in ("max", "min", "avg")]
            if step == 0:
                more = ["atm_devi_f(N)"] if self.config.deviation.atomic else []
                writer.deviation("#" + "step".rjust(11) + "".join(name.rjust(19) for name in [*names, *more]) + "\n")
            numbers = [*found.columns[:6], *(found.forces if self.config.deviation.atomic else ())]
            writer.deviation(str(step).rjust(12) + "".join(f" {x:18.10e}" for x in numbers) + "\n")
            reason = self.watch.deviation(found.columns[3]) or reason
        return reason is not None


class _Clock:
    """Wall time of a run over its starts, and reports about once a second."""

    def __init__(self, before: float, total: int, progress: Progress | None, deadline: Deadline) -> None:
        self.before, self.total, self.progress, self.deadline = before, total, progress, deadline
        self.begun = self._reported = time.monotonic()
        self._first: int | None = None

    def seconds(self) -> float:
        """Seconds in the integrator."""
        return self.before + time.monotonic() - self.begun

    def check(self, step: int) -> None:
        """Raise `Interrupted` if the time is over and there is something left to do."""
        if step < self.total and (over := self.deadline.passed()):
            raise Interrupted(f"{over} at step {step} of {self.total}; run again to go on from there")

    def report(self, step: int, message: str, temperature: Callable[[], float]) -> None:
        """Report a step if it is time to."""
        if self._first is None:
            self._first = step - 1
        now = time.monotonic()
        if self.progress is None or (now - self._reported < _REPORT and step < self.total):
            return
        self._reported = now
        speed = (step - self._first) / max(now - self.begun, 1e-6)
        values: dict[str, Any] = {"temperature": temperature(), "steps_per_second": speed}
        self.progress(step, self.total, message, **values, seconds_left=(self.total - step) / speed)


def first_velocities(atoms: Atoms, temperature: float, seed: int) -> Array:
    """Draw velocities of exactly this temperature, (n, 3) in ASE's unit, without motion of the whole.

    Where no direction is periodic, the structure does not rotate either.
    """
    from ase.md.velocitydistribution import ZeroRotation

    masses = atoms.get_masses()[:, None]
    drawn = np.random.default_rng([seed, 0]).normal(size=(len(atoms), 3)) / np.sqrt(masses)
    drawn -= (masses * drawn).sum(axis=0) / masses.sum()
    if not atoms.pbc.any() and len(atoms) > 1:
        turning = atoms.copy()
        turning.set_velocities(drawn)
        ZeroRotation(turning, preserve_temperature=False)
        drawn = turning.get_velocities()
    from dpsim.units import BOLTZMANN_EV

    twice = float((masses * drawn**2).sum())
    wanted = max(1, 3 * len(atoms) - 3) * BOLTZMANN_EV * temperature
    result: Array = drawn * np.sqrt(wanted / twice) if twice > 0 else drawn
    return result
