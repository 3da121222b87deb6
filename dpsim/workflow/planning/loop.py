"""Loops are planned as they go: each iteration becomes ordinary tasks once the one before it is done.

A loop is declared as one stage; its inner stages of iteration 3 are tasks ``loop.03.explore`` with keys and entries
like all others, so that what is done is never done again, wherever a run was stopped. `grow` adds an iteration to a
plan or ends the loop, from what the tasks reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from dpsim.errors import DataError
from dpsim.workflow.language.loops import Loop
from dpsim.workflow.language.schema import Workflow
from dpsim.workflow.language.tasks import Task
from dpsim.workflow.planning.decide import Decider, Decision
from dpsim.workflow.planning.linking import make_plan, reporting
from dpsim.workflow.planning.plan import Plan
from dpsim.workflow.records.store import Entry
from dpsim.workflow.stages.loop import metric_value, reported_by

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
    return make_plan(advanced(plan.workflow, loop))


def advanced(workflow: Workflow, loop: Loop) -> Workflow:
    """Return the workflow with the tasks of a loop up to its iteration, which stand before the loop's own."""
    tasks: dict[str, Task] = {}
    for name, task in workflow.tasks.items():
        if name == loop.name:
            tasks |= {one.name: one for number in range(1, loop.iteration + 1) for one in loop.tasks(number)}
        tasks[name] = task
    return replace(workflow, tasks=tasks, loops={**workflow.loops, loop.name: loop})


# --- looking ahead -----------------------------------------------------------------------------------------------


def check_next(workflow: Workflow) -> None:
    """Link the second iteration of each loop on trial: what is wrong with ``next`` is said before anything runs."""
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
