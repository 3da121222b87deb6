"""Clusters as dpdispatcher describes them: checked, and made ready to be used."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

INSTALL: Final = "pip install 'dpsim[cluster]'"
"""Command that installs what clusters need."""
SHARED: Final = ("LazyLocalContext", "LocalContext")
"""Contexts whose jobs see the files of this machine, so that they work in the run directory."""
REMOTE: Final = ("SSHContext",)
"""Contexts whose files are sent and fetched."""
SCHEDULERS: Final = ("Slurm", "PBS", "Torque", "SGE", "LSF", "Shell")
_OURS: Final = {"number_node": 1, "cpu_per_node": 1, "gpu_per_node": 0, "queue_name": "", "group_size": 1}
"""Resources that dpsim fills in for each stage, with values that pass the check."""


@cache
def dispatcher() -> Any:
    """Import dpdispatcher, without the log in the current folder and the folder in $HOME that it makes.

    Returns
    -------
    module
        ``dpdispatcher.submission``, with ``Machine``, ``Resources``, ``Submission``, ``Task`` in it.
    """
    log = logging.getLogger("dpdispatcher")
    with tempfile.TemporaryDirectory(prefix="dpsim-") as folder, _home(folder):
        log.disabled = True
        from dpdispatcher import submission
    for handler in list(log.handlers):
        log.removeHandler(handler)
    log.disabled, log.propagate = False, True
    log.setLevel(logging.ERROR)
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # what fails is told by the exception
    return submission


@contextmanager
def _home(folder: str) -> Iterator[None]:
    old = os.environ.get("HOME")
    os.environ["HOME"] = folder
    try:
        yield
    finally:
        if old is None:
            del os.environ["HOME"]
        else:
            os.environ["HOME"] = old


def full(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return a machine with dpdispatcher's own names of its kinds, as far as they are known, and what it needs."""
    found = dict(machine)
    for key, known in (("batch_type", SCHEDULERS), ("context_type", (*SHARED, *REMOTE))):
        word = str(found.get(key, "")).lower()
        names = {name.lower(): name for name in known} | {name.lower().removesuffix("context"): name for name in known}
        found[key] = names.get(word, found.get(key))
    if found["context_type"] == "LocalContext":
        found["context_type"] = "LazyLocalContext"  # no copy in remote_root is needed
    found.setdefault("local_root", "./")
    return {key: value for key, value in found.items() if not key.startswith("_")}


def is_remote(machine: Mapping[str, Any]) -> bool:
    """Whether files are sent to the cluster and fetched from it."""
    return full(machine)["context_type"] in REMOTE


def check_machine(machine: Mapping[str, Any], resources: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with dpdispatcher's description of a cluster and of the resources of every job."""
    wanted = full(machine)
    kinds = {"batch_type": SCHEDULERS, "context_type": (*SHARED, *REMOTE)}
    wrong = False
    for key, known in kinds.items():
        if wanted[key] not in known:
            wrong = True
            found = f"{key} {wanted[key]!r} is not supported" if key in machine else f"the key {key!r} is missing"
            yield f"{found}; choose one of {', '.join(known)}"
    if wrong:
        return
    submission = dispatcher()
    yield from _check(submission.Machine.arginfo(), wanted, "machine")
    for key in sorted(_OURS.keys() & resources.keys() - {"queue_name", "group_size"}):
        if resources[key] != _OURS[key]:
            yield f"resources: {key!r} is given by 'resources:' of the stages (nodes, cpus, gpus); take it out"
    if resources.get("group_size", 1) != 1:
        yield f"resources: group_size is {resources['group_size']!r}; dpsim sends one stage with a job, so take it out"
    yield from _check(submission.Resources.arginfo(detail_kwargs=False), {**_OURS, **resources}, "resources")


def _check(arguments: Any, value: Mapping[str, Any], name: str) -> Iterator[str]:
    try:
        normal = arguments.normalize_value(dict(value), trim_pattern="_*", allow_ref=False)
        arguments.check_value(normal, strict=True, allow_ref=False)
    except Exception as error:  # dargs raises its own kinds, and KeyError, TypeError for what it did not think of
        text = str(error).replace("[at root location] ", "").replace("`", "'")
        yield f"{name}: {text[:1].lower()}{text[1:]}".strip()
