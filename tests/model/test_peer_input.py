"""``input.json`` of DeePMD-kit: every key is honoured or refused with its place."""

from __future__ import annotations

import copy
import json
import math

import pytest
import torch

from dpsim.cli.main import run
from dpsim.data import open_dataset
from dpsim.data.distances import neighbor_counts
from dpsim.errors import ConfigError
from dpsim.model.checkpoint import load_model
from dpsim.model.peer.files.checkpoint import load_checkpoint
from dpsim.model.peer.inputs.auto_sel import resolve_sel
from dpsim.model.peer.inputs.input import is_part, read_input, translate, translate_part
from dpsim.train.config import TrainConfig
from dpsim.train.optimizers.schedule import LearningRate

INPUT = {
    "_comment": "a small model",
    "model": {
        "type_map": ["O", "H"],
        "_note": {"any": "thing"},
        "descriptor": {
            "type": "dpa3",
            "_c": 1,
            "repflow": {
                "n_dim": 8, "e_dim": 6, "a_dim": 4, "nlayers": 2, "e_rcut": 4.0, "e_rcut_smth": 3.0, "e_sel": 40,
                "a_rcut": 3.0, "a_rcut_smth": 2.5, "a_sel": 20, "edge_use_dist": True,
            },
            "precision": "single",
            "seed": 1,
        },
        "fitting_net": {"n_neuron": [8, 8], "precision": "float32", "seed": 2},
    },
    "learning_rate": {"start_lr": 0.002, "stop_lr": 1e-6, "decay_steps": 7},
    "loss": {"start_pref_e": 0.1, "limit_pref_e": 2},
    "training": {
        "training_data": {"systems": ["data"], "batch_size": "auto:64"},
        "stop_batch": 30,
        "seed": 5,
        "disp_freq": 3,
    },
}  # fmt: skip


@pytest.fixture
def tree():
    return copy.deepcopy(INPUT)


def translated(tree, base):
    found = translate(tree, "input.json", base)
    return found, TrainConfig.model_validate(found.settings)


def put(tree, place, value):
    """Set (or with ... remove) a value by its keys with dots."""
    *path, last = place.split(".")
    for key in path:
        tree = tree.setdefault(key, {})
    if value is ...:
        del tree[last]
    else:
        tree[last] = value


def test_a_small_input(tree, tmp_path):
    found, config = translated(tree, tmp_path)
    assert found.type_map == ("O", "H")
    assert found.train_systems == [tmp_path / "data"]
    assert found.valid_systems == []
    model = config.model
    assert model.descriptor.repflow.edge_init_use_dist is True
    assert model.descriptor.repflow.axis_neuron == 4
    assert model.descriptor.precision == "float32"
    assert model.fitting.neuron == (8, 8)
    assert config.steps == 30
    assert config.batch_size == "auto:64"
    assert config.seed == 5
    assert (config.learning_rate.start, config.learning_rate.final) == (0.002, 1e-6)
    assert config.loss.energy == (0.1, 2.0)
    assert any("seed" in note for note in found.notes)


def test_defaults_are_those_of_the_peer(tree, tmp_path):
    """Each of these differs from dpsim's own default."""
    for place in ("learning_rate", "loss", "training.disp_freq", "training.seed", "training.training_data.batch_size"):
        put(tree, place, ...)
    put(tree, "training.training_data.systems", "data")
    _, config = translated(tree, tmp_path)
    assert config.loss.prefactors["energy"] == (0.02, 1.0)
    assert config.loss.prefactors["forces"] == (1000.0, 1.0)
    assert config.optimizer.type == "Adam"
    assert config.optimizer.decay == 0.0
    assert config.gradient_max_norm == 0.0
    assert config.batch_size == "auto:32"
    assert config.learning_rate.final == 1e-8
    assert (config.log_every, config.checkpoint_every, config.keep_checkpoints) == (1000, 1000, 5)


