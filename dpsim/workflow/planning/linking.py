"""From stages to an ordered list: references become edges, edges become an order.

Everything here is a pure function of the declared stages; nothing is run and no run directory is read.
"""

from __future__ import annotations

import graphlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from dpsim.workflow.language.problems import Collector, Path, closest
from dpsim.workflow.language.schema import Workflow
from dpsim.workflow.language.tasks import Task
from dpsim.workflow.planning.lineage import inherited
from dpsim.workflow.planning.plan import Link, Plan
from dpsim.workflow.planning.references import Target, resolve
from dpsim.workflow.stage import Files, MaybeReference, Output, Slot, Source, is_reference, sources_of


def make_plan(workflow: Workflow) -> Plan:
    """Link and order the tasks of a workflow; problems are gathered in its collector."""
    skipped: dict[str, str] = {}
    links: dict[str, tuple[Link, ...]] = {}
    linker = _Linker(workflow, skipped)
    pending = list(workflow.tasks.values())
    # A task that needs a left-out one is left out too, which may take others with it.
    while True:
        before = len(skipped)
        links = {task.name: linker.links(task) for task in pending if task.name not in skipped}
        if len(skipped) == before:
            break
    linker.check_broken()
    after = {name: linker.after(workflow.tasks[name]) for name in links}
    graph = {
        name: {producer for link in found for producer, _ in link.producers} | set(after[name])
        for name, found in links.items()
    }
    order = _order(graph, workflow, workflow.collector)
    return Plan(workflow, order, links, skipped, {name: found for name, found in after.items() if found})


def _order(graph: Mapping[str, set[str]], workflow: Workflow, collector: Collector) -> tuple[str, ...]:
    """Return the tasks so that each stands after those it needs; in the order of the file where that is free."""
    position = {name: index for index, name in enumerate(workflow.tasks)}
    sorter = graphlib.TopologicalSorter(graph)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        cycle = list(reversed(error.args[1]))
        tasks = [workflow.tasks[name] for name in cycle]
        message = f"stages wait for each other in a circle: {' -> '.join(task.inner or task.stage for task in tasks)}"
        collector.add("E302", tasks[0].path, message, key=True)
        return ()
    order: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=position.__getitem__)
        name = ready.pop(0)
        order.append(name)
        sorter.done(name)
    return tuple(order)


