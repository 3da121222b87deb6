"""``dpsim validate``."""

from __future__ import annotations

from pathlib import Path

import click

from dpsim.cli.common import json_option, load_plan, print_json, workflow_options


@click.command("validate")
@workflow_options
@json_option
def command(file: Path, profile: str | None, overrides: tuple[str, ...], seed: int | None, as_json: bool) -> int:
    """Check FILE: keys, units, references, files, elements, packages. Nothing is computed."""
    from dpsim.workflow.language.problems import InvalidWorkflow

    try:
        plan = load_plan(file, profile, overrides, seed)
    except InvalidWorkflow as error:
        if not as_json:
            raise
        print_json({"valid": False, "problems": [problem.as_dict() for problem in error.problems]})
        return error.exit_code
    if as_json:
        print_json({"valid": True, "problems": [], "stages": list(plan.order)})
    else:
        click.echo(f"{file}: valid, {len(plan.order)} stages: {', '.join(plan.order)}")
    return 0
