"""What a frozen model says about itself (format 2); one JSON text inside the package.

The C++ side reads the same text, so names and meanings are fixed by the format number.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dpsim.config import Config
from dpsim.errors import ModelError
from dpsim.physics.neighbors import ModelInputs, NeighborSpec

KEY = "dpsim"
FORMAT = 2
LONG_RANGE_FORMAT = 3
"""Of models with electrostatics: what reads format 2 alone must not take them for what their first graph is."""
GRAPHS = ("model",)
LONG_RANGE_GRAPHS = (*GRAPHS, "dipole", "dipole_gradient")
"""Graphs of a package; the inputs of all are those of the first, the last takes a vector for each atom beside."""


class ListMetadata(Config):
    """A `NeighborSpec`."""

    cutoff: float
    """Å"""
    sel: int
    """Nearest neighbours kept for an atom that has more."""
    sel_by_type: tuple[int, ...] = ()
    """Nearest neighbours kept of each type; empty: no such limit."""
    exclude_types: tuple[tuple[int, int], ...] = ()
    """Pairs of types that do not see each other."""
    pairs: bool = False
    """Whether the pairs of the edges of a centre are listed."""
    strict: bool = False
    """Whether an edge as long as the cutoff is left out."""
    only: tuple[tuple[int, int], ...] = ()
    """Types (centre, neighbour) of the edges that are listed; empty: all."""
    inner: tuple[ListMetadata, ...] = ()
    """Lists within."""

    @classmethod
    def of(cls, spec: NeighborSpec) -> ListMetadata:
        """The same as a part of the header."""
        return cls(**spec._replace(inner=())._asdict() | {"inner": tuple(map(cls.of, spec.inner))})

    @property
    def spec(self) -> NeighborSpec:
        """The same as the rest of dpsim knows it."""
        own = {name: getattr(self, name) for name in NeighborSpec._fields[:-1]}
        return NeighborSpec(**own, inner=tuple(one.spec for one in self.inner))


class SpinMetadata(Config):
    """How a magnetic model sees its structure: each atom has a virtual one at ``r + virtual_scale · spin``."""

    virtual_scale: tuple[float, ...]
    """Å/μB, by type; 0 where a type is not magnetic."""


class ElectrostaticsMetadata(Config):
    """Charges of a model with electrostatics; see `dpsim.physics.centroids`."""

    ion_charge: tuple[float, ...]
    """e, by type"""
    centroid_charge: tuple[float, ...]
    """e, by type; 0 where atoms have none"""
    ewald_h: float
    """Å"""
    ewald_beta: float
    """1/Å"""


class FrozenMetadata(Config):
    """Header of a ``.pt2`` file."""

    format: int = FORMAT
    """Version of this header and of the order of inputs and outputs; `LONG_RANGE_FORMAT` with electrostatics."""
    type_map: tuple[str, ...]
    """Chemical symbols by type."""
    neighbors: ListMetadata
    """Lists of edges that are its inputs."""
    dtype: str
    """Floating-point type of the networks."""
    message_passing_layers: int
    """Halo exchanges of one evaluation; 0: none."""
    device: str
    """``cpu`` or ``cuda``."""
    torch: str
    """Version of torch that compiled the file, and must run it."""
    dpsim: str
    """Version of dpsim that wrote the file."""
    output: str = "energy"
    """What is predicted; with ``energy`` the edge gradient is a second result."""
    output_shape: tuple[int, ...] = ()
    """Shape of the value of one atom."""
    intensive: bool = False
    """Whether the value of a structure is the mean of its atoms instead of the sum."""
    property_name: str = ""
    """Name of a predicted ``property``."""
    atom_exclude_types: tuple[int, ...] = ()
    """Types whose atoms have no output and do not count in a mean."""
    n_fparam: int = 0
    """Parameters of a frame that it takes."""
    n_aparam: int = 0
    """Parameters of an atom that it takes."""
    default_fparam: tuple[float, ...] | None = None
    """Used where no frame parameters are given."""
    charge_spin: bool = False
    """Whether it takes total charge and spin multiplicity."""
    default_charge_spin: tuple[float, float] | None = None
    """Used where none are given."""
    spin: SpinMetadata | None = None
    """For magnetic models."""
    electrostatics: ElectrostaticsMetadata | None = None
    """For models with electrostatics, which have further graphs."""
    digest: str
    """Digest of configuration and parameters of the model that was frozen."""

    @property
    def graphs(self) -> tuple[str, ...]:
        """Names of the graphs in the package."""
        return GRAPHS if self.electrostatics is None else LONG_RANGE_GRAPHS

    @property
    def inputs(self) -> ModelInputs:
        """What the model takes beside the structure."""
        return ModelInputs(**{name: getattr(self, name) for name in ModelInputs._fields})


def read_metadata(path: str | Path) -> FrozenMetadata:
    """Header of a frozen model, read without loading it.

    Raises
    ------
    ModelError
        If the file is missing, damaged, not written by dpsim, or of another format.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("metadata.json")]
            header: Any = next(h for h in (json.loads(archive.read(name)) for name in names) if KEY in h)
            found = json.loads(header[KEY])
    except (zipfile.BadZipFile, StopIteration, ValueError, KeyError, TypeError, OSError):
        raise ModelError(
            f"{path} is not a model frozen by dpsim, or is truncated: make it with 'dpsim freeze'"
        ) from None
    if not isinstance(found, dict) or found.get("format") not in (FORMAT, LONG_RANGE_FORMAT):
        version = found.get("format") if isinstance(found, dict) else None
        raise ModelError(
            f"{path}: frozen format {version!r} is not known to this dpsim (format {FORMAT}): freeze the model again"
        )
    try:
        return FrozenMetadata.model_validate(found)
    except ValidationError as error:
        raise ModelError(
            f"{path}: the header of the frozen model is damaged ({error.error_count()} wrong entries)"
        ) from None
