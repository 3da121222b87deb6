"""Stages relax, phonon and properties, run for real with a model and with a calculator."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ase.build import bulk
from ase.io import write

from dpsim.calculators.statics.neb import vacancy_hop
from dpsim.cli import main as cli
from dpsim.errors import ConfigError
from dpsim.workflow.context import Artifact, Context, Granted
from dpsim.workflow.driver.progress import SilentView
from dpsim.workflow.driver.runner import Runner
from dpsim.workflow.language.problems import InvalidWorkflow
from dpsim.workflow.planning.key import make_key
from dpsim.workflow.planning.load import load
from dpsim.workflow.planning.resources import Machine
from dpsim.workflow.stage import Stage
from dpsim.workflow.stages import find_stage_type

WORKFLOW = """
dpsim: 1
name: solids
type_map: [Cu]
stages:
  relaxed:
    uses: relax
    potential: {path: MODEL}
    on: {perfect: {prototype: fcc, element: Cu}, rattled: {prototype: fcc, element: Cu, rattle: 0.05 angstrom}}
    cell: full
    fmax: 0.001
  phonons:
    uses: phonon
    potential: {path: MODEL}
    on: {frames: relaxed.frames, index: 0}
    supercell: [3, 3, 3]
    mesh: 20.0
    band_points: 5
  other:
    uses: properties
    calculator: {name: emt}
    on: {perfect: {prototype: fcc, element: Cu}}
    compute: [relax, eos]
  properties:
    uses: properties
    potential: {path: MODEL}
    on: {frames: relaxed.frames, index: 0}
    compute: [relax, eos, elastic]
    reference: other.table
    tolerance: {relax: 5 %, B0: 1 GPa}
    beyond_tolerance: warn
  report: {uses: report, from: [relaxed, phonons, properties]}