def test_golden_inputs(golden):
    found = read_input(golden / "ckpt_dpa3.input.json")
    config = TrainConfig.model_validate(found.settings)
    assert found.train_systems == [golden / "train_data" / "water_one_frame"]
    assert config.optimizer.type == "AdamW"
    assert config.gradient_max_norm == 5.0
    rate = LearningRate(config.learning_rate, config.steps)
    rows = [line.split() for line in (golden / "ckpt_dpa3.lcurve.out").read_text().splitlines() if line[0] != "#"]
    for row in rows:
        assert math.isclose(rate(int(row[0]) - 1), float(row[-1]), rel_tol=0.05)  # printed with two digits
    assert config.model.descriptor == load_checkpoint(golden / "ckpt_dpa3.ckpt-10.pt").config.descriptor


@pytest.mark.parametrize(
    ("fitting", "given", "expected"),
    [
        ({}, {"energy": [None, -3]}, {"H": -3.0}),
        ({"type": "dos", "numb_dos": 2}, {"dos": [[1, 2.5], None]}, {"O": (1.0, 2.5)}),
        ({"type": "polar"}, {"polarizability": [None, [[1, 0, 0], [0, 1, 0], [0, 0, 2]]]},
         {"H": (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 2.0)}),
        ({"type": "property", "property_name": "gap"}, {"gap": [[0.5], [1]]}, {"O": 0.5, "H": 1.0}),
    ],
)  # fmt: skip
def test_given_biases_of_every_output(tree, tmp_path, fitting, given, expected):
    tree["model"]["fitting_net"] |= fitting
    tree["model"]["preset_out_bias"] = given
    kind = {"dos": "dos", "polar": "tensor", "property": "property"}.get(fitting.get("type"), "ener")
    tree["loss"] = {"type": kind, **({"pref": 1, "pref_atomic": 0} if kind == "tensor" else {})}
    _, config = translated(tree, tmp_path)
    assert config.model.preset_out_bias == expected


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("more", 1, r"input\.json: the key 'more' is not known"),
        ("model.more", 1, r"input\.json: model: the key 'more' is not known"),
        ("model.descriptor.more", 1, r"model\.descriptor: the key 'more' is not known"),
        ("model.descriptor.repflow.more", 1, r"model\.descriptor\.repflow: the key 'more' is not known"),
        ("model.descriptor.repflow.e_rcut", ..., r"repflow: the key 'e_rcut' is missing: it has no default"),
        ("model.descriptor.repflow.edge_init_use_dist", True, "'edge_init_use_dist' and 'edge_use_dist' mean the same"),
        ("model.descriptor.type", "dpa77", r"descriptor type 'dpa77' is not supported: use one of dpa3"),
        ("model.fitting_net.more", 1, r"model\.fitting_net: the key 'more' is not known"),
        ("model.type_map", ..., r"model\.type_map is missing"),
        ("model", ..., "there is no section 'model'"),
        ("model.data_stat_nbatch", 50, r"model\.data_stat_nbatch: 50 is not supported: only 10 is"),
        ("model.preset_out_bias", {"dipole": [0, 1]}, r"model\.preset_out_bias: .*expected \{energy: "),
        ("model.preset_out_bias", {"energy": [0]}, r"with a number or null for each element"),
        ("model.preset_out_bias", {"energy": [0, "x"]}, r"expected a number or null for each element"),
        ("model.shared_dict", {}, "'shared_dict' belongs to a multi-task training"),
        ("learning_rate.more", 1, r"learning_rate: the key 'more' is not known"),
        ("learning_rate.stop_lr_ratio", 0.1, "stop_lr and stop_lr_ratio exclude each other"),
        ("loss.type", "denoise", r"loss\.type: 'denoise' is not supported: use ener, ener_spin, tensor, dos"),
        ("loss.loss_func", "log", r"loss\.loss_func: 'log'"),
        ("loss.more", 1, r"loss: the key 'more' is not known"),
        ("optimizer.type", "SGD", r"optimizer\.type: 'SGD' is not supported: use one of Adam, AdamW, AdaMuon"),
        ("optimizer", {"type": "HybridMuon", "muon_mode": "flat"}, r"muon_mode: 'flat' is not supported: only 'slice'"),
        ("optimizer", {"type": "HybridMuon", "magma_muon": True}, r"optimizer\.magma_muon: this damping is not"),
        ("optimizer.kf_blocksize", 10, r"optimizer: the key 'kf_blocksize' is not known"),
        ("training.more", 1, r"training: the key 'more' is not known"),
        ("training.stop_batch", ..., r"training: the key 'numb_steps' is missing"),
        ("training.num_steps", 3, "mean the same: give one of them"),
        ("training.profiling", True, r"training\.profiling: True is not supported: only False is"),
        ("training.acc_freq", 2, r"training\.acc_freq: 2 is not supported"),
        ("training.numb_epoch", 3, r"training: numb_steps and numb_epoch exclude each other"),
        ("training.mixed_precision", {"compute_prec": "float16"}, r"training\.mixed_precision"),
        ("training.opt_type", "SGD", r"optimizer\.type: 'SGD' is not supported"),
        ("training.systems", ["a"], "'systems' and 'training_data' exclude each other"),
        ("training.training_data.systems", 3, r"training_data\.systems: 3: a folder or a list of folders"),
        ("training.training_data.batch_size", "mixed:8", r"batch_size: 'mixed:8' is not supported"),
        (
            "training.training_data.batch_size",
            [1, "auto:3"],
            r"batch_size: \[1, .auto:3.\]: a number of frames for each",
        ),
        ("training.training_data.sys_probs", 0.5, r"sys_probs: 0\.5: a list of probabilities is expected"),
        ("training.training_data.auto_prob", "prob_new", r"auto_prob: 'prob_new' is not supported"),
        ("training.training_data.set_prefix", "part", r"set_prefix: 'part' is not supported: only 'set' is"),
        ("training.training_data.more", 1, r"training_data: the key 'more' is not known"),
        ("training.validation_data", {"systems": "v", "more": 1}, r"validation_data: the key 'more' is not known"),
        ("validating", {"full_validation": True, "validation_metric": "S:MAE"}, r"validation_metric: 'S:MAE' is not"),
        ("validating", {"full_validation": True, "max_best_ckpt": 3}, r"validating\.max_best_ckpt: 3: one best model"),
        ("validating", {"compiled_infer": True}, r"validating\.compiled_infer: True is not supported"),
    ],
)
def test_what_is_refused(tree, tmp_path, place, value, message):
    put(tree, place, value)
    with pytest.raises(ConfigError, match=message) as caught:
        translate(tree, "input.json", tmp_path)
    assert "input.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value", "note"),
    [
        ("training.disp_file", "lcurve.out", "training.disp_file: the files have dpsim's own names"),
        ("training.save_ckpt", "model", "training.save_ckpt: the files have dpsim's own names"),
        ("training.time_training", True, "training.time_training: makes no difference"),
        ("training.stat_file", "no_such_folder", "training.stat_file: statistics are always taken from the data"),
        ("loss.limit_pref_e", 0, "start_pref_e or limit_pref_e is zero: the term is off"),
        ("training.numb_test", 3, "training.numb_test: makes no difference"),
    ],
)
def test_what_is_noted(tree, tmp_path, place, value, note):
    put(tree, place, value)
    found, _ = translated(tree, tmp_path)
    assert any(note in text for text in found.notes), found.notes


