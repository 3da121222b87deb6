"""A cluster behind SSH that does not see the run directory: what a stage needs is sent, what it makes is fetched.

On the cluster, ``REMOTE_ROOT/RUN-xxxxxxxx/`` is a run directory of its own that holds the stages sent there:

    store/4f/4f9c.../{stage.json, inputs.json, job.json, job/, work/, out/, ...}
    store/../out/...        outputs of other stages that are inputs
    files/DIGEST/NAME       inputs from outside of the run
    base/                   files that options name, relative to the workflow file
    sent/DIGEST             inputs that are there already
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import io
import json
import os
import shlex
import shutil
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from dpsim.errors import SetupError
from dpsim.workflow.executors.base import StageJob
from dpsim.workflow.planning.files import match_files
from dpsim.workflow.planning.machines import dispatcher
from dpsim.workflow.records.files import read_json, write_atomic
from dpsim.workflow.records.store import Entry
from dpsim.workflow.records.tickets import FILE, Ticket, folder

_BLOCK: Final = 1 << 20
_SMALL: Final = ("started.json", "exit.json")


class RemotePlace:
    """Files of stages on a machine behind SSH.

    Parameters
    ----------
    machine
        dpdispatcher's description, with ``remote_root`` and ``remote_profile``.
    run_dir
        The run directory here.
    """

    def __init__(self, machine: Mapping[str, Any], run_dir: Path) -> None:
        self._run_dir = run_dir
        self._root = PurePosixPath(machine["remote_root"]) / f"{run_dir.name}-{_mark(run_dir)}"
        try:
            self._machine = dispatcher().Machine.load_from_dict({"create_remote_root": True, **machine})
        except Exception as error:  # paramiko and the system raise many kinds
            host = (machine.get("remote_profile") or {}).get("hostname")
            raise SetupError(f"cannot log in on {host!r} by SSH: {error or type(error).__name__}") from None

    def path(self, entry: Entry) -> str:
        """Return where the cluster finds the folder of a stage."""
        return str(self._root / self._relative(entry.path))

    @contextlib.contextmanager
    def at(self, entry: Entry, ticket: Ticket) -> Iterator[Any]:
        """Give dpdispatcher's machine, working in the folder of a ticket."""
        root = f"{self.path(entry)}/job/{ticket.ticket}"
        self._machine.context.local_root = str(folder(entry, ticket.ticket))
        self._machine.context.remote_root = root
        yield self._machine

    def send(self, job: StageJob, ticket: Ticket) -> None:
        """Send the stage with its inputs, and with its work if the cluster has none of it."""
        entry = job.entry
        described = entry.read("stage.json")
        work = f"store/{described['work']}"
        root = shlex.quote(str(self._root))
        found = self._call(f"mkdir -p {root}/sent && cd {root} && ls sent; test -d {shlex.quote(work)} && echo work")
        there = found.split()
        records, members, new = [], [], []
        for record in entry.read("inputs.json").get("inputs", []):
            sent = record["digest"] in there
            paths = [self._input(path, record["digest"]) for path in record["paths"]]
            records.append({**record, "paths": [str(remote) for _, remote in paths]})
            for local, remote in paths:
                if record["task"] is not None:  # what the stage asks about where an input comes from
                    producer = Path(*remote.parts[:3]) / "stage.json"
                    members.append((self._run_dir / producer, str(producer)))
                if not sent:
                    members.append((local, str(remote)))
            new += [] if sent else [record["digest"]]
        home = self._relative(entry.path)
        members.append((entry.path / FILE, f"{home}/{FILE}"))
        options, named = _options_there(described, self._root / "base")
        members += [(source, f"base/{name}") for source, name in named]
        stage = json.dumps({**described, "options": options, "base": str(self._root / "base")}, indent=1).encode()
        if "work" not in there and (self._run_dir / work).is_dir():
            members.append((self._run_dir / work, work))
        inputs = json.dumps({"inputs": records}, indent=1).encode()
        keep = f"{home}/job/{ticket.ticket}/sent"
        here = {f"{home}/stage.json": stage, f"{home}/inputs.json": inputs, keep: b"", "base/.keep": b""}
        self._put(members, {**here, **{f"sent/{digest}": b"" for digest in new}})

    def refresh(self, entry: Entry, ticket: Ticket) -> None:
        """Fetch what a job has written so far: where it runs, events, log, exit status."""
        local = folder(entry, ticket.ticket)
        local.mkdir(parents=True, exist_ok=True)
        # The log of the stage grows by the attempts of this machine too, so what came from there is counted by a copy.
        log, events, script = "log.txt", f"job/{ticket.ticket}/events.jsonl", f"job/{ticket.ticket}/job.out"
        targets = {
            log: (entry.log, local / "log.copy"),
            events: (local / "events.jsonl",),
            script: (local / "job.out",),
        }
        records = {f"job/{ticket.ticket}/{name}": local / name for name in _SMALL if not (local / name).exists()}
        known = {name: _size(paths[-1]) for name, paths in targets.items()} | dict.fromkeys(records, 0)
        for name, block in self._news(self.path(entry), known).items():
            if name in records:
                write_atomic(records[name], block.decode("utf-8", "replace"))
            for path in targets.get(name, ()):
                with path.open("ab") as file:
                    file.write(block)

    def fetch(self, entry: Entry, ticket: Ticket) -> None:
        """Fetch the outputs and the work folder of a stage that is done."""
        self.refresh(entry, ticket)
        here = folder(entry, ticket.ticket) / "fetched"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir(parents=True)
        work = f"store/{entry.read('stage.json')['work']}"
        home = self._relative(entry.path)
        names = [f"{home}/out", f"{home}/outputs.json", f"{home}/metrics.json", work]
        words = " ".join(shlex.quote(name) for name in names)
        _, stdout, stderr = self._exec(f"cd {shlex.quote(str(self._root))} && tar -cf - $(ls -d {words} 2>/dev/null)")
        with tarfile.open(fileobj=stdout, mode="r|") as archive:
            unpack(archive, here)
        if stdout.channel.recv_exit_status() != 0:
            raise SetupError(f"the outputs of {ticket.name} could not be fetched: {stderr.read().decode().strip()}")
        if (here / work).is_dir():
            _replace(here / work, self._run_dir / work)
        _replace(here / home / "out", entry.out)
        for name in ("metrics.json", "outputs.json"):  # with the last one the stage is done
            if (here / home / name).exists():
                (here / home / name).replace(entry.path / name)
        shutil.rmtree(here)

    def clean(self, entry: Entry, ticket: Ticket) -> None:
        """Take the copy of a stage that is done away from the cluster; inputs stay, for other stages."""
        if entry.is_done():
            work = f"{self._root}/store/{entry.read('stage.json')['work']}"
            words = [f"{self.path(entry)}/{name}" for name in ("out", "outputs.json", "log.txt", "job")]
            self._call(f"rm -rf {shlex.join([*words, work])}")

    def job_id(self, entry: Entry, ticket: Ticket) -> str:
        """Return the number of a job that its driver did not write down, an empty string if there is no trace of it."""
        root = f"{self.path(entry)}/job/{ticket.ticket}"
        written = self._call(f"cat {shlex.quote(root)}/*_job_id 2>/dev/null || true").strip()
        if not written:
            self.refresh(entry, ticket)
        return written or str(read_json(folder(entry, ticket.ticket) / "started.json").get("job_id", ""))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._run_dir).as_posix()

    def _input(self, path: str, digest: str) -> tuple[Path, PurePosixPath]:
        """Return where an input is here, and there relative to the run."""
        if os.path.isabs(path):
            return Path(path), PurePosixPath("files") / digest / Path(path).name
        return self._run_dir / path, PurePosixPath(path)

    def _put(self, members: list[tuple[Path, str]], texts: Mapping[str, bytes]) -> None:
        """Send files and folders as one archive; `texts` are written as they are, at the end."""
        stdin, stdout, stderr = self._exec(f"tar -xf - -C {shlex.quote(str(self._root))}")
        with tarfile.open(fileobj=stdin, mode="w|", dereference=True, bufsize=_BLOCK) as archive:
            for source, name in _unique(members):
                archive.add(source, name)
            for name, text in texts.items():
                info = tarfile.TarInfo(name)
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text))
        stdin.channel.shutdown_write()
        if stdout.channel.recv_exit_status() != 0:
            raise SetupError(f"files could not be sent to {self._root}: {stderr.read().decode().strip()}")

    def _news(self, root: str, known: Mapping[str, int]) -> dict[str, bytes]:
        """Return what is new in some files of a folder, of which so many bytes are known; one question for all."""
        words = " ".join(shlex.quote(f"{name}:{size}") for name, size in known.items())
        _, stdout, _ = self._exec(
            f"cd {shlex.quote(root)} && for w in {words}; do f=${{w%:*}}; o=${{w##*:}}; [ -f $f ] || continue; "
            "n=$(($(stat -c %s $f) - o)); [ $n -gt 0 ] || continue; "
            "echo $f $n; tail -c +$((o + 1)) $f | head -c $n; done"
        )
        found = {}
        while line := stdout.readline():
            name, _, size = line.strip().rpartition(" ")
            found[name] = stdout.read(int(size))
        return {name: block for name, block in found.items() if name in known}

    def _call(self, command: str) -> str:
        _, stdout, _ = self._exec(command)
        return stdout.read().decode("utf-8", "replace")

    def _exec(self, command: str) -> tuple[Any, Any, Any]:
        session = self._machine.context.ssh_session
        session.ensure_alive()
        return session.exec_command(command)


