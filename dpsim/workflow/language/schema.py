"""The language of workflow files: what may stand at the top, and the validation of every stage.

Everything wrong with a file is gathered and reported at once (`InvalidWorkflow`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator

from dpsim.config import Config
from dpsim.elements import SYMBOLS
from dpsim.workflow.language import matrix as matrices
from dpsim.workflow.language.budget import MAX_TASKS
from dpsim.workflow.language.document import Document, read_document
from dpsim.workflow.language.ensemble import AXIS, members
from dpsim.workflow.language.interpolate import Scope, axes_in, fill
from dpsim.workflow.language.loops import Loop, declared
from dpsim.workflow.language.messages import report
from dpsim.workflow.language.peer_parts import translated
from dpsim.workflow.language.problems import Collector, Path, closest
from dpsim.workflow.language.profiles import Profile, Slots
from dpsim.workflow.language.tasks import Task
from dpsim.workflow.stage import STAGE_NAME, Resources, Stage
from dpsim.workflow.stages import STAGE_TYPES, find_stage_type
from dpsim.workflow.stages.loop import LoopStage

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class WorkflowFile(Config):
    """A workflow: stages, connected by references to each other's outputs."""

    dpsim: Literal[1]
    """Version of the language; the first key of the file."""
    name: str | None = None
    """Name of the run, by default that of the file."""
    notes: str | list[str] = ""
    """Free text."""
    type_map: list[str] | None = None
    """Elements of the model, in order."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of everything random, unless a stage has its own."""
    vars: dict[str, Any] = {}
    """Values used as ``${vars.NAME}``."""
    profiles: dict[str, Profile] = {}
    """Where stages run, and other settings of machines."""
    machines: dict[str, str | dict[str, Any]] = {}
    """Clusters by name, as dpdispatcher describes them: mappings, or files with one."""
    resources: dict[str, Resources] = {}
    """Named grants that stages refer to."""
    stages: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """The stages by name."""

    @field_validator("name")
    @classmethod
    def _name(cls, name: str | None) -> str | None:
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} must be at most 100 letters, digits, '_', '-' and '.', since it names a folder")
        return name


@dataclass
class Workflow:
    """A validated workflow; the references between its tasks are still to be linked (`plan`)."""

    name: str
    path: FilePath
    type_map: tuple[str, ...]
    seed: int
    tasks: dict[str, Task]
    document: Document
    left_out: tuple[str, ...] = ()
    """Stages with ``when: false``, and points that have it of stages that are not left out as a whole."""
    seed_given: bool = False
    """Whether the seed is that of the command line."""
    broken: Mapping[str, tuple[type[Stage], Mapping[str, Any]]] = field(default_factory=dict)
    """Type and plain values of the stages with something wrong, by name, for what can still be said of them."""
    profile: Profile = field(default_factory=Profile)
    """The chosen profile."""
    resources: Mapping[str, Resources] = field(default_factory=dict)
    """Entries of ``resources:``."""
    machines: Mapping[str, Any] = field(default_factory=dict)
    """Entries of ``machines:``."""
    loops: Mapping[str, Loop] = field(default_factory=dict)
    """The loops by name, with how far they are planned."""

    @property
    def slots(self) -> Slots:
        """What the stages of a run may use together."""
        return self.profile.slots

    @property
    def base(self) -> FilePath:
        """Folder to which the paths in the file are relative."""
        return self.path.resolve().parent

    @property
    def collector(self) -> Collector:
        """Where problems go."""
        return self.document.collector

    def seed_of(self, task: Task) -> int | None:
        """Return the seed of a task, None if nothing in it is random.

        Models of an ensemble differ in it by one, iterations of a loop by a thousand.
        """
        seed = task.config.seed_for((self.seed + 1000 * (task.iteration - 1)) % 2**63)
        return seed if seed is None else (seed + (task.member or 1) - 1) % 2**63


