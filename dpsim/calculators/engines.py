"""Two ways to run a model on a neighbourhood: its PyTorch modules, or a frozen package."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from dpsim import ops
from dpsim.errors import ModelError, SetupError
from dpsim.export.metadata import FrozenMetadata, read_metadata
from dpsim.model.base import Model
from dpsim.model.compose.dplr import DPLRModel
from dpsim.model.compose.spin import SpinModel
from dpsim.model.potential import PotentialModel
from dpsim.native.identity import isa_level
from dpsim.physics.centroids import LongRange, SmearedCharges, electrostatics
from dpsim.physics.neighborhood import Neighborhood
from dpsim.physics.neighbors import ModelInputs, NeighborSpec
from dpsim.physics.pieces import CPU_ITEMS, GPU_ITEMS, divided
from dpsim.physics.spin import real_rows
from dpsim.train.records.state import read_model


class ModelFacts(NamedTuple):
    """What whoever evaluates a model must know of it."""

    type_map: tuple[str, ...]
    neighbors: NeighborSpec
    dtype: str
    inputs: ModelInputs
    output: str
    output_shape: tuple[int, ...]
    intensive: bool
    property_name: str
    atom_exclude_types: tuple[int, ...]
    spin: tuple[float, ...] | None
    """Of spin models: see `Model.spin`."""
    shortest: float = 0.0
    """Å; closer pairs of atoms are refused. Of frozen models, which do not say, 0."""
    long_range: bool = False
    """Whether there is an electrostatic energy of the whole cell as well."""
    passes_messages: bool = True
    """Whether what an atom knows of its neighbours is more than their types and places."""

    @classmethod
    def of_model(cls, model: Model) -> ModelFacts:
        """Facts of PyTorch modules."""
        return cls(
            model.type_map, model.neighbors, model.precision, model.inputs, model.output, model.output_shape,
            model.intensive, model.property_name, model.atom_exclude_types, model.spin, model.shortest,
            model.long_range, model.message_passing_layers > 0,
        )  # fmt: skip

    @classmethod
    def of_frozen(cls, metadata: FrozenMetadata) -> ModelFacts:
        """Facts of a frozen package."""
        spin = None if metadata.spin is None else metadata.spin.virtual_scale
        return cls(
            metadata.type_map, metadata.neighbors.spec, metadata.dtype, metadata.inputs, metadata.output,
            metadata.output_shape, metadata.intensive, metadata.property_name, metadata.atom_exclude_types, spin,
            long_range=metadata.electrostatics is not None, passes_messages=metadata.message_passing_layers > 0,
        )  # fmt: skip


class Engine(Protocol):
    """Evaluates atomic outputs and, for energies, the gradient with respect to the edge vectors."""

    facts: ModelFacts
    device: str

    def run(self, neighborhood: Neighborhood) -> tuple[Tensor, Tensor | None]:
        """Atomic outputs ``(N, *shape)`` and edge gradient ``(E, 3)`` eV/Å of energies, float64 on the CPU."""
        ...

    def electrostatics(self, neighborhood: Neighborhood, positions: Tensor, cells: Tensor) -> LongRange:
        """Electrostatic part of periodic frames, on the device; see `DPLRModel.electrostatics`."""
        ...


class ModuleEngine:
    """A model as PyTorch modules."""

    def __init__(self, model: Model, device: str) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.facts, self.device = ModelFacts.of_model(model), device

    def run(self, neighborhood: Neighborhood) -> tuple[Tensor, Tensor | None]:
        """See `Engine.run`."""
        hood = neighborhood.to(self.device)
        if self.facts.output != "energy":
            with torch.no_grad():
                values: Tensor = self.model(hood)
            return values.cpu(), None
        displacements = hood.displacements.detach().requires_grad_(True)
        with torch.enable_grad():
            atomic = self.model(hood._replace(displacements=displacements))
            # with lists within, not every edge need reach the energy
            (gradient,) = torch.autograd.grad(atomic.sum(), displacements, materialize_grads=True)
        return atomic.detach().cpu(), gradient.cpu()

    def electrostatics(self, neighborhood: Neighborhood, positions: Tensor, cells: Tensor) -> LongRange:
        """See `Engine.electrostatics`; of models that have one."""
        assert isinstance(self.model, DPLRModel)
        return self.model.electrostatics(neighborhood.to(self.device), positions.to(self.device), cells.to(self.device))

    def component_gradients(self, neighborhood: Neighborhood) -> tuple[Tensor, Tensor]:
        """Atomic outputs ``(N, k)`` and, of the sum of each component, the edge gradient ``(k, E, 3)``; on the CPU."""
        hood = neighborhood.to(self.device)
        displacements = hood.displacements.detach().requires_grad_(True)
        with torch.enable_grad():
            atomic = self.model(hood._replace(displacements=displacements)).flatten(1)
            gradients = [
                torch.autograd.grad(total, displacements, retain_graph=True, materialize_grads=True)[0]
                for total in atomic.sum(0)
            ]
        return atomic.detach().cpu(), torch.stack(gradients).cpu()

    def descriptor(self, neighborhood: Neighborhood) -> Tensor:
        """Descriptors ``(N, D)`` of the atoms (no virtual ones), float64 on the CPU.

        Raises
        ------
        ModelError
            If the model is made of several, each with its own.
        """
        model = self.model.backbone if isinstance(self.model, SpinModel) else self.model
        if not isinstance(model, PotentialModel):
            raise ModelError(f"a {self.model.config.type} model has no descriptor of its own: ask one of its parts")
        with torch.no_grad():
            features: Tensor = model.descriptor(neighborhood.to(self.device)).features
        atoms, _ = real_rows(neighborhood, len(self.facts.type_map))
        return features.to("cpu", torch.float64)[atoms]


class FrozenEngine:
    """A ``.pt2`` package."""

    def __init__(self, path: Path) -> None:
        metadata = read_metadata(path)
        if metadata.torch.split("+")[0] != torch.__version__.split("+")[0]:
            raise ModelError(
                f"{path} was frozen with torch {metadata.torch}, this is {torch.__version__}: "
                "freeze the model again with the torch that is to run it"
            )
        if metadata.device == "cuda" and not torch.cuda.is_available():
            raise SetupError(f"{path} was frozen for a GPU and torch sees none here: freeze it with --device cpu")
        if not ops.load():
            raise SetupError(f"{path} needs dpsim's operators: {ops.unavailable_reason()}")
        self.facts, self.device = ModelFacts.of_frozen(metadata), metadata.device
        self._charges = metadata.electrostatics
        try:
            self._graphs = {name: _load_graph(path, name) for name in metadata.graphs}
        except RuntimeError as error:
            raise ModelError(f"{path}: the frozen model cannot be loaded ({str(error).splitlines()[0]})") from None

    def run(self, neighborhood: Neighborhood) -> tuple[Tensor, Tensor | None]:
        """See `Engine.run`."""
        results = self._graphs["model"](*neighborhood.to(self.device).tensors())
        if self.facts.output == "energy":
            return results[0].cpu(), results[1].cpu()
        return results[0].cpu().reshape(-1, *self.facts.output_shape), None

    def electrostatics(self, neighborhood: Neighborhood, positions: Tensor, cells: Tensor) -> LongRange:
        """See `Engine.electrostatics`; of models that have one."""
        hood, charges = neighborhood.to(self.device), self._charges
        assert charges is not None
        inputs = hood.tensors()

        def pull(forces: Tensor) -> Tensor:
            slope: Tensor = self._graphs["dipole_gradient"](*inputs, forces)[0]
            return slope

        ion, centroid = (
            torch.tensor(by_type, dtype=torch.float64, device=self.device)
            for by_type in (charges.ion_charge, charges.centroid_charge)
        )
        smeared = SmearedCharges(ion, centroid, charges.ewald_h, charges.ewald_beta)
        (dipoles,) = self._graphs["dipole"](*inputs)
        return electrostatics(hood, positions.to(self.device), cells.to(self.device), smeared, dipoles, pull)


def run_in_pieces(engine: Engine, neighborhood: Neighborhood, chunk: int | None = None) -> tuple[Tensor, Tensor | None]:
    """As `Engine.run`, for one piece of the atoms after the other where the model allows it.

    Parameters
    ----------
    neighborhood
        Without pairs (`dpsim.physics.neighborhood.join`).
    chunk
        Atoms of a piece; by default as many as keep the device busy. 0: all at once.
    """
    facts = engine.facts
    atoms = 0 if facts.passes_messages or facts.long_range else chunk
    most = CPU_ITEMS if engine.device == "cpu" else GPU_ITEMS
    found = [engine.run(piece) for piece in divided(neighborhood, facts.neighbors, atoms=atoms, most=most)]
    if len(found) == 1:
        return found[0]
    gradients = [gradient for _, gradient in found if gradient is not None]
    return torch.cat([atomic for atomic, _ in found]), torch.cat(gradients) if gradients else None


def check_chunk(facts: ModelFacts, chunk: int | None, name: str) -> None:
    """Refuse a number of atoms to be evaluated at a time that has no meaning.

    Raises
    ------
    ModelError
        If it is no whole number from 0 on, or the atoms cannot be evaluated apart.
    """
    if chunk is None:
        return
    if not isinstance(chunk, int) or chunk < 0:
        raise ModelError(f"chunk={chunk!r} is no number of atoms: give a whole one, 0 for all atoms at once, or None")
    if chunk and (facts.passes_messages or facts.long_range):
        why = "have electrostatics" if facts.long_range else "pass messages to each other"
        raise ModelError(f"{name} cannot evaluate {chunk} atoms at a time, as its atoms {why}: leave out chunk")


_LEVELS = ("default", "avx2", "avx512")


def _load_graph(path: Path, name: str) -> Any:
    """Load a graph of a package, if this processor has the instructions it was compiled for.

    torch warns whenever the two differ; here a processor that can do more than is needed is no cause for a warning,
    and one that can do less is an error instead of a crash.
    """
    from torch._inductor.package.package import load_package

    loader: Any = torch._C._aoti.AOTIModelPackageLoader
    made_for = loader.load_metadata_from_package(str(path), name)
    words = {word.lower() for word in made_for.get("AOTI_CPU_ISA", "").split()}
    needed = max((_LEVELS.index(word) for word in words & set(_LEVELS)), default=0)
    if needed > _LEVELS.index(isa_level()):
        raise SetupError(
            f"{path} was frozen for processors with {_LEVELS[needed].upper()}, which this one lacks: "
            "freeze the model on this machine"
        )
    logger = logging.getLogger("torch.export.pt2_archive._package")
    logger.addFilter(_is_news)
    try:
        return load_package(str(path), name)
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "AOTI_CPU_ISA" not in record.getMessage()


def resolve_device(device: str) -> str:
    """``"cpu"`` or ``"cuda"`` from ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises
    ------
    SetupError
        If a GPU was asked for and there is none, or the name is unknown.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise SetupError(f"device {device!r} is unknown: use auto, cpu or cuda")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SetupError(f"device {device!r} was asked for, but torch sees no GPU here: use cpu")
    return device


def open_engine(path: Path, device: str, dtype: str | None, head: str | None = None) -> Engine:
    """Engine for a model file.

    Raises
    ------
    ModelError
        If the file cannot be read, is asked for a head that it does not have, or is frozen in another
        floating-point type.
    """
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file")
    if dtype not in (None, "float32", "float64"):
        raise ModelError(f"dtype {dtype!r} is unknown: use float32, float64 or leave it out for the model's own")
    if path.suffix == ".pt2":
        if head is not None:
            raise ModelError(f"{path} has a single head: leave out head={head!r}")
        engine = FrozenEngine(path)
        if dtype not in (None, engine.facts.dtype):
            raise ModelError(
                f"{path} is frozen in {engine.facts.dtype}: freeze it with --dtype {dtype} to run it in {dtype}"
            )
        if device not in ("auto", engine.device):
            raise ModelError(f"{path} is frozen for {engine.device}: freeze it with --device {device} to run it there")
        return engine
    model = read_model(path, head)
    return ModuleEngine(model if dtype is None else model.with_precision(dtype), resolve_device(device))
