"""Serialised models of DeePMD-kit: what is written is read back, by dpsim and by DeePMD-kit itself."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dpsim.calculators.evaluate import load
from dpsim.errors import ModelError
from dpsim.model.checkpoint import state_digest
from dpsim.model.config import ModelConfig, read_config
from dpsim.model.peer import records
from dpsim.model.peer.families import FAMILIES
from dpsim.model.peer.family import Context, TorchTensor, joined, renamed, split
from dpsim.model.peer.files.convert import load_serialized, write_serialized
from dpsim.model.peer.files.tree import read_tree
from dpsim.model.peer.section import Section, StoredInput

INDEX = Path(__file__).resolve().parents[3] / "shared" / "golden" / "index.json"
CASES = {case["name"]: case for case in json.loads(INDEX.read_text())["cases"]} if INDEX.is_file() else {}
absent = pytest.mark.skip(reason="the developers' folder of reference data (../shared) is absent")
names = list(CASES) or [pytest.param("", marks=absent)]


def family_missing(tree) -> str:
    """Kind of a part that no family reads."""
    model = tree["model"]
    found = ""
    for kinds, node in (
        (FAMILIES.models, model),
        (FAMILIES.descriptors, model.get("descriptor")),
        (FAMILIES.fittings, model.get("fitting")),
    ):
        if node and not any(node["type"] in family.names for family in kinds):
            found = node["type"]
    return found


def golden_model(name):
    path = INDEX.parent / CASES[name]["model_files"][0]
    missing = family_missing(read_tree(path))
    if missing:
        pytest.skip(f"models with {missing!r} are not read")
    return path, load_serialized(path)


@pytest.mark.parametrize("name", names)
def test_round_trip(name, tmp_path):
    _, model = golden_model(name)
    again = load_serialized(write_serialized(model, tmp_path / "again.dp"))
    assert again.config == model.config
    assert state_digest(again) == state_digest(model)


@pytest.mark.parametrize("name", names)
def test_every_key_of_the_peer_is_written(name, tmp_path):
    """Sections have the keys, classes and versions that DeePMD-kit writes, and arrays of the same shapes."""
    path, model = golden_model(name)
    expected, found = read_tree(path)["model"], read_tree(write_serialized(model, tmp_path / "again.dp"))["model"]
    assert differences(expected, found, "model") == []


EQUIVALENT = {
    "precision", "activation_function", "atom_ener", "exclude_types", "pair_exclude_types", "smooth_type_embedding",
}  # fmt: skip
"""Keys whose values may be spelled otherwise: numbers decide about them."""
UNUSED = {"seed", "rcond", "trainable", "bias_atom_e", "out_std", "use_loc_mapping", "optim_update", "time", "rmax"}
"""``rmax`` is where a pair table ended before it was extended."""
OTHER_NAMES = {"linear": "linear_ener"}
"""The peer's PyTorch reader does not know the first, which it writes."""


def differences(expected, found, where):
    """Where two trees have other keys, classes, versions or shapes."""
    if isinstance(expected, dict) and isinstance(found, dict):
        if missing := expected.keys() - found.keys() - UNUSED:
            return [f"{where}: missing {sorted(missing)}"]
        shared = expected.keys() & found.keys() - UNUSED - EQUIVALENT
        return [line for key in sorted(shared) for line in differences(expected[key], found[key], f"{where}.{key}")]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [
            line
            for i, (a, b) in enumerate(zip(expected, found, strict=True))
            for line in differences(a, b, f"{where}[{i}]")
        ]
    if isinstance(expected, np.ndarray) or isinstance(found, np.ndarray):
        same = np.shape(expected) == np.shape(found)
        return [] if same else [f"{where}: shape {np.shape(found)}, expected {np.shape(expected)}"]
    same = expected == found or (isinstance(expected, str) and expected.lower() == str(found).lower())
    same = same or OTHER_NAMES.get(str(expected)) == found
    return [] if same or (not expected and not found) else [f"{where}: {found!r}, expected {expected!r}"]


