"""Fine-tuning: what is inherited, what is adjusted before the first step, what stays as it is, and what is refused."""

from __future__ import annotations

import csv
import dataclasses
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from dpsim.cli.main import run as cli
from dpsim.data import Frame, write_mixed
from dpsim.errors import ConfigError, DataError, Interrupted, ModelError
from dpsim.model.checkpoint import load_model, read_header, state_digest
from dpsim.model.config import ModelConfig
from dpsim.train.batches.frames import FrameSet, scan
from dpsim.train.config import TrainConfig
from dpsim.train.optimizers.low_rank import LowRankOptimizer
from dpsim.train.records.state import heads_in, read_model
from dpsim.train.settings.transfer import LowRankConfig
from dpsim.train.start.finetune import adapted_model, load_pretrained
from dpsim.train.trainer import TrainResult, train
from dpsim.workflow.stages.train import TrainStage

Settings = Callable[..., TrainConfig]
SHIFT = {"Cu": 3.0, "Au": -2.0}


def shifted(frames: list[Frame], type_map: tuple[str, ...] = ("Cu", "Au")) -> list[Frame]:
    """The same structures with energies that have another reference for each element."""
    return [
        dataclasses.replace(
            frame,
            labels={**frame.labels, "energy": frame.labels["energy"] + sum(SHIFT[type_map[t]] for t in frame.types)},
        )
        for frame in frames
    ]


