"""``dpsim model show`` and ``convert``, and what users see of damaged or foreign files: one sentence, nothing run."""

from __future__ import annotations

import json
import pickle
import zipfile

import h5py
import numpy as np
import pytest
import torch

from dpsim.cli.main import run
from dpsim.model.checkpoint import load_model, save_model, state_digest
from dpsim.model.config import LinearModelConfig, ModelConfig
from dpsim.model.peer.files.convert import load_serialized, write_serialized
from dpsim.train.records.state import read_model


def says(capsys, *arguments, code=0):
    """What a command prints on standard output; its exit code is checked."""
    found = run(["model", *map(str, arguments)])
    out = capsys.readouterr()
    assert found == code, out.err
    return out.out if code == 0 else out.err


def refuses(capsys, message, *arguments):
    """The command fails with one sentence that has the message."""
    text = says(capsys, *arguments, code=4)
    assert message in text
    assert text.startswith("dpsim: ModelError: ")
    assert "Traceback" not in text
    assert len(text.strip().splitlines()) == 1


def test_show_a_checkpoint(golden, capsys):
    text = says(capsys, "show", golden / "ckpt_dpa3.ckpt-10.pt")
    for line in (
        "format: DeePMD-kit checkpoint",
        "type map: O H",
        "cutoff: 4.0 Å",
        "descriptor: dpa3",
        "    n_dim: 12",
        "fitting: ener",
        "parameters: descriptor 4,944, fitting 513, total 5,457",
        "precision: float64",
        "observed types: H O",
    ):
        assert f"\n{line}" in text, line
    assert "sel_reduce_factor" not in text  # has its default


def test_show_all_heads_or_one(golden, capsys):
    path = golden / "ckpt_multi.ckpt-6.pt"
    facts = json.loads(says(capsys, "show", path, "--json"))
    assert list(facts["heads"]) == ["head_a", "head_b"]
    assert facts["heads"]["head_a"]["fitting"]["neuron"] == [16, 16]
    one = json.loads(says(capsys, "show", path, "--json", "--head", "head_b"))
    assert one["head"] == "head_b"
    assert one["fitting"]["neuron"] == [12, 12, 12]
    assert one["digest"] == facts["heads"]["head_b"]["digest"]
    assert "head_b:\n    model: standard" in says(capsys, "show", path)
    refuses(capsys, "has no head 'head_c': choose one of head_a, head_b", "show", path, "--head", "head_c")


def test_show_agrees_across_containers(golden, tmp_path, capsys):
    model = read_model(golden / "ckpt_dpa3.pth")
    paths = [save_model(model, tmp_path / "a.safetensors"), write_serialized(model, tmp_path / "a.dp")]
    facts = [json.loads(says(capsys, "show", path, "--json")) for path in (*paths, golden / "ckpt_dpa3.pth")]
    for key in ("digest", "parameters", "descriptor", "fitting", "type_map", "cutoff"):
        assert facts[0][key] == facts[1][key] == facts[2][key], key
    assert facts[0]["format"] == "dpsim model 1"
    assert facts[1]["written_by"].startswith("dpsim ")


@pytest.mark.parametrize("suffix", [".dp", ".yaml", ".safetensors"])
def test_convert(golden, tmp_path, capsys, suffix):
    out = tmp_path / f"model{suffix}"
    says(capsys, "convert", golden / "ckpt_multi.ckpt-6.pt", out, "--head", "head_b")
    found = load_model(out) if suffix == ".safetensors" else load_serialized(out)
    assert state_digest(found) == state_digest(read_model(golden / "ckpt_multi.ckpt-6.pt", "head_b"))
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_what_cannot_be_converted(golden, tmp_path, capsys):
    path = golden / "ckpt_multi.ckpt-6.pt"
    refuses(capsys, "has several heads: choose one head of head_a, head_b", "convert", path, tmp_path / "a.dp")
    refuses(capsys, "not to '.pth'", "convert", path, tmp_path / "a.pth", "--head", "head_a")
    refuses(capsys, "use 'dpsim freeze'", "convert", path, tmp_path / "a.pt2", "--head", "head_a")
    refuses(capsys, "there is no such folder", "convert", path, tmp_path / "no" / "a.dp", "--head", "head_a")
    refuses(capsys, "there is no such model file", "convert", tmp_path / "none.pt", tmp_path / "a.dp")
    own = write_serialized(ModelConfig.tiny().build(), tmp_path / "own.dp")
    before = own.read_bytes()
    refuses(capsys, "is the file to convert", "convert", own, tmp_path / "." / "own.dp")
    assert own.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["own.dp"]


def test_freezing_asks_which_head(golden, tmp_path, capsys):
    arguments = ["freeze", str(golden / "ckpt_multi.ckpt-6.pt"), "-o", str(tmp_path / "a.pt2")]
    for more, message in (([], "has several heads: choose one head of"), (["--head", "c"], "has no head 'c'")):
        assert run([*arguments, *more]) == 4
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["ckpt_dpa3.ckpt-5.pt", "ckpt_dpa3.pth", "dpa3_01_plain.dp", "dpa3_01_plain.yaml"])
@pytest.mark.parametrize("keep", [0, 3, 100, 0.3, 0.9, -1])
def test_truncated_files(golden, tmp_path, capsys, name, keep):
    content = (golden / name).read_bytes().rstrip(b"\n")
    if keep == -1 and name.endswith(".yaml"):
        keep = 0.99  # the end of this text is no part of the model
    path = tmp_path / f"cut{name[name.rindex('.') :]}"
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refuses(capsys, str(path), "show", path)


