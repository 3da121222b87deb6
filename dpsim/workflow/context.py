"""What a running stage is given."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dpsim.errors import ConfigError

Emit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Granted:
    """Resources of a running stage."""

    ranks: int = 1
    cpus: int = 1
    gpus: int = 0
    nodes: int = 1
    """Of a cluster; cores and GPUs are those of all nodes together."""
    memory: float | None = None
    """Bytes on each node; None if there is no limit."""
    mpi: str | None = None
    """Keyword ``mpi`` of ``pair_style dpsim``: auto, device or host; None leaves it out."""


@dataclass(frozen=True)
class Artifact:
    """The files that one declared input stands for."""

    paths: tuple[Path, ...]
    """One path for a reference; every match for a pattern."""
    place: str = ""
    """Where it is declared in the stage, for example ``from.0``; the same for all matrix points of a reference."""
    stage: str | None = None
    """Name of the stage it comes from."""
    type: str | None = None
    """Type of that stage."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of that stage."""


@dataclass(frozen=True)
class Context:
    """Everything outside of its options that a stage may use.

    A stage can be run without the runner: ``stage.execute(Context(inputs=..., out=..., work=...))``.
    """

    inputs: Mapping[str, Sequence[Artifact]]
    """Artifacts by input slot, in the order they are declared."""
    out: Path
    """Empty folder for the outputs; it is renamed into place when the stage is done."""
    work: Path
    """Folder that is kept over restarts of the same stage."""
    seed: int = 0
    resources: Granted = Granted()
    type_map: tuple[str, ...] = ()
    name: str = "stage"
    run_dir: Path | None = None
    base: Path = Path()
    """Folder of the workflow file, to which relative paths of files refer."""
    emit: Emit | None = None

    def input(self, slot: str) -> Path:
        """Return the single path of a slot.

        Raises
        ------
        ConfigError
            If it has several, of which all but one would be left out.
        """
        found = self.paths(slot)
        if len(found) != 1:
            raise ConfigError(f"{slot}: {len(found)} files or folders are given, a stage takes one here: name one")
        return found[0]

    def paths(self, slot: str) -> list[Path]:
        """Return all paths of a slot, in order; empty if it is not used."""
        return [path for artifact in self.inputs.get(slot, ()) for path in artifact.paths]

    def progress(self, done: float, total: float | None = None, message: str = "", **values: Any) -> None:
        """Report how far the stage is.

        Parameters
        ----------
        done, total
            In any unit; `total` None where it is not known.
        message
            What is being done, a few words.
        values
            Numbers to show and record, for example ``loss=0.1, steps_per_s=20.0``.

        Raises
        ------
        Interrupted
            If the run is being stopped: a call is a safe point to do so. Let it pass, after saving.
        """
        if self.emit is not None:
            self.emit({"event": "progress", "done": done, "total": total, "message": message, "values": values})

    def log(self, message: str) -> None:
        """Write a line with the time to the log of the stage."""
        print(f"{time.strftime('%H:%M:%S')} {message}", file=sys.stderr, flush=True)
