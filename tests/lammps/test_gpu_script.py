"""The script that measures LAMMPS on a GPU goes through everything where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.lammps, pytest.mark.slow]

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu.py"


def test_on_the_cpu(plugin: Path, tmp_path: Path) -> None:
    options = [
        "--device",
        "cpu",
        "--model",
        "dpa3-tiny",
        "--atoms",
        "200",
        "400",
        "--steps",
        "2",
        "--output",
        str(tmp_path),
    ]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    right = [row for row in rows if row.get("question") == "correctness"]
    assert [(row["dtype"], row["ranks"], row["ok"]) for row in right] == [
        (dtype, ranks, True) for dtype in ("float64", "float32") for ranks in (1, 2)
    ]
    assert [row["atoms"] for row in rows if row.get("question") == "speed"] == [192, 384]
    host, device = (row for row in rows if row.get("question") == "messages")
    assert host["halo_bytes_a_step"] > 0
    assert "needs a model on a GPU" in device["failed"]
    table = Path(rows[-1]["written"])
    assert table.parent == tmp_path
    assert table.name.startswith("lammps_cpu")
    assert table.read_text().count("\n|") == 3 * 2 + len(right) + 2 + 2
