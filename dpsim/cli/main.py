"""``dpsim``: the group of commands, exit codes, and what becomes of errors.

Exit codes: 0 done, 1 bug, 2 usage, 3 workflow invalid, 4 data, 5 stage failed, 6 environment, 7 out of memory,
8 finished with failures under ``--keep-going``, 75 interrupted and resumable, 130 Ctrl-C.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final

import click

from dpsim import __version__
from dpsim.errors import DpsimError

SECTIONS: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "workflows": (
        "Workflows",
        {
            "run": "Run a workflow; running again resumes it.",
            "plan": "Show what would run, and why.",
            "validate": "Check a workflow file without running anything.",
            "init": "Write a starter workflow from a template.",
            "status": "Show how far a run is.",
            "watch": "Follow a run from another shell.",
            "logs": "Print what a stage wrote.",
            "show": "Print what a stage made.",
            "stop": "Stop a run so that it can be resumed.",
            "report": "Build the report of a run.",
            "compare": "Lay runs side by side.",
            "export": "Describe a run for archives.",
            "clean": "Delete results that nothing refers to.",
            "explain": "Explain an error code, or why a stage has its cache key.",
            "schema": "Print the JSON Schema of workflow files, for editors.",
        },
    ),
    "models": (
        "Data and models",
        {
            "data": "Convert and inspect data sets.",
            "train": "Train a model.",
            "freeze": "Compile a model for LAMMPS and ASE.",
            "compress": "Tabulate the embedding of a model.",
            "test": "Compare a model with labelled data.",
            "eval": "Write the predictions of a model for structures.",
            "model": "Show, fetch and convert models.",
        },
    ),
    "simulations": (
        "Simulations",
        {
            "md": "Run molecular dynamics with a frozen model.",
            "relax": "Relax structures.",
            "eos": "Fit the equation of state of crystals.",
            "phonon": "Compute the phonons of a crystal.",
            "properties": "Compute properties of crystals, beside a reference.",
        },
    ),
    "installation": (
        "Installation",
        {
            "doctor": "Check the installation and say what mends it.",
            "lammps": "Build the LAMMPS plugin.",
        },
    ),
}
"""Of each room of commands its title and, by name, what ``--help`` says. The command ``NAME`` is `command` (or, for a
group, its own name) in ``dpsim.cli.ROOM.NAME``."""
ROOMS: Final = {name: room for room, (_, commands) in SECTIONS.items() for name in commands}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used; ``--help`` reads the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(ROOMS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name not in ROOMS:
            return None
        module = importlib.import_module(f"dpsim.cli.{ROOMS[cmd_name]}.{cmd_name}")
        command = getattr(module, "command", None) or getattr(module, cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        width = max(map(len, ROOMS))
        for title, commands in SECTIONS.values():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), text) for name, text in commands.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="dpsim")
@click.option("--debug", is_flag=True, help="Show the traceback of every error.")
@click.pass_context
def cli(context: click.Context, debug: bool) -> None:
    """From electronic-structure data to a running simulation with Deep Potential models."""
    context.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(list(sys.argv[1:] if arguments is None else arguments)))


def run(arguments: list[str]) -> int:
    """Run the command line; return the exit status."""
    debug = "--debug" in arguments
    try:
        result = cli.main(arguments, prog_name="dpsim", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("dpsim: interrupted", err=True)
        return 130
    except BrokenPipeError:
        # The reader of a pipe (head, less) has gone; writing on would only raise again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except DpsimError as error:
        if debug:
            import traceback

            traceback.print_exc()
        if not error.said:
            click.echo(_text(error), err=True)
        return error.exit_code
    except Exception:
        return _bug(arguments)


def _text(error: DpsimError) -> str:
    render: Any = getattr(error, "render", None)
    if render is not None:
        return str(render())
    return f"dpsim: {type(error).__name__}: {error}"


def _bug(arguments: list[str]) -> int:
    """Print a traceback and keep it in a file with what was called."""
    import tempfile
    import traceback

    text = traceback.format_exc()
    click.echo(text, err=True)
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="dpsim-bug-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(f"dpsim {__version__}, Python {sys.version}\narguments: {arguments}\n\n{text}")
    except OSError:
        return 1
    click.echo(f"dpsim: this is a bug in dpsim; please report it with the file {file.name}", err=True)
    return 1


if __name__ == "__main__":
    main()
