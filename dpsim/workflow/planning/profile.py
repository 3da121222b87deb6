"""The profile of a run, checked, with the cluster that it refers to."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from dpsim.errors import ConfigError
from dpsim.workflow.language.problems import Collector, InvalidWorkflow, Path, closest
from dpsim.workflow.language.profiles import Profile
from dpsim.workflow.language.schema import Workflow
from dpsim.workflow.language.yaml_loader import load_file
from dpsim.workflow.planning.machines import INSTALL, check_machine
from dpsim.workflow.stage import Resources


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

    for message in check_machine(machine, resources):
        collector.add("E214", path, message)
