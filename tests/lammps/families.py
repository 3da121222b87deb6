"""Every tiny model in LAMMPS: frozen once while its sources stay, and run one after the other by one program."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lammps_runs import MEASURE, MEASURE_SPINS, System, grid, head, run_program, symbols
from pydantic import BaseModel

from dpsim.descriptors import SeE2AConfig, SeE2RConfig, SeE3TebdConfig
from dpsim.descriptors.dpa3.config import DPA3Config
from dpsim.fittings.energy.config import EnergyFittingConfig
from dpsim.lammps.packages import mpich_file, program_environment
from dpsim.model.compose.dplr_config import DPLRModelConfig
from dpsim.model.standard import ModelConfig
from dpsim.testing import tiny_models

WITH_INPUTS = ModelConfig(
    type_map=("O", "H"),
    descriptor=DPA3Config.tiny().model_copy(update={"add_chg_spin_ebd": True}),
    fitting=EnergyFittingConfig.tiny().model_copy(
        update={"numb_fparam": 2, "numb_aparam": 1, "default_fparam": (0.3, -0.2)}
    ),
)
_TINY_DPLR = DPLRModelConfig.tiny()
_LOCAL = ModelConfig.tiny().model_copy(update={"descriptor": SeE2RConfig.tiny()})
DPLR = _TINY_DPLR.model_copy(update={"model": _LOCAL})
"""Only its dipoles pass messages."""
LOCAL_DPLR = _TINY_DPLR.model_copy(
    update={"model": _LOCAL, "dipole": _TINY_DPLR.dipole.model_copy(update={"descriptor": SeE2AConfig.tiny()})}
)
"""Nothing of it passes messages."""
LOCAL_INPUTS = ModelConfig(
    type_map=("O", "H"),
    descriptor=SeE3TebdConfig.tiny(),
    fitting=EnergyFittingConfig.tiny().model_copy(
        update={"numb_fparam": 2, "numb_aparam": 1, "default_fparam": (0.3, -0.2)}
    ),
)
"""Pairs of edges, and parameters, without messages."""
MODELS: dict[str, Any] = {
    **tiny_models(), "dpa3-ener-inputs": WITH_INPUTS, "dplr": DPLR, "dplr-local": LOCAL_DPLR,
    "se_e3_tebd-ener-inputs": LOCAL_INPUTS,
}  # fmt: skip
FAMILIES = tuple(MODELS)
KEYWORDS = {"aparam": [0.7], "charge_spin": [-1.0, 2.0]}
"""Given to models that take them; frame parameters are left at their default."""

_FOLDER = Path(__file__).parent
_COMMON = ("export", "model", "nn", "ops", "physics", "native")
_TOP = ("descriptors", "fittings")


def build(name: str) -> Any:
    """The model with fixed random parameters, in float64."""
    return MODELS[name].build(seed=1).with_precision("float64")


def is_message_passing(name: str) -> bool:
    """Whether ranks exchange rows of this model."""
    return bool(build(name).message_passing_layers)


# ---- freezing ------------------------------------------------------------------------------------


def digest(name: str) -> str:
    """Of the settings and all sources that the frozen model comes from: not those of other descriptors."""
    import torch

    import dpsim
    from dpsim.native.identity import base_key

    root = Path(dpsim.__file__).parent
    own = {Path(sys.modules[part.__module__].__file__ or "").parent for part in _parts(MODELS[name])}
    files = {path for room in _COMMON for path in (root / room).rglob("*.py") if "peer" not in path.parts}
    files |= {path for room in _TOP for path in (root / room).glob("*.py")}
    files |= {path for folder in own for path in folder.rglob("*.py")}
    found = hashlib.sha256(f"{torch.__version__} {base_key('ops')} {MODELS[name].model_dump_json()}".encode())
    for path in sorted(files):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def _parts(config: object) -> Iterator[BaseModel]:
    """All settings within settings."""
    if isinstance(config, BaseModel):
        yield config
        for field in type(config).model_fields:
            yield from _parts(getattr(config, field))
    elif isinstance(config, tuple | list):
        for member in config:
            yield from _parts(member)


def freeze(names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Frozen models in float64, compiled side by side where they are not there yet."""
    paths = {name: folder / f"{name}-float64-{digest(name)}.pt2" for name in names}
    missing = [name for name in names if not paths[name].is_file()]
    for name in missing:
        for old in folder.glob(f"{name}-float64-????????????????.pt2"):
            old.unlink()
    with ThreadPoolExecutor(max(1, min(4, os.cpu_count() or 1))) as pool:
        for done in pool.map(lambda name: _freeze(name, paths[name]), missing):
            assert done.returncode == 0, f"{done.args[-2]} cannot be frozen:\n{done.stderr[-2000:]}"
    return paths