@pytest.mark.parametrize("name", names)
def test_the_input_beside_the_numbers_makes_the_same_model(name, tmp_path):
    _, model = golden_model(name)
    tree = read_tree(write_serialized(model, tmp_path / "again.dp"))
    section = StoredInput(tree["model_def_script"], "script")
    _, settings = FAMILIES.from_input(section, Context(model.type_map, FAMILIES, tensors=tables_of(tree["model"])))
    found, wanted = read_config(settings).model_dump(), model.config.model_dump()
    scales = [config.get("fitting", {}).pop("scale", 1.0) for config in (found, wanted)]
    assert np.array_equal(*(np.broadcast_to(scale, len(model.type_map)) for scale in scales))
    rows = [[part.pop("table") for part in pair_tables(config)] for config in (found, wanted)]
    assert len(rows[0]) == len(tables_of(tree["model"]) or ()) // 2
    for table, expected in zip(*rows, strict=True):
        np.testing.assert_allclose(table, expected, rtol=1e-12, atol=1e-12)
    assert found == wanted


def tables_of(tree):
    """Tensors of the tables in a serialised model, which is where a frozen model has them; None of other models."""
    parts = enumerate(tree.get("models", ()))
    tables = {f"models.{k}.": part["tab"]["@variables"] for k, part in parts if part["type"] == "pairtab"}
    tensors = {prefix + name: found[name] for prefix, found in tables.items() for name in ("tab_info", "tab_data")}
    return tensors if "models" in tree else None


def pair_tables(config):
    """Settings of the tables within those of a model."""
    parts = [config.get("table"), *config.get("models", ())]
    return [part for part in parts if isinstance(part, dict) and part.get("type") == "pairtab"]


def test_what_an_input_has_no_words_for(golden, tmp_path):
    """Rather no input than one of another model."""
    model = load_serialized(golden / "zbl_01_dpa1.dp")
    for changes in ({"smin_alpha": 0.3}, {"table": model.config.table.model_copy(update={"sel": 7})}):
        other = model.config.model_copy(update=changes).build(0)
        assert read_tree(write_serialized(other, tmp_path / "other.dp"))["model_def_script"] == {}
    linear = load_serialized(golden / "linear_01.dp")
    first, *rest = linear.config.models
    other = linear.config.model_copy(
        update={"models": (first.model_copy(update={"pair_exclude_types": ((0, 1),)}), *rest)}
    )
    assert read_tree(write_serialized(other.build(0), tmp_path / "other.dp"))["model_def_script"] == {}


def test_yaml_holds_the_same(tmp_path):
    model = ModelConfig.tiny().build(seed=3)
    paths = [write_serialized(model, tmp_path / f"model.{suffix}") for suffix in ("dp", "yaml", "yml")]
    assert {state_digest(load_serialized(path)) for path in paths} == {state_digest(model)}


def test_single_precision_survives(tmp_path):
    model = ModelConfig.tiny().build(seed=3).with_precision("float32")
    again = load_serialized(write_serialized(model, tmp_path / "model.dp"))
    assert again.precision == "float32"
    assert state_digest(again) == state_digest(model)


def test_header_of_what_is_written(tmp_path):
    model = ModelConfig.tiny().build(seed=3)
    with h5py.File(write_serialized(model, tmp_path / "model.dp")) as file:
        tree = json.loads(file.attrs["json"])
        assert sorted(file) == [f"variable_{n:04d}" for n in range(len(file))]
    assert tree["software"] == "dpsim"
    assert tree["@variables"] == {}
    assert tree["model"]["@class"] == "Model"
    assert [path.name for path in tmp_path.iterdir()] == ["model.dp"]


def test_other_suffixes_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"end in \.dp, \.yaml, \.yml"):
        write_serialized(ModelConfig.tiny().build(), tmp_path / "model.json")
    assert not list(tmp_path.iterdir())