@pytest.fixture(scope="module")
def new_data(emt_frames: Callable[..., list[Frame]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames near those of the pretrained model, with other reference energies."""
    folder = tmp_path_factory.mktemp("new")
    write_mixed(shifted(emt_frames(16, 5)), folder / "train", ("Cu", "Au"))
    write_mixed(shifted(emt_frames(6, 6)), folder / "valid", ("Cu", "Au"))
    return folder


@pytest.fixture(scope="module")
def pretrained(emt: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for some steps."""
    flow = {
        "n_dim": 8, "e_dim": 6, "a_dim": 4, "nlayers": 2, "e_rcut": 4.0, "e_rcut_smth": 3.0, "e_sel": 40,
        "a_rcut": 3.2, "a_rcut_smth": 2.5, "a_sel": 20,
    }  # fmt: skip
    model = {
        "descriptor": {"type": "dpa3", "repflow": flow, "activation_function": "silut:10"},
        "fitting": {"neuron": [8, 8], "activation_function": "silut:10"},
    }
    config = TrainConfig(model=model, steps=80, batch_size=4, validate_every=40, learning_rate={"start": 1e-2})
    return train(config, tmp_path_factory.mktemp("pre"), train_data=emt / "train", valid_data=emt / "valid").best


def tune(new_data: Path, pretrained: Path, output: Path, changes: Any = None, **options: Any) -> TrainResult:
    rhythm = {"batch_size": 4, "validate_every": 3, "checkpoint_every": 2, "log_every": 2}
    config = {"recipe": "finetune", "steps": 6, **rhythm}
    data = {"train_data": new_data / "train", "valid_data": new_data / "valid", "init_model": pretrained}
    return train(TrainConfig(**config | (changes or {})), output, **data | options)


def start(new_data: Path, pretrained: Path, type_map: tuple[str, ...] | None = None, **changes: Any) -> Any:
    """Model with which a fine-tuning begins, and the pretrained one."""
    config = TrainConfig(recipe="finetune", steps=1, **changes)
    source = load_pretrained(pretrained, config.head)
    frames = FrameSet(new_data / "train", type_map or source.type_map)
    return adapted_model(config, source, frames, scan(frames)), source


def test_all_is_inherited_but_the_bias(new_data: Path, pretrained: Path, caplog: Any) -> None:
    with caplog.at_level(logging.INFO, logger="dpsim.train"):
        model, source = start(new_data, pretrained)
    for name, value in model.state_dict().items():
        assert torch.equal(value, source.state_dict()[name]) is (name != "out_bias"), name
    shift = (model.out_bias - source.out_bias).numpy()
    np.testing.assert_allclose(shift, [SHIFT["Cu"], SHIFT["Au"]], atol=0.3)
    text = caplog.text
    assert "energy bias of the elements in eV, moved by what the pretrained model leaves" in text
    assert f"{model.out_bias[0]:.6f}" in text
    assert "energy error (RMSE)" in text


def test_other_elements(new_data: Path, pretrained: Path) -> None:
    """In another order, with one that is new and in the data, and one that is nowhere."""
    data = FrameSet(new_data / "train", ("Cu", "Au"))
    frames = [data[i] for i in range(6)]
    silver = [dataclasses.replace(f, types=np.where(f.types == 1, 2, f.types)) for f in frames]
    folder = pretrained.parent / "silver"
    write_mixed(silver, folder / "train", ("Cu", "Au", "Ag"), overwrite=True)
    model, source = start(folder, pretrained, ("Ag", "Au", "Pt", "Cu"))
    assert model.type_map == ("Ag", "Au", "Pt", "Cu")
    old, new = source.descriptor.type_embedding.table(), model.descriptor.type_embedding.table()
    torch.testing.assert_close(new[[3, 1]], old, rtol=0, atol=1e-15)
    assert (model.out_bias[1] == source.out_bias[1], model.out_bias[2] == 0) == (True, True)  # not in the data
    assert (model.out_bias[[0, 3]] != 0).all()


def test_it_lowers_the_error(emt: Path, new_data: Path, pretrained: Path, tmp_path: Path) -> None:
    changes = {"steps": 60, "validate_every": 20, "learning_rate": {"start": 5e-3}}
    result = tune(new_data, pretrained, tmp_path / "t", changes, old_data=emt / "valid")
    with (tmp_path / "t/lcurve.csv").open(newline="") as file:
        forces = [float(row["rmse_forces_valid"]) for row in csv.DictReader(file) if row["rmse_forces_valid"]]
    assert forces[-1] < forces[0]
    report = result.metrics["finetune"]
    assert report["bias"]["Cu"]["after"] - report["bias"]["Cu"]["before"] == pytest.approx(SHIFT["Cu"], abs=0.3)
    before, after = report["old_data"]["before"], report["old_data"]["after"]
    assert before["rmse_energy"] < 0.2
    assert after["rmse_energy"] > 1.5  # other reference energies
    assert after["rmse_energy_apart_from_elements"] < 0.2
    assert before["rmse_forces"] > 0
    assert result.metrics["best"]["rmse_energy"] < 0.5  # 2.6 without the new bias


def test_new_fitting_net(new_data: Path, pretrained: Path) -> None:
    """Head RANDOM: the descriptor is inherited, the fitting net is new and the bias that of the labels."""
    model, source = start(new_data, pretrained, head="RANDOM")
    for name, value in model.state_dict().items():
        inherited = torch.equal(value, source.state_dict()[name])
        assert inherited or name.startswith(("fitting.", "out_")), name
    assert not torch.equal(model.fitting.networks[0].output.weight, source.fitting.networks[0].output.weight)
    frames = FrameSet(new_data / "train", ("Cu", "Au"))
    found = scan(frames)
    expected = np.linalg.lstsq(found.compositions, found.values[:, 0], rcond=None)[0]
    np.testing.assert_allclose(model.out_bias.numpy(), expected, atol=1e-9)
    other = {"descriptor": source.config.descriptor.model_dump(), "fitting": {"neuron": [5]}}
    model, _ = start(new_data, pretrained, head="RANDOM", model=other)
    assert model.config.fitting.neuron == (5,)
    with pytest.raises(ConfigError, match=r"differ from those .*fitting\.neuron: \[5\] here, \[8, 8\]"):
        start(new_data, pretrained, model=other)


def test_declared_settings_must_match(new_data: Path, pretrained: Path) -> None:
    settings = load_model(pretrained).config.model_dump(exclude={"type_map"})
    model, source = start(new_data, pretrained, model=settings)
    assert state_digest(model) != state_digest(source)
    settings["descriptor"]["repflow"]["n_dim"] = 9
    settings["descriptor"]["repflow"]["nlayers"] = 3
    message = r"repflow\.n_dim: 9 here, 8 there; .*nlayers: 3 here, 2 there.*leave `model` out"
    with pytest.raises(ConfigError, match=message):
        start(new_data, pretrained, model=settings)


def test_given_energies_stay(new_data: Path, pretrained: Path) -> None:
    settings = load_model(pretrained).config.model_dump(exclude={"type_map"}) | {"preset_out_bias": {"Au": 1.25}}
    model, _ = start(new_data, pretrained, model=settings)
    assert model.out_bias[1] == pytest.approx(1.25)


@pytest.mark.parametrize("part", ["descriptor", "fitting", "descriptor.type_embedding"])
def test_frozen_parts(new_data: Path, pretrained: Path, tmp_path: Path, part: str) -> None:
    """They do not move, also after an interruption; everything else does."""
    steps: list[int] = []

    def stop() -> bool:
        steps.append(1)
        return len(steps) == 3

    with pytest.raises(Interrupted):
        tune(new_data, pretrained, tmp_path / "t", {"frozen": [part]}, stop=stop)
    result = tune(new_data, pretrained, tmp_path / "t", {"frozen": [part]})
    before, after = dict(load_model(pretrained).named_parameters()), dict(load_model(result.last).named_parameters())
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not [name for name in moved if name.startswith(f"{part}.")]
    names = ("descriptor.edge_embedding.weight", "fitting.networks.0.output.weight")
    assert [name for name in names if name not in moved] == [name for name in names if name.startswith(f"{part}.")]
    assert result.metrics["parameters"] == sum(p.numel() for n, p in after.items() if not n.startswith(f"{part}."))


def test_resumed_bit_for_bit(new_data: Path, pretrained: Path, tmp_path: Path) -> None:
    whole = tune(new_data, pretrained, tmp_path / "a")
    counted: list[int] = []
    with pytest.raises(Interrupted):
        tune(new_data, pretrained, tmp_path / "b", stop=lambda: counted.append(1) or len(counted) == 4)
    parts = tune(new_data, pretrained, tmp_path / "b")
    assert state_digest(load_model(whole.last)) == state_digest(load_model(parts.last))
    assert whole.metrics["finetune"] == parts.metrics["finetune"]
    with pytest.raises(ConfigError, match=r"made with other settings \(frozen: \[\] became \['descriptor'\]\)"):
        tune(new_data, pretrained, tmp_path / "b", {"frozen": ["descriptor"]})


LOW_RANK: dict[str, Any] = {"recipe": "lora", "lora": {"rank": 2, "alpha": 4}, "learning_rate": {"start": 1e-2}}


def test_thin_matrices(emt: Path, new_data: Path, pretrained: Path, tmp_path: Path) -> None:
    """Matrices move by a product of their rank, small ones freely, vectors not at all; forces come nearer."""
    before = {name: p.detach() for name, p in load_model(pretrained).named_parameters()}
    changes = {**LOW_RANK, "steps": 60, "validate_every": 20, "precision": "float64"}
    result = tune(new_data, pretrained, tmp_path / "t", changes, old_data=emt / "valid")
    ranks: dict[str, int] = {}
    for name, p in load_model(result.last).named_parameters():
        rows, *columns = p.shape
        thin = len(columns) == 1 and rows * columns[0] > 2 * (rows + columns[0])
        moved = p.detach().double() - before[name].double()
        if p.ndim == 1:
            assert not moved.any(), name
        elif thin:
            ranks[name] = int(torch.linalg.matrix_rank(moved, rtol=1e-9))
        else:
            assert moved.any(), name
    assert len(ranks) > 10
    assert max(ranks.values()) == 2
    report = result.metrics["finetune"]
    assert report["lora"]["trained"] == result.metrics["parameters"] < report["lora"]["parameters"]
    assert report["old_data"]["after"]["rmse_forces"] > 0
    with (tmp_path / "t/lcurve.csv").open(newline="") as file:
        forces = [float(row["rmse_forces_valid"]) for row in csv.DictReader(file) if row["rmse_forces_valid"]]
    assert forces[-1] < forces[0]


def test_gradients_of_thin_matrices() -> None:
    """As torch finds them through the product, for matrices alone and in stacks."""
    for shape in [(7, 5), (3, 6, 8)]:
        weight = torch.nn.Parameter(torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
        optimizer = LowRankOptimizer(
            lambda moved: torch.optim.SGD(moved, lr=0.1), [weight], [weight], LowRankConfig(rank=2, alpha=3), 1
        )
        base = weight.detach().clone()
        for _ in range(3):  # the second factor begins at zero
            optimizer.zero_grad()
            (weight**3).sum().backward()
            left, right = (p.detach().clone().requires_grad_(True) for p in optimizer.moved)
            product = base + 1.5 * left @ right
            torch.testing.assert_close(product.detach(), weight.detach(), rtol=1e-14, atol=1e-14)
            expected = torch.autograd.grad((product**3).sum(), (left, right))
            norm = optimizer.clip(0.0)
            torch.testing.assert_close(tuple(p.grad for p in optimizer.moved), expected, rtol=1e-12, atol=1e-12)
            assert norm == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in expected)))
            optimizer.step()
        assert not torch.equal(weight.detach(), base)


