"""Models of the same settings share what is compiled: the numbers are those of each, and nothing stale is used."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from dpsim import ops
from dpsim.calculators.engines import FrozenEngine, ModuleEngine
from dpsim.export import compile as compiling
from dpsim.export import kept_code
from dpsim.export.compile import compile_model
from dpsim.export.kept_code import KeptCode, key_of
from dpsim.export.metadata import read_metadata
from dpsim.model.base import Model
from dpsim.model.checkpoint import state_digest
from dpsim.model.config import ModelConfig
from dpsim.model.example import structures

pytestmark = pytest.mark.skipif(not ops.load(), reason=f"no native operators: {ops.unavailable_reason()}")


def made(seed: int, *, neurons: int = 5, precision: str = "float64") -> Model:
    """A small model whose numbers all differ from those of another seed; two types, of which each has its constants."""
    config = ModelConfig.model_validate({
        "type_map": ["A", "B"],
        "descriptor": {"type": "se_e2_r", "rcut": 4.0, "rcut_smth": 2.0, "sel": [20, 20], "neuron": [3, 6]},
        "fitting": {"neuron": [neurons, neurons]},
    })  # fmt: skip
    model = config.build(seed).with_precision(precision)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                spread = 0.2 + 0.1 * torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.add_(spread.to(tensor) if not name.endswith("stddev") else spread.abs().to(tensor))
    return model


def assert_same(path: Path, model: Model, tolerance: float = 1e-12) -> None:
    """A package and a model give the same numbers for structures that no check has seen."""
    frozen, plain = FrozenEngine(path), ModuleEngine(model, "cpu")
    for sizes in ((17,), (1, 6)):
        hood = structures(model, sizes, seed=7)
        for a, b in zip(frozen.run(hood), plain.run(hood), strict=True):
            assert a is not None
            assert b is not None
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_code, "cache_root", lambda: cache)


@pytest.fixture(scope="module")
def first(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of seed 1, whose code is kept."""
    path = tmp_path_factory.mktemp("first") / "first.pt2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_code, "cache_root", lambda: cache)
        compile_model(made(1), path)
    return path


def refused(*_: Any) -> Any:
    raise AssertionError("it is traced")


def test_the_next_model_is_not_compiled(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_same(first, made(1))
    monkeypatch.setattr(compiling, "trace_all", refused)
    for seed in (1, 2, 3):
        path = tmp_path / f"{seed}.pt2"
        compile_model(made(seed), path)
        assert_same(path, made(seed))
        assert read_metadata(path).digest == state_digest(made(seed))
    assert_same(first, made(1))
    assert (tmp_path / "1.pt2").stat().st_size == (tmp_path / "2.pt2").stat().st_size
    assert not list(tmp_path.glob(".*"))


def test_what_differs_in_more_than_numbers_is_compiled(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "trace_all", refused)
    for model in (made(1, neurons=4), made(1, precision="float32")):
        with pytest.raises(AssertionError, match="it is traced"):
            compile_model(model, tmp_path / "other.pt2")
    keys = {key_of(made(k), {"option": o}) for k, o in [(1, 1), (2, 1), (1, 2)]}
    assert len(keys) == 2


def test_kept_code_that_gives_other_numbers_is_not_used(
    first: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Parameters in another order, a library that does not load, a file that is missing, facts that are damaged."""
    (folder,) = (path for path in (cache / "frozen").iterdir() if path.is_dir())
    layout = folder / "layout.json"
    good = json.loads(layout.read_text())
    bad = json.loads(layout.read_text())
    names = bad["graphs"]["model"]["tensors"]
    model = made(2)
    sizes = [dict(model.named_parameters()).get(name, torch.empty(0)).shape for name in names]
    same = next((i, k) for i in range(len(names)) for k in range(i) if sizes[i] == sizes[k] and len(sizes[i]) > 1)
    names[same[0]], names[same[1]] = names[same[1]], names[same[0]]
    monkeypatch.setattr(compiling, "trace_all", refused)
    monkeypatch.setattr(KeptCode, "forget", lambda _: None)
    for text, warned in [(json.dumps(bad), True), (layout.read_text()[:-5], False), ("", False)]:
        layout.write_text(text)
        caplog.clear()
        with caplog.at_level(logging.WARNING), pytest.raises(AssertionError, match="it is traced"):
            compile_model(model, tmp_path / "m.pt2")
        assert ("it is compiled anew" in caplog.text) is warned
    layout.write_text(json.dumps(good))
    library = folder / "model" / good["graphs"]["model"]["library"]
    whole = library.read_bytes()
    library.write_bytes(whole[:5000])
    with pytest.raises(AssertionError, match="it is traced"):
        compile_model(model, tmp_path / "m.pt2")
    library.unlink()
    with pytest.raises(AssertionError, match="it is traced"):
        compile_model(model, tmp_path / "m.pt2")
    library.write_bytes(whole)
    compile_model(model, tmp_path / "m.pt2")
    assert_same(tmp_path / "m.pt2", model)


def test_a_machine_that_cannot_keep_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of the cache is a file: models are compiled as if there were none."""
    (tmp_path / "cache").write_text("")
    monkeypatch.setattr(kept_code, "cache_root", lambda: tmp_path / "cache")
    model = made(4)
    compile_model(model, tmp_path / "m.pt2")
    assert_same(tmp_path / "m.pt2", model)


def test_the_codes_last_used_are_kept(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kept_code, "cache_root", lambda: tmp_path)
    folder = tmp_path / "frozen"
    for k in range(4):
        place = KeptCode(f"{k:024x}")
        with place.alone():
            place.folder.mkdir()
            (place.folder / "x").write_text("")
        kept_code.used(place.folder)
    kept_code.remove_unused(folder, "[0-9a-f]" * 24, 2)
    assert sorted(path.name[-1] for path in folder.iterdir() if path.is_dir()) == ["2", "3"]
    assert len(list(folder.glob("*.lock"))) == 2
