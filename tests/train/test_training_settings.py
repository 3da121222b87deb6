"""Settings of a training: what is accepted, refused, filled in; and that they need no torch."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from dpsim.errors import ConfigError
from dpsim.model.presets import PRESETS
from dpsim.train.config import TrainConfig, resolve_model


def test_no_torch_is_imported() -> None:
    code = (
        "import sys, dpsim.train.config as c; "
        "c.resolve_model(c.TrainConfig(model='dpa3-tiny', steps=3), ['O']); c.TrainConfig.model_json_schema(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "declared",
    [
        {"model": "dpa3-small"},
        {"model": {"preset": "dpa3-tiny", "cutoff": "6.0 angstrom", "descriptor": {"repflow": {"nlayers": 3}}}},
        {"model": {"descriptor": {"type": "dpa3"}}, "precision": "float32"},
        {"model": None, "learning_rate": {"type": "cosine", "stop_ratio": 0.1, "warmup_ratio": 0.1}},
        {"loss": {"type": "huber", "huber_delta": [0.1, 0.2, 0.3], "virial": 1}, "batch_size": "auto:64"},
    ],
)
def test_what_is_written_out_reads_back_the_same(declared: dict[str, Any]) -> None:
    config = TrainConfig(steps=100, **declared)
    assert TrainConfig.model_validate(config.model_dump(mode="json")) == config


def test_every_field_is_documented() -> None:
    def documented(schema: dict[str, Any]) -> None:
        for name, entry in schema.get("properties", {}).items():
            assert entry.get("description") or name == "type", name

    schema = TrainConfig.model_json_schema()
    for part in (schema, *schema["$defs"].values()):
        documented(part)


def test_defaults_of_the_loss_are_those_of_the_reference() -> None:
    loss = TrainConfig(steps=1).loss
    assert loss.prefactors == {
        "energy": (0.02, 1.0), "forces": (1000.0, 1.0), "virial": (0.0, 0.0), "atomic_energy": (0.0, 0.0),
        "weighted_forces": (0.0, 0.0), "generalized_forces": (0.0, 0.0), "magnetic_forces": (0.0, 0.0),
        "hessian": (0.0, 0.0),
    }  # fmt: skip
    assert list(loss.active) == ["energy", "forces"]


def test_shorthand_of_weights() -> None:
    loss = TrainConfig(steps=1, loss={"energy": "off", "forces": 5, "virial": False}).loss
    assert (loss.energy, loss.forces, loss.virial) == ((0, 0), (5, 5), (0, 0))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"steps": 0}, "greater than 0"),
        ({"model": "dpa9"}, "preset 'dpa9' is unknown: use one of dpa3-tiny"),
        ({"model": {"preset": "dpa3-tiny", "descriptor": {"repflow": {"nlyers": 4}}}}, "descriptor.repflow.nlyers"),
        (
            {"model": {"preset": "dpa3-tiny", "cutoff": 5, "descriptor": {"repflow": {"e_rcut": 4}}}},
            "exclude each other",
        ),
        ({"model": {"preset": "dpa3-tiny", "cutoff": "5 ps"}}, "is not a unit of length"),
        ({"batch_size": "auto:0"}, "no batch size: write a number of frames"),
        ({"batch_size": "8"}, "no batch size"),
        ({"learning_rate": {"stop": 1e-5, "stop_ratio": 0.1}}, "exclude each other"),
        ({"learning_rate": {"start": 1e-4, "stop": 1e-3}}, "must not exceed start"),
        ({"learning_rate": {"type": "cosine", "decay_steps": 3}}, "decay_steps"),
        ({"learning_rate": {"warmup_steps": 3, "warmup_ratio": 0.1}}, "exclude each other"),
        ({"learning_rate": {"warmup_steps": 300}}, "must not exceed steps"),
        ({"learning_rate": {"warmup_start_factor": 0.1}}, "no effect without"),
        ({"loss": {"energy": [0, 1]}}, "has a zero"),
        ({"loss": {"energy": "off", "forces": "off"}}, "every term is off"),
        ({"loss": {"huber_delta": 0.1}}, "no effect with type: mse"),
        ({"loss": {"force_norm": True}}, "no effect with type: mse"),
        ({"loss": {"type": "mae", "intensive": True}}, "no effect with type: mae"),
        ({"loss": {"type": "huber", "relative_forces": 1.0}}, "do not go with type: huber"),
        ({"loss": {"stress": 1}}, "Extra inputs"),
        ({"optimizer": {"type": "LBFGS"}}, "'Adam', 'AdamW', 'Muon', 'AdaMuon', 'LKF'"),
        ({"precision": "bf16-mixed"}, "'float32' or 'float64'"),
    ],
)
def test_refused(declared: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig(**{"steps": 100, **declared})


def test_cutoff_of_a_preset() -> None:
    before = PRESETS["dpa3-tiny"][0].repflow
    config = TrainConfig(model={"preset": "dpa3-tiny", "cutoff": "6.0 angstrom"}, steps=1)
    flow = resolve_model(config, ["O", "H"]).descriptor.repflow
    assert flow.e_rcut == 6.0
    assert flow.e_rcut - flow.e_rcut_smth == pytest.approx(before.e_rcut - before.e_rcut_smth)
    assert flow.e_sel / before.e_sel == pytest.approx((6.0 / before.e_rcut) ** 3, rel=0.02)
    assert (flow.a_rcut, flow.a_sel) == (before.a_rcut, before.a_sel)
    short = TrainConfig(model={"preset": "dpa3-tiny", "cutoff": 3.0}, steps=1)
    assert resolve_model(short, ["O"]).descriptor.repflow.a_rcut == 3.0


def test_resolved_model() -> None:
    model = {"preset": "dpa3-tiny", "fitting": {"neuron": [7]}, "atom_exclude_types": [1]}
    resolved = resolve_model(TrainConfig(model=model, steps=1, precision="float64"), ["O", "H"])
    assert resolved.type_map == ("O", "H")
    assert resolved.fitting.neuron == (7,)
    assert (resolved.descriptor.precision, resolved.fitting.precision) == ("float64", "float64")
    assert resolved.atom_exclude_types == (1,)


def test_model_that_does_not_fit_the_elements() -> None:
    config = TrainConfig(model={"preset": "dpa3-tiny", "atom_exclude_types": [2]}, steps=1)
    with pytest.raises(ConfigError, match=r"outside 0\.\.1"):
        resolve_model(config, ["O", "H"])
    with pytest.raises(ConfigError, match="write for example"):
        resolve_model(TrainConfig(steps=1), ["O"])
