"""What ``dpsim doctor --slurm`` looks at: the packages for clusters, and the Slurm of this machine."""

from __future__ import annotations

import shutil
import subprocess

from dpsim.lammps.doctor import Check
from dpsim.workflow.planning.key import version_of
from dpsim.workflow.planning.machines import INSTALL

_TIMEOUT_S = 20.0


def diagnose_slurm() -> list[Check]:
    """Check the packages, Slurm's commands, its controller and its partitions; never raises."""
    checks = []
    for package in ("dpdispatcher", "parsl"):
        version = version_of(package)
        checks.append(Check(package, version != "absent", version, INSTALL if version == "absent" else ""))
    program = shutil.which("sbatch")
    if program is None:
        fix = "log in where jobs are submitted, or give the profile a machine with context_type SSHContext"
        return [*checks, Check("sbatch", False, "not found on the PATH", fix)]
    code, text = _output("sbatch", "--version")
    checks.append(Check("sbatch", code == 0, f"{text.split(chr(10))[0]} ({program})", ""))
    code, text = _output("sinfo", "-h", "-o", "%P %a %l %D")
    if code != 0:
        return [*checks, Check("Slurm answers", False, text.split("\n")[0], "ask who looks after the cluster")]
    partitions = [line.split() for line in text.splitlines() if line.strip()]
    up = [f"{name} ({nodes} nodes, {limit})" for name, state, limit, nodes in partitions if state == "up"]
    return [*checks, Check("Slurm answers", bool(up), ", ".join(up) or "no partition is up", "")]


def _output(*words: str) -> tuple[int, str]:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return 1, f"{words[0]} did not answer within {_TIMEOUT_S:g} s"
    except OSError as error:
        return 1, str(error)
    return done.returncode, (done.stdout or done.stderr).strip()