def read_workflow(
    path: FilePath,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    seed: int | None = None,
) -> Workflow:
    """Read and validate a workflow file, without looking at links between stages.

    Problems with keys and values are left in `Workflow.collector`; call ``collector.check()`` (as `planning.load.load`
    does, after the links were checked too) to raise them all.

    Raises
    ------
    InvalidWorkflow
        If the text is so wrong that nothing further can be told.
    """
    document = read_document(path, profile=profile, overrides=overrides, environment=environment)
    return validate(document, seed=seed)


def validate(document: Document, *, seed: int | None = None) -> Workflow:
    """Validate the plain values of a file (see `read_workflow`)."""
    data, collector = document.data, document.collector
    top = _top_level(data, collector)
    type_map = check_type_map(data.get("type_map"), collector)
    resources = top.resources if top else {}
    tasks: dict[str, Task] = {}
    left_out: list[str] = []
    broken: dict[str, tuple[type[Stage], Mapping[str, Any]]] = {}
    stages = data.get("stages")
    stages = stages if isinstance(stages, dict) else {}
    maker = _Maker(resources, collector, document.path.resolve().parent, type_map)
    ensembles = members(stages)
    loops: dict[str, Loop] = {}
    for name, raw in stages.items():
        if not isinstance(raw, dict):
            continue  # reported with the top level
        made = maker.tasks(name, raw, ("stages", name), ensembles.get(name, 1))
        left_out += _left_out_of(name, made)
        if raw.get("uses") == "loop":
            inner, inner_left_out = maker.inner(name, raw, stages)
            if raw.get("matrix") is not None:
                collector.add("E405", ("stages", name, "matrix"), "a loop has no matrix; give one to its inner stages")
                made = []
            if made and isinstance(config := made[0].config, LoopStage) and config.when:
                loop = Loop(name, config, tuple(inner), inner_left_out)
                _check_loop(loop, collector)
                loops |= {name: loop} if inner else {}
                made = [*inner, *made]
            made = made if inner else []
        tasks |= {task.name: task for task in made}
        stage_type = None if made else find_stage_type(raw["uses"]) if isinstance(raw.get("uses"), str) else None
        if stage_type is not None:
            broken[name] = (stage_type, raw)
    if not type_map and data.get("type_map") is None:
        _need_type_map(tasks, collector)
    tasks = {name: task for name, task in tasks.items() if task.config.when}
    name = top.name if top and top.name else document.path.stem
    profile = top.profiles[document.profile] if top and document.profile in top.profiles else Profile()
    chosen_seed = seed if seed is not None else (top.seed if top else 0)
    return Workflow(
        name,
        document.path,
        type_map,
        chosen_seed,
        tasks,
        document,
        tuple(left_out),
        seed is not None,
        broken,
        profile,
        resources,
        top.machines if top else {},
        loops,
    )


def _check_loop(loop: Loop, collector: Collector) -> None:
    """Check what a loop can only know by its name, or from what is left out."""
    stage = loop.config.until.metric.partition(".")[0]
    if stage in loop.left_out:
        message = f"stage {stage!r} is left out (when: false), so it reports nothing"
        collector.add("E405", ("stages", loop.name, "until", "metric"), message)
    for key, value in loop.config.carry.items():
        if isinstance(value, str) and value.partition(".")[0] == loop.name:
            message = f"the first iteration of {loop.name!r} cannot begin with what the loop gives: that is a circle"
            collector.add("E302", ("stages", loop.name, "carry", key), message)
    for key in loop.config.next:
        if loop.never_changes(key):
            message = f"{key!r} is only handed on from iteration to iteration; let it come from an inner stage"
            collector.add("E302", ("stages", loop.name, "next", key), message)


def _top_level(data: dict[str, Any], collector: Collector) -> WorkflowFile | None:
    version = {"dpsim": 1} if "dpsim" in data else {}
    for missing in ("dpsim", "stages"):
        if missing == "stages" and missing not in data:
            collector.add("E204", (), "a workflow needs the key 'stages'")
    raw = {**data, **version}
    if "stages" not in raw or "dpsim" not in raw:
        # Already reported: fill in so that the other keys are still checked.
        raw = {"dpsim": 1, "stages": {"x": {}}, **raw}
    try:
        return WorkflowFile.model_validate(raw)
    except ValidationError as error:
        report(error, raw, WorkflowFile, collector, (), "a workflow")
        return None


