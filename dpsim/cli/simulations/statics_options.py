"""Options that the commands about structures at rest share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from dpsim.cli.common import ModelPath, run_dir_option

F = TypeVar("F", bound=Callable[..., Any])


def statics_options(function: F) -> F:
    """Add the model, the structures, and what every such command takes."""
    for decorate in (
        run_dir_option,
        click.option("--quiet", "-q", is_flag=True, help="No progress."),
        click.option("--print-yaml", is_flag=True, help="Print the workflow that would be run."),
        click.option("--head", help="Branch of a multi-task model."),
        click.option("--index", help="Which structures of the file: 0, -1, : or 2:10  [default: all]"),
        click.argument("structures", type=click.Path(path_type=Path, exists=True, dir_okay=False)),
        click.argument("model", type=ModelPath()),
    ):
        function = decorate(function)
    return function


def stage_of(uses: str, model: Path, structures: Path, index: str | None, head: str | None) -> dict[str, Any]:
    """Return the beginning of such a stage."""
    on: dict[str, Any] = {"frames": str(structures.absolute())}
    stage: dict[str, Any] = {"uses": uses, "potential": {"path": str(model.absolute())}}
    stage["on"] = on if index is None else {**on, "index": index}
    return stage if head is None else {**stage, "head": head}


def given(**options: Any) -> dict[str, Any]:
    """Return the options that have a value."""
    return {name: value for name, value in options.items() if value not in (None, (), False)}
