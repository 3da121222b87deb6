"""Compiled steps: the same numbers as plain ones for any sizes, kept between trainings, and when they are used."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from dpsim.descriptors import DPA3Config, SeE2AConfig, SeE3TebdConfig
from dpsim.errors import Interrupted, SetupError
from dpsim.fittings import DipoleFittingConfig, EnergyFittingConfig
from dpsim.model.base import Model
from dpsim.model.checkpoint import load_model, state_digest
from dpsim.model.compose.config import ZBLModelConfig
from dpsim.model.compose.spin_config import SpinModelConfig
from dpsim.model.example import structures
from dpsim.model.standard import ModelConfig
from dpsim.physics.derivatives import energy_and_derivatives
from dpsim.train import compile as compiling
from dpsim.train.compile import choice, graph, package
from dpsim.train.compile.graph import Unsupported, trace_halves
from dpsim.train.compile.package import Request, ensure, request_for
from dpsim.train.compile.run import TOLERANCE, CompiledModel, difference
from dpsim.train.config import TrainConfig
from dpsim.train.records.result import TrainResult
from dpsim.train.trainer import train

Settings = Callable[..., TrainConfig]
ROUNDING = 1e-12 / TOLERANCE["float64"]
"""Of float64, in units of the tolerance."""


def standard(descriptor: Any, fitting: Any = None, **options: Any) -> Model:
    fitting = fitting or EnergyFittingConfig.tiny()
    return ModelConfig(type_map=("Cu", "Au"), descriptor=descriptor, fitting=fitting, **options).build(1)


def one_layer() -> DPA3Config:
    tiny = DPA3Config.tiny()
    return tiny.model_copy(update={"repflow": tiny.repflow.model_copy(update={"nlayers": 1})})


def shallow() -> SeE2AConfig:
    return SeE2AConfig.tiny().model_copy(update={"neuron": (4,), "axis_neuron": 2})


def of_energies() -> Model:
    """The model that compiles fastest."""
    return standard(SeE3TebdConfig.tiny())


def boxed(module: fx.GraphModule) -> Callable[[list[Tensor]], Any]:
    """Runs a graph as it is, in the way of a compiled one."""

    def run(inputs: list[Tensor]) -> Any:
        taken = list(inputs)
        inputs.clear()
        return module(*taken)

    return run


def traced(model: Model, derivatives: bool = True) -> CompiledModel:
    """The two graphs of a model, not compiled."""
    halves = trace_halves(model, derivatives, "full")
    return CompiledModel(model, boxed(halves.forward), boxed(halves.backward), halves.layout, derivatives)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of packages of this file's own."""
    folder = tmp_path_factory.mktemp("steps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "steps_dir", lambda: folder)
        yield folder


@pytest.fixture(scope="module")
def compiled(cache: Path) -> tuple[Model, CompiledModel]:
    """A model, and its step from a package that was compiled here."""
    model = of_energies()
    said: list[float] = []
    path = ensure(request_for(model, True, "full"), said.append)
    assert path.parent == cache
    assert said == sorted(said)
    assert said[0] < 1
    return model, CompiledModel.load(model, path, True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: standard(shallow(), atom_exclude_types=(1,)),
        lambda: standard(one_layer(), EnergyFittingConfig(neuron=(4,), numb_fparam=2, numb_aparam=1)),
        pytest.param(lambda: ZBLModelConfig.tiny().build(1), marks=pytest.mark.slow),
        pytest.param(lambda: SpinModelConfig.tiny().build(1), marks=pytest.mark.slow),
    ],
    ids=["se_e2_a", "dpa3", "zbl", "spin"],
)
def test_graphs_give_predictions_and_gradients(make: Callable[[], Model]) -> None:
    model = make().with_precision("float64")
    assert difference(traced(model), model) < ROUNDING


def test_graphs_of_outputs_without_derivatives() -> None:
    model = standard(shallow(), DipoleFittingConfig(neuron=(4,))).with_precision("float64")
    found = traced(model, derivatives=False)
    assert difference(found, model) < ROUNDING
    model.compiled, hood = found, structures(model, (5, 3))
    assert model.values(hood).grad_fn is not None
    with torch.no_grad():
        torch.testing.assert_close(model.values(hood), model(hood), rtol=0, atol=0)