"""


def stage(uses: str, **options: Any) -> Stage:
    found = find_stage_type(uses)
    assert found is not None
    return found.model_validate({"uses": uses, **options})


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    def context(**inputs: Path) -> Context:
        for name in ("out", "work"):
            (tmp_path / name).mkdir(exist_ok=True)
        artifacts = {slot: [Artifact((path,), slot)] for slot, path in inputs.items()}
        return Context(
            artifacts, out=tmp_path / "out", work=tmp_path / "work", base=tmp_path, resources=Granted(1, 1, 0),
            type_map=("Cu",),
        )  # fmt: skip

    return context


def test_a_workflow_of_all_three(pair_model: Path, tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW.replace("MODEL", str(pair_model)))
    outcome = Runner(load(tmp_path / "w.yaml"), tmp_path / "run", Machine(2, 0), SilentView()).run()
    assert outcome.failures == []
    stages = tmp_path / "run" / "stages"
    table = rows(stages / "relaxed" / "out" / "table.csv")
    assert [(row["structure"], row["converged"]) for row in table] == [("perfect", "yes"), ("rattled", "yes")]
    assert float(table[0]["a_A"]) == pytest.approx(3.603, abs=2e-3) == float(table[1]["a_A"])
    facts = json.loads((stages / "phonons" / "out" / "summary.json").read_text())
    assert (facts["structure"], facts["imaginary"], facts["supercell_atoms"]) == ("perfect", False, 108)
    compared = {row["property"]: row for row in rows(stages / "properties" / "out" / "vs_reference.csv")}
    assert (compared["a"]["within"], compared["B0"]["within"]) == ("yes", "no")
    assert "C11" not in compared
    page = (stages / "report" / "out" / "index.html").read_text()
    for text in ("Relaxation", "Phonons", "Properties", "Beside the reference", "Equation of state of perfect"):
        assert text in page


def test_what_enters_the_key() -> None:
    def of(uses: str, inputs: dict[str, str] | None = None, **options: Any) -> tuple[str, str]:
        made = make_key(stage(uses, potential="m", on="a.b", **options), inputs or {}, type_map=("Cu",), seed=0)
        return made.digest, made.work_digest

    assert of("phonon")[0] != of("phonon", mesh=50.0)[0]
    assert of("phonon")[1] == of("phonon", mesh=50.0, thermal=False)[1] != of("phonon", displacement=0.02)[1]
    assert of("relax")[1] == of("relax", tolerate_failures=0.5)[1] != of("relax", fmax=0.1)[1]
    compared = of("properties", {"reference": "1"}, compute=["eos"], reference="r.table", tolerance="5 %")
    assert of("properties", compute=["eos"])[1] != of("properties", compute=["elastic"])[1]
    assert compared[0] != of("properties", {"reference": "1"}, compute=["eos"], reference="r.table")[0]
    assert compared[1] == of("properties", {"reference": "2"}, compute=["eos"], reference="q.table")[1]


def test_sources_and_outputs() -> None:
    neb = {"neb": {"initial": "a.frames", "final": {"path": "b.xyz"}}}
    found = stage("properties", potential="m.best", compute=neb, reference="values.yaml")
    assert [(source.slot, source.path) for source in found.sources()] == [
        ("potential", ("potential",)),
        ("on", ("compute", "neb", "initial", "frames")),
        ("structures", ("compute", "neb", "final")),
        ("reference", ("reference",)),
    ]
    assert "vs_reference" in found.declared_outputs()
    assert found.key_options()["compute"]["neb"]["initial"]["frames"] == "<input>"
    phonon = stage("phonon", calculator={"name": "eam", "potential": "./my.eam.alloy"}, on="x.frames", nac="BORN")
    assert [source.slot for source in phonon.sources()] == ["calculator", "on", "nac"]
    assert any("phonopy" in citation for citation in phonon.citations())


def test_barriers_between_files(tmp_path: Path, context: Callable[..., Context]) -> None:
    for name, atoms in zip(("a", "b"), vacancy_hop(bulk("Cu", a=3.59), 5.0), strict=True):
        write(tmp_path / f"{name}.extxyz", atoms)
    neb = {"initial": "a.extxyz", "final": {"frames": "b.extxyz", "index": 0}, "images": 1, "fmax": 0.1}
    stage("properties", calculator={"name": "emt"}, compute={"neb": neb}).execute(context())
    assert rows(tmp_path / "out" / "table.csv")[0]["property"] == "neb_barrier"


def test_several_structures_for_phonons(tmp_path: Path, context: Callable[..., Context]) -> None:
    write(tmp_path / "two.extxyz", [bulk("Cu"), bulk("Cu")])
    with pytest.raises(ConfigError, match="on gives 2 structures, phonon takes one"):
        stage("phonon", calculator={"name": "emt"}, on="two.extxyz").execute(context())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{uses: relax, on: {prototype: fcc, element: Cu}}", "takes either 'potential' or 'calculator'"),
        (
            "{uses: relax, potential: {path: .}, calculator: {name: emt}, on: {prototype: fcc, element: Cu}}",
            "takes either 'potential' or 'calculator'",
        ),
        (
            "{uses: relax, calculator: {name: emt}, precision: float64, on: {prototype: fcc, element: Cu}}",
            "precision is one of models",
        ),
        (
            "{uses: relax, calculator: {name: emt}, engine: lammps, on: {prototype: fcc, element: Cu}}",
            "engine: lammps runs a frozen model",
        ),
        ("{uses: relax, potential: {path: .}, on: {prototype: fcc, element: Au}}", "element 'Au' is not in type_map"),
        ("{uses: phonon, potential: {path: .}, on: nowhere.xyz}", "no file matches 'nowhere.xyz'"),
        (
            "{uses: properties, potential: {path: .}, on: {prototype: fcc, element: Cu}, compute: [elastik]}",
            "'elastik' is not one of relax, eos, elastic",
        ),
        (
            "{uses: properties, potential: {path: .}, on: {prototype: fcc, elemnt: Cu}, compute: [eos]}",
            "'elemnt' is not a key",
        ),
        ("{uses: relax, potential: {path: .}, on: {x: {prototype: fcc, element: Cu}}, fmax: 1 GPa}", "unit 'GPa'"),
    ],
)
def test_bad_input_is_said_before_anything_runs(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "w.yaml").write_text(f"dpsim: 1\ntype_map: [Cu]\nstages:\n  s: {text}\n")
    with pytest.raises(InvalidWorkflow) as caught:
        load(tmp_path / "w.yaml")
    assert message in caught.value.render()


def test_planning_needs_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "w.yaml").write_text(WORKFLOW.replace("MODEL", "."))
    code = "from dpsim.cli.main import run; assert run(['validate', 'w.yaml']) == 0; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert not {"torch", "phonopy", "spglib", "lammps", "matplotlib"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["relax", "--cell", "full", "--fmax", "1 meV/angstrom"], "cell: full"),
        (["phonon", "--supercell", "2", "2", "2", "--no-relax"], "relax: false"),
        (["properties", "-c", "eos", "-c", "hop"], "vacancy_hop: true"),
        (["eos", "--points", "7"], "points: 7"),
    ],
)
def test_commands_for_one_stage(
    arguments: list[str], expected: str, pair_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "cu.extxyz", bulk("Cu"))
    command, *options = arguments
    assert cli.run([command, str(pair_model), str(tmp_path / "cu.extxyz"), *options, "--print-yaml"]) == 0
    text = capfd.readouterr().out
    assert expected in text
    (tmp_path / "w.yaml").write_text(text)
    assert load(tmp_path / "w.yaml").workflow.type_map == ("Cu",)


def test_the_command_prints_what_it_found(
    pair_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "cu.extxyz", bulk("Cu"))
    assert cli.run(["eos", str(pair_model), "cu.extxyz", "-q"]) == 0
    out = capfd.readouterr().out
    assert "results: runs/eos-cu/stages/properties/out" in out
    assert "B0" in out
    assert cli.run(["relax", str(pair_model), "cu.extxyz", "--ranks", "2"]) == 2
