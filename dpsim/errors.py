"""The few kinds of error that a user can cause.

Each carries one sentence (place, value found, what is expected, what to do) and the exit code of the
command line. Anything that is not a `DpsimError` is a bug and keeps its traceback.
"""

from __future__ import annotations


class DpsimError(Exception):
    """A problem that the user can mend; printed as one sentence, without a traceback."""

    exit_code = 1
    said = False
    """Whether another process that works on the same has printed it already."""


class ConfigError(DpsimError):
    """A declaration (workflow, stage, model settings) is wrong."""

    exit_code = 3


class DataError(DpsimError):
    """A data set, a structure or a label is missing, malformed or inconsistent."""

    exit_code = 4


class ModelError(DpsimError):
    """A model file cannot be read, or does not fit the structure it is asked about."""

    exit_code = 4


class StageError(DpsimError):
    """A stage of a workflow failed while running."""

    exit_code = 5


class SetupError(DpsimError):
    """Something of the machine is missing or does not match: compiler, MPI, LAMMPS, a package, a GPU."""

    exit_code = 6


class Interrupted(DpsimError):
    """Stopped by a signal or a time limit after saving; running again continues."""

    exit_code = 75