def test_frozen_parameters_have_no_gradient() -> None:
    model = of_energies()
    for parameter in model.get_submodule("fitting").parameters():
        parameter.requires_grad_(False)
    found = traced(model)
    trained = [n for n, p in enumerate(model.parameters()) if p.requires_grad]
    assert set(found.layout.gradients) <= set(trained)
    assert difference(found, model) < ROUNDING


@pytest.mark.parametrize("sizes", [(60, 1, 7), (2,), (1,), (1, 1)])
def test_compiled_step_for_any_sizes(compiled: tuple[Model, CompiledModel], sizes: tuple[int, ...]) -> None:
    """Predictions and gradients of a loss are those of the plain model; one atom has no edges."""
    model, step = compiled
    hood = structures(model, sizes, seed=7)

    def learn(found: Any) -> tuple[Tensor, list[Tensor]]:
        loss = found.energy.square().sum() + found.forces.square().sum() + (found.virial - 1).square().mean()
        return loss, list(torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True))

    loss, gradients = learn(step.derivatives(hood, len(sizes)))
    plain, expected = learn(energy_and_derivatives(model, hood, len(sizes), create_graph=True))
    torch.testing.assert_close(loss, plain, rtol=1e-12, atol=0)
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12 * float(b.abs().max()))


def test_step_is_differentiated_once(compiled: tuple[Model, CompiledModel]) -> None:
    model, step = compiled
    energy = step.derivatives(structures(model, (4,)), 1).energy.sum()
    energy.backward(retain_graph=True)  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="once"):
        energy.backward()  # type: ignore[no-untyped-call]


def test_package_is_found_by_its_request(compiled: tuple[Model, CompiledModel], cache: Path) -> None:
    """Another start compiles nothing; what decides about the numbers is in the name."""
    model, _ = compiled
    request = request_for(of_energies(), True, "full")

    def refuse(seconds: float) -> None:
        raise AssertionError("nothing is to be compiled")

    assert ensure(request, refuse) == cache / f"{request.key}.pt2"
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".pt2"]
    wider = standard(SeE3TebdConfig.tiny(), EnergyFittingConfig(neuron=(5,)))
    partly = of_energies()
    next(partly.parameters()).requires_grad_(False)
    others = [request_for(model, False, "full"), request_for(model, True, "bf16"), request_for(wider, True, "full"),
              request_for(partly, True, "full"), request.model_copy(update={"environment": ("other",)})]  # fmt: skip
    assert len({request.key, *(other.key for other in others)}) == 6
    assert Request.model_validate_json(request.model_dump_json()) == request


def test_old_packages_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "steps_dir", lambda: tmp_path)
    monkeypatch.setattr(package, "KEPT", 2)

    def write(request: Request, path: Path, say: Any) -> None:
        path.write_text("package")

    monkeypatch.setattr(package, "_compile", write)
    requests = [request_for(of_energies(), True, f"{k}") for k in range(3)]
    for number, request in enumerate(requests):
        path = ensure(request, lambda seconds: None)
        os.utime(path, (number, number))
    assert {path.stem for path in tmp_path.glob("*.pt2")} == {request.key for request in requests[1:]}


