"""The process that labels: reads tasks as JSON lines, writes labels as JSON lines.

Started by `data_tools.label` as ``python -m data_tools.worker``, with one thread for each worker. What
calculators print goes to the log, not among the answers. A task is one structure, or one trajectory:

``{"task", "atoms", "calculator", "properties", "md", "state"}`` is answered by any number of
``{"task", "number", "frame", "state"}``, then ``{"task", "done": true}`` or ``{"task", "error"}``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from data_tools.calculators import CalculatorConfig
from data_tools.code_calculators import CodeConfig
from data_tools.structure_config import MDSampling
from dpsim.errors import StageError

if TYPE_CHECKING:
    from ase import Atoms

Answer = dict[str, Any]


def atoms_to_dict(atoms: Atoms) -> dict[str, Any]:
    """Return what defines a structure as plain values; floats survive JSON exactly."""
    plain = {
        "numbers": atoms.numbers.tolist(),
        "positions": atoms.positions.tolist(),
        "cell": np.asarray(atoms.cell).tolist(),
        "pbc": atoms.pbc.tolist(),
    }
    for name in ("initial_charges", "initial_magmoms"):
        if atoms.has(name):
            plain[name] = atoms.get_array(name).tolist()
    return plain


def atoms_from_dict(plain: dict[str, Any]) -> Atoms:
    """Return the structure of `atoms_to_dict`."""
    from ase import Atoms

    atoms = Atoms(
        numbers=plain["numbers"],
        positions=np.array(plain["positions"], float).reshape(-1, 3),
        cell=plain["cell"],
        pbc=plain["pbc"],
    )
    for name in ("initial_charges", "initial_magmoms"):
        if name in plain:
            atoms.set_array(name, np.array(plain[name], float))
    return atoms


def labels_of(atoms: Atoms, properties: list[str]) -> dict[str, Any]:
    """Return the labels of a structure with a calculator as plain values; stress as nine numbers in eV/Å³.

    Structures with open boundaries have no stress.

    Raises
    ------
    ValueError
        If a result is not finite.
    """
    labels: dict[str, Any] = {}
    if "energy" in properties:
        labels["energy"] = float(atoms.get_potential_energy())
    if "forces" in properties:
        labels["forces"] = np.asarray(atoms.get_forces(apply_constraint=False)).tolist()
    if "stress" in properties and atoms.pbc.all():
        labels["stress"] = np.asarray(atoms.get_stress(voigt=False, apply_constraint=False)).ravel().tolist()
    for name, value in labels.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{name} is not finite")
    return labels


def run_task(task: Answer, send: Callable[[Answer], None]) -> None:
    """Do one task and send its answers."""
    build = _builder(task)
    atoms = atoms_from_dict(task["atoms"])
    if task["md"] is None:
        atoms.calc = build(atoms)
        try:
            single = {**atoms_to_dict(atoms), "labels": labels_of(atoms, task["properties"])}
        finally:
            close(atoms.calc)
        send({"task": task["task"], "number": 0, "frame": single})
        return
    settings = MDSampling.model_validate(task["md"]["md"])
    for number, frame, state in trajectory(
        atoms, build, settings, task["md"]["seed"], task["properties"], task.get("state")
    ):
        send({"task": task["task"], "number": number, "frame": frame, "state": state})


def _builder(task: Answer) -> Callable[[Atoms], Any]:
    calculator = TypeAdapter(CalculatorConfig).validate_python(task["calculator"])
    if not isinstance(calculator, CodeConfig):
        return calculator.build
    folder, properties = Path(task["folder"]), tuple(task["properties"])
    if task["md"] is not None:
        properties = tuple({*properties, "forces"})
    return lambda atoms: calculator.build(atoms, folder, properties)


def close(calculator: Any) -> None:
    """End what a calculator holds besides memory (LAMMPS, folders)."""
    if hasattr(calculator, "clean"):
        calculator.clean()


def trajectory(
    atoms: Atoms,
    build: Callable[[Atoms], Any],
    settings: MDSampling,
    seed: int,
    properties: list[str],
    state: dict[str, Any] | None,
) -> Iterator[tuple[int | None, dict[str, Any] | None, dict[str, Any]]]:
    """Run Langevin dynamics in short segments and yield after each of them.

    Every segment starts from a state that is written down, with a fresh calculator: a trajectory that was
    interrupted and goes on is therefore the unbroken one, to the last bit.

    Yields
    ------
    number, frame, state
        Number and frame are None while equilibrating.
    """
    from ase import units
    from ase.constraints import FixCom
    from ase.md.langevin import Langevin

    rng = np.random.Generator(np.random.PCG64(seed))
    done = _restore(atoms, rng, state) if state else _start(atoms, rng, settings.temperature)
    atoms.set_constraint(FixCom() if len(atoms) > 1 else None)
    frames = settings.steps // settings.every
    while done < settings.equilibrate + frames * settings.every:
        left = settings.equilibrate - done
        steps = min(settings.every, left) if left > 0 else settings.every
        atoms.calc = build(atoms)
        try:
            dynamics = Langevin(
                atoms,
                settings.timestep * 1000 * units.fs,
                temperature_K=settings.temperature,
                friction=1 / (settings.damping * 1000 * units.fs),
                fixcm=False,  # by constraint instead, which samples the right distribution
                rng=rng,
            )
            dynamics.run(steps)
            done += steps
            if not np.isfinite(atoms.positions).all():
                raise ValueError(f"the trajectory diverged before step {done}: use a smaller timestep")
            number = None if done <= settings.equilibrate else (done - settings.equilibrate) // settings.every - 1
            frame = None
            if number is not None:
                frame = {**atoms_to_dict(atoms), "labels": labels_of(atoms, properties), "step": done}
        finally:
            close(atoms.calc)
            atoms.calc = None
        yield number, frame, {**_state(atoms, rng), "done": done}


def _start(atoms: Atoms, rng: np.random.Generator, temperature: float) -> int:
    """Draw momenta from the Maxwell-Boltzmann distribution, without motion of the centre of mass."""
    from ase.units import kB

    masses = atoms.get_masses()[:, None]
    momenta = np.sqrt(masses * kB * temperature) * rng.standard_normal((len(atoms), 3))
    if len(atoms) > 1:
        momenta -= masses * momenta.sum(axis=0) / masses.sum()
    atoms.set_momenta(momenta)
    return 0


def _state(atoms: Atoms, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "positions": atoms.positions.tolist(),
        "momenta": atoms.get_momenta().tolist(),
        "rng": rng.bit_generator.state,
    }


def _restore(atoms: Atoms, rng: np.random.Generator, state: dict[str, Any]) -> int:
    atoms.positions[:] = state["positions"]
    atoms.set_momenta(np.array(state["momenta"]))
    rng.bit_generator.state = state["rng"]
    return int(state["done"])


def _watch_parent(parent: int) -> None:
    """End this process when the one that started it is gone, even in the midst of a calculation."""
    while os.getppid() == parent:
        time.sleep(0.5)
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)  # with the programs that calculators started
    os._exit(1)


def main() -> None:
    """Serve tasks until there are no more."""
    threading.Thread(target=_watch_parent, args=(int(sys.argv[1]),), daemon=True).start()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # calculators print; their words go to the log

    def send(answer: Answer) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    for line in sys.stdin:
        task = json.loads(line)
        try:
            run_task(task, send)
        except Exception as error:  # whatever a calculator raises is a failed frame
            text = " ".join(str(error).split())[: 900 if isinstance(error, StageError) else 300]
            send({"task": task["task"], "error": f"{type(error).__name__}: {text}".rstrip(": ")})
        else:
            send({"task": task["task"], "done": True})


if __name__ == "__main__":
    main()