@pytest.mark.parametrize("changes", [{"lora": {"rank": 2, "whole": ["fitting"]}}, {"head": "RANDOM"}])
def test_parts_that_are_trained_whole(new_data: Path, pretrained: Path, tmp_path: Path, changes: Any) -> None:
    changes = {**LOW_RANK, **changes, "frozen": ["descriptor.type_embedding"], "steps": 2}
    result = tune(new_data, pretrained, tmp_path / "t", changes)
    config = TrainConfig(steps=1, **{k: v for k, v in changes.items() if k in ("recipe", "head", "lora")})
    frames = FrameSet(new_data / "train", ("Cu", "Au"))
    first = adapted_model(config, load_pretrained(pretrained, config.head), frames, scan(frames)).state_dict()
    for name, p in load_model(result.last).named_parameters():
        if name.startswith("fitting.") or name == "descriptor.layers.0.node_sym.weight":
            assert not torch.equal(p, first[name]), name
        elif p.ndim == 1 or name.startswith("descriptor.type_embedding"):
            assert torch.equal(p, first[name]), name


def test_thin_matrices_resumed_bit_for_bit(new_data: Path, pretrained: Path, tmp_path: Path) -> None:
    changes = {**LOW_RANK, "ema": 0.9}
    whole = tune(new_data, pretrained, tmp_path / "whole", changes)
    with pytest.raises(Interrupted):
        tune(new_data, pretrained, tmp_path / "parts", changes, stop=lambda: True)
    parts = tune(new_data, pretrained, tmp_path / "parts", changes)
    assert state_digest(load_model(parts.last)) == state_digest(load_model(whole.last))
    with pytest.raises(ConfigError, match="was made with other settings"):
        tune(new_data, pretrained, tmp_path / "whole", {**changes, "lora": {"rank": 3}, "steps": 8})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "finetune", "lora": {"rank": 2}}, "lora has no effect with recipe: finetune"),
        ({"zero": 1}, "zero: 1 is not made for it"),
        ({"optimizer": {"type": "LKF"}}, "optimizer.type: LKF is not made for it"),
        ({"heads": {"a": {}, "b": {}}, "model": "dpa3-tiny"}, "recipe: lora is for a training of a single head"),
        ({"lora": {"rank": 0}}, "greater than or equal to 1"),
    ],
)
def test_settings_that_thin_matrices_refuse(changes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**{"recipe": "lora", "steps": 2, **changes})


