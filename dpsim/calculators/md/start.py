"""The structure a run starts with, from its declaration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dpsim.calculators.md.config import FramesStart, MDConfig
from dpsim.calculators.md.results import read_frames
from dpsim.data.frame import check_cell, check_finite
from dpsim.errors import ConfigError, DataError, ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

    from data_tools.structure_config import AnyStructure


def start_structure(
    start: FramesStart | AnyStructure,
    *,
    seed: int = 0,
    frames: Path | None = None,
    type_map: Sequence[str] = (),
) -> Atoms:
    """Build or read the one structure that a run starts with; see `start_structures`.

    Raises
    ------
    ConfigError
        If the declaration gives several.
    """
    built = start_structures(start, seed=seed, frames=frames, type_map=type_map)
    if len(built) != 1:
        raise ConfigError(f"start gives {len(built)} structures, this takes one: give index, sample: 1 or count: 1")
    return built[0]


def start_structures(
    start: FramesStart | AnyStructure,
    *,
    seed: int = 0,
    frames: Path | None = None,
    type_map: Sequence[str] = (),
) -> list[Atoms]:
    """Build or read the structures that runs start with.

    Parameters
    ----------
    start
        `MDConfig.start`.
    seed
        Of all that is random in building it.
    frames
        The file or data set that ``start.frames`` refers to; if None, that is taken for a path.
    type_map
        Elements of a data set that names none.

    Raises
    ------
    ConfigError
        If the declaration asks for sampling, or gives nothing.
    DataError
        If a file cannot be read or does not hold the frame, a number is not finite, or the box has no volume.
    """
    built = _build(start, seed, frames, type_map)
    for atoms in built:
        check_finite(atoms.positions, "coordinates", "the start structure")
        if atoms.pbc.all():
            check_cell(atoms.cell.array, len(atoms), "the start structure")
    return built


def _build(
    start: FramesStart | AnyStructure,
    seed: int,
    frames: Path | None,
    type_map: Sequence[str],
) -> list[Atoms]:
    if isinstance(start, FramesStart):
        return [_frame(start, frames or Path(start.frames), type_map)]
    from data_tools.structures import build_structures

    if start.sampling is not None:
        raise ConfigError("start.sampling: md starts from a structure as it is built, remove sampling")
    built = build_structures(start, seed)
    if not built:
        raise ConfigError("start gives no structure: look at path, index and sample")
    return built


def _frame(start: FramesStart, path: Path, type_map: Sequence[str]) -> Atoms:
    found = list(read_frames(path, type_map))
    try:
        atoms = found[start.index]
    except IndexError:
        raise DataError(f"start.index {start.index}: {path} holds {len(found)} frames") from None
    return atoms.repeat(start.supercell)


def check_start(config: MDConfig, atoms: Atoms) -> None:
    """Refuse a structure that no engine starts from.

    Raises
    ------
    ConfigError
        If velocities are to be kept and there are none.
    DataError
        If it has no atoms, or some are held.
    """
    from ase.constraints import FixAtoms, FixCartesian

    if not len(atoms):
        raise DataError("the start structure has no atoms")
    if config.velocities == "keep" and not atoms.has("momenta"):
        raise ConfigError("velocities: keep needs a start frame with velocities, this one has none: use create")
    for constraint in atoms.constraints:
        # ASE reads a file that marks all atoms as free as constraints that hold none.
        if not isinstance(constraint, FixAtoms | FixCartesian) or constraint.get_removed_dof(atoms):
            raise DataError(
                f"the start structure has atoms that are held ({type(constraint).__name__}), which molecular dynamics "
                "does not know: start: {path: FILE} takes a file without its constraints"
            )


def model_files(config: MDConfig, potentials: Sequence[Path]) -> list[Path]:
    """Resolve the model files of a run, of which there must be as many as the settings say.

    Raises
    ------
    ConfigError
        If several are given without `deviation`, or one with it.
    ModelError
        If one does not exist.
    """
    if not potentials:
        raise ConfigError("potential: no model is given: name one")
    if len(potentials) > 1 and config.deviation is None:
        raise ConfigError(
            f"potential: {len(potentials)} models are given, the first of which drives: say how often their deviation "
            "is written, deviation: {every: 100 steps}, or name one model"
        )
    if len(potentials) == 1 and config.deviation is not None:
        raise ConfigError("deviation is that between models, but potential names one: name two or more")
    models = [Path(potential).resolve() for potential in potentials]
    for model in models:
        if not model.is_file():
            raise ModelError(f"{model} does not exist: freeze a model first")
    return models
