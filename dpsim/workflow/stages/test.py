"""Stage ``test``: errors of a model on labelled data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from dpsim.workflow.stage import Input, Inputs, Output, Resources, Slot, Stage

if TYPE_CHECKING:
    from dpsim.workflow.context import Context


class TestStage(Stage):
    """Compares a model with labels, by system and overall."""

    __test__: ClassVar[bool] = False  # no test of pytest, whatever the name says

    slots: ClassVar[Mapping[str, Slot]] = {
        "model": Slot(frozenset({"weights", "frozen"})),
        "data": Slot(frozenset({"dataset"}), many=True),
    }
    outputs: ClassVar[Mapping[str, Output]] = {
        "metrics": Output("metrics.json", "metrics"),
        "parity": Output("parity.npz", "table"),
    }
    main: ClassVar[str] = "metrics"
    maps: ClassVar[str] = "model"
    wants: ClassVar[Resources] = Resources(ranks=1, cpus=None, gpus=1)
    soft: ClassVar[tuple[str, ...]] = ("torch",)
    later: ClassVar[tuple[str, ...]] = ("head", "group_by")

    uses: Literal["test"] = "test"
    model: Input
    """The model, trained or frozen."""
    head: str | None = None
    """Head of a model with several."""
    data: Inputs
    """Labelled data."""
    group_by: Literal["element", "formula", "source"] | None = None
    """List errors not only by system but by ``element`` (of forces and other quantities of atoms), ``formula``, or
    ``source``: the file, trajectory or structure that frames come from."""

    def execute(self, context: Context) -> None:
        """Evaluate every frame."""
        from dpsim.calculators.errors_on_data import evaluate_dataset

        device = "auto" if context.resources.gpus else "cpu"
        data = context.paths("data")
        model, out = context.input("model"), context.out
        evaluate_dataset(
            model, data, out, head=self.head, group_by=self.group_by, device=device, progress=context.progress
        )
