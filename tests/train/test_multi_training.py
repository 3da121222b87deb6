"""Trainings with several heads: what a step moves, what is merged, what is written, and what goes on."""

from __future__ import annotations

import csv
import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dpsim.calculators.evaluate import load
from dpsim.data import Frame, write_mixed
from dpsim.errors import ConfigError, DataError, Interrupted
from dpsim.model.checkpoint import load_any, load_model, state_digest
from dpsim.model.multi_task import MultiTaskModel
from dpsim.model.statistics import environment_statistics
from dpsim.train.batches.frames import FrameSet
from dpsim.train.batches.loader import BatchMaker
from dpsim.train.config import TrainConfig
from dpsim.train.records.state import heads_in, read_model
from dpsim.train.start.multi import prepare_heads
from dpsim.train.task import Stream
from dpsim.train.trainer import TrainResult, train

SHIFT = {"Cu": 3.0, "Au": -2.0}
TYPE_MAP = ("Cu", "Au")


@pytest.fixture(scope="module")
def data(
    emt: Path, emt_frames: Callable[..., list[Frame]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Frames of two origins: energies differ by a constant for each element; the second has two systems."""
    folder = tmp_path_factory.mktemp("heads")
    shifted = [
        dataclasses.replace(
            frame,
            labels={**frame.labels, "energy": frame.labels["energy"] + sum(SHIFT[TYPE_MAP[t]] for t in frame.types)},
        )
        for frame in emt_frames(18, 5)
    ]
    write_mixed(shifted[:12], folder / "b", TYPE_MAP)
    write_mixed(shifted[12:], folder / "b_valid", TYPE_MAP)
    return {"a": emt / "train", "b": folder / "b", "a_valid": emt / "valid", "b_valid": folder / "b_valid"}


def config_of(**changes: Any) -> TrainConfig:
    flow = {
        "n_dim": 8, "e_dim": 6, "a_dim": 4, "nlayers": 2, "e_rcut": 4.0, "e_rcut_smth": 3.0, "e_sel": 40,
        "a_rcut": 3.2, "a_rcut_smth": 2.5, "a_sel": 20,
    }  # fmt: skip
    model = {
        "descriptor": {"type": "dpa3", "repflow": flow, "activation_function": "silut:10"},
        "fitting": {"neuron": [8, 8], "activation_function": "silut:10"},
    }
    base = {"model": model, "steps": 8, "batch_size": 3, "log_every": 2, "validate_every": 4, "checkpoint_every": 2}
    return TrainConfig(**{**base, "heads": {"a": {}, "b": {"fitting": {"neuron": [6]}}}, **changes})


def run(data: dict[str, Path], output: Path, config: TrainConfig | None = None, **options: Any) -> TrainResult:
    arguments: dict[str, Any] = {
        "train_data": {name: data[name] for name in ("a", "b")},
        "valid_data": {name: data[f"{name}_valid"] for name in ("a", "b")},
        "type_map": TYPE_MAP,
    }
    return train(config or config_of(), output, **arguments | options)


def prepared(data: dict[str, Path], config: TrainConfig) -> tuple[Any, MultiTaskModel]:
    found = prepare_heads(config, {"a": data["a"], "b": data["b"]}, None, TYPE_MAP, None, None, None)
    model = found.build()
    assert isinstance(model, MultiTaskModel)
    return found, model


def test_files_and_columns(data: dict[str, Path], tmp_path: Path) -> None:
    result = run(data, tmp_path / "t")
    with result.curve.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = [f"rmse_{q}_{h}" for h in ("a", "b") for q in ("energy", "forces", "virial")]
    assert list(rows[0]) == ["step", "learning_rate", "loss", *(f"{n}_{p}" for p in ("train", "valid") for n in names)]
    assert [bool(row["rmse_forces_b_valid"]) for row in rows] == [False, False, True, False, True]
    last = load_any(result.last)
    assert isinstance(last, MultiTaskModel)
    assert heads_in(result.checkpoint) == heads_in(result.last) == ["a", "b"]
    assert state_digest(read_model(result.checkpoint, "b")) == state_digest(load_model(result.last, "b"))
    frames = FrameSet(data["b_valid"], TYPE_MAP)
    potential, errors = load(result.last, head="b", device="cpu"), []
    for i in range(len(frames)):
        found = potential.evaluate(frames[i].positions, frames[i].types, frames[i].cell)
        errors.append((found.energy - frames[i].labels["energy"]) / len(frames[i].types))
    assert float(rows[-1]["rmse_energy_b_valid"]) == pytest.approx(np.sqrt(np.mean(np.square(errors))), rel=1e-5)
    heads = result.metrics["heads"]
    assert [heads[name]["frames"]["train"] for name in ("a", "b")] == [24, 12]
    shift = heads["b"]["energy_bias"]["Cu"] - heads["a"]["energy_bias"]["Cu"]
    assert shift == pytest.approx(SHIFT["Cu"], abs=0.3)
    best = result.metrics["best"]
    assert best["metric"] > 0
    assert "rmse_forces_b" in best


def test_a_step_moves_one_head_and_what_is_shared(data: dict[str, Path], tmp_path: Path) -> None:
    """The parts of the other head stay as they are, to the last bit (weight decay included)."""
    config = config_of(steps=1, heads={"a": {"probability": 1e-9}, "b": {}}, optimizer={"type": "AdamW"})
    before = prepared(data, config)[1]
    after = load_any(run(data, tmp_path / "t", config).last)
    moved = {name for name, p in after.named_parameters() if not torch.equal(p, dict(before.named_parameters())[name])}
    assert not [name for name in moved if name.startswith("heads.0.fitting")]
    assert "heads.0.descriptor.edge_embedding.weight" in moved  # shared: it stands in the first head
    assert [name for name in moved if name.startswith("heads.1.fitting")]


def test_each_head_is_drawn_as_often_as_asked(data: dict[str, Path]) -> None:
    """By default by the number of systems; the draws follow from seed and step alone."""
    found, _ = prepared(data, config_of())
    systems = [len(task.frames.dataset.systems) for task in found.tasks]
    assert list(found.chances) == systems
    found, _ = prepared(data, config_of(heads={"a": {"probability": 3}, "b": {"probability": 1}}))
    stream = Stream(found.tasks, found.chances, 7, 0, 1)
    drawn = [stream.choose(step)[0] for step in range(2000)]
    assert np.mean(drawn) == pytest.approx(0.25, abs=0.03)
    assert drawn[500:] == [Stream(found.tasks, found.chances, 7, 500, 1).choose(step)[0] for step in range(500, 2000)]


def test_scales_are_those_of_all_data(data: dict[str, Path]) -> None:
    """Counts and sums of the heads that share a descriptor are added; biases are each head's own."""
    settings = config_of().model.model_dump()
    settings["descriptor"]["repflow"]["fix_stat_std"] = 0.0
    found, model = prepared(data, config_of(model=settings))
    head = model.members["a"]
    makers = [BatchMaker.for_model(task.frames, head) for task in found.tasks]
    graphs = [maker.graph(i) for maker in makers for i in range(len(maker.frames))]
    expected = environment_statistics(graphs, head.config.environments()[0], 2)
    for member in model.members.values():
        np.testing.assert_allclose(member.descriptor.environment.stddev.numpy(), expected.stddev, rtol=1e-12)
    alone = environment_statistics(graphs[:24], head.config.environments()[0], 2)
    assert np.abs(alone.stddev - expected.stddev).max() > 1e-4
    for task in found.tasks:
        fit = np.linalg.lstsq(task.found.compositions, task.found.values[:, 0], rcond=None)[0]
        np.testing.assert_allclose(model.members[task.name].out_bias.numpy(), fit, atol=1e-9)


def test_shared_fitting_counts_parameters_by_probability(data: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values, folders = {}, {}
    for name in ("a", "b"):
        frames = FrameSet(data[name], TYPE_MAP)
        values[name] = rng.normal(2.0 if name == "a" else 5.0, 1.0, size=(len(frames), 1))
        given = [
            dataclasses.replace(frames[i], labels={**frames[i].labels, "fparam": values[name][i]})
            for i in range(len(frames))
        ]
        write_mixed(given, tmp_path / name, TYPE_MAP)
        folders[name] = tmp_path / name
        read = FrameSet(tmp_path / name, TYPE_MAP)  # in the order of the files
        values[name] = np.array([read[i].labels["fparam"] for i in range(len(read))])
    settings = config_of().model.model_dump()
    settings["fitting"] |= {"numb_fparam": 1, "dim_case_embd": 2}
    heads = {"a": {"probability": 1}, "b": {"probability": 3}}
    config = config_of(model=settings, heads=heads, shared=["descriptor", "fitting"])
    model = prepared(folders, config)[1]
    weights = np.concatenate([np.full(len(values["a"]), 1.0), np.full(len(values["b"]), 3.0)])
    both = np.concatenate([values["a"], values["b"]])[:, 0]
    mean = np.average(both, weights=weights)
    for member in model.members.values():
        assert float(member.fitting.fparam_mean) == pytest.approx(mean)
        std = np.sqrt(np.average((both - mean) ** 2, weights=weights))
        assert float(member.fitting.fparam_inv_std) == pytest.approx(1 / std)
    assert [m.fitting.case_embedding.tolist() for m in model.members.values()] == [[1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize("valid", [True, False])
def test_goes_on_bit_for_bit(data: dict[str, Path], tmp_path: Path, valid: bool) -> None:
    options = {} if valid else {"valid_data": None}
    config = config_of(accumulate=2, ema=0.9)
    whole = run(data, tmp_path / "a", config, **options)
    for stop_at in (3, 2):
        counted: list[int] = []
        with pytest.raises(Interrupted):
            run(data, tmp_path / "b", config, stop=lambda c=counted, n=stop_at: c.append(1) or len(c) == n, **options)
    parts = run(data, tmp_path / "b", config, **options)
    for name in ("best", "last"):
        assert state_digest(load_any(getattr(whole, name))) == state_digest(load_any(getattr(parts, name)))
    assert whole.curve.read_bytes() == parts.curve.read_bytes()
    with pytest.raises(ConfigError, match=r"made with other settings \(heads: "):
        run(data, tmp_path / "b", config_of(accumulate=2, ema=0.9, heads={"a": {}, "b": {}}), **options)


def test_it_learns_both(data: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(steps=120, batch_size=4, validate_every=60, learning_rate={"start": 1e-2}, checkpoint_every=500)
    result = run(data, tmp_path / "t", config)
    with result.curve.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["rmse_energy_a_valid"]]
    first, last = rows[0], rows[-1]
    for name in ("a", "b"):
        assert float(last[f"rmse_forces_{name}_valid"]) < float(first[f"rmse_forces_{name}_valid"])
        assert float(last[f"rmse_energy_{name}_valid"]) < 0.5


def test_heads_may_have_their_own_loss_and_batches(data: dict[str, Path], tmp_path: Path) -> None:
    heads = {"a": {"loss": {"forces": "off"}, "batch_size": 1}, "b": {"batch_size": "auto:20", "sampling": "systems"}}
    found, _ = prepared(data, config_of(heads=heads))
    assert [task.config.loss.active.keys() - {"energy"} for task in found.tasks] == [set(), {"forces"}]
    assert [task.config.batch_size for task in found.tasks] == [1, "auto:20"]
    run(data, tmp_path / "t", config_of(heads=heads, steps=2))


def test_frozen_parts_of_heads(data: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(frozen=["descriptor", "a.fitting"], steps=6)
    before = prepared(data, config)[1]
    result = run(data, tmp_path / "t", config)
    after = dict(load_any(result.last).named_parameters())
    moved = {name for name, p in before.named_parameters() if not torch.equal(p, after[name])}
    assert moved
    assert all(name.startswith("heads.1.fitting") for name in moved)
    assert result.metrics["parameters"] == sum(p.numel() for n, p in after.items() if n.startswith("heads.1.fitting"))


def test_bias_after_training(data: dict[str, Path], tmp_path: Path) -> None:
    changed = run(data, tmp_path / "t", config_of(change_bias_after_training=True))
    plain = run(data, tmp_path / "u")
    for name in ("a", "b"):
        rows = changed.metrics["bias_after_training"]["last"][name]["elements"]
        shift = (load_model(changed.last, name).out_bias - load_model(plain.last, name).out_bias).numpy()
        np.testing.assert_allclose(shift, [rows[e]["after"] - rows[e]["before"] for e in TYPE_MAP], atol=1e-12)


def test_fine_tuning(data: dict[str, Path], tmp_path: Path, caplog: Any) -> None:
    """One head stays, one comes from another, one has a new fitting net; the elements change."""
    first = run(data, tmp_path / "pre")
    heads = {"a": {}, "c": {}, "d": {"start_head": "b"}, "e": {"start_head": "RANDOM"}}
    config = TrainConfig(steps=1, batch_size=3, recipe="finetune", heads=heads)
    options = {"train_data": dict.fromkeys("ade", data["a"]) | {"c": data["b"]}, "type_map": ("Ag", "Au", "Cu")}
    with caplog.at_level(logging.INFO, logger="dpsim.train"):
        found = prepare_heads(config, options["train_data"], None, options["type_map"], None, first.best, None)
        model, old = found.build(), load_any(first.best)
    assert isinstance(model, MultiTaskModel)
    assert "head c begins with head a of the pretrained model: a new fitting net" in caplog.text
    for name, source in (("a", "a"), ("c", "a"), ("d", "b"), ("e", "a")):
        new, was = model.members[name], old.members[source]
        table = new.descriptor.type_embedding.table()[[2, 1]]
        torch.testing.assert_close(table, was.descriptor.type_embedding.table(), rtol=0, atol=1e-15)
        inherited = torch.equal(new.fitting.networks[0].output.weight, was.fitting.networks[0].output.weight)
        assert inherited is (name in "ad"), name
    assert model.members["a"].out_bias.tolist() == [0.0, *old.members["a"].out_bias.tolist()[::-1]]
    difference = model.members["d"].out_bias[2] - old.members["b"].out_bias[0]
    assert float(difference) == pytest.approx(-SHIFT["Cu"], abs=0.8)
    result = train(config, tmp_path / "t", init_model=first.best, **options)
    assert heads_in(result.best) == ["a", "c", "d", "e"]
    single = load_model(first.best, "b")
    config = TrainConfig(steps=1, batch_size=3, recipe="finetune", heads={"x": {"start_head": "Default"}, "y": {}})
    both = {"x": data["b"], "y": data["a"]}
    model = prepare_heads(config, both, None, TYPE_MAP, None, single, None).build()
    assert torch.equal(model.members["x"].fitting.networks[0].output.weight, single.fitting.networks[0].output.weight)
    wrong = TrainConfig(steps=1, batch_size=3, recipe="finetune", heads={"x": {"start_head": "b"}})
    with pytest.raises(ConfigError, match=r"heads\.x\.start_head: the pretrained model has no head 'b'"):
        prepare_heads(wrong, {"x": data["b"]}, None, TYPE_MAP, None, single, None)


def test_start_from_the_same_heads(data: dict[str, Path], tmp_path: Path) -> None:
    first = run(data, tmp_path / "pre")
    config = config_of(steps=1, learning_rate={"start": 1e-9})
    result = run(data, tmp_path / "t", config, init_model=first.best)
    before, after = load_any(first.best).state_dict(), load_any(result.last).state_dict()
    for name, value in after.items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=1e-7)
    turned = config_of(steps=1, learning_rate={"start": 1e-9}, heads={"b": {"fitting": {"neuron": [6]}}, "a": {}})
    assert heads_in(run(data, tmp_path / "v", turned, init_model=first.best).last) == ["a", "b"]
    more = {"train_data": dict.fromkeys("bc", data["a"]), "valid_data": None, "init_model": first.best}
    with pytest.raises(ConfigError, match="has the heads a, b, expected b, c: fine-tune it"):
        run(data, tmp_path / "u", config_of(heads={"b": {}, "c": {}}), **more)
    with pytest.raises(ConfigError, match="has a single head: fine-tune it"):
        run(data, tmp_path / "u", init_model=load_model(first.best, "a"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": None, "shared": ["fitting"]}, "shared is about several heads"),
        ({"heads": {"a": {"start_head": "b"}}}, r"heads\.a\.start_head has no effect without recipe: finetune"),
        ({"heads": {"RANDOM": {}}}, "no head can have the name RANDOM"),
        ({"heads": {"a b": {}}}, "String should match pattern"),
        ({"heads": {"a": {"fitting": {"neurons": [3]}}}}, r"neurons"),
        ({"model": None, "heads": {"a": {"fitting": {"neuron": [3]}}}}, r"heads\.a\.fitting changes a model of all"),
        ({"optimizer": {"type": "LKF"}}, r"optimizer\.type: LKF is for a training of a single head"),
        ({"heads": {"a": {"epochs": 2}}}, r"heads\.a\.epochs and steps \(8\) exclude each other"),
        ({"steps": None, "heads": {"a": {"epochs": 2}, "b": {}}}, r"heads\.b\.epochs is missing: the other heads have"),
        ({"steps": None, "heads": {"a": {"epochs": 2, "probability": 1}}}, "probability follows from the epochs"),
        ({"steps": None, "heads": {"a": {"epochs": 2, "batch_size": "edges:9"}}}, r"a\.epochs cannot be counted with"),
        ({"steps": None}, "steps, or epochs instead of it, is missing"),
        ({"steps": None, "epochs": 2}, r"epochs are given for each head \(heads\.NAME\.epochs\)"),
        ({"shared": [{"part": "descriptor", "heads": ["a", "x"]}]}, "shared: 'x' is no head"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(**changes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train_data": "a"}, r"data of a training with heads are given by head: \{a, b\}"),
        ({"train_data": {}}, "training data: those of 'a' are missing"),
        ({"valid_data": {"c": "x"}}, "validation data: there is no head 'c'"),
        ({"type_map": None}, "type_map is missing"),
        ({"old_data": "x"}, "old_data are compared with after the fine-tuning of a single head"),
    ],
)
def test_data_that_do_not_fit(data: dict[str, Path], tmp_path: Path, options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(data, tmp_path / "t", **options)
    assert not (tmp_path / "t").exists()


def test_data_by_head_need_heads(data: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data by head belong to a training with heads"):
        run(data, tmp_path / "t", config_of(heads=None))
    bare = [Frame(np.zeros((1, 3)), np.array([0]), None, {"energy": np.array(0.0)})]
    write_mixed(bare, tmp_path / "bare", TYPE_MAP)
    with pytest.raises(DataError, match=r"loss\.forces: no frame of the training data has the label 'forces'"):
        run(data, tmp_path / "t", train_data={"a": data["a"], "b": tmp_path / "bare"})
