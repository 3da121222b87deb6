# ruff: noqa: E501, PT028
"""Outputs of stages with realistic numbers, for the tests of the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from dpsim.report import Section

QUANTITIES = ("energy", "forces", "virial")


def write(path: Path, value: Any) -> None:
    """Write JSON or text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def csv(columns: dict[str, Any]) -> str:
    """Columns as CSV text."""
    rows = zip(*columns.values(), strict=True)
    return "\n".join([",".join(columns), *(",".join(str(value) for value in row) for row in rows)]) + "\n"


def data(out: Path) -> Section:
    """A data set of two sources."""
    sources = [
        {
            "path": "label.frames",
            "formats": ["extxyz"],
            "files": 1,
            "frames": 180,
            "fields": {"energy": 180, "forces": 180, "virial": 180},
        },
        {
            "path": "dft/**/OUTCAR",
            "formats": ["vasp/outcar"],
            "files": 4,
            "frames": 60,
            "fields": {"energy": 60, "forces": 60},
        },
    ]
    card = {
        "type_map": ["O", "H"], "frames": 240, "fields": {"energy": 240, "forces": 240, "virial": 180}, "sources": sources,
        "parts": {"train": 192, "valid": 24, "test": 24}, "compositions": {"H16O8": 120, "H32O16": 60, "H2O": 60}, "renamed": {},
    }  # fmt: skip
    write(out / "dataset.json", card)
    return Section("data", "convert", out)


def training(out: Path, rows: int = 400) -> Section:
    """A learning curve."""
    rng = np.random.default_rng(0)
    step = np.arange(0, 10 * rows, 10)
    fall = 1 / (1 + step / 60) ** 0.75
    columns: dict[str, Any] = {
        "step": step,
        "learning_rate": 1e-3 * 0.01 ** (step / step[-1]),
        "loss": 30 * fall**2 + 0.02,
    }
    for name, size in (("energy", 0.06), ("forces", 1.4), ("virial", 0.2)):
        clean = size * (fall + 0.015)
        columns[f"rmse_{name}_train"] = clean * rng.lognormal(0, 0.25, rows)
        columns[f"rmse_{name}_valid"] = np.where(step % 100 == 0, clean * 1.12 * rng.lognormal(0, 0.06, rows), np.nan)
    text = csv({k: ["" if v != v else v for v in values] for k, values in columns.items()})
    write(out / "lcurve.csv", text)
    best = {"step": 3900, "metric": 0.02, "rmse_energy": 1.4e-3, "rmse_forces": 0.0712}
    frames = {"train": 192, "valid": 24}
    write(out / "metrics.json", {"step": 4000, "steps": 4000, "parameters": 48_211, "precision": "float32", "frames": frames,
                                 "best": best, "seconds": 131.4, "seconds_per_step": 131.4 / 4000})  # fmt: skip
    return Section("model", "train", out)


