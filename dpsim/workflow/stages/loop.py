"""Stage ``loop``: stages that are run again and again until a number is good enough, such as active learning.

The inner stages of each iteration are stages like all others (``loop.03.explore``), planned one iteration after the
other (`dpsim.workflow.planning.loop`). What is run under the name of the loop itself is its end: a table of the
iterations.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from dpsim.config import Config
from dpsim.workflow.records.files import read_json
from dpsim.workflow.stage import STAGE_NAME, Input, Output, Reference, Slot, Source, Stage

if TYPE_CHECKING:
    from dpsim.workflow.context import Artifact, Context

CarryName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]


class Until(Config):
    """When a loop ends."""

    metric: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)+$")]
    """A number that an inner stage reports: ``select.accurate``, ``test.overall.forces_rmse``. Of a stage with several
    points the worst counts."""
    at_least: float | None = None
    """It is good enough from here on."""
    at_most: float | None = None
    """It is good enough up to here."""
    for_: Annotated[int, Field(ge=1, alias="for")] = 1
    """In how many iterations, one after the other, it must be good enough."""

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("give the limit of the metric once, as 'at_least' or as 'at_most'")
        return self

    def is_good(self, value: float) -> bool:
        """Whether a value is good enough."""
        return value >= self.at_least if self.at_least is not None else value <= (self.at_most or 0.0)

    def worst(self, values: Sequence[float]) -> float:
        """Return the value that is farthest from good enough; one that is no number is."""
        if any(math.isnan(value) for value in values):
            return math.nan
        return min(values) if self.at_least is not None else max(values)

    def reached(self, values: Sequence[float]) -> bool:
        """Whether the last values, one of each iteration, were good enough often enough."""
        return len(values) >= self.for_ and all(self.is_good(value) for value in values[-self.for_ :])

    def __str__(self) -> str:
        """Return the condition in words."""
        limit = f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"
        often = f" in {self.for_} iterations running" if self.for_ > 1 else ""
        return f"{self.metric} is {limit}{often}"


class LoopStage(Stage):
    """Repeats stages until a number that one of them reports is good enough.

    Outputs are also what is carried, by name; it lies with the stages of the last iteration.
    """

    slots: ClassVar[Mapping[str, Slot]] = {
        "carry": Slot(frozenset({"any"}), many=True),
        "next": Slot(frozenset({"any"}), many=True),
        "iterations": Slot(frozenset({"any"}), many=True, whole=True),
    }
    outputs: ClassVar[Mapping[str, Output]] = {
        "metrics": Output("metrics.json", "metrics"),
        "iterations": Output("iterations.csv", "table"),
    }
    more_outputs: ClassVar[bool] = True
    main: ClassVar[str] = "metrics"
    not_in_key: ClassVar[frozenset[str]] = Stage.not_in_key | {"max_iterations", "carry", "stages", "next"}

    uses: Literal["loop"] = "loop"
    max_iterations: Annotated[int, Field(ge=1, le=999)]
    """After this many iterations the loop ends, good enough or not; raising it goes on."""
    until: Until
    """``{metric: select.accurate, at_least: 0.98, for: 2}``."""
    carry: Annotated[dict[CarryName, Input], Field(min_length=1)]
    """What goes from iteration to iteration, by name, with what the first one begins with: ``{data: seed}``. Of a loop
    named ``loop``, inner stages take it as ``loop.data``; outside of the loop the same name means its last value."""
    stages: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    """The inner stages by name, written as all others. They refer to each other, to what is carried and to stages
    outside. Iteration i takes the seed of the workflow + 1000 (i - 1)."""
    next: dict[CarryName, Reference]
    """What each carried name stands for in the iteration that follows: ``{data: grow, weights: fit.best}``."""

    def sources(self) -> Iterator[Source]:
        """Yield what the first iteration begins with; what it ends with is linked as the loop unrolls."""
        for name, value in self.carry.items():
            yield Source("carry", ("carry", name), value)

    def key_options(self) -> dict[str, Any]:
        """Return the options without the inner stages, whose results are inputs."""
        return self.model_dump(mode="json", by_alias=True, exclude=set(self.not_in_key))

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Check that carried names and inner stages fit each other."""
        for name in self.carry:
            if name in self.outputs:
                yield ("carry", name), f"{name!r} is an output of the loop itself; choose another name"
            if name not in self.next:
                known = "refer to it directly if it never changes"
                yield (
                    ("carry", name),
                    f"{name!r} is not in 'next', which says what it is in the next iteration; {known}",
                )
        for name in self.next:
            if name not in self.carry:
                yield ("next", name), f"{name!r} is not in 'carry', which says what the first iteration begins with"
        metric_stage = self.until.metric.partition(".")[0]
        if metric_stage not in self.stages:
            known = ", ".join(self.stages)
            yield ("until", "metric"), f"{metric_stage!r} is not an inner stage of this loop (inner stages: {known})"
        for name, inner in self.stages.items():
            if inner.get("uses") == "loop":
                yield ("stages", name), "a loop inside of a loop is not possible; unfold one of them"
            if not STAGE_NAME.fullmatch(name):
                yield ("stages", name), f"{name!r} is not a stage name: a letter, then letters, digits, '_' and '-'"

    def execute(self, context: Context) -> None:
        """Write the table of the iterations."""
        from dpsim.data.files import write_json, write_text

        found = _iterations(context.inputs.get("iterations", ()), context.name)
        values = [self._value(stages) for stages in found.values()]
        rows = [
            {"number": number, "value": value, "stages": stages}
            for (number, stages), value in zip(found.items(), values, strict=True)
        ]
        reached = self.until.reached(values)
        write_json(
            context.out / "metrics.json",
            {"iterations": rows, "converged": reached, "until": self.until.model_dump(mode="json", by_alias=True)},
        )
        write_text(context.out / "iterations.csv", _table(rows))
        ended = "until" if reached else "which is all there may be, before"
        context.log(f"{len(rows)} iterations, {ended} {self.until}")
        context.progress(len(rows), len(rows), "iterations", iterations=len(rows), value=values[-1])

    def _value(self, stages: Mapping[str, Mapping[str, Any]]) -> float:
        return metric_value(self.until, stages)


