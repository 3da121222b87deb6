"""Stages as jobs of a cluster, through dpdispatcher: Slurm, PBS, LSF and others, here or over SSH.

dpdispatcher writes the scripts and speaks with the schedulers; which job is whose, what its end means and whether it is
repeated is decided here and in the runner. Everything that waits for the cluster happens in one thread.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from dpsim.errors import DpsimError, Interrupted, SetupError, StageError
from dpsim.workflow.context import Granted
from dpsim.workflow.executors.base import StageJob
from dpsim.workflow.executors.cluster_handle import ClusterHandle
from dpsim.workflow.executors.places import SharedPlace
from dpsim.workflow.executors.schedulers import Answer, cannot, head_lines, make_scheduler, refused
from dpsim.workflow.planning.machines import dispatcher, full, is_remote
from dpsim.workflow.planning.profile import Chosen
from dpsim.workflow.records import tickets
from dpsim.workflow.records.store import Entry
from dpsim.workflow.records.tickets import Ticket

_GRACE_S: Final = 120.0
"""Time between asking a job to stop and ending it."""
_LOST: Final = 2
"""Answers that a job is gone, without its exit status, after which it is believed."""
_TROUBLE_S: Final = 600.0
"""How long a cluster may be out of reach before that is said again."""


class QueueFull(Exception):
    """The scheduler takes no further job now."""


class DispatchExecutor:
    """Jobs of one cluster.

    Parameters
    ----------
    chosen
        The profile with the description of the cluster.
    run_dir
        The run directory.
    """

    survives = True

    def __init__(self, chosen: Chosen, run_dir: Path) -> None:
        self.chosen, self.run_dir = chosen, run_dir
        self.machine = full(chosen.machine)
        self.batch = str(self.machine["batch_type"])
        profile = self.machine.get("remote_profile") or {}
        parts = (self.batch, self.machine["context_type"], profile.get("hostname"), self.machine.get("remote_root"))
        self.identity = " ".join(str(part) for part in parts if part)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cluster")
        self._handles: list[ClusterHandle] = []
        self._question: Future[dict[str, Answer]] | None = None
        self._asked = 0.0
        self._trouble = 0.0
        self._place: Any = None

    # --- the interface -------------------------------------------------------------------------------------

    def room_for(self, granted: Granted) -> bool:
        """Whether fewer jobs are out than the profile allows."""
        return len(self._handles) < self.chosen.profile.jobs

    def submit(self, job: StageJob) -> ClusterHandle:
        """Begin to submit a stage; `poll` tells how that went.

        Raises
        ------
        SetupError
            If something of its resources cannot be passed on.
        """
        problem = cannot(self.batch, job.resources)
        if problem:
            raise SetupError(f"stages.{job.task}.resources: {problem}")
        return self._new(job, self._submit)

    def reattach(self, job: StageJob) -> ClusterHandle | None:
        """Return the job of an earlier driver, which is looked for if its number was not written down."""
        ticket = tickets.read_ticket(job.entry)
        if ticket is None or ticket.state == "over" or job.fresh:
            return None
        if (ticket.executor, ticket.machine) != ("dpdispatcher", self.identity):
            raise SetupError(tickets.taken(job.entry, ticket))
        if not ticket.job_id:
            return self._new(job, self._find)
        handle = self._new(job, None)
        handle.take(ticket)
        handle.skip_events()
        return handle

    def events(self, handle: ClusterHandle) -> Iterator[dict[str, Any]]:
        """Yield the events that have arrived."""
        return handle.events()

    def poll(self, handle: ClusterHandle) -> int | None:
        """Return the exit status if the stage has ended."""
        if handle.code is None and handle.future is not None:
            self._take_result(handle)
        elif handle.code is None and handle.ticket is None:
            self._submit_later(handle)
        elif handle.code is None:
            self._look(handle)
        self._ask()
        return handle.code

    def cancel(self, handle: ClusterHandle, *, now: bool = False) -> None:
        """Ask a stage to save and stop; with `now`, end its job. Done at the next `poll`."""
        if not handle.stop_at:
            handle.stop_at = time.monotonic() + _GRACE_S
            handle.to_stop = True
        if now:
            handle.stop_at = time.monotonic()

    def release(self, handle: ClusterHandle) -> None:
        """Forget a job; if it is over, the next attempt needs another ticket."""
        self._handles.remove(handle)
        if handle.code is None or handle.ticket is None:
            return
        with tickets.alone(handle.entry):  # at once, or the next attempt would find the old job again
            current = tickets.read_ticket(handle.entry)
            if current is not None and current.ticket == handle.ticket.ticket:
                tickets.write_ticket(handle.entry, current, state="over")
        self._thread.submit(self._clean, handle.entry, handle.ticket)

    def close(self) -> None:
        """Finish what is being said to the cluster; its jobs go on."""
        self._thread.shutdown(wait=True)

    # --- submitting: in the thread ---------------------------------------------------------------------------

    def _submit(self, job: StageJob) -> Ticket | None:
        with tickets.alone(job.entry):
            return self._submit_alone(job)

    def _submit_alone(self, job: StageJob) -> Ticket | None:
        """Submit, unless another driver was faster; None if the stage is done already."""
        earlier = tickets.read_ticket(job.entry)
        if earlier is not None and earlier.state != "over":
            if not job.fresh:
                return earlier
            self._end(job, earlier)
            earlier = self._over(job, earlier)
        if job.entry.is_done() and not job.fresh:
            return None
        ticket = Ticket(
            tickets.new_ticket(),
            "dpdispatcher",
            self.identity,
            self.chosen.name,
            f"{job.run}.{job.task}",
            walltime=job.resources.walltime,
            fresh=job.fresh,
            counts=dict(job.counts),
            earlier=(*earlier.earlier, earlier.ticket) if earlier else (),
        )
        tickets.forget_locks(job.entry, ticket.earlier)
        ticket = tickets.write_ticket(job.entry, ticket)
        try:
            self.place.send(job, ticket)
            job_id = self._hand_over(job, ticket)
        except BaseException:
            self._over(job, ticket)
            raise
        return tickets.write_ticket(job.entry, ticket, job_id=job_id, state="queued")

    def _hand_over(self, job: StageJob, ticket: Ticket) -> str:
        try:
            with self.place.at(job.entry, ticket) as machine:
                job_id = str(machine.do_submit(self._dp_job(job, ticket, machine)))
        except DpsimError:
            raise
        except Exception as error:  # dpdispatcher raises RuntimeError, paramiko and the system their own kinds
            raise SetupError(f"{self.batch} did not take the job {ticket.name}: {refused(str(error))}") from None
        if not job_id:
            raise QueueFull
        return job_id

    def _dp_job(self, job: StageJob, ticket: Ticket, machine: Any) -> Any:
        """Return dpdispatcher's form of a job."""
        library = dispatcher()
        memory = None if job.granted.memory is None else job.granted.memory * 2 ** job.counts.get("oom", 0)
        base = dict(self.chosen.resources)
        entry = self.place.path(job.entry)
        resources = library.Resources(
            **{
                **base,
                "number_node": job.granted.nodes,
                "cpu_per_node": job.granted.cpus // job.granted.nodes,
                "gpu_per_node": job.granted.gpus // job.granted.nodes,
                "queue_name": job.resources.queue or job.resources.partition or base.get("queue_name", ""),
                "group_size": 1,
                "custom_flags": [
                    *base.get("custom_flags", ()),
                    *head_lines(self.batch, job.resources, ticket.ticket, memory),
                ],
                "prepend_script": [*base.get("prepend_script", ()), _trap(f"{entry}/job/{ticket.ticket}/pid")],
            }
        )
        python = self.chosen.profile.python or sys.executable
        words = [python, "-P", "-m", "dpsim.workflow.job", str(entry), ticket.ticket]
        task = library.Task(
            f"trap '' TERM; exec {shlex.join(words)}", ".", outlog="job.out", errlog="job.out", task_name=ticket.name
        )
        made = library.Job([task], resources=resources, machine=machine)
        made.job_id = ticket.job_id
        return made

    def _find(self, job: StageJob) -> Ticket | None:
        """Return the ticket of a driver that died while it submitted, with the number of the job if there is one."""
        with tickets.alone(job.entry):
            ticket = tickets.read_ticket(job.entry)
            if ticket is None or ticket.state == "over":
                return self._submit_alone(job)
            if ticket.job_id:
                return ticket
            with self.place.at(job.entry, ticket) as machine:
                job_id = self.place.job_id(job.entry, ticket) or make_scheduler(machine, self.batch).find(ticket.ticket)
            if job_id:
                return tickets.write_ticket(job.entry, ticket, job_id=job_id, state="queued")
            self._over(job, ticket)
            return self._submit_alone(job)

    # --- asking and stopping: in the thread ------------------------------------------------------------------

    def _inquire(self, handles: list[ClusterHandle]) -> dict[str, Answer]:
        """Return what the scheduler says of jobs, by their tickets; fetch what they have written."""
        answers: dict[str, Answer] = {}
        known = {h.ticket.job_id: h for h in handles if h.ticket is not None}
        jobs = {}
        for job_id, handle in known.items():
            assert handle.ticket is not None
            with self.place.at(handle.entry, handle.ticket) as machine:
                jobs[job_id] = self._dp_job(handle.job, handle.ticket, machine)
                scheduler = make_scheduler(machine, self.batch)
                if self.batch != "Slurm":
                    answers |= scheduler.ask({job_id: jobs[job_id]})
        if jobs and self.batch == "Slurm":
            answers = scheduler.ask(jobs)
        for handle in known.values():
            self.place.refresh(handle.entry, handle.ticket)
        return {handle.ticket.ticket: answers[job_id] for job_id, handle in known.items() if handle.ticket}

    def _tell_to_stop(self, handle: ClusterHandle, *, now: bool) -> None:
        assert handle.ticket is not None
        if now or handle.state == "queued":
            self._end(handle.job, handle.ticket)
            handle.cut_off = True
            return
        with self.place.at(handle.entry, handle.ticket) as machine:
            pid = f"{self.place.path(handle.entry)}/job/{handle.ticket.ticket}/pid"
            make_scheduler(machine, self.batch).stop(handle.ticket.job_id, pid)

    def _end(self, job: StageJob, ticket: Ticket) -> None:
        if not ticket.job_id:
            return
        with self.place.at(job.entry, ticket) as machine:
            pid = f"{self.place.path(job.entry)}/job/{ticket.ticket}/pid"
            make_scheduler(machine, self.batch).end(self._dp_job(job, ticket, machine), pid)

    def _over(self, job: StageJob, ticket: Ticket) -> Ticket:
        return tickets.write_ticket(job.entry, ticket, state="over")

    def _clean(self, entry: Entry, ticket: Ticket) -> None:
        self.place.clean(entry, ticket)

    @property
    def place(self) -> Any:
        """Where the jobs find their files."""
        if self._place is None:
            if is_remote(self.machine):
                from dpsim.workflow.executors.remote import RemotePlace

                self._place = RemotePlace(self.machine, self.run_dir)
            else:
                self._place = SharedPlace(self.machine, self.run_dir)
        return self._place

    # --- the state of a job: in the driver's own thread ------------------------------------------------------

    def _new(self, job: StageJob, work: Callable[[StageJob], Ticket | None] | None) -> ClusterHandle:
        handle = ClusterHandle(job)
        if work is not None:
            handle.future = self._thread.submit(work, job)
        self._handles.append(handle)
        return handle

    def _take_result(self, handle: ClusterHandle) -> None:
        """Take what a submission came to."""
        assert handle.future is not None
        if not handle.future.done():
            return
        future, handle.future = handle.future, None
        try:
            ticket = future.result()
        except QueueFull:
            handle.where = f"{self.batch} takes no further job now"
            handle.not_before = time.monotonic() + self.chosen.profile.poll
        except DpsimError as error:
            handle.fail(str(error), error.exit_code)
        except Exception as error:
            handle.fail(f"{self.batch} could not be spoken with: {type(error).__name__}: {error}", SetupError.exit_code)
        else:
            if ticket is None:
                handle.code = 0
            else:
                handle.take(ticket)

    def _submit_later(self, handle: ClusterHandle) -> None:
        """Submit once more what the scheduler had no place for."""
        if handle.to_stop:
            handle.code = Interrupted.exit_code
        elif time.monotonic() > handle.not_before:
            handle.future = self._thread.submit(self._submit, handle.job)

    def _look(self, handle: ClusterHandle) -> None:
        """Look at what the job left, and pass on that it is to stop."""
        handle.look(self.chosen.profile.poll)
        if handle.timeout and handle.running_since and time.time() - handle.running_since > handle.timeout:
            handle.timed_out = True
            self.cancel(handle)
        if handle.to_stop:
            handle.to_stop = False
            self._thread.submit(self._tell_to_stop, handle, now=False)
        elif handle.stop_at and not handle.ended and time.monotonic() > handle.stop_at:
            handle.ended = True
            self._thread.submit(self._tell_to_stop, handle, now=True)
        if handle.exit is not None:
            self._conclude(handle)
        elif handle.cut_off:
            handle.code = Interrupted.exit_code

    def _conclude(self, handle: ClusterHandle) -> None:
        """Make an exit status of what the job and the scheduler said of its end."""
        assert handle.exit is not None
        code = int(handle.exit.get("code", 1))
        unclear = code == Interrupted.exit_code or code < 0
        if unclear and not handle.stop_at and not handle.gone:
            return  # the scheduler says whether its time was over, or something else happened
        if code == 0 and is_remote(self.machine) and not handle.fetched and handle.ticket is not None:
            handle.fetched = True
            handle.future = self._thread.submit(self._fetch, handle.job, handle.ticket)
            return
        if unclear and not handle.stop_at:
            answer = handle.answer
            guess = "walltime" if code == Interrupted.exit_code else "oom" if code == -9 else ""
            handle.ending = (answer.ending if answer is not None else "") or guess  # type: ignore[assignment]
            if handle.ending == "cancelled":
                handle.error = {"message": f"{handle.name} was cancelled on the cluster; run again to go on"}
            elif answer is not None and answer.ending:
                handle.error = {"message": f"{handle.name} ended ({answer.detail})"}
            elif handle.ending == "walltime":
                handle.error = {"message": f"{handle.name} saved and ended before its time was over"}
        handle.code = code

    def _fetch(self, job: StageJob, ticket: Ticket) -> Ticket:
        self.place.fetch(job.entry, ticket)
        return ticket

    def _ask(self) -> None:
        """Ask for all jobs at once, no more often than the profile allows."""
        if self._question is None:
            waiting = [h for h in self._handles if h.code is None and h.future is None and h.ticket is not None]
            if waiting and time.monotonic() - self._asked >= self.chosen.profile.poll:
                self._asked = time.monotonic()
                self._question = self._thread.submit(self._inquire, waiting)
            return
        if not self._question.done():
            return
        question, self._question = self._question, None
        try:
            answers = question.result()
        except Exception as error:
            if time.monotonic() - self._trouble > _TROUBLE_S:
                self._trouble = time.monotonic()
                for handle in self._handles[:1]:
                    handle.note(f"{self.batch} cannot be asked ({error}); its jobs go on, asking again")
            return
        self._trouble = 0.0
        for handle in self._handles:
            if handle.ticket is not None and handle.ticket.ticket in answers and handle.code is None:
                handle.hear(answers[handle.ticket.ticket])
                if handle.gone >= _LOST and handle.exit is None:
                    self._lost(handle)

    def _lost(self, handle: ClusterHandle) -> None:
        """A job is over that left no exit status: the node, or the scheduler, ended it."""
        answer = handle.answer
        assert answer is not None
        handle.say_script_output()
        how = f" ({answer.detail})" if answer.detail else ""
        if handle.stop_at:
            handle.code = Interrupted.exit_code
            return
        handle.ending = answer.ending or "error"
        if not handle.ran():
            handle.ending = answer.ending or "error"
            handle.error = {"message": f"{handle.name} ended{how} before its stage began; see its log"}
        elif handle.ending == "cancelled":
            handle.error = {"message": f"{handle.name} was cancelled on the cluster{how}; run again to go on"}
        else:
            handle.ending = answer.ending or "preempted"
            handle.error = {"message": f"{handle.name} ended{how} without saying how"}
        codes = {"oom": 7, "walltime": Interrupted.exit_code, "cancelled": Interrupted.exit_code}
        handle.code = codes.get(handle.ending, StageError.exit_code)


def _trap(pid_file: str) -> str:
    """Return a line for the script of a job: told that its time is over, its shell tells the stage and waits."""
    body = f"p=$(cat {shlex.quote(pid_file)}) && kill -TERM $p; while kill -0 $p 2>/dev/null; do sleep 1; done"
    return f"trap {shlex.quote(body)} TERM"