def testing(out: Path, atoms: int = 4000) -> Section:
    """Parity data of three systems."""
    rng = np.random.default_rng(1)
    names = ["test/H16O8", "test/H32O16", "test/H2O"]
    arrays: dict[str, Any] = {"systems": np.array(names)}
    metrics: dict[str, Any] = {
        "overall": {"frames": 240, "atoms": atoms},
        "systems": {n: {"frames": 80, "atoms": atoms // 3} for n in names},
    }
    for name, shape, size, error in (
        ("energy", (240,), 0.03, 0.0012),
        ("forces", (atoms, 3), 1.1, 0.06),
        ("virial", (180, 9), 0.12, 0.006),
    ):
        offset = -156.3 if name == "energy" else 0.0
        system = np.arange(shape[0]) * 3 // shape[0]
        reference = offset + size * rng.standard_t(6, shape)
        predicted = reference + error * rng.standard_t(5, shape)
        arrays |= {f"{name}_reference": reference, f"{name}_predicted": predicted, f"{name}_system": system}
        difference = predicted - reference
        for entry, part in [
            (metrics["overall"], system >= 0),
            *((metrics["systems"][n], system == i) for i, n in enumerate(names)),
        ]:
            entry[f"{name}_rmse"] = float(np.sqrt((difference[part] ** 2).mean()))
            entry[f"{name}_mae"] = float(np.abs(difference[part]).mean())
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(out / "parity.npz", **arrays)
    write(out / "metrics.json", metrics)
    return Section("test", "test", out)


def frozen(out: Path) -> Section:
    """The card of a frozen model."""
    checks = {
        name: {"value": value, "tolerance": tolerance, "unit": "relative", "note": ""}
        for name, value, tolerance in (
            ("frozen_vs_pytorch", 3.1e-7, 2e-4), ("ase_vs_pytorch", 3.1e-7, 2e-4), ("lammps_vs_pytorch", 4.8e-7, 2e-4),
            ("forces_vs_finite_differences", 2.3e-9, 1e-6), ("stress_vs_finite_differences", 8.8e-9, 1e-6),
        )
    }  # fmt: skip
    write(out / "card.json", {"format": 1, "type_map": ["O", "H"], "cutoff": 6.0, "dtype": "float32", "device": "cpu", "torch": "2.13.0",
                              "message_passing_layers": 3, "digest": "5c8ad1" * 8, "compile_seconds": 38.2, "checks": checks})  # fmt: skip
    return Section("frozen", "freeze", out)


def dynamics(out: Path, rows: int = 1200) -> Section:
    """NVT, then NVE, of water; with g(r) and displacements."""
    rng = np.random.default_rng(2)
    half, n_atoms = rows // 2, 192
    step = np.concatenate([np.arange(half) * 10, np.arange(rows - half) * 10 + (half - 1) * 10])
    time = step * 0.0005
    noise = np.convolve(rng.normal(size=rows + 60), np.ones(61) / 61, "valid")[:rows] * 60
    temperature = 330 + 25 * np.exp(-time / 0.5) * np.cos(time * 20) + noise + rng.normal(size=rows) * 6
    kinetic = temperature * 1.5 * 8.617e-5 * (n_atoms - 1)
    nve = np.arange(rows) >= half
    total = -29900.0 + np.where(nve, 0, np.cumsum(rng.normal(size=rows)) * 0.05)
    total[nve] = total[half - 1] + 2e-4 * n_atoms * (time[nve] - time[half]) + 0.004 * rng.normal(size=nve.sum())
    write(out / "thermo.csv", csv({
        "segment": nve.astype(int), "ensemble": np.where(nve, "nve", "nvt"), "step": step, "time_ps": time,
        "temperature_K": temperature, "potential_eV": total - kinetic, "kinetic_eV": kinetic, "total_eV": total,
        "pressure_bar": 900 + rng.normal(size=rows) * 2500, "volume_A3": np.full(rows, 1922.5),
    }))  # fmt: skip
    r = (np.arange(120) + 0.5) * 0.05

    def peaks(*items: tuple[float, float, float], level: float) -> Any:
        tail = 1 / (1 + np.exp(-(r - level) * 6))
        return tail + sum(h * np.exp(-((r - p) ** 2) / (2 * w * w)) for p, h, w in items)

    def pairs(shift: float, rng: np.random.Generator) -> dict[str, Any]:
        rough = 1 + 0.01 * rng.normal(size=120)
        return {
            "H-H": peaks((1.56 + shift, 3.1, 0.09), (2.4, 0.5, 0.2), level=2.2) * rough,
            "H-O": peaks((0.98 + shift, 30, 0.04), (1.85, 1.2, 0.15), (3.3, 0.6, 0.25), level=2.9) * rough,
            "O-O": peaks((2.76 + shift, 1.9, 0.12), (4.5, 0.12, 0.4), level=2.9) * rough,
        }

    model, reference = pairs(0.01, rng), pairs(0.0, rng)
    write(
        out / "rdf.csv",
        csv(
            {
                "r_A": r,
                **{k: v for pair in model for k, v in ((pair, model[pair]), (f"{pair}_reference", reference[pair]))},
            }
        ),
    )
    lag = np.linspace(0, 3, 60)
    write(
        out / "msd.csv",
        csv(
            {
                "time_ps": lag,
                "O_A2": 0.12 * (1 - np.exp(-lag * 9)) + 1.5 * lag,
                "H_A2": 0.25 * (1 - np.exp(-lag * 9)) + 1.5 * lag,
            }
        ),
    )
    drift = {
        "slope_meV_atom_ps": 0.2,
        "error_meV_atom_ps": 0.0013,
        "fluctuation_meV_atom": 0.021,
        "intercept_eV": float(total[half]) - 2e-4 * n_atoms * time[half],
    }
    averages = {
        "temperature_K": {"mean": 331.2, "std": 24.0, "error": 2.1},
        "pressure_bar": {"mean": 905.0, "std": 2500.0, "error": 160.0},
    }
    write(out / "analysis.json", {
        "atoms": n_atoms, "formula": "H128O64", "ranks": 2, "frames": 120, "attempts": 2, "steps_per_second": 71.3, "loop_seconds": 168.0,
        "segments": [
            {"index": 0, "ensemble": "nvt", "timestep_ps": 0.0005, "time_ps": 3.0, **averages},
            {"index": 1, "ensemble": "nve", "timestep_ps": 0.0005, "time_ps": 3.0, **averages, "energy_drift": drift},
        ],
        "rdf": {"pairs": {pair: {"first_peak": {"r_A": 2.77, "g": 2.8}, "reference_peak": {"r_A": 2.76, "g": 2.83}, "overlap": 0.97} for pair in model}},
        "msd": {"species": {"O": {"diffusion_A2_per_ps": 0.25, "error_A2_per_ps": 0.02, "last_A2": 4.6}}},
    })  # fmt: skip
    return Section("dynamics", "md", out)


def manifest() -> dict[str, Any]:
    """The manifest of a finished run."""
    stages: dict[str, Any] = {}
    clock = 1_795_000_000.0
    for name, seconds in (
        ("label", 48),
        ("data", 2),
        ("model", 134),
        ("frozen", 61),
        ("test", 6),
        ("dynamics", 97),
        ("report", 3),
    ):
        stages[name] = {
            "key": f"{abs(hash(name)):040x}"[:40], "state": "running" if name == "report" else "done",
            "attempts": [] if name == "report" else [{"start": clock, "end": clock + seconds, "exit": 0}],
            "inputs": {}, "outputs": {"main": "b2:" + "9f" * 20}, "soft": {},
        }  # fmt: skip
        clock += seconds
    return {
        "name": "Liquid water, GFN1-xTB", "started": "2026-11-21T10:14:00+0000", "dpsim": {"version": "0.1.0", "git": "9b1c" * 10},
        "workflow": {"path": "quickstart.yaml", "digest": "c0ffee" * 6}, "host": {"cpu": "AMD EPYC 7763", "cores": 2, "gpu": []},
        "packages": {"torch": "2.13.0", "lammps": "2025.7.22.4.0", "ase": "3.29.0", "mpi": {"library": "mpich 5.0.2", "abi": "libmpi.so.12"}},
        "env": {}, "stages": stages, "seeds": {"model": 7, "dynamics": 7},
        "citations": ["Zhang et al., DPA-3: a graph neural network for interatomic potentials, arXiv:2506.01686 (2025)",
                      "Thompson et al., LAMMPS, Comput. Phys. Commun. 271, 108171 (2022)"], "exit": 0,
    }  # fmt: skip


def everything(folder: Path) -> list[Section]:
    """One section of each type."""
    label = Section("label", "label", folder / "label", {"calculator": {"name": "tblite", "method": "GFN1-xTB"}})
    write(folder / "label/metrics.json", {"frames": 240, "failed": 0, "reused": 0})
    return [
        label, data(folder / "data"), training(folder / "train"), testing(folder / "test"), frozen(folder / "freeze"),
        dynamics(folder / "md"),
    ]  # fmt: skip
