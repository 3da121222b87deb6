"""``dpsim run``."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dpsim.cli.common import (
    fetch_model,
    json_option,
    load_plan,
    print_json,
    run_dir_of,
    run_dir_option,
    shown,
    workflow_options,
)
from dpsim.errors import ConfigError, Interrupted, StageError

if TYPE_CHECKING:
    from dpsim.workflow.driver.outcome import Outcome
    from dpsim.workflow.planning.plan import Plan


@click.command("run")
@workflow_options
@run_dir_option
@click.option("--only", multiple=True, metavar="STAGE", help="Run only these stages; what they need must be done.")
@click.option("--from", "start", multiple=True, metavar="STAGE", help="Run these stages and what depends on them.")
@click.option("--until", multiple=True, metavar="STAGE", help="Run these stages and what they need.")
@click.option("--force", multiple=True, metavar="STAGE", help="Run these stages again, from scratch.")
@click.option("-j", "--jobs", type=click.IntRange(min=1), help="Cores to use  [default: all]")
@click.option("--keep-going", is_flag=True, help="After a failure, run what does not depend on it.")
@click.option("--no-cache", is_flag=True, help="Run every stage again, from scratch.")
@click.option("--verify", is_flag=True, help="Read all files again instead of trusting their size and time.")
@click.option("--dry-run", is_flag=True, help="Show what would run, as 'dpsim plan'.")
@click.option("--detach", is_flag=True, help="Run in the background; follow with 'dpsim watch'.")
@click.option("--watch", is_flag=True, help="Run in the background and show it; Ctrl-C leaves it running.")
@click.option("--quiet", "-q", is_flag=True, help="No progress.")
@json_option
def command(
    file: Path,
    profile: str | None,
    overrides: tuple[str, ...],
    seed: int | None,
    run_dir: Path | None,
    only: tuple[str, ...],
    start: tuple[str, ...],
    until: tuple[str, ...],
    force: tuple[str, ...],
    jobs: int | None,
    keep_going: bool,
    no_cache: bool,
    verify: bool,
    dry_run: bool,
    detach: bool,
    watch: bool,
    quiet: bool,
    as_json: bool,
) -> int:
    """Run the workflow FILE. What is done already is not done again; a run that was stopped goes on."""
    from dpsim.workflow.driver.progress import make_view
    from dpsim.workflow.driver.runner import Runner, RunOptions
    from dpsim.workflow.planning.resources import machine

    bring = None if dry_run else partial(fetch_model, quiet=quiet or as_json)
    plan = load_plan(file, profile, overrides, seed, bring)
    folder = run_dir_of(plan, run_dir)
    chosen = (*only, *start, *until, *force)
    if chosen and plan.workflow.loops:
        plan = _with_iterations(plan, folder, chosen)
    if dry_run:
        from dpsim.cli.workflows.plan import show_plan

        show_plan(plan, folder, forced=_tasks(plan, force, "--force"), use_cache=not no_cache, as_json=as_json)
        return 0
    options = RunOptions(
        selected=_selection(plan, only, start, until),
        forced=_tasks(plan, force, "--force"),
        keep_going=keep_going,
        use_cache=not no_cache,
        verify=verify,
    )
    available = machine(plan.workflow.slots, jobs)
    if detach or watch:
        return _in_background(plan, folder, watch=watch, quiet=quiet, as_json=as_json)
    view = make_view(quiet=quiet)
    runner = Runner(plan, folder, available, view, options)
    return _tell(plan, folder, runner.run(), as_json)


def _tell(plan: Plan, folder: Path, outcome: Outcome, as_json: bool) -> int:
    """Print how a run ended; return its exit status."""
    if as_json:
        print_json(_as_dict(plan, folder, outcome))
    else:
        print_outcome(plan, folder, outcome)
    return outcome.code


def _with_iterations(plan: Plan, folder: Path, words: tuple[str, ...]) -> Plan:
    """Return the plan with the iterations of its loops that are done already and the one after them, as words mean."""
    from dpsim.workflow.planning.decide import Decider
    from dpsim.workflow.planning.loop import with_done
    from dpsim.workflow.records.digest import Digester
    from dpsim.workflow.records.store import Store

    store = Store(folder)
    return with_done(plan, Decider(plan, store, Digester(store.memo)), words)


def _tasks(plan: Plan, words: tuple[str, ...], option: str) -> list[str]:
    from dpsim.workflow.language.problems import closest

    found: list[str] = []
    for word in words:
        tasks = plan.tasks_of(word)
        if not tasks:
            known = sorted({plan.workflow.tasks[name].stage for name in plan.order})
            guess = closest(word, known)
            hint = f"; did you mean {guess!r}?" if guess else ""
            raise ConfigError(f"{option} {word}: there is no such stage (stages: {', '.join(known)}){hint}")
        found += tasks
    return found


def _selection(plan: Plan, only: tuple[str, ...], start: tuple[str, ...], until: tuple[str, ...]) -> set[str] | None:
    if not (only or start or until):
        return None
    selected = set(plan.order)
    if start:
        selected &= plan.downstream(_tasks(plan, start, "--from"))
    if until:
        selected &= plan.upstream(_tasks(plan, until, "--until"))
    if only:
        selected &= set(_tasks(plan, only, "--only"))
    return selected


def print_outcome(plan: Plan, folder: Path, outcome: Outcome) -> None:
    """Print how a run ended: failures with their last lines on standard error, a summary on standard output."""
    from dpsim.workflow.driver.progress import duration

    for failure in outcome.failures:
        click.echo(f"\nstage {failure.task!r} failed: {failure.message}", err=True)
        if failure.lines:
            click.echo(f"  last lines of {shown(failure.log)}:", err=True)
            for line in failure.lines:
                click.echo(f"    {line}", err=True)
        work = folder / "stages" / failure.task / "work"
        if failure.lines or work.exists():
            click.echo(f"  work folder:     {shown(work)}", err=True)
        click.echo(f"  run it alone:    {_again(plan, folder, failure.task)}", err=True)
    counts = [(state, outcome.count(state)) for state in dict.fromkeys(outcome.states.values())]
    total = len(outcome.states)
    if outcome.count("cached") == total:
        click.echo(f"{plan.workflow.name}: nothing to do, all {total} stages are done ({duration(outcome.seconds)})")
    else:
        text = ", ".join(f"{count} {state}" for state, count in counts)
        click.echo(f"{plan.workflow.name}: {text} in {duration(outcome.seconds)}")
    for name, reason in plan.skipped.items():
        click.echo(f"left out: {name} ({reason})")
    if outcome.code in (75, 130):
        click.echo("interrupted; the same command goes on from here")
    if page := _report(plan, folder, outcome):
        click.echo(f"report: {shown(page)}")


def _report(plan: Plan, folder: Path, outcome: Outcome) -> Path | None:
    """Return the page of the last report stage that is done; None if there is none."""
    tasks = plan.workflow.tasks
    made = [name for name in plan.order if tasks[name].config.uses == "report"
            and outcome.states.get(name) in ("done", "cached")]  # fmt: skip
    if not made:
        return None
    link = folder / "report"
    return (link if link.is_symlink() else folder / "stages" / made[-1] / "out") / "index.html"


def _again(plan: Plan, folder: Path, task: str) -> str:
    words = ["dpsim", "run", shown(plan.workflow.path), "--only", task]
    if folder != run_dir_of(plan, None):
        words += ["--run-dir", shown(folder)]
    if plan.workflow.document.profile:
        words += ["--profile", plan.workflow.document.profile]
    for override in plan.workflow.document.overrides:
        words += ["--set", override]
    if plan.workflow.seed_given:
        words += ["--seed", str(plan.workflow.seed)]
    return shlex.join(words)


def _as_dict(plan: Plan, folder: Path, outcome: Outcome) -> dict[str, object]:
    return {
        "name": plan.workflow.name,
        "run_dir": str(folder),
        "exit": outcome.code,
        "seconds": round(outcome.seconds, 3),
        "stages": outcome.states,
        "left_out": dict(plan.skipped),
        "failures": [
            {"stage": f.task, "message": f.message, "exit": f.code, "log": str(f.log), "lines": list(f.lines)}
            for f in outcome.failures
        ],
    }


def _in_background(plan: Plan, folder: Path, *, watch: bool, quiet: bool, as_json: bool) -> int:
    """Start the same command in a session of its own; follow it there if that is wanted."""
    from dpsim.workflow.records.store import Store

    store = Store(folder)
    store.prepare()
    seen = store.events.stat().st_size if store.events.exists() else 0
    process = _start_driver(folder)
    if not watch:
        click.echo(f"process {process.pid} runs in the background; follow it with: dpsim watch {shown(folder)}")
        return 0
    from dpsim.cli.workflows.watch import follow
    from dpsim.workflow.driver.following import Follower, outcome_of
    from dpsim.workflow.driver.progress import make_view

    follower = Follower(store, make_view(quiet=quiet), offset=seen)
    if not follow(follower, 0.2, lambda: process.poll() is not None):
        where = shown(folder)
        click.echo(f"the run goes on in process {process.pid}: dpsim watch {where}, dpsim stop {where}", err=True)
        return 130
    code = process.wait()
    if not follower.started:
        raise StageError(f"the process in the background ended with status {code}: see {shown(folder / 'driver.log')}")
    return _tell(plan, folder, outcome_of(store, code if code >= 0 else Interrupted.exit_code), as_json)


def _start_driver(folder: Path) -> subprocess.Popen[bytes]:
    """Start the command that was given, without what sends it to the background, writing to ``driver.log``."""
    arguments = [word for word in sys.argv[1:] if word not in ("--detach", "--watch")]
    with (folder / "driver.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "dpsim.cli.main", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=os.getcwd(),
        )
