"""Compiled training: what a model predicts and the gradient by its parameters, compiled before the first step.

The two graphs of `dpsim.train.compile.graph` are compiled ahead of time, in a process of its own, into a package that
is kept (`dpsim.train.compile.package`) and run instead of the model in every step (`dpsim.train.compile.run`), once it
gave the numbers of the model on a few structures. Whether a training is compiled follows from its settings and data, so
that one that was interrupted goes on as it began.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import torch

from dpsim.errors import Interrupted, SetupError
from dpsim.train.compile.choice import needs_derivatives, pays
from dpsim.train.compile.graph import Unsupported
from dpsim.train.compile.package import ensure, request_for
from dpsim.train.compile.run import CompiledModel, difference
from dpsim.train.parallel.distributed import ALONE, Workers
from dpsim.train.settings.run import Compile
from dpsim.train.task import Task

log = logging.getLogger("dpsim.train")

ONE_MORE = {"hessian"}
"""Terms of a loss that differentiate once more than a compiled step can be."""
Tell = Callable[[str], None]
"""Told, about once a second, what is being done."""


def compile_tasks(
    tasks: Sequence[Task],
    chances: Sequence[float],
    steps: int,
    device: torch.device,
    *,
    tell: Tell,
    stop: Callable[[], bool],
    workers: Workers = ALONE,
) -> None:
    """Let the models of tasks compute compiled in steps, where that is asked for or pays, and is possible.

    Parameters
    ----------
    chances
        Of a step to be for each task; they need not sum to 1.
    steps
        Of the whole training.
    stop
        Asked now and then; when true, compiling ends.

    Raises
    ------
    SetupError
        If ``compile: true`` is asked for and there is no compiler, or the cache cannot be written.
    Interrupted
        If `stop` ended it.
    """
    waiting = _Waiting(tell, stop)
    for task, chance in zip(tasks, chances, strict=True):
        name = f"head {task.name}: " if task.name else ""
        config = task.config
        why_not = _why_not(task, steps * chance / sum(chances), device, config.compile)
        if why_not is None:
            why_not = _compile(task, waiting, name, asked=config.compile is True)
        if workers.any(why_not is not None):
            task.model.compiled = None
            asked = config.compile is True
            log.log(logging.WARNING if asked else logging.INFO, "%ssteps are not compiled: %s", name,
                    why_not or "another process cannot")  # fmt: skip


def _why_not(task: Task, steps: float, device: torch.device, asked: Compile) -> str | None:
    """Why the model of a task is not to be compiled; None if it is."""
    if asked is False:
        return "compile: false"
    if further := ONE_MORE & set(task.loss.config.active):
        return f"loss.{min(further)} takes one more derivative"
    return pays(task, steps, device.type) if asked == "auto" else None


def _compile(task: Task, waiting: _Waiting, name: str, asked: bool) -> str | None:
    """Let the model of a task compute compiled; why that is not possible, or None."""
    derivatives = needs_derivatives(task)
    begin = time.perf_counter()
    waiting.begin(name)
    try:
        request = request_for(task.model, derivatives, task.config.matrix_products)
        compiled = CompiledModel.load(task.model, ensure(request, waiting, retry=asked), derivatives)
    except Unsupported as error:
        return str(error)
    except SetupError as error:
        if asked:
            raise
        return str(error)
    found = difference(compiled, task.model)
    if not found <= 1:
        return f"the compiled step differs from the plain one by {found:.3g} times what rounding may do"
    task.model.compiled = compiled
    log.info("%ssteps are compiled: ready after %.1f s", name, time.perf_counter() - begin)
    return None


class _Waiting:
    """Says how long compiling has taken, about once a second, and ends it when the training is to stop."""

    def __init__(self, tell: Tell, stop: Callable[[], bool]) -> None:
        self.tell, self.stop, self.name, self.said = tell, stop, "", -1

    def begin(self, name: str) -> None:
        """From here on it is for this task."""
        self.name, self.said = name, -1

    def __call__(self, seconds: float) -> None:
        if self.stop():
            raise Interrupted("training stopped while its step was being compiled: run again to go on")
        if self.said < 0:
            log.info("%scompiling the step, once for this model on this machine", self.name)
        if int(seconds) > self.said:
            self.said = int(seconds)
            self.tell(f"{self.name}compiling the step, {self.said} s")


__all__ = ["CompiledModel", "compile_tasks"]
