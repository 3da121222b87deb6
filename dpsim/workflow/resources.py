"""Who gets which cores and GPUs of this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass

from dpsim.workflow.context import Granted
from dpsim.workflow.manifest import gpu_names
from dpsim.workflow.plan import Plan
from dpsim.workflow.schema import Slots, Task


@dataclass(frozen=True)
class Machine:
    """What the stages of a run share."""

    cpus: int
    gpus: int


def machine(slots: Slots, jobs: int | None = None) -> Machine:
    """Return what may be used: ``-j`` before the profile's slots before all that this process has."""
    cpus = jobs or slots.cpu or len(os.sched_getaffinity(0))
    return Machine(cpus, len(gpu_names()) if slots.gpu is None else slots.gpu)


def grants(plan: Plan, available: Machine) -> dict[str, Granted]:
    """Return what each task is granted; asking for more than there is goes to the workflow's collector."""
    return {name: _grant(plan.workflow.tasks[name], plan, available) for name in plan.order}


def _grant(task: Task, plan: Plan, available: Machine) -> Granted:
    asked, wanted = task.resources, task.config.wanted()
    for name, number, limit in (
        ("ranks", asked.ranks, available.cpus),
        ("cpus", asked.cpus, available.cpus),
        ("gpus", asked.gpus, available.gpus),
    ):
        if number is not None and number > limit:
            what = "GPUs" if name == "gpus" else "cores"
            message = (
                f"{name}: {number} is more than the {limit} {what} this run may use; lower it, or raise 'slots:' or -j"
            )
            plan.workflow.collector.add("E404", (*task.path, "resources", name), message)
    ranks = asked.ranks or min(wanted.ranks or 1, available.cpus)
    cpus = asked.cpus or (available.cpus if wanted.cpus is None else wanted.cpus)
    useful = (wanted.gpus or 0) * (ranks if task.config.gpu_of_each_rank else 1)
    gpus = asked.gpus if asked.gpus is not None else min(useful, available.gpus)
    return Granted(ranks=ranks, cpus=min(max(cpus, ranks), available.cpus), gpus=gpus)
