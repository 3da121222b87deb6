"""``dpsim md``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dpsim.cli.common import ModelPath, run_dir_option
from dpsim.cli.one_stage import run_one_stage, slug


@click.command("md")
@click.argument("models", metavar="MODEL...", nargs=-1, required=True, type=ModelPath())
@click.argument("start", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--ensemble", type=click.Choice(["nve", "nvt", "npt"]), default="nvt", show_default=True)
@click.option("--temperature", default="300 K", show_default=True)
@click.option("--pressure", help="For npt  [default: 1 bar]")
@click.option("--timestep", default="0.5 fs", show_default=True)
@click.option("--time", default="10 ps", show_default=True, help="Length of the run.")
@click.option("--supercell", nargs=3, type=click.IntRange(min=1), help="Repeat the start structure.")
@click.option("--engine", type=click.Choice(["lammps", "ase"]), default="lammps", show_default=True)
@click.option("--dump-every", default="0.1 ps", show_default=True, help="Between two frames.")
@click.option("--rdf/--no-rdf", default=True, show_default=True, help="Radial distribution functions.")
@click.option(
    "--analyse", multiple=True, type=click.Choice(["msd", "vdos", "density", "drift"]), help="More; may be repeated."
)
@click.option("--deviation-every", help="Of several models, e.g. '50 steps'  [default: 100 steps]")
@click.option(
    "--max-deviation", help="End the run where models differ more in the force on an atom, e.g. '1 eV/angstrom'."
)
@click.option("--max-bond-stretch", type=float, help="End the run where a bond has this many times its length.")
@click.option("--ranks", type=click.IntRange(min=1), help="MPI ranks  [default: 2 where there are two cores]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--print-yaml", is_flag=True, help="Print the workflow that would be run.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@run_dir_option
def command(
    models: tuple[Path, ...],
    start: Path,
    ensemble: str,
    temperature: str,
    pressure: str | None,
    timestep: str,
    time: str,
    supercell: tuple[int, int, int] | None,
    engine: str,
    dump_every: str,
    rdf: bool,
    analyse: tuple[str, ...],
    deviation_every: str | None,
    max_deviation: str | None,
    max_bond_stretch: float | None,
    ranks: int | None,
    seed: int,
    print_yaml: bool,
    quiet: bool,
    run_dir: Path | None,
) -> int:
    """Run molecular dynamics with the frozen MODEL from the last structure of START (any format of ASE).

    Of several models, the first drives, and how far all are from each other is written along the run.

    This is a workflow with one stage: running the same command again resumes it.
    """
    from dpsim.data.files import read_json

    if pressure is not None and ensemble != "npt":
        raise click.UsageError(f"--pressure has no effect with --ensemble {ensemble}; use npt")
    if len(models) == 1 and (deviation_every or max_deviation):
        option = "--deviation-every" if deviation_every else "--max-deviation"
        raise click.UsageError(f"{option} is about several models, but one is given: name two or more before START")
    if ranks is not None and engine == "ase":
        raise click.UsageError("--ranks has no effect with --engine ase, which runs in one process; use lammps")
    segment: dict[str, Any] = {"ensemble": ensemble, "temperature": temperature, "timestep": timestep, "time": time}
    segment["dump"] = {"every": dump_every}
    if ensemble == "npt":
        segment["pressure"] = pressure or "1 bar"
    frames: dict[str, Any] = {"frames": str(start.absolute())}
    stage: dict[str, Any] = {
        "uses": "md",
        "potential": _listed([{"path": str(model.absolute())} for model in models]),
        "start": {**frames, "supercell": list(supercell)} if supercell else frames,
        "run": [segment],
    }
    if engine != "lammps":
        stage["engine"] = engine
    if analyses := [*(["rdf"] if rdf else []), *dict.fromkeys(analyse)]:
        stage["analyse"] = analyses
    if len(models) > 1:
        stage["deviation"] = {"every": deviation_every or "100 steps"}
    limits = {"max_deviation_force": max_deviation, "max_bond_stretch": max_bond_stretch}
    if stop_if := {name: limit for name, limit in limits.items() if limit is not None}:
        stage["stop_if"] = stop_if
    if ranks is not None:
        stage["resources"] = {"ranks": ranks}
    name = f"md-{slug(start.stem)}"
    code = run_one_stage(name, stage, models[0], run_dir, seed=seed, print_yaml=print_yaml, quiet=quiet)
    if code == 0 and not print_yaml:
        _tell(read_json((run_dir or Path("runs") / name) / "stages" / "md" / "out" / "analysis.json"))
    return code


def _listed(values: list[dict[str, str]]) -> Any:
    return values if len(values) > 1 else values[0]


def _tell(analysis: dict[str, Any]) -> None:
    """Print what must not be overlooked."""
    if stopped := analysis.get("stopped"):
        click.echo(f"ended at step {stopped['step']}: {stopped['reason']}")
    if largest := (analysis.get("deviation") or {}).get("max_devi_f"):
        click.echo(f"deviation of the models: largest {largest['max']:.4g}, mean {largest['mean']:.4g} eV/angstrom")
