"""Workflows written down for others to run: a script for sbatch, rules for Snakemake."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dpsim.cli import main as cli
from dpsim.errors import ConfigError
from dpsim.workflow.exports.batch_script import head
from dpsim.workflow.exports.exported import DAY_S, graph_of, needs_of
from dpsim.workflow.exports.snakefile import rules, snakefile
from dpsim.workflow.planning.load import load

WORKFLOW = """
dpsim: 1
name: exported
type_map: [Cu]
vars: {n: 3}
resources: {big: {cpus: 6, ranks: 2, memory: 3 GB, walltime: 2 h, gpus: 1, partition: long}}
stages:
  seed: {uses: label, structures: {prototype: fcc, element: Cu}, calculator: {name: emt}, resources: {walltime: 30 min}}
  data: {uses: convert, from: seed.frames}
  fit: {uses: train, data: data, model: {preset: dpa3-tiny}, steps: 5, ensemble: 2, resources: big}
  freeze: {uses: freeze, from: fit.best}
  explore:
    uses: md
    matrix: {T: [300, 600.5]}
    potential: freeze.models
    start: {prototype: fcc, element: Cu}
    run: {ensemble: nvt, temperature: "${matrix.T} K", time: 1 ps}
    resources: {walltime: 1 h, lines: ["#SBATCH --account=chem"]}
  report: {uses: report, from: [explore]}
"""
LOOP = """
  loop:
    uses: loop
    max_iterations: 3
    until: {metric: grow.frames, at_least: 100}
    carry: {data: data}
    stages:
      label:
        uses: label
        structures: {prototype: fcc, element: Cu}
        calculator: {name: emt}
        resources: {walltime: 1 h}
      grow: {uses: convert, from: [loop.data, label.frames], split: {keep: loop.data, train: 0.5, valid: 0.5}}
    next: {data: grow}
  last: {uses: convert, from: loop.data}
"""
COPIES = """
dpsim: 1
name: copies
stages:
  a: {uses: command, run: [sh, -c, 'echo "$0" > "$1/x"', "{python}", "{out}"], outputs: [x]}
  b:
    uses: command
    matrix: {T: [1, 2]}
    run: [sh, -c, 'echo ${matrix.T}; cp "$0" "$1"', "{inputs.i}", "{out}"]
    inputs: {i: a}
    outputs: [x]
"""

Write = Callable[..., Path]


def test_one_allocation_holds_the_widest_stage(write: Write) -> None:
    plan = load(write(WORKFLOW), check_files=False)
    needs = needs_of(plan)
    assert (needs.cpus, needs.ranks, needs.gpus, needs.memory) == (6, 2, 1, 3e9)
    assert needs.walltime == (0.5 + 2 + 1) * 3600  # one after the other; members of the ensemble at the same time
    assert head("exported", needs) == [
        "#SBATCH --job-name=exported",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks=2",
        "#SBATCH --cpus-per-task=3",
        "#SBATCH --time=210",
        "#SBATCH --signal=B:TERM@120",
        "#SBATCH --open-mode=append",
        "#SBATCH --mem=2862M",
        "#SBATCH --gres=gpu:1",
        "#SBATCH --partition=long",
        "#SBATCH --requeue",
        "#SBATCH --account=chem",
    ]
    own = needs_of(plan, cpus=1, walltime=60.0)
    assert (own.cpus, own.ranks, own.walltime) == (1, 1, 60.0)
    assert "#SBATCH --signal=B:TERM@20" in head("x", own)
    assert needs_of(load(write(COPIES))).walltime == DAY_S
    assert needs_of(load(write(WORKFLOW + LOOP), check_files=False)).walltime == (0.5 + 3 * 1) * 3600


def test_what_one_job_cannot_be(write: Write) -> None:
    text = WORKFLOW.replace("{walltime: 30 min}", "{partition: short}")
    with pytest.raises(ConfigError, match="stages ask for the queues long, short, but one job has one"):
        needs_of(load(write(text), check_files=False))
    text = WORKFLOW.replace("{walltime: 30 min}", "{nodes: 2}")
    with pytest.raises(ConfigError, match="stage 'seed' asks for 2 nodes"):
        needs_of(load(write(text), check_files=False))
    for line, message in (("#PBS -A chem", "is not one of Slurm"), ("#SBATCHx", "is not one of Slurm")):
        text = WORKFLOW.replace("#SBATCH --account=chem", line)
        with pytest.raises(ConfigError, match=message):
            head("x", needs_of(load(write(text), check_files=False)))
    with pytest.raises(ConfigError, match="is no name of a partition"):
        head("x", needs_of(load(write(WORKFLOW.replace("partition: long", "partition: 'a; b'")), check_files=False)))


def run_script(folder: Path, *, answer: str = "RUNNING", restarts: str = "0") -> tuple[int, str, str]:
    """Run the script as a batch system would, with stand-ins for its commands; return code, output and their calls."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    for name, text in (("squeue", f"echo {answer}"), ("scontrol", f"echo \"$@\" >> '{folder}/calls'; exit 1")):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "17", "SLURM_CPUS_ON_NODE": "2", "SLURM_RESTART_COUNT": restarts}
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", **job}
    script = next(folder.glob("*.sbatch"))
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    given = {"env": environment, "capture_output": True, "text": True, "timeout": 120}
    done = subprocess.run(["bash", str(script)], check=False, **given)  # type: ignore[call-overload]
    calls = folder / "calls"
    return done.returncode, done.stdout + done.stderr, calls.read_text() if calls.exists() else ""


