"""Stage ``freeze``: a trained model compiled for LAMMPS and ASE, with its checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dpsim.workflow.stage import Input, Output, Resources, Slot, Stage

if TYPE_CHECKING:
    from dpsim.workflow.context import Context


class FreezeStage(Stage):
    """Compiles a model to ``.pt2`` and shows that it says the same through every door.

    Of an ensemble, each model is compiled, and ``models`` means all of them.
    """

    slots: ClassVar[Mapping[str, Slot]] = {"from": Slot(frozenset({"weights"}))}
    outputs: ClassVar[Mapping[str, Output]] = {
        "model": Output("model.pt2", "frozen"),
        "models": Output("model.pt2", "frozen"),
        "card": Output("card.json", "table"),
    }
    main: ClassVar[str] = "model"
    maps: ClassVar[str] = "from"
    wants: ClassVar[Resources] = Resources(ranks=1, cpus=None, gpus=1)
    soft: ClassVar[tuple[str, ...]] = ("torch", "lammps")
    later: ClassVar[tuple[str, ...]] = ("head",)

    uses: Literal["freeze"] = "freeze"
    from_: Annotated[Input, Field(alias="from")]
    """The model."""
    head: str | None = None
    """Head of a model with several."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it will run; ``auto``: the GPU if the stage is granted one."""
    precision: Literal["float32", "float64"] | None = None
    """Floating-point type; by default the model's own."""
    checks: bool = True
    """Compare PyTorch, the frozen model, ASE, LAMMPS and finite differences, and fail above tolerance."""

    def execute(self, context: Context) -> None:
        """Freeze."""
        from dpsim.calculators.freeze import freeze

        freeze(
            context.input("from"),
            context.out / "model.pt2",
            head=self.head,
            device=device_for(self.device, context),
            dtype=self.precision,
            checks=self.checks,
            card=context.out / "card.json",
            progress=context.progress,
        )


def device_for(device: str, context: Context) -> str:
    """Return ``cpu`` or ``cuda`` for ``auto``: the GPU if the stage was granted one that torch can use."""
    if device != "auto":
        return device
    if context.resources.gpus == 0:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
