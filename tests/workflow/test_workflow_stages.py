"""Every stage type hands its options and paths to the library function it is about."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, create_autospec

import numpy as np
import pytest

from dpsim.errors import DataError
from dpsim.workflow.context import Artifact, Context, Granted
from dpsim.workflow.planning.files import match_files, near
from dpsim.workflow.planning.load import load
from dpsim.workflow.records.files import read_json
from dpsim.workflow.stage import Stage
from dpsim.workflow.stages import STAGE_TYPES, find_stage_type
from dpsim.workflow.stages.md import MDStage


def stage(uses: str, **options: Any) -> Stage:
    found = find_stage_type(uses)
    assert found is not None
    return found.model_validate({"uses": uses, **options})


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., Context]:
    def context(**inputs: Any) -> Context:
        for name in ("out", "work"):
            (tmp_path / name).mkdir(exist_ok=True)
        artifacts = {
            slot: [a if isinstance(a, Artifact) else Artifact((a,), slot) for a in (v if isinstance(v, list) else [v])]
            for slot, v in inputs.items()
        }
        granted = Granted(ranks=2, cpus=2, gpus=0)
        paths = {"out": tmp_path / "out", "work": tmp_path / "work", "base": tmp_path, "run_dir": tmp_path}
        return Context(artifacts, seed=7, resources=granted, type_map=("Cu",), name="it", **paths)

    return context


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Callable[..., MagicMock]:
    """Replace a function by a stand-in that takes exactly the same arguments."""

    def library(module: str, name: str, effect: Callable[..., Any] | None = None) -> MagicMock:
        loaded = importlib.import_module(module)
        stand_in = create_autospec(getattr(loaded, name), side_effect=effect)
        monkeypatch.setattr(loaded, name, stand_in)
        return stand_in

    return library


@pytest.mark.parametrize("uses", STAGE_TYPES)
def test_the_table_of_types(uses: str) -> None:
    found = find_stage_type(uses)
    assert found is not None
    assert found.model_fields["uses"].default == uses
    assert found.__doc__
    for name in found.__annotations__.keys() & found.model_fields.keys() - {"uses"}:
        assert found.model_fields[name].description, f"{uses}.{name} has no docstring"


def test_an_unknown_type_is_looked_for_in_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    from dpsim.workflow.stages.command import CommandStage

    class Entry:
        def load(self) -> type[Stage]:
            return CommandStage

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group, name: [Entry()] if name == "mine" else [])
    assert find_stage_type("mine") is CommandStage
    assert find_stage_type("yours") is None


def test_the_home_folder(tmp_path: Path, context: Callable[..., Context], monkeypatch: pytest.MonkeyPatch) -> None:
    """``~`` is it when a file is looked for, and when it is read."""
    from ase.build import bulk
    from ase.io import write

    monkeypatch.setenv("HOME", str(tmp_path))
    copper = bulk("Cu")
    copper.info["REF_energy"] = -1.0
    write(tmp_path / "frames.extxyz", [copper] * 3)
    found = match_files(tmp_path / "elsewhere", ["~/frames.extxyz"])
    convert = stage("convert", **{"from": {"path": "~/frames.extxyz", "index": ":2"}}, format="extxyz")
    convert.execute(context(**{"from": Artifact(tuple(found), "from")}))
    assert (tmp_path / "out" / "frames.extxyz").read_text().count("Lattice") == 2
    assert near(tmp_path / "elsewhere", "~/frame.extxyz") == "~/frames.extxyz"


def test_label_convert_inspect_for_real(tmp_path: Path, context: Callable[..., Context]) -> None:
    structures = {"prototype": "fcc", "element": "Cu", "rattle": "0.05 angstrom", "count": 6}
    label = stage("label", structures=[structures], calculator={"name": "emt"})
    label.execute(context())
    frames = tmp_path / "frames.extxyz"
    (tmp_path / "out" / "frames.extxyz").rename(frames)
    assert json.loads((tmp_path / "out" / "failed.json").read_text()) == {"failed": []}
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == {"frames": 6, "failed": 0}
    assert label.declared_outputs().keys() == {"frames", "failed", "metrics"}

    for name in ("failed.json", "metrics.json"):
        (tmp_path / "out" / name).unlink()
    convert = stage(
        "convert",
        **{"from": ["it.frames", {"path": "frames.extxyz", "index": ":2"}]},
        split={"train": 0.5, "valid": 0.5},
    )
    references = [Artifact((frames,), "from.0", "label"), Artifact((frames,), "from.1")]
    convert.execute(context(**{"from": references}))
    card = read_json(tmp_path / "out" / "dataset.json")
    assert card["parts"] == {"train": 4, "valid": 4}
    assert [source["path"] for source in card["sources"]] == ["label/frames.extxyz", "frames.extxyz"]
    assert not {"made", "output"} & card.keys()
    assert set(convert.declared_outputs()) == {".", "train", "valid"}
    (tmp_path / "out").rename(tmp_path / "data")

    look = stage("inspect", **{"from": "data"}, fail_on=["nan"])
    look.execute(context(**{"from": tmp_path / "data"}))
    assert json.loads((tmp_path / "out" / "inspect.json").read_text())["parts"].keys() == {"train", "valid"}
    strict = stage("inspect", **{"from": "data"}, fail_on=["duplicate"])
    with pytest.raises(DataError, match="the data set has what fail_on forbids: duplicate"):
        strict.execute(context(**{"from": tmp_path / "data"}))
    (tmp_path / "out" / "inspect.json").unlink()

    other = stage("convert", **{"from": "data"}, format="extxyz", drop=["near_duplicates"], dedupe={"tol": "1 pm"})
    other.execute(context(**{"from": Artifact((tmp_path / "data",), "from", "data")}))
    assert other.declared_outputs()["."] == ("frames.extxyz", "frames")
    assert (tmp_path / "out" / "frames.extxyz").read_text().count("REF_energy=") == 6
    assert next(stage("convert", **{"from": "data"}, dedupe={"tol": 0.1}).problems())[0] == ("dedupe",)
    divided = stage("convert", **{"from": "data"}, format="extxyz", split={"train": 0.5, "test": 0.5})
    assert divided.declared_outputs()["test"] == ("test/frames.extxyz", "frames")

    assert look.declared_outputs().keys() == {"report"}
    small = stage("inspect", **{"from": "data"}, fail_on=["nan"], drop=["near_duplicate"], dedupe={"tol": "1 pm"})
    assert small.declared_outputs().keys() == {"report", "clean"}
    small.execute(context(**{"from": tmp_path / "data"}))
    found = json.loads((tmp_path / "out" / "inspect.json").read_text())
    assert found["removed"] == {"total": 2, "duplicate": 2, "near_duplicate": 0}
    assert read_json(tmp_path / "out" / "clean" / "dataset.json")["frames"] == 6
    wrong = stage("inspect", **{"from": "data"}, fail_on=["duplicate_train_valid"], drop=["duplicate"], property="gap")
    assert list(wrong.problems()) == [
        (("fail_on", 0), "frames with 'duplicate_train_valid' are dropped, so it cannot fail the stage")
    ]


def test_train(tmp_path: Path, context: Callable[..., Context], library: Callable[..., MagicMock]) -> None:
    def effect(ranks: int, config: Any, folder: Path, **_: Any) -> None:
        folder.mkdir(exist_ok=True)
        for name in ("best.safetensors", "last.safetensors", "lcurve.csv", "metrics.json"):
            (folder / name).write_text(str(config.steps))

    train = library("dpsim.train.parallel.ranks", "train_on", effect)
    for part in ("train", "valid"):
        (tmp_path / "data" / part).mkdir(parents=True)
    declared = stage("train", data="data", model={"preset": "dpa3-tiny"}, steps=100, start_from={"path": "m"})
    declared.execute(context(data=tmp_path / "data", start_from=tmp_path / "m.safetensors"))
    (ranks, config, folder), options = train.call_args
    assert (ranks, config.steps, config.seed, folder) == (2, 100, 7, tmp_path / "work")
    assert options["train_data"] == [tmp_path / "data" / "train"]
    assert options["valid_data"] == [tmp_path / "data" / "valid"]
    assert options["init_model"] == tmp_path / "m.safetensors"
    assert (options["type_map"], options["device"]) == (("Cu",), "cpu")
    assert (tmp_path / "out" / "best.safetensors").read_text() == "100"

    # A shorter training does not touch the checkpoints of a longer one.
    (tmp_path / "work" / "step-100.ckpt").touch()
    shorter = stage("train", data="data", model={"preset": "dpa3-tiny"}, steps=50)
    shorter.execute(context(data=tmp_path / "data"))
    (_, config, folder), _ = train.call_args
    assert (config.seed, folder) == (7, tmp_path / "work" / "until-50")


def test_freeze(tmp_path: Path, context: Callable[..., Context], library: Callable[..., MagicMock]) -> None:
    freeze = library("dpsim.calculators.freeze", "freeze")
    stage("freeze", **{"from": "model.best"}, precision="float64").execute(context(**{"from": tmp_path / "m"}))
    assert freeze.call_args.args == (tmp_path / "m", tmp_path / "out" / "model.pt2")
    options = freeze.call_args.kwargs
    assert (options["device"], options["dtype"], options["checks"]) == ("cpu", "float64", True)
    assert options["card"] == tmp_path / "out" / "card.json"


def test_test(tmp_path: Path, context: Callable[..., Context], library: Callable[..., MagicMock]) -> None:
    evaluate = library("dpsim.calculators.errors_on_data", "evaluate_dataset")
    declared = stage("test", model="frozen", data=["a.test", "b.test"])
    declared.execute(context(model=tmp_path / "m.pt2", data=[tmp_path / "a", tmp_path / "b"]))
    assert evaluate.call_args.args == (tmp_path / "m.pt2", [tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_md(tmp_path: Path, context: Callable[..., Context], library: Callable[..., MagicMock]) -> None:
    from ase.build import bulk
    from ase.io import write

    write(tmp_path / "frames.extxyz", [bulk("Cu", cubic=True), bulk("Cu", cubic=True) * 2])
    run_md = library("dpsim.calculators.md.lammps", "run_md")
    segment = {"ensemble": "nvt", "temperature": "300 K", "time": "1 ps"}
    start = {"frames": "label.frames", "index": 0, "supercell": [1, 2, 3]}
    md = stage("md", potential="frozen", start=start, run=segment, analyse=["rdf"], reference="label.frames")
    assert [source.path for source in md.sources()] == [("potential",), ("start", "frames"), ("reference",)]
    frames = tmp_path / "frames.extxyz"
    md.execute(context(potential=tmp_path / "m.pt2", start=frames, reference=frames))
    config, atoms, potentials, work, out = run_md.call_args.args
    options = run_md.call_args.kwargs
    assert (len(atoms), potentials, work, out) == (24, [tmp_path / "m.pt2"], tmp_path / "work", tmp_path / "out")
    assert (options["ranks"], options["seed"], options["type_map"]) == (2, 7, ("Cu",))
    assert options["reference"] == [frames]
    assert options["mpi"] is None
    assert config.run[0].time == 1.0

    built = stage("md", potential="frozen", start={"prototype": "fcc", "element": "Cu"}, run=segment)
    built.execute(context(potential=tmp_path / "m.pt2"))
    assert len(run_md.call_args.args[1]) == 4
    wrong = stage("md", potential="frozen", start={"frames": "label.frames", "index": 9}, run=segment)
    with pytest.raises(DataError, match=r"start.index 9: .* holds 2 frames"):
        wrong.execute(context(potential=tmp_path / "m.pt2", start=frames))


def test_what_md_starts_from(
    tmp_path: Path, context: Callable[..., Context], library: Callable[..., MagicMock]
) -> None:
    from ase.build import bulk
    from ase.io import write

    from dpsim.data import Frame, write_npy

    run_md = library("dpsim.calculators.md.lammps", "run_md")

    def md(declared_start: Any, reference: Any = None, /, **inputs: Any) -> None:
        segment = {"ensemble": "nve", "temperature": "300 K", "time": "1 ps"}
        options = {"start": declared_start, "reference": reference, "run": segment, "analyse": ["rdf"]}
        stage("md", potential="frozen", **options).execute(context(potential=tmp_path / "m.pt2", **inputs))

    # A data set that names no elements takes those of the workflow.
    frame = Frame(np.zeros((1, 3)), np.array([0]), 4 * np.eye(3), {"energy": np.array(0.0)}, "x")
    write_npy([frame], tmp_path / "data", ("Cu",))
    next((tmp_path / "data").rglob("type_map.raw")).unlink()
    md({"frames": "data", "supercell": [2, 1, 1]}, start=tmp_path / "data")
    assert run_md.call_args.args[1].get_chemical_formula() == "Cu2"

    # Of more than one structure, each is run.
    write(tmp_path / "two.xyz", [bulk("Cu"), bulk("Cu", cubic=True)], format="extxyz")
    many = library("dpsim.calculators.md.many", "run_many")
    md({"path": "two.xyz"})
    assert [len(atoms) for atoms in many.call_args.args[1]] == [1, 4]
    one, starts = many.call_args.args[:2]
    one(1, starts[1], tmp_path / "work" / "01", tmp_path / "out" / "01", None)
    assert (run_md.call_args.kwargs["seed"], run_md.call_args.args[0].seed) == (8, 8)
    deadline = run_md.call_args.kwargs["deadline"]
    one(0, starts[0], tmp_path / "work" / "00", tmp_path / "out" / "00", None)
    assert run_md.call_args.kwargs["deadline"] is deadline
    md({"path": "two.xyz", "index": 1})
    assert len(run_md.call_args.args[1]) == 4

    # Every artifact of the reference counts.
    files = [tmp_path / "two.xyz", tmp_path / "data"]
    md({"path": "two.xyz", "index": 1}, "label.frames", reference=files)
    assert run_md.call_args.kwargs["reference"] == files


def test_a_change_of_the_analysis_keeps_the_trajectory(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the workflow, or in a later dpsim."""
    from dpsim.workflow.planning.key import make_key

    segment = {"ensemble": "nvt", "temperature": "300 K", "time": "1 ps"}
    common = {"potential": "frozen", "start": {"prototype": "fcc", "element": "Cu"}}

    def of(segment: dict[str, str], **more: Any) -> tuple[str, str]:
        made = make_key(stage("md", **common, run=segment, **more), {"potential": "0"}, type_map=("Cu",), seed=0)
        return made.digest, made.work_digest

    plain, analysed, longer = of(segment), of(segment, analyse=["rdf"]), of({**segment, "time": "2 ps"})
    assert plain[0] != analysed[0]
    assert plain[1] == analysed[1] != longer[1]
    monkeypatch.setattr(MDStage, "result_version", MDStage.result_version + 1)
    assert of(segment)[0] != plain[0]
    assert of(segment)[1] == plain[1]