def test_the_script_runs_where_names_need_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "it's $HOME; a `folder`"
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "w $x.yaml").write_text(COPIES)
    words = ["export", "w $x.yaml", "--slurm", "--set", "stages.a.notes=it's $(x)", "--walltime", "10 min"]
    assert cli.run(words) == 0
    assert cli.run(words) == 3  # it exists
    assert cli.run([*words, "--force"]) == 0
    code, output, calls = run_script(folder)
    assert (code, calls) == (0, ""), output
    assert "copies: 3 done" in output
    assert (folder / "runs" / "copies" / "stages" / "a" / "out" / "x").read_text() == f"{sys.executable}\n"


@pytest.mark.parametrize(
    ("answer", "restarts", "requeued"), [("RUNNING", "0", True), ("COMPLETING", "0", False), ("RUNNING", "100", False)]
)
def test_only_what_was_interrupted_is_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, restarts: str, requeued: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    # The stage sends to the batch shell what Slurm sends before the end of the time.
    (tmp_path / "stop.sh").write_text(
        "p=$PPID; while ! grep -aq sbatch /proc/$p/cmdline; do p=$(awk '/PPid/{print $2}' /proc/$p/status); done\n"
        "kill -TERM $p; sleep 60\n"
    )
    (tmp_path / "w.yaml").write_text(
        "dpsim: 1\nname: w\nstages:\n"
        "  a: {uses: command, run: [sh, '{inputs.s}'], inputs: {s: {path: stop.sh}}, outputs: []}\n"
    )
    assert cli.run(["export", "w.yaml", "--slurm"]) == 0
    code, output, calls = run_script(tmp_path, answer=answer, restarts=restarts)
    assert code == 75, output
    assert calls == ("requeue 17\n" if requeued else "")
    assert json.loads((tmp_path / "runs/w/manifest.json").read_text())["exit"] == 75


def parsed(text: str) -> dict[str, tuple[str, set[str], str, list[str]]]:
    """Return of each rule but the first: name, inputs, output and the words of its command."""
    found = {}
    for block in text.split("\nrule ")[2:]:
        name = block.partition(":")[0]
        inputs = re.search(r"    input:\n((?:        .*\n)+?)    output", block)
        given = [json.loads(line.strip()[:-1]) for line in inputs[1].splitlines()] if inputs else []
        output = json.loads(re.search(r"touch\((.*)\)", block)[1])  # type: ignore[index]
        command = json.loads(block.rstrip().splitlines()[-1])
        found[output] = (name, set(given), output, shlex.split(command.format(threads=2)))
    return found


