"""``dpsim md``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from dpsim.cli.common import run_dir_option, shown


@click.command("md")
@click.argument(
    "models", metavar="MODEL...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True, dir_okay=False)
)
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
    from dpsim.workflow.describe import to_yaml

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
    name = f"md-{_slug(start.stem)}"
    text = to_yaml({"dpsim": 1, "name": name, "type_map": _type_map(models[0]), "seed": seed, "stages": {"md": stage}})
    if print_yaml:
        click.echo(text, nl=False)
        return 0
    return _run(text, (run_dir or Path("runs") / name).absolute(), quiet)


def _listed(values: list[dict[str, str]]) -> Any:
    return values if len(values) > 1 else values[0]


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)


def _type_map(model: Path) -> list[str]:
    from dpsim.export.metadata import read_metadata

    if model.suffix == ".pt2":
        return list(read_metadata(model).type_map)
    from dpsim.calculators.evaluate import load

    return list(load(model).facts.type_map)


def _tell(analysis: dict[str, Any]) -> None:
    """Print what must not be overlooked."""
    if stopped := analysis.get("stopped"):
        click.echo(f"ended at step {stopped['step']}: {stopped['reason']}")
    if largest := (analysis.get("deviation") or {}).get("max_devi_f"):
        click.echo(f"deviation of the models: largest {largest['max']:.4g}, mean {largest['mean']:.4g} eV/angstrom")


def _run(text: str, folder: Path, quiet: bool) -> int:
    from dpsim.cli.run import print_outcome
    from dpsim.data.files import read_json
    from dpsim.workflow.files import write_atomic
    from dpsim.workflow.plan import load
    from dpsim.workflow.progress import make_view
    from dpsim.workflow.resources import machine
    from dpsim.workflow.runner import Runner
    from dpsim.workflow.store import Store

    with tempfile.TemporaryDirectory() as scratch:  # nothing is written where the workflow turns out to be wrong
        trial = Path(scratch) / "md.yaml"
        trial.write_text(text, encoding="utf-8")
        load(trial)
    Store(folder).prepare()
    file = folder / "md.yaml"
    write_atomic(file, text)
    plan = load(file)
    outcome = Runner(plan, folder, machine(plan.workflow.slots), make_view(quiet=quiet)).run()
    print_outcome(plan, folder, outcome)
    out = folder / "stages" / "md" / "out"
    if outcome.code == 0:
        _tell(read_json(out / "analysis.json"))
        click.echo(f"results: {shown(out)}")
    return outcome.code
