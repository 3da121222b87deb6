"""Runs a plan: each task that must run gets a process, as many at once as there are cores."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import selectors
import shutil
import signal
import time
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal

from dpsim.errors import DpsimError, Interrupted, SetupError, StageError
from dpsim.workflow.driver.manifest import Manifest
from dpsim.workflow.driver.orders import write_orders
from dpsim.workflow.driver.outcome import Failure, Outcome, how_it_ended
from dpsim.workflow.driver.progress import View
from dpsim.workflow.driver.retrying import Attempts
from dpsim.workflow.executors.base import Handle, StageJob
from dpsim.workflow.executors.choice import Executors
from dpsim.workflow.planning.decide import Decider, Decision
from dpsim.workflow.planning.loop import LoopFailed, grow
from dpsim.workflow.planning.outline import Outline
from dpsim.workflow.planning.plan import Plan
from dpsim.workflow.planning.resources import Machine, grants
from dpsim.workflow.records import locks
from dpsim.workflow.records.digest import Digester
from dpsim.workflow.records.events import EventLog
from dpsim.workflow.records.files import disk_problem, link_folder, write_atomic
from dpsim.workflow.records.store import Entry, Store
from dpsim.workflow.records.tickets import read_ticket
from dpsim.workflow.reference.describe import lock_file
from dpsim.workflow.worker import EXIT_BUSY

State = Literal["waiting", "queued", "running", "done", "cached", "failed", "blocked", "interrupted", "left out"]
_FINAL: Final = {"done", "cached", "failed", "blocked", "interrupted", "left out"}


@dataclass(frozen=True)
class RunOptions:
    """What the user asked of a run, apart from the workflow."""

    selected: Collection[str] | None = None
    """Tasks to run; others must be done already if they are needed. None for all."""
    forced: Collection[str] = ()
    keep_going: bool = False
    use_cache: bool = True
    verify: bool = False


class Runner:
    """Drives one run of a plan.

    Parameters
    ----------
    plan
        What is to be done.
    run_dir
        Where; it is created.
    machine
        Cores and GPUs that may be used.
    view
        Shown to the user.
    """

    def __init__(
        self, plan: Plan, run_dir: Path, machine: Machine, view: View, options: RunOptions = RunOptions()
    ) -> None:
        self.plan, self.options, self.view = plan, options, view
        self.selected = None if options.selected is None else set(options.selected)
        self.store = Store(run_dir.resolve())
        self.machine = machine
        self.granted = grants(plan, machine)
        self.executors = Executors(plan, self.store.run_dir, machine)
        plan.workflow.collector.check()
        self.states: dict[str, str] = dict.fromkeys(plan.order, "waiting")
        self.jobs: dict[str, Handle] = {}
        self.decisions: dict[str, Decision] = {}
        self.attempts = Attempts(plan.workflow.profile.retries)
        self.not_before: dict[str, float] = {}
        self.failures: list[Failure] = []
        self.stopped_by: int | None = None
        self.needs = {name: plan.needs(name) for name in plan.order}
        self.changed = True
        """Whether a task has changed its state since all were looked at."""
        self.shown: dict[str, str] = {}
        self.busy: dict[str, dict[str, Any]] = {}

    def run(self) -> Outcome:
        """Run until all is done, something failed, or a signal came.

        Raises
        ------
        SetupError
            If the run directory cannot be written.
        """
        started = time.time()
        self.store.prepare()
        self._open()
        previous = self._signals()
        code = 1
        try:
            self.view.start(Outline.of(self.plan))
            self._loop()
            code = self._exit_code()
        except OSError as error:
            if not (disk := disk_problem(error)):
                raise
            raise SetupError(disk) from None
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._close(code)
        return Outcome(code, dict(self.states), time.time() - started, self.failures, self.stopped_by)

    # --- beginning and end ---------------------------------------------------------------------------------

    def _open(self) -> None:
        workflow = self.plan.workflow
        try:
            write_atomic(self.store.run_dir / "workflow.yaml", workflow.path.read_text(encoding="utf-8-sig"))
            write_atomic(self.store.run_dir / "workflow.lock.yaml", lock_file(self.plan))
            write_atomic(self.store.driver, json.dumps(asdict(locks.this_process())))
            self.events = EventLog(self.store.events, secrets.token_hex(4))
        except OSError as error:
            raise SetupError(
                f"cannot write in {self.store.run_dir}: {error.strerror}; choose another --run-dir"
            ) from None
        self.manifest = Manifest(self.store, self.plan)
        self.digester = Digester(self.store.memo, verify=self.options.verify)
        self.decider = Decider(
            self.plan,
            self.store,
            self.digester,
            self.manifest.previous_keys,
            self.options.forced,
            self.options.use_cache,
        )
        self.selector = selectors.DefaultSelector()
        self.watched: tuple[int, int] | None = None
        self.events.write("run_start", pid=os.getpid(), **Outline.of(self.plan).as_event())

    def _close(self, code: int) -> None:
        self.executors.close()
        self.view.finish()
        with contextlib.suppress(OSError):  # a full disk is told already, and nothing here is needed to go on
            self.digester.save()
            self.manifest.finish(code)
            self.events.write("run_end", exit=code)
        self.events.close()
        self.selector.close()
        owner = locks.read_owner(self.store.driver)
        if owner is not None and owner.pid == os.getpid():
            self.store.driver.unlink(missing_ok=True)

    def _signals(self) -> dict[int, Any]:
        def stop(number: int, frame: FrameType | None) -> None:
            if self.stopped_by is not None:
                for name, job in list(self.jobs.items()):  # asked twice: do not wait any longer
                    self.executors[name].cancel(job, now=True)
            self.stopped_by = number

        previous: dict[int, Any] = {}
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            with contextlib.suppress(ValueError):  # not in the main thread: the caller handles signals
                previous[number] = signal.signal(number, stop)
        return previous

    def _exit_code(self) -> int:
        unfinished = any(state not in ("done", "cached", "left out") for state in self.states.values())
        if self.stopped_by is not None and unfinished:
            return 130 if self.stopped_by == signal.SIGINT else 75
        if not self.failures:
            return 0
        if self.options.keep_going:
            return 8
        code = self.failures[0].code
        return code if code in (4, 6, 7, Interrupted.exit_code) else 5

    # --- the loop --------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        stopping = False
        while True:
            if self.stopped_by is not None and not stopping:
                stopping = True
                self._stop()
            if not stopping:
                self._advance()
            if not self.jobs and (stopping or not self._can_go_on()):
                break
            self._listen()
        for name, state in self.states.items():
            if state not in _FINAL and not stopping:
                self._set(name, "blocked", "an earlier stage failed")
            elif state not in _FINAL:
                self.manifest.state(name, state)

    def _stop(self) -> None:
        """Ask what runs to save and stop; leave jobs of a cluster where they are if that is wanted."""
        leave = self.stopped_by == signal.SIGHUP or self.plan.workflow.profile.on_stop == "leave"
        left = [name for name in self.jobs if leave and self.executors[name].survives]
        for name in left:
            job = self.jobs.pop(name)
            self.view.message(f"{name}: {job.where} is left alone; 'dpsim run' finds it again")
            self._set(name, "interrupted", f"{job.where}, left alone", job.entry)
            self.executors[name].release(job)
        if self.jobs or not left:
            self.view.message("stopping; the stages that run save their work (again to end them at once)")
        for name, job in self.jobs.items():
            self.executors[name].cancel(job)

    def _can_go_on(self) -> bool:
        if self.failures and not self.options.keep_going:
            return False
        return any(state not in _FINAL for state in self.states.values())

    def _advance(self) -> None:
        """Decide every task whose inputs are there, and start those that must run while there is room."""
        if not (self.changed or self.not_before):
            return
        self.changed = False
        for name in self.plan.order:
            if self.states[name] != "waiting":
                continue
            bad = [need for need in self.needs[name] if self.states[need] in ("failed", "blocked")]
            if bad:
                self._set(name, "blocked", f"{bad[0]} {self.states[bad[0]]}")
                continue
            if any(self.states[need] not in ("done", "cached", "left out") for need in self.needs[name]):
                continue
            if time.time() < self.not_before.get(name, 0.0):
                continue
            self.not_before.pop(name, None)
            self._consider(name)

    def _consider(self, name: str) -> None:
        selected = self.selected is None or name in self.selected
        if not selected and name not in self.plan.upstream(list(self.selected or ())):
            self._set(name, "left out", "not selected")
            return
        if self.plan.is_open(name):  # an iteration with stages that were not selected
            self._set(name, "left out", "its iterations are not complete")
            return
        decision = self.decisions.get(name)
        if decision is None:
            try:
                decision = self.decider.decide(name)
            except DpsimError as error:
                self._fail(name, Failure(name, str(error), error.exit_code, self.store.run_dir))
                return
            self.decisions[name] = decision
        assert decision.entry is not None
        if decision.action == "cached":
            self._finish(name, "cached", decision.entry, decision.note)
            return
        if not selected:
            message = f"is needed but not done ({decision.reason}); select it too"
            self._fail(name, Failure(name, message, StageError.exit_code, self.store.run_dir))
            return
        if self.failures and not self.options.keep_going:
            return
        if self.executors[name].room_for(self.granted[name]):
            self._start(name, decision)

    def _start(self, name: str, decision: Decision) -> None:
        entry = decision.entry
        assert entry is not None
        task = self.plan.workflow.tasks[name]
        job = StageJob(
            name,
            entry,
            granted=self.granted[name],
            resources=task.resources,
            environment=task.config.env,
            timeout=task.config.timeout,
            fresh=decision.fresh,
            run=self.plan.workflow.name,
            counts=self.attempts.counts(name),
        )
        self._say_what_is_left_of(name, entry)
        reason = "found again"
        try:
            handle = self.executors[name].reattach(job)
            if handle is None:
                write_orders(self.plan, self.store, name, decision, self.granted[name])
                handle, reason = self.executors[name].submit(job), decision.reason
        except DpsimError as error:
            self._fail(name, Failure(name, str(error), error.exit_code, self.store.run_dir), entry)
            return
        self.attempts.restore(name, handle.counts)
        self.jobs[name], self.shown[name] = handle, handle.where
        self._watch_nursery()
        if handle.descriptor is not None:
            self.selector.register(handle.descriptor, selectors.EVENT_READ)
        self.store.link(name, entry)
        why = "; ".join(part for part in (handle.where, reason) if part)
        self._set(name, handle.state, why, entry, job=handle.where)

    def _say_what_is_left_of(self, name: str, entry: Entry) -> None:
        """Name the job that works on a stage as it was declared before; its result is not needed any more."""
        last = self.manifest.previous_keys.get(name)
        ticket = read_ticket(self.store.entry(last)) if last and last != entry.key else None
        if ticket is not None and ticket.state != "over":
            job = f"job {ticket.job_id} of {ticket.machine}"
            self.view.message(f"{name}: {job} is for what the stage was before; end it there if it is not needed")

    def _watch_nursery(self) -> None:
        """Wake up when a forked stage has ended; a nursery that died has been replaced by another."""
        now = self.executors.nursery
        if now != self.watched:
            if self.watched is not None:
                self.selector.unregister(self.watched[1])
            if now is not None:
                self.selector.register(now[1], selectors.EVENT_READ)
            self.watched = now

    def _listen(self) -> None:
        self._watch_nursery()
        self.selector.select(timeout=0.02 if any(job.silent for job in self.jobs.values()) else 0.2)
        self.manifest.flush()
        for name, job in list(self.jobs.items()):
            executor = self.executors[name]
            code = executor.poll(job)
            for event in executor.events(job):
                self._event(name, event)
            if job.silent and job.descriptor is not None and job.descriptor in self.selector.get_map():
                self.selector.unregister(job.descriptor)  # at its end it would be ready for ever
            if code is not None:
                for event in executor.events(job):
                    self._event(name, event)
                self._ended(name, job, code)
            elif job.where != self.shown.get(name, ""):
                self.shown[name] = job.where
                self._set(name, job.state, job.where, job.entry, job=job.where)

    def _event(self, name: str, event: dict[str, Any]) -> None:
        kind = event.pop("event", "")
        if kind == "busy":  # said once, not at every attempt to take the place
            if self.busy.get(name) == event:
                return
            self.busy[name] = event
        self.events.write(kind, name, **event)
        if kind == "progress":
            self.view.progress(name, event)
        elif kind in ("note", "busy"):
            self.view.message(f"{name}: {event.get('message', '')}")

    # --- what became of a task -------------------------------------------------------------------------------

    def _ended(self, name: str, job: Handle, code: int) -> None:
        if job.descriptor is not None and job.descriptor in self.selector.get_map():
            self.selector.unregister(job.descriptor)
        self.executors[name].release(job)
        del self.jobs[name]
        self.shown.pop(name, None)
        if code == EXIT_BUSY:
            self.decisions.pop(name, None)
            self.not_before[name] = time.time() + 1.0
            self.states[name] = "waiting"
            self.changed = True
            return
        if job.timed_out:
            code = StageError.exit_code
        self.manifest.attempt(
            name,
            start=round(job.started, 3),
            end=round(time.time(), 3),
            exit=code,
            max_rss=job.usage.get("max_rss"),
            gpu_mem=job.usage.get("gpu_mem"),
            **({"host": job.usage["host"]} if job.usage.get("host") else {}),
            **({"job_id": job.job_id, "where": job.where} if job.job_id else {}),
        )
        if code == 0 and job.entry.is_done():
            self.decider.ran.add(name)
            self._finish(name, "done", job.entry)
        elif self.stopped_by is not None:
            self._set(name, "interrupted", "stopped", job.entry)
        elif again := self.attempts.again(name, self.plan.workflow.tasks[name].config, code, job.ending):
            self.view.message(f"{name}: {again} ({how_it_ended(job, code)})")
            self.events.write("retry", name, exit=code, why=job.ending)
            self.decider.ran.add(name)
            self.decisions.pop(name, None)
            self.states[name] = "waiting"
            self.changed = True
        else:
            message = how_it_ended(job, code)
            self._fail(name, Failure(name, message, code, self._log_of(name), tuple(job.last_lines())), job.entry)

    def _log_of(self, name: str) -> Path:
        return self.store.run_dir / "stages" / name / "log.txt"

    def _finish(self, name: str, state: State, entry: Entry, note: str = "") -> None:
        self.decider.entries[name] = entry
        self.store.link(name, entry)
        if self.plan.workflow.tasks[name].config.uses == "report":
            self._link_report(entry)
        self._set(name, state, note, entry)
        self._grow()

    def _grow(self) -> None:
        """Plan the next iteration of a loop whose last one is done, or end the loop."""
        try:
            growth = grow(self.plan, self.decider.entries)
        except LoopFailed as error:
            self._fail(error.loop, Failure(error.loop, str(error), error.exit_code, self.store.run_dir))
            return
        if growth is None:
            return
        loop, self.plan = growth.loop, growth.plan
        self.decider.plan = self.executors.plan = self.plan
        new = [name for name in self.plan.order if name not in self.states]
        self.states |= dict.fromkeys(new, "waiting")
        self.needs = {name: self.plan.needs(name) for name in self.plan.order}
        self.changed = True
        self.granted |= grants(self.plan, self.machine)
        if self.selected is not None and loop.name in self.selected:
            self.selected |= set(new)
        if loop.name in self.decider.forced:
            self.decider.forced = {*self.decider.forced, *new}
        self.manifest.grown(self.plan, loop.name, loop.outlook())
        self._show_growth(loop.name, growth.message)

    def _show_growth(self, loop: str, message: str) -> None:
        outline = Outline.of(self.plan)
        self.events.write("grown", loop, **outline.as_event())
        self.events.write("note", loop, message=message)
        self.view.grown(outline)
        self.view.message(message)

    def _link_report(self, entry: Entry) -> None:
        """Let ``report`` lead to a page; one that ``dpsim report`` wrote gives way, but not what else lies there."""
        link = self.store.run_dir / "report"
        written = link.is_dir() and not link.is_symlink()
        if written and {path.name for path in link.iterdir()} <= {path.name for path in entry.out.iterdir()}:
            shutil.rmtree(link)
        if link.is_symlink() or not link.exists():
            link_folder(link, entry.out)

    def _fail(self, name: str, failure: Failure, entry: Entry | None = None) -> None:
        self.failures.append(failure)
        self._set(name, "failed", failure.message, entry)

    def _set(self, name: str, state: State, reason: str = "", entry: Entry | None = None, *, job: str = "") -> None:
        self.states[name] = state
        self.changed = True
        self.manifest.state(name, state, entry, reason=reason, job=job)
        self.events.write("state", name, state=state, reason=reason)
        self.view.state(name, state, reason)
