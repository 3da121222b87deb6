"""A workflow for Snakemake: a rule for each stage that calls ``dpsim run FILE --only STAGE``."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dpsim.workflow.exports.exported import LEAST_CORES, Node, call_of, graph_of, minutes
from dpsim.workflow.planning.plan import Plan

MARKERS: Final = "snakemake"
"""Folder of the markers in the run directory."""
_LAST: Final = "run"
"""Rule that comes after all: it does nothing but bring the manifest of the run up to date."""


@dataclass(frozen=True)
class Rule:
    """One rule."""

    name: str
    inputs: tuple[str, ...]
    output: str
    call: tuple[str, ...]
    threads: int = 1
    resources: tuple[tuple[str, int], ...] = ()

    def text(self) -> str:
        """Return it as Snakemake reads it."""
        lines = [f"rule {self.name}:"]
        if self.inputs:
            lines += ["    input:", *(f"        {json.dumps(one)}," for one in self.inputs)]
        lines += ["    output:", f"        touch({json.dumps(self.output)}),", f"    threads: {self.threads}"]
        if self.resources:
            lines += ["    resources:", *(f"        {name}={value}," for name, value in self.resources)]
        # Braces are placeholders for Snakemake unless they are doubled.
        command = shlex.join(self.call).replace("{", "{{").replace("}", "}}")
        return "\n".join([*lines, "    shell:", f"        {json.dumps(command + ' --quiet -j {threads}')}", ""])


def rules(plan: Plan, folder: Path, run_dir: Path, *, named: bool) -> list[Rule]:
    """Return a rule for each task, and the one behind all.

    Parameters
    ----------
    folder
        Where Snakemake is started.
    run_dir
        Run directory.
    named
        Whether it must be named in the call.
    """
    base = os.path.relpath(run_dir, folder) if run_dir.is_relative_to(folder) else str(run_dir)
    nodes = graph_of(plan)
    markers = {node.word: f"{base}/{MARKERS}/{_file_name(node.word)}" for node in nodes}
    call = tuple(call_of(plan, folder, run_dir if named else None))
    found = []
    for number, node in enumerate(nodes):
        found.append(
            Rule(
                f"s{number}_{re.sub('[^A-Za-z0-9_]', '_', node.word)}",
                tuple(markers[need] for need in node.needs),
                markers[node.word],
                (*call, "--only", node.word),
                _threads(plan, node),
                _resources(plan, node),
            )
        )
    return [*found, Rule(_LAST, tuple(markers.values()), f"{base}/{MARKERS}/.{_LAST}", call)]


def snakefile(plan: Plan, folder: Path, run_dir: Path, *, named: bool) -> str:
    """Return the text of a Snakefile; see `rules`."""
    found = rules(plan, folder, run_dir, named=named)
    head = (
        f"# Workflow {plan.workflow.name} for Snakemake, made by 'dpsim export'; start it with: snakemake -c CORES\n"
        "# A marker says that a stage was done once. What has changed since is known to dpsim: after an edit, remove\n"
        "# the markers; stages that are still valid are found in the store and not run again.\n"
    )
    target = f"rule all:\n    default_target: True\n    input:\n        {json.dumps(found[-1].output)},\n"
    return "\n".join([head, target, *(rule.text() for rule in found)])


def _file_name(word: str) -> str:
    """Return a marker's name; a word has letters, digits and ``_-.@=,+`` only."""
    return f"{word}.done"


def _threads(plan: Plan, node: Node) -> int:
    """Return the cores of the widest task: what it asks for or prefers, or a few if it takes all there are."""
    widest = 1
    for name in node.tasks:
        asked, wanted = plan.workflow.tasks[name].resources, plan.workflow.tasks[name].config.wanted()
        cpus = asked.cpus or (LEAST_CORES if wanted.cpus is None else wanted.cpus)
        widest = max(widest, cpus, asked.ranks or wanted.ranks or 1)
    return widest


def _resources(plan: Plan, node: Node) -> tuple[tuple[str, int], ...]:
    asked = [plan.workflow.tasks[name].resources for name in node.tasks]
    found = {
        "mem_mb": max((math.ceil(one.memory / 1e6) for one in asked if one.memory is not None), default=0),
        "runtime": max((minutes(one.walltime) for one in asked if one.walltime is not None), default=0),
        "gpus": max((one.gpus or 0 for one in asked), default=0),
    }
    return tuple((name, value) for name, value in found.items() if value)