def _options_there(described: Mapping[str, Any], there: PurePosixPath) -> tuple[Any, list[tuple[Path, str]]]:
    """Return the options of a stage whose workflow lies in folder `there`, and the files to put there, by name.

    Of the words that a command stage runs, only full paths of files beside the workflow are such files; its programs
    are those of the other machine.
    """
    base, options = Path(described["base"]), described["options"]
    if described["type"] != "command":
        return _with_files(options, base)
    rest, found = _with_files({key: value for key, value in options.items() if key != "run"}, base)
    own = {word: Path(word).relative_to(base).as_posix() for word in options["run"] if _is_file_below(base, word)}
    run = [str(there / own[word]) if word in own else word for word in options["run"]]
    return {**rest, "run": run}, [*found, *((Path(word), name) for word, name in own.items())]


def _is_file_below(base: Path, word: str) -> bool:
    path = Path(word)
    return path.is_absolute() and path.is_relative_to(base) and ".." not in path.parts and os.path.isfile(word)


def _with_files(options: Any, base: Path) -> tuple[Any, list[tuple[Path, str]]]:
    """Return options that name files relative to another folder, and those files with their names there.

    Whatever text names a file is taken for one: what a stage reads beside its inputs is not declared otherwise.
    """
    found: list[tuple[Path, str]] = []

    def changed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: changed(item) for key, item in value.items()}
        if isinstance(value, list):
            return [changed(item) for item in value]
        if not isinstance(value, str) or not value or len(value) > 1000 or "\0" in value:
            return value
        for path in match_files(base, [value]) if glob.has_magic(value) or "." in value or "/" in value else ():
            if path.is_file():
                inside = path.is_relative_to(base) and ".." not in Path(value).parts
                name = path.relative_to(base).as_posix() if inside else f"elsewhere/{_mark(path.parent)}/{path.name}"
                found.append((path, name))
                full = not inside or os.path.isabs(os.path.expanduser(value))
                if full and not glob.has_magic(value):
                    return name
        return value

    return changed(options), found


