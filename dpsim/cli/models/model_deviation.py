"""``dpsim model deviation``: how far models are from each other."""

from __future__ import annotations

from pathlib import Path

import click

from dpsim.cli.common import ModelPath, json_option, print_json, shown


@click.command("deviation")
@click.option(
    "-m", "--model", "models", multiple=True, required=True, help="A model; give two or more.", type=ModelPath()
)
@click.option("-s", "--structures", required=True, help="A file that ASE reads, or a data set.",
              type=click.Path(path_type=Path, exists=True))  # fmt: skip
@click.option("-o", "--output", default="model_devi.out", show_default=True, help="Table to write.",
              type=click.Path(path_type=Path, dir_okay=False))  # fmt: skip
@click.option("-f", "--frequency", type=click.IntRange(min=1), default=1, show_default=True,
              help="Steps between structures, for the first column.")  # fmt: skip
@click.option("--atomic", is_flag=True, help="Also the deviation of the force on each atom.")
@click.option("--relative", type=click.FloatRange(min=0), metavar="LEVEL",
              help="Divide deviations of forces by |force| + LEVEL (eV/Å).")  # fmt: skip
@click.option("--relative-v", "--relative_v", type=click.FloatRange(min=0), metavar="LEVEL",
              help="Divide deviations of virials by |virial| + LEVEL (eV).")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@json_option
def command(
    models: tuple[Path, ...],
    structures: Path,
    output: Path,
    frequency: int,
    atomic: bool,
    relative: float | None,
    relative_v: float | None,
    device: str,
    as_json: bool,
) -> None:
    """Write how far the models of an ensemble are from each other for STRUCTURES.

    The columns are those of LAMMPS (pair_style dpsim with several models), and the deviation of the energy of an atom.
    """
    from dpsim.calculators.deviation import model_deviation, write_deviations
    from dpsim.calculators.evaluate import load
    from dpsim.calculators.md.results import read_frames

    potentials = [load(model, device=device) for model in models]
    frames = list(read_frames(structures, potentials[0].type_map))
    found = model_deviation(potentials, frames, relative=relative, relative_v=relative_v)
    write_deviations(output, found, steps=[frequency * k for k in range(len(found))], atomic=atomic)
    largest = max((float(one.forces.max(initial=0.0)) for one in found), default=0.0)
    unit = "" if relative is not None else " eV/Å"
    if as_json:
        print_json({"output": str(output), "structures": len(found), "max_devi_f": largest})
    else:
        click.echo(f"wrote {shown(output)}: {len(found)} structures, largest deviation of a force {largest:.4g}{unit}")
