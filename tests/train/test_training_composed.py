"""Training of models made of others: settings, statistics, steps, resuming, and the tables they name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from dpsim.errors import ConfigError
from dpsim.model.checkpoint import load_model, state_digest
from dpsim.model.compose.config import LinearModelConfig, PairTableConfig, ZBLModelConfig
from dpsim.train.batches.frames import FrameSet
from dpsim.train.config import TrainConfig, resolve_model
from dpsim.train.settings.composed_model import with_tables
from dpsim.train.trainer import train

Settings = Callable[..., TrainConfig]
TYPE_MAP = ("Cu", "Au")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A repulsive table for two elements, shorter than the cutoff."""
    r = 0.1 + 0.1 * np.arange(30)
    columns = [strength * np.exp(-1.5 * r) for strength in (50.0, 60.0, 70.0)]
    np.savetxt(tmp_path / "table.txt", np.column_stack([r, *columns]))
    return tmp_path / "table.txt"


def part(settings: Settings) -> dict[str, Any]:
    """Descriptor and fitting of a tiny model."""
    return settings().model_dump(mode="json")["model"]


def zbl(settings: Settings, table: Path, **changes: Any) -> dict[str, Any]:
    section = {"type": "zbl", "model": part(settings), "table": str(table), "sw_rmin": 2.2, "sw_rmax": 2.8}
    return section | changes


def linear(settings: Settings, table: Path, **changes: Any) -> dict[str, Any]:
    pairs = {"type": "pairtab", "table": str(table), "rcut": 3.5, "sel": 30}
    return {"type": "linear", "models": [part(settings), pairs, part(settings)], "weights": [1.0, 0.5, 1.0]} | changes


@pytest.mark.parametrize("make", [zbl, linear])
def test_training_learns_and_continues(
    make: Callable[..., dict[str, Any]], emt: Path, tmp_path: Path, settings: Settings, table: Path
) -> None:
    model = make(settings, table)
    whole = train(settings(model=model), tmp_path / "a", train_data=emt / "train", valid_data=emt / "valid")
    train(settings(model=model, steps=4), tmp_path / "b", train_data=emt / "train", valid_data=emt / "valid")
    changed = settings(model=model, steps=4).model_copy(update={"steps": 8})
    again = train(changed, tmp_path / "b", train_data=emt / "train", valid_data=emt / "valid")
    assert again.metrics["best"]["step"] in (4, 8)
    first = load_model(whole.last)
    assert isinstance(first.config, ZBLModelConfig | LinearModelConfig)
    fresh = resolve_model(settings(model=model), TYPE_MAP).build(1)
    moved = [n for n, p in fresh.named_parameters() if not p.equal(dict(first.named_parameters())[n])]
    assert len(moved) > 0.7 * len(list(fresh.named_parameters()))  # edges of the last layer reach nothing
    assert {name.split(".")[1] for name in moved} == ({"0", "2"} if make is linear else {"0"})


def test_the_bias_is_that_of_the_sum(emt: Path, tmp_path: Path, settings: Settings, table: Path) -> None:
    result = train(settings(model=zbl(settings, table), steps=1), tmp_path / "t", train_data=emt / "train")
    frames = FrameSet(emt / "train", TYPE_MAP)
    a = np.array([np.bincount(frames[i].types, minlength=2) for i in range(24)], dtype=float)
    y = np.array([float(frames[i].labels["energy"]) for i in range(24)])
    model = load_model(result.last)
    np.testing.assert_allclose(model.out_bias.numpy(), np.linalg.lstsq(a, y, rcond=None)[0], atol=1e-10)
    assert all(not member.out_bias.any() for member in model.models)


def test_scales_are_taken_for_each_part(emt: Path, tmp_path: Path, settings: Settings, table: Path) -> None:
    """A part that knows more elements has their scales at its own numbers of them."""
    own = part(settings)
    own["descriptor"]["repflow"]["fix_stat_std"] = 0.0
    wider = {**own, "type_map": ["Ag", "Au", "Cu"]}
    model = {"type": "linear", "models": [own, wider], "weights": "sum"}
    result = train(settings(model=model, steps=1), tmp_path / "t", train_data=emt / "train")
    first, second = (member.descriptor.environment.stddev for member in load_model(result.last).models)
    assert (first > 0.01).all()
    assert second.shape == (3, 4)
    assert second[[2, 1]].equal(first)


def test_preset_biases_are_kept(emt: Path, tmp_path: Path, settings: Settings) -> None:
    model = part(settings) | {"preset_out_bias": {"Au": 1.5}}
    result = train(settings(model=model, steps=1), tmp_path / "t", train_data=emt / "train")
    frames = FrameSet(emt / "train", TYPE_MAP)
    a = np.array([np.bincount(frames[i].types, minlength=2) for i in range(24)], dtype=float)
    y = np.array([float(frames[i].labels["energy"]) for i in range(24)])
    copper = float(a[:, 0] @ (y - 1.5 * a[:, 1]) / (a[:, 0] @ a[:, 0]))
    np.testing.assert_allclose(load_model(result.last).out_bias.numpy(), [copper, 1.5], rtol=1e-12)
    bad = part(settings) | {"preset_out_bias": {"Pt": 0.0}}
    with pytest.raises(ConfigError, match=r"model\.preset_out_bias: 'Pt' is not in the type map"):
        train(settings(model=bad, steps=1), tmp_path / "u", train_data=emt / "train")


