"""Profiles, named resources and descriptions of clusters: what they mean and what is wrong with them."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dpsim.workflow.language.problems import InvalidWorkflow
from dpsim.workflow.planning.load import load
from dpsim.workflow.planning.profile import choose

TEXT = """
dpsim: 1
{top}
profiles:
  c: {{{profile}}}
stages:
  a: {{uses: command, run: ["true"], resources: {resources}}}
  m: {{uses: command, run: ["true", "${{matrix.T}}"], matrix: {{T: [1, 2]}}}}
"""
needs_dpdispatcher = pytest.mark.skipif(find_spec("dpdispatcher") is None, reason="dpdispatcher is not installed")
SLURM = {"batch_type": "Slurm", "context_type": "LazyLocalContext"}


def written(folder: Path, profile: str, *, top: str = "", resources: str = "{}") -> Path:
    path = folder / "w.yaml"
    path.write_text(TEXT.format(profile=profile, top=top, resources=resources))
    return path


def problems(folder: Path, profile: str, *, top: str = "", resources: str = "{}") -> list[str]:
    with pytest.raises(InvalidWorkflow) as caught:
        load(written(folder, profile, top=top, resources=resources), profile="c")
    return [f"{problem.code} {problem.message}" for problem in caught.value.problems]


def test_a_profile_and_its_resources(tmp_path: Path) -> None:
    block = '{nodes: 2, gpus: 4, walltime: 24 h, memory: 16 GB, partition: gpu, lines: ["#SBATCH -A x"]}'
    top = f"resources: {{big: {block}}}"
    plan = load(written(tmp_path, "executor: local, fanout: parsl, here: [a]", top=top, resources="big"), profile="c")
    found = plan.workflow.tasks["a"].resources
    assert (found.nodes, found.gpus, found.walltime, found.memory) == (2, 4, 86400.0, 16e9)
    assert (found.partition, found.lines) == ("gpu", ["#SBATCH -A x"])
    profile = plan.workflow.profile
    assert profile.retries.preempted == 20
    assert profile.executor_of("m", "command", point=True) == "parsl"
    assert profile.executor_of("a", "command", point=True) == "local"
    assert profile.executor_of("m", "command", point=False) == "local"
    for word in ("m", "command"):
        alone = profile.model_copy(update={"alone": [word], "executor": "dpdispatcher"})
        assert alone.executor_of("m", "command", point=True) == "dpdispatcher"


@needs_dpdispatcher
@pytest.mark.parametrize("how", ["mapping", "file", "name", "name of a file", "submission"])
def test_a_machine_is_found(tmp_path: Path, how: str) -> None:
    whole = {"machine": SLURM, "resources": {"module_list": ["mpi"]}} if how == "submission" else SLURM
    (tmp_path / "slurm.json").write_text(json.dumps(whole))
    top = {"name": f"machines: {{x: {json.dumps(SLURM)}}}", "name of a file": "machines: {x: slurm.json}"}.get(how, "")
    machine = {"mapping": json.dumps(SLURM), "file": "slurm.json", "submission": "slurm.json"}.get(how, "x")
    plan = load(written(tmp_path, f"executor: dpdispatcher, machine: {machine}", top=top), profile="c")
    chosen = choose(plan.workflow)
    assert plan.workflow.collector.problems == []
    assert chosen.machine == SLURM
    assert chosen.resources == ({"module_list": ["mpi"]} if how == "submission" else {})


@needs_dpdispatcher
@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("executor: slurm", "E206 'slurm' is not one of the choices"),
        ("executor: dpdispatcher", "E214 executor 'dpdispatcher' needs 'machine'"),
        ("executor: dpdispatcher, machine: no.json", "E214 'no.json' is neither a file"),
        ("executor: dpdispatcher, machine: half.json", "half.json cannot be read as JSON: Expecting"),
        ("executor: dpdispatcher, machine: list.json", "must hold a mapping with batch_type"),
        ("executor: dpdispatcher, machine: {batch_type: Slurm}", "E214 the key 'context_type' is missing; choose one"),
        (
            "executor: dpdispatcher, machine: {batch_type: Slrm, context_type: SSH}",
            "batch_type 'Slrm' is not supported",
        ),
        (
            "executor: dpdispatcher, machine: {batch_type: PBS, context_type: SSH}",
            "machine: key 'remote_profile' is required",
        ),
        ("executor: dpdispatcher, machine: keys.json", "undefined key 'remote_rot' is not allowed"),
        ("executor: dpdispatcher, machine: nodes.json", "'number_node' is given by 'resources:' of the stages"),
        ("here: [comand]", "E214 'comand' is neither the name nor the type of a stage"),
        ("fanout: parsl, alone: [m, trian]", "E214 'trian' is neither the name nor the type of a stage"),
        ("pilot: big", "E205 there is no 'big' in 'resources:'"),
        ("poll: soon", "E207 'soon' is not a walltime"),
        ("retries: {ooom: 1}", "E203 'ooom' is not a key of"),
    ],
)
def test_what_is_wrong_with_a_profile(tmp_path: Path, profile: str, expected: str) -> None:
    (tmp_path / "half.json").write_text('{"batch_type": ')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "keys.json").write_text(json.dumps({**SLURM, "remote_rot": "/scratch"}))
    (tmp_path / "nodes.json").write_text(json.dumps({"machine": SLURM, "resources": {"number_node": 2}}))
    assert any(expected in found for found in problems(tmp_path, profile))


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ("{walltime: long}", "E207 'long' is not a walltime: write a number and a unit (s, min, h, d)"),
        ("{memory: 3 apples}", "E207 unit 'apples' in '3 apples' is not a unit of memory"),
        ("{lines: ['--account=x']}", "E205 '--account=x' must be one line that begins with '#'"),
        ("{queue: a, partition: b}", "'queue' and 'partition' are two words for the same"),
        ("{nodes: 0}", "expected"),
    ],
)
def test_what_is_wrong_with_resources(tmp_path: Path, resources: str, expected: str) -> None:
    assert any(expected in found for found in problems(tmp_path, "executor: local", resources=resources))


def test_a_missing_package_is_said_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = problems(tmp_path, f"executor: dpdispatcher, fanout: parsl, machine: {json.dumps(SLURM)}")
    assert found == [
        "E403 the Python package 'dpdispatcher' is not installed; run: pip install 'dpsim[cluster]'",
        "E403 the Python package 'parsl' is not installed; run: pip install 'dpsim[cluster]'",
    ]


@needs_dpdispatcher
def test_nothing_is_written_beside_the_run(tmp_path: Path) -> None:
    code = "from dpsim.workflow.planning.machines import dispatcher; dispatcher()"
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_doctor_without_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    from dpsim.workflow.executors.checks import diagnose_slurm

    monkeypatch.setenv("PATH", "/nowhere")
    checks = {check.name: check for check in diagnose_slurm()}
    assert not checks["sbatch"].ok
    assert "context_type SSHContext" in checks["sbatch"].fix
    assert "Slurm answers" not in checks
