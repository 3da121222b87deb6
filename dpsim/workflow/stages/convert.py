"""Stage ``convert``: frames of any format, together, into one data set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator

from data_tools.clean_config import NearDuplicates
from data_tools.sources import Source as FileSource
from dpsim.config import Config, Fraction
from dpsim.errors import DataError
from dpsim.model.pretrained import HUB
from dpsim.workflow.records.files import full_path
from dpsim.workflow.stage import Files, Output, Reference, SeededStage, Slot, dotted

if TYPE_CHECKING:
    from dpsim.workflow.context import Context

PARTS = ("train", "valid", "test")


class SourceFiles(Files, FileSource):
    """Files to convert, and how to read them."""

    path: Annotated[str, Field(min_length=1)]
    """A file, a folder, or a pattern with ``*`` and ``**``, relative to the workflow file."""

    @field_validator("path")
    @classmethod
    def _no_model(cls, path: str) -> str:
        if path.startswith(HUB):
            raise ValueError(f"{path} is a pretrained model, expected data")
        return path

    def patterns(self) -> tuple[str, ...]:
        """Return what to look for: the path, without a group of HDF5, or as the beginning of several names."""
        return (self.path, self.path.partition("#")[0], f"{self.path}.*")


class SplitConfig(Config):
    """How frames are divided; the shares sum to one."""

    train: Fraction = 0.0
    valid: Fraction = 0.0
    test: Fraction = 0.0
    by: Literal["frame", "structure", "trajectory", "formula"] = "frame"
    """What stays together."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Of the shuffle; by default that of the stage."""
    keep: Reference | None = None
    """One of `from`, a data set whose frames stay in the part they are in; only the others are divided."""

    def shares(self) -> dict[str, float]:
        """Return the parts that are made, with their shares."""
        return {name: getattr(self, name) for name in PARTS if getattr(self, name) > 0}


ConvertInput = Reference | SourceFiles