@pytest.mark.parametrize("suffix", ["pt", "pth", "dp", "yaml", "safetensors", "ckpt", "pt2"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04", bytes(range(256)) * 20, b"PK\x03\x04 no archive"])
def test_garbage(tmp_path, capsys, suffix, content):
    path = tmp_path / f"model.{suffix}"
    path.write_bytes(content)
    refuses(capsys, str(path), "show", path)


@pytest.mark.parametrize("name", ["ckpt_dpa3.ckpt-5.pt", "ckpt_dpa3.pth"])
def test_flipped_bytes_are_noticed_or_change_nothing(golden, tmp_path, capsys, name):
    rng = np.random.default_rng(3)
    content = (golden / name).read_bytes()
    path = tmp_path / f"changed{name[name.rindex('.') :]}"
    digest = state_digest(read_model(golden / name))
    noticed = 0
    for position in rng.integers(0, len(content), 40):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(0, 8)
        path.write_bytes(damaged)
        code = run(["model", "show", str(path), "--json"])
        out = capsys.readouterr()
        assert code in (0, 4), out.err
        noticed += code == 4
        assert code == 4 or json.loads(out.out)["digest"] == digest
    assert noticed > 10


class Bomb:
    """Runs something as soon as it is unpickled without care."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_checkpoint_is_not_run(golden, tmp_path, capsys):
    content = torch.load(golden / "ckpt_dpa3.ckpt-5.pt", weights_only=True)
    content["more"] = Bomb(tmp_path / "made")
    torch.save(content, tmp_path / "model.pt")
    refuses(capsys, "which could run code: it is not read", "show", tmp_path / "model.pt")
    for old in (False, True):
        torch.save({"model": Bomb(tmp_path / "made")}, tmp_path / "old.pt", _use_new_zipfile_serialization=not old)
        refuses(capsys, "which could run code: it is not read", "convert", tmp_path / "old.pt", tmp_path / "a.dp")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Bomb(tmp_path / "made")))
    refuses(capsys, str(tmp_path / "plain.pt"), "show", tmp_path / "plain.pt")
    assert not (tmp_path / "made").exists()
    torch.load(tmp_path / "model.pt", weights_only=False)["more"].close()  # the trap is a real one
    assert (tmp_path / "made").exists()


def test_code_in_a_frozen_model_is_not_run(golden, tmp_path, capsys):
    path = tmp_path / "model.pth"
    with zipfile.ZipFile(golden / "ckpt_dpa3.pth") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            trap = pickle.dumps(Bomb(tmp_path / "made"), protocol=2)
            new.writestr(name, trap if name.endswith("/data.pkl") else old.read(name))
    refuses(capsys, "which is no part of a model: it is not read", "show", path)
    assert not (tmp_path / "made").exists()


def test_a_program_in_yaml_is_not_run(tmp_path, capsys):
    path = tmp_path / "model.yaml"
    path.write_text(f"model: !!python/object/apply:builtins.open ['{tmp_path}/made', w]\n")
    refuses(capsys, "is not a serialised DeePMD-kit model, or is damaged", "show", path)
    assert not (tmp_path / "made").exists()


def changed_tree(path, change):
    """Change the settings of a .dp file in place."""
    with h5py.File(path, "r+") as file:
        tree = json.loads(file.attrs["json"])
        change(tree)
        file.attrs["json"] = json.dumps(tree)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["model"].update({"@class": "Other"}), "class 'Other' version 2 is not known"),
        (lambda t: t["model"]["descriptor"].update({"@version": 99}), "class 'Descriptor' version 99 is not known"),
        (lambda t: t["model"]["fitting"]["nets"].update({"@version": 9}), "class 'NetworkCollection' version 9"),
        (lambda t: t["model"].update(type="unheard"), "model type 'unheard' is not supported: use one of standard"),
        (lambda t: t["model"]["descriptor"].update(type="dpa9"), "descriptor type 'dpa9' is not supported: use one of"),
        (lambda t: t["model"]["fitting"].update(type="mass"), "fitting type 'mass' is not supported: use one of ener"),
        (lambda t: t["model"]["fitting"].update(neuron=[8, 9]), "found a network of"),
        (lambda t: t["model"]["descriptor"].pop("repflow_args"), "the key 'repflow_args' is missing"),
        (lambda t: t["model"]["descriptor"].update(strange=1), "the key 'strange' is not known to dpsim"),
        (lambda t: t["model"]["@variables"].update(out_bias="/nowhere"), "is damaged"),
        (lambda t: t.pop("model"), "expected a section 'model'"),
        (lambda t: t["model"].update(type_map=["O", "O"]), "names an element twice"),
        (lambda t: t["model"].update(type_map=["O", "H", "Na"]), "the file is damaged"),
    ],
)
def test_unknown_or_damaged_sections(tmp_path, capsys, change, message):
    path = write_serialized(ModelConfig.tiny().build(), tmp_path / "model.dp")
    changed_tree(path, change)
    refuses(capsys, message, "show", path)


def test_parts_and_tables_are_shown_in_short(capsys, tmp_path):
    path = save_model(LinearModelConfig.tiny().build(0), tmp_path / "linear.safetensors")
    lines = [line.strip() for line in says(capsys, "show", path).splitlines()]
    assert "models 0: standard" in lines
    assert "models 1: pairtab" in lines
    assert "table: 39 rows of 4 numbers" in lines
    assert max(map(len, lines)) < 200
