"""Cache keys hold what decides the result and nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_golden_keys import GOLDEN, WORKFLOW, keys

from dpsim.workflow.language.problems import InvalidWorkflow
from dpsim.workflow.planning.decide import Decider
from dpsim.workflow.planning.key import difference, make_key
from dpsim.workflow.planning.load import load
from dpsim.workflow.records.digest import Digester, canonical_json, digest_bytes
from dpsim.workflow.records.store import Store

STAGE = "{uses: command, run: [x, '{inputs.i}'], inputs: {i: a}, outputs: [y], %s}"


def key(tmp_path: Path, extra: str = "", *, first: str = "a", seed: int | None = None) -> str:
    """Return the key of one command stage with a fixed input."""
    stage = STAGE.replace("i: a", f"i: {first}") % extra
    path = tmp_path / "w.yaml"
    path.write_text(
        f"dpsim: 1\nresources: {{big: {{cpus: 2}}}}\nstages:\n  {first}: {{uses: command, run: [z]}}\n  s: {stage}\n"
    )
    workflow = load(path, seed=seed).workflow
    task = workflow.tasks["s"]
    return make_key(task.config, {"inputs.i": "00"}, type_map=(), seed=workflow.seed_of(task)).digest


@pytest.mark.parametrize(
    "extra",
    [
        "resources: {ranks: 2}",
        "resources: big",
        "timeout: 2 h",
        "retries: 3",
        "notes: hello",
        "cache: off",
        "x-note: 1",
    ],
)
def test_what_does_not_decide_the_result_is_not_in_the_key(tmp_path: Path, extra: str) -> None:
    assert key(tmp_path, extra) == key(tmp_path)


@pytest.mark.parametrize("extra", ["env: {A: 1}", "seed: 4", "cache: strict"])
def test_what_decides_the_result_is_in_the_key(tmp_path: Path, extra: str) -> None:
    assert key(tmp_path, extra) != key(tmp_path)


def train_options(tmp_path: Path, resources: str) -> dict[str, object]:
    """Options in the key of a train stage that is granted something."""
    path = tmp_path / "w.yaml"
    path.write_text(
        "dpsim: 1\ntype_map: [Cu]\nresources: {two: {ranks: 2}, cores: {cpus: 2}}\nstages:\n"
        f"  s: {{uses: train, data: {{path: .}}, model: dpa3-tiny, steps: 2, resources: {resources}}}\n"
    )
    return load(path, check_files=False).workflow.tasks["s"].config.key_options()


def test_ranks_of_a_training_are_in_its_key(tmp_path: Path) -> None:
    """A step of two has the frames of two: the result is another one. Cores change nothing."""
    plain = train_options(tmp_path, "{}")
    for same in ("{ranks: 1}", "cores", "{cpus: 1, gpus: 0}"):
        assert train_options(tmp_path, same) == plain
    for other in ("{ranks: 2}", "two", "{ranks: 2, cpus: 2}"):
        assert train_options(tmp_path, other) == plain | {"ranks": 2}


def test_a_potential_beside_the_workflow_is_in_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name means the file that is there, else one that comes with LAMMPS; the latter is part of LAMMPS."""
    path = tmp_path / "w.yaml"
    (tmp_path / "shipped").mkdir()
    (tmp_path / "shipped/Cu.eam.alloy").touch()
    monkeypatch.setattr("data_tools.calculators.lammps_potentials", lambda: tmp_path / "shipped")

    def inputs(potential: str = "Cu.eam.alloy") -> dict[str, str]:
        calculator = f"{{name: eam, potential: {potential}}}"
        path.write_text(
            "dpsim: 1\nstages:\n"
            f"  s: {{uses: label, structures: {{prototype: fcc, element: Cu}}, calculator: {calculator}}}\n"
        )
        decision = Decider(load(path), Store(tmp_path / "run"), Digester()).decide("s")
        return {record.place: record.digest for record in decision.inputs}

    assert inputs() == {}
    (tmp_path / "Cu.eam.alloy").write_text("one")
    first = inputs()
    (tmp_path / "Cu.eam.alloy").write_text("another")
    assert first.keys() == inputs().keys() == {"calculator.potential"}
    assert first != inputs()
    with pytest.raises(InvalidWorkflow, match=r"no file matches 'Ag.eam.alloy'"):
        inputs("Ag.eam.alloy")


