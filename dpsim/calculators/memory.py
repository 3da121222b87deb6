"""Memory that a model takes, predicted for a number of atoms without computing anything.

The model is run on tensors without values, of the sizes that the structure would give, and the bytes that are there at
a time are counted: the operators of the model are the formula. Models whose atoms pass no messages are run for a piece
of the atoms at a time, so that beyond that only lists grow. What a process has beside them was measured, and so was
how much more the C library's allocator takes for tensors of changing sizes than they hold (`tests/calculators/
test_memory.py` compares with measured peaks). CPUs only, and plain training steps; not counted are halo atoms, buffers
of MPI, and the neighbourhoods that a training keeps for the next epochs, up to 2 GiB.
"""

from __future__ import annotations

import math
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dpsim import ops
from dpsim.calculators.engines import ModelFacts
from dpsim.calculators.inputs import read_frame
from dpsim.errors import DataError, ModelError
from dpsim.model.base import Model
from dpsim.physics.derivatives import energy_and_derivatives
from dpsim.physics.neighborhood import InnerList, Neighborhood, Pairs, collate
from dpsim.physics.pieces import CPU_ITEMS, items

MB = 2**20
PROCESS_MB = {"lammps": 150, "python": 275, "training": 430}
"""Of a process with its libraries, before there is a structure."""
HELD = {"lammps": 1.35, "python": 1.55, "training": 1.5}
"""Memory held over memory in tensors."""
STAYS = {"lammps": 30, "python": 300}
"""Bytes of an edge of all atoms, which stay while these are evaluated in pieces (`dpsim.physics.pieces`)."""
SAMPLE_ATOMS = 192
"""Atoms of a made-up structure."""


class MemoryUse(NamedTuple):
    """What a structure takes."""

    atoms: int
    edges: int
    """Pairs of neighbours, each from both sides."""
    pairs: int
    """Pairs of edges of one atom (angles), over all lists that have them."""
    tensors: dict[str, int]
    """Bytes in tensors at the worst moment of an evaluation with forces (``evaluation``) and of a training step."""
    peak_mb: dict[str, int]
    """Resident memory by use: ``lammps`` of each rank, ``python`` (ASE and Python), ``training`` of a batch of so many
    atoms."""


def predict_memory(model: Model, sample: dict[str, Any], atoms: int | None = None, ranks: int = 1) -> MemoryUse:
    """Predict the memory of MD and training.

    Parameters
    ----------
    sample
        Structure as `Potential.evaluate` takes it; what the model takes beside it may be left out.
    atoms
        Number of atoms with neighbourhoods like those of the sample; by default its own.
    ranks
        Of LAMMPS, which divide the atoms evenly.

    Raises
    ------
    DataError
        If the sample has no atoms, or is not what `Potential.evaluate` takes.
    ModelError
        If the model has electrostatics, or an element is unknown.
    """
    if model.long_range:
        raise ModelError("the memory of electrostatics is not predicted: ask for the models that it is made of")
    ops.load()
    graph, _ = read_frame(ModelFacts.of_model(model), _completed(model, sample), "the structure", "the model")
    if not len(sample["types"]):
        raise DataError("the structure has no atoms: give one that is like the structures to come")
    whole = collate([graph])
    factor = (atoms or len(sample["types"])) / len(sample["types"])
    counted = _counts(whole, factor)
    fixed = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    most = _largest_piece(model, whole)
    share, evaluation = (peak_bytes(model, whole, min(part, most), training=False) for part in (factor / ranks, factor))
    training = peak_bytes(model, whole, factor, training=True)
    # A step has, beside the parameters, their gradients, two moments and an update.
    bytes_of = {"lammps": share + fixed, "python": evaluation + fixed, "training": training + 5 * fixed}
    peak = {use: PROCESS_MB[use] + HELD[use] * held / MB for use, held in bytes_of.items()}
    for use, part in (("lammps", factor / ranks), ("python", factor)):
        peak[use] += STAYS[use] * counted[1] / factor * max(part - most, 0.0) / MB
    tensors = {"evaluation": evaluation, "training": training}
    return MemoryUse(*counted, tensors, {use: round(megabytes) for use, megabytes in peak.items()})


def _largest_piece(model: Model, hood: Neighborhood) -> float:
    """How often a neighbourhood is evaluated at a time, at most; need not be a whole number."""
    found = int(items(hood, model.neighbors).sum())
    if model.message_passing_layers or not found:
        return math.inf
    return max(CPU_ITEMS / found, 1 / hood.n_atoms)


def made_up(model: Model, density: float, seed: int = 0) -> dict[str, Any]:
    """A structure near a grid with `density` atoms in Å³ and all elements of the model in turn."""
    rng = np.random.default_rng(seed)
    side = max(round(SAMPLE_ATOMS ** (1 / 3)), 1)
    spacing = density ** (-1 / 3)
    grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    positions = (grid + rng.uniform(-0.15, 0.15, grid.shape)) * spacing
    types = np.arange(len(grid)) % len(model.type_map)
    return {"positions": positions, "types": types, "cell": np.eye(3) * side * spacing}


