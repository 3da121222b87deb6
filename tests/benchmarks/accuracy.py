"""Errors that a DPA-3 reaches in a given CPU time, beside DeePMD-kit with the same input.

    python tests/benchmarks/accuracy.py DATA --output FOLDER [--dp DP] [--sets si mo] [--cpu-seconds 720]

`DATA` is the folder of the reference data sets (mlearn, 3bpa, water), `DP` the executable `dp` of another environment.
Inputs with their seeds are in `accuracy_inputs`; both sides read the same file. For each set:

- both sides are calibrated: two short trainings give the CPU time of a step and of the start;
- *equal time*: each side trains as many steps as fit into the budget, with a schedule of that length;
- *equal steps*: dpsim trains as many steps as the other side made in the budget.

Time is that of the processor, of the process and its children with one thread, so that a busy machine counts for
both sides alike. Models are those after the last step; their errors on the held-out frames are found by `dpsim test`
for both sides, and by `dp test` as well for the other one. `FOLDER` keeps one JSON file a run; runs that are there
are not repeated. The table is printed and written to `FOLDER/accuracy.md`. Two commands may make the two sides of a
set beside one another (`--sides dpsim`, `--sides peer`); a third without it then makes the table of what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

INPUTS = Path(__file__).parent / "accuracy_inputs"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "DP_INTRA_OP_PARALLELISM_THREADS": "1", "DP_INTER_OP_PARALLELISM_THREADS": "1",
    "NUM_WORKERS": "0",
}  # fmt: skip
DPSIM = [sys.executable, "-c", "from dpsim.cli.main import main; main()"]
CALIBRATION = {"dpsim": (100, 700), "peer": (20, 100)}
"""Steps of the two trainings from whose difference the time of a step is taken."""


class Frames(NamedTuple):
    """Frames of a set by the name of the part: files to convert, or folders to take as they are."""

    train: tuple[str, ...]
    tests: dict[str, str]
    reference: str
    """Errors of other potentials on these or like frames."""


SETS = {
    "si": Frames(
        ("mlearn/Si/train.extxyz",), {"test": "mlearn/Si/test.extxyz"},
        "SNAP: E MAE 6.44, F MAE 133, F RMSE 205; qSNAP: 3.81, 116, 177 (same frames)",
    ),
    "water": Frames(
        ("water/data_0", "water/data_1", "water/data_2"), {"data_3": "water/data_3"},
        "se_e2_a of the peer, 2000 steps: E RMSE 3.77, F RMSE 241 (same frames)",
    ),
    "3bpa": Frames(
        ("3bpa/train_300K.xyz",),
        {"300K": "3bpa/test_300K_from_mixedT.xyz", "600K": "3bpa/test_600K_from_mixedT_a.xyz"},
        "NequIP, RMSE, E meV a molecule / F: 3.3/10.8 (300 K), 11.2/26.4 (600 K) (official test files, days of GPU)",
    ),
    "mo": Frames(
        ("mlearn/Mo/train.extxyz",), {"test": "mlearn/Mo/test.extxyz"},
        "SNAP: E MAE 5.48, F MAE 206, F RMSE 376; qSNAP: 2.77, 184, 333 (same frames)",
    ),
}  # fmt: skip


def run(command: list[str], folder: Path, name: str = "log.txt") -> float:
    """Run a command to its end; its CPU seconds with those of its children."""
    environment = {**os.environ, **ENVIRONMENT}
    environment["PATH"] = os.pathsep.join([str(Path(command[0]).parent), environment.get("PATH", "")])
    with (folder / name).open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        tail = "".join((folder / name).read_text().splitlines(keepends=True)[-12:])
        raise SystemExit(f"{' '.join(command[-4:])} ended with code {process.returncode}:\n{tail}")
    return usage.ru_utime + usage.ru_stime


def prepared(source: Path, folder: Path, type_map: list[str]) -> Path:
    """A folder of systems with these frames that both sides read."""
    if source.is_dir():
        return source
    target = folder / source.name.split(".")[0]
    if not target.is_dir():
        run([*DPSIM, "data", "convert", str(source), "-o", str(target), "--type-map", " ".join(type_map)], folder)
    return target


def systems(path: Path) -> list[str]:
    """Folders of systems below a path."""
    return [str(file.parent) for file in sorted(path.rglob("type.raw"))]


def train(side: str, dp: str | None, text: dict[str, Any], steps: int, folder: Path) -> tuple[float, Path]:
    """CPU seconds of a training, and its last model."""
    folder.mkdir(parents=True, exist_ok=True)
    text["training"] |= {"numb_steps": steps, "disp_freq": max(steps // 40, 1)}
    (folder / "input.json").write_text(json.dumps(text, indent=1))
    if side == "dpsim":
        # no validation data: nothing but steps takes time, and the model is the last on both sides
        seconds = run([*DPSIM, "train", "input.json", "--output", "out", "--device", "cpu"], folder)
        return seconds, folder / "out" / "last.safetensors"
    assert dp is not None
    seconds = run([dp, "--pt", "train", "input.json", "--skip-neighbor-stat"], folder)
    return seconds, folder / f"model.ckpt-{steps}.pt"


def calibrated(side: str, dp: str | None, text: dict[str, Any], folder: Path) -> tuple[float, float]:
    """CPU seconds of a step and of everything before the first."""
    path = folder / f"calibration-{side}.json"
    if not path.is_file():
        counts = CALIBRATION[side]
        few, many = (train(side, dp, text, n, folder / f"calibration-{side}-{n}")[0] for n in counts)
        step = (many - few) / (counts[1] - counts[0])
        path.write_text(json.dumps({"step": step, "start": few - counts[0] * step}))
    found = json.loads(path.read_text())
    return found["step"], max(found["start"], 0.0)


def errors(model: Path, tests: dict[str, Path], folder: Path) -> dict[str, dict[str, float]]:
    """Errors in meV/atom and meV/Å on each held-out part."""
    found = {}
    for name, path in tests.items():
        run([*DPSIM, "test", str(model), str(path), "--json", "--detail", f"test-{name}"], folder, f"test-{name}.txt")
        overall = json.loads((folder / f"test-{name}-metrics.json").read_text())["overall"]
        keys = ("energy_rmse", "energy_mae", "forces_rmse", "forces_mae")
        found[name] = {key: round(1e3 * overall[key], 3) for key in keys} | {"frames": overall["frames"]}
    return found


def own_errors(dp: str, model: Path, tests: dict[str, Path], folder: Path) -> dict[str, dict[str, float]]:
    """The same as the other side finds them, weighted over systems as it does."""
    found = {}
    for name, path in tests.items():
        run([dp, "--pt", "test", "-m", str(model), "-s", str(path), "-n", "0"], folder, f"own-test-{name}.txt")
        text = (folder / f"own-test-{name}.txt").read_text()
        text = text[text.rfind("weighted average of errors") :] if "weighted average of errors" in text else text
        values = {}
        for key, label in (("energy_rmse", r"Energy RMSE/Natoms"), ("forces_rmse", r"Force\s+RMSE")):
            match = re.search(label + r"\s*:\s*([0-9.eE+-]+)", text)
            values[key] = round(1e3 * float(match[1]), 3) if match else float("nan")
        found[name] = values
    return found


def measured(case: str, side: str, steps: int, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One training with its errors; read from its file if it was made before."""
    name = f"{case}-{side}-{steps}"
    path = options.output / f"{name}.json"
    if path.is_file():
        return dict(json.loads(path.read_text()))
    tests = {k: prepared(options.data / v, folder, type_map(case)) for k, v in SETS[case].tests.items()}
    seconds, model = train(side, options.dp, document(case, options, folder), steps, folder / name)
    result: dict[str, Any] = {
        "set": case, "side": side, "steps": steps, "cpu_seconds": round(seconds, 1),
        "errors": errors(model, tests, folder / name), "machine": platform.machine(), "cpus": os.cpu_count(),
        "load": [round(x, 1) for x in os.getloadavg()],
    }  # fmt: skip
    if side == "peer":
        result["own_errors"] = own_errors(options.dp, model, tests, folder / name)
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result), flush=True)
    return result


