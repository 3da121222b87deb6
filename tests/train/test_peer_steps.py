"""Steps of the reference's trainer, taken over in the middle: its checkpoint after 5 steps leads to that after 10."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dpsim.train.batches.sampler import Cursor
from dpsim.train.config import TrainConfig, resolve_model
from dpsim.train.optimizers.build import build_optimizer
from dpsim.train.records.state import Best, TrainingState, load_state, save_state
from dpsim.train.trainer import train

PREFIX = "model.Default.atomic_model."
LINEARS = {
    "node_self_mlp": "node_self", "node_sym_linear": "node_sym", "node_edge_linear": "node_edge",
    "edge_self_linear": "edge_self", "edge_angle_linear1": "edge_angle1", "edge_angle_linear2": "edge_angle2",
    "angle_self_linear": "angle_self", "n_residual": "node_residual", "e_residual": "edge_residual",
    "a_residual": "angle_residual",
}  # fmt: skip
ENDS = {"matrix": "weight", "bias": "bias", "idt": "idt"}


def our_name(name: str) -> str | None:
    """Name of a parameter of the reference in a `PotentialModel`; None for what is no parameter."""
    parts = name.removeprefix(PREFIX).split(".")
    if len(parts) < 3:
        return None
    if parts[1] == "repflows" and parts[2] == "layers":
        return f"descriptor.layers.{parts[3]}.{LINEARS[parts[4]]}.{ENDS.get(parts[5], parts[5])}"
    if parts[1] == "repflows" and parts[2] in ("edge_embd", "angle_embd"):
        return f"descriptor.{parts[2].replace('embd', 'embedding')}.{ENDS[parts[3]]}"
    if parts[1] == "type_embedding":
        return "descriptor.type_embedding.linear.weight"
    if parts[1] == "filter_layers" and parts[2] == "networks":
        layer, end = int(parts[5]), parts[6]
        if layer == 2:
            return f"fitting.networks.0.output.{ENDS[end]}"
        return f"fitting.networks.0.hidden.{layer}." + ("idt" if end == "idt" else f"linear.{ENDS[end]}")
    return None


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """Parameters by our names, the optimizer's state, and our names in the reference's order."""
    content = torch.load(path, weights_only=True)
    state = content["model"]
    tensors = {ours: t for name, t in state.items() if name.startswith(PREFIX) and (ours := our_name(name))}
    order = list(tensors)
    tensors["out_bias"] = (state[f"{PREFIX}out_bias"][0] + state[f"{PREFIX}fitting_net.bias_atom_e"])[:, 0]
    tensors["out_std"] = state[f"{PREFIX}out_std"][0, :, 0]
    for name in ("mean", "stddev"):
        tensors[f"descriptor.environment.{name}"] = state[f"{PREFIX}descriptor.repflows.{name}"][:, 0]
    return tensors, content["optimizer"], order


def settings(golden: Path) -> TrainConfig:
    peer = json.loads((golden / "ckpt_dpa3.input.json").read_text())
    descriptor = {k: v for k, v in peer["model"]["descriptor"].items() if k != "seed"}
    fitting = {k: v for k, v in peer["model"]["fitting_net"].items() if k != "seed"}
    loss, rate = peer["loss"], peer["learning_rate"]
    return TrainConfig(
        model={"descriptor": descriptor, "fitting": fitting},
        steps=10,
        batch_size=1,
        learning_rate={"start": rate["start_lr"], "stop": rate["stop_lr"], "decay_steps": rate["decay_steps"]},
        loss={
            "energy": (loss["start_pref_e"], loss["limit_pref_e"]),
            "forces": (loss["start_pref_f"], loss["limit_pref_f"]),
        },
        optimizer={"type": "AdamW", "weight_decay": peer["optimizer"]["weight_decay"]},
        gradient_max_norm=peer["training"]["gradient_max_norm"],
        log_every=1,
    )


def as_ours(config: TrainConfig, path: Path) -> TrainingState:
    """The reference's checkpoint as one of ours."""
    model = resolve_model(config, ("O", "H")).build(0)
    tensors, peer_optimizer, order = read(path)
    model.load_state_dict(tensors)
    names = [name for name, _ in model.named_parameters()]
    assert sorted(order) == sorted(names)
    optimizer = build_optimizer(config.optimizer, model.parameters()).state_dict()
    optimizer["state"] = {names.index(order[i]): entry for i, entry in peer_optimizer["state"].items()}
    return TrainingState(
        step=5, config=config.model_dump(mode="json"), model_config=model.config.model_dump(mode="json"),
        model=model.state_dict(), optimizer=optimizer, cursors={"": Cursor(5, (5,))}, sums={"row": {}, "check": {}},
        best=Best(), origin={},
    )  # fmt: skip


def test_five_steps_of_the_reference(golden: Path, tmp_path: Path) -> None:
    config = settings(golden)
    save_state(as_ours(config, golden / "ckpt_dpa3.ckpt-5.pt"), tmp_path)
    result = train(config, tmp_path, train_data=golden / "train_data" / "water_one_frame", type_map=("O", "H"))
    found = load_state(result.checkpoint)
    expected, optimizer, order = read(golden / "ckpt_dpa3.ckpt-10.pt")
    for name, tensor in expected.items():
        np.testing.assert_allclose(found.model[name].numpy(), tensor.numpy(), rtol=0, atol=1e-11, err_msg=name)
    names = [name for name in found.model if name in order]
    for i, entry in optimizer["state"].items():
        ours = found.optimizer["state"][names.index(order[i])]
        for key in ("exp_avg", "exp_avg_sq"):
            scale = entry[key].abs().max().item()
            np.testing.assert_allclose(
                ours[key].numpy(), entry[key].numpy(), rtol=0, atol=1e-9 * scale, err_msg=order[i]
            )
    assert len(found.optimizer["state"]) == len(optimizer["state"])
    curve = [line.split(",") for line in result.curve.read_text().splitlines()[1:]]
    peer = [line.split() for line in (golden / "ckpt_dpa3.lcurve.out").read_text().splitlines()[2:]][5:]
    for ours, theirs in zip(curve, peer, strict=True):  # the reference prints three digits
        assert [int(ours[0]), float(ours[2]) ** 0.5] == pytest.approx([int(theirs[0]), float(theirs[1])], rel=5.1e-3)
        assert [float(ours[3]), float(ours[4])] == pytest.approx([float(theirs[2]), float(theirs[3])], rel=5.1e-3)
        assert float(ours[1]) == pytest.approx(float(theirs[4]), rel=0.05)