def test_names_and_files_are_not_in_the_key(tmp_path: Path) -> None:
    assert key(tmp_path, first="other") == key(tmp_path)
    assert key(tmp_path, seed=3) != key(tmp_path)


def test_units_and_defaults_are_expanded_before_hashing(tmp_path: Path) -> None:
    def of(timestep: str) -> str:
        path = tmp_path / "w.yaml"
        path.write_text(
            "dpsim: 1\ntype_map: [Cu]\nstages:\n"
            "  m: {uses: md, potential: {path: x.pt2}, start: {prototype: fcc, element: Cu},"
            f" run: {{ensemble: nvt, temperature: 300 K, time: 1 ps{timestep}}}}}\n"
        )
        workflow = load(path, check_files=False).workflow
        return make_key(workflow.tasks["m"].config, {}, type_map=("Cu",), seed=0).digest

    assert of(", timestep: 0.5 fs") == of(", timestep: 0.0005 ps") == of("")
    assert of(", timestep: 1 fs") != of("")


def test_a_training_keeps_its_work_when_steps_are_raised(tmp_path: Path) -> None:
    def of(steps: int) -> tuple[str, str]:
        path = tmp_path / "w.yaml"
        path.write_text(
            "dpsim: 1\ntype_map: [Cu]\nstages:\n"
            f"  m: {{uses: train, data: {{path: .}}, model: {{preset: dpa3-tiny}}, steps: {steps}}}\n"
        )
        made = make_key(load(path).workflow.tasks["m"].config, {"data": "00"}, type_map=("Cu",), seed=0)
        return made.digest, made.work_digest

    assert of(10)[0] != of(20)[0]
    assert of(10)[1] == of(20)[1]


def test_epochs_and_settings_of_a_run_in_keys(tmp_path: Path) -> None:
    """Raised epochs go on with the same work; limits of time and files beside the models are in no key."""

    def of(settings: str) -> tuple[str, str]:
        path = tmp_path / "w.yaml"
        path.write_text(
            "dpsim: 1\ntype_map: [Cu]\nstages:\n"
            f"  m: {{uses: train, data: {{path: .}}, model: {{preset: dpa3-tiny}}, {settings}}}\n"
        )
        made = make_key(load(path).workflow.tasks["m"].config, {"data": "00"}, type_map=("Cu",), seed=0)
        return made.digest, made.work_digest

    plain = of("epochs: 3")
    assert of("epochs: 6")[0] != plain[0]
    assert of("epochs: 6")[1] == plain[1]
    assert of("epochs: 3, walltime: 1 h, tensorboard: true, statistics_file: s.json") == plain
    for changed in ("ema: 0.99", "accumulate: 2", "optimizer: {type: LKF}", "validation_metric: energy:mae"):
        assert of(f"epochs: 3, {changed}")[1] != plain[1]


def test_golden_keys() -> None:
    """Fails when keys change: raise `result_version` if results change, then run make_golden_keys.py."""
    assert keys(WORKFLOW) == json.loads(GOLDEN.read_text())


def test_differences_are_named() -> None:
    old = {"options": {"a": 1, "b": {"c": [1, 2]}}, "inputs": {"x": "0", "y": "1"}, "seed": 1, "result_version": 1}
    new = {
        "options": {"a": 1, "b": {"c": [1, 3]}, "d": 5},
        "inputs": {"x": "2", "z": "1"},
        "seed": 2,
        "result_version": 1,
    }
    assert difference(old, new) == [
        "option b.c.1: 2 -> 3",
        "option d: absent -> 5",
        "input x changed",
        "input y removed",
        "input z added",
        "seed 1 -> 2",
    ]


