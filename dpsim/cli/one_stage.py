"""What the commands for one stage share: the workflow with that stage alone, printed or run."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click

from dpsim.cli.common import shown


def run_one_stage(
    name: str, stage: dict[str, Any], model: Path, run_dir: Path | None, *, seed: int, print_yaml: bool, quiet: bool
) -> int:
    """Print or run a workflow with one stage; return the exit status.

    Parameters
    ----------
    name
        Of the run; the stage is called like its type.
    stage
        The stage.
    model
        The model file, whose elements become those of the workflow.
    run_dir
        Run directory; ``runs/NAME`` if None.
    """
    from dpsim.workflow.reference.describe import to_yaml

    uses = str(stage["uses"])
    text = to_yaml({"dpsim": 1, "name": name, "type_map": type_map_of(model), "seed": seed, "stages": {uses: stage}})
    if print_yaml:
        click.echo(text, nl=False)
        return 0
    return _run(text, uses, (run_dir or Path("runs") / name).absolute(), quiet)


def print_one_stage(stage: dict[str, Any], model: Path) -> None:
    """Print a workflow with one stage, without keys whose value is None."""
    told = {key: value for key, value in stage.items() if value is not None}
    name = slug(f"{stage['uses']}-{model.stem}")
    run_one_stage(name, told, model, None, seed=0, print_yaml=True, quiet=True)


def slug(text: str) -> str:
    """Return a text as part of the name of a run."""
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)


def type_map_of(model: Path) -> list[str]:
    """Return the elements of a model file of any kind."""
    if model.suffix == ".pt2":
        from dpsim.export.metadata import read_metadata

        return list(read_metadata(model).type_map)
    from dpsim.calculators.model_summary import summarize

    facts = summarize(model)
    found = facts.get("type_map") or next(iter(facts["heads"].values()))["type_map"]
    return [str(symbol) for symbol in found]


def _run(text: str, uses: str, folder: Path, quiet: bool) -> int:
    from dpsim.cli.workflows.run import print_outcome
    from dpsim.workflow.driver.progress import make_view
    from dpsim.workflow.driver.runner import Runner
    from dpsim.workflow.planning.load import load
    from dpsim.workflow.planning.resources import machine
    from dpsim.workflow.records.files import write_atomic
    from dpsim.workflow.records.store import Store

    with tempfile.TemporaryDirectory() as scratch:  # nothing is written where the workflow turns out to be wrong
        trial = Path(scratch) / f"{uses}.yaml"
        trial.write_text(text, encoding="utf-8")
        load(trial)
    Store(folder).prepare()
    file = folder / f"{uses}.yaml"
    write_atomic(file, text)
    plan = load(file)
    outcome = Runner(plan, folder, machine(plan.workflow.slots), make_view(quiet=quiet)).run()
    print_outcome(plan, folder, outcome)
    if outcome.code == 0:
        click.echo(f"results: {shown(folder / 'stages' / uses / 'out')}")
    return outcome.code
