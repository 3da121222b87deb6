"""``dpsim eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpsim.cli.common import ModelPath, json_option, print_json, shown
from dpsim.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

_CHUNK = 64


@click.command("eval")
@click.argument("model", type=ModelPath())
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File, *.extxyz")
@click.option("--index", default=":", show_default=True, help="Which structures, as in ASE: -1, ::10 ...")
@click.option("--head", help="Branch of a multi-task model.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@json_option
def command(model: Path, file: Path, output: Path, index: str, head: str | None, device: str, as_json: bool) -> None:
    """Write FILE (any format of ASE) with the predictions of MODEL: dpsim_energy, dpsim_forces, dpsim_stress.

    Models of something else give that alone, for example dpsim_dipole and dpsim_atomic_dipole.
    """
    from dpsim.calculators.ase_frame import frame_of
    from dpsim.calculators.evaluate import load
    from dpsim.workflow.driver.progress import ProgressLine

    potential = load(model, head=head, device=device)
    structures = _read(file, index)
    facts, values = potential.facts, []
    name = facts.property_name or facts.output
    with ProgressLine() as progress:
        for start in range(0, len(structures), _CHUNK):
            chunk = structures[start : start + _CHUNK]
            sources = [f"{file}#{start + number}" for number in range(len(chunk))]
            predictions = potential.evaluate_many(
                {**frame_of(atoms, potential), "source": source} for atoms, source in zip(chunk, sources, strict=True)
            )
            for atoms, prediction in zip(chunk, predictions, strict=True):
                atoms.calc = None  # results of other calculators
                atoms.info.update(arch="dpsim", model=model.name)
                if facts.output == "energy":
                    values.append(_store_energy(atoms, prediction))
                else:
                    values.append(_store_values(atoms, prediction, facts.output, name))
            progress(start + len(chunk), len(structures), "structures")
    _write(output, structures)
    if as_json:
        key = "energies" if name == "energy" else name
        print_json({"output": str(output), "structures": len(structures), key: values})
    else:
        click.echo(f"wrote {shown(output)}: {len(structures)} structures")


def _read(file: Path, index: str) -> list[Atoms]:
    from ase.io import read

    try:
        found: Any = read(file, index=index)
    except Exception as error:  # ASE raises whatever its parsers meet
        raise DataError(f"{file} cannot be read by ASE: {type(error).__name__}: {error}") from None
    return found if isinstance(found, list) else [found]


def _store_energy(atoms: Atoms, prediction: Any) -> float:
    """Put an energy and its derivatives on their structure; return the energy."""
    energy = float(prediction.energy)
    atoms.info["dpsim_energy"] = energy
    atoms.arrays["dpsim_forces"] = prediction.forces
    if prediction.magnetic_forces is not None:
        atoms.arrays["dpsim_magnetic_forces"] = prediction.magnetic_forces
    if atoms.pbc.all():
        stress = -(prediction.virial + prediction.virial.T) / (2 * atoms.get_volume())
        atoms.info["dpsim_stress"] = stress
    return energy


def _store_values(atoms: Atoms, prediction: Any, output: str, name: str) -> Any:
    """Put what is predicted, and the values of the atoms, on their structure; return it as plain numbers."""
    total, atomic = getattr(prediction, output), getattr(prediction, f"atomic_{output}")
    atoms.info[f"dpsim_{name}"] = total
    atoms.arrays[f"dpsim_atomic_{name}"] = atomic.reshape(len(atoms), total.size)
    return total.tolist()


def _write(output: Path, structures: list[Atoms]) -> None:
    from ase.io import write

    from dpsim.data.files import new_file

    if not output.parent.is_dir():
        raise DataError(f"{output.parent} does not exist; make the folder first")
    with new_file(output) as temporary:
        write(temporary, structures, format="extxyz")
