"""Profiles: where the stages of a workflow run, chosen with ``--profile``."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from dpsim.config import Config, Memory, Walltime
from dpsim.errors import ConfigError
from dpsim.workflow.language.problems import Collector, InvalidWorkflow, Path, closest
from dpsim.workflow.language.yaml_loader import load_file
from dpsim.workflow.stage import Resources

if TYPE_CHECKING:
    from dpsim.workflow.language.schema import Workflow

ExecutorName = Literal["local", "dpdispatcher", "parsl"]
INSTALL: Final = "pip install 'dpsim[cluster]'"
"""Command that installs what clusters need."""


class Slots(Config):
    """What the stages of a run may use together."""

    cpu: Annotated[int, Field(ge=1)] | None = None
    """Cores; by default all that this process may use."""
    gpu: Annotated[int, Field(ge=0)] | None = None
    """GPUs; by default all of the machine."""
    memory: Memory | None = None
    """Memory, in bytes if it is a bare number; by default all of the machine."""


class Retries(Config):
    """How often a job is started again, by what ended it."""

    oom: Annotated[int, Field(ge=0, le=1000)] = 0
    """After it ran out of memory."""
    preempted: Annotated[int, Field(ge=0, le=1000)] = 20
    """After the cluster took it away: a failed node, a job of higher priority."""
    walltime: Annotated[int, Field(ge=0, le=1000)] = 100
    """After its time was over; a stage goes on from what it has saved."""
    error: Annotated[int, Field(ge=0, le=1000)] = 0
    """After any other failure of a stage without ``retries`` of its own; wrong input and a wrong setup are not
    repeated."""


class Profile(Config):
    """Settings of one machine, chosen with ``--profile``."""

    executor: ExecutorName = "local"
    """Where stages run: processes of this machine, jobs of a cluster (``dpdispatcher``), or processes inside of pilot
    jobs (``parsl``)."""
    fanout: ExecutorName | None = None
    """Where the points of a ``matrix`` and the models of an ``ensemble`` run; by default as other stages."""
    machine: str | dict[str, Any] | None = None
    """The cluster, as dpdispatcher has it: a mapping (``{batch_type: Slurm, context_type: LazyLocal, ...}``), a JSON or
    YAML file with one, or a name under ``machines:``."""
    here: list[str] = []
    """Stages, by name or type, that run on this machine whatever the executor is."""
    alone: list[str] = []
    """Stages, by name or type, that ``fanout`` leaves where other stages are, such as trainings of hours: a pilot ends
    with its driver, a job of a cluster does not."""
    pilot: str | Resources = Resources()
    """What each pilot job of Parsl takes: a name under ``resources:``, or ``{nodes, cpus, gpus, walltime, ...}``."""
    pilots: Annotated[int, Field(ge=1)] = 1
    """Pilot jobs at once."""
    jobs: Annotated[int, Field(ge=1)] = 100
    """Stages that are queued or running on the cluster at once."""
    poll: Annotated[Walltime, Field(ge=0.1)] = 10.0
    """Time between two questions to the cluster, s."""
    retries: Retries = Retries()
    on_stop: Literal["cancel", "leave"] = "cancel"
    """What becomes of the jobs when the run is stopped: they save and end, or are left to be found by the next
    ``dpsim run``."""
    python: str | None = None
    """Python of the cluster, by default the running one; dpsim is installed there."""
    slots: Slots = Slots()
    overrides: dict[str, Any] = {}
    """``stages.model.steps: 500`` and the like, as with ``--set``."""

    @field_validator("here", "alone")
    @classmethod
    def _named(cls, stages: list[str]) -> list[str]:
        if not all(stages):
            raise ValueError("each entry is the name or the type of a stage")
        return stages

    def executor_of(self, stage: str, uses: str, *, point: bool) -> ExecutorName:
        """Return where a stage runs.

        Parameters
        ----------
        stage, uses
            Name and type.
        point
            Whether it is one of several: a point of a matrix, a model of an ensemble.
        """
        if stage in self.here or uses in self.here:
            return "local"
        if self.fanout is None or not point or stage in self.alone or uses in self.alone:
            return self.executor
        return self.fanout


@dataclass(frozen=True)
class Chosen:
    """The profile of a run, with what it refers to."""

    name: str | None = None
    profile: Profile = field(default_factory=Profile)
    machine: Mapping[str, Any] = field(default_factory=dict)
    """dpdispatcher's description of the cluster; empty if there is none."""
    resources: Mapping[str, Any] = field(default_factory=dict)
    """dpdispatcher's resources for every job, from the file of the machine."""
    pilot: Resources = field(default_factory=Resources)


