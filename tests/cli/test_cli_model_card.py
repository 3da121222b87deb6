"""``dpsim model card``: what a model file, its checks and its training tell."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from dpsim.calculators import model_card as module
from dpsim.calculators.model_card import as_markdown, model_card
from dpsim.cli.main import run
from dpsim.descriptors.citations import CITATIONS, citations_of
from dpsim.model.checkpoint import save_model, state_digest
from dpsim.model.config import ModelConfig

TRAINING = {"steps": 10, "batch_size": 2, "ema": None, "log_every": 5, "loss": {"energy": [1, 1], "forces": [9, 0],
            "virial": [0, 0]}, "optimizer": {"type": "AdamW"}}  # fmt: skip
CHECKS = {"ase_vs_pytorch": {"value": 2.5e-7, "tolerance": 1e-4, "unit": "relative", "note": "a|b"}}


def card_of(capsys: Any, *words: str, form: str = "markdown") -> str:
    assert run(["model", "card", *words, "--format", form]) == 0
    return str(capsys.readouterr().out)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A small trained model."""
    provenance = {"step": 10, "training": TRAINING, "training data": "abc", "initial model": "", "metric": 0.5}
    folder = tmp_path / "store" / "aa" / "one" / "out"
    folder.mkdir(parents=True)
    return save_model(ModelConfig.tiny().build(0), folder / "best.safetensors", provenance)


def test_of_weights(weights: Path, capsys: Any) -> None:
    found = json.loads(card_of(capsys, str(weights), form="json"))
    assert found["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert found["training"] == {"step": 10} | {k: v for k, v in TRAINING.items() if k not in ("ema", "log_every")}
    assert found["data"] == {"training data": "abc"}
    kind = ModelConfig.tiny().descriptor.type
    assert found["citations"] == [CITATIONS[kind]]
    page = card_of(capsys, str(weights))
    for line in (f"# {weights.name}", "| batch_size | 2 |", f"- {CITATIONS[kind]}", "| validation metric | 0.5 |"):
        assert f"\n{line}\n" in f"\n{page}"
    assert "Checks" not in page


def test_for_matbench(weights: Path, capsys: Any) -> None:
    assert run(["model", "card", str(weights), "--format", "matbench"]) == 0
    said = capsys.readouterr()
    found = yaml.safe_load(said.out)
    total = sum(p.numel() for p in ModelConfig.tiny().build(0).parameters())
    assert (found["targets"], found["model_params"], found["model_name"]) == ("EF_G", total, "best")
    assert found["environment"]["dependencies"]["torch"]
    assert found["hyperparams"]["batch_size"] == 2
    empty = {name for name, value in found.items() if value is None}
    assert set(module.TO_FILL) - {"license"} <= empty
    assert all(name in said.err for name in module.TO_FILL)


def test_of_a_frozen_model(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It lies in a run directory, beside its card, and what it was made of is found there."""
    digest = state_digest(ModelConfig.tiny().build(0))
    facts = {"format": "dpsim frozen model 2", "type_map": ["O", "H"], "digest": digest}
    real = module.summarize
    monkeypatch.setattr(module, "summarize", lambda path, *more: facts if path.suffix == ".pt2" else real(path, *more))
    entry = tmp_path / "store" / "bb" / "two"
    (entry / "out").mkdir(parents=True)
    (entry / "out" / "model.pt2").write_bytes(b"frozen")
    (entry / "out" / "card.json").write_text(json.dumps({"digest": digest, "checks": CHECKS}))
    (entry / "inputs.json").write_text(json.dumps({"inputs": [{"paths": ["store/aa/one/out/best.safetensors"]}]}))
    found = model_card(entry / "out" / "model.pt2")
    assert (found["format"], found["checks"]) == ("dpsim frozen model 2", CHECKS)
    assert found["training"]["batch_size"] == 2
    assert found["parameters"]["total"] > 0
    assert "| ase vs pytorch | 2.5e-07 | 0.0001 relative | a|b |" in as_markdown(found)
    # The card and the weights of another model say nothing of this one.
    facts["digest"] = "0" * 40
    other = model_card(entry / "out" / "model.pt2")
    assert not {"checks", "training", "parameters"} & other.keys()


def test_heads(golden: Path, capsys: Any) -> None:
    page = card_of(capsys, str(golden / "ckpt_multi.ckpt-6.pt"))
    assert page.index("## Head head_a") < page.index("## Head head_b")
    one = card_of(capsys, str(golden / "ckpt_multi.ckpt-6.pt"), "--head", "head_b")
    assert "| heads | head_a, head_b |" in one
    assert f"- {CITATIONS['dpa3']}" in one


def test_no_model(tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(b"no model")
    assert run(["model", "card", str(tmp_path / "x.pt")]) == 4
    assert run(["model", "card", str(tmp_path / "absent.pt")]) == 4


def test_citations_of_parts() -> None:
    parts = {"type": "hybrid", "list": [{"type": "se_e2_a"}, {"type": "dpa2"}, {"type": "mine"}]}
    assert list(citations_of({"descriptor": parts})) == [CITATIONS["se_e2_a"], CITATIONS["dpa2"]]
