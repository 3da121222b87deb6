"""Whether the steps of a training are compiled."""

from __future__ import annotations

from dpsim.train.batches.frames import FrameSet
from dpsim.train.loss.energy import FROM_DERIVATIVES, EnergyLoss
from dpsim.train.settings.data import size_of
from dpsim.train.task import Task

WORTH = 1_000_000
"""Atoms in all steps together from which compiling pays on a CPU, whatever the model (``DESIGN.md`` says why)."""
EDGES_OF_ATOM = 50
"""Where batches are counted in pairs of neighbours: about so many belong to an atom."""
LOOKED_AT = 1000
"""Frames, evenly spaced, whose atoms are counted."""


def needs_derivatives(task: Task) -> bool:
    """Whether steps look at forces or virials: the loss has them, or the data do, and errors of them are shown."""
    if not isinstance(task.loss, EnergyLoss):
        return False
    labels = {name for name in task.loss.labels if task.found.labels.get(name)}
    return task.model.spin is not None or bool(FROM_DERIVATIVES & {*task.loss.config.active, *labels})


def atoms_of_step(task: Task) -> float:
    """About how many atoms the batches of one step of a process have."""
    size, mean = size_of(task.config.batch_size), _mean_atoms(task.frames)
    if size.rule in ("frames", "systems"):
        atoms = size.number * mean
    else:
        atoms = size.number / (EDGES_OF_ATOM if size.rule == "edges" else 1)
    return max(atoms, mean) * task.config.accumulate


def _mean_atoms(frames: FrameSet) -> float:
    numbers = [frames.n_atoms(int(i)) for i in frames.spread(LOOKED_AT)]
    return sum(numbers) / max(len(numbers), 1)


def pays(task: Task, steps: float, device: str) -> str | None:
    """None if compiling saves more time than it takes, by a rule that knows settings and data alone; else why not.

    Parameters
    ----------
    steps
        Of the whole training that are for this task.
    """
    if device != "cpu":
        return "it has not been measured on GPUs; `compile: true` does it"
    atoms = steps * atoms_of_step(task)
    if atoms < WORTH:
        return f"{atoms:.3g} atoms in all steps are fewer than the {WORTH:.3g} from which it pays"
    return None
