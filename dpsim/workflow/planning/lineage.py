"""What a stage takes from where its input comes from: models that explored, how far they were apart, what they learnt.

A selection is told where its frames are. The deviation along the dynamics, the trained models behind it and the data
they were trained on follow from that; they become inputs like those that are declared, in the key and in the plan.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dpsim.workflow.language.tasks import Task
    from dpsim.workflow.planning.plan import Link

Producer = tuple[str, str]
"""A task, and the path of one of its outputs."""
LinksOf = Callable[["Task"], Sequence["Link"]]
_TOWARDS_MODEL = {"md": "potential", "freeze": "from", "compress": "from"}
"""The slot through which each type of stage is given a model."""


def inherited(
    task: Task, links: Sequence[Link], tasks: Mapping[str, Task], links_of: LinksOf
) -> Iterator[tuple[str, tuple[Producer, ...]]]:
    """Yield slot and producers of the inputs of a selection that follow from its frames.

    Parameters
    ----------
    links
        Inputs that are declared; what they give is not looked for.
    links_of
        Gives the inputs of another task.
    """
    given = {link.slot for link in links}
    makers = dict.fromkeys(name for link in links if link.slot == "from" for name, _ in link.producers)
    outputs = {name: tasks[name].config.declared_outputs() for name in makers}
    followed = {
        "deviation": tuple((name, found["deviation"].path) for name, found in outputs.items() if "deviation" in found)
    }
    models = [producer for link in links if link.slot == "models" for producer in link.producers]
    if "models" not in given:
        models = [producer for name in makers for producer in _models(tasks[name], tasks, links_of)]
        followed["models"] = tuple(dict.fromkeys(models))
    trained = [tasks[name] for name, _ in models[:1] if tasks[name].config.uses == "train"]
    data = [link for one in trained for link in links_of(one) if link.slot == "data"]
    followed["reference"] = tuple(dict.fromkeys(producer for link in data for producer in link.producers))
    for slot in task.config.inherits:
        if slot not in given and followed[slot]:
            yield slot, followed[slot]


def _models(task: Task, tasks: Mapping[str, Task], links_of: LinksOf) -> Iterator[Producer]:
    """Yield the trained models that a task was given, directly or frozen."""
    slot = _TOWARDS_MODEL.get(task.config.uses)
    for link in links_of(task) if slot is not None else ():
        for name, path in link.producers if link.slot == slot else ():
            if tasks[name].config.uses == "train":
                yield name, path
            else:
                yield from _models(tasks[name], tasks, links_of)