@pytest.mark.parametrize("text", [WORKFLOW, WORKFLOW + LOOP, COPIES])
def test_the_rules_are_the_graph_of_the_workflow(write: Write, text: str, tmp_path: Path) -> None:
    plan = load(write(text), check_files=False)
    found = parsed(snakefile(plan, tmp_path, tmp_path / "runs" / "x", named=False))
    task_of = {output: rule[3][rule[3].index("--only") + 1] for output, rule in found.items() if "--only" in rule[3]}
    outside = [name for name in plan.order if not plan.workflow.tasks[name].loop]
    assert set(task_of.values()) == set(outside)
    for output, task in task_of.items():
        needs = {plan.workflow.tasks[need].loop or need for need in plan.needs(task)} - {task}
        if task == "loop":
            needs = {"data"}  # what its iterations take from outside
        assert {task_of[one] for one in found[output][1]} == needs
    (last,) = set(found) - set(task_of)
    assert found[last][1] == set(task_of)
    assert len({rule[0] for rule in found.values()}) == len(found)
    assert all(rule[0].isidentifier() for rule in found.values())


def test_a_loop_is_one_rule_after_what_it_needs(write: Write, tmp_path: Path) -> None:
    nodes = graph_of(load(write(WORKFLOW + LOOP), check_files=False))
    names = [node.word for node in nodes]
    assert names.index("data") < names.index("loop") < names.index("last")
    loop = nodes[names.index("loop")]
    assert (set(loop.tasks), loop.needs) == ({"loop.01.label", "loop.01.grow", "loop"}, ("data",))


def test_resources_of_rules(write: Write, tmp_path: Path) -> None:
    plan = load(write(WORKFLOW), check_files=False)
    found = {rule.call[-1]: rule for rule in rules(plan, tmp_path, tmp_path / "elsewhere", named=True)[:-1]}
    assert dict(found["fit@member=1"].resources) == {"mem_mb": 3000, "runtime": 120, "gpus": 1}
    assert found["fit@member=1"].threads == 6
    assert found["data"].resources == ()
    assert found["data"].call[-4:] == ("--run-dir", "elsewhere", "--only", "data")


def test_the_rules_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules are run in an order that their markers allow, as Snakemake would."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w {x}.yaml").write_text(COPIES)
    assert cli.run(["export", "w {x}.yaml", "--snakemake"]) == 0
    made: set[str] = set()
    waiting = parsed((tmp_path / "Snakefile").read_text())
    while waiting:
        output = next(one for one, rule in waiting.items() if rule[1] <= made)
        done = subprocess.run(waiting.pop(output)[3], capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        made.add(output)
    stages = json.loads((tmp_path / "runs/copies/manifest.json").read_text())["stages"]
    assert {name: stage["state"] for name, stage in stages.items()} == dict.fromkeys(["a", "b@T=1", "b@T=2"], "cached")


def test_snakemake_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snakemake = shutil.which("snakemake")
    if snakemake is None:
        pytest.skip("snakemake is not installed")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w {x}.yaml").write_text(COPIES)
    assert cli.run(["export", "w {x}.yaml", "--snakemake"]) == 0
    for expected in ("5 of 5 steps", "Nothing to be done"):
        done = subprocess.run([snakemake, "-c", "2"], capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, expected in done.stderr) == (0, True), done.stderr


def test_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.yaml").write_text(COPIES)
    for words in (
        ["--slurm"],
        ["w.yaml"],
        ["w.yaml", "--snakemake", "--walltime", "1 h"],
        ["w.yaml", "--ro-crate", "-o", "x"],
        ["w.yaml", "--slurm", "--walltime", "-1 h"],
    ):
        assert cli.run(["export", *words]) == 2, words
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.yaml"]
