"""Trainings on several processes: the gradient of one, frames divided by edges, ends that all share, going on."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml

from dpsim.cli.main import run as cli
from dpsim.cli.models.grant import Grant
from dpsim.cli.models.train import Start, read_stage
from dpsim.data import Frame, open_dataset, write_mixed
from dpsim.errors import ConfigError
from dpsim.lammps.packages import mpich_file
from dpsim.model.checkpoint import load_model, state_digest
from dpsim.model.peer.inputs.input import translate
from dpsim.physics.neighbors import NeighborSpec
from dpsim.train.batches.balance import EdgeCounts, divide
from dpsim.train.batches.frames import FrameSet
from dpsim.train.batches.loader import BatchMaker
from dpsim.train.batches.sampler import Sampler
from dpsim.train.config import TrainConfig
from dpsim.train.optimizers.sharding import owners_of
from dpsim.train.parallel.distributed import ALONE
from dpsim.train.parallel.place import recognised
from dpsim.train.parallel.ranks import train_on
from dpsim.train.records.state import checkpoints, load_state
from dpsim.train.trainer import TrainResult, train

MakeFrames = Callable[..., list[Frame]]
TYPE_MAP = ("Cu", "Au")
MODEL = {
    "descriptor": {"type": "se_e2_a", "rcut": 4.0, "rcut_smth": 3.0, "sel": [30, 30], "neuron": [3, 4],
                   "axis_neuron": 2},
    "fitting": {"neuron": [4]},
}  # fmt: skip
EQUAL = 1e-12


def settings(**changes: Any) -> dict[str, Any]:
    base = {"model": MODEL, "steps": 6, "batch_size": 2, "log_every": 2, "validate_every": 3, "checkpoint_every": 3}
    return {**base, **changes}


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR", **changes}


# --- two processes and one -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases(emt: Path, emt_frames: MakeFrames, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What parallel_cases.py finds, started by torchrun."""
    folder = tmp_path_factory.mktemp("cases")
    for name in ("train", "valid"):
        (folder / name).symlink_to(emt / name)
    write_mixed(emt_frames(8, 4), folder / "other", TYPE_MAP)
    script = Path(__file__).with_name("parallel_cases.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(script), str(folder)]
    made = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=500, check=False)
    assert made.returncode == 0, made.stderr[-5000:]
    return dict(json.loads((folder / "cases.json").read_text()))


COMPARED = [
    "energies", "huber", "absolute", "weighted", "hessian", "dipole", "dos", "property smooth_mae", "property rmse",
    "property mape", "population smooth_mae", "population rmse", "energies, accumulated", "weighted, accumulated",
    "property rmse, accumulated", "property smooth_mae, accumulated", "clipped", "filter", "two heads",
]  # fmt: skip


@pytest.mark.parametrize("name", COMPARED)
def test_gradient_of_two_processes_is_that_of_one(cases: dict[str, Any], name: str) -> None:
    """Frames of four sizes, labels missing here and there, also all of one kind in one of the processes."""
    found = cases[name]
    assert found["length"] > 0
    assert found["loss"] < EQUAL
    assert found["gradient"] < EQUAL
    assert found["same"]


def test_gradients_that_some_processes_do_not_have(cases: dict[str, Any]) -> None:
    a, c = [5.0, 5.0], [3.0] * 4
    assert cases["unused"]["ranks"] == [[[a, None, c], [a, None, None]], [[a, None, c], [None, None, c]]]


@pytest.mark.parametrize(
    "name",
    [
        "one process",
        "low rank",
        "accumulate",
        "zero 1",
        "zero 2",
        "zero 3",
        "zero 2, muon",
        "zero 2, heads",
        "zero changed",
    ],
)
def test_trainings_that_are_the_same(cases: dict[str, Any], name: str) -> None:
    """Six steps with averages and shortened gradients; a checkpoint of one kind is gone on from by another."""
    assert cases["trainings"][name] < 1e-11