def test_bias_of_the_fitting_net_is_moved_to_the_output(tmp_path):
    model = ModelConfig.tiny().build(seed=3)
    path = write_serialized(model, tmp_path / "model.dp")
    with h5py.File(path, "r+") as file:
        tree = json.loads(file.attrs["json"])
        file[tree["model"]["fitting"]["@variables"]["bias_atom_e"]][...] = [[1.5], [-2.0]]
    found = load_serialized(path).out_bias - model.out_bias
    assert torch.equal(found, torch.tensor([1.5, -2.0], dtype=torch.float64))


def test_statistics_that_depend_on_the_slot_are_refused():
    values = np.ones((2, 5, 4))
    values[1, 3, 2] = 2.0
    section = Section({"@variables": {"davg": np.zeros((2, 5, 4)), "dstd": values}}, "here")
    with pytest.raises(ModelError, match=r"here\.dstd: expected the same numbers in every neighbour slot"):
        records.read_statistics(section, "")


def test_sections_are_strict():
    section = Section({"a": 1, "b": 2, "@variables": {"w": np.ones(2), "n": None}}, "here")
    assert section.take("a") == 1
    with pytest.raises(ModelError, match=r"here: the keys \['b', 'w'\] are not known to dpsim"):
        section.finish()
    section.ignore("b")
    assert section.array("w").tolist() == [1.0, 1.0]
    section.finish()
    with pytest.raises(ModelError, match="the key 'c' is missing"):
        section.take("c")
    with pytest.raises(ModelError, match="'x' and 'y' mean the same"):
        Section({"x": 1, "y": 1}, "here").take("x", alias=("y",))


def test_rules_of_torch_names():
    found = renamed(
        ["networks.1.layers.0.linear.weight", "environment.mean", "networks.1.output.bias"],
        *records.statistics_rule("environment", "sea"),
        *records.embedding_rule(r"networks\.(\d+)", r"sea.filter_layers.networks.\1"),
        *records.fitting_rule(r"networks\.(\d+)", r"filter_layers.networks.\1", 3),
    )
    assert found["networks.1.layers.0.linear.weight"].names == ("sea.filter_layers.networks.1.layers.0.matrix",)
    assert found["environment.mean"].names == ("sea.mean",)
    assert found["networks.1.output.bias"].names == ("filter_layers.networks.1.layers.3.bias",)
    with pytest.raises(KeyError, match="no rule gives the torch name of other"):
        renamed(["other"])
    assert TorchTensor("a").below("b.").names == ("b.a",)
    assert split(joined("x.", {"y": 1}), "x.") == {"y": 1}


