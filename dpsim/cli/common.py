"""What several commands share: options, the run directory that is meant, output as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dpsim.errors import ConfigError

if TYPE_CHECKING:
    from dpsim.data.download import Report
    from dpsim.workflow.planning.plan import Plan
    from dpsim.workflow.planning.surroundings import Fetch
    from dpsim.workflow.records.store import Store

F = TypeVar("F", bound=Callable[..., Any])


def workflow_options(function: F) -> F:
    """Add the workflow file and the options that change it."""
    for decorate in (
        click.option("--seed", type=click.IntRange(min=0), help="Seed instead of the one in the file."),
        click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value; repeatable."),
        click.option("--profile", help="Use a profile of the file."),
        click.argument("file", type=click.Path(path_type=Path)),
    ):
        function = decorate(function)
    return function


run_dir_option = click.option(
    "--run-dir", type=click.Path(path_type=Path, file_okay=False), help="Run directory  [default: runs/NAME]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def load_plan(
    file: Path, profile: str | None, overrides: tuple[str, ...], seed: int | None, bring: Fetch | None = None
) -> Plan:
    """Read and plan a workflow file; `bring` fetches the pretrained models that it names (`fetch_model`)."""
    from dpsim.workflow.planning.load import load

    return load(file, profile=profile, overrides=overrides, seed=seed, fetch=bring)


class ModelPath(click.Path):
    """A model file, or ``hub://NAME``, which is fetched where it is not on this machine yet."""

    def __init__(self, *, exists: bool = True) -> None:
        super().__init__(path_type=Path, exists=exists, dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        from dpsim.model.pretrained import HUB

        if isinstance(value, str) and value.startswith(HUB):
            return fetch_model(value)
        return super().convert(value, param, ctx)


def fetch_model(address: str, *, quiet: bool = False) -> Path:
    """Return the file of ``hub://NAME``, fetched with a line of progress if it is not on this machine yet."""
    from dpsim.model.pretrained import fetch_pretrained

    with fetching(address, quiet=quiet) as report:
        return fetch_pretrained(address, report)


@contextmanager
def fetching(what: str, *, quiet: bool = False) -> Iterator[Report | None]:
    """Give what shows the progress of `dpsim.data.download.download` on a line; None if `quiet`."""
    from dpsim.workflow.driver.progress import ProgressLine

    if quiet:
        yield None
        return
    with ProgressLine() as line:
        yield lambda there, total: line(there / 1e6, total and total / 1e6, f"{what}, MB")


def run_dir_of(plan: Plan, run_dir: Path | None) -> Path:
    """Return the run directory of a workflow."""
    return (run_dir or Path("runs") / plan.workflow.name).absolute()


def find_run(target: Path | None) -> Store:
    """Return the run that an argument means: a run directory, a workflow file, or the latest run in ``runs/``.

    Raises
    ------
    ConfigError
        If there is none.
    """
    from dpsim.workflow.records.store import Store

    candidates = [target] if target is not None else []
    if target is None:
        candidates = sorted(Path("runs").glob("*"), key=lambda p: p.stat().st_mtime, reverse=True)
        candidates = [path for path in candidates if (path / "manifest.json").is_file()]
        candidates = candidates or [Path()]
    elif target.is_file():
        from dpsim.workflow.language.document import read_document

        name = read_document(target).data.get("name") or target.stem
        candidates = [Path("runs") / str(name)]
    path = candidates[0]
    if not (path / "manifest.json").is_file():
        raise ConfigError(f"{path} is not a run directory (no manifest.json); give a run's folder or its workflow")
    return Store(path.resolve())


def find_stage(store: Store, word: str) -> str:
    """Return the task of a run that a word means.

    Raises
    ------
    ConfigError
        If the run has no such stage.
    """
    from dpsim.workflow.language.problems import closest
    from dpsim.workflow.records.files import read_json

    known = list(read_json(store.manifest).get("stages", {}))
    matches = [name for name in known if word == name] or [n for n in known if n.partition("@")[0] == word]
    if matches:
        return matches[0]
    guess = closest(word, known)
    hint = f"; did you mean {guess!r}?" if guess else ""
    raise ConfigError(f"the run {store.run_dir.name} has no stage {word!r} (stages: {', '.join(known)}){hint}")


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    click.echo(json.dumps(value, indent=1, default=str))


def shown(path: Path) -> str:
    """Return a path as short as it can be written from here."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def table(rows: list[list[str]], header: list[str]) -> str:
    """Return rows as text in columns; the last column is not padded."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header) - 1)]
    lines = []
    for row in [header, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return "\n".join(lines)
