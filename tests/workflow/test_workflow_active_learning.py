"""Active learning for real, small: EMT labels, two tiny models, a pool of rattled crystals to select from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from dpsim.report.build import MAX_BYTES
from dpsim.workflow.context import Artifact, Context
from dpsim.workflow.driver.outcome import Outcome
from dpsim.workflow.planning.load import load
from dpsim.workflow.records.store import Store
from dpsim.workflow.stages import find_stage_type

Write = Callable[..., Path]
Run = Callable[..., Outcome]
SMALL = """
dpsim: 1
name: small
type_map: [Cu]
vars:
  crystal: {prototype: fcc, element: Cu, supercell: [1, 1, 1], rattle: 0.05 angstrom, count: 8}
  hot: {prototype: fcc, element: Cu, supercell: [1, 1, 1], rattle: 0.3 angstrom, count: 8}
stages:
  seed: {uses: label, structures: "${vars.crystal}", calculator: {name: emt}, properties: [energy, forces]}
  data: {uses: convert, from: seed.frames, split: {train: 0.75, valid: 0.25}}
  loop:
    uses: loop
    max_iterations: 4
    until: {metric: grow.frames, at_least: 16}
    carry: {data: data}
    stages:
      fit:
        uses: train
        data: loop.data
        ensemble: 2
        model:
          descriptor: {type: se_e2_a, rcut: 4.0, rcut_smth: 1.0, sel: [40], neuron: [4, 8], axis_neuron: 2}
          fitting: {neuron: [8]}
        batch_size: 2
        steps: 10
        validate_every: 5
        resources: {cpus: 1}
      pool: {uses: label, structures: "${vars.hot}", calculator: {name: emt}, properties: [energy, forces]}
      select:
        uses: select
        from: pool.frames
        models: fit.best
        trust: {mode: adaptive, quantile: 0.25}
        diversify: {method: fps, max: 3}
        drop: [unphysical, near_duplicate]
      label: {uses: label, from: select.frames, calculator: {name: emt}, properties: [energy, forces]}
      grow: {uses: convert, from: [loop.data, label.frames], split: {keep: loop.data, train: 0.5, valid: 0.5}}
    next: {data: grow}
  report: {uses: report, from: [loop]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished loop."""
    from dpsim.workflow.driver.progress import SilentView
    from dpsim.workflow.driver.runner import Runner
    from dpsim.workflow.planning.resources import Machine

    folder = tmp_path_factory.mktemp("small")
    (folder / "w.yaml").write_text(SMALL)
    outcome = Runner(load(folder / "w.yaml"), folder / "run", Machine(2, 0), SilentView()).run()
    assert outcome.code == 0, outcome.failures
    return folder


def out(folder: Path, task: str) -> Path:
    return folder / "run" / "stages" / task / "out"


def test_the_data_grow_until_there_are_enough(folder: Path) -> None:
    rows = json.loads((out(folder, "loop") / "metrics.json").read_text())["iterations"]
    sizes = [row["stages"]["grow"]["frames"] for row in rows]
    assert sizes == [11, 14, 17]
    assert [row["value"] for row in rows] == sizes
    for number, row in enumerate(rows, 1):
        selected = row["stages"]["select"]
        assert (selected["frames"], selected["selected"]) == (8, 3)
        assert selected["accurate"] + selected["candidate"] + selected["failed"] == pytest.approx(1.0)
        assert {"fit@member=1", "fit@member=2"} <= row["stages"].keys()
        assert len(read(out(folder, f"loop.{number:02d}.select") / "frames.extxyz", ":")) == 3


def test_frames_stay_in_their_part(folder: Path) -> None:
    def positions(task: str, part: str) -> set[bytes]:
        files = sorted((out(folder, task) / part).rglob("coord.npy"))
        return {row.tobytes() for file in files for row in np.load(file)}

    first, last = (positions("data", part) for part in ("train", "valid")), "loop.03.grow"
    for part, before in zip(("train", "valid"), first, strict=True):
        assert before < positions(last, part)
    assert not positions(last, "train") & positions(last, "valid")


def test_models_differ_and_the_selection_uses_them(folder: Path) -> None:
    store = Store(folder / "run").linked()
    weights = [(store[f"loop.01.fit@member={k}"].out / "best.safetensors").read_bytes() for k in (1, 2)]
    assert weights[0] != weights[1]
    inputs = store["loop.01.select"].read("inputs.json")["inputs"]
    assert [(record["place"], record["task"]) for record in inputs] == [
        ("from", "loop.01.pool"),
        ("models.0", "loop.01.fit@member=1"),
        ("models.1", "loop.01.fit@member=2"),
        ("reference", "data"),
    ]
    rows = (store["loop.01.select"].out / "deviations.csv").read_text().splitlines()
    assert rows[0] == "source,frame,step,max_devi_f_eV_A,class,dropped,selected"
    assert sum(row.endswith(",1") for row in rows) == 3
    header, *bins = (store["loop.01.select"].out / "histogram.csv").read_text().splitlines()
    assert header == "low_eV_A,high_eV_A,accurate,candidate,failed"
    assert sum(int(n) for row in bins for n in row.split(",")[2:]) == 8


def test_the_report_shows_iterations(folder: Path) -> None:
    page = (out(folder, "report") / "index.html").read_text()
    assert "grow.frames by iteration" in page
    assert "Size of the data after each iteration" in page
    assert "Deviation of the models in each iteration" in page
    assert len(page) < MAX_BYTES
    summary = json.loads((out(folder, "report") / "summary.json").read_text())
    assert summary["stages"]["loop"]["values"] == [11, 14, 17]


def test_one_more_model_trains_one(tmp_path: Path, write: Write, run: Run) -> None:
    text = """
dpsim: 1
type_map: [Cu]
stages:
  seed:
    uses: label
    structures: {prototype: fcc, element: Cu, rattle: 0.05 angstrom, count: 4}
    calculator: {name: emt}
  data: {uses: convert, from: seed.frames}
  fit:
    uses: train
    data: data
    ensemble: 2
    model:
      descriptor: {type: se_e2_a, rcut: 4.0, rcut_smth: 1.0, sel: [40], neuron: [4], axis_neuron: 2}
      fitting: {neuron: [4]}
    batch_size: 2
    steps: 2
  small: {uses: compress, from: fit.best, data: data}
  test: {uses: test, model: small, data: data}
"""
    first = run(write(text), overrides=("stages.fit.ensemble=1",))
    assert first.code == 0, first.failures
    assert "fit" in first.states
    second = run(write(text))
    made = ["fit@member=1", "small@member=1", "test@member=1"]
    assert {name: state for name, state in second.states.items() if name in made} == dict.fromkeys(made, "cached")
    assert second.states["fit@member=2"] == second.states["small@member=2"] == second.states["test@member=2"] == "done"
    store = Store(tmp_path / "run").linked()
    models = [store[f"small@member={k}"].out / "compressed.safetensors" for k in (1, 2)]
    assert models[0].read_bytes() != models[1].read_bytes()
    assert store["test@member=2"].read("inputs.json")["inputs"][0]["task"] == "small@member=2"


# --- what a selection takes from where its frames come from -------------------------------------------------------

EXPLORING = """
dpsim: 1
type_map: [Cu]
stages:
  data: {uses: convert, from: {path: frames.extxyz}}
  fit: {uses: train, data: data, model: {preset: dpa3-tiny}, steps: 5, ensemble: 3}
  freeze: {uses: freeze, from: fit.best}
  explore:
    uses: md
    matrix: {T: [300, 600]}
    potential: freeze.models
    start: {prototype: fcc, element: Cu}
    run: {ensemble: nvt, temperature: "${matrix.T} K", time: 1 ps}
    deviation: {every: 50 steps}
  select: {uses: select, from: explore.frames, trust: {mode: adaptive}, diversify: {max: 5}}
  fixed: {uses: select, from: explore.frames, trust: {mode: fixed, low: 0.1 eV/angstrom, high: 1 eV/angstrom}}
"""


def test_models_and_data_follow_from_the_exploration(write: Write) -> None:
    plan = load(write(EXPLORING), check_files=False)
    links = {link.slot: link.producers for link in plan.links["select"]}
    points = ("explore@T=300", "explore@T=600")
    assert links["from"] == tuple((point, "trajectory.extxyz") for point in points)
    assert links["deviation"] == tuple((point, "model_devi.out") for point in points)
    assert links["models"] == tuple((f"fit@member={k}", "best.safetensors") for k in (1, 2, 3))
    assert links["reference"] == (("data", "."),)
    assert "reference" not in {link.slot for link in plan.links["fixed"]}
    assert [producer for link in plan.links["explore@T=300"] for producer in link.producers] == [
        (f"freeze@member={k}", "model.pt2") for k in (1, 2, 3)
    ]
    own = load(write(EXPLORING.replace("diversify: {max: 5}}", "models: fit@member=2.best}")), check_files=False)
    assert {link.slot: link.producers for link in own.links["select"]}["models"] == (
        ("fit@member=2", "best.safetensors"),
    )


def _select(tmp_path: Path, table: str, *, starts: bool = False) -> Path:
    from ase.build import bulk

    frames = [bulk("Cu") for _ in range(4)]
    for step, atoms in enumerate(frames):
        atoms.info |= {"step": 10 * step} if not starts else {"start": step // 2, "step": 10 * (step % 2)}
    from ase.io import write as write_ase

    write_ase(tmp_path / "trajectory.extxyz", frames)
    (tmp_path / "model_devi.out").write_text(table)
    found = find_stage_type("select")
    assert found is not None
    trust = {"mode": "fixed", "low": 0.1, "high": 1.0}
    stage = found.model_validate({"uses": "select", "from": "explore.frames", "trust": trust})
    inputs = {
        "from": [Artifact((tmp_path / "trajectory.extxyz",), "from", "explore")],
        "deviation": [Artifact((tmp_path / "model_devi.out",), "deviation", "explore")],
    }
    for name in ("out", "work"):
        (tmp_path / name).mkdir(exist_ok=True)
    stage.execute(Context(inputs, tmp_path / "out", tmp_path / "work", type_map=("Cu",)))
    return tmp_path / "out"


HEADER = "#       step         max_devi_v         min_devi_v         avg_devi_v         max_devi_f\n"


def test_deviations_are_found_by_their_step(tmp_path: Path) -> None:
    rows = [(30, 2.0), (20, 0.5), (10, 0.2), (0, 0.05), (15, 9.0)]  # in another order, and one without a frame
    folder = _select(tmp_path, HEADER + "".join(f"{step} 0 0 0 {value}\n" for step, value in rows))
    assert [atoms.info["max_devi_f"] for atoms in read(folder / "frames.extxyz", ":")] == [0.2, 0.5]
    assert [atoms.info["source"] for atoms in read(folder / "frames.extxyz", ":")] == ["explore#1", "explore#2"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["counts"] == {"accurate": 1, "candidate": 2, "failed": 1}


def test_steps_begin_again_with_each_start(tmp_path: Path) -> None:
    rows = [(0, 0.05), (5, 9.0), (10, 0.2), (0, 0.3), (5, 9.0), (10, 0.06)]
    folder = _select(tmp_path, HEADER + "".join(f"{step} 0 0 0 {value}\n" for step, value in rows), starts=True)
    assert [atoms.info["max_devi_f"] for atoms in read(folder / "frames.extxyz", ":")] == [0.2, 0.3]


def test_bad_tables(tmp_path: Path) -> None:
    from dpsim.errors import DataError

    with pytest.raises(DataError, match="has no column max_devi_f"):
        _select(tmp_path, "step energy\n0 1\n")
    with pytest.raises(DataError, match="is damaged: a row is not a step with numbers"):
        _select(tmp_path, HEADER + "0 0 0 0 0.2\n10 0 0\n")
    with pytest.raises(DataError, match=r"the deviation of 2 of 4 frames is not known \(step 20 is the first\)"):
        _select(tmp_path, HEADER + "0 0 0 0 0.2\n10 0 0 0 0.2\n")


def test_nothing_worth_labelling_is_no_failure(tmp_path: Path) -> None:
    rows = "".join(f"{step} 0 0 0 0.01\n" for step in (0, 10, 20, 30))
    frames = _select(tmp_path, HEADER + rows) / "frames.extxyz"
    assert frames.read_bytes() == b""
    label, convert = find_stage_type("label"), find_stage_type("convert")
    assert label is not None
    assert convert is not None
    stage = label.model_validate({"uses": "label", "from": "select.frames", "calculator": {"name": "emt"}})
    (tmp_path / "label").mkdir()
    stage.execute(Context({"from": [Artifact((frames,), "from", "select")]}, tmp_path / "label", tmp_path / "work"))
    assert json.loads((tmp_path / "label" / "metrics.json").read_text()) == {"frames": 0, "failed": 0}
    from dpsim.errors import DataError

    none = convert.model_validate({"uses": "convert", "from": "label.frames"})
    empty = Artifact((tmp_path / "label" / "frames.extxyz",), "from", "label")
    with pytest.raises(DataError, match="none of the stages in 'from' has frames"):
        none.execute(Context({"from": [empty]}, tmp_path / "out", tmp_path / "work"))


def test_what_is_kept_must_be_converted(write: Write) -> None:
    from dpsim.workflow.language.problems import InvalidWorkflow

    text = """
dpsim: 1
type_map: [Cu]
stages:
  a: {uses: convert, from: {path: frames.extxyz}}
  b: {uses: convert, from: {path: frames.extxyz}, split: {keep: a, train: 0.5, valid: 0.5}}
"""
    with pytest.raises(InvalidWorkflow, match="'a' is not one of 'from': only what is converted can be kept"):
        load(write(text), check_files=False)
