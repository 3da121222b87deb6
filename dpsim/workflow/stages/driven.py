"""Stages that are driven by a model, or by any calculator that labels: relax, phonon, properties."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from data_tools.calculators import CalculatorConfig, EAMConfig
from data_tools.code_calculators import CodeConfig
from dpsim.calculators.statics.declared import FramesConfig, Place, declared
from dpsim.workflow.stage import Input, MaybeReference, Resources, Slot, Source, sources_of
from dpsim.workflow.stages.calculated import CalculatedStage
from dpsim.workflow.stages.freeze import device_for
from dpsim.workflow.stages.label import elements_of_structure, files_of_structure

if TYPE_CHECKING:
    from ase import Atoms

    from dpsim.workflow.context import Context

STRUCTURES = Slot(frozenset({"frames", "structures", "dataset"}), many=True)
SLOTS = {
    "potential": Slot(frozenset({"frozen", "weights"})),
    "on": STRUCTURES,
    "structures": Slot(frozenset({"any"}), many=True),
    "calculator": Slot(frozenset({"any"})),
}


class DrivenStage(CalculatedStage):
    """What such stages have in common."""

    wants: ClassVar[Resources] = Resources(ranks=1, cpus=None, gpus=1)
    soft: ClassVar[tuple[str, ...]] = ("torch", "ase")

    potential: Input | None = None
    """The model, frozen or trained."""
    calculator: CalculatorConfig | None = None
    """A calculator as that of a label stage instead of a model, for reference values."""
    head: str | None = None
    """Head of a model with several."""
    precision: Literal["float32", "float64"] | None = None
    """Floating-point type; by default float64, of a frozen model its own."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Of structures that are built at random; by default that of the workflow."""

    def structure_places(self) -> Iterator[tuple[Place, Any]]:
        """Yield place and value of every declaration of structures."""
        yield ("on",), getattr(self, "on", None)

    def sources(self) -> Iterator[Source]:
        """Yield the model, the file of the calculator, and what structures are read from."""
        yield from sources_of("potential", ("potential",), self.potential)
        yield from self.files_of_calculator()
        for place, value in self.structure_places():
            for where, _, one in declared(place, value):
                if isinstance(one, FramesConfig):
                    yield Source("on", (*where, "frames"), MaybeReference(one.frames))
                else:
                    yield from files_of_structure("structures", where, one)

    def elements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield the elements of structures that are built; a calculator need not know those of the model."""
        if self.calculator is not None:
            return
        for place, value in self.structure_places():
            for where, _, one in declared(place, value):
                if not isinstance(one, FramesConfig):
                    yield from elements_of_structure(where, one)

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Check that there is one thing that drives."""
        if (self.potential is None) == (self.calculator is None):
            yield (), f"a {self.uses} stage takes either 'potential' or 'calculator'"
        elif self.calculator is not None:
            for name in ("head", "precision"):
                if getattr(self, name) is not None:
                    yield (name,), f"{name} is one of models, a calculator has none: take it out"

    def citations(self) -> Iterator[str]:
        """Yield the references of ASE and of the method."""
        yield from self.citations_of_calculator()

    def source_of(self, context: Context) -> Any:
        """Return what gives calculators."""
        from dpsim.calculators.statics.source import calculator_source, model_source

        if self.calculator is not None:
            with contextlib.chdir(context.base):
                return calculator_source(self._located())
        device = device_for("auto", context)
        return model_source(context.input("potential"), self.head, device, self.precision)

    def _located(self) -> Any:
        """The calculator with the full paths of its files, since they are opened later."""
        return self.calculator.located() if isinstance(self.calculator, EAMConfig | CodeConfig) else self.calculator

    def structures_of(self, context: Context, value: Any, place: str = "on") -> list[Atoms]:
        """Return the structures of a declaration."""
        from dpsim.calculators.statics.structures import structures_on

        files: dict[str, list[Path]] = {}
        for artifact in context.inputs.get("on", ()):
            files.setdefault(artifact.place, []).extend(artifact.paths)
        with contextlib.chdir(context.base):  # paths inside of the declaration are relative to the workflow file
            return structures_on(value, seed=context.seed, files=files, type_map=context.type_map, place=place)