def test_statistics_that_exist_are_not_passed_over(tree, tmp_path):
    put(tree, "training.stat_file", str(tmp_path))
    with pytest.raises(ConfigError, match=r"stat_file: .* exists, and its statistics are not read"):
        translate(tree, "input.json", tmp_path)


def test_losses(tree, tmp_path):
    tree["loss"] = {"loss_func": "mae", "f_use_norm": True, "relative_f": 0.5, "start_pref_v": 1, "limit_pref_v": 2}
    _, config = translated(copy.deepcopy(tree), tmp_path)
    assert (config.loss.type, config.loss.force_norm, config.loss.relative_forces) == ("mae", True, 0.5)
    assert config.loss.virial == (1.0, 2.0)
    tree["loss"] = {"use_huber": True, "huber_delta": [0.1, 0.2, 0.3], "start_pref_ae": 1, "limit_pref_ae": 1}
    _, config = translated(copy.deepcopy(tree), tmp_path)
    assert (config.loss.type, config.loss.deltas) == ("huber", (0.1, 0.2, 0.3))
    tree["loss"] = {"type": "ener", "intensive_ener_virial": True, "start_pref_pf": 3, "limit_pref_pf": 4}
    _, config = translated(tree, tmp_path)
    assert config.loss.intensive
    assert config.loss.weighted_forces == (3.0, 4.0)


