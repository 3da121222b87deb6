"""The templates of ``dpsim init`` are valid, say what they are for, and take a minute or two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

from dpsim.cli.workflows.init import templates
from dpsim.workflow.planning.load import load

TEMPLATES = sorted(e.name for e in (files("dpsim.recipes") / "templates").iterdir() if e.name.endswith(".yaml"))


def test_they_come_first() -> None:
    assert {"al.yaml", "md.yaml", "finetune.yaml", "phonon.yaml"} <= set(TEMPLATES)
    names = list(templates())
    assert names[: len(TEMPLATES)] == [name.removesuffix(".yaml") for name in TEMPLATES]
    assert {"quickstart", "finetune-recipe"} <= set(names)


@pytest.mark.parametrize("name", TEMPLATES)
def test_they_are_valid(name: str, tmp_path: Path) -> None:
    text = templates()[name.removesuffix(".yaml")]
    (tmp_path / "w.yaml").write_text(text)
    plan = load(tmp_path / "w.yaml")
    assert plan.order[-1] == "report"
    assert plan.workflow.name == name.removesuffix(".yaml")
    for word in ("What for", "Needs", "How long", "Edit"):
        assert f"# {word}" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", TEMPLATES)
def test_they_run_in_two_minutes(name: str, tmp_path: Path) -> None:
    """CPU time, since the machine may have other things to do; without the compiler's, which later runs do not need."""
    from dpsim.native.build import ensure

    ensure("plugin")
    call = [sys.executable, "-m", "dpsim.cli.main"]
    subprocess.run([*call, "init", "w", "--template", name.removesuffix(".yaml")], cwd=tmp_path, check=True)
    before = os.times()
    done = subprocess.run([*call, "run", "w/workflow.yaml", "-j", "2", "--json"], cwd=tmp_path, capture_output=True)
    after = os.times()
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert set(json.loads(done.stdout)["stages"].values()) == {"done"}
    used = after.children_user + after.children_system - before.children_user - before.children_system
    assert used < 240  # two cores for two minutes
    page = next(tmp_path.glob("runs/*/report/index.html"))
    assert page.stat().st_size < 2_000_000
