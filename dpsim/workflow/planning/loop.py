"""Loops are planned as they go: each iteration becomes ordinary tasks once the one before it is done.

A loop is declared as one stage; its inner stages of iteration 3 are tasks ``loop.03.explore`` with keys and entries
like all others, so that what is done is never done again, wherever a run was stopped. `grow` adds an iteration to a
plan or ends the loop, from what the tasks reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from dpsim.errors import DataError
from dpsim.workflow.stage import Files
from dpsim.workflow.stages.loop import LoopStage, metric_value, reported_by

if TYPE_CHECKING:
    from dpsim.workflow.language.schema import Task, Workflow
    from dpsim.workflow.planning.decide import Decider, Decision
    from dpsim.workflow.planning.plan import Plan
    from dpsim.workflow.records.store import Entry


@dataclass(frozen=True)
class Loop:
    """A declared loop, and how far it is planned."""

    name: str
    config: LoopStage
    template: tuple[Task, ...]
    """Tasks of the first iteration."""
    left_out: tuple[str, ...] = ()
    """Inner stages with ``when: false``."""
    iteration: int = 1
    """The last one that is planned."""
    ended: bool = False
    values: tuple[float, ...] = ()
    """The metric of each iteration that is done."""

    def key(self, iteration: int, inner: str) -> str:
        """Return the name that an inner stage has in an iteration."""
        return f"{self.name}.{iteration:02d}.{inner}"

    def tasks(self, iteration: int) -> Iterator[Task]:
        """Yield the tasks of an iteration."""
        first = self.key(1, "")
        for task in self.template:
            name = self.key(iteration, task.name.removeprefix(first))
            yield replace(task, name=name, stage=self.key(iteration, task.inner), iteration=iteration)

    def never_changes(self, key: str) -> bool:
        """Whether what is carried under a name comes back to it without passing a stage."""
        seen: set[str] = set()
        while key not in seen and key in self.config.carry:
            seen.add(key)
            head, _, rest = self.config.next.get(key, "").partition(".")
            if head != self.name:
                return False
            key = rest.partition(".")[0]
        return key in seen

    def outlook(self) -> str:
        """Return what is still to come, in words."""
        seen = f" ({', '.join(f'{value:.4g}' for value in self.values)} so far)" if self.values else ""
        if self.ended:
            reached = self.config.until.reached(self.values)
            return f"{self.iteration} iterations" + ("" if reached else f", without {self.config.until}") + seen
        more = self.config.max_iterations - self.iteration
        then = f"then up to {more} more until {self.config.until}" if more else "the last one"
        return f"after iteration {self.iteration}, {then}{seen}"


class Target(NamedTuple):
    """What a reference means."""

    stage: str
    """Name of the stage among those that are planned, with loop and iteration if it is an inner one."""
    text: str
    """The reference with that name."""
    shown: str
    """The stage as it is called in the file."""


def resolve(
    loops: Mapping[str, Loop], text: str, task: Task | None = None, seen: frozenset[tuple[str, str, int]] = frozenset()
) -> Target | Files | None:
    """Return what a reference means: to a stage, to one of the same iteration, or to what a loop carries.

    Parameters
    ----------
    task
        Where the reference stands; None for what is outside of all loops.

    Returns
    -------
    Target, Files or None
        None for what loops hand each other in a circle.
    """
    name = text.partition("@")[0].partition(".")[0]
    rest = text[len(name) :]
    home = loops.get(task.loop) if task is not None else None
    loop = loops.get(name)
    if loop is not None and rest.startswith("."):
        key, _, tail = rest[1:].partition(".")
        if key in loop.config.carry:
            inside = task is not None and home is loop
            iteration = task.iteration if task is not None and inside else loop.iteration + 1
            return _carried(loops, loop, key, iteration, tail, seen)
    if home is not None and task is not None and name in home.config.stages:
        stage = home.key(task.iteration, name)
        return Target(stage, stage + rest, name)
    return Target(name, text, name)


def _carried(
    loops: Mapping[str, Loop], loop: Loop, key: str, iteration: int, tail: str, seen: frozenset[tuple[str, str, int]]
) -> Target | Files | None:
    """Return what a carried name stands for at the beginning of an iteration."""
    if (loop.name, key, iteration) in seen:
        return None
    seen = seen | {(loop.name, key, iteration)}
    if iteration > 1 and key in loop.config.next:
        earlier = replace(loop.template[0], iteration=iteration - 1)
        found = resolve(loops, loop.config.next[key], earlier, seen)
    else:
        value = loop.config.carry[key]
        found = value if isinstance(value, Files) else resolve(loops, value, None, seen)
    if tail and isinstance(found, Target):
        return found._replace(text=f"{found.text}.{tail}")
    return found


# --- growing -----------------------------------------------------------------------------------------------------


class Growth(NamedTuple):
    """A plan with one iteration more, or with a loop ended."""

    plan: Plan
    loop: Loop
    message: str


class LoopFailed(DataError):
    """A loop whose metric is not there."""

    def __init__(self, loop: str, message: str) -> None:
        super().__init__(message)
        self.loop = loop


def grow(plan: Plan, entries: Mapping[str, Entry]) -> Growth | None:
    """Return the plan after the iteration that is done, None if none is.

    Parameters
    ----------
    entries
        Of the tasks that are done.

    Raises
    ------
    LoopFailed
        If the metric that the loop waits for is not a number that the stage reports.
    """
    for loop in plan.workflow.loops.values():
        tasks = [name for name in plan.order if _is_of(plan.workflow.tasks[name], loop, loop.iteration)]
        if not loop.ended and loop.name in plan.links and all(name in entries for name in tasks):
            return _after(plan, loop, {name: entries[name] for name in tasks})
    return None


def _is_of(task: Task, loop: Loop, iteration: int) -> bool:
    return task.loop == loop.name and task.iteration == iteration


def _after(plan: Plan, loop: Loop, entries: Mapping[str, Entry]) -> Growth:
    until = loop.config.until
    prefix = loop.key(loop.iteration, "")
    reported = {
        name.removeprefix(prefix): reported_by([entry.out / path for path in reporting(plan.workflow.tasks[name])])
        for name, entry in entries.items()
    }
    try:
        value = metric_value(until, reported)
    except KeyError as error:
        message = f"until.metric of {loop.name!r} in iteration {loop.iteration}: {error.args[0]}"
        raise LoopFailed(loop.name, message) from None
    values = (*loop.values, value)
    number = loop.iteration
    most = loop.config.max_iterations
    said = f"{loop.name}: {until.metric} is {value:.4g} after iteration {number} of at most {most}"
    if until.reached(values):
        following = replace(loop, values=values, ended=True)
        said += "; done"
    elif number == most:
        following = replace(loop, values=values, ended=True)
        said += f"; it ends without {until}: raise max_iterations to go on"
    else:
        following = replace(loop, values=values, iteration=number + 1)
    return Growth(_with(plan, following), following, said)


def _with(plan: Plan, loop: Loop) -> Plan:
    """Return the plan in which a loop is as far as said."""
    from dpsim.workflow.planning.plan import make_plan

    return make_plan(advanced(plan.workflow, loop))


def advanced(workflow: Workflow, loop: Loop) -> Workflow:
    """Return the workflow with the tasks of a loop up to its iteration, which stand before the loop's own."""
    tasks: dict[str, Task] = {}
    for name, task in workflow.tasks.items():
        if name == loop.name:
            tasks |= {one.name: one for number in range(1, loop.iteration + 1) for one in loop.tasks(number)}
        tasks[name] = task
    return replace(workflow, tasks=tasks, loops={**workflow.loops, loop.name: loop})