class ConvertStage(SeededStage):
    """Converts frames to a data set and divides it."""

    slots: ClassVar[Mapping[str, Slot]] = {"from": Slot(frozenset({"frames", "dataset"}), many=True)}
    main: ClassVar[str] = "."
    uses_type_map: ClassVar[bool] = True
    soft: ClassVar[tuple[str, ...]] = ("dpdata", "ase", "numpy")

    later: ClassVar[tuple[str, ...]] = ("property", "dedupe")

    uses: Literal["convert"] = "convert"
    from_: Annotated[ConvertInput | list[ConvertInput], Field(alias="from")]
    """Frames of other stages, or files: ``{path: "aimd/**/OUTCAR", format: vasp/outcar}``."""
    format: Literal["mixed", "npy", "lmdb", "extxyz"] = "mixed"
    """Layout of the data set: a folder for each number of atoms (``deepmd/npy/mixed``) or for each sequence of elements
    (``deepmd/npy``), one database (``deepmd/lmdb``), or a file of extended XYZ for other programs, with ``REF_energy``,
    ``REF_forces`` and ``REF_stress``; no stage of dpsim is trained or tested on the last."""
    split: SplitConfig | None = None
    """``{train: 0.8, valid: 0.1, test: 0.1, by: frame}``; without it there is one part."""
    drop: tuple[Literal["unlabelled", "duplicates", "near_duplicates"], ...] = ()
    """Frames to leave out instead of complaining; of equal or nearly equal ones, the first stays."""
    dedupe: NearDuplicates | None = None
    """What counts as a near duplicate, where these are dropped: ``{tol: 0.05 angstrom}``."""
    property: str = ""
    """Name of a property that frames are labelled with: of its array, or of the key in extended XYZ."""

    def declared_outputs(self) -> Mapping[str, Output]:
        """Return the whole data set and its parts; of extended XYZ, the files."""
        parts = self.split.shares() if self.split else {}
        if self.format != "extxyz":
            return {".": Output(".", "dataset"), **{name: Output(name, "dataset") for name in parts}}
        whole = Output(".", "folder") if parts else Output("frames.extxyz", "frames")
        return {".": whole, **{name: Output(f"{name}/frames.extxyz", "frames") for name in parts}}

    def key_options(self) -> dict[str, Any]:
        """Return the options with the place of what is kept instead of its name; keeping came later."""
        options = super().key_options()
        if self.split is not None:
            kept = [dotted(source.path) for source in self.sources() if source.value == self.split.keep]
            options["split"] = {name: value for name, value in options["split"].items() if name != "keep"}
            options["split"] |= {"keep": kept[0]} if kept else {}
        return options

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Check that the shares sum to one, and that what is kept is converted."""
        keep = self.split.keep if self.split is not None else None
        if keep is not None and all(source.value != keep for source in self.sources()):
            yield ("split", "keep"), f"{keep!r} is not one of 'from': only what is converted can be kept"
        if self.dedupe is not None and "near_duplicates" not in self.drop:
            yield ("dedupe",), "dedupe says what 'drop: [near_duplicates]' drops, and that is not there"
        if self.split is not None:
            total = sum(self.split.shares().values())
            if abs(total - 1.0) > 1e-6:
                yield ("split",), f"the shares of train, valid and test sum to {total:g}; they must sum to 1"

    def seed_for(self, workflow_seed: int) -> int | None:
        """Return the seed of the split, None without one."""
        if self.split is None:
            return None
        return self.split.seed if self.split.seed is not None else super().seed_for(workflow_seed)

    def execute(self, context: Context) -> None:
        """Convert, and print the table of labels to the log."""
        from data_tools.convert import convert

        declared = {dotted(source.path): source.value for source in self.sources()}
        sources, names = [], []
        keep: dict[int, str] = {}
        for artifact in context.inputs["from"]:
            value = declared[artifact.place]
            if isinstance(value, SourceFiles):
                names.append(value.path)
                settings = value.model_dump() | {"path": str(full_path(context.base, value.path))}
                sources.append(FileSource.model_validate(settings))
                continue
            kept = self.split is not None and value == self.split.keep
            for part, path in _parts(artifact.paths[0], kept):
                if path.is_file() and path.stat().st_size == 0:
                    context.log(f"{artifact.stage} has no frames")  # nothing was worth labelling
                    continue
                if part:
                    keep[len(sources)] = part
                names.append("/".join(name for name in (artifact.stage, path.name) if name))
                sources.append(FileSource(path=str(path)))
        if not sources:
            raise DataError("none of the stages in 'from' has frames")
        report = convert(
            sources,
            context.out,
            type_map=context.type_map,
            split=self.split.shares() if self.split else None,
            keep=keep,
            by=self.split.by if self.split else "frame",
            seed=context.seed,
            drop=self.drop,
            near=self.dedupe,
            layout=self.format,
            property_name=self.property,
            overwrite=True,
            on_progress=lambda done, total, name: context.progress(done, total, "files read"),
        )
        print(report.table())
        dropped = {why: sum(one.dropped.get(why, 0) for one in report.sources) for why in self.drop}
        if dropped:
            context.log("left out: " + ", ".join(f"{count} {why}" for why, count in dropped.items()))
        _settle_card(context.out / "dataset.json", names)


def _parts(path: Path, kept: bool) -> list[tuple[str, Path]]:
    """Return what is read of an artifact: if its frames stay where they are, each part by its name.

    Raises
    ------
    DataError
        If frames are to stay in their part and have none.
    """
    if not kept:
        return [("", path)]
    found = [(name, path / name) for name in PARTS if (path / name).is_dir()]
    if not found:
        raise DataError(f"split.keep: {path} is not divided into {', '.join(PARTS)}; give its stage a split")
    return found


def _settle_card(path: Path, names: list[str]) -> None:
    """Take time and place out of the card of a data set, so that equal data are equal files."""
    from dpsim.data.files import read_json, write_json

    card = read_json(path)
    card = {key: value for key, value in card.items() if key not in ("made", "output")}
    for source, name in zip(card["sources"], names, strict=True):
        source["path"] = name
    write_json(path, card)