def test_all_processes_read_one_model(cases: dict[str, Any]) -> None:
    assert len(set(cases["trainings"]["digests"])) == 1


def test_what_one_process_raises_all_raise(cases: dict[str, Any]) -> None:
    """The first hears what the second says, and that it is said."""
    assert cases["raised"] == [0, "DataError", "frame 7 is damaged", True, 4]


def test_a_diverging_training_is_refused_by_all(cases: dict[str, Any]) -> None:
    """They say the same, and name frames of both."""
    first, second = cases["trainings"]["diverged"]
    assert first == second
    assert re.match(r"step \d: the loss is .* and its gradient nan, expected finite numbers; the batch holds ", first)
    assert first.count("set.000") == 4


def test_owners_have_equal_parts() -> None:
    owners = owners_of([100, 3, 50, 50, 1, 2], 2)
    assert owners[0] != owners[2] == owners[3]
    sums = [sum(n for n, o in zip([100, 3, 50, 50, 1, 2], owners, strict=True) if o == k) for k in (0, 1)]
    assert abs(sums[0] - sums[1]) <= 1


# --- division by edges -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> FrameSet:
    """Frames of 1 to 108 copper atoms."""
    from ase.build import bulk

    rng, frames = np.random.default_rng(0), []
    for k in range(60):
        atoms = bulk("Cu", cubic=bool(k % 2)) * (1 + k % 3, 1 + k % 2, 1 + k % 4 // 2)
        positions = atoms.positions + rng.normal(scale=0.05, size=atoms.positions.shape)
        frames.append(Frame(positions, np.zeros(len(atoms), int), atoms.cell.array, {"energy": np.array(1.0)}))
    folder = tmp_path_factory.mktemp("mixed") / "data"
    write_mixed(frames, folder, TYPE_MAP)
    return FrameSet(folder, TYPE_MAP)


def imbalance(batches: Sequence[Sequence[int]], cost: Callable[[int], int]) -> float:
    """Cost of the costliest over the mean."""
    costs = [sum(map(cost, batch)) for batch in batches]
    return max(costs) * len(costs) / sum(costs)


def test_frames_are_divided_by_edges(mixed: FrameSet) -> None:
    """Every process comes to the same division; none gets nothing, and none waits long for another."""
    maker = BatchMaker(mixed, NeighborSpec(5.0, 200))
    counts = EdgeCounts(maker, ALONE)
    assert counts.complete
    assert [counts(i) for i in range(0, 60, 7)] == [maker.n_edges(i) for i in range(0, 60, 7)]
    sampler, drawn, divided = Sampler(mixed.pools("frames"), 1, frames=8), [], []
    for _ in range(50):
        batches = [sampler.next_batch() for _ in range(4)]
        parts = divide(batches, counts)
        assert sorted(i for part in parts for i in part) == sorted(i for batch in batches for i in batch)
        assert all(parts)
        drawn.append(imbalance(batches, counts))
        divided.append(imbalance(parts, counts))
    assert np.mean(drawn) > 1.2
    assert np.mean(divided) < 1.05
    assert all(a <= b for a, b in zip(divided, drawn, strict=True))


def test_division_keeps_to_the_batch_size() -> None:
    cost = {0: 5, 1: 5, 2: 4, 3: 3, 4: 3}
    assert divide([[0, 1], [2, 3, 4]], cost.__getitem__) == [[0, 1], [2, 3, 4]]  # not worse than as drawn
    assert divide([[0, 1, 2], [3, 4]], cost.__getitem__) == [[0, 2], [1, 3, 4]]
    assert divide([[0, 1, 2], [3, 4]], cost.__getitem__, lambda batch: len(batch) < 3) == [[0, 1, 2], [3, 4]]
    assert divide([[3], [4], [0]], lambda i: 0) == [[3], [4], [0]]


def test_edges_of_frames_that_were_not_counted(mixed: FrameSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dpsim.train.batches.balance.COUNTED_ATOMS", 30 * sum(map(mixed.n_atoms, range(60))) // 60)
    maker = BatchMaker(mixed, NeighborSpec(5.0, 200))
    counts = EdgeCounts(maker, ALONE)
    assert not counts.complete
    found, expected = np.array([(counts(i), maker.n_edges(i)) for i in range(60)]).T
    assert np.corrcoef(found, expected)[0, 1] > 0.95


# --- how they are started, stopped and killed ------------------------------------------------------------------------


def command(kind: str, file: Path, output: Path) -> list[str]:
    dpsim = [sys.executable, "-P", "-m", "dpsim", "train", str(file), "-o", str(output), "--device", "cpu"]
    if kind == "mpi":
        return [str(mpich_file("mpiexec")), "-n", "2", *dpsim]
    return [*dpsim, "--ranks", "2"]


@pytest.fixture
def declared(emt: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes a train file."""

    def write(name: str = "train.yaml", **changes: Any) -> Path:
        file = tmp_path / name
        content = {"type_map": list(TYPE_MAP), "data": str(emt / "train"), "valid": str(emt / "valid"), "seed": 3}
        file.write_text(yaml.safe_dump(content | settings(**changes)))
        return file

    return write


def by_two(emt: Path, output: Path, **changes: Any) -> TrainResult:
    config = TrainConfig(**settings(seed=3, **changes))
    data = {"train_data": emt / "train", "valid_data": emt / "valid", "type_map": TYPE_MAP}
    return train_on(2, config, output, device="cpu", **data)


def same(a: Path, b: Path) -> bool:
    models = [[state_digest(load_model(one / f"{name}.safetensors")) for name in ("best", "last")] for one in (a, b)]
    return models[0] == models[1] and (a / "lcurve.csv").read_bytes() == (b / "lcurve.csv").read_bytes()


def test_stopped_and_killed_it_goes_on_bit_for_bit(emt: Path, tmp_path: Path, declared: Callable[..., Path]) -> None:
    """SIGTERM, then kill -9 of either process at a random moment: in the end, the files of the unbroken training."""
    changes = {"steps": 60, "log_every": 1, "validate_every": 8, "checkpoint_every": 3, "accumulate": 2}
    by_two(emt, tmp_path / "whole", **changes)
    file, output, moments = declared(**changes), tmp_path / "broken", random.SystemRandom()
    ended = []
    for end in ("stop", "kill", None):
        with (
            (tmp_path / "log").open("w") as log,
            subprocess.Popen(command("ranks", file, output), stderr=log, stdout=log, env=environment()) as process,
        ):
            begin = rows_of(output)
            while end is not None and process.poll() is None and rows_of(output) < begin + moments.randint(3, 12):
                time.sleep(0.005)
            others = psutil.Process(process.pid).children() if process.poll() is None else []
            if end == "stop":
                process.send_signal(signal.SIGTERM)
            elif end == "kill":
                moments.choice([process, *others]).kill()
            code = process.wait(300)
            assert not psutil.wait_procs(others, timeout=20)[1]
            ended.append(code)
        text = (tmp_path / "log").read_text()
        assert end != "stop" or "Interrupted: training stopped at step" in text
        assert code != 5 or "lost another one (process 1 was ended by signal 9" in text
    assert ended[0] == 75, text
    assert ended[1] in (5, -signal.SIGKILL), text
    assert ended[2] == 0, text
    assert same(output, tmp_path / "whole")
    assert checkpoints(output)[-1][0] == 60
    assert load_state(checkpoints(output)[-1][1]).workers == 2


def rows_of(folder: Path) -> int:
    curve = folder / "lcurve.csv"
    return len(curve.read_text().splitlines()) if curve.is_file() else 0


def test_started_by_mpi(emt: Path, tmp_path: Path, declared: Callable[..., Path]) -> None:
    """Recognised by its environment; only the first process speaks."""
    line = command("mpi", declared(zero=1), tmp_path / "mpi")
    made = subprocess.run(line, env=environment(), capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    assert made.stdout.count("best model:") == 1
    assert made.stderr.count("in each of 2 processes") == 1
    assert same(tmp_path / "mpi", by_two(emt, tmp_path / "own").best.parent)


def test_train_stage_on_two_ranks(emt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stage = settings(uses="train", data={"path": str(emt / "train")}, valid={"path": str(emt / "valid")}, seed=3)
    workflow = {
        "dpsim": 1,
        "name": "w",
        "type_map": list(TYPE_MAP),
        "stages": {"fit": stage | {"resources": {"ranks": 2}}},
    }
    Path("w.yaml").write_text(yaml.safe_dump(workflow))
    assert cli(["run", "w.yaml", "-j", "2"]) == 0
    metrics = json.loads((tmp_path / "runs/w/stages/fit/out/metrics.json").read_text())
    assert metrics["ranks"] == 2
    best = load_model(tmp_path / "runs/w/stages/fit/out/best.safetensors")
    assert state_digest(best) == state_digest(load_model(by_two(emt, tmp_path / "own").best))


def test_ranks_of_a_train_file(declared: Callable[..., Path], tmp_path: Path) -> None:
    """What a stage is granted in a workflow counts on the command line too."""
    request = read_stage(declared(resources={"ranks": 3}), (), Start.of(None, None, None, False), tmp_path)
    assert request.grant.number(None) == 3
    assert request.grant.number(2) == 2
    plain = read_stage(declared(), (), Start.of(None, None, None, False), tmp_path).grant
    assert (plain.number(None), plain.threads(1), plain.device("auto")) == (1, None, "auto")


def test_cores_of_a_train_file(emt: Path, declared: Callable[..., Path], tmp_path: Path) -> None:
    """They are the threads of torch, divided among the processes, whatever the environment says."""
    cores = len(os.sched_getaffinity(0))
    said: list[Any] = []

    def told(*_: Any, **options: Any) -> Any:
        said.append((options["threads"], options["device"]))
        raise ConfigError("enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dpsim.train.parallel.ranks.train_on", told)
        file = declared(resources={"cpus": cores, "gpus": 0})
        for more in ([], ["--ranks", "2"]):
            assert cli(["train", str(file), "--output", str(tmp_path / "out"), *more]) != 0
    assert said == [(cores, "cpu"), (max(1, cores // 2), "cpu")]


def test_threads_that_are_given_count(emt: Path, declared: Callable[..., Path], tmp_path: Path) -> None:
    line = [sys.executable, "-m", "dpsim", "train", str(declared(resources={"cpus": 1})), "--output"]
    made = subprocess.run([*line, str(tmp_path / "out")], env=environment(OMP_NUM_THREADS="2"), capture_output=True,
                          text=True, timeout=300, check=False)  # fmt: skip
    assert made.returncode == 0, made.stderr[-3000:]
    assert "on cpu with 1 threads" in made.stderr


@pytest.mark.parametrize(
    ("resources", "arguments", "message"),
    [
        ({"cpus": 10**6}, (), "resources.cpus: 1000000 is more than the [0-9]+ cores"),
        ({"gpus": 10**6}, (), "resources.gpus: 1000000 is more than the [0-9]+ GPUs of this machine"),
        ("big", (), "resources: 'big' names an entry of a workflow"),
        ({"gpus": 0}, ("--device", "cuda"), "--device cuda contradicts resources.gpus: 0"),
    ],
)
def test_resources_that_cannot_be_had(
    resources: Any, arguments: tuple[str, ...], message: str, declared: Callable[..., Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    line = ["train", str(declared(resources=resources)), "--output", str(tmp_path / "out"), *arguments]
    assert cli(line) != 0
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


@pytest.mark.parametrize("key", ["matrix: {x: [1]}", "retries: 2", "timeout: 1 h", "env: {A: 1}", "cache: 'off'"])
def test_keys_of_workflows_in_a_train_file(
    key: str, declared: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = declared()
    file.write_text(file.read_text() + f"\n{key}\n")
    assert cli(["train", str(file), "--output", str(tmp_path / "out")]) != 0
    assert f"{key.partition(':')[0]} has an effect in a workflow only" in capsys.readouterr().err


def test_resources_beside_processes_that_were_started_already() -> None:
    Grant(ranks=2, gpus=2).check(2, 2)
    with pytest.raises(ConfigError, match=r"resources\.ranks is 3, but 2 processes were started"):
        Grant(ranks=3).check(2, 2)
    with pytest.raises(ConfigError, match=r"resources\.gpus is 1, but 2 processes were started on this machine"):
        Grant(gpus=1).check(2, 2)


def test_further_gpus_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    for before, after in ((None, "0,1"), ("5,3,1", "5,3")):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if before is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
        Grant(gpus=2).hide_others()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == after
    assert Grant(gpus=2).device("auto") == "cuda"


def test_other_numbers_of_processes_go_on(emt: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = TrainConfig(**settings(steps=3, seed=3))
    data: dict[str, Any] = {"train_data": emt / "train", "valid_data": emt / "valid", "type_map": TYPE_MAP}
    train(config, tmp_path, **data)
    result = by_two(emt, tmp_path)
    assert result.metrics["ranks"] == 2
    assert "made by 1 processes, now there are 2: a step has 2 times as many frames" in caplog.text
    assert load_state(result.checkpoint).cursors[""].draws == 3 * 2 + 3 * 2 * 2


def test_learning_rate_and_epochs_know_the_processes(emt: Path, tmp_path: Path) -> None:
    scaled = {"start": 1e-3, "stop": 1e-3, "scale_by_worker": "linear"}
    result = by_two(emt, tmp_path, steps=None, epochs=1, batch_size=3, learning_rate=scaled, log_every=1)
    assert result.metrics["steps"] == 4  # 24 frames, twice 3 in a step
    with result.curve.open(newline="") as file:
        assert {float(row["learning_rate"]) for row in csv.DictReader(file)} == {2e-3}


def test_launchers_are_recognised() -> None:
    torchrun = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert recognised(torchrun | {"PMI_SIZE": "4"}) == "torchrun"
    assert recognised({"RANK": "0"}) == "none"
    for name in ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        assert recognised({name: "2"}) == "mpi"
        assert recognised({name: "1"}) == "none"


# --- refused ---------------------------------------------------------------------------------------------------------


def test_what_does_not_go_with_processes(emt: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="an open data set stays in its process: give its folders"):
        train_on(2, TrainConfig(**settings()), tmp_path, train_data=open_dataset(emt / "train", None))
    with pytest.raises(ValueError, match=r"zero has no effect with optimizer\.type: LKF"):
        TrainConfig(**settings(optimizer={"type": "LKF"}, zero=1))
    with pytest.raises(ValueError, match="ema keeps averages of all parameters, which zero: 3 gives back"):
        TrainConfig(**settings(ema=0.9, zero=3))


def test_zero_stage_of_the_peer(tmp_path: Path) -> None:
    descriptor = {"type": "se_e2_a", "sel": [4, 4], "rcut": 3.0, "rcut_smth": 2.0, "neuron": [2, 4]}
    model = {"type_map": ["O", "H"], "fitting_net": {"neuron": [4]}, "descriptor": descriptor}
    training = {"training_data": {"systems": [str(tmp_path)]}, "numb_steps": 5}
    found = {
        stage: translate({"model": model, "training": training | {"zero_stage": stage}}, "i.json", Path()).settings
        for stage in (0, 2)
    }
    assert "zero" not in found[0]
    assert found[2]["zero"] == 2