OTHER_LOSSES = [
    (
        {"type": "tensor", "pref": 2, "pref_atomic": 0.5, "enable_atomic_weight": True},
        {"total": 2.0, "atomic": 0.5, "atomic_weight": True},
    ),
    ({"type": "tensor", "pref": 1, "pref_atomic": 0, "enable_atomic_weight": True}, {"atomic_weight": False}),
    ({"type": "dos"}, {"dos": (0.0, 0.0), "atomic_dos": (1.0, 1.0)}),
    (
        {"type": "dos", "start_pref_dos": 1, "limit_pref_dos": 2, "start_pref_acdf": 3, "limit_pref_acdf": 4},
        {"dos": (1.0, 2.0), "atomic_cumulative": (3.0, 4.0), "cumulative": (0.0, 0.0)},
    ),
    ({"type": "property"}, {"function": "smooth_mae", "beta": 1.0}),
    ({"type": "property", "loss_func": "mse", "beta": 3, "metric": ["rmse"]}, {"function": "mse", "beta": None}),
    (
        {"type": "population", "start_pref_pop": 2, "limit_pref_pop": 3, "beta": 0.5},
        {"populations": (2.0, 3.0), "spin": (1.0, 1.0), "beta": 0.5},
    ),
]


@pytest.mark.parametrize(("loss", "expected"), OTHER_LOSSES)
def test_losses_of_other_outputs(tree, tmp_path, loss, expected):
    tree["loss"] = loss
    _, config = translated(tree, tmp_path)
    assert config.loss.type == loss["type"]
    assert {name: getattr(config.loss, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"type": "tensor", "pref": 1}, "the key 'pref_atomic' is missing"),
        (
            {"type": "population", "loss_func": "mse"},
            "loss_func: 'mse' is not supported: use one of smooth_mae, mae, rmse",
        ),
        ({"type": "dos", "start_pref_e": 1}, "the key 'start_pref_e' is not known"),
    ],
)
def test_wrong_losses_of_other_outputs(tree, tmp_path, loss, message):
    tree["loss"] = loss
    with pytest.raises(ConfigError, match=message):
        translate(tree, "input.json", tmp_path)


def test_selected_types_must_mean_something_in_a_training(tree, tmp_path):
    """The peer's PyTorch passes over them."""
    tree["model"]["fitting_net"] = {"type": "dipole", "neuron": [8], "dipole_type": [0]}
    with pytest.raises(ConfigError, match=r"fitting_net\.sel_type: \[0\] is not supported: .*atom_exclude_types"):
        translate(tree, "input.json", tmp_path)


FITTINGS = [
    ({"type": "dipole"}, {"output": "dipole"}),
    (
        {"type": "polar", "scale": [1.0, 2.0], "fit_diag": False},
        {"scale": (1.0, 2.0), "fit_diag": False, "shift_diag": True},
    ),
    ({"type": "dos", "numb_dos": 7}, {"numb_dos": 7}),
    (
        {"type": "property", "property_name": "gap", "intensive": True},
        {"property_name": "gap", "task_dim": 1, "intensive": True},
    ),
    ({"type": "population"}, {"neuron": (128, 128, 128)}),
]