def reporting(task: Task) -> list[str]:
    """Return the paths of the outputs of a task that hold numbers: metrics, JSON of commands, data sets as a whole."""
    outputs = task.config.declared_outputs()
    return list(
        dict.fromkeys(
            output.path
            for name, output in outputs.items()
            if output.kind == "metrics"
            or (output.kind == "any" and output.path.endswith(".json"))
            or (output.kind == "dataset" and name == task.config.main_output())
        )
    )


# --- looking ahead -----------------------------------------------------------------------------------------------


def check_next(workflow: Workflow) -> None:
    """Link the second iteration of each loop on trial: what is wrong with ``next`` is said before anything runs."""
    from dpsim.workflow.planning.plan import make_plan

    for loop in workflow.loops.values():
        if loop.config.max_iterations > 1 and not workflow.collector.problems:
            make_plan(advanced(workflow, replace(loop, iteration=2)))


def decisions(decider: Decider) -> Iterator[Decision]:
    """Yield what is to be done about every task, following loops as far as they are done already."""
    seen: set[str] = set()
    while fresh := [name for name in decider.plan.order if name not in seen]:
        for name in fresh:
            seen.add(name)
            decision = decider.decide(name)
            if decision.action == "cached" and decision.entry is not None:
                decider.entries[name] = decision.entry
            yield decision
            growth = grow(decider.plan, decider.entries)
            if growth is not None:
                decider.plan = growth.plan
                break


def with_done(plan: Plan, decider: Decider, words: Iterable[str]) -> Plan:
    """Return the plan with the iterations that are done already, if a word means none of its tasks."""
    if all(plan.tasks_of(word) for word in words):
        return plan
    for _ in decisions(decider):
        pass
    return decider.plan


def declared(raw: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the inner stages of a loop as they are written."""
    stages = raw.get("stages")
    if isinstance(stages, dict):
        yield from ((name, inner) for name, inner in stages.items() if isinstance(inner, dict))
