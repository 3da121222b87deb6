"""What a plan needs beside itself: files, elements, packages and programs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dpsim.errors import ConfigError, DataError
from dpsim.model.pretrained import HUB
from dpsim.workflow.planning.files import match_files, near
from dpsim.workflow.planning.profile import choose

if TYPE_CHECKING:
    from dpsim.workflow.language.problems import Path
    from dpsim.workflow.language.schema import Workflow
    from dpsim.workflow.planning.plan import Plan
    from dpsim.workflow.stage import Slot

Fetch = Callable[[str], object]
"""Brings a pretrained model, by its address ``hub://NAME``."""


def check_surroundings(plan: Plan, fetch: Fetch | None = None) -> None:
    """Check files, elements and packages that the tasks need; problems go to the workflow's collector.

    Parameters
    ----------
    fetch
        Is called for pretrained models that are not on this machine; without it they are a problem.
    """
    workflow = plan.workflow
    choose(workflow)
    for name in plan.order:
        task = workflow.tasks[name]
        for link in plan.links[name]:
            if link.patterns and not link.optional:
                _check_files(workflow, (*task.path, *link.path), link.patterns, task.config.slots[link.slot], fetch)
        for where, symbol in task.config.elements():
            if workflow.type_map and symbol not in workflow.type_map:
                known = ", ".join(workflow.type_map)
                message = f"element {symbol!r} is not in type_map ({known}); add it there"
                workflow.collector.add("E402", (*task.path, *where), message)
        for where, module, command in task.config.packages():
            if importlib.util.find_spec(module) is None:
                message = f"the Python package {module!r} is not installed; run: {command}"
                workflow.collector.add("E403", (*task.path, *where), message)
        if workflow.profile.executor == "local":  # the machines of a cluster have their own programs
            for where, message in task.config.programs():
                workflow.collector.add("E403", (*task.path, *where), message)


def _check_files(workflow: Workflow, place: Path, patterns: Sequence[str], slot: Slot, fetch: Fetch | None) -> None:
    written = place if place in workflow.collector.places else (*place, "path")
    wanted = patterns[0]
    try:
        found = match_files(workflow.base, patterns)
        if not found and wanted.startswith(HUB) and fetch is not None:
            fetch(wanted)
            return
    except (ConfigError, DataError) as error:
        workflow.collector.add("E401", written, str(error))
        return
    if not found and wanted.startswith(HUB):
        name = wanted.removeprefix(HUB).partition("@")[0]
        message = f"{wanted} is not on this machine yet: 'dpsim run' fetches it, and so does 'dpsim model pull {name}'"
        workflow.collector.add("E401", written, message)
    elif not found:
        message = f"no file matches {wanted!r} in {os.path.relpath(workflow.base)}"
        workflow.collector.add("E401", written, message, suggestion=near(workflow.base, wanted))
    elif len(found) > 1 and (not slot.many or place[-2:-1] == ("carry",)):
        names = ", ".join(path.name for path in found[:4]) + (", ..." if len(found) > 4 else "")
        message = f"{wanted!r} matches {len(found)} files ({names}), but this input takes one"
        workflow.collector.add("E303", written, message)
