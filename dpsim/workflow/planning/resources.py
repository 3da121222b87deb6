"""Who gets which cores, GPUs and memory."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from dpsim.workflow.context import Granted
from dpsim.workflow.language.profiles import ExecutorName, Slots
from dpsim.workflow.language.tasks import Task
from dpsim.workflow.planning.plan import Plan
from dpsim.workflow.records.host import gpu_names
from dpsim.workflow.stage import Resources


@dataclass(frozen=True)
class Machine:
    """What the stages of a run share."""

    cpus: int
    gpus: int
    memory: float = math.inf
    """Bytes."""


def machine(slots: Slots, jobs: int | None = None) -> Machine:
    """Return what may be used: ``-j`` before the profile's slots before all that this process has."""
    import psutil

    cpus = jobs or slots.cpu or len(os.sched_getaffinity(0))
    memory = slots.memory or _memory_of_job() or float(psutil.virtual_memory().total)
    return Machine(cpus, len(gpu_names()) if slots.gpu is None else slots.gpu, memory)


def _memory_of_job() -> float | None:
    """Return the memory that Slurm has given to the job around this process, None outside of one."""
    found = os.environ.get("SLURM_MEM_PER_NODE", "")
    return int(found) * 2.0**20 if found.isdigit() and int(found) else None


def executor_of(plan: Plan, name: str) -> ExecutorName:
    """Return where a task runs."""
    task, profile = plan.workflow.tasks[name], plan.workflow.profile
    if task.config.uses == "loop" or task.loop in profile.here:  # the end of a loop only writes a table
        return "local"
    return profile.executor_of(
        task.inner or task.stage, task.config.uses, point=bool(task.point) or task.member is not None
    )


def grants(plan: Plan, available: Machine) -> dict[str, Granted]:
    """Return what each task is granted; asking for more than there is goes to the workflow's collector."""
    return {name: _grant(plan, name, available) for name in plan.order}


def _grant(plan: Plan, name: str, available: Machine) -> Granted:
    task = plan.workflow.tasks[name]
    if executor_of(plan, name) != "local":
        return _grant_on_cluster(task)
    asked, wanted = task.resources, task.config.wanted()
    _check(task, plan, available)
    ranks = asked.ranks or min(wanted.ranks or 1, available.cpus)
    cpus = asked.cpus or (available.cpus if wanted.cpus is None else wanted.cpus)
    useful = (wanted.gpus or 0) * (ranks if task.config.gpu_of_each_rank else 1)
    gpus = asked.gpus if asked.gpus is not None else min(useful, available.gpus)
    cpus = min(max(cpus, ranks), available.cpus)
    return Granted(ranks=ranks, cpus=cpus, gpus=gpus, memory=asked.memory, mpi=_route(asked))


def _check(task: Task, plan: Plan, available: Machine) -> None:
    asked = task.resources
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
    if (asked.nodes or 1) > 1:
        message = f"nodes: {asked.nodes} is more than this one machine; take a profile with a cluster, or lower it"
        plan.workflow.collector.add("E404", (*task.path, "resources", "nodes"), message)
    if asked.memory is not None and asked.memory > available.memory:
        message = (
            f"memory: {asked.memory / 1e9:.3g} GB is more than the {available.memory / 1e9:.3g} GB this run may use; "
            "lower it, or raise 'slots:'"
        )
        plan.workflow.collector.add("E404", (*task.path, "resources", "memory"), message)


def _grant_on_cluster(task: Task) -> Granted:
    """Return what the job of a task asks for; cores and GPUs of all nodes together."""
    asked, wanted = task.resources, task.config.wanted()
    nodes = asked.nodes or 1
    ranks = asked.ranks or wanted.ranks or 1
    cpus = asked.cpus or max(math.ceil(ranks / nodes), wanted.cpus or 1)
    gpus = (asked.gpus or 0) * nodes
    return Granted(
        ranks=ranks, cpus=cpus * nodes, gpus=gpus, nodes=nodes, memory=asked.memory, mpi=_route(asked)
    )  # fmt: skip


def _route(asked: Resources) -> str | None:
    return "device" if asked.mpi == "cuda-aware" else asked.mpi
