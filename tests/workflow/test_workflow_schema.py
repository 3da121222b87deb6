"""The JSON Schema agrees with the validator on the recipes and on what is wrong."""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from dpsim.workflow.language.document import read_document
from dpsim.workflow.language.json_schema import json_schema
from dpsim.workflow.language.yaml_loader import load_text
from dpsim.workflow.planning.load import load

jsonschema = pytest.importorskip("jsonschema")
RECIPES = sorted(entry.name for entry in files("dpsim.recipes").iterdir() if entry.name.endswith(".yaml"))


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(json.loads(json.dumps(schema)))


def recipe(name: str) -> Path:
    return Path(str(files("dpsim.recipes") / name))


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid(name: str, validator: Any) -> None:
    plan = load(recipe(name), check_files=False)
    assert plan.order[-1] == "report"
    text = recipe(name).read_text()
    assert not list(validator.iter_errors(load_text(text, name).data))
    for word in ("What for", "Needs", "How long", "Edit"):
        assert f"# {word}" in text
    assert plan.workflow.name == name.removesuffix(".yaml")


@pytest.mark.skipif(find_spec("dpdispatcher") is None, reason="dpdispatcher is not installed")
def test_the_recipe_for_production_runs_on_a_cluster_too() -> None:
    plan = load(recipe("md-production.yaml"), profile="cluster")
    resources = plan.workflow.tasks["production"].resources
    assert (resources.ranks, resources.walltime) == (32, 86400.0)


def test_there_are_recipes() -> None:
    assert {"quickstart.yaml", "copper-eam.yaml", "from-dft-outputs.yaml"} <= set(RECIPES)


def test_the_recipe_for_dft_outputs_reads_several_formats(shared: Path, tmp_path: Path) -> None:
    raw = shared / "data" / "raw_outputs"
    settings = (
        f"vars.vasp={raw}/vasp/poscars/OUTCAR.h2o*",
        f"vars.cp2k={raw}/cp2k/cp2k/cp2k_2025_output/cp2k_2025_output",
        f"vars.abacus={raw}/abacus/abacus.md",
    )
    from dpsim.workflow.driver.progress import SilentView
    from dpsim.workflow.driver.runner import Runner, RunOptions
    from dpsim.workflow.planning.resources import Machine

    plan = load(recipe("from-dft-outputs.yaml"), overrides=settings)
    outcome = Runner(plan, tmp_path / "run", Machine(2, 0), SilentView(), RunOptions(selected={"data", "check"})).run()
    assert outcome.failures == []
    card = json.loads((tmp_path / "run" / "stages" / "data" / "out" / "dataset.json").read_text())
    assert [source["formats"] for source in card["sources"]] == [["vasp/outcar"], ["cp2k/output"], ["abacus/md"]]
    assert (card["frames"], card["type_map"]) == (16, ["O", "H"])


@pytest.mark.parametrize(
    "text",
    [
        "dpsim: 1\nstages: {}",
        "dpsim: 2\nstages: {a: {uses: command, run: [x]}}",
        "stages: {a: {uses: command, run: [x]}}",
        "dpsim: 1\nstages: {a: {uses: nope}}",
        "dpsim: 1\nstages: {a: {uses: command, run: [x], rnu: 1}}",
        "dpsim: 1\nstages: {a: {uses: freeze}}",
        "dpsim: 1\nname: [a]\nstages: {a: {uses: command, run: [x]}}",
        "dpsim: 1\nnope: 1\nstages: {a: {uses: command, run: [x]}}",
    ],
)
def test_what_is_wrong_is_wrong_for_the_schema_too(text: str, validator: Any) -> None:
    assert list(validator.iter_errors(load_text(text, "w").data))


def test_values_may_be_filled_in_later(validator: Any, tmp_path: Path) -> None:
    text = (
        "dpsim: 1\ntype_map: [Cu]\nvars: {n: 5, T: 300, x: [1]}\nx-note: 1\nstages:\n"
        "  m:\n    uses: train\n    data: {path: .}\n    model: {preset: dpa3-tiny}\n"
        '    steps: "${vars.n}"\n    x-note: more\n    loss: {forces: "${vars.n}"}\n'
        '  c: {uses: command, matrix: {x: "${vars.x}"}, run: ["${matrix.x}"]}\n'
    )
    assert not list(validator.iter_errors(load_text(text, "w").data))
    (tmp_path / "w.yaml").write_text(text)
    assert read_document(tmp_path / "w.yaml").data["stages"]["m"]["steps"] == 5
    assert load(tmp_path / "w.yaml").order == ("m", "c@x=1")


def _train(section: str) -> str:
    return f"dpsim: 1\ntype_map: [Cu]\nstages:\n  m:\n    uses: train\n    data: {{path: .}}\n    {section}\n"


@pytest.mark.parametrize("key", ["model", "learning_rate", "loss", "optimizer"])
def test_sections_may_be_those_of_a_named_input_of_deepmd(key: str, validator: Any) -> None:
    model = "" if key == "model" else "\n    model: dpa3-tiny"
    assert not list(validator.iter_errors(load_text(_train(f"{key}: {{deepmd: input.json}}{model}"), "w").data))
    for wrong in ("{deepmd: 3}", "{deepmd: input.json, more: 1}"):
        assert list(validator.iter_errors(load_text(_train(f"{key}: {wrong}{model}"), "w").data))


@pytest.mark.parametrize(
    "section",
    [
        "model: {descriptor: {type: se_e2_a, sel: [20], rcut: 4.0}, fitting_net: {neuron: [4]}}",
        "model: {type: linear_ener, models: []}",
        "learning_rate: {type: exp, start_lr: 0.001, stop_lr: 1.0e-5, decay_steps: 10}",
        "loss: {type: ener, start_pref_e: 0.02, limit_pref_e: 1, start_pref_f: 1000, limit_pref_f: 1}",
        "optimizer: {type: HybridMuon}",
        "optimizer: {type: Adam, adam_beta1: 0.9}",
    ],
)
def test_sections_may_be_written_in_the_words_of_deepmd(section: str, validator: Any) -> None:
    model = "" if section.startswith("model") else "\n    model: dpa3-tiny"
    assert not list(validator.iter_errors(load_text(_train(section + model), "w").data))


@pytest.mark.parametrize("section", ["loss: {force: 1}", "optimizer: {type: Nope}", "model: {fitting: 1, sel: 2}"])
def test_other_words_are_wrong_for_the_schema(section: str, validator: Any) -> None:
    assert list(validator.iter_errors(load_text(_train(section), "w").data))