def check_type_map(raw: Any, collector: Collector) -> tuple[str, ...]:
    """Return the elements of a type map; what is wrong with them goes to the collector."""
    if not isinstance(raw, list):
        return ()
    if not raw:
        collector.add("E212", ("type_map",), "type_map is empty; list the elements of the model, e.g. [H, O]")
    for index, symbol in enumerate(raw):
        path = ("type_map", index)
        if not isinstance(symbol, str):
            continue
        if symbol not in SYMBOLS:
            guess = symbol.capitalize() if symbol.capitalize() in SYMBOLS else ""
            collector.add("E212", path, f"{symbol!r} is not the symbol of an element", suggestion=guess)
        elif symbol in raw[:index]:
            collector.add("E212", path, f"{symbol!r} stands twice in type_map")
    return tuple(symbol for symbol in raw if isinstance(symbol, str))


def _left_out_of(stage: str, tasks: Sequence[Task]) -> list[str]:
    """Return what ``when`` leaves out of the tasks of a stage: the stage if it is all of them, else these points."""
    points = [task.name for task in tasks if not task.config.when]
    return [stage] if points and len(points) == len(tasks) else points


def _need_type_map(tasks: Mapping[str, Task], collector: Collector) -> None:
    needing = [task for task in tasks.values() if task.config.uses_type_map]
    if needing:
        stages = ", ".join(dict.fromkeys(task.stage for task in needing))
        collector.add("E212", (), f"'type_map: [..]' is missing at the top of the file; needed by {stages}")


@dataclass(frozen=True)
class _Maker:
    """Makes tasks of plain values, with what all of a file have in common."""

    resources: Mapping[str, Resources]
    collector: Collector
    base: FilePath
    type_map: tuple[str, ...]

    def tasks(self, name: str, raw: dict[str, Any], path: Path, members: int = 1, loop: str = "") -> list[Task]:
        """Return the tasks of one declared stage: one for each point of its matrix and member of its ensemble.

        Those of a stage inside of a loop are named after its first iteration.
        """
        collector = self.collector
        if not STAGE_NAME.fullmatch(name):
            message = f"{name!r} is not a stage name: a letter, then letters, digits, '_' and '-', 100 in all at most"
            collector.add("E209", path, message, key=True)
            return []
        stage_type = _stage_type(raw, path, collector)
        if stage_type is None:
            return []
        all_points = matrices.points(raw.get("matrix"), collector, (*path, "matrix"))
        if members > 1 and any(AXIS in point for point in all_points):
            message = f"{AXIS!r} numbers the models of an ensemble; give this axis another name"
            collector.add("E211", (*path, "matrix", AXIS), message, key=True)
            return []
        collector.spent.tasks += (members - 1) * len(all_points)
        if collector.spent.tasks > MAX_TASKS and members > 1:
            message = f"{members * len(all_points):,} models; at most {MAX_TASKS:,} tasks are allowed in all of a file"
            collector.add("E211", path, message)
            return []
        granted, resources_ok = _resources(raw.get("resources"), self.resources, (*path, "resources"), collector)
        kept = ("matrix", *(() if resources_ok else ("resources",)))
        body = {key: value for key, value in raw.items() if key not in kept}
        if isinstance(body.get("resources"), str):
            body["resources"] = granted.model_dump(exclude_none=True)
        if all_points:
            _check_axes(all_points[0], body, (*path, "matrix"), collector)
        result = []
        numbers = range(1, members + 1)
        named = [{**point, AXIS: number} if members > 1 else point for point in all_points for number in numbers]
        whole = f"{loop}.01.{name}" if loop else name
        for task_name, point in zip(matrices.names(whole, named), named, strict=True):
            values = {axis: value for axis, value in point.items() if members == 1 or axis != AXIS}
            filled = _filled(body, values, collector, path)
            if raw["uses"] == "train":
                filled = translated(filled, self.base, self.type_map, collector, path)
            config = _stage(stage_type, filled, path, collector)
            if config is not None:
                member = point[AXIS] if members > 1 else None
                inner = name if loop else ""
                result.append(Task(task_name, whole, config, granted, values, member, loop, inner=inner))
        return result

    def inner(self, loop: str, raw: dict[str, Any], around: Mapping[str, Any]) -> tuple[list[Task], tuple[str, ...]]:
        """Return the tasks of the first iteration of a loop, and what is left out of the inner stages."""
        found = dict(declared(raw))
        ensembles = members(found, {name: one for name, one in around.items() if name != loop})
        made: list[Task] = []
        left_out: list[str] = []
        for name, inner in found.items():
            path: Path = ("stages", loop, "stages", name)
            if name in around:
                self.collector.add("E209", path, f"there is a stage {name!r} outside of the loop too", key=True)
            if len(loop) + len(name) > 100:
                message = f"the names of the loop and of this stage have {len(loop) + len(name)} letters; 100 at most"
                self.collector.add("E209", path, message, key=True)
            if inner.get("uses") == "loop":
                continue  # refused by the loop itself
            tasks = self.tasks(name, inner, path, ensembles.get(name, 1), loop)
            made += [task for task in tasks if task.config.when]
            left_out += [one.removeprefix(f"{loop}.01.") for one in _left_out_of(name, tasks)]
        return made, tuple(left_out)


