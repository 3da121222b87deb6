"""The commands around workflows: what they print, their exit codes, what they write."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dpsim import __version__ as dpsim_version
from dpsim.cli import main as cli

WORKFLOW = """\
dpsim: 1
name: demo
stages:
  a: {uses: command, run: [sh, -c, "echo hello; echo one > {out}/x"], outputs: {x: x}}
  b: {uses: command, run: [cp, "{inputs.i}", "{out}/y"], inputs: {i: a.x}, outputs: [y]}
"""


@pytest.fixture
def dpsim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., object]:
    """Run the command line in a folder that holds ``w.yaml``; return (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.yaml").write_text(WORKFLOW)

    def dpsim(*arguments: str) -> tuple[int, str, str]:
        code = cli.run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return dpsim


@pytest.mark.parametrize("name", cli.ROOMS)
def test_every_command_has_help(name: str, dpsim: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = dpsim(name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: dpsim {name}")
    assert len(out.splitlines()) > 5


def test_help_lists_what_exists(dpsim: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = dpsim("--help")
    assert code == 0
    for name in ("run", "plan", "validate", "status", "watch", "logs", "explain", "init", "schema", "report", "doctor"):
        assert f"  {name} " in out
    assert dpsim()[0] in (0, 2)


def test_usage_errors(dpsim: Callable[..., tuple[int, str, str]]) -> None:
    for arguments in (["nope"], ["run"], ["run", "w.yaml", "--nope"], ["run", "w.yaml", "-j", "0"], ["clean"]):
        code, out, err = dpsim(*arguments)
        assert (code, out) == (2, ""), arguments
        assert "Usage: dpsim" in err or "Error" in err


def test_run_twice(dpsim: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    code, out, err = dpsim("run", "w.yaml")
    assert (code, out.split(" in ")[0]) == (0, "demo: 2 done")
    assert "a  running (new)" in err
    assert (tmp_path / "runs/demo/stages/b/out/y").read_text() == "one\n"
    code, out, err = dpsim("run", "w.yaml")
    assert (code, out.split(" (")[0]) == (0, "demo: nothing to do, all 2 stages are done")
    assert [line.split()[1:] for line in err.splitlines()] == [["a", "cached"], ["b", "cached"]]


def test_run_json_is_one_document(dpsim: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = dpsim("run", "w.yaml", "--json")
    found = json.loads(out)
    assert (code, found["exit"], found["stages"]) == (0, 0, {"a": "done", "b": "done"})


def test_run_selects(dpsim: Callable[..., tuple[int, str, str]]) -> None:
    assert dpsim("run", "w.yaml", "--only", "b")[0] == 5
    assert "1 done, 1 left out" in dpsim("run", "w.yaml", "--until", "a")[1]
    assert "1 cached, 1 done" in dpsim("run", "w.yaml", "--from", "b")[1]
    assert "1 cached, 1 done" in dpsim("run", "w.yaml", "--force", "b")[1]
    code, _, err = dpsim("run", "w.yaml", "--only", "bb")
    assert (code, err) == (
        3,
        "dpsim: ConfigError: --only bb: there is no such stage (stages: a, b); did you mean 'b'?\n",
    )


def test_a_failure_says_how_to_go_on(dpsim: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = dpsim("run", "w.yaml", "--set", "stages.a.run=[sh, -c, 'echo oops; exit 1']")
    assert code == 5
    assert "stage 'a' failed: 'sh' returned 1; its output is in the log of the stage" in err
    assert "last lines of runs/demo/stages/a/log.txt:" in err
    assert "    oops" in err
    assert "work folder:     runs/demo/stages/a/work" in err
    assert (
        "run it alone:    dpsim run w.yaml --only a --set 'stages.a.run=[sh, -c, '\"'\"'echo oops; exit 1'\"'\"']'"
        in err
    )
    assert out.startswith("demo: 1 failed, 1 blocked in ")


def test_an_invalid_workflow(dpsim: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW.replace("a.x", "a.z").replace("name: demo", "nmae: demo"))
    for command in ("run", "plan", "validate"):
        code, out, err = dpsim(command, "w.yaml")
        assert (code, out) == (3, "")
        assert err.count("error[E") == 2
        assert "error[E203] w.yaml:2:1  nmae" in err
        assert "Traceback" not in err
    code, out, _ = dpsim("validate", "w.yaml", "--json")
    assert (code, [problem["code"] for problem in json.loads(out)["problems"]]) == (3, ["E203", "E304"])
    assert not (tmp_path / "runs").exists()
    code, _, err = dpsim("run", "absent.yaml")
    assert code == 3
    assert "error[E106]" in err


def test_validate_and_plan(dpsim: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    assert dpsim("validate", "w.yaml") == (0, "w.yaml: valid, 2 stages: a, b\n", "")
    code, out, _ = dpsim("plan", "w.yaml")
    assert code == 0
    assert [line.split() for line in out.splitlines()[1:3]] == [
        ["a", "command", "run", "new"],
        ["b", "command", "run", "after", "a"],
    ]
    assert not (tmp_path / "runs").exists()
    dpsim("run", "w.yaml", "--quiet")
    assert dpsim("plan", "w.yaml")[1].endswith("nothing to do: all stages are done\n")
    code, out, _ = dpsim("run", "w.yaml", "--dry-run", "--json", "--set", "stages.b.run=[cp, '{inputs.i}', '{out}/z']")
    stages = json.loads(out)["stages"]
    assert [(stage["action"], stage["reason"]) for stage in stages] == [
        ("cached", "cached"),
        ("run", 'option run.2: "{out}/y" -> "{out}/z"'),
    ]
    assert stages[0]["last_seconds"] > 0


def test_plan_in_other_forms(dpsim: Callable[..., tuple[int, str, str]]) -> None:
    assert '"a" -> "b"' in dpsim("plan", "w.yaml", "--graph", "dot")[1]
    assert "s0 --> s1" in dpsim("plan", "w.yaml", "--graph", "mermaid")[1]
    assert "retries: 0" in dpsim("plan", "w.yaml", "--expand")[1]
    dpsim("run", "w.yaml", "--quiet")
    assert dpsim("plan", "w.yaml", "--diff", "runs/demo")[1] == "no difference\n"
    changed = dpsim("plan", "w.yaml", "--set", "stages.a.retries=2", "--diff", "runs/demo")[1]
    assert changed == "stages.a.retries: 0 -> 2\n"
    assert dpsim("plan", "w.yaml", "--diff", "w.yaml")[1] == "no difference\n"
    assert "; 2 of them took " in dpsim("plan", "w.yaml", "--set", "stages.a.run=[sh, -c, 'true > {out}/x']")[1]


def test_status_logs_explain_watch(dpsim: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = dpsim("status")
    assert (code, "is not a run directory" in err) == (3, True)
    dpsim("run", "w.yaml", "--quiet")
    for target in ([], ["w.yaml"], ["runs/demo"]):
        code, out, _ = dpsim("status", *target)
        assert (code, out.splitlines()[0]) == (0, "demo: not running, last exit 0, in runs/demo")
        assert out.splitlines()[2].split()[:2] == ["a", "done"]
    assert json.loads(dpsim("status", "--json")[1])["stages"]["b"]["state"] == "done"
    assert dpsim("logs", "a")[1].splitlines()[-1] == "hello"
    assert dpsim("logs", "a", "-n", "1", "-f")[1] == "hello\n"
    code, _, err = dpsim("logs", "c")
    assert (code, "has no stage 'c' (stages: a, b)" in err) == (3, True)
    assert "ended with exit 0" in dpsim("watch", "w.yaml")[1]
    assert "input inputs.i changed" not in dpsim("explain", "b")[1]
    dpsim("run", "w.yaml", "--quiet", "--set", "stages.a.run=[sh, -c, 'echo two > {out}/x']")
    out = dpsim("explain", "b")[1]
    assert "inputs.i: " in out
    assert "differs from " in out
    assert "input inputs.i changed" in out
    assert json.loads(dpsim("explain", "b", "--json")[1])["parts"]["type"] == "command"


def test_plan_tells_what_a_result_was_made_with(dpsim: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW.replace("echo hello", "echo ${env.WHO}"))
    assert dpsim("run", "w.yaml", "--quiet")[0] == 3  # the environment has no such variable
    os.environ["WHO"] = "me"
    try:
        assert dpsim("run", "w.yaml", "--quiet")[0] == 0
        run = tmp_path / "runs" / "demo"
        assert json.loads((run / "manifest.json").read_text())["env"] == {"WHO": "me"}
        stage = (run / "stages" / "a" / "stage.json").resolve()
        described = json.loads(stage.read_text())
        stage.write_text(json.dumps({**described, "soft": {"dpsim": "0.0.1"}}))
        line = dpsim("plan", "w.yaml")[1].splitlines()[1]
        assert line.split()[:3] == ["a", "command", "cached"]
        assert line.endswith(f"cached (made with dpsim 0.0.1, now {dpsim_version})")
        strict = dpsim("plan", "w.yaml", "--set", "stages.a.cache=strict")[1].splitlines()[1]
        assert strict.split()[:3] == ["a", "command", "run"]
    finally:
        del os.environ["WHO"]


def test_show(dpsim: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "make.sh").write_text(
        'cd "$1"; seq 0 40 | sed s/$/,x/ > t.csv; mkdir d; echo 1 > d/f; echo "{\\"seconds\\": 2}" > m.json'
    )
    text = WORKFLOW + (
        "  c: {uses: command, run: [sh, '{inputs.s}', '{out}'], inputs: {s: {path: make.sh}},"
        " outputs: {t: t.csv, d: d, m: m.json}}\n"
    )
    (tmp_path / "w.yaml").write_text(text)
    assert dpsim("run", "w.yaml", "--quiet")[0] == 0
    code, out, _ = dpsim("show", "c")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:4]] == [["d", "any"], ["m", "any"], ["t", "any"]]
    assert out.splitlines()[-1].split() == ["seconds", "2", "s"]
    assert json.loads(dpsim("show", "c", "--json")[1])["metrics"] == {"seconds": 2.0}
    assert dpsim("show", "a.x")[1] == "one\n"
    assert dpsim("show", "c.d", "runs/demo")[1] == "f\n"
    assert json.loads(dpsim("show", "c.m")[1]) == {"seconds": 2}
    shown = dpsim("show", "c.t")[1].splitlines()
    assert (len(shown), shown[0].split(), shown[11].strip(), shown[-1].split()) == (22, ["0", "x"], "...", ["40", "x"])
    code, _, err = dpsim("show", "c.tt")
    assert (code, "did you mean 't'?" in err) == (3, True)
    assert dpsim("show", "nope")[0] == 3


def test_a_run_as_an_ro_crate(dpsim: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    assert dpsim("run", "w.yaml", "--quiet")[0] == 0
    assert dpsim("export")[0] == 2
    assert dpsim("export", "--ro-crate") == (0, "wrote runs/demo/ro-crate-metadata.json\n", "")
    found = json.loads((tmp_path / "runs/demo/ro-crate-metadata.json").read_text())
    items = {item["@id"]: item for item in found["@graph"]}
    assert len(items) == len(found["@graph"])
    assert items["ro-crate-metadata.json"]["about"] == {"@id": "./"}
    for part in items["./"]["hasPart"]:
        assert (tmp_path / "runs/demo" / part["@id"]).exists()
    first, second = items["#stage-a"], items["#stage-b"]
    assert second["object"] == first["result"]
    assert first["startTime"] <= first["endTime"] <= second["endTime"]

    def references(value: object) -> list[str]:
        if isinstance(value, dict):
            own = [value["@id"]] if set(value) == {"@id"} else []
            return own + [one for item in value.values() for one in references(item)]
        return [one for item in value for one in references(item)] if isinstance(value, list) else []

    assert {one for one in references(found["@graph"]) if "://" not in one} <= set(items)


def test_explain_codes(dpsim: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = dpsim("explain", "e304")
    assert (code, out.splitlines()[0]) == (0, "E304: An unknown output")
    code, _, err = dpsim("explain", "E999")
    assert (code, "there is no error code E999" in err) == (3, True)


def test_init_writes_something_valid(dpsim: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    listed = dpsim("init", "--list")[1]
    assert "quickstart" in listed
    assert "copper-eam" in listed
    assert dpsim("init", "new", "--template", "copper-eam")[0] == 0
    text = (tmp_path / "new" / "workflow.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=.dpsim/workflow.schema.json\n")
    assert json.loads((tmp_path / "new" / ".dpsim" / "workflow.schema.json").read_text())["title"] == "dpsim workflow"
    assert dpsim("validate", "new/workflow.yaml")[0] == 0
    code, _, err = dpsim("init", "new")
    assert (code, "exists already" in err) == (3, True)
    assert dpsim("init", "new", "--force")[0] == 0
    code, _, err = dpsim("init", "other", "--template", "quikstart")
    assert (code, "did you mean 'quickstart'?" in err) == (3, True)


def test_schema(dpsim: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    printed = json.loads(dpsim("schema")[1])
    assert dpsim("schema", "--out", "s/schema.json")[1] == ""
    assert json.loads((tmp_path / "s" / "schema.json").read_text()) == printed


def test_clean(dpsim: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    dpsim("run", "w.yaml", "--quiet")
    dpsim("run", "w.yaml", "--quiet", "--set", "stages.a.run=[sh, -c, 'echo two > {out}/x']")
    store = tmp_path / "runs/demo/store"
    assert len(list(store.glob("*/*/outputs.json"))) == 4
    assert "would delete" in dpsim("clean", "--unreferenced", "--dry-run")[1]
    assert dpsim("clean", "--unreferenced", "--older-than", "1 d")[1] == "freed 0.0 MB\n"
    assert dpsim("clean", "--unreferenced", "--work")[0] == 0
    assert len(list(store.glob("*/*/outputs.json"))) == 2
    assert not list(store.glob("*/*/work"))
    assert "nothing to do" in dpsim("run", "w.yaml", "--set", "stages.a.run=[sh, -c, 'echo two > {out}/x']")[1]


def test_doctor(dpsim: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    from dpsim import lammps

    fine, broken = lammps.Check("Python", True, "3.12", ""), lammps.Check("MPI", False, "none", "pip install mpich")
    monkeypatch.setattr(lammps, "diagnose", lambda **_: [fine, broken], raising=False)
    code, out, _ = dpsim("doctor")
    assert code == 6
    assert "FAIL  MPI" in out
    assert "mend it with: pip install mpich" in out
    assert json.loads(dpsim("doctor", "--json")[1])["ok"] is False
    monkeypatch.setattr(lammps, "diagnose", lambda **_: [fine], raising=False)
    assert dpsim("doctor", "--no-step")[0] == 0
    chain = [fine, *(lammps.Check(name, True, "x", "") for name in ("LAMMPS", "MPICH", "plugin", "step on 2 ranks"))]
    monkeypatch.setattr(lammps, "diagnose", lambda **_: chain, raising=False)
    for words, names in (
        (["--mpi"], ["MPICH", "step on 2 ranks"]),
        (["--lammps"], ["LAMMPS", "plugin"]),
        (["--lammps", "--mpi"], ["LAMMPS", "MPICH", "plugin", "step on 2 ranks"]),
    ):
        found = json.loads(dpsim("doctor", *words, "--json")[1])["checks"]
        assert [check["name"] for check in found] == names
    assert dpsim("doctor", "--gpu", "--slurm")[0] == 2
    assert dpsim("doctor", "--gpu", "--mpi")[0] == 2


def test_doctor_of_gpus(dpsim: Callable[..., tuple[int, str, str]]) -> None:
    import torch

    code, out, _ = dpsim("doctor", "--gpu", "--json")
    checks = json.loads(out)["checks"]
    assert [check["name"] for check in checks[:3]] == ["NVIDIA driver", "torch", "GPUs"]
    assert len(checks) == 3 + torch.cuda.device_count()
    assert code == (0 if all(check["ok"] for check in checks) else 6)
    assert all(check["ok"] or check["fix"] for check in checks)


def test_report_of_a_run(dpsim: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    import dpsim.report.build as build

    def stand_in(sections: list[object], folder: Path, manifest: dict[str, object]) -> Path:
        (folder / "index.html").write_text(" ".join(s.name for s in sections))  # type: ignore[attr-defined]
        return folder / "index.html"

    monkeypatch.setattr(build, "build_report", stand_in)
    dpsim("run", "w.yaml", "--quiet")
    code, out, _ = dpsim("report")
    assert (code, out) == (0, "runs/demo/report/index.html\n")
    assert Path("runs/demo/report/index.html").read_text() == "a b"


def test_the_report_that_is_named_is_that_of_the_run(dpsim: Callable[..., tuple[int, str, str]]) -> None:
    """Also after ``dpsim report`` put a page of its own there; files of others stay."""
    workflow = WORKFLOW + "  r: {uses: report, from: [a]}\n"
    report, page = Path("runs/demo/report"), "report: runs/demo/{}/index.html"
    Path("w.yaml").write_text(workflow)
    assert dpsim("run", "w.yaml")[1].splitlines()[-1] == page.format("report")
    dpsim("report")
    assert not report.is_symlink()
    Path("w.yaml").write_text(workflow.replace("echo one", "echo two"))
    assert dpsim("run", "w.yaml")[1].splitlines()[-1] == page.format("report")
    assert report.resolve() == Path("runs/demo/stages/r/out").resolve()
    dpsim("report")
    (report / "notes.txt").write_text("mine")
    assert dpsim("run", "w.yaml")[1].splitlines()[-1] == page.format("stages/r/out")
    assert (report / "notes.txt").read_text() == "mine"
    assert "report:" not in dpsim("run", "w.yaml", "--only", "b")[1]


def test_a_bug_keeps_its_traceback(
    dpsim: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("here")

    monkeypatch.setattr("dpsim.workflow.planning.load.load", broken)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    code, _, err = dpsim("plan", "w.yaml")
    assert code == 1
    assert "ZeroDivisionError: here" in err
    saved = list(tmp_path.glob("dpsim-bug-*.txt"))
    assert len(saved) == 1
    assert str(saved[0]) in err
    assert "arguments: ['plan', 'w.yaml']" in saved[0].read_text()


def test_detach_stop_and_go_on(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(
        "dpsim: 1\nname: demo\nstages:\n"
        "  a: {uses: command, run: [sh, -c, 'test -e {work}/f || (touch {work}/f; sleep 600); touch x'],"
        " outputs: [x]}\n"
    )

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dpsim.cli.main", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    assert "runs in the background" in call("run", "w.yaml", "--detach").stdout
    work = tmp_path / "runs" / "demo" / "stages" / "a" / "work" / "f"
    end = time.monotonic() + 60
    while not work.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert "demo: running (process" in call("status").stdout
    assert call("clean", "--work").returncode == 5
    assert call("stop").stdout == "demo is stopped\n"
    assert "last exit 75" in call("status").stdout
    assert call("stop").stdout == "demo is not running\n"
    assert call("run", "w.yaml").returncode == 0


def test_the_view_on_a_terminal(tmp_path: Path) -> None:
    """The live tree is drawn on a pseudo-terminal, and standard output stays clean."""
    import pty

    # long enough to be drawn while it runs
    (tmp_path / "w.yaml").write_text(WORKFLOW.replace("echo hello;", "echo hello; sleep 1;"))
    main_end, other = pty.openpty()
    command = [sys.executable, "-m", "dpsim.cli.main", "run", "w.yaml"]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"}
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=other, env=environment, text=True)
    os.close(other)
    drawn = b""
    while True:
        try:
            block = os.read(main_end, 4096)
        except OSError:
            break
        if not block:
            break
        drawn += block
    os.close(main_end)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.startswith("demo: 2 done in ")
    text = drawn.decode()
    for word in ("demo", "✔", "▶", "command", "done"):
        assert word in text


def test_sigpipe_is_no_bug(tmp_path: Path) -> None:
    command = f"{sys.executable} -m dpsim.cli.main schema | head -c 10"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (len(done.stdout), done.stderr) == (10, "")
    assert done.returncode != -signal.SIGPIPE