def metric_value(until: Until, stages: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the metric of one iteration, the worst over the points of its stage.

    Parameters
    ----------
    stages
        What each inner stage reported, by its name within the iteration (``fit`` or ``fit@member=1``).

    Raises
    ------
    KeyError
        With a sentence, if there is no such number.
    """
    stage, _, path = until.metric.partition(".")
    values = []
    for name, reported in stages.items():
        if name.partition("@")[0] != stage:
            continue
        value = _look_up(reported, path.split("."))
        if not isinstance(value, int | float) or isinstance(value, bool):
            known = ", ".join(f"{stage}.{key}" for key in _numbers(reported)) or "none"
            raise KeyError(f"stage {stage!r} reports no number {path!r}; its numbers: {known}")
        values.append(float(value))
    if not values:
        raise KeyError(f"stage {stage!r} reports nothing")
    return until.worst(values)


def reported_by(paths: Sequence[Path]) -> dict[str, Any]:
    """Return the numbers in the outputs of a stage: of JSON files, and of data sets the number of frames."""
    found: dict[str, Any] = {}
    for path in paths:
        if path.is_dir():
            card = read_json(path / "dataset.json")
            found |= {"frames": card["frames"], **card.get("parts", {})} if "frames" in card else {}
        else:
            found |= read_json(path)
    return found


def _iterations(artifacts: Sequence[Artifact], loop: str) -> dict[int, dict[str, dict[str, Any]]]:
    """Return what was reported, by iteration and inner stage."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for artifact in artifacts:
        number, _, name = str(artifact.stage)[len(loop) + 1 :].partition(".")
        found.setdefault(int(number), {}).setdefault(name, {}).update(reported_by(artifact.paths))
    return dict(sorted(found.items()))


def _look_up(value: Any, path: Sequence[str]) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _numbers(value: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _numbers(item, f"{prefix}{key}.")
        elif isinstance(item, int | float) and not isinstance(item, bool):
            yield prefix + key


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one line for each iteration, with every number that a stage reported."""
    columns: dict[str, None] = {}
    lines = []
    for row in rows:
        line = {"iteration": row["number"], "value": row["value"]}
        for name, reported in row["stages"].items():
            for key in _numbers(reported):
                line[f"{name}.{key}"] = _look_up(reported, key.split("."))
        columns |= dict.fromkeys(line)
        lines.append(line)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
