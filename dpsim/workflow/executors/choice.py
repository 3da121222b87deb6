"""Which executor a task goes to; each is made when it is first needed."""

from __future__ import annotations

from pathlib import Path

from dpsim.workflow.executors.base import Executor
from dpsim.workflow.executors.local import LocalExecutor
from dpsim.workflow.language.profiles import ExecutorName
from dpsim.workflow.planning.plan import Plan
from dpsim.workflow.planning.profile import choose
from dpsim.workflow.planning.resources import Machine, executor_of


class Executors:
    """The executors of a run.

    Parameters
    ----------
    plan
        What is run; its profile says where. It is replaced when a loop adds tasks.
    run_dir
        The run directory.
    machine
        What stages on this machine share.
    """

    def __init__(self, plan: Plan, run_dir: Path, machine: Machine) -> None:
        self.plan, self._run_dir = plan, run_dir
        self._chosen = choose(plan.workflow)
        self._local = LocalExecutor(machine)
        self._made: dict[ExecutorName, Executor] = {"local": self._local}

    def __getitem__(self, task: str) -> Executor:
        """Return where a task runs."""
        name = executor_of(self.plan, task)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    @property
    def nursery(self) -> tuple[int, int] | None:
        """What becomes readable when a process of this machine has ended (see `Nursery.descriptor`)."""
        return self._local.nursery.descriptor

    def close(self) -> None:
        """End the work of all executors."""
        for executor in self._made.values():
            executor.close()

    def _make(self, name: ExecutorName) -> Executor:
        if name == "dpdispatcher":
            from dpsim.workflow.executors.dispatch import DispatchExecutor

            return DispatchExecutor(self._chosen, self._run_dir)
        from dpsim.workflow.executors.pilot import PilotExecutor

        return PilotExecutor(self._chosen, self._run_dir)