@pytest.mark.parametrize(("fitting", "expected"), FITTINGS)
def test_fittings(tree, tmp_path, fitting, expected):
    tree["model"]["fitting_net"] = fitting
    _, config = translated(tree, tmp_path)
    assert {name: getattr(config.model.fitting, name) for name in expected} == expected


def test_learning_rates(tree, tmp_path):
    tree["learning_rate"] = {"type": "cosine", "start_lr": 0.01, "stop_lr_ratio": 0.1, "warmup_steps": 3}
    _, config = translated(copy.deepcopy(tree), tmp_path)
    assert (config.learning_rate.type, config.learning_rate.final) == ("cosine", 0.001)
    assert config.learning_rate.warmup_steps == 3
    tree["learning_rate"] = {"type": "exp", "start_lr": 0.01, "stop_lr": 1e-4, "decay_rate": 0.9, "smooth": True}
    tree["training"]["warmup_steps"] = 4
    _, config = translated(tree, tmp_path)
    assert (config.learning_rate.decay_rate, config.learning_rate.smooth) == (0.9, True)
    assert config.learning_rate.warmup_steps == 4


def test_optimizer_of_3_1(tree, tmp_path):
    tree["training"] |= {"opt_type": "AdamW", "weight_decay": 0.02, "adam_beta1": 0.8}
    _, config = translated(tree, tmp_path)
    assert (config.optimizer.type, config.optimizer.decay, config.optimizer.betas) == ("AdamW", 0.02, (0.8, 0.999))


def test_places_of_v1(tree, tmp_path):
    training = tree["training"]
    training |= {**training.pop("training_data"), "set_prefix": "set", "numb_test": 2}
    tree["learning_rate"] = {"start_lr": 0.001, "decay_steps": 10, "decay_rate": 0.5}
    found, config = translated(tree, tmp_path)
    assert found.train_systems == [tmp_path / "data"]
    assert config.learning_rate.decay_rate is None
    assert config.learning_rate.final == pytest.approx(0.001 * 0.5**3)


def test_validation_data(tree, tmp_path):
    tree["training"]["validation_data"] = {"systems": ["v1", "v2"], "batch_size": 1, "numb_btch": 3}
    found, _ = translated(tree, tmp_path)
    assert found.valid_systems == [tmp_path / "v1", tmp_path / "v2"]
    assert any("all validation frames are evaluated" in note for note in found.notes)


def test_sel_is_counted_in_the_data(tree, golden):
    tree["model"]["descriptor"]["repflow"] |= {"e_sel": "auto", "a_sel": "auto:1.5"}
    tree["training"]["training_data"]["systems"] = ["train_data/water_four_frames"]
    found = translate(tree, "input.json", golden)
    flow = resolve_sel(found)["model"]["descriptor"]["repflow"]
    counts = {}
    for cutoff in (4.0, 3.0):
        frames = open_dataset(golden / "train_data" / "water_four_frames", ("O", "H"))
        counts[cutoff] = max(int(neighbor_counts(frame, cutoff, 2).sum(axis=1).max()) for frame in frames)
    assert flow["e_sel"] == 4 * math.ceil(int(counts[4.0] * 1.1) / 4)
    assert flow["a_sel"] == 4 * math.ceil(int(counts[3.0] * 1.5) / 4)
    assert found.settings["model"]["descriptor"]["repflow"]["e_sel"] == "auto"  # the input stays as it is
    tree["model"]["descriptor"]["repflow"]["e_sel"] = "many"
    with pytest.raises(ConfigError, match=r"repflow\.e_sel: 'many': a number, auto or auto:FACTOR is expected"):
        resolve_sel(translate(tree, "input.json", golden))


