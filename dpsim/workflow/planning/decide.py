"""Whether a task must run, and why: the comparison of its key with what the store holds."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpsim.errors import DataError
from dpsim.model.pretrained import HUB
from dpsim.workflow.language.tasks import Task
from dpsim.workflow.planning.files import match_files
from dpsim.workflow.planning.key import Key, difference, make_key
from dpsim.workflow.planning.plan import Plan
from dpsim.workflow.records.digest import Digester
from dpsim.workflow.records.host import gpu_names
from dpsim.workflow.records.store import Entry, Store
from dpsim.workflow.stage import dotted


@dataclass(frozen=True)
class InputRecord:
    """One input artifact of a task, found and digested."""

    place: str
    """Unique: where it stands in the stage, with a number for each matrix point it stands for."""
    declared: str
    """Where it stands in the stage, for example ``from.0``."""
    slot: str
    paths: tuple[Path, ...]
    digest: str
    task: str | None = None
    """The task that made it."""

    def as_dict(self, run_dir: Path) -> dict[str, Any]:
        """Return the record as stored; paths inside of the run directory are relative to it."""
        paths = [os.path.relpath(p, run_dir) if p.is_relative_to(run_dir) else os.path.abspath(p) for p in self.paths]
        return {
            "place": self.place,
            "declared": self.declared,
            "slot": self.slot,
            "paths": paths,
            "digest": self.digest,
            "task": self.task,
        }


@dataclass(frozen=True)
class Decision:
    """What is to be done about a task."""

    task: str
    action: str
    """``cached``, ``run``, or ``wait`` (for a task before it that will run)."""
    reason: str
    key: Key | None = None
    entry: Entry | None = None
    inputs: tuple[InputRecord, ...] = ()
    fresh: bool = False
    """Whether earlier work is to be thrown away."""
    note: str = ""


@dataclass
class Decider:
    """Decides task by task; tasks before it must have been decided (and run) first."""

    plan: Plan
    store: Store
    digester: Digester
    previous: Mapping[str, str] = field(default_factory=dict)
    """Keys of the last run by task, to say what changed."""
    forced: Collection[str] = ()
    use_cache: bool = True
    entries: dict[str, Entry] = field(default_factory=dict)
    """Entries of tasks that are done."""
    ran: set[str] = field(default_factory=set)
    """Tasks that ran now, and so are not forced again."""

    def decide(self, name: str) -> Decision:
        """Return what is to be done about a task.

        Raises
        ------
        DataError
            If a file from outside cannot be read.
        """
        waiting = [need for need in self.plan.needs(name) if need not in self.entries]
        if self.plan.is_open(name):
            return Decision(name, "wait", self.plan.workflow.loops[name].outlook())
        if waiting:
            return Decision(name, "wait", f"after {', '.join(waiting)}")
        task = self.plan.workflow.tasks[name]
        inputs = self._inputs(name)
        digests = {record.place: record.digest for record in inputs}
        workflow = self.plan.workflow
        key = make_key(
            task.config, digests, type_map=workflow.type_map, seed=workflow.seed_of(task), device=device_of(task)
        )
        entry = self.store.entry(key.digest)
        action, reason, fresh = self._compare(name, key, entry)
        note = _soft_note(key, entry) if action == "cached" else ""
        return Decision(name, action, reason, key, entry, inputs, fresh, note)

    def _compare(self, name: str, key: Key, entry: Entry) -> tuple[str, str, bool]:
        config = self.plan.workflow.tasks[name].config
        if name not in self.ran:
            if name in self.forced:
                return "run", "forced", True
            if not self.use_cache:
                return "run", "cache not used (--no-cache)", True
            if config.cache == "off":
                return "run", "cache: off", True
        if entry.is_done():
            damage = entry.damage(self.digester)
            return ("run", damage, True) if damage else ("cached", "cached", False)
        return "run", self._why(name, key, entry), False

    def _why(self, name: str, key: Key, entry: Entry) -> str:
        last = self.previous.get(name)
        if last == key.digest or (last is None and entry.path.exists()):
            return "unfinished, goes on from its work folder" if _has_work(entry, key, self.store) else "unfinished"
        old = self.store.entry(last).read("stage.json").get("parts", {}) if last else {}
        if not old:
            return "new"
        kept = " (goes on from earlier work)" if _has_work(entry, key, self.store) else ""
        return ("; ".join(difference(old, key.parts())) or "changed") + kept

    def _inputs(self, name: str) -> tuple[InputRecord, ...]:
        records = []
        base = self.plan.workflow.base
        for link in self.plan.links[name]:
            place = dotted(link.path)
            if link.patterns:
                paths = match_files(base, link.patterns)
                if not paths and link.optional:
                    continue
                if not paths:
                    raise DataError(f"stage {name!r}: no file matches {link.patterns[0]!r} in {base}")
                from_hub = link.patterns[0].startswith(HUB)  # wherever this machine keeps it
                digest = self.digester.files(paths, paths[0].parent if from_hub else base)
                records.append(InputRecord(place, place, link.slot, tuple(paths), digest))
                continue
            for index, (producer, output) in enumerate(link.producers):
                path = self.entries[producer].out / output
                number = place if len(link.producers) == 1 else f"{place}.{index}"
                records.append(InputRecord(number, place, link.slot, (path,), self.digester.path(path), producer))
        return tuple(records)


def _has_work(entry: Entry, key: Key, store: Store) -> bool:
    work = store.entry(key.work_digest).path / "work"
    return work.is_dir() and any(work.iterdir())


def _soft_note(key: Key, entry: Entry) -> str:
    """Say which packages have other versions than when the result was made, and whether it was made elsewhere."""
    old = entry.read("stage.json").get("soft", {})
    changed = [(name, old[name], now) for name, now in key.soft.items() if name in old and old[name] != now]
    return "; ".join(
        f"made on {was}, now {now}" if name == "device" else f"made with {name} {was}, now {now}"
        for name, was, now in changed
    )


def device_of(task: Task) -> str | None:
    """Return the kind of device that a stage would use, None if its type uses cores only."""
    if not task.config.wants.gpus:
        return None
    return "cuda" if task.resources.gpus != 0 and gpu_names() else "cpu"