def choose(workflow: Workflow) -> Chosen:
    """Return the chosen profile of a workflow; problems with it go to the workflow's collector."""
    profile, name = workflow.profile, workflow.document.profile
    if name is None:
        return Chosen()
    path: Path = ("profiles", name)
    collector = workflow.collector
    used = {profile.executor, profile.fanout or profile.executor}
    for executor in sorted(used - {"local"}):
        if importlib.util.find_spec(executor) is None:
            place = (*path, "executor" if executor == profile.executor else "fanout")
            message = f"the Python package {executor!r} is not installed; run: {INSTALL}"
            collector.add("E403", place, message)
    _check_names(workflow, path)
    pilot = _pilot(workflow, path)
    machine, resources = _machine(workflow, path)
    if "dpdispatcher" in used and not machine and profile.machine is None:
        message = "executor 'dpdispatcher' needs 'machine': a mapping, a file, or a name under 'machines:'"
        collector.add("E214", path, message, key=True)
    if machine and importlib.util.find_spec("dpdispatcher") is not None:
        _check_machine(machine, resources, (*path, "machine"), collector)
    return Chosen(name, profile, machine, resources, pilot)


def _check_names(workflow: Workflow, path: Path) -> None:
    stages = workflow.document.data.get("stages")
    known = {*(stages if isinstance(stages, dict) else ()), *(task.config.uses for task in workflow.tasks.values())}
    for setting, words in (("here", workflow.profile.here), ("alone", workflow.profile.alone)):
        for index, word in enumerate(words):
            if word not in known:
                message = f"{word!r} is neither the name nor the type of a stage of this workflow"
                suggestion = closest(word, known)
                workflow.collector.add("E214", (*path, setting, index), message, suggestion=suggestion)


def _pilot(workflow: Workflow, path: Path) -> Resources:
    pilot = workflow.profile.pilot
    if isinstance(pilot, Resources):
        return pilot
    if pilot not in workflow.resources:
        notes = [f"entries of 'resources:': {', '.join(workflow.resources) or 'none'}"]
        message = f"there is no {pilot!r} in 'resources:'"
        suggestion = closest(pilot, workflow.resources)
        workflow.collector.add("E205", (*path, "pilot"), message, suggestion=suggestion, notes=notes)
        return Resources()
    return workflow.resources[pilot]


def _machine(workflow: Workflow, path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the machine and its resources, both empty where there is something wrong."""
    value: Any = workflow.profile.machine
    where: Path = (*path, "machine")
    if isinstance(value, str) and value in workflow.machines:
        where = ("machines", value)
        value = workflow.machines[value]
    if isinstance(value, str):
        file = workflow.base / FilePath(value).expanduser()
        if not file.is_file():
            known = f" (there: {', '.join(workflow.machines)})" if workflow.machines else ""
            message = f"{value!r} is neither a file (looked for {file}) nor a name under 'machines:'{known}"
            workflow.collector.add("E214", where, message, suggestion=closest(value, workflow.machines))
            return {}, {}
        try:
            value = _read(file)
        except ConfigError as error:
            workflow.collector.add("E214", where, str(error))
            return {}, {}
    if value is None:
        return {}, {}
    # The file of a whole submission holds both parts.
    machine = value.get("machine") if isinstance(value.get("machine"), dict) else value
    resources = value.get("resources", {}) if machine is not value else {}
    if not isinstance(resources, dict):
        workflow.collector.add("E214", where, "'resources' beside 'machine' must be a mapping")
        resources = {}
    return dict(machine), dict(resources)


def _read(file: FilePath) -> dict[str, Any]:
    if file.suffix in (".yaml", ".yml"):
        try:
            value = load_file(file).data
        except InvalidWorkflow as error:
            raise ConfigError(error.problems[0].sentence()) from None
    else:
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{file} must hold a mapping with batch_type, context_type, ..., as dpdispatcher has it")
    return value


def _check_machine(machine: Mapping[str, Any], resources: Mapping[str, Any], path: Path, collector: Collector) -> None:
    from dpsim.workflow.executors.machines import check_machine

    for message in check_machine(machine, resources):
        collector.add("E214", path, message)
