"""What the runner itself costs: planning and running many stages that do nothing much.

    python tests/benchmarks/small_stages.py [--stages 1000] [--jobs 2]

Prints one line of JSON. The own work of the stages is one ``sh -c`` each; it is measured alone and taken off.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

BACK = 10
"""Each stage takes the output of the one this many places before it."""


def workflow(stages: int) -> str:
    """Return a workflow of so many small stages."""
    lines = ["dpsim: 1", "name: many", "stages:"]
    for i in range(stages):
        needs = f", inputs: {{i: s{i - BACK}.x}}" if i >= BACK else ""
        lines.append(
            f"  s{i}: {{uses: command, run: [sh, -c, 'echo {i} > {{out}}/x'], outputs: {{x: x}}{needs}, "
            "resources: {cpus: 1}}"
        )
    return "\n".join(lines) + "\n"


def measure(folder: Path, *command: str) -> tuple[float, float]:
    """Return wall and CPU seconds of a command line of dpsim."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "dpsim.cli.main", *command], cwd=folder, check=True, capture_output=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def own_work(folder: Path, stages: int, jobs: int) -> float:
    """Return seconds of the stages' commands alone."""
    began = time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda i: subprocess.run(["sh", "-c", f"echo {i} > x{i}"], cwd=folder), range(stages)))
    return time.perf_counter() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "w.yaml").write_text(workflow(options.stages))
        plan = min(measure(folder, "plan", "w.yaml") for _ in range(3))
        run = measure(folder, "run", "w.yaml", "-j", str(options.jobs), "--quiet")
        again = measure(folder, "run", "w.yaml", "--quiet")
        cached_plan = measure(folder, "plan", "w.yaml")
        own = own_work(folder, options.stages, options.jobs)
    per_stage = 1000 / options.stages
    result = {
        "stages": options.stages,
        "jobs": options.jobs,
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[2], 1),
        "python": platform.python_version(),
        "plan_s": [round(value, 2) for value in plan],
        "plan_of_all_done_s": [round(value, 2) for value in cached_plan],
        "run_s": [round(value, 2) for value in run],
        "nothing_to_do_s": [round(value, 2) for value in again],
        "own_work_s": round(own, 2),
        "overhead_ms_per_stage": round((run[0] - own) * per_stage, 1),
        "cpu_ms_per_stage": round(run[1] * per_stage, 1),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