class _Linker:
    """Resolves references."""

    def __init__(self, workflow: Workflow, skipped: dict[str, str]) -> None:
        self.workflow = workflow
        self.skipped = skipped
        self.stages: dict[str, list[Task]] = {}
        for task in workflow.tasks.values():
            self.stages.setdefault(task.stage, []).append(task)
        raw = workflow.document.data.get("stages")
        self.outside = list(raw) if isinstance(raw, dict) else []
        self.left_out = set(workflow.left_out)
        inner: set[str] = set()
        for loop in workflow.loops.values():
            numbers = range(1, loop.iteration + 1)
            inner |= {loop.key(number, name) for number in numbers for name in loop.config.stages}
            self.left_out |= {loop.key(number, name) for number in numbers for name in loop.left_out}
        self.declared = {*self.outside, *inner}

    def links(self, task: Task) -> tuple[Link, ...]:
        """Return the inputs of a task; a needed input that is left out leaves the task out."""
        found = []
        for source in task.config.sources():
            slot = task.config.slots[source.slot]
            link = self._link(task.path, source, slot, task)
            if link is not None:
                found.append(link)
        used = {link.slot for link in found}
        for source in task.config.sources():
            if task.name not in self.skipped and source.slot not in used and self._is_left_out(source, task):
                self.skipped[task.name] = f"needs {source.value}, which is left out"
        if task.name in self.workflow.loops:
            found += self._iterations(task)
        if task.config.inherits:
            more = inherited(task, found, self.workflow.tasks, self.links)
            found += [Link(slot, (slot,), producers) for slot, producers in more]
        return tuple(found)

    def after(self, task: Task) -> tuple[str, ...]:
        """Return the tasks that a task waits for without their outputs: ends of loops, and before them iterations."""
        found: list[str] = []
        loop = self.workflow.loops.get(task.name)
        if loop is not None:
            found = [one.name for one in loop.tasks(loop.iteration) if one.name not in self.skipped]
        for source in task.config.sources():
            target = self._target(source, task)
            makers = self.stages.get(target.stage, []) if isinstance(target, Target) else []
            found += [one.loop for one in makers[:1] if one.loop not in ("", task.loop, task.name, *self.skipped)]
        return tuple(dict.fromkeys(found))

    def _iterations(self, task: Task) -> list[Link]:
        """Return what the end of a loop takes: what its stages reported, and what the next iteration would be given."""
        loop = self.workflow.loops[task.name]
        found = []
        for name, value in loop.config.next.items():
            source = Source("next", ("next", name), value)
            last = next(loop.tasks(loop.iteration))
            link = self._link(task.path, source, task.config.slots["next"], last)
            found += [link] if link is not None else []
        for number in range(1, loop.iteration + 1):
            for one in loop.tasks(number):
                for path in reporting(one) if one.name not in self.skipped else ():
                    place = ("iterations", one.name.removeprefix(f"{loop.name}."), path)
                    found.append(Link("iterations", place, ((one.name, path),)))
        return found

    def check_broken(self) -> None:
        """Check the references of stages whose other keys are wrong, so that all is said in one pass."""
        for name, (stage_type, raw) in self.workflow.broken.items():
            for slot, what in stage_type.slots.items():
                for source in sources_of(slot, (slot,), raw.get(slot)):
                    if is_reference(source.value):
                        self._link(("stages", name), source, what)

    def _target(self, source: Source, task: Task | None) -> Target | Files | None:
        if isinstance(source.value, Files):
            return source.value
        return resolve(self.workflow.loops, str(source.value), task)

    def _is_left_out(self, source: Source, task: Task | None) -> bool:
        target = self._target(source, task)
        if not isinstance(target, Target):
            return False
        point = self._point(target)
        return self._is_stage_left_out(target.stage) or point in self.left_out or point in self.skipped

    def _is_stage_left_out(self, name: str) -> bool:
        tasks = self.stages.get(name, [])
        return name in self.left_out or (bool(tasks) and all(task.name in self.skipped for task in tasks))

    def _link(self, base: Path, source: Source, slot: Slot, task: Task | None = None) -> Link | None:
        target = self._target(source, task)
        place = (*base, *source.path)
        if isinstance(target, Files):
            return Link(source.slot, source.path, patterns=target.patterns(), optional=source.optional)
        if target is None:
            self._add("E302", place, f"{source.value} is what loops hand each other in a circle", "")
            return None
        name = target.stage
        if isinstance(source.value, MaybeReference) and name not in self.declared:
            return Link(source.slot, source.path, patterns=(str(source.value),))
        if name not in self.declared:
            self._unknown(target, place, task)
            return None
        if self._is_stage_left_out(name):
            return None
        if name not in self.stages:  # its own declaration is wrong and reported
            stage_type = self.workflow.broken[name][0] if name in self.workflow.broken else None
            fixed = stage_type is not None and stage_type.outputs and not stage_type.more_outputs
            if stage_type is not None and fixed and "@" not in target.text:
                output = target.text[len(name) + 1 :]
                self._output(target.shown, stage_type.outputs, stage_type.main, output, slot, place)
            return None
        chosen, output = self._chosen(target, place)
        chosen = [one for one in chosen if one.name not in self.skipped]
        if not chosen:
            return None
        config = chosen[0].config
        outputs = config.declared_outputs()
        path = self._output(target.shown, outputs, config.main_output(), output, slot, place, config.output_needs)
        if path is None:
            return None
        if not slot.many:
            chosen = _one_member(chosen, task)
        if len(chosen) > 1 and not slot.many:
            message = f"stage {target.shown!r} has {len(chosen)} matrix points, but this input takes one"
            self._add("E303", place, message, "", [f"points: {', '.join(one.name for one in chosen[:6])}"])
            return None
        return Link(source.slot, source.path, tuple((one.name, path) for one in chosen))

    def _unknown(self, target: Target, place: Path, task: Task | None) -> None:
        """Say that there is no such stage, and which there are."""
        loop = self.workflow.loops.get(task.loop) if task is not None else None
        known = [*(loop.config.stages if loop is not None else ()), *self.outside]
        notes = [f"stages: {', '.join(known)}; a file is written {{path: {target.text}}}"]
        around = [name for name, one in self.workflow.loops.items() if target.shown in one.config.stages]
        if around:
            notes = [f"{target.shown!r} is inside of {around[0]!r}: what leaves a loop is in its 'carry' and 'next'"]
        self._add("E301", place, f"there is no stage {target.shown!r}", closest(target.shown, known), notes)

    def _chosen(self, target: Target, place: Path) -> tuple[list[Task], str]:
        """Return the tasks meant by a reference and the name of the output."""
        tasks, text = self.stages[target.stage], target.text
        if "@" not in text:
            return tasks, text[len(target.stage) + 1 :]
        if point := self._point(target):
            return [one for one in tasks if one.name == point], text[len(point) + 1 :]
        known = [one.name for one in tasks]
        message = f"{text!r} is not a matrix point of stage {target.shown!r}"
        self._add("E301", place, message, closest(text, known), known[:6])
        return [], ""

    def _point(self, target: Target) -> str:
        """Return the name of the task that a reference to one matrix point means, also where it is left out."""
        names = [one.name for one in self.stages.get(target.stage, [])]
        names += [name for name in self.left_out if name.startswith(f"{target.stage}@")]
        fitting = [name for name in names if "@" in name and f"{target.text}.".startswith(f"{name}.")]
        return max(fitting, key=len, default="")  # the values of a point may hold dots

    def _output(
        self,
        stage: str,
        outputs: Mapping[str, Output],
        main: str,
        output: str,
        slot: Slot,
        place: Path,
        needs: Mapping[str, str] = MappingProxyType({}),
    ) -> str | None:
        """Return the path of an output inside of the folder of a task."""
        if not output and slot.whole:
            return "."
        known = [name for name in outputs if name != "."]
        chosen = output or main
        if chosen not in outputs:
            guess = closest(output, known)
            suggestion = f"{stage}.{guess}" if guess else ""
            message = f"'{stage}.{output}' is not an output of stage {stage!r}"
            notes = [f"outputs of {stage!r}: {', '.join(known) or 'its folder'}"]
            notes += [f"a stage of this type has {output!r} if it has {needs[output]!r}"] if output in needs else []
            self._add("E304", place, message, suggestion, notes)
            return None
        kind = outputs[chosen].kind
        if not (slot.whole or "any" in slot.kinds or kind == "any" or kind in slot.kinds):
            fitting = [f"{stage}.{name}" for name, out in outputs.items() if out.kind in slot.kinds and name != "."]
            expected = " or ".join(sorted(_KIND.get(k, k) for k in slot.kinds))
            message = f"{stage}.{chosen} is {_KIND.get(kind, kind)}; expected {expected}"
            notes = [f"outputs of {stage!r}: {', '.join(known)}"]
            between = [uses for (has, wants), uses in _BETWEEN.items() if has == kind and wants in slot.kinds]
            notes += [f"{{uses: {uses}, from: {stage}.{chosen}}} makes it" for uses in between if not fitting]
            self._add("E305", place, message, fitting[0] if fitting else "", notes)
            return None
        return outputs[chosen].path

    def _add(self, code: str, place: Path, message: str, suggestion: str, notes: Sequence[str] = ()) -> None:
        self.workflow.collector.add(code, place, message, suggestion=suggestion, notes=notes)


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


def _one_member(tasks: list[Task], task: Task | None) -> list[Task]:
    """Of an ensemble, return what an input that takes one model is given: the same member, else the first."""
    if len(tasks) == 1 or any(one.member is None for one in tasks):
        return tasks
    wanted = task.member if task is not None and task.member is not None else 1
    return [one for one in tasks if one.member == wanted]


_KIND = {
    "frames": "labelled frames",
    "structures": "structures",
    "dataset": "a data set",
    "weights": "a trained model",
    "frozen": "a frozen model",
    "metrics": "a table of metrics",
    "table": "a table",
    "report": "a report",
}
_BETWEEN = {("weights", "frozen"): "freeze", ("frames", "dataset"): "convert", ("structures", "frames"): "label"}
"""Types of stages that make one kind from another."""
