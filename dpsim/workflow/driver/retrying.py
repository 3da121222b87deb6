"""Whether an attempt that failed is repeated: a count for each thing that can end a stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dpsim.errors import ConfigError, DataError, Interrupted, SetupError
from dpsim.workflow.executors.base import Ending
from dpsim.workflow.language.profiles import Retries
from dpsim.workflow.stage import Stage

_HOPELESS: Final = {ConfigError.exit_code, DataError.exit_code, SetupError.exit_code, Interrupted.exit_code}
"""Exit codes of wrong input and wrong setup, which another attempt cannot mend, and of being told to stop."""
OUT_OF_MEMORY: Final = 7
_SAY: Final[Mapping[str, str]] = {
    "oom": "ran out of memory; trying again",
    "preempted": "was taken away by the cluster; goes on in another job",
    "walltime": "has used up the time of its job; goes on in another",
}


class Attempts:
    """How often a task was started again, and why.

    Parameters
    ----------
    policy
        Of the profile.
    """

    def __init__(self, policy: Retries) -> None:
        self._policy = policy
        self._counts: dict[str, dict[str, int]] = {}

    def counts(self, task: str) -> Mapping[str, int]:
        """Return how often a task was started again, by what had ended it."""
        return self._counts.setdefault(task, {})

    def restore(self, task: str, counts: Mapping[str, int]) -> None:
        """Go on counting where an earlier driver was."""
        self._counts[task] = dict(counts)

    def again(self, task: str, stage: Stage, code: int, ending: Ending) -> str:
        """Count a failed attempt; return what is said about the next one, or nothing if there is none.

        Parameters
        ----------
        task, stage
            What failed.
        code
            Exit status.
        ending
            What ended it, if that is known.
        """
        kind = ending or ("oom" if code == OUT_OF_MEMORY else "error")
        if kind == "cancelled" or (kind == "error" and code in _HOPELESS):
            return ""
        limit = getattr(self._policy, kind)
        if kind == "error" and "retries" in stage.model_fields_set:
            limit = stage.retries
        if kind == "oom" and not ending:  # a stage on this machine that said so itself is a failure like others
            limit = max(limit, stage.retries)
        counts = self._counts.setdefault(task, {})
        if counts.get(kind, 0) >= limit:
            return ""
        counts[kind] = counts.get(kind, 0) + 1
        return _SAY.get(kind) or f"attempt {counts[kind]} failed; trying again"
