"""``dpsim test``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from dpsim.cli.common import ModelPath, json_option, print_json, table

_COLUMNS = (
    ("energy_rmse", 1e3, "E RMSE meV/atom"),
    ("forces_rmse", 1e3, "F RMSE meV/Å"),
    ("virial_rmse", 1e3, "V RMSE meV/atom"),
    ("energy_mae", 1e3, "E MAE meV/atom"),
    ("forces_mae", 1e3, "F MAE meV/Å"),
)


@click.command("test")
@click.argument("model", type=ModelPath())
@click.argument("systems", metavar="SYSTEM...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--head", help="Branch of a multi-task model.")
@click.option("--group-by", type=click.Choice(["element", "formula", "source"]), help="List errors by this too.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--detail", metavar="PREFIX", help="Write PREFIX-metrics.json and PREFIX-parity.npz.")
@click.option("--print-yaml", is_flag=True, help="Print a workflow with this stage instead of testing.")
@json_option
def command(
    model: Path,
    systems: tuple[Path, ...],
    head: str | None,
    group_by: Any,
    device: str,
    detail: str | None,
    print_yaml: bool,
    as_json: bool,
) -> None:
    """Print the errors of MODEL on labelled data sets, by system and overall."""
    if print_yaml:
        from dpsim.cli.one_stage import print_one_stage

        stage = {"uses": "test", "model": {"path": str(model)}, "data": [{"path": str(system)} for system in systems]}
        gpus = {"auto": None, "cpu": {"gpus": 0}, "cuda": {"gpus": 1}}[device]
        print_one_stage(stage | {"head": head, "group_by": group_by, "resources": gpus}, model)
        return
    from dpsim.calculators.errors_on_data import evaluate_dataset
    from dpsim.calculators.evaluate import load
    from dpsim.workflow.driver.progress import ProgressLine

    potential = load(model, head=head, device=device)
    with ProgressLine() as progress:
        metrics = _evaluate(partial(evaluate_dataset, group_by=group_by), potential, systems, detail, progress)
    if as_json:
        print_json(metrics)
        return
    columns = _columns(metrics["overall"])
    rows = [
        _row(name, errors, columns) for name, errors in [*metrics["systems"].items(), ("overall", metrics["overall"])]
    ]
    titles = [title for _, _, title in columns]
    click.echo(table(rows, ["system", "frames", *titles]))
    if group_by is not None:
        rows = [_row(name, errors, columns) for name, errors in metrics["groups"].items()]
        click.echo("\n" + table(rows, [group_by, "frames", *titles]))


def _evaluate(evaluate: Any, potential: Any, systems: tuple[Path, ...], detail: str | None, progress: Any) -> Any:
    if detail is None:
        return evaluate(potential, systems, progress=progress)
    import shutil
    import tempfile

    target = Path(detail)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        metrics = evaluate(potential, systems, folder, progress=progress)
        for name in ("metrics.json", "parity.npz"):
            shutil.move(Path(folder) / name, f"{detail}-{name}")
    return metrics


def _columns(overall: dict[str, Any]) -> tuple[tuple[str, float, str], ...]:
    """Those of energies, or of whatever else the model predicts, in the units of its labels."""
    if any(key in overall for key, _, _ in _COLUMNS):
        return _COLUMNS
    keys = [key for key in overall if key.endswith(("_rmse", "_mae"))]
    return tuple((key, 1.0, f"{key.rpartition('_')[0]} {key.rpartition('_')[2].upper()}") for key in keys)


def _row(name: str, errors: dict[str, Any], columns: tuple[tuple[str, float, str], ...]) -> list[str]:
    cells = [f"{errors[key] * factor:.4g}" if key in errors else "-" for key, factor, _ in columns]
    return [name, str(errors["frames"]), *cells]
