"""``dpsim plan``."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpsim.cli.common import (
    json_option,
    load_plan,
    print_json,
    run_dir_of,
    run_dir_option,
    shown,
    table,
    workflow_options,
)
from dpsim.errors import ConfigError

if TYPE_CHECKING:
    from dpsim.workflow.planning.plan import Plan


@click.command("plan")
@workflow_options
@run_dir_option
@click.option("--verify", is_flag=True, help="Read all files again instead of trusting their size and time.")
@click.option("--expand", is_flag=True, help="Print the workflow with every default and unit filled in.")
@click.option("--diff", "previous", type=click.Path(path_type=Path, exists=True),
              help="What differs from this run, or from another workflow file.")  # fmt: skip
@click.option("--graph", type=click.Choice(["dot", "mermaid"]), help="Print the graph of the stages.")
@json_option
def command(
    file: Path,
    profile: str | None,
    overrides: tuple[str, ...],
    seed: int | None,
    run_dir: Path | None,
    verify: bool,
    expand: bool,
    previous: Path | None,
    graph: str | None,
    as_json: bool,
) -> None:
    """Show what 'dpsim run FILE' would do with each stage, and why."""
    plan = load_plan(file, profile, overrides, seed)
    folder = run_dir_of(plan, run_dir)
    if expand:
        from dpsim.workflow.reference.describe import lock_file

        click.echo(lock_file(plan), nl=False)
    elif graph:
        click.echo(_dot(plan) if graph == "dot" else _mermaid(plan))
    elif previous is not None:
        _show_difference(plan, previous)
    else:
        show_plan(plan, folder, verify=verify, as_json=as_json)


def show_plan(
    plan: Plan,
    folder: Path,
    *,
    forced: Collection[str] = (),
    use_cache: bool = True,
    verify: bool = False,
    as_json: bool = False,
) -> None:
    """Print what a run would do; nothing is written."""
    from dpsim.workflow.driver.progress import duration
    from dpsim.workflow.planning.decide import Decider
    from dpsim.workflow.planning.loop import decisions
    from dpsim.workflow.records.digest import Digester
    from dpsim.workflow.records.files import read_json
    from dpsim.workflow.records.store import Store

    store = Store(folder)
    manifest = read_json(store.manifest).get("stages", {})
    keys = {name: record["key"] for name, record in manifest.items() if record.get("key")}
    decider = Decider(plan, store, Digester(store.memo, verify=verify), keys, forced, use_cache)
    rows: list[list[str]] = []
    documents: list[dict[str, Any]] = []
    for decision in decisions(decider):
        name, plan = decision.task, decider.plan
        last = _last_seconds(manifest.get(name, {}))
        note = f" ({decision.note})" if decision.note else ""
        uses = plan.workflow.tasks[name].config.uses
        took = duration(last) if last is not None else ""
        action = {"wait": "run"}.get(decision.action, decision.action)
        rows.append([name, uses, action, took, f"{decision.reason}{note}"])
        documents.append(
            {
                "stage": name,
                "uses": uses,
                "action": action,
                "reason": decision.reason,
                "note": decision.note,
                "key": decision.key.digest if decision.key else None,
                "needs": list(plan.needs(name)),
                "last_seconds": last,
            }
        )
    if as_json:
        print_json({"name": plan.workflow.name, "run_dir": str(folder), "stages": documents})
        return
    click.echo(table(rows, ["stage", "type", "action", "last took", "why"]))
    for name, reason in plan.skipped.items():
        click.echo(f"left out: {name} ({reason})")
    todo = sum(row[2] == "run" for row in rows)
    if todo:
        known = [one["last_seconds"] for one in documents if one["action"] == "run" and one["last_seconds"] is not None]
        guess = f"; {len(known)} of them took {duration(sum(known))} the last time" if known else ""
        click.echo(f"{todo} of {len(rows)} stages would run in {shown(folder)}{guess}")
    else:
        click.echo("nothing to do: all stages are done")


def _last_seconds(record: dict[str, Any]) -> float | None:
    attempts = [a for a in record.get("attempts", []) if a.get("exit") == 0]
    return float(attempts[-1]["end"] - attempts[-1]["start"]) if attempts else None


def _show_difference(plan: Plan, previous: Path) -> None:
    """Print which options differ from those of an earlier run."""
    from dpsim.workflow.language.yaml_loader import load_file, load_text
    from dpsim.workflow.planning.key import difference
    from dpsim.workflow.planning.load import load
    from dpsim.workflow.reference.describe import lock_file

    path = previous / "workflow.lock.yaml" if previous.is_dir() else previous
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give the folder of an earlier run, or another workflow file")
    old, new = load_file(path).data, load_text(lock_file(plan), "now").data
    if (
        isinstance(old, dict) and "x-digests" not in old
    ):  # another workflow, which has its defaults still to be filled in
        old = load_text(lock_file(load(path, check_files=False)), "then").data
    changed = difference({"options": _without_digests(old)}, {"options": _without_digests(new)})
    for line in changed:
        click.echo(line.removeprefix("option "))
    if not changed:
        click.echo("no difference")


def _without_digests(value: Any) -> Any:
    return {key: item for key, item in value.items() if key != "x-digests"} if isinstance(value, dict) else {}


def _dot(plan: Plan) -> str:
    lines = ["digraph workflow {", "  rankdir=LR; node [shape=box];"]
    for name in plan.order:
        lines.append(f'  "{name}" [label="{name}\\n{plan.workflow.tasks[name].config.uses}"];')
        lines += [f'  "{need}" -> "{name}";' for need in plan.needs(name)]
    return "\n".join([*lines, "}"])


def _mermaid(plan: Plan) -> str:
    numbers = {name: f"s{index}" for index, name in enumerate(plan.order)}
    lines = ["flowchart LR"]
    for name in plan.order:
        lines.append(f'  {numbers[name]}["{name}<br/>{plan.workflow.tasks[name].config.uses}"]')
        lines += [f"  {numbers[need]} --> {numbers[name]}" for need in plan.needs(name)]
    return "\n".join(lines)
