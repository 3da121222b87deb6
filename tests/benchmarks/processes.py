"""Runs a program and measures it from outside, so that both sides are measured alike."""

from __future__ import annotations

import itertools
import os
import re
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What PERFORMANCE calls "the allocator told to keep memory": glibc's settings, by environment.
KEPT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_MMAP_THRESHOLD_": str(8 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(16 << 30),
}


@dataclass
class Run:
    """A program that has ended."""

    output: str
    seconds: float
    """Wall time from start to end."""
    peak_memory_mb: int
    """Largest resident size of one of its processes."""
    marks: list[tuple[float, float]] = field(default_factory=list)
    """Wall and CPU seconds since the start at each line that was looked for."""

    def steps(self, warmup: int) -> dict[str, Any]:
        """Times between marks, the first `warmup` of them left out."""
        pairs = list(itertools.pairwise(self.marks[warmup:]))
        wall = sorted(b[0] - a[0] for a, b in pairs)
        return {
            "n": len(wall), "median": round(statistics.median(wall), 5), "min": round(wall[0], 5),
            "p90": round(wall[int(0.9 * (len(wall) - 1))], 5),
            "cpu": round((pairs[-1][1][1] - pairs[0][0][1]) / len(pairs), 5),
        }  # fmt: skip


def run(
    argv: Sequence[str], folder: Path, env: Mapping[str, str], mark: re.Pattern[str] | None = None, least: int = 0
) -> Run:
    """Run a program to its end.

    Parameters
    ----------
    mark
        Lines at whose appearance the clock is read.
    least
        Fewest such lines of a run that is of use; others end the benchmark with what the program said last.
    """
    lines, marks, begin = [], [], time.perf_counter()
    process = subprocess.Popen(
        argv, cwd=folder, env=dict(env), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace"
    )
    for line in process.stdout or ():
        lines.append(line)
        if mark is not None and mark.search(line):
            marks.append((time.perf_counter() - begin, _cpu_seconds(process.pid)))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or len(marks) < least:
        said = f"{len(marks)} marks, code {process.returncode}:\n{''.join(lines[-25:])}"
        raise SystemExit(f"{' '.join(argv)} ended with {said}")
    return Run("".join(lines), time.perf_counter() - begin, usage.ru_maxrss // 1024, marks)


def _cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def machine() -> dict[str, Any]:
    """Where and under what load a benchmark ran."""
    cpu = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), ""
    )
    return {"cpu": cpu, "cpus": os.cpu_count(), "load": [round(x, 1) for x in os.getloadavg()]}
