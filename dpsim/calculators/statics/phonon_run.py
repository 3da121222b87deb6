"""Phonons of one structure, with files for what was found, and the comparison with other bands."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpsim.calculators.statics.phonon_bands import Bands, Part
from dpsim.calculators.statics.phonon_config import PhononConfig
from dpsim.calculators.statics.phonons import Phonons, phonons
from dpsim.calculators.statics.source import Progress, name_of
from dpsim.data.files import new_file, write_json, write_text
from dpsim.errors import DataError, StageError

if TYPE_CHECKING:
    from ase import Atoms

Array = NDArray[np.float64]
_LOG = logging.getLogger(__name__)
_SAME = 1e-3
"""Largest difference of coordinates of q-points that count as the same."""


class BandDifference(NamedTuple):
    """How far bands are from others along the same path, THz."""

    rms: float
    largest: float
    at: tuple[float, float, float]
    """q-point of the largest difference."""
    highest: float
    """Highest frequency of the reference."""


def run_phonons(
    config: PhononConfig,
    atoms: Atoms,
    source: Any,
    out: Path,
    *,
    work: Path | None = None,
    nac: Path | None = None,
    reference: Path | None = None,
    progress: Progress | None = None,
) -> Phonons:
    """Compute phonons and write ``phonopy_params.yaml``, ``bands.csv``, ``dos.csv``, ``thermal.csv`` and summaries.

    Parameters
    ----------
    config
        Its `on`, `nac` and `reference` have been resolved.
    atoms, source, nac, progress
        As in `phonons`.
    out
        Folder for the outputs.
    work
        Folder kept between attempts.
    reference
        ``bands.csv`` of another calculation along the same path.

    Raises
    ------
    DpsimError
        As `phonons`.
    DataError
        If the reference is along another path.
    StageError
        If there are imaginary modes and the settings say that this is a failure, or the reference is too far.
    """
    others = read_bands(reference) if reference is not None else None
    found = phonons(atoms, source, config, nac=nac, kept=work, progress=progress)
    difference = compare_bands(found.bands, others, str(reference)) if others is not None else None
    write_phonons(found, out, difference, others)
    if found.imaginary.found:
        _LOG.warning("%s: %s", name_of(atoms), found.imaginary.sentence)
        if config.imaginary.fail:
            raise StageError(f"{name_of(atoms)}: {found.imaginary.sentence} (imaginary.fail is set)")
    if difference is not None and config.max_difference is not None and difference.rms > config.max_difference:
        raise StageError(
            f"{name_of(atoms)}: bands differ from the reference by {difference.rms:.3g} THz (root mean square), "
            f"which passes max_difference ({config.max_difference:g} THz); most at q = {difference.at}"
        )
    return found


def compare_bands(bands: Bands, others: Sequence[Part], where: str) -> BandDifference:
    """Compare bands with those of the same path and number of modes.

    Raises
    ------
    DataError
        If the path is another one.
    """
    names = [(part.begin, part.end, part.frequencies.shape) for part in bands.parts]
    if names != [(part.begin, part.end, part.frequencies.shape) for part in others] or not all(
        np.allclose(a.qpoints, b.qpoints, atol=_SAME) for a, b in zip(bands.parts, others, strict=True)
    ):
        raise DataError(
            f"{where} holds bands along another path, or of another number of modes: compute the reference of the same "
            "structure with the same bands and band_points"
        )
    ours, theirs = (np.concatenate([part.frequencies for part in parts]) for parts in (bands.parts, others))
    qpoints = np.concatenate([part.qpoints for part in bands.parts])
    apart = np.abs(ours - theirs)
    worst = int(apart.max(axis=1).argmax())
    x, y, z = (round(float(value), 4) for value in qpoints[worst])
    return BandDifference(float(np.sqrt((apart**2).mean())), float(apart.max()), (x, y, z), float(theirs.max()))


def write_phonons(
    found: Phonons, out: Path, difference: BandDifference | None = None, others: Sequence[Part] | None = None
) -> None:
    """Write what was found as files; see `run_phonons`."""
    out.mkdir(parents=True, exist_ok=True)
    with new_file(out / "phonopy_params.yaml") as temporary:
        found.phonon.save(temporary, settings={"force_sets": True, "displacements": True})
    write_bands(out / "bands.csv", found.bands.parts)
    if others is not None:
        write_bands(out / "bands_reference.csv", others)
    dos = found.dos
    header = ["frequency_THz", "total", *dos.elements]
    _write(out / "dos.csv", header, zip(dos.frequencies, dos.total, *dos.elements.values(), strict=True))
    thermal = found.thermal
    header = ["temperature_K", "free_energy_kJ_mol", "entropy_J_K_mol", "heat_capacity_J_K_mol"]
    columns = (
        ()
        if thermal is None
        else zip(thermal.temperatures, thermal.free_energy, thermal.entropy, thermal.heat_capacity, strict=True)
    )
    _write(out / "thermal.csv", header, columns)
    write_json(out / "imaginary.json", imaginary_facts(found))
    write_json(out / "summary.json", summary(found, difference))


def imaginary_facts(found: Phonons) -> dict[str, Any]:
    """What ``imaginary.json`` holds."""
    one = found.imaginary
    return {
        "found": one.found, "tolerance_THz": one.tolerance, "lowest_THz": one.lowest, "qpoint": list(one.qpoint),
        "where": one.where, "share_of_modes": one.share, "commensurate_lowest_THz": one.commensurate,
        "commensurate_qpoint": list(one.commensurate_qpoint), "message": one.sentence,
    }  # fmt: skip


def summary(found: Phonons, difference: BandDifference | None = None) -> dict[str, Any]:
    """Key figures, ready for JSON."""
    phonon, atoms = found.phonon, found.atoms
    facts: dict[str, Any] = {
        "structure": name_of(atoms), "formula": atoms.get_chemical_formula(), "primitive_atoms": len(phonon.primitive),
        "supercell_atoms": len(phonon.supercell), "displacements": found.displacements,
        "space_group": str(phonon.symmetry.dataset.international) if phonon.symmetry.dataset else None,
        "path": found.bands.path, "highest_THz": found.highest, "lowest_THz": found.imaginary.lowest,
        "imaginary": found.imaginary.found, "message": found.imaginary.sentence,
        "zero_point_eV_atom": found.zero_point, "drift_eV_A": found.drift, "gamma_THz": found.gamma.tolist(),
        "points_THz": points_of(found.bands),
    }  # fmt: skip
    if found.relaxed is not None and found.relaxed.after is not None:
        facts["relaxed"] = {
            "steps": found.relaxed.steps, "fmax_eV_A": found.relaxed.after.fmax,
            "cell": [float(value) for value in atoms.cell.cellpar()],
        }  # fmt: skip
    if difference is not None:
        facts["reference"] = {
            "rms_THz": difference.rms, "largest_THz": difference.largest, "at": list(difference.at),
            "highest_THz": difference.highest,
        }  # fmt: skip
    return facts


def points_of(bands: Bands) -> dict[str, list[float]]:
    """Frequencies at the named points of the path, each once."""
    found: dict[str, list[float]] = {}
    for part in bands.parts:
        found.setdefault(part.begin, part.frequencies[0].tolist())
        found.setdefault(part.end, part.frequencies[-1].tolist())
    return found


# ---- files of bands ------------------------------------------------------------------------------

_HEAD = ("part", "begin", "end", "distance_1_A", "qx", "qy", "qz")


def write_bands(path: Path, parts: Sequence[Part]) -> None:
    """Write one row for each q-point: part, names of its ends, distance, q-point, frequencies in THz."""
    modes = parts[0].frequencies.shape[1]
    rows = (
        (number, part.begin, part.end, x, *q, *f)
        for number, part in enumerate(parts)
        for x, q, f in zip(part.distances, part.qpoints, part.frequencies, strict=True)
    )
    _write(path, [*_HEAD, *(f"mode_{mode}_THz" for mode in range(1, modes + 1))], rows)


def read_bands(path: Path) -> tuple[Part, ...]:
    """Read what `write_bands` wrote.

    Raises
    ------
    DataError
        If it is no such file.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = list(csv.reader(file))
        if tuple(header[: len(_HEAD)]) != _HEAD or not rows:
            raise ValueError(f"its first line is {','.join(header)[:60]!r}")
        parts = []
        for number in dict.fromkeys(row[0] for row in rows):
            own = [row for row in rows if row[0] == number]
            values = np.array([[float(value) for value in row[3:]] for row in own])
            parts.append(Part(own[0][1], own[0][2], values[:, 1:4], values[:, 0], values[:, 4:]))
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path} is no table of bands (bands.csv of a phonon stage): {error}") from None
    return tuple(parts)


def _write(path: Path, header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([f"{value:.8g}" if isinstance(value, float) else value for value in row] for row in rows)
    write_text(path, text.getvalue())
