"""Settings of models of all kinds. No torch here: a declaration is checked without it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from dpsim.model.compose.config import LinearModelConfig, PairTableConfig, ZBLModelConfig
from dpsim.model.compose.dplr_config import DPLRModelConfig
from dpsim.model.compose.spin_config import SpinModelConfig
from dpsim.model.standard import ModelConfig

AnyModelConfig = ModelConfig | PairTableConfig | LinearModelConfig | ZBLModelConfig | SpinModelConfig | DPLRModelConfig
"""Union of the settings of all kinds of models."""


def read_config(settings: Mapping[str, Any]) -> AnyModelConfig:
    """Settings of a model of any kind from their JSON form; raises pydantic's `ValidationError`."""
    adapter = TypeAdapter[AnyModelConfig](Annotated[AnyModelConfig, Field(discriminator="type")])
    return adapter.validate_python({"type": "standard", **settings})


__all__ = [
    "AnyModelConfig",
    "DPLRModelConfig",
    "LinearModelConfig",
    "ModelConfig",
    "PairTableConfig",
    "ZBLModelConfig",
    "read_config",
]
