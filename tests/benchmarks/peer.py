"""DeePMD-kit in an environment of its own, as the other side of a benchmark."""

from __future__ import annotations

import os
import re
from pathlib import Path

from processes import Run, run

STEP = re.compile(r"[Bb]atch\s+\d+: total wall time")


class Peer:
    """Programs of an environment that holds `dp`, `lmp` and `mpiexec`."""

    def __init__(self, dp: str) -> None:
        self.home = Path(dp).resolve().parent

    def environment(self, threads: int, extra: dict[str, str]) -> dict[str, str]:
        """Variables of its processes."""
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "DP_INTRA_OP_PARALLELISM_THREADS": str(threads)}
        env["DP_INTER_OP_PARALLELISM_THREADS"] = "1"
        env["PATH"] = os.pathsep.join([str(self.home), env.get("PATH", "")])
        # its LAMMPS library wants cudart even on a CPU
        cuda = sorted(self.home.parent.glob("lib/python3*/site-packages/nvidia/*/lib"))
        env["LD_LIBRARY_PATH"] = os.pathsep.join([*map(str, cuda), env.get("LD_LIBRARY_PATH", "")])
        return env | extra

    def train(self, folder: Path, threads: int, extra: dict[str, str], *, statistics: bool = False) -> Run:
        """Train as ``input.json`` of the folder says; a mark at each step."""
        argv = [str(self.home / "dp"), "--pt", "train", "input.json"] + ([] if statistics else ["--skip-neighbor-stat"])
        return run(argv, folder, self.environment(threads, extra), STEP, 1)

    def freeze(self, folder: Path, *, compress: bool) -> str:
        """Freeze what was trained in the folder; name of the file."""
        dp, env = [str(self.home / "dp"), "--pt"], self.environment(1, {})
        run([*dp, "freeze", "-o", "peer.pth"], folder, env)
        if not compress:
            return "peer.pth"
        run([*dp, "compress", "-i", "peer.pth", "-o", "compressed.pth"], folder, env)
        return "compressed.pth"

    def lammps(self, folder: Path, deck: str, ranks: int, threads: int, extra: dict[str, str]) -> Run:
        """Run a LAMMPS input file."""
        argv = [str(self.home / "lmp"), "-in", deck, "-log", "none"]
        if ranks > 1:
            argv = [str(self.home / "mpiexec"), "-n", str(ranks), *argv]
        return run(argv, folder, self.environment(threads, extra))
