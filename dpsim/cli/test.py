"""``dpsim test``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dpsim.cli.common import json_option, print_json, table

_COLUMNS = (
    ("energy_rmse", 1e3, "E RMSE meV/atom"),
    ("forces_rmse", 1e3, "F RMSE meV/Å"),
    ("virial_rmse", 1e3, "V RMSE meV/atom"),
    ("energy_mae", 1e3, "E MAE meV/atom"),
    ("forces_mae", 1e3, "F MAE meV/Å"),
)


@click.command("test")
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("systems", metavar="SYSTEM...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--head", help="Branch of a multi-task model.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--detail", metavar="PREFIX", help="Write PREFIX-metrics.json and PREFIX-parity.npz.")
@json_option
def command(
    model: Path, systems: tuple[Path, ...], head: str | None, device: str, detail: str | None, as_json: bool
) -> None:
    """Print the errors of MODEL on labelled data sets, by system and overall."""
    from dpsim.calculators.errors_on_data import evaluate_dataset
    from dpsim.calculators.evaluate import load
    from dpsim.workflow.progress import ProgressLine

    potential = load(model, head=head, device=device)
    with ProgressLine() as progress:
        metrics = _evaluate(evaluate_dataset, potential, systems, detail, progress)
    if as_json:
        print_json(metrics)
        return
    rows = [_row(name, errors) for name, errors in metrics["systems"].items()]
    click.echo(table([*rows, _row("overall", metrics["overall"])], ["system", "frames", *[c[2] for c in _COLUMNS]]))


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


def _row(name: str, errors: dict[str, Any]) -> list[str]:
    cells = [f"{errors[key] * factor:.4g}" if key in errors else "-" for key, factor, _ in _COLUMNS]
    return [name, str(errors["frames"]), *cells]
