"""Models made of others in a training: weighted sums, and interpolation to a table of pair energies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from dpsim.config import Config, Distance, Length
from dpsim.errors import ConfigError
from dpsim.model.compose.config import LinearModelConfig, PairTableConfig, ZBLModelConfig
from dpsim.model.compose.table import check_table, extended, read_rows
from dpsim.model.config import ModelConfig
from dpsim.train.settings.standard_model import CustomModel, PresetModel, Section


class Part(Config):
    """What a part of a model may have beside what it is."""

    type_map: Annotated[tuple[str, ...], Field(min_length=1)] | None = None
    """Elements that the part knows, if they are more than, or in another order than, those of the model."""


class PresetPart(Part, PresetModel):
    """A preset as a part of a model."""


class CustomPart(Part, CustomModel):
    """Descriptor and fitting in full, as a part of a model."""


class TablePart(Part):
    """A table of pair energies as a part of a model."""

    type: Literal["pairtab"] = "pairtab"
    table: str | tuple[tuple[float, ...], ...]
    """A text file, or its rows: a distance in Å and the energies in eV of the pairs of elements 00, 01, …, 11, …."""
    rcut: Length | None = None
    """Cutoff radius; in a model of type zbl by default that of the learned part."""
    sel: Annotated[int, Field(gt=0)] | None = None
    """Nearest neighbours kept; in a model of type zbl by default as many as in the learned part."""
    pair_exclude_types: tuple[tuple[int, int], ...] = ()
    """Unordered pairs of types that do not see each other."""
    atom_exclude_types: tuple[int, ...] = ()
    """Types that are neighbours of others but have no energy of their own."""

    def config(self, type_map: tuple[str, ...], rcut: float | None, sel: int | None) -> PairTableConfig:
        """Complete settings; `rcut` and `sel` hold where the table has none.

        Raises
        ------
        ConfigError
            If the file is no table for these elements.
        """
        known, rcut, sel = self.type_map or type_map, self.rcut or rcut, self.sel or sel
        assert rcut is not None
        assert sel is not None
        try:
            rows = read_rows(self.table, len(known)) if isinstance(self.table, str) else _rows(self.table)
            table = tuple(map(tuple, extended(rows, rcut).tolist()))
        except ValueError as error:
            raise ConfigError(f"model: table: {error}") from None
        return PairTableConfig(
            type_map=known,
            rcut=rcut,
            sel=sel,
            table=table,
            pair_exclude_types=self.pair_exclude_types,
            atom_exclude_types=self.atom_exclude_types,
        )


def _rows(table: tuple[tuple[float, ...], ...]) -> npt.NDArray[np.float64]:
    if len({len(row) for row in table}) != 1:
        raise ValueError("the rows have different numbers of columns, or there are none")
    rows = np.array(table, dtype=np.float64)
    check_table(rows)
    return rows


def _kind(value: Any) -> str | None:
    if isinstance(value, PresetModel) or (isinstance(value, dict) and "preset" in value):
        return "preset"
    kind = value.get("type", "standard") if isinstance(value, dict) else getattr(value, "type", None)
    return "custom" if kind == "standard" else str(kind)


def _named(value: Any) -> Any:
    return {"preset": value} if isinstance(value, str) else value


def _as_table(value: Any) -> Any:
    return {"table": value} if isinstance(value, str | list | tuple) else value


LearnedPart = Annotated[
    Annotated[Annotated[PresetPart, Tag("preset")] | Annotated[CustomPart, Tag("custom")], Discriminator(_kind)],
    BeforeValidator(_named, json_schema_input_type=str | PresetPart | CustomPart),
]
AnyPart = Annotated[
    Annotated[
        Annotated[PresetPart, Tag("preset")]
        | Annotated[CustomPart, Tag("custom")]
        | Annotated[TablePart, Tag("pairtab")],
        Discriminator(_kind),
    ],
    BeforeValidator(_named, json_schema_input_type=str | PresetPart | CustomPart | TablePart),
]


class LinearModel(Section):
    """Weighted sum of the energies of several models, trained together."""

    type: Literal["linear"]
    models: Annotated[tuple[AnyPart, ...], Field(min_length=1)]
    """The parts: presets, descriptor and fitting in full, or tables."""
    weights: Literal["mean", "sum"] | tuple[float, ...] = "mean"
    """One factor a part; ``sum`` means 1, ``mean`` one over the number of parts."""

    @model_validator(mode="after")
    def _check(self) -> LinearModel:
        tables = [part for part in self.models if isinstance(part, TablePart)]
        if len(tables) == len(self.models):
            raise ValueError("all models are tables, which leaves nothing to train: add a model with a descriptor")
        if any(part.rcut is None or part.sel is None for part in tables):
            raise ValueError("a table has no rcut or no sel: in a linear model both are needed")
        _without_bias(self.models)
        return self

    def resolve(self, type_map: tuple[str, ...], precision: str | None) -> LinearModelConfig:
        """Complete settings for these elements; `precision` replaces that of all parts."""
        parts = (
            part.config(type_map, None, None)
            if isinstance(part, TablePart)
            else part.resolve(part.type_map or type_map, precision)
            for part in self.models
        )
        return LinearModelConfig(
            type_map=type_map,
            models=tuple(parts),
            weights=self.weights,
            pair_exclude_types=self.pair_exclude_types,
            atom_exclude_types=self.atom_exclude_types,
        )


class ZBLModel(Section):
    """A learned model that gives way to a table of pair energies where atoms come close."""

    type: Literal["zbl"]
    model: LearnedPart
    """The learned model: a preset, or descriptor and fitting in full."""
    table: Annotated[TablePart, BeforeValidator(_as_table, json_schema_input_type=str | TablePart)]
    """Energies of pairs at short distances: a text file, or a table in full."""
    sw_rmin: Distance
    """Distance of the nearest neighbour below which the table alone counts."""
    sw_rmax: Length
    """Distance of the nearest neighbour above which the learned model alone counts."""
    smin_alpha: Length = 0.1
    """Decay length of the soft minimum of the distances."""

    @model_validator(mode="after")
    def _check(self) -> ZBLModel:
        if self.sw_rmin >= self.sw_rmax:
            raise ValueError(f"sw_rmin ({self.sw_rmin} Å) must be smaller than sw_rmax ({self.sw_rmax} Å)")
        _without_bias((self.model,))
        return self

    def resolve(self, type_map: tuple[str, ...], precision: str | None) -> ZBLModelConfig:
        """Complete settings for these elements; `precision` replaces that of the learned part."""
        learned: ModelConfig = self.model.resolve(self.model.type_map or type_map, precision)
        spec = learned.neighbors()
        return ZBLModelConfig(
            type_map=type_map,
            model=learned,
            table=self.table.config(type_map, spec.cutoff, spec.sel),
            sw_rmin=self.sw_rmin,
            sw_rmax=self.sw_rmax,
            smin_alpha=self.smin_alpha,
            pair_exclude_types=self.pair_exclude_types,
            atom_exclude_types=self.atom_exclude_types,
        )


def _without_bias(parts: tuple[PresetPart | CustomPart | TablePart, ...]) -> None:
    if any(isinstance(part, Section) and part.preset_out_bias for part in parts):
        raise ValueError("preset_out_bias stands in a part: energies of elements belong to the whole model")


def with_tables(node: Any, base: Path, n_types: int) -> Any:
    """Plain values of a section with the rows of its tables instead of their files.

    Parameters
    ----------
    base
        Folder to which file names are relative.
    n_types
        Number of elements, where a part has no others; 0 if they are not known yet: files are then named in full.

    Raises
    ------
    ConfigError
        If a file is missing or no table.
    """
    if not isinstance(node, dict):
        return node
    found = dict(node)
    for key, value in node.items():
        if key == "models" and isinstance(value, list):
            found[key] = [with_tables(part, base, n_types) for part in value]
        elif key == "table" and isinstance(value, dict):
            found[key] = with_tables(value, base, n_types)
        elif key == "table" and isinstance(value, str):
            own = node.get("type_map")
            known = len(own) if isinstance(own, list) else n_types
            found[key] = read_rows(base / value, known).tolist() if known else str((base / value).resolve())
    return found