def type_map(case: str) -> list[str]:
    """Elements of a set."""
    return list(json.loads((INPUTS / f"{case}.json").read_text())["model"]["type_map"])


def document(case: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Input of a set with the paths of its data."""
    text: dict[str, Any] = json.loads((INPUTS / f"{case}.json").read_text())
    sources = [prepared(options.data / name, folder, type_map(case)) for name in SETS[case].train]
    text["training"]["training_data"]["systems"] = [path for source in sources for path in systems(source)]
    return text


def compared(case: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All trainings of a set."""
    folder = options.output / case
    folder.mkdir(parents=True, exist_ok=True)
    sides = [side for side in options.sides if side == "dpsim" or options.dp is not None]
    steps = {}
    for side in sides:
        step, start = calibrated(side, options.dp, document(case, options, folder), folder)
        steps[side] = max(int((options.cpu_seconds - start) / step) // 10 * 10, 10)
        print(f"{case}: {side}: {step:.4f} CPU s a step, {start:.1f} before the first", flush=True)
    runs = [measured(case, side, steps[side], options, folder) for side in reversed(sides)]
    if len(steps) == 2:
        runs.append(measured(case, "dpsim", steps["peer"], options, folder))
    return runs


def table(found: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown of all runs, with the reference errors below."""
    lines = [
        "| set | held out | frames | side | steps | CPU s | E RMSE | E MAE | F RMSE | F MAE |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for case, runs in found.items():
        for part in SETS[case].tests:
            for one in runs:
                e = one["errors"][part]
                lines.append(
                    f"| {case} | {part} | {e['frames']} | {one['side']} | {one['steps']} | {one['cpu_seconds']:.0f} | "
                    f"{e['energy_rmse']:.2f} | {e['energy_mae']:.2f} | {e['forces_rmse']:.0f} | {e['forces_mae']:.0f} |"
                )
    lines += ["", "Energies in meV/atom, forces in meV/Å. For comparison:", ""]
    lines += [f"- {case}: {SETS[case].reference}" for case in found]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train, test and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the reference data sets")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dp", help="the executable dp of an environment with DeePMD-kit")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--cpu-seconds", type=float, default=720.0, help="of one training")
    parser.add_argument("--sides", nargs="+", choices=("dpsim", "peer"), default=["dpsim", "peer"])
    options = parser.parse_args()
    options.data, options.output = options.data.resolve(), options.output.resolve()
    found = {}
    for case in options.sets:
        found[case] = compared(case, options)
        (options.output / "accuracy.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