def test_another_table_is_another_model(emt: Path, tmp_path: Path, settings: Settings, table: Path) -> None:
    train(settings(model=zbl(settings, table), steps=2), tmp_path / "t", train_data=emt / "train")
    rows = np.loadtxt(table)
    rows[:, 1] *= 2
    np.savetxt(table, rows)
    with pytest.raises(ConfigError, match=r"holds another model \(table\.table: "):
        train(settings(model=zbl(settings, table), steps=4), tmp_path / "t", train_data=emt / "train")


def test_training_starts_from_a_model_made_of_others(
    emt: Path, tmp_path: Path, settings: Settings, table: Path
) -> None:
    first = train(settings(model=linear(settings, table), steps=1), tmp_path / "a", train_data=emt / "train")
    found = train(
        settings(model=None, steps=1, precision="float32", learning_rate={"start": 1e-30}), tmp_path / "b",
        train_data=emt / "train", init_model=first.last,
    )  # fmt: skip
    model, start = load_model(found.last), load_model(first.last)
    assert model.precision == "float32"
    assert state_digest(model.with_precision("float64")) != state_digest(model)
    assert all(p.float().equal(dict(model.named_parameters())[n].float()) for n, p in start.named_parameters())


def test_settings_are_complete(settings: Settings, table: Path) -> None:
    config = resolve_model(settings(model=zbl(settings, table), precision="float32"), TYPE_MAP)
    assert isinstance(config, ZBLModelConfig)
    assert (config.table.rcut, config.table.sel) == (4.0, 40)
    assert config.table.table[-1][0] < 4.0
    assert config.model.precision == "float32"
    preset = resolve_model(settings(model=zbl(settings, table, model="dpa3-tiny")), TYPE_MAP)
    assert isinstance(preset, ZBLModelConfig)
    assert preset.table.rcut == 4.5
    both = resolve_model(settings(model=linear(settings, table)), TYPE_MAP)
    assert isinstance(both, LinearModelConfig)
    assert isinstance(both.models[1], PairTableConfig)
    assert both.factors == (1.0, 0.5, 1.0)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"models": [{"type": "pairtab", "table": "t", "rcut": 3, "sel": 3}]}, "which leaves nothing to train"),
        ({"models": ["dpa3-tiny", {"type": "pairtab", "table": "t"}]}, "a table has no rcut or no sel"),
        ({"models": [{"preset": "dpa3-tiny", "preset_out_bias": {"Cu": 1.0}}]}, "preset_out_bias stands in a part"),
        ({"models": []}, "at least 1 item"),
        ({"models": ["dpa3-tiny", {"type": "spline"}]}, "spline"),
        ({"weight": "sum"}, "Extra inputs"),
    ],
)
def test_wrong_linear_sections(changes: dict[str, Any], says: str, settings: Settings, table: Path) -> None:
    with pytest.raises(ValidationError, match=says):
        settings(model=linear(settings, table, **changes))


def test_a_table_alone(settings: Settings) -> None:
    with pytest.raises(ValidationError, match="a table of pair energies alone leaves nothing to train"):
        settings(model={"type": "pairtab", "table": "t.txt", "rcut": 4.0, "sel": 30})


def test_wrong_zbl_sections(settings: Settings, table: Path) -> None:
    with pytest.raises(ValidationError, match="must be smaller than sw_rmax"):
        settings(model=zbl(settings, table, sw_rmin=3.0))
    with pytest.raises(ConfigError, match="there is no such table"):
        resolve_model(settings(model=zbl(settings, table.with_name("no.txt"))), TYPE_MAP)
    with pytest.raises(ConfigError, match="has 4 columns, expected 7"):
        resolve_model(settings(model=zbl(settings, table)), ("Cu", "Au", "Pt"))
    with pytest.raises(ConfigError, match="different numbers of columns"):
        resolve_model(settings(model=zbl(settings, table) | {"table": [[0.1, 1, 2, 3], [0.2, 1]]}), TYPE_MAP)


def test_tables_are_read_relative_to_the_file_that_names_them(table: Path) -> None:
    rows = np.loadtxt(table).tolist()
    node = {"type": "linear", "models": ["dpa3-tiny", {"type": "pairtab", "table": "table.txt", "rcut": 3, "sel": 4}]}
    found = with_tables(node, table.parent, 2)
    assert found["models"][1]["table"] == rows
    assert node["models"][1]["table"] == "table.txt"  # type: ignore[index]
    assert with_tables({"table": {"table": "table.txt"}}, table.parent, 2)["table"]["table"] == rows
    assert with_tables({"table": "table.txt"}, table.parent, 0)["table"] == str(table.resolve())
    with pytest.raises(ConfigError, match="expected 2"):
        with_tables({"table": "table.txt"}, table.parent, 1)
