"""Stage ``compress``: tables in the place of the embedding networks of a trained model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dpsim.config import Length
from dpsim.workflow.stage import Input, Inputs, Output, Slot, Stage

if TYPE_CHECKING:
    from dpsim.workflow.context import Context


class CompressStage(Stage):
    """Makes a model faster that is only evaluated from now on, and checks that it says the same."""

    slots: ClassVar[Mapping[str, Slot]] = {
        "from": Slot(frozenset({"weights"})),
        "data": Slot(frozenset({"dataset"}), many=True),
    }
    outputs: ClassVar[Mapping[str, Output]] = {
        "model": Output("compressed.safetensors", "weights"),
        "metrics": Output("metrics.json", "metrics"),
    }
    main: ClassVar[str] = "model"
    maps: ClassVar[str] = "from"
    soft: ClassVar[tuple[str, ...]] = ("torch",)

    uses: Literal["compress"] = "compress"
    from_: Annotated[Input, Field(alias="from")]
    """The trained model; of an ensemble, each is compressed."""
    head: str | None = None
    """Head of a model with several."""
    min_distance: Length | None = None
    """Smallest distance of two atoms that will be met, Å."""
    data: Inputs | None = None
    """Data whose smallest distance is taken instead."""
    step: Annotated[float, Field(gt=0)] = 0.01
    """Width of the intervals of the tables."""
    extrapolate: Annotated[float, Field(ge=1)] = 5.0
    """How many times as far the tables go, coarser."""

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Check that the smallest distance is known."""
        if (self.min_distance is None) == (self.data is None):
            yield (), "a compress stage takes either 'min_distance' or 'data': tables are finest down to that distance"

    def execute(self, context: Context) -> None:
        """Compress."""
        from dpsim.calculators.compress import compress_file
        from dpsim.data.files import write_json

        found, facts = compress_file(
            context.input("from"),
            context.out / "compressed.safetensors",
            head=self.head,
            min_distance=self.min_distance,
            data=context.paths("data"),
            step=self.step,
            extrapolate=self.extrapolate,
        )
        for path, grid in found.tables.items():
            context.log(f"{path}: {grid.n_intervals} intervals in [{grid.start:g}, {grid.end:g}]")
        for path, reason in found.left.items():
            context.log(f"{path}: left as it is, {reason}")
        write_json(context.out / "metrics.json", facts)
