"""Ready-made models by name. No torch here: a declaration is checked without it."""

from __future__ import annotations

from typing import Any, NamedTuple

from dpsim.descriptors import (
    DescriptorConfig,
    DPA1Config,
    DPA2Config,
    DPA3Config,
    SeAttenV2Config,
    SeE2AConfig,
    SeE2RConfig,
    SeE3Config,
    SeE3TebdConfig,
)
from dpsim.descriptors.dpa2.config import RepformerConfig, RepinitConfig
from dpsim.descriptors.dpa3.config import RepFlowConfig
from dpsim.errors import ConfigError
from dpsim.fittings import EnergyFittingConfig
from dpsim.model.standard import ModelConfig

_Parts = tuple[DescriptorConfig, EnergyFittingConfig]


class Preset(NamedTuple):
    """Descriptor and fitting of a model, and what to expect of it."""

    descriptor: DescriptorConfig
    fitting: EnergyFittingConfig
    parameters: int
    """Number of parameters for two elements."""
    about: str
    """One line for those who choose."""


def _dpa3(n: int, e: int, a: int, layers: int, neuron: tuple[int, ...], **flow: Any) -> _Parts:
    settings: dict[str, Any] = {
        "n_dim": n, "e_dim": e, "a_dim": a, "nlayers": layers, "e_rcut": 6.0, "e_rcut_smth": 5.3, "e_sel": 120,
        "a_rcut": 4.0, "a_rcut_smth": 3.5, "a_sel": 30, "a_compress_rate": 1, "a_compress_e_rate": 2,
        "a_compress_use_split": True, "smooth_edge_update": True, "edge_init_use_dist": True, "use_exp_switch": True,
    } | flow  # fmt: skip
    descriptor = DPA3Config(repflow=RepFlowConfig(**settings), activation_function="silut:10", precision="float32")
    fitting = EnergyFittingConfig(neuron=neuron, activation_function="silut:10", precision="float32")
    return descriptor, fitting


_ATTENTION: Any = {
    "sel": 120, "rcut": 6.0, "rcut_smth": 0.5, "neuron": (25, 50, 100), "axis_neuron": 16, "tebd_dim": 8,
    "type_one_side": True, "attn": 128, "precision": "float32",
}  # fmt: skip
_TANH = EnergyFittingConfig(neuron=(240, 240, 240), activation_function="tanh", resnet_dt=True, precision="float32")


def _dpa2(nlayers: int, *, attention: bool, mode: str = "concat") -> _Parts:
    """The inputs that the authors of DPA-2 ship, in single precision."""
    repinit: Any = {
        "rcut": 6.0, "rcut_smth": 0.5, "nsel": 120, "axis_neuron": 12, "tebd_input_mode": mode, "use_three_body": True,
        "three_body_sel": 48, "three_body_rcut": 4.0, "three_body_rcut_smth": 3.5,
    }  # fmt: skip
    repformer: Any = {
        "rcut": 4.0, "rcut_smth": 3.5, "nsel": 48, "nlayers": nlayers, "g1_dim": 128, "g2_dim": 32,
        "attn2_hidden": 32, "attn2_nhead": 4, "attn2_has_gate": True, "attn1_hidden": 128, "attn1_nhead": 4,
        "update_g1_has_attn": False, "update_g2_has_g1g1": False, "update_g2_has_attn": attention,
        "update_style": "res_residual", "update_residual": 0.01,
    }  # fmt: skip
    first, layers = RepinitConfig(**repinit), RepformerConfig(**repformer)
    return DPA2Config(repinit=first, repformer=layers, precision="float32"), _TANH


_PLACES: Any = {"rcut": 6.0, "rcut_smth": 0.5, "sel": 92, "precision": "float32"}
_RADIAL = SeE2RConfig(**_PLACES, neuron=(5, 10, 20))
_DIRECTED = SeE2AConfig(**_PLACES, neuron=(25, 50, 100), axis_neuron=16, type_one_side=True)
_ANGLES_OF_TYPES = SeE3Config(rcut=4.0, sel=30, neuron=(2, 4, 8), precision="float32")
_ANGLES = SeE3TebdConfig(sel=40, rcut=4.0, neuron=(2, 4, 8), precision="float32")

PRESETS = {
    "dpa3-tiny": Preset(
        *_dpa3(32, 16, 16, 2, (64, 64), e_rcut=4.5, e_rcut_smth=3.8, e_sel=60, a_rcut=3.2, a_rcut_smth=2.6, a_sel=20),
        33_809, "DPA-3, 2 layers: trains in minutes on a laptop",
    ),
    "dpa3-small": Preset(
        *_dpa3(64, 32, 16, 3, (128, 128), e_rcut=5.0, e_rcut_smth=4.3, e_sel=80, a_rcut=3.5, a_rcut_smth=3.0, a_sel=24),
        171_537, "DPA-3, 3 layers: one material, a few thousand frames",
    ),
    "dpa3-l3": Preset(*_dpa3(128, 64, 32, 3, (240, 240, 240)), 728_769, "DPA-3, 3 layers of production width"),
    "dpa3-l6": Preset(*_dpa3(128, 64, 32, 6, (240, 240, 240)), 1_309_761, "DPA-3, 6 layers: the production size"),
    "dpa2-small": Preset(*_dpa2(3, attention=False), 622_219, "DPA-2, 3 layers without pair attention"),
    "dpa2-medium": Preset(*_dpa2(6, attention=True), 1_017_163, "DPA-2, 6 layers with pair attention"),
    "dpa2-large": Preset(*_dpa2(12, attention=True), 1_741_003, "DPA-2, 12 layers with pair attention"),
    "dpa2-compressible": Preset(
        *_dpa2(3, attention=False, mode="strip"), 628_698, "DPA-2, 3 layers, whose first part can be tabulated"
    ),
    "dpa1": Preset(
        DPA1Config(**_ATTENTION, attn_layer=2, temperature=1.0, smooth_type_embedding=True), _TANH,
        612_995, "DPA-1, 2 layers of attention among the neighbours; no messages between ranks",
    ),
    "se-atten-v2": Preset(
        SeAttenV2Config(**_ATTENTION, attn_layer=0), _TANH, 515_652, "DPA-1 without attention, can be tabulated"
    ),
    "se-e2-a": Preset(_DIRECTED, _TANH, 1_014_182, "classic: distances and directions, can be tabulated"),
    "se-e2-r": Preset(_RADIAL, _TANH, 243_462, "classic: distances only"),
    "se-e3": Preset(_ANGLES_OF_TYPES, _TANH, 237_290, "classic: angles, a network for each pair of elements"),
    "se-e3-tebd": Preset(_ANGLES, _TANH, 120_593, "angles, one network for all elements"),
}  # fmt: skip
"""Ready-made descriptor and fitting settings by name; `dpa3-l6` is the recommended production size."""


def preset(name: str, type_map: tuple[str, ...]) -> ModelConfig:
    """Settings of a preset for the given elements.

    Raises
    ------
    ConfigError
        If there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown: use one of {', '.join(PRESETS)}")
    found = PRESETS[name]
    return ModelConfig(type_map=type_map, descriptor=found.descriptor, fitting=found.fitting)
