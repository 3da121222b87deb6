"""A workflow as one job of Slurm: all stages share its allocation, and it is queued again when its time is over."""

from __future__ import annotations

import math
import re
import shlex
from pathlib import Path
from string import Template
from typing import Final

from dpsim.errors import ConfigError
from dpsim.workflow.exports.exported import Needs, call_of, mebibytes, minutes
from dpsim.workflow.job import notice
from dpsim.workflow.planning.plan import Plan

RESTARTS: Final = 100
"""How often a job goes on in another, as ``retries.walltime`` of a profile."""
_TEMPLATE: Final = Template(r"""#!/bin/bash
# Workflow $name in one allocation, made by 'dpsim export --slurm'; submit it with: sbatch FILE
# A stage is told in time to save (SIGTERM), dpsim ends with 75, and the job is queued again and goes on from there.
# 'dpsim status' and 'dpsim watch' look at the run from outside; scancel ends it for good.
$head

cd -- $folder || exit 6
driver=
stopped=
trap 'stopped=yes; [ -z "$$driver" ] || kill -TERM "$$driver" 2>/dev/null' TERM
$call &
driver=$$!
wait "$$driver"
code=$$?
while [ -n "$$stopped" ] && kill -0 "$$driver" 2>/dev/null; do wait "$$driver"; done
if [ -n "$$stopped" ]; then wait "$$driver"; code=$$?; fi  # the signal had cut the first wait short

# 75: interrupted, and the same command goes on. Not after scancel, which leaves the job no longer RUNNING.
if [ "$$code" -eq 75 ] && [ "$${SLURM_RESTART_COUNT:-0}" -lt $restarts ] &&
  [ "$$(squeue -h -j "$$SLURM_JOB_ID" -o %T 2>/dev/null)" = RUNNING ]; then
  echo "dpsim: queued again"
  scontrol requeue "$$SLURM_JOB_ID" && exec sleep 60  # ended by Slurm, so that no status of this attempt counts
fi
exit "$$code"
""")


def batch_script(plan: Plan, needs: Needs, folder: Path, run_dir: Path | None) -> str:
    """Return the text of a script for ``sbatch``.

    Parameters
    ----------
    folder
        Where the workflow is run.
    run_dir
        Run directory if it is not that of the name of the workflow.

    Raises
    ------
    ConfigError
        If a queue is no word, or a line is not one of Slurm's.
    """
    call = shlex.join(call_of(plan, folder, run_dir))
    return _TEMPLATE.substitute(
        name=plan.workflow.name,
        head="\n".join(head(plan.workflow.name, needs)),
        folder=shlex.quote(str(folder)),
        call=f'{call} -j "${{SLURM_CPUS_ON_NODE:-{needs.cpus}}}"',
        restarts=RESTARTS,
    )


def head(name: str, needs: Needs) -> list[str]:
    """Return the lines that ``sbatch`` reads."""
    options: dict[str, object] = {
        "job-name": name,
        "nodes": 1,
        "ntasks": needs.ranks,
        "cpus-per-task": math.ceil(needs.cpus / needs.ranks),
        "time": minutes(needs.walltime),
        "signal": f"B:TERM@{math.ceil(notice(needs.walltime))}",
        "open-mode": "append",
    }
    if needs.memory is not None:
        options["mem"] = f"{mebibytes(needs.memory)}M"
    if needs.gpus:
        options["gres"] = f"gpu:{needs.gpus}"
    if needs.queue is not None:
        if not re.fullmatch(r"[A-Za-z0-9_.,-]+", needs.queue):
            raise ConfigError(f"the queue {needs.queue!r} is no name of a partition of Slurm")
        options["partition"] = needs.queue
    for line in needs.lines:
        if not line.startswith("#SBATCH "):
            raise ConfigError(f"the line {line!r} of 'resources' is not one of Slurm: it begins with '#SBATCH '")
    return [*(f"#SBATCH --{option}={value}" for option, value in options.items()), "#SBATCH --requeue", *needs.lines]