def test_report(tmp_path: Path, context: Callable[..., Context], library: Callable[..., MagicMock]) -> None:
    build = library("dpsim.report.build", "build_report")
    (tmp_path / "manifest.json").write_text('{"name": "x"}')
    artifacts = [Artifact((tmp_path / "a",), "from.0", "model", "train", {"steps": 5})]
    stage("report", **{"from": ["model"]}).execute(context(**{"from": artifacts}))
    sections, out, manifest = build.call_args.args
    assert [(s.name, s.type, s.out, s.options) for s in sections] == [("model", "train", tmp_path / "a", {"steps": 5})]
    assert (out, manifest) == (tmp_path / "out", {"name": "x"})


def test_names_of_stages_are_in_the_key_of_a_report_only(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text("dpsim: 1\nstages:\n  a: {uses: command, run: [x]}\n  r: {uses: report, from: [a]}\n")
    assert load(path).workflow.tasks["r"].config.key_options()["from"] == ["a"]


def test_files_of_declared_structures_are_inputs() -> None:
    label = stage(
        "label",
        structures=[{"path": "start/*.xyz", "sample": 2}, {"molecules": {"H2O": 1, "mol/x.xyz": 2}, "density": 1.0}],
        calculator={"name": "eam", "potential": "./mine.eam.alloy"},
    )
    found = [(source.slot, source.value.path) for source in label.sources()]  # type: ignore[union-attr]
    assert found == [("structures", "start/*.xyz"), ("structures", "mol/x.xyz"), ("calculator", "./mine.eam.alloy")]
    options = label.key_options()
    assert options["structures"][0]["path"] == "<input>"
    assert {symbol for _, symbol in label.elements()} == {"H", "O"}


def test_the_patterns_of_sources() -> None:
    convert = stage("convert", **{"from": {"path": "a.hdf5#water", "format": "deepmd/hdf5"}})
    source = next(iter(convert.sources()))
    assert source.value.patterns() == ("a.hdf5#water", "a.hdf5", "a.hdf5#water.*")  # type: ignore[union-attr]