def _mark(path: Path) -> str:
    return hashlib.blake2b(os.fsencode(path), digest_size=6).hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _unique(members: list[tuple[Path, str]]) -> Iterator[tuple[Path, str]]:
    seen = set()
    for source, name in members:
        if name not in seen:
            seen.add(name)
            yield source, name


def unpack(archive: tarfile.TarFile, folder: Path) -> None:
    """Unpack an archive that another machine sent: nothing lands outside of the folder.

    Raises
    ------
    SetupError
        If something in it would.
    """
    filtered: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and newer
    root = os.path.realpath(folder)
    for member in archive:
        place = os.path.realpath(os.path.join(root, member.name))
        paths = [place]
        if member.issym() or member.islnk():
            base = os.path.dirname(place) if member.issym() else root
            paths.append(os.path.realpath(os.path.join(base, member.linkname)))
        plain = member.isfile() or member.isdir() or len(paths) > 1
        if not plain or not all(path == root or path.startswith(root + os.sep) for path in paths):
            raise SetupError(f"the archive of the other machine holds {member.name!r}, which is no file inside of it")
        archive.extract(member, folder, **filtered)


def _replace(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.with_name(f".old.{os.getpid()}")
    if target.exists():
        target.rename(old)
    source.rename(target)
    shutil.rmtree(old, ignore_errors=True)
