"""Relaxations that are done, kept in a folder, so that a killed calculation goes on behind them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsim.calculators.statics.relax import Relaxed, State, relaxed_or_error
from dpsim.data.files import new_file, read_json, write_json

if TYPE_CHECKING:
    from ase import Atoms

    from dpsim.calculators.statics.relax_config import RelaxSettings


def keep_relaxed(path: Path, found: Relaxed) -> None:
    """Write a relaxation as ``path.traj`` and ``path.json``, the latter last: what is not whole is done again."""
    from ase.io import write

    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path.with_suffix(".traj")) as temporary:
        write(temporary, found.atoms, format="traj")
    states = {name: _plain(getattr(found, name)) for name in ("before", "after")}
    rest = {"converged": found.converged, "steps": found.steps, "reason": found.reason}
    write_json(path.with_suffix(".json"), {**states, **rest})


def _plain(state: State | None) -> dict[str, Any] | None:
    if state is None:
        return None
    stress = None if state.stress is None else state.stress.tolist()
    return {"energy": state.energy, "fmax": state.fmax, "stress": stress, "volume": state.volume}


def recall_relaxed(path: Path) -> Relaxed | None:
    """Read what `keep_relaxed` wrote; None if it is not there."""
    from ase.io import read

    if not path.with_suffix(".json").is_file():
        return None
    record = read_json(path.with_suffix(".json"))
    atoms = read(path.with_suffix(".traj"), format="traj")
    states = {}
    for name in ("before", "after"):
        state = record[name]
        if state is not None and state["stress"] is not None:
            state["stress"] = np.array(state["stress"])
        states[name] = None if state is None else State(**state)
    return Relaxed(atoms, states["before"], states["after"], record["converged"], record["steps"], record["reason"])


def relaxed_once(atoms: Atoms, source: Any, settings: RelaxSettings, folder: Path | None) -> Relaxed:
    """Relax a structure, or take what an earlier call left in the folder.

    Raises
    ------
    StageError
        If it does not converge.
    """
    kept = folder / "relaxed" if folder is not None else None
    found = recall_relaxed(kept) if kept is not None else None
    if found is None:
        found = relaxed_or_error(atoms, source, settings)
        if kept is not None:
            keep_relaxed(kept, found)
    found.atoms.info = dict(atoms.info)
    return found