def test_bias_after_training(emt: Path, tmp_path: Path, settings: Settings) -> None:
    """The results have another bias than the state from which training can go on; it is made once."""
    config = settings(change_bias_after_training=True)
    result = train(config, tmp_path / "t", train_data=emt / "train")
    plain = train(settings(), tmp_path / "u", train_data=emt / "train")
    changes = result.metrics["bias_after_training"]
    for name in ("best", "last"):
        model, other = load_model(getattr(result, name)), load_model(getattr(plain, name))
        shift = (model.out_bias - other.out_bias).numpy()
        assert np.abs(shift).max() > 1e-6
        rows = changes[name]["elements"]
        np.testing.assert_allclose(shift, [rows[e]["after"] - rows[e]["before"] for e in ("Cu", "Au")], atol=1e-12)
        assert changes[name]["rmse"]["after"] < changes[name]["rmse"]["before"]
    digest = state_digest(load_model(result.last))
    again = train(config, tmp_path / "t", train_data=emt / "train")
    assert again.metrics["bias_after_training"] == changes
    assert state_digest(load_model(again.last)) == digest
    assert torch.equal(read_model(result.checkpoint).out_bias, load_model(plain.last).out_bias)


def test_heads_of_a_file(golden: Path) -> None:
    """One of several heads must be named; RANDOM takes the first."""
    path = golden / "ckpt_multi.ckpt-6.pt"
    assert heads_in(path) == ["head_a", "head_b"]
    assert heads_in(golden / "ckpt_dpa3.ckpt-10.pt") == []
    with pytest.raises(ModelError, match=r"has several heads: choose one of head_a, head_b to go on from, or RANDOM"):
        load_pretrained(path, None)
    with pytest.raises(ModelError, match=r"has no head 'head_c': choose one of head_a, head_b"):
        load_pretrained(path, "head_c")
    assert load_pretrained(path, "head_b").config.fitting.neuron == (12, 12, 12)
    assert state_digest(load_pretrained(path, "RANDOM")) == state_digest(read_model(path, "head_a"))
    with pytest.raises(ModelError, match="has a single head"):
        load_pretrained(golden / "ckpt_dpa3.ckpt-10.pt", "head_a")
    with pytest.raises(ModelError, match="leave out head='a'"):
        load_pretrained(ModelConfig.tiny().build(0), "a")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"init_model": None}, r"recipe: finetune needs a pretrained model"),
        ({"frozen": ["descritor"]}, {}, r"frozen: 'descritor' is no part .* descriptor, .*fitting"),
        ({"frozen": ["descriptor", "fitting"]}, {}, r"frozen: descriptor, fitting: nothing is left to train"),
        ({"recipe": "scratch", "head": "a"}, {"init_model": None}, r"head: a is that of a model to start from"),
        ({"recipe": "lora"}, {"init_model": None}, r"recipe: lora needs a pretrained model"),
        ({"recipe": "lora", "lora": {"whole": ["fiting"]}}, {}, r"lora.whole: 'fiting' is no part .*fitting"),
        ({"recipe": "lora", "lora": {"rank": 99}}, {}, r"lora.rank: 99 limits no matrix .*: lower it"),
        ({"recipe": "scratch"}, {"old_data": "x"}, r"old_data are compared with after a fine-tuning"),
        (
            {"recipe": "scratch"},
            {"type_map": ["Cu", "Au", "Ag"]},
            r"type_map has Ag.*\(recipe: finetune\)",
        ),
    ],
)
def test_refusals(new_data: Path, pretrained: Path, tmp_path: Path, changes: Any, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tune(new_data, pretrained, tmp_path / "t", changes, **options)
    assert not (tmp_path / "t").exists()


def test_unknown_elements(new_data: Path, pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"element Au, which is not in the type_map \(Cu\)"):
        tune(new_data, pretrained, tmp_path / "t", type_map=["Cu"])
    silver = [Frame(np.zeros((1, 3)), np.array([2]), None, {"energy": np.array(0.0)})]
    write_mixed(silver, tmp_path / "silver", ("Cu", "Au", "Ag"))
    with pytest.raises(DataError, match=r"element Ag.* is not in the .*type_map \(Cu Au\)"):
        tune(new_data, pretrained, tmp_path / "t", type_map=["Cu", "Au", "Ag"], old_data=tmp_path / "silver")


def test_command_line(new_data: Path, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.yaml"
    keys = {"type_map": ["Cu", "Au"], "data": str(new_data), "steps": 2, "batch_size": 4, "old_data": str(new_data)}
    file.write_text(yaml.safe_dump(keys))
    command = ["train", str(file), "-o", str(tmp_path / "t"), "--finetune", str(pretrained)]
    assert cli([*command, "--set", "frozen=[descriptor]"]) == 0
    training = read_header(tmp_path / "t/best.safetensors")["provenance"]["training"]
    assert (training["recipe"], training["frozen"]) == ("finetune", ["descriptor"])
    assert json.loads((tmp_path / "t/metrics.json").read_text())["finetune"]["old_data"]["after"]
    capsys.readouterr()
    assert cli([*command, "--init-model", str(pretrained)]) == 3
    assert "exclude each other" in capsys.readouterr().err
    assert cli(["train", str(file), "--head", "a"]) == 3
    assert "--head is about a model to start from" in capsys.readouterr().err
    file.write_text(yaml.safe_dump({**keys, "start_from": str(pretrained), "recipe": "finetune"}))
    assert cli(command) == 3
    assert "has start_from, and the command" in capsys.readouterr().err
    file.write_text(yaml.safe_dump({**keys, "recipe": "lora", "lora": {"rank": 2}}))
    command[3] = str(tmp_path / "low")
    assert cli(command) == 0
    assert read_header(tmp_path / "low/best.safetensors")["provenance"]["training"]["recipe"] == "lora"
    del keys["old_data"]
    file.write_text(yaml.safe_dump({**keys, "model": "dpa3-tiny"}))
    command[3] = str(tmp_path / "u")
    assert cli(command) == 3
    assert "leave `model` out" in capsys.readouterr().err
    assert cli([*command, "--use-pretrain-script"]) == 0
    assert load_model(tmp_path / "u/best.safetensors").config == load_model(pretrained).config


def test_input_of_the_peer(new_data: Path, pretrained: Path, tmp_path: Path, capsys: Any) -> None:
    """``trainable``, ``finetune_head`` and ``--use-pretrain-script``."""
    tree: dict[str, Any] = {
        "model": {
            "type_map": ["Cu", "Au"], "descriptor": {"trainable": False}, "fitting_net": {}, "finetune_head": "RANDOM",
        },
        "learning_rate": {"start_lr": 1e-3, "stop_lr": 1e-5},
        "training": {
            "training_data": {"systems": [str(path) for path in (new_data / "train").iterdir()], "batch_size": 2},
            "numb_steps": 2, "change_bias_after_training": True,
        },
    }  # fmt: skip
    file = tmp_path / "input.json"
    file.write_text(json.dumps(tree))
    command = ["train", str(file), "-o", str(tmp_path / "t"), "--finetune", str(pretrained), "--use-pretrain-script"]
    assert cli(command) == 0
    err = capsys.readouterr().err
    assert "model.{descriptor, fitting_net}: the settings of the pretrained model hold instead" in err
    training = read_header(tmp_path / "t/last.safetensors")["provenance"]["training"]
    assert (training["head"], training["frozen"]) == ("RANDOM", ["descriptor"])
    assert training["change_bias_after_training"] is True
    before, after = load_model(pretrained).state_dict(), load_model(tmp_path / "t/last.safetensors").state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items() if name.startswith("descriptor."))


def test_stage_says_what_is_missing() -> None:
    stage = TrainStage(data="d", model="dpa3-tiny", steps=1, recipe="finetune", head="a", old_data="o")
    assert [".".join(map(str, place)) for place, _ in stage.problems()] == ["recipe", "head"]
    stage = TrainStage(data="d", start_from="m", steps=1, old_data="o")
    (problem,) = stage.problems()
    assert problem == (("old_data",), "old data are compared with after a fine-tuning (recipe: finetune)")
    assert not list(TrainStage(data="d", start_from="m", steps=1, recipe="finetune", old_data="o").problems())
