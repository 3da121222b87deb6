"""Everything wrong with a file is said at once, with place, excerpt and suggestion."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dpsim.errors import ConfigError
from dpsim.workflow.language.codes import CODES
from dpsim.workflow.language.problems import InvalidWorkflow
from dpsim.workflow.planning.load import load

WRONG = """\
dpsim: 1
nmae: cu
type_map: [Cu, cu]
vars: {T: 1200}
stages:
  label:
    uses: label
    structures: {prototype: fcc, element: Cu, supercell: [2, 2, 2], rattle: 0.08 parsec, cuont: 60}
    calculator: {name: emtt}
  data: {uses: convret, from: label.frames}
  set: {uses: convert, from: label.frames, split: {train: 0.8, valid: 0.1}}
  model: {uses: train, data: set, model: {preset: dpa3-tniy}, stepz: 20}
  best: {uses: train, data: set.train, model: {preset: dpa3-tiny}, steps: 20}
  frozen: {uses: freeze, from: best.bst}
  melt:
    uses: md
    potential: best.best
    start: {prototype: fcc, element: Ag, supercell: [6, 6, 6]}
    run: {ensemble: npt, temperature: "${vars.TT} K", pressure: 1 bar, time: 20 pss}
    retries: lots
  report: {uses: report, from: [model, melk]}
  one: {uses: command, run: [x], inputs: {a: two}, outputs: [y]}
  two: {uses: command, run: [x], inputs: {a: one.y}, outputs: [y]}
  bad.name: {uses: command, run: [x]}
  none: {run: [x]}