def _check_axes(point: Mapping[str, Any], body: dict[str, Any], path: Path, collector: Collector) -> None:
    """Refuse axes whose points would all be the same."""
    for axis in sorted(set(point) - axes_in(body)):
        message = f"{axis!r} is used nowhere in this stage, so its points are all the same; write ${{matrix.{axis}}}"
        collector.add("E211", (*path, axis), f"{message} where it counts", key=True)


def _filled(body: dict[str, Any], point: Mapping[str, Any], collector: Collector, path: Path) -> dict[str, Any]:
    """Return the values of a stage at a point; the inner stages of a loop have points of their own."""
    if body.get("uses") != "loop":
        found: dict[str, Any] = fill(body, Scope(matrix=point), collector, path)
        return found
    own = {key: value for key, value in body.items() if key != "stages"}
    kept = {"stages": body["stages"]} if "stages" in body else {}
    return {**fill(own, Scope(matrix=point), collector, path), **kept}


def _stage_type(raw: dict[str, Any], path: Path, collector: Collector) -> type[Stage] | None:
    uses = raw.get("uses")
    if uses is None:
        notes = [f"types: {', '.join(STAGE_TYPES)}"]
        collector.add("E204", path, f"stage {path[-1]!r} needs the key 'uses', its type", key=True, notes=notes)
        return None
    found = find_stage_type(uses) if isinstance(uses, str) else None
    if found is None:
        suggestion = closest(uses, STAGE_TYPES) if isinstance(uses, str) else ""
        notes = [f"types: {', '.join(STAGE_TYPES)}"]
        collector.add("E208", (*path, "uses"), f"{uses!r} is not a stage type", suggestion=suggestion, notes=notes)
    return found


def _resources(raw: Any, named: Mapping[str, Resources], path: Path, collector: Collector) -> tuple[Resources, bool]:
    """Return what a stage is granted, and whether the declaration is fit for the stage's own validation."""
    if isinstance(raw, str):
        if raw not in named:
            notes = [f"entries of 'resources:': {', '.join(named) or 'none'}"]
            collector.add(
                "E205", path, f"there is no {raw!r} in 'resources:'", suggestion=closest(raw, named), notes=notes
            )
            return Resources(), False
        return named[raw], True
    if isinstance(raw, dict):
        try:
            return Resources.model_validate(raw), True
        except ValidationError as error:
            report(error, raw, Resources, collector, path, "resources")
            return Resources(), False
    return Resources(), True


def _stage(stage_type: type[Stage], raw: Any, path: Path, collector: Collector) -> Stage | None:
    uses = stage_type.model_fields["uses"].default
    article = "an" if str(uses)[0] in "aeiou" else "a"
    try:
        stage = stage_type.model_validate(raw)
    except ValidationError as error:
        report(error, raw, stage_type, collector, path, f"{article} {uses} stage")
        return None
    for where, message in stage.problems():
        collector.add("E405", (*path, *where), message)
    return stage
