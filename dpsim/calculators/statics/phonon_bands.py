"""Band structures: the path through the Brillouin zone, frequencies along it, and imaginary modes."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpsim.calculators.statics.phonon_config import BandsConfig

if TYPE_CHECKING:
    from dpsim.calculators.statics.phonon_config import PhononSettings

Array = NDArray[np.float64]
GAMMA = "Γ"


class Part(NamedTuple):
    """One straight part of a path.

    Attributes
    ----------
    begin, end
        Names of its ends.
    qpoints
        (n, 3) in units of the reciprocal vectors of the primitive cell.
    distances
        (n,) along the whole path, 1/Å (without 2π).
    frequencies
        (n, modes) THz; imaginary ones negative.
    """

    begin: str
    end: str
    qpoints: Array
    distances: Array
    frequencies: Array


@dataclass(frozen=True)
class Bands:
    """Frequencies along a path, and who chose it: seekpath, ase or given."""

    parts: tuple[Part, ...]
    path: str

    @property
    def highest(self) -> float:
        """THz."""
        return float(max(part.frequencies.max() for part in self.parts))


@dataclass(frozen=True)
class Imaginary:
    """The softest mode.

    Attributes
    ----------
    tolerance
        THz.
    lowest
        Lowest frequency, THz; negative if imaginary.
    qpoint, where
        Where it is: in units of the reciprocal vectors, and in words.
    share
        Share of the modes of the mesh below minus the tolerance.
    commensurate
        Lowest frequency at the q-points that fit into the supercell, where nothing is interpolated, THz.
    commensurate_qpoint
        Where that is.
    """

    tolerance: float
    lowest: float
    qpoint: tuple[float, float, float]
    where: str
    share: float
    commensurate: float
    commensurate_qpoint: tuple[float, float, float]

    @property
    def found(self) -> bool:
        """Whether there is an imaginary mode beyond the tolerance."""
        return self.lowest < -self.tolerance

    @property
    def sentence(self) -> str:
        """What there is to say of it."""
        at = f"q = ({', '.join(f'{x:.3g}' for x in self.qpoint)}), {self.where}"
        if not self.found:
            lowest = f"the lowest frequency is {self.lowest:.3f} THz at {at}"
            return f"no imaginary modes beyond {self.tolerance:g} THz; {lowest}"
        exact = self.commensurate < -self.tolerance
        why = (
            "the structure is unstable in this model, or not relaxed"
            if exact
            else "the q-points that fit into the supercell have none: it may be interpolated, take a larger supercell"
        )
        return f"the frequency at {at} is imaginary, {-self.lowest:.3f}i THz: {why}"


def band_structure(phonon: Any, settings: PhononSettings) -> Bands:
    """Compute the frequencies along the path of the settings."""
    segments, chosen = _segments(phonon, settings)
    paths = [np.linspace(begin, end, settings.band_points) for (_, begin), (_, end) in segments]
    ends = [(a[0], b[0]) for a, b in segments]
    connected = [one[1] == other[0] for one, other in pairwise(ends)] + [False]
    phonon.run_band_structure(paths, path_connections=connected)
    found = phonon.band_structure
    parts = tuple(
        Part(begin, end, np.array(q), np.array(x), np.array(f))
        for (begin, end), q, x, f in zip(ends, found.qpoints, found.distances, found.frequencies, strict=True)
    )
    return Bands(parts, chosen)


Named = tuple[str, Array]


def _segments(phonon: Any, settings: PhononSettings) -> tuple[list[tuple[Named, Named]], str]:
    if isinstance(settings.bands, BandsConfig):
        points = {name: np.array(point) for name, point in settings.bands.points.items()}
        return _pairs(settings.bands.path, points), "given"
    if importlib.util.find_spec("seekpath") is not None:
        return _of_seekpath(phonon)
    return _of_ase(phonon)


def _of_seekpath(phonon: Any) -> tuple[list[tuple[Named, Named]], str]:
    import seekpath

    # The path is that of the cell as it is: seekpath would turn to a cell of its own if this one were not primitive.
    found = seekpath.get_path_orig_cell(phonon.primitive.totuple())
    points = {_label(name): np.array(point) for name, point in found["point_coords"].items()}
    return _pairs([[_label(a), _label(b)] for a, b in found["path"]], points), "seekpath"


def _of_ase(phonon: Any) -> tuple[list[tuple[Named, Named]], str]:
    from ase.cell import Cell
    from ase.dft.kpoints import parse_path_string

    path = Cell(phonon.primitive.cell).bandpath(npoints=0)
    points = {_label(name): np.array(point) for name, point in path.special_points.items()}
    return _pairs([[_label(name) for name in part] for part in parse_path_string(path.path)], points), "ase"


def _pairs(path: list[list[str]], points: dict[str, Array]) -> list[tuple[Named, Named]]:
    return [((begin, points[begin]), (end, points[end])) for part in path for begin, end in pairwise(part)]


def _label(name: str) -> str:
    return GAMMA if name in ("G", "GAMMA", "Gamma") else name


def imaginary_modes(phonon: Any, bands: Bands, tolerance: float) -> Imaginary:
    """Look for the softest mode on the mesh, along the bands, and at the q-points that fit into the supercell."""
    mesh = phonon.mesh
    weights = mesh.weights / mesh.weights.sum()
    share = float(weights @ (mesh.frequencies < -tolerance).mean(axis=1))
    candidates = [(*_lowest(mesh.qpoints, mesh.frequencies), "on the mesh")]
    for part in bands.parts:
        candidates.append((*_lowest(part.qpoints, part.frequencies), f"between {part.begin} and {part.end}"))
    qpoints = _commensurate(phonon)
    exact, exact_q = _lowest(qpoints, np.array(phonon.run_qpoints(qpoints).frequencies))
    candidates.append((exact, exact_q, "which fits into the supercell"))
    lowest, qpoint, where = min(candidates, key=lambda one: one[0])
    return Imaginary(tolerance, lowest, qpoint, where, share, exact, exact_q)


def _commensurate(phonon: Any) -> Array:
    from phonopy.harmonic.dynmat_to_fc import get_commensurate_points

    primitive = np.eye(3) if phonon.primitive_matrix is None else np.array(phonon.primitive_matrix)
    matrix = np.linalg.inv(primitive) @ phonon.supercell_matrix
    return np.array(get_commensurate_points(np.rint(matrix).astype(int)))


def _lowest(qpoints: Array, frequencies: Array) -> tuple[float, tuple[float, float, float]]:
    row = int(frequencies.min(axis=1).argmin())
    x, y, z = (float(value) for value in qpoints[row])
    return float(frequencies[row].min()), (x, y, z)
