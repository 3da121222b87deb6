"""The run directory: results by key in ``store/``, names for people in ``stages/``, one manifest.

    runs/water/
      workflow.yaml  workflow.lock.yaml  manifest.json  events.jsonl  driver.json
      stages/model -> ../store/4f/4f9c...
      store/4f/4f9c.../{stage.json,inputs.json,outputs.json,metrics.json,log.txt,work/,out/}

An entry is done when ``outputs.json`` exists; everything else in it may be half-written.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpsim.errors import DataError, SetupError
from dpsim.workflow.records.digest import Digester
from dpsim.workflow.records.files import link_folder, read_json, write_atomic
from dpsim.workflow.stage import Output


@dataclass(frozen=True)
class Entry:
    """One result in the store."""

    path: Path

    @property
    def key(self) -> str:
        """The cache key."""
        return self.path.name

    @property
    def out(self) -> Path:
        """Folder of the outputs."""
        return self.path / "out"

    @property
    def log(self) -> Path:
        """File that holds all the stage printed."""
        return self.path / "log.txt"

    @property
    def lock(self) -> Path:
        """Lock file of whoever runs the stage."""
        return self.path / "lock"

    def read(self, name: str) -> dict[str, Any]:
        """Return one of the JSON files, empty if it is absent or unreadable."""
        return read_json(self.path / name)

    def write(self, name: str, value: Mapping[str, Any], *, durable: bool = False) -> None:
        """Write one of the JSON files at once."""
        write_atomic(self.path / name, json.dumps(value, indent=1, sort_keys=True) + "\n", durable=durable)

    def is_done(self) -> bool:
        """Return whether the outputs are complete."""
        return (self.path / "outputs.json").is_file()

    def damage(self, digester: Digester) -> str:
        """Return what is wrong with the outputs of a done entry, an empty string if they are as they were made."""
        outputs = self.read("outputs.json").get("outputs")
        if not isinstance(outputs, dict):
            return "outputs.json is damaged"
        for name, record in outputs.items():
            path = self.out / record["path"]
            if not path.exists():
                return f"output {name!r} is gone"
            with contextlib.suppress(DataError):
                if digester.path(path) == record["digest"]:
                    continue
            return f"output {name!r} was changed on disk"
        return ""

    def commit(self, temporary: Path, outputs: Mapping[str, Output], extra: Mapping[str, Any]) -> None:
        """Make a temporary folder the outputs of this entry.

        Raises
        ------
        DataError
            If a declared output is missing from it.
        """
        digester = Digester()
        records = {}
        for name, output in outputs.items():
            path = temporary / output.path
            if not path.exists():
                raise DataError(f"the stage ended without writing its output {name!r} ({output.path})")
            records[name] = {
                "path": output.path,
                "kind": output.kind,
                "digest": digester.path(path),
                "size": size_of(path),
            }
        (self.path / "outputs.json").unlink(missing_ok=True)
        old = self.path / f".old.{os.getpid()}"
        if self.out.exists():
            self.out.rename(old)
        temporary.rename(self.out)
        _sync_folder(self.path)
        self.write("outputs.json", {"format": 1, "outputs": records, **extra}, durable=True)
        shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True)
class Store:
    """A run directory."""

    run_dir: Path

    def prepare(self) -> None:
        """Create the folders.

        Raises
        ------
        SetupError
            If the run directory cannot be written.
        """
        try:
            for name in ("store", "stages"):
                (self.run_dir / name).mkdir(parents=True, exist_ok=True)
            probe = self.run_dir / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise SetupError(
                f"cannot write in {self.run_dir}: {reason}; choose another folder with --run-dir"
            ) from None

    def entry(self, key: str) -> Entry:
        """Return the entry of a key, which may not exist yet."""
        return Entry(self.run_dir / "store" / key[:2] / key)

    def entries(self) -> Iterator[Entry]:
        """Yield all entries."""
        for path in sorted((self.run_dir / "store").glob("??/*")):
            if path.is_dir() and len(path.name) == 40:
                yield Entry(path)

    @property
    def memo(self) -> Path:
        """File of remembered digests."""
        return self.run_dir / "store" / "digests.json"

    @property
    def manifest(self) -> Path:
        """File that describes the run."""
        return self.run_dir / "manifest.json"

    @property
    def events(self) -> Path:
        """Append-only file of what happened."""
        return self.run_dir / "events.jsonl"

    @property
    def driver(self) -> Path:
        """File that says which process drives the run."""
        return self.run_dir / "driver.json"

    def link(self, name: str, entry: Entry) -> None:
        """Point ``stages/<name>`` at an entry."""
        link_folder(self.run_dir / "stages" / name, entry.path)

    def linked(self) -> dict[str, Entry]:
        """Return the entries by the names in ``stages/``."""
        folder = self.run_dir / "stages"
        links = sorted(folder.iterdir()) if folder.is_dir() else []
        return {link.name: Entry(link.resolve()) for link in links if link.is_symlink() and link.exists()}


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


def _sync_folder(path: Path) -> None:
    """Make a rename durable before it is relied upon."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