@pytest.fixture(scope="module")
def peer_results(tmp_path_factory):
    """What DeePMD-kit says of the models that dpsim wrote, by case."""
    python = os.environ.get("DPSIM_PEER_PYTHON")
    if not python:
        pytest.skip("DPSIM_PEER_PYTHON names no Python that has deepmd-kit 3.2.0")
    folder = tmp_path_factory.mktemp("peer")
    for name, case in CASES.items():
        with contextlib.suppress(ModelError):  # each case says so in its own test
            write_serialized(load_serialized(INDEX.parent / case["model_files"][0]), folder / f"{name}.dp")
        np.savez(folder / f"{name}.npz", **structure_of(case))
    script = Path(__file__).with_name("peer_reads_dp.py")
    done = subprocess.run([python, str(script), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def structure_of(case):
    """Inputs of the first frame of the first structure with more than one atom."""
    data = np.load(INDEX.parent / case["data_file"])
    at = next(s["id"] for s in case["structures"] if s["natoms"] > 1)
    inputs = ("coord", "atype", "cell", "fparam", "aparam", "spin", "charge_spin")
    return {key: data[f"{at}/{key}"][0] for key in inputs if f"{at}/{key}" in data.files}


@pytest.mark.parametrize("name", names)
def test_the_peer_reads_what_is_written(name, peer_results):
    golden_model(name)
    problem = peer_results / f"{name}.error.txt"
    assert not problem.is_file(), problem.read_text()
    found, case = np.load(peer_results / f"{name}.out.npz"), CASES[name]
    data = np.load(INDEX.parent / case["data_file"])
    at = next(s["id"] for s in case["structures"] if s["natoms"] > 1)
    compared = [key for key in found.files if f"{at}/{key}" in data.files and key != "mask"]
    assert compared
    for key in compared:
        expected = data[f"{at}/{key}"][0].astype(np.float64)
        allowed = 1e-10 * max(np.abs(expected).max(initial=0.0), 1e-2)
        assert np.abs(np.reshape(found[key], np.shape(expected)) - expected).max(initial=0.0) <= allowed, key


FROZEN = (
    "dpa1_02_attn2", "dpa2_01_small_like", "dpa3_26_chg_spin", "se_a_01", "se_r_01", "se_t_01", "se_t_tebd_02_strip",
    "hybrid_02_mixed", "zbl_01_dpa1", "linear_01", "spin_01_se_a", "fit_polar_01", "fit_property_01_intensive",
    "fit_dipole_01", "fit_dos_01",
)  # fmt: skip
"""Cases of which DeePMD-kit makes a frozen model as well: one of each family."""


@pytest.fixture(scope="module")
def peer_checkpoints(tmp_path_factory):
    """Checkpoints and frozen models that DeePMD-kit makes of the models that dpsim wrote."""
    python = os.environ.get("DPSIM_PEER_PYTHON")
    if not python:
        pytest.skip("DPSIM_PEER_PYTHON names no Python that has deepmd-kit 3.2.0")
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, case in CASES.items():
        with contextlib.suppress(ModelError):  # each case says so in its own test
            path = write_serialized(load_serialized(INDEX.parent / case["model_files"][0]), folder / f"{name}.dp")
            script = read_tree(path)["model_def_script"] or case["params"]
            (folder / f"{name}.json").write_text(json.dumps(script))
    script = Path(__file__).with_name("peer_writes_pt.py")
    tables = list(INDEX.parent.glob("*.txt"))
    for table in tables:
        (folder / table.name).write_bytes(table.read_bytes())
    done = subprocess.run(
        [python, str(script), str(folder), *FROZEN], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for table in tables:
        (folder / table.name).unlink()  # a checkpoint has the numbers of its table
    return folder


@pytest.mark.parametrize("name", names)
def test_checkpoints_of_the_peer(name, peer_checkpoints):
    path, _ = golden_model(name)
    problem = peer_checkpoints / f"{name}.error.txt"
    assert not problem.is_file(), problem.read_text()
    frame = structure_of(CASES[name])
    arguments = {"positions": frame.pop("coord"), "types": frame.pop("atype"), **frame}
    wanted = vars(load(path, device="cpu").evaluate(**arguments))
    for suffix in (".pt", ".pth") if name in FROZEN else (".pt",):
        found = vars(load(peer_checkpoints / f"{name}{suffix}", device="cpu").evaluate(**arguments))
        for key, expected in wanted.items():
            assert (expected is None) == (found[key] is None), key
            if expected is not None:
                allowed = 1e-10 * max(np.abs(expected).max(initial=0.0), 1e-2)
                assert np.abs(found[key] - expected).max(initial=0.0) <= allowed, (suffix, key)


def test_what_is_written_evaluates_alike(golden, tmp_path):
    data = np.load(golden / "dpa3_05_compress_linear.npz")
    source = golden / "dpa3_05_compress_linear.dp"
    frame = {"positions": data["s1/coord"][0], "types": data["s1/atype"][0], "cell": data["s1/cell"][0]}
    a = load(source).evaluate(**frame)
    b = load(write_serialized(load_serialized(source), tmp_path / "again.dp")).evaluate(**frame)
    assert a.energy == b.energy
    assert np.array_equal(a.forces, b.forces)
