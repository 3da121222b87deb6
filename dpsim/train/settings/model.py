"""The ``model`` section of a training: the standard model, or one made of others."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Tag

from dpsim.train.settings.composed_model import LinearModel, ZBLModel
from dpsim.train.settings.dplr_model import DPLRModel
from dpsim.train.settings.spin_model import SpinModel
from dpsim.train.settings.standard_model import CustomModel, PresetModel


def _form(value: Any) -> str:
    if isinstance(value, PresetModel) or (isinstance(value, dict) and "preset" in value):
        return "preset"
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return kind if kind in ("linear", "zbl", "spin", "dplr") else "custom"


def _named(value: Any) -> Any:
    if isinstance(value, dict) and value.get("type") == "pairtab":
        raise ValueError(
            "a table of pair energies alone leaves nothing to train: put it beside a descriptor and a fitting, in a "
            "model of type linear or zbl"
        )
    return {"preset": value} if isinstance(value, str) else value


ModelSection = Annotated[
    Annotated[
        Annotated[PresetModel, Tag("preset")]
        | Annotated[CustomModel, Tag("custom")]
        | Annotated[LinearModel, Tag("linear")]
        | Annotated[ZBLModel, Tag("zbl")]
        | Annotated[SpinModel, Tag("spin")]
        | Annotated[DPLRModel, Tag("dplr")],
        Discriminator(_form),
    ],
    BeforeValidator(
        _named, json_schema_input_type=str | PresetModel | CustomModel | LinearModel | ZBLModel | SpinModel | DPLRModel
    ),
]

__all__ = ["CustomModel", "DPLRModel", "LinearModel", "ModelSection", "PresetModel", "SpinModel", "ZBLModel"]