def _completed(model: Model, sample: dict[str, Any]) -> dict[str, Any]:
    """The sample with zeros for what it lacks and the model takes."""
    n, inputs = len(sample["types"]), model.inputs
    extra: dict[str, Any] = {}
    if inputs.n_fparam:
        extra["fparam"] = np.zeros(inputs.n_fparam)
    if inputs.n_aparam:
        extra["aparam"] = np.zeros((n, inputs.n_aparam))
    if inputs.charge_spin:
        extra["charge_spin"] = np.array([0.0, 1.0])
    if model.spin is not None:
        extra["spin"] = np.tile([0.0, 0.0, 1.0], (n, 1))
    return extra | sample


def sample_of(path: Path) -> dict[str, Any]:
    """The last structure of a file of any format that ASE reads.

    Raises
    ------
    DataError
        If it cannot be read.
    """
    from ase.io import read

    try:
        atoms: Any = read(path)
    except Exception as error:  # ASE raises whatever its parsers meet
        raise DataError(f"{path} cannot be read by ASE: {type(error).__name__}: {error}") from None
    sample = {"positions": atoms.positions, "types": atoms.get_chemical_symbols() or np.zeros(0, dtype=int)}
    return sample | ({"cell": atoms.cell.array, "periodic": atoms.pbc} if atoms.pbc.any() else {})


def _counts(hood: Neighborhood, factor: float) -> tuple[int, int, int]:
    """Atoms, edges and pairs of so many times a neighbourhood."""
    lists: list[Neighborhood | InnerList] = [hood]
    pairs = 0
    while lists:
        one = lists.pop()
        pairs += one.pairs.ij.shape[0] if one.pairs else 0
        lists += one.inner
    return tuple(round(factor * n) for n in (hood.n_atoms, hood.center.shape[0], pairs))  # type: ignore[return-value]


def peak_bytes(model: Model, hood: Neighborhood, factor: float, *, training: bool) -> int:
    """Most bytes that are in tensors at a time, inputs included, parameters not.

    Parameters
    ----------
    factor
        How often the neighbourhood is taken; need not be a whole number.
    training
        Predict energies and derivatives and differentiate a loss by the parameters, instead of predicting alone.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode(allow_non_fake_inputs=True)
    named = [*model.named_parameters(), *model.named_buffers()]
    values: dict[str, Tensor] = {name: mode.from_tensor(t.detach()) for name, t in named}
    trained = [values[name].requires_grad_() for name, p in model.named_parameters() if training and p.requires_grad]
    with mode:
        large = _times(hood, factor)
        inputs = sum(t.nbytes for t in large.tensors())

        def function(neighborhood: Neighborhood) -> Tensor:
            return torch.func.functional_call(model, values, (neighborhood,))

        with _Census() as census, torch.enable_grad():
            if training:
                _step(model, function, large, trained)
            else:
                _evaluation(model, function, large)
    return inputs + census.peak


def _evaluation(model: Model, function: Any, hood: Neighborhood) -> None:
    if model.output != "energy":
        with torch.no_grad():
            function(hood)
        return
    displacements = hood.displacements.detach().requires_grad_(True)
    atomic = function(hood._replace(displacements=displacements))
    torch.autograd.grad(atomic.sum(), displacements, materialize_grads=True)


def _step(model: Model, function: Any, hood: Neighborhood, trained: list[Tensor]) -> None:
    if model.output == "energy":
        found = energy_and_derivatives(function, hood, 1, create_graph=True)
        loss = found.energy.square().sum() + found.forces.square().sum()
        del found
    else:
        loss = function(hood).square().sum()
    torch.autograd.grad(loss, trained, allow_unused=True)


def _times(hood: Neighborhood, factor: float) -> Neighborhood:
    """Tensors without values of the sizes of so many times a neighbourhood; to be called where tensors are fake."""

    def rows(t: Tensor) -> Tensor:
        return torch.empty((round(t.shape[0] * factor), *t.shape[1:]), dtype=t.dtype)

    def pointers(t: Tensor) -> Tensor:
        return torch.empty(round((t.shape[0] - 1) * factor) + 1, dtype=t.dtype)

    def pairs(p: Pairs | None) -> Pairs | None:
        return None if p is None else Pairs(rows(p.ij), rows(p.ik), pointers(p.ptr))

    def inner(one: InnerList) -> InnerList:
        return InnerList(rows(one.edge), pointers(one.edge_ptr), pairs(one.pairs), tuple(map(inner, one.inner)))

    per_row = ("displacements", "types", "row_types", "frame", "center", "neighbor", "aparam", "offsets")
    per_frame = ("fparam", "charge_spin")
    given = {name: t for name in per_row + per_frame if (t := getattr(hood, name)) is not None}
    made = {name: rows(t) if name in per_row else torch.empty_like(t) for name, t in given.items()}
    lists = pairs(hood.pairs), tuple(map(inner, hood.inner))
    made |= {"edge_ptr": pointers(hood.edge_ptr), "plan": torch.empty(1, dtype=torch.int64)}
    return Neighborhood(**{**hood._asdict(), **made})._replace(pairs=lists[0], inner=lists[1])


class _Census(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operators make, for as long as they are there."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive: dict[int, int] = {}
        self.total = self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in found if isinstance(found, tuple | list) else (found,):
            if isinstance(value, Tensor):
                self._count(value)
        self.peak = max(self.peak, self.total)
        return found

    def _count(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            self.total += storage.nbytes()
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.total -= self.alive.pop(key, 0)