def test_failure_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it is asked for again; the process that compiles says why, whatever scripts lie where it is started."""
    (tmp_path / "random.py").write_text("raise SystemExit('this script was imported')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(package, "steps_dir", lambda: tmp_path)
    request = request_for(of_energies(), True, "full")
    wrong = request.model_copy(update={"tensors": request.tensors[1:]})
    for _ in range(2):
        with pytest.raises(Unsupported, match="not those that follow from its settings"):
            ensure(wrong, lambda seconds: None)
        monkeypatch.setattr(package, "_compile", lambda *a: pytest.fail("it was tried again"))
    with pytest.raises(pytest.fail.Exception, match="tried again"):
        ensure(wrong, lambda seconds: None, retry=True)


def test_damaged_package(tmp_path: Path) -> None:
    path = tmp_path / "p.pt2"
    path.write_bytes(b"no archive")
    with pytest.raises(Unsupported, match=r"p\.pt2 cannot be loaded, delete it"):
        CompiledModel.load(of_energies(), path, True)


def test_wrong_graph_is_noticed(compiled: tuple[Model, CompiledModel]) -> None:
    """One gradient is wrong by a hundredth."""
    model, step = compiled

    def wrong(inputs: list[Tensor]) -> Any:
        first, *rest = step.backward(inputs)
        return [first * 1.01, *rest]

    assert difference(step, model) < ROUNDING
    assert difference(CompiledModel(model, step.forward, wrong, step.layout, True), model) > 1


def test_what_is_compiled_wrongly_is_refused() -> None:
    def gathered(x: Tensor, index: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(x[index].square().sum(), x)[0]

    arguments = torch.ones(3), torch.tensor([0, 0, 2])
    module = make_fx(gathered)(*arguments)
    with pytest.raises(Unsupported, match="index_put"):
        graph.refuse_miscompiled(module)


# --- in a training -------------------------------------------------------------------------------------------------


@pytest.fixture
def small(settings: Settings) -> Settings:
    """Settings of a training of the model that compiles fastest."""

    def make(**changes: Any) -> TrainConfig:
        model = {
            "descriptor": SeE3TebdConfig.tiny().model_dump(),
            "fitting": EnergyFittingConfig.tiny().model_dump(),
        }
        return settings(**{"model": model, "compile": True, "batch_size": "max:11", **changes})

    return make


def run(config: TrainConfig, emt: Path, output: Path, **options: Any) -> TrainResult:
    return train(config, output, **{"train_data": emt / "train", "valid_data": emt / "valid", **options})


def table(folder: Path) -> list[list[float]]:
    with (folder / "lcurve.csv").open(newline="") as file:
        return [[float(cell or 0) for cell in row] for row in list(csv.reader(file))[1:]]


def test_compiled_training_is_the_plain_one_but_for_rounding(
    emt: Path, tmp_path: Path, small: Settings, compiled: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """With accumulation and averages, through batches of different sizes."""
    caplog.set_level(logging.INFO)
    options = {"accumulate": 2, "ema": 0.9}
    run(small(**options), emt, tmp_path / "a")
    assert "steps are compiled: ready after" in caplog.text
    run(small(**options, compile=False), emt, tmp_path / "b")
    for a, b in zip(table(tmp_path / "a"), table(tmp_path / "b"), strict=True):
        assert a == pytest.approx(b, rel=1e-9)
    names = [list(load_model(tmp_path / x / "last.safetensors").state_dict()) for x in "ab"]
    assert names[0] == names[1]


@pytest.mark.parametrize(
    ("changes", "begins"),
    [
        ({"optimizer": {"type": "LKF"}, "batch_size": 2, "loss": {}}, [""]),
        ({"heads": {"a": {}, "b": {}}}, ["head a: ", "head b: "]),
    ],
    ids=["LKF", "heads"],
)
def test_filters_and_heads(
    changes: dict[str, Any], begins: list[str], emt: Path, tmp_path: Path, small: Settings, compiled: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """Predictions are differentiated twice in a step of a filter; heads of the same settings share a package."""
    caplog.set_level(logging.INFO)
    heads = changes.get("heads", {})
    data = {x: dict.fromkeys(heads, emt / x) if heads else emt / x for x in ("train", "valid")}
    for folder, changed in (("a", {}), ("b", {"compile": False})):
        config = small(**changes, **changed)
        run(config, emt, tmp_path / folder, train_data=data["train"], valid_data=data["valid"], type_map=("Cu", "Au"))
    assert [f"{begin}steps are compiled" in caplog.text for begin in begins] == [True] * len(begins)
    for a, b in zip(table(tmp_path / "a"), table(tmp_path / "b"), strict=True):
        assert a == pytest.approx(b, rel=1e-7)


def test_interrupted_compiled_training_goes_on_bit_for_bit(
    emt: Path, tmp_path: Path, small: Settings, compiled: Any
) -> None:
    run(small(), emt, tmp_path / "whole")
    steps = iter([*[False] * 3, True])
    with pytest.raises(Interrupted, match="step"):
        run(small(), emt, tmp_path / "parts", stop=lambda: next(steps))
    run(small(), emt, tmp_path / "parts")
    whole, parts = (load_model(tmp_path / x / "last.safetensors") for x in ("whole", "parts"))
    assert state_digest(whole) == state_digest(parts)
    assert (tmp_path / "whole/lcurve.csv").read_bytes() == (tmp_path / "parts/lcurve.csv").read_bytes()


def test_training_stops_while_it_compiles(
    emt: Path, tmp_path: Path, small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "steps_dir", lambda: tmp_path / "steps")
    with pytest.raises(Interrupted, match="being compiled: run again"):
        run(small(walltime=1e-3), emt, tmp_path / "t")
    assert not list((tmp_path / "steps").glob("*.pt2"))
    assert not list((tmp_path / "t").glob("*.ckpt"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"compile": False}, "compile: false"), ({"compile": "auto"}, "fewer than"), ({}, "one more derivative")],
)
def test_plain_steps(
    changes: dict[str, Any], reason: str, emt: Path, tmp_path: Path, small: Settings, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(compiling, "ensure", lambda *a, **k: pytest.fail("something is compiled"))
    caplog.set_level(logging.INFO)
    if not changes:
        monkeypatch.setattr(compiling, "ONE_MORE", {"forces"})
    run(small(steps=2, **changes), emt, tmp_path / "t")
    assert reason in caplog.text


def test_unsupported_model_is_trained_plainly(
    emt: Path, tmp_path: Path, small: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(request: Request, say: Any, *, retry: bool) -> Path:
        raise Unsupported("a reason")

    monkeypatch.setattr(compiling, "ensure", refuse)
    run(small(steps=2), emt, tmp_path / "t")
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "steps are not compiled: a reason"
    ]


def test_no_compiler(emt: Path, tmp_path: Path, small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    package._environment.cache_clear()
    with pytest.raises(SetupError, match="no-such-compiler"):
        run(small(steps=2), emt, tmp_path / "t")
    monkeypatch.setattr(choice, "WORTH", 1)
    run(small(steps=2, compile="auto"), emt, tmp_path / "u")
    package._environment.cache_clear()


def test_waiting_is_shown() -> None:
    """Once a second, by the seconds that it has taken."""
    shown: list[str] = []
    waiting = compiling._Waiting(shown.append, lambda: False)
    waiting.begin("head a: ")
    for seconds in (0.0, 0.4, 1.1, 1.9, 2.0):
        waiting(seconds)
    assert shown == [f"head a: compiling the step, {n} s" for n in (0, 1, 2)]


def test_rule(emt: Path, tmp_path: Path, small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the atoms of all steps, which settings and data decide."""
    seen: list[Any] = []

    def remember(task: Any, *others: Any) -> str:
        seen.append(task)
        return "no"

    monkeypatch.setattr(compiling, "_why_not", remember)
    run(small(steps=1), emt, tmp_path / "t")
    (task,) = seen

    def atoms(**changes: Any) -> float:
        task.config = small(**changes)
        return choice.atoms_of_step(task)

    mean = 6.0  # the frames have 4 or 8 atoms
    assert atoms(batch_size=3) == 3 * mean
    assert atoms(batch_size=3, accumulate=4) == 12 * mean
    assert atoms(batch_size="max:100") == atoms(batch_size="auto:100") == 100
    assert atoms(batch_size="auto:2") == mean
    assert atoms(batch_size="edges:5000") == 100
    assert choice.pays(task, choice.WORTH / 100, "cpu") is None
    assert choice.pays(task, choice.WORTH / 100 - 1, "cpu") is not None
    assert choice.pays(task, choice.WORTH, "cuda") is not None
