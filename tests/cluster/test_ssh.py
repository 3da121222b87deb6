"""Stages on a machine behind SSH that does not see the run directory: a real sshd here, in a private folder."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from dpsim.workflow.records import tickets
from dpsim.workflow.records.store import Store

pytestmark = [
    pytest.mark.skipif(find_spec("dpdispatcher") is None, reason="dpdispatcher is not installed"),
    pytest.mark.skipif(shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") is None, reason="there is no sshd"),
    pytest.mark.skipif(os.geteuid() != 0, reason="an sshd of its own is started by root"),
]

STAGES = """
stages:
  a:
    uses: command
    run: [sh, -c, "echo on $SSH_CONNECTION; cat {{inputs.f}}; touch {{work}}/w; sleep {seconds}; echo one > {{out}}/x"]
    inputs: {{f: {{path: words.txt}}}}
    outputs: {{x: x}}
    env: {{WHO: me}}
  b:
    uses: command
    run: [sh, -c, "cat {{inputs.x}} {{inputs.x}} > {{out}}/y"]
    inputs: {{x: a.x}}
    outputs: {{y: y}}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """An sshd that knows one key; what dpdispatcher's ``remote_profile`` needs to log in."""
    folder = tmp_path_factory.mktemp("ssh")
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd divides its privileges
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(words, check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
        f"StrictModes no\nPermitRootLogin yes\nUsePAM no\nPidFile {folder}/pid\n"
        f"SetEnv PYTHONPATH={os.environ.get('PYTHONPATH', '')}\nSubsystem sftp internal-sftp\n"
    )
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    assert sshd is not None
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([sshd, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    end = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
    key = str(folder / "user")
    yield {"hostname": "127.0.0.1", "port": port, "username": "root", "key_filename": key, "timeout": 10}
    process.terminate()
    process.wait(10)


def write(folder: Path, server: dict[str, Any], *, seconds: float = 0.0, **changes: Any) -> None:
    """Write a workflow, what it reads, and a ``machine.json`` as dpdispatcher has it."""
    machine = {
        "batch_type": "Shell",
        "context_type": "SSHContext",
        "local_root": "./",
        "remote_root": str(folder / "far" / "away"),
        "remote_profile": {**server, **changes},
    }
    (folder / "machine.json").write_text(json.dumps(machine))
    (folder / "words.txt").write_text("some words\n")
    profile = "{executor: dpdispatcher, machine: machine.json, poll: 0.5 s}"
    (folder / "w.yaml").write_text(f"dpsim: 1\nname: far\nprofiles:\n  c: {profile}\n{STAGES.format(seconds=seconds)}")


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dpsim.cli.main", "run", "w.yaml", "--run-dir", "run", "--profile", "c"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def test_inputs_are_sent_and_outputs_fetched(tmp_path: Path, server: dict[str, Any]) -> None:
    write(tmp_path, server)
    code, output = finish(start(tmp_path))
    assert code == 0, output
    linked = Store(tmp_path / "run").linked()
    assert (linked["b"].out / "y").read_text() == "one\none\n"
    log = linked["a"].log.read_text()
    assert "on 127.0.0.1" in log
    assert log.count("some words") == 1
    assert (linked["a"].path / "work" / "w").exists()
    far = next((tmp_path / "far" / "away").iterdir())
    assert not list(far.glob("store/*/*/outputs.json"))  # nothing of what is done stays there, but inputs
    assert list(far.glob("files/*/words.txt"))
    code, output = finish(start(tmp_path))
    assert code == 0
    assert "nothing to do, all 2 stages are done" in output


def test_the_driver_dies_and_the_job_is_found_again(tmp_path: Path, server: dict[str, Any]) -> None:
    write(tmp_path, server, seconds=6)
    first = start(tmp_path)
    events = tmp_path / "run" / "events.jsonl"
    end = time.monotonic() + 60
    while not events.exists() or '"running"' not in events.read_text():
        assert first.poll() is None
        assert time.monotonic() < end
        time.sleep(0.1)
    first.kill()
    first.communicate()
    code, output = finish(start(tmp_path))
    assert code == 0, output
    assert "found again" in output
    entry = Store(tmp_path / "run").linked()["a"]
    assert len([path for path in (entry.path / "job").iterdir() if path.is_dir()]) == 1
    assert entry.log.read_text().count("some words") == 1
    ticket = tickets.read_ticket(entry)
    assert ticket is not None
    assert "127.0.0.1" in ticket.machine


def test_no_login(tmp_path: Path, server: dict[str, Any]) -> None:
    write(tmp_path, server, port=1)
    code, output = finish(start(tmp_path))
    assert code == 6, output
    assert "cannot log in on '127.0.0.1' by SSH: " in output
    assert "Traceback" not in output


def test_files_that_options_name_are_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpsim.workflow.executors.remote import _with_files

    base = tmp_path / "base"
    (base / "start").mkdir(parents=True)
    for name in ("start/a.xyz", "start/b.xyz", "stats.npz", "../far.txt"):
        (base / name).write_text("x")
    options = {
        "start": {"path": "start/*.xyz"},
        "statistics_file": "stats.npz",
        "more": ["300 K", str(tmp_path / "far.txt")],
    }
    changed, found = _with_files(options, base)
    names = [name for _, name in found]
    assert names[:3] == ["start/a.xyz", "start/b.xyz", "stats.npz"]
    assert changed["more"] == ["300 K", names[3]]
    assert names[3].endswith("/far.txt")
    assert changed["start"] == options["start"]
    monkeypatch.setenv("HOME", str(base))
    for name in (str(base / "stats.npz"), "~/stats.npz"):
        assert _with_files({"statistics_file": name}, base)[0] == {"statistics_file": "stats.npz"}


def test_programs_are_those_of_the_other_machine(tmp_path: Path) -> None:
    """But for scripts beside the workflow, by their full path."""
    from dpsim.workflow.executors.remote import _options_there

    script, data = tmp_path / "tool.py", tmp_path / "data.txt"
    script.touch()
    data.touch()
    run = ["/bin/sh", str(script), "tool.py", f"{tmp_path}/../{tmp_path.name}/tool.py", "{inputs.i}", "a\0b"]
    options = {"run": run, "inputs": {"i": {"path": "data.txt"}}}
    described = {"type": "command", "base": str(tmp_path), "options": options}
    changed, found = _options_there(described, PurePosixPath("/there/base"))
    assert changed == {**options, "run": [run[0], "/there/base/tool.py", *run[2:]]}
    assert found == [(data, "data.txt"), (script, "tool.py")]
