"""From a workflow file to its plan, with everything checked that can be before anything runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from dpsim.workflow.language.schema import read_workflow
from dpsim.workflow.planning.linking import make_plan
from dpsim.workflow.planning.loop import check_next
from dpsim.workflow.planning.plan import Plan
from dpsim.workflow.planning.surroundings import Fetch, check_surroundings


def load(
    path: Path,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    seed: int | None = None,
    check_files: bool = True,
    fetch: Fetch | None = None,
) -> Plan:
    """Read, validate and plan a workflow file; `fetch` brings pretrained models that are not on this machine.

    Raises
    ------
    InvalidWorkflow
        With everything that is wrong with the file.
    """
    workflow = read_workflow(path, profile=profile, overrides=overrides, environment=environment, seed=seed)
    planned = make_plan(workflow)
    check_next(workflow)
    if check_files:
        check_surroundings(planned, fetch)
    workflow.collector.check()
    return planned