"""


def problems(text: str, tmp_path: Path) -> dict[str, list[str]]:
    path = tmp_path / "w.yaml"
    path.write_text(text)
    with pytest.raises(InvalidWorkflow) as caught:
        load(path)
    found: dict[str, list[str]] = {}
    for problem in caught.value.problems:
        assert problem.code in CODES
        found.setdefault(problem.code, []).append(".".join(map(str, problem.path)))
    return found


def test_all_problems_are_found_in_one_pass(tmp_path: Path) -> None:
    assert problems(WRONG, tmp_path) == {
        "E203": ["nmae", "stages.label.structures.cuont", "stages.model.stepz"],
        "E212": ["type_map.1"],
        "E207": ["stages.label.structures.rattle", "stages.melt.run.time"],
        "E206": ["stages.label.calculator.name"],
        "E208": ["stages.data.uses"],
        "E405": ["stages.set.split"],
        "E204": ["stages.none"],
        "E205": ["stages.model.model.preset", "stages.melt.retries"],
        "E304": ["stages.frozen.from"],
        "E305": ["stages.melt.potential"],
        "E210": ["stages.melt.run.temperature"],
        "E301": ["stages.report.from.1"],
        "E302": ["stages.one"],
        "E209": ["stages.bad.name"],
    }


def test_the_style_of_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "dpsim: 1\ntype_map: [Cu]\nstages:\n"
    text += "  model: {uses: train, data: {path: .}, model: {preset: dpa3-tiny}, steps: 2}\n"
    (tmp_path / "workflow.yaml").write_text(text + "  frozen: {uses: freeze, from: model.bst}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidWorkflow) as caught:
        load(Path("workflow.yaml"))
    assert caught.value.render() == (
        "error[E304] workflow.yaml:5:32  stages.frozen.from\n"
        "  'model.bst' is not an output of stage 'model'\n"
        "     5 |   frozen: {uses: freeze, from: model.bst}\n"
        "       |                                ^^^^^^^^^ did you mean 'model.best'?\n"
        "  outputs of 'model': best, last, curve, metrics        help: dpsim explain E304"
    )
    assert isinstance(caught.value, ConfigError)
    assert re.fullmatch(
        r"workflow\.yaml:5:32: stages\.frozen\.from: 'model\.bst' is not an output .*\[E304\]", str(caught.value)
    )


@pytest.mark.parametrize(
    ("model", "place", "code", "message"),
    [
        ("{descriptor: {type: dpa3, x: 1}}", "descriptor.x", "E203", "'x' is not a key of 'model.descriptor'"),
        ("{descriptor: {type: dpa9}}", "descriptor.type", "E206", "'dpa9' is not one of the choices"),
        ("{descriptor: {repflow: {nlayers: true}}}", "descriptor.repflow.nlayers", "E205", "found true, expected an"),
        (
            "{preset: dpa3-tiny, descriptor: {repflow: {nlayrs: 2}}}",
            "descriptor.repflow.nlayrs",
            "E203",
            "'nlayrs' is not a key of 'model.descriptor.repflow'",
        ),
        (
            "{preset: dpa3-tiny, descriptor: {repflow: {e_sel: x}}}",
            "descriptor.repflow.e_sel",
            "E205",
            "found 'x', expected an integer",
        ),
        (
            "{preset: dpa3-tiny, fitting: {neuron: [3, true]}}",
            "fitting.neuron.1",
            "E205",
            "found true, expected an integer",
        ),
        (
            "{preset: dpa3-tiny, descriptor: {repflow: {e_rcut_smth: 9}}}",
            "descriptor.repflow",
            "E205",
            r"e_rcut_smth \(9.0 Å\) must be smaller than e_rcut \(4.5 Å\)",
        ),
        ("{preset: dpa3-tiny, cutoff: 0.1 pm}", "", "E205", r"cutoff \(0.001 Å\) does not fit the preset: "),
        (
            "{preset: dpa3-tiny, cutoff: 5, descriptor: {repflow: 3}}",
            "descriptor.repflow",
            "E205",
            "expected a mapping",
        ),
    ],
)
def test_places_are_the_keys_that_were_written(tmp_path: Path, model: str, place: str, code: str, message: str) -> None:
    """In a workflow and in the file of ``dpsim train``, also where a preset is changed or a union has members."""
    from dpsim.cli.models.train import Start, read_input

    (tmp_path / "w.yaml").write_text(
        "dpsim: 1\ntype_map: [Cu]\nstages:\n  m: {uses: train, data: {path: .}, steps: 2, model: " + model + "}\n"
    )
    (tmp_path / "t.yaml").write_text("type_map: [Cu]\ndata: .\nsteps: 2\nmodel: " + model + "\n")
    for above, read in (
        ("stages.m.model", lambda: load(tmp_path / "w.yaml")),
        ("model", lambda: read_input(tmp_path / "t.yaml", (), Start.of(None, None, None, False))),
    ):
        with pytest.raises(InvalidWorkflow, match=message) as caught:
            read()
        found = [(problem.code, ".".join(map(str, problem.path))) for problem in caught.value.problems]
        assert found == [(code, f"{above}.{place}".rstrip("."))]


@pytest.mark.parametrize(
    ("stage", "code", "message"),
    [
        ("{uses: freeze, from: label.frames}", "E305", "label.frames is labelled frames; expected a trained model"),
        ("{uses: test, model: label.failed, data: data}", "E305", "expected a frozen model or a trained model"),
        ("{uses: convert, from: {path: nope/*.xyz}}", "E401", "no file matches 'nope/\\*.xyz'"),
        ("{uses: convert, from: data/x.xyz}", "E205", "a file is written {path: data/x.xyz}"),
        (
            "{uses: label, calculator: {name: emt}, structures: {prototype: fcc, element: Ag}}",
            "E402",
            "'Ag' is not in type_map",
        ),
        ("{uses: label, calculator: {name: emt}}", "E405", "takes either 'from' or 'structures'"),
        ("{uses: command, run: ['{inputs.x}']}", "E405", "names no input of this stage"),
        ("{uses: command, run: [x], outputs: [../y]}", "E405", "must be a path inside of the output folder"),
        ("{uses: command, run: [x], resources: gpuu}", "E205", "there is no 'gpuu' in 'resources:'"),
        ("{uses: command, run: [x], resources: {rank: 1}}", "E203", "'rank' is not a key of resources"),
        ("{uses: command, run: [x], matrix: {T: [1, 1]}}", "E211", "stands twice"),
        ("{uses: command, run: [x], matrix: {T: 3}}", "E211", "needs a list"),
        ("{uses: command, run: [x], matrix: {T: [1, 2]}}", "E211", "'T' is used nowhere in this stage"),
        ("{uses: command, run: ['${matrix.T}'], matrix: {T: [1], P: [1]}}", "E211", "'P' is used nowhere"),
        (
            "{uses: md, potential: {path: .}, start: {prototype: fcc, element: Cu}, analyse: [msdd], "
            "run: {ensemble: nve, temperature: 300, time: 1 ps}}",
            "E203",
            r"'msdd' is not a key of 'analyse' \(did you mean 'msd'",
        ),
        (
            "{uses: properties, calculator: {name: emt}, on: {prototype: fcc, element: Cu}, "
            "compute: [relax, elastic: {strain: 0.1}]}",
            "E203",
            r"stages.it.compute.1.elastic.strain: 'strain' is not a key of 'compute.elastic' \(did you mean 'strains'",
        ),
        (
            "{uses: relax, calculator: {name: emt}, on: {prototype: fc, element: Cu}}",
            "E205",
            r"expected one of 'fcc', .* \(did you mean 'fcc'",
        ),
        (
            "{uses: train, data: data, model: {preset: dpa3-tiny}, steps: 1, loss: {energy: [1, 2, 3]}}",
            "E205",
            "found 3 items, expected at most 2",
        ),
        (
            "{uses: md, potential: {path: .}, start: {prototype: fcc, element: Cu}, analyse: {rdf: {pairs: [Cu-Zn]}}, "
            "run: {ensemble: nve, temperature: 300, time: 1 ps}}",
            "E402",
            "element 'Zn' is not in type_map",
        ),
        (
            "{uses: train, data: data, model: {preset: dpa3-tiny}, steps: 1, cutoff: 6}",
            "E203",
            "'cutoff' is not a key of",
        ),
        ("{uses: command, run: 7}", "E205", "found 7, expected a list"),
        ("[1]", "E205", "found a list, expected a mapping"),
        ("{uses: inspect, from: [data]}", "E205", "found a list, expected text or a mapping"),
    ],
)
def test_single_problems(tmp_path: Path, stage: str, code: str, message: str) -> None:
    text = (
        "dpsim: 1\ntype_map: [Cu]\nstages:\n"
        "  label: {uses: label, calculator: {name: emt}, structures: {prototype: fcc, element: Cu}}\n"
        f"  data: {{uses: convert, from: label}}\n  it: {stage}\n"
    )
    path = tmp_path / "w.yaml"
    path.write_text(text)
    with pytest.raises(InvalidWorkflow, match=message) as caught:
        load(path)
    assert [problem.code for problem in caught.value.problems] == [code]


def test_the_place_of_a_key_that_stands_too_high_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    run = "run: {ensemble: nve, time: 1 ps}"
    path.write_text(
        "dpsim: 1\ntype_map: [Cu]\nstages:\n"
        f"  it: {{uses: md, potential: {{path: .}}, start: {{path: .}}, temperature: 300, rdf: {{}}, {run}}}\n"
    )
    with pytest.raises(InvalidWorkflow) as caught:
        load(path)
    notes = {problem.path[-1]: problem.notes[0] for problem in caught.value.problems if problem.code == "E203"}
    assert notes == {"temperature": "'temperature' is a key of 'run'", "rdf": "'rdf' is a key of 'analyse'"}


def test_the_stage_between_two_is_named(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(
        "dpsim: 1\ntype_map: [Cu]\nstages:\n"
        "  label: {uses: label, calculator: {name: emt}, structures: {prototype: fcc, element: Cu}}\n"
        "  model: {uses: train, data: label, model: {preset: dpa3-tiny}, steps: 1}\n"
        "  md: {uses: md, potential: model, start: label, run: {ensemble: nve, temperature: 300, time: 1 ps}}\n"
    )
    with pytest.raises(InvalidWorkflow) as caught:
        load(path)
    assert {problem.path[1]: problem.notes[-1] for problem in caught.value.problems} == {
        "model": "{uses: convert, from: label.frames} makes it",
        "md": "{uses: freeze, from: model.best} makes it",
    }


def test_a_missing_type_map_is_an_error(tmp_path: Path) -> None:
    text = "dpsim: 1\nstages:\n  a: {uses: command, run: [x], outputs: [f]}\n  data: {uses: convert, from: a}\n"
    assert problems(text, tmp_path) == {"E212": [""]}


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    structures = "{molecules: {H2O: 1}, density: 1}"
    text = f"dpsim: 1\nstages:\n  a: {{uses: label, calculator: {{name: tblite}}, structures: {structures}}}\n"
    path = tmp_path / "w.yaml"
    path.write_text(text)
    with pytest.raises(InvalidWorkflow, match=r"'tblite' is not installed; run: pip install 'dpsim\[label\]'"):
        load(path)


def test_every_code_has_a_page() -> None:
    for code, (title, page) in CODES.items():
        assert re.fullmatch(r"E\d\d\d", code)
        assert title
        assert len(page) > 40