def _freeze(name: str, path: Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, str(_FOLDER / "freeze_program.py"), name, str(path)]
    return subprocess.run(argv, capture_output=True, text=True, cwd=_FOLDER, timeout=600)


# ---- running -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One deck in a folder of its own."""

    folder: str
    error: str = ""


def structure(name: str) -> tuple[System, np.ndarray | None]:
    """A dense triclinic box, and spins for magnetic models."""
    elements = build(name).type_map
    cell = np.array([[8.5, 0, 0], [2.6, 8.0, 0], [-1.9, 3.1, 9.0]])
    x = grid(48, (1, 1, 1), 4, jitter=0.0) + np.random.default_rng(4).uniform(-0.02, 0.02, (48, 3))
    system = System(x @ cell, symbols(48, 4, (*elements, *elements[1:])), cell)
    if build(name).spin is None:
        return system, None
    spins = np.random.default_rng(6).normal(size=(48, 3))
    return system, spins / np.linalg.norm(spins, axis=1)[:, None] * np.linspace(0.4, 1.6, 48)[:, None]


def write_deck(name: str, model: Path, folder: Path, chunk: int = 0) -> None:
    """Deck of a single point of a family, all atoms at once or `chunk` of them at a time."""
    built, (system, spins) = build(name), structure(name)
    elements = built.type_map
    style = "atomic" if spins is None else "spin"
    deck = head(system, system.write(folder / "s.data", elements, style, spins), style=style)
    inputs = built.inputs
    takes = {"aparam": inputs.n_aparam > 0, "charge_spin": inputs.charge_spin}
    words = " ".join(
        f"{key} {' '.join(f'{v:g}' for v in KEYWORDS[key])}" for key, taken in takes.items() if taken
    )  # fmt: skip
    words += f" chunk {chunk}" if chunk else ""
    if built.output == "energy":
        deck += f"pair_style dpsim {model} {words}\npair_coeff * * {' '.join(elements)}\n"
        deck += MEASURE if spins is None else MEASURE_SPINS
    else:
        deck += f"pair_style zero {built.neighbors.cutoff:.17g}\npair_coeff * *\n"
        deck += f"compute d all dpsim/tensor/atom {model} {' '.join(elements)} {words}\n" + TENSOR
    (folder / "in.lammps").write_text(deck)


TENSOR = """
compute r all reduce sum c_d[*]
fix r all ave/time 1 1 1 c_r[*] file totals.txt format " %.17g"
dump d all custom 1 atoms.dump id c_d[*]
dump_modify d sort id format float %.17g
run 0
"""


def run_all(folders: Sequence[Path], ranks: int, scratch: Path) -> dict[Path, str]:
    """Run the decks in these folders by one program of several ranks; messages of those that failed."""
    (scratch / "jobs.json").write_text(json.dumps([asdict(Job(str(folder))) for folder in folders]))
    argv = [str(mpich_file("mpiexec")), "-n", str(ranks)] if ranks > 1 else []
    argv += [sys.executable, str(_FOLDER / "families_program.py"), str(scratch / "jobs.json")]
    code, text = run_program(argv, program_environment(None, 1), scratch, 60.0 + 20.0 * len(folders))
    assert code == 0, f"{ranks} ranks, exit code {code}:\n{text[-4000:]}"
    done = [Job(**job) for job in json.loads((scratch / "done.json").read_text())]
    return {Path(job.folder): job.error for job in done}
