"""A disk that is full or cannot be written is told in a sentence, and nothing half-written counts as done."""

from __future__ import annotations

import errno
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dpsim.errors import SetupError
from dpsim.workflow.records import files
from dpsim.workflow.records.digest import Digester
from dpsim.workflow.records.files import disk_problem
from dpsim.workflow.records.store import Store

Write = Callable[..., Path]
Run = Callable[..., object]

DPSIM = f"{sys.executable} -m dpsim.cli.main"
PROGRAM = "import sys; open(sys.argv[1] + '/x', 'wb').write(b'x' * 200_000)"
WORKFLOW = """
dpsim: 1
name: disk
type_map: [Cu]
stages:
  small: {uses: command, run: [sh, -c, 'echo 1 > {out}/s'], outputs: [s]}
  label: {uses: label, structures: {prototype: fcc, element: Cu, count: 400, rattle: 0.1 angstrom}, calculator: {name: emt}}
  data: {uses: convert, from: label.frames}
"""  # noqa: E501


def no_private_mounts() -> bool:
    """Whether this machine lets us mount a file system that nobody else sees."""
    try:
        return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode != 0
    except OSError:
        return True


private_mounts = pytest.mark.skipif(no_private_mounts(), reason="unshare -rm is not allowed here")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "x", "/a/b"), "cannot write /a/b: no space is left on the disk; free some, then run"),
        (OSError(errno.EROFS, "x"), "cannot write: the file system is read-only; choose another folder"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "no space is left"),
        (OSError(errno.ENOENT, "x"), ""),
        (ValueError("no"), ""),
    ],
)
def test_what_is_said(error: Exception, words: str) -> None:
    assert disk_problem(error).startswith(words) or words in disk_problem(error) != ""
    assert bool(words) == bool(disk_problem(error))


def run_limited(folder: Path, limit: int) -> subprocess.CompletedProcess[str]:
    """Run with a limit on the size of files."""

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [sys.executable, "-m", "dpsim.cli.main", "run", "w.yaml", "--run-dir", "run"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, preexec_fn=lower)


def test_a_file_that_becomes_too_large(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW)
    done = run_limited(tmp_path, 60_000)
    assert done.returncode == 6, done.stderr
    assert "stage 'label' failed: cannot write" in done.stderr
    assert "ulimit -f" in done.stderr
    assert "Traceback" not in done.stderr
    store = Store(tmp_path / "run")
    assert [entry.read("stage.json")["name"] for entry in store.entries() if entry.is_done()] == ["small"]
    assert not [p for entry in store.entries() if not entry.is_done() for p in entry.path.glob(".out.*")]
    assert run_limited(tmp_path, resource.RLIM_INFINITY).returncode == 0


def test_the_driver_meets_a_full_disk(write: Write, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Wherever it writes: the run ends with the sentence, and the same command goes on."""
    path = write()
    whole = files.write_atomic
    for count in range(0, 12, 2):
        left = [count]

        def full(target: Path, text: str, left: list[int] = left, **options: bool) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, "No space left on device", str(target))
            whole(target, text, **options)

        for module in ("records.store", "driver.manifest", "records.digest", "driver.runner", "records.locks"):
            monkeypatch.setattr(f"dpsim.workflow.{module}.write_atomic", full)
        said = ""
        try:
            assert run(path, use_cache=count == 0).code == 0  # no more than `count` files were needed
        except SetupError as error:
            said = str(error)
        assert not said or "no space left" in said.lower() or "cannot write" in said
        monkeypatch.undo()
    assert run(path).code == 0
    assert set(run(path).states.values()) == {"cached"}
    for entry in Store(tmp_path / "run").entries():
        assert entry.is_done()
        assert entry.damage(Digester()) == ""


@private_mounts
@pytest.mark.parametrize("filler", [700, 950, 1000])
def test_a_full_disk(tmp_path: Path, filler: int) -> None:
    """Another file fills a file system of 1 MB: the error says so, and after making room the same command goes on."""
    text = WORKFLOW.replace("name: disk", "name: disk\nseed: 1") + (
        f'  big: {{uses: command, run: ["{{python}}", -c, "{PROGRAM}", "{{out}}"], '
        "inputs: {d: data}, outputs: [x]}\n"
    )
    (tmp_path / "w.yaml").write_text(text.replace("count: 400", "count: 20"))
    script = f"""
    mkdir disk; mount -t tmpfs -o size=1M tmpfs disk
    head -c {filler}K /dev/zero > disk/filler
    {DPSIM} run w.yaml --run-dir disk/run 2> first; echo $? > code1
    find disk/run/store -name outputs.json | wc -l > done1
    find disk/run/store -name '.out.*' > left1
    rm disk/filler
    {DPSIM} run w.yaml --run-dir disk/run 2> second; echo $? > code2
    {DPSIM} run w.yaml --run-dir disk/run --json > third
    """
    subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, check=True, timeout=200)
    first = (tmp_path / "first").read_text()
    assert (tmp_path / "code1").read_text() in ("6\n", "5\n"), first
    assert "no space" in first.lower()
    assert ("Traceback" in first) == (filler == 700)  # that of the program, from the log
    assert int((tmp_path / "done1").read_text()) < 4
    assert (tmp_path / "left1").read_text() == ""
    assert (tmp_path / "code2").read_text() == "0\n", (tmp_path / "second").read_text()
    assert set(json.loads((tmp_path / "third").read_text())["stages"].values()) == {"cached"}


@private_mounts
def test_a_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text("dpsim: 1\nname: r\nstages:\n  a: {uses: command, run: ['true']}\n")
    script = f"""
    mkdir disk; mount -t tmpfs -o size=1M tmpfs disk
    {DPSIM} run w.yaml --run-dir disk/run --quiet
    mount -o remount,ro disk
    {DPSIM} run w.yaml --run-dir disk/run 2> again; echo $? > code1
    {DPSIM} run w.yaml --run-dir disk/other 2> other; echo $? > code2
    {DPSIM} plan w.yaml --run-dir disk/run > plan; {DPSIM} status disk/run > status
    """
    subprocess.run(["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, check=True, timeout=100)
    for name in ("again", "other"):
        said = (tmp_path / name).read_text()
        assert "cannot write in " in said
        assert "read-only file system; choose another folder with --run-dir" in said
        assert len(said.splitlines()) == 1
    assert [(tmp_path / name).read_text() for name in ("code1", "code2")] == ["6\n", "6\n"]
    assert "nothing to do" in (tmp_path / "plan").read_text()
    assert "last exit 0" in (tmp_path / "status").read_text()