def test_parts_of_a_train_stage():
    assert is_part("model", INPUT["model"])
    assert not is_part("model", {"preset": "dpa3-tiny"})
    assert is_part("loss", {"start_pref_e": 1})
    assert not is_part("loss", {"energy": [1, 1]})
    settings, notes = translate_part("model", INPUT["model"], "model", ("O", "H"))
    assert settings["descriptor"]["repflow"]["nlayers"] == 2
    assert len(notes) == 1
    with pytest.raises(ConfigError, match=r"model\.type_map is \['O', 'H'\], but the elements here are \['H', 'O'\]"):
        translate_part("model", INPUT["model"], "model", ("H", "O"))


def input_file(tree, golden, tmp_path):
    tree["training"]["training_data"] = {"systems": [str(golden / "train_data" / "water_one_frame")], "batch_size": 1}
    path = tmp_path / "input.json"
    path.write_text(json.dumps(tree))
    return path


def test_the_command_trains(tree, golden, tmp_path, capsys):
    path = input_file(tree, golden, tmp_path)
    out = tmp_path / "out"
    arguments = ["train", str(path), "-o", str(out), "--device", "cpu", "--set", "training.stop_batch=2"]
    assert run(arguments) == 0, capsys.readouterr().err
    assert "one seed serves all parts" in capsys.readouterr().err
    model = load_model(out / "last.safetensors")
    assert model.type_map == ("O", "H")
    assert model.config.fitting.neuron == (8, 8)
    assert torch.isfinite(model.out_bias).all()
    assert (out / "lcurve.csv").read_text().count("\n") >= 2


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read as JSON"), ("[]", "holds a list"), ('{"model": []}', "expected a section, found list")],
)
def test_the_command_refuses_in_one_sentence(tmp_path, capsys, text, message):
    path = tmp_path / "input.json"
    path.write_text(text)
    assert run(["train", str(path), "-o", str(tmp_path / "out")]) == 3
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_the_command_refuses_settings_that_contradict(tree, golden, tmp_path, capsys):
    tree["model"]["descriptor"]["repflow"]["e_rcut_smth"] = 4.5
    path = input_file(tree, golden, tmp_path)
    assert run(["train", str(path), "-o", str(tmp_path / "out")]) == 3
    error = capsys.readouterr().err
    assert "e_rcut_smth (4.5 Å) must be smaller than e_rcut (4.0 Å)" in error
    assert len(error.strip().splitlines()) <= 3


WORKFLOW = """
dpsim: 1
type_map: [O, H]
stages:
  model:
    uses: train
    data: {path: data}
    model: {deepmd: input.json}
    learning_rate: {deepmd: input.json}
    loss: {start_pref_e: 0.5, limit_pref_e: 3, start_pref_f: 10, limit_pref_f: 1}
    steps: 3
"""


def test_sections_in_a_workflow(tree, golden, tmp_path, capsys):
    from dpsim.workflow.language.schema import read_workflow

    path = input_file(tree, golden, tmp_path)
    (tmp_path / "workflow.yaml").write_text(WORKFLOW)
    workflow = read_workflow(tmp_path / "workflow.yaml")
    workflow.collector.check()
    stage = workflow.tasks["model"].config
    assert stage.model.fitting.neuron == (8, 8)
    assert stage.learning_rate.start == 0.002
    assert stage.loss.energy == (0.5, 3.0)
    tree["model"]["descriptor"]["repflow"]["strange"] = 1
    tree["model"]["fitting_net"]["n_neuron"] = [4]
    path.write_text(json.dumps(tree))
    problems = read_workflow(tmp_path / "workflow.yaml").collector.problems
    assert ["the key 'strange' is not known" in problem.message for problem in problems] == [True]
    del tree["model"]["descriptor"]["repflow"]["strange"]
    path.write_text(json.dumps(tree))
    changed = read_workflow(tmp_path / "workflow.yaml").tasks["model"].config
    assert changed.model.fitting.neuron == (4,)  # so that the stage has another cache key
