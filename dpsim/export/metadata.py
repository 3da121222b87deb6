"""What a frozen model says about itself (format 1); one JSON text inside the package.

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
from dpsim.physics.neighbors import NeighborSpec

KEY = "dpsim"
FORMAT = 1


class FrozenMetadata(Config):
    """Header of a ``.pt2`` file."""

    format: int = FORMAT
    """Version of this header and of the order of inputs and outputs."""
    type_map: tuple[str, ...]
    """Chemical symbols by type."""
    cutoff: float
    """Å"""
    e_sel: int
    """Nearest neighbours kept for an atom that has more."""
    a_rcut: float
    """Å; 0 where there are no angles."""
    a_sel: int
    """Nearest neighbours that may form angles."""
    exclude_types: tuple[tuple[int, int], ...]
    """Pairs of types that do not see each other."""
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
    outputs: tuple[str, ...] = ("energy",)
    """Physical outputs."""
    digest: str
    """Digest of configuration and parameters of the model that was frozen."""

    @property
    def neighbors(self) -> NeighborSpec:
        """What the model needs of its neighbourhood."""
        return NeighborSpec(self.cutoff, self.e_sel, self.a_rcut, self.a_sel, self.exclude_types)


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
    if not isinstance(found, dict) or found.get("format") != FORMAT:
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
