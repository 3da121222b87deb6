"""Relaxation of many structures: one by one, resumed after a kill, with a table of what became of each."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsim.calculators.md.results import write_frames
from dpsim.calculators.statics.relax import Relaxed, check_cell_moves, excess_stress, relax
from dpsim.calculators.statics.relax_config import RelaxConfig
from dpsim.calculators.statics.relax_kept import keep_relaxed, recall_relaxed
from dpsim.calculators.statics.source import Progress, as_source, name_of
from dpsim.data.files import write_json, write_text
from dpsim.errors import ConfigError, StageError

if TYPE_CHECKING:
    from ase import Atoms

OnStep = Callable[[int, float], None]
HEADER = (
    "structure", "formula", "atoms", "converged", "steps", "energy_before_eV", "energy_after_eV", "fmax_before_eV_A",
    "fmax_after_eV_A", "volume_before_A3", "volume_after_A3", "stress_max_bar", "a_A", "b_A", "c_A", "alpha_deg",
    "beta_deg", "gamma_deg", "reason",
)  # fmt: skip


def run_relax(
    config: RelaxConfig,
    structures: Sequence[Atoms],
    source: Any,
    out: Path,
    *,
    work: Path | None = None,
    model: Path | None = None,
    ranks: int = 1,
    progress: Progress | None = None,
) -> list[Relaxed]:
    """Relax structures one by one, and write ``relaxed.extxyz``, ``table.csv`` and ``summary.json``.

    Parameters
    ----------
    config
        Its `on` has been resolved to `structures`.
    source
        A `Potential`, a calculator of ASE, or what gives calculators.
    out
        Folder for the outputs.
    work
        Folder kept between attempts: structures that are done are not relaxed again, those that failed are.
    model, ranks
        The frozen model and the number of MPI ranks, for ``engine: lammps``.
    progress
        Called as ``progress(done, total, message)``.

    Returns
    -------
    list of Relaxed
        Also those that did not converge.

    Raises
    ------
    DpsimError
        If a structure is refused, before any is relaxed.
    StageError
        If more structures than `RelaxConfig.tolerate_failures` allows did not converge, once all were tried.
    """
    make = as_source(source)
    for atoms in structures:
        check_cell_moves(atoms, config)
        make(atoms)
    one: Callable[..., Relaxed] = partial(relax, source=make, settings=config)
    if config.engine == "lammps":
        one = _lammps(config, make, model, ranks, work or out)
    found = []
    for number, atoms in enumerate(structures):
        kept = work / f"relaxed-{number:05d}" if work is not None else None
        result = recall_relaxed(kept) if kept is not None else None
        if result is None:
            result = _relaxed(one, atoms, _reporter(progress, number, len(structures), atoms))
            if kept is not None and not result.broken:
                keep_relaxed(kept, result)
        found.append(result)
    if progress is not None:
        progress(len(found), len(found), "structures relaxed")
    write_relaxed(found, config, out)
    _judge(found, config)
    return found


def _lammps(config: RelaxConfig, make: Any, model: Path | None, ranks: int, folder: Path) -> Callable[..., Relaxed]:
    from dpsim.calculators.statics.relax_lammps import relax_lammps

    if model is None or model.suffix != ".pt2":
        raise ConfigError("engine: lammps runs a frozen model: give a .pt2 file as potential, or use engine: ase")
    return partial(relax_lammps, source=make, settings=config, model=model, ranks=ranks, folder=folder / "lammps")


def _reporter(progress: Progress | None, number: int, total: int, atoms: Atoms) -> OnStep | None:
    if progress is None:
        return None
    return lambda step, fmax: progress(number, total, f"{name_of(atoms)}, step {step}, longest force {fmax:.3g} eV/Å")


def _relaxed(one: Callable[..., Relaxed], atoms: Atoms, on_step: OnStep | None) -> Relaxed:
    try:
        return one(atoms, on_step=on_step)
    except StageError as error:
        return Relaxed(atoms.copy(), None, None, False, 0, str(error), broken=True)


def _judge(found: Sequence[Relaxed], config: RelaxConfig) -> None:
    failed = [one for one in found if not one.converged]
    if len(failed) <= config.tolerate_failures * len(found):
        return
    named = "; ".join(f"{name_of(one.atoms)}: {one.reason}" for one in failed[:3])
    more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
    raise StageError(
        f"{len(failed)} of {len(found)} structures are not relaxed ({named}{more}): raise max_steps or fmax, "
        f"or let them pass with tolerate_failures: {math.ceil(100 * len(failed) / len(found))} %"
    )


# ---- outputs -------------------------------------------------------------------------------------


def write_relaxed(found: Sequence[Relaxed], config: RelaxConfig, out: Path) -> None:
    """Write the structures and what became of them."""
    out.mkdir(parents=True, exist_ok=True)
    write_frames(out / "relaxed.extxyz", [_labelled(one) for one in found])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADER)
    writer.writerows(_row(one, config) for one in found)
    write_text(out / "table.csv", text.getvalue())
    converged = sum(one.converged for one in found)
    longest = max((one.after.fmax for one in found if one.converged and one.after is not None), default=None)
    summary = {
        "structures": len(found), "converged": converged, "failed": len(found) - converged,
        "steps": sum(one.steps for one in found), "fmax_eV_A": longest, "cell": config.cell, "engine": config.engine,
    }  # fmt: skip
    write_json(out / "summary.json", summary)


def _labelled(one: Relaxed) -> Atoms:
    atoms = one.atoms.copy()
    atoms.info = {key: value for key, value in atoms.info.items() if key in ("name", "source", "config_type")}
    atoms.info["converged"] = one.converged
    if one.after is not None:
        atoms.info["dpsim_energy"] = one.after.energy
    return atoms


def _row(one: Relaxed, config: RelaxConfig) -> list[str]:
    atoms, before, after = one.atoms, one.before, one.after
    periodic = atoms.cell.rank == 3 and bool(atoms.pbc.all())
    stress = (
        excess_stress(after, config.model_copy(update={"cell": "full"}))
        if periodic and after and after.stress is not None
        else None
    )
    cell = [f"{value:.6f}" for value in atoms.cell.cellpar()] if periodic else [""] * 6
    energies = [None if state is None else state.energy for state in (before, after)]
    forces = [None if state is None else state.fmax for state in (before, after)]
    volumes = [None if state is None else state.volume for state in (before, after)]
    numbers = [_text(value) for value in (*energies, *forces, *volumes, stress)]
    converged = "yes" if one.converged else "no"
    head = [name_of(atoms), atoms.get_chemical_formula(), str(len(atoms)), converged, str(one.steps)]
    return [*head, *numbers, *cell, one.reason]


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}"