def test_digest_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_text("1")
    (folder / "b").write_text("2")
    (folder / "link").symlink_to("b")
    first = Digester().path(folder)
    assert first == Digester().path(folder)

    def changed(action: str) -> str:
        match action:
            case "content":
                (folder / "b").write_text("3")
            case "name":
                (folder / "b").rename(folder / "c")
                (folder / "link").unlink()
                (folder / "link").symlink_to("c")
            case "mode":
                (folder / "c").chmod(0o755)
            case "empty folder":
                (folder / "empty").mkdir()
            case "new file":
                (folder / "empty" / "x").write_text("")
        return Digester().path(folder)

    seen = {first}
    for action in ("content", "name", "mode", "empty folder", "new file"):
        digest = changed(action)
        assert digest not in seen, action
        seen.add(digest)


def test_what_lies_behind_links_to_folders_counts(tmp_path: Path) -> None:
    folder, far = tmp_path / "d", tmp_path / "far"
    for made in (folder / "own", far / "sub"):
        made.mkdir(parents=True)
    (far / "sub" / "a").write_text("1")
    for link, target in (
        ("d/linked", far), ("d/again", far / "sub"), ("d/inside", folder / "own"), ("d/own/round", folder),
        ("d/up", tmp_path), ("far/back", far), ("far/home", folder),
    ):  # fmt: skip
        (tmp_path / link).symlink_to(target)
    digester = Digester()
    names = [entry[0] for entry in digester._entries(folder)]
    assert sorted(names) == [
        "again/a", "inside", "linked/back", "linked/home", "linked/sub/a", "own/round", "up",
    ]  # fmt: skip
    first = digester.path(folder)
    (far / "sub" / "a").write_text("22")
    second = digester.path(folder)
    (far / "sub" / "b").touch()
    assert len({first, second, digester.path(folder)}) == 3


def test_the_memo_saves_reading_and_notices_changes(tmp_path: Path) -> None:
    file, memo = tmp_path / "big", tmp_path / "memo.json"
    file.write_bytes(b"x" * 1000)
    os.utime(file, ns=(10**18, 10**18))  # long ago, so that the clock of the file system is no question
    first = Digester(memo)
    digest = first.file(file)
    first.save()
    second = Digester(memo)
    assert second.file(file) == digest
    assert second.read_bytes == 0
    assert Digester(memo, verify=True).file(file) == digest
    file.write_bytes(b"y" * 1000)
    assert Digester(memo).file(file) != digest


def test_a_file_just_written_is_not_remembered(tmp_path: Path) -> None:
    file, memo = tmp_path / "new", tmp_path / "memo.json"
    file.write_text("1")
    digester = Digester(memo)
    digester.file(file)
    digester.save()
    assert not memo.exists()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values)
def test_canonical_json_does_not_depend_on_order(value: object) -> None:
    def shuffled(item: object) -> object:
        if isinstance(item, dict):
            return {key: shuffled(item[key]) for key in reversed(list(item))}
        return [shuffled(one) for one in item] if isinstance(item, list) else item

    assert canonical_json(value) == canonical_json(shuffled(value))
    assert len(digest_bytes(canonical_json(value))) == 40


def test_the_kind_of_device_is_noted_and_counts_if_strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dpsim.workflow.planning import decide

    path = tmp_path / "w.yaml"
    text = "dpsim: 1\ntype_map: [Cu]\nstages:\n  f: {uses: freeze, from: {path: x}, precision: float64%s}\n"

    def of(extra: str, gpus: list[str]) -> tuple[str, dict[str, str]]:
        path.write_text(text % extra)
        task = load(path, check_files=False).workflow.tasks["f"]
        monkeypatch.setattr(decide, "gpu_names", lambda: gpus)
        made = make_key(task.config, {}, type_map=(), seed=None, device=decide.device_of(task))
        return made.digest, dict(made.soft)

    cpu, cuda = of("", []), of("", ["NVIDIA"])
    assert cpu[0] == cuda[0]
    assert (cpu[1]["device"], cuda[1]["device"], cpu[1]["dtype"]) == ("cpu", "cuda", "float64")
    assert of(", resources: {gpus: 0}", ["NVIDIA"])[1]["device"] == "cpu"
    assert of(", cache: strict", [])[0] != of(", cache: strict", ["NVIDIA"])[0]
