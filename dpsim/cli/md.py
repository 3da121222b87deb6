"""``dpsim md``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from dpsim.cli.common import run_dir_option, shown


@click.command("md")
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("start", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--ensemble", type=click.Choice(["nve", "nvt", "npt"]), default="nvt", show_default=True)
@click.option("--temperature", default="300 K", show_default=True)
@click.option("--pressure", help="For npt  [default: 1 bar]")
@click.option("--timestep", default="0.5 fs", show_default=True)
@click.option("--time", default="10 ps", show_default=True, help="Length of the run.")
@click.option("--supercell", nargs=3, type=click.IntRange(min=1), help="Repeat the start structure.")
@click.option("--rdf/--no-rdf", default=True, show_default=True, help="Radial distribution functions.")
@click.option("--ranks", type=click.IntRange(min=1), help="MPI ranks  [default: 2 where there are two cores]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--print-yaml", is_flag=True, help="Print the workflow that would be run.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@run_dir_option
def command(
    model: Path,
    start: Path,
    ensemble: str,
    temperature: str,
    pressure: str | None,
    timestep: str,
    time: str,
    supercell: tuple[int, int, int] | None,
    rdf: bool,
    ranks: int | None,
    seed: int,
    print_yaml: bool,
    quiet: bool,
    run_dir: Path | None,
) -> int:
    """Run molecular dynamics with the frozen MODEL from the last structure of START (any format of ASE).

    This is a workflow with one stage: running the same command again resumes it.
    """
    from dpsim.workflow.describe import to_yaml

    if pressure is not None and ensemble != "npt":
        raise click.UsageError(f"--pressure has no effect with --ensemble {ensemble}; use npt")
    segment: dict[str, Any] = {"ensemble": ensemble, "temperature": temperature, "timestep": timestep, "time": time}
    if ensemble == "npt":
        segment["pressure"] = pressure or "1 bar"
    frames: dict[str, Any] = {"frames": str(start.absolute())}
    stage: dict[str, Any] = {
        "uses": "md",
        "potential": {"path": str(model.absolute())},
        "start": {**frames, "supercell": list(supercell)} if supercell else frames,
        "run": [segment],
    }
    if rdf:
        stage["analyse"] = ["rdf"]
    if ranks is not None:
        stage["resources"] = {"ranks": ranks}
    name = f"md-{_slug(start.stem)}"
    text = to_yaml({"dpsim": 1, "name": name, "type_map": _type_map(model), "seed": seed, "stages": {"md": stage}})
    if print_yaml:
        click.echo(text, nl=False)
        return 0
    return _run(text, (run_dir or Path("runs") / name).absolute(), quiet)


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)


def _type_map(model: Path) -> list[str]:
    from dpsim.export.metadata import read_metadata

    return list(read_metadata(model).type_map)


def _run(text: str, folder: Path, quiet: bool) -> int:
    from dpsim.cli.run import print_outcome
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
        click.echo(f"results: {shown(out)}")
    return outcome.code
