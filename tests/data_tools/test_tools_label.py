"""Labelling: right numbers, right order, failures counted, and nothing lost when it is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.io import read, write
from pydantic import TypeAdapter, ValidationError

from data_tools import pool
from data_tools.calculators import (
    CalculatorConfig,
    EAMConfig,
    EMTConfig,
    LJConfig,
    PySCFConfig,
    TBLiteConfig,
    lammps_potentials,
)
from data_tools.convert import Source, convert
from data_tools.journal import Journal
from data_tools.label import label
from data_tools.structures import StructureConfig, build_structures
from data_tools.worker import atoms_from_dict, atoms_to_dict
from dpsim.data import open_dataset
from dpsim.errors import DataError

CONFIG: TypeAdapter[Any] = TypeAdapter(StructureConfig)


def copper(count: int = 4, seed: int = 0, **keys: Any) -> list[Atoms]:
    declared = {"prototype": "fcc", "element": "Cu", "rattle": 0.1, "strain": 0.04, "count": count, **keys}
    return build_structures(CONFIG.validate_python(declared), seed)


def test_scripts_where_it_is_started_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ase.py").write_text("raise SystemExit('this script was imported')\n")
    monkeypatch.chdir(tmp_path)
    assert label(copper(1), EMTConfig(), tmp_path / "out", workers=1).n_failed == 0


def test_labels_are_those_of_the_calculator_in_the_order_of_the_structures(tmp_path: Path) -> None:
    structures = copper(6)
    seen: list[tuple[int, int]] = []
    result = label(
        structures, EMTConfig(), tmp_path, workers=2, on_progress=lambda done, total, name: seen.append((done, total))
    )
    assert (result.n_frames, result.n_failed, result.n_reused) == (6, 0, 0)
    assert seen == [(i, 6) for i in range(1, 7)]
    frames = read(result.frames, ":")
    for atoms, frame in zip(structures, frames, strict=True):
        atoms.calc = EMT()
        assert frame.info["REF_energy"] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(frame.arrays["REF_forces"], atoms.get_forces(), atol=1e-8)
        np.testing.assert_allclose(frame.info["REF_stress"], atoms.get_stress(voigt=False).ravel(), atol=1e-10)
        assert (frame.info["source"], frame.info["config_type"]) == ("fcc-Cu-1x1x1", "fcc")
        np.testing.assert_allclose(frame.positions, atoms.positions, atol=1e-8)
    assert json.loads(result.failed.read_text()) == {"failed": []}


def test_labels_become_a_data_set(tmp_path: Path) -> None:
    structures = copper(5)
    result = label(structures, EMTConfig(), tmp_path / "label")
    report = convert([Source(path=str(result.frames))], tmp_path / "data", split={"train": 0.8, "valid": 0.2})
    assert report.fields == {"energy": 5, "forces": 5, "virial": 5}
    assert report.sources[0].keys["virial"] == {"REF_stress": 5}
    by_energy = {round(float(f.labels["energy"]), 9): f for f in open_dataset(tmp_path / "data")}
    for atoms in structures:
        atoms.calc = EMT()
        frame = by_energy[round(atoms.get_potential_energy(), 9)]
        virial = -atoms.get_volume() * atoms.get_stress(voigt=False)
        np.testing.assert_allclose(frame.labels["virial"], virial, atol=1e-8)


def test_the_virial_is_minus_the_derivative_by_strain(tmp_path: Path) -> None:
    atoms = copper(1, supercell=[2, 1, 1])[0]
    label([atoms], EMTConfig(), tmp_path / "label")
    convert([tmp_path / "label/frames.extxyz"], tmp_path / "data")
    virial = open_dataset(tmp_path / "data")[0].labels["virial"]

    def energy(strain: np.ndarray) -> float:
        strained = atoms.copy()
        strained.set_cell(np.asarray(atoms.cell) @ (np.eye(3) + strain).T, scale_atoms=True)
        strained.calc = EMT()
        return float(strained.get_potential_energy())

    for k, l in ((0, 0), (1, 1), (0, 2)):  # noqa: E741
        step = np.zeros((3, 3))
        step[k, l] = 1e-5
        assert virial[k, l] == pytest.approx(-(energy(step) - energy(-step)) / 2e-5, abs=1e-5)


def test_tight_binding_labels_of_two_water_boxes_are_derivatives(tmp_path: Path) -> None:
    declared = {"molecules": {"H2O": 3}, "density": "0.6 g/cm3", "count": 2}
    structures = build_structures(CONFIG.validate_python(declared), 1)
    config = TBLiteConfig(accuracy=0.01)
    label(structures, config, tmp_path, workers=2)
    frames = read(tmp_path / "frames.extxyz", ":")
    assert len(frames) == 2
    for frame in frames:
        probe = frame.copy()
        probe.calc = config.build(probe)
        # LABELERS: 2e-4 eV/Å for forces, 1e-5 eV/Å³ for the stress
        forces = calculate_numerical_forces(probe, eps=1e-3, iatoms=[0, 4], force_consistent=False)
        np.testing.assert_allclose(frame.arrays["REF_forces"][[0, 4]], forces, atol=2e-4)
        stress = calculate_numerical_stress(probe, eps=1e-4, voigt=False, force_consistent=False)
        np.testing.assert_allclose(frame.info["REF_stress"].reshape(3, 3), stress, atol=1e-5)


@pytest.mark.lammps
def test_embedded_atom_labels_are_those_of_the_reference_set(shared: Path, tmp_path: Path) -> None:
    reference = read(shared / "data/classical/Cu_EAM_test.extxyz", "::12")
    bare = [Atoms(a.numbers, a.positions, cell=a.cell, pbc=True) for a in reference]
    result = label(bare, EAMConfig(potential="Cu_mishin1.eam.alloy"), tmp_path)
    for frame, expected in zip(read(result.frames, ":"), reference, strict=True):
        assert frame.info["REF_energy"] == pytest.approx(expected.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(frame.arrays["REF_forces"], expected.get_forces(), atol=1e-6)
        virial = -frame.info["REF_stress"].reshape(3, 3) * frame.get_volume()
        np.testing.assert_allclose(virial, np.array(expected.info["virial"]).reshape(3, 3), atol=1e-5)


@pytest.mark.lammps
def test_embedded_atoms_in_a_sheared_cell_and_without_one(tmp_path: Path) -> None:
    from ase.calculators.eam import EAM

    config = EAMConfig(potential="Cu_mishin1.eam.alloy")
    cluster = Atoms("Cu4", positions=[[0, 0, 0], [2.4, 0, 0], [0, 2.5, 0.1], [-1.2, 1, 2.2]])
    structures = [*copper(1, supercell=[2, 2, 2]), cluster]
    frames = read(label(structures, config, tmp_path).frames, ":")
    for frame in frames:
        probe = frame.copy()
        probe.calc = EAM(potential=str(config.file()))
        # extended XYZ holds positions to 1e-8 Å
        assert frame.info["REF_energy"] == pytest.approx(probe.get_potential_energy(), abs=1e-6)
        np.testing.assert_allclose(frame.arrays["REF_forces"], probe.get_forces(), atol=1e-6)
        if frame.pbc.all():
            stress = calculate_numerical_stress(probe, eps=1e-5, voigt=False)
            np.testing.assert_allclose(frame.info["REF_stress"].reshape(3, 3), stress, atol=1e-7)
    assert "REF_stress" not in frames[1].info


def test_density_functional_labels_of_a_molecule_are_derivatives(tmp_path: Path) -> None:
    pytest.importorskip("pyscf")
    config = PySCFConfig(xc="lda,vwn", basis="sto-3g")
    frame = read(label([molecule("H2")], config, tmp_path).frames)
    probe = frame.copy()
    probe.calc = config.build(probe)
    assert frame.info["REF_energy"] == pytest.approx(probe.get_potential_energy(), abs=1e-6)
    # the integration grid moves with the atoms and PySCF leaves that out of the gradient: 1e-3 eV/Å
    np.testing.assert_allclose(frame.arrays["REF_forces"], calculate_numerical_forces(probe, eps=1e-3), atol=2e-3)


SAMPLING = {"md": {"temperature": "400 K", "steps": 24, "every": 3, "equilibrate": 4, "timestep": "3 fs"}}


def test_molecular_dynamics_gives_the_frames_asked_for(tmp_path: Path) -> None:
    starts = copper(2, supercell=[2, 2, 2], sampling=SAMPLING)
    result = label(starts, EMTConfig(), tmp_path, workers=2)
    frames = read(result.frames, ":")
    assert [atoms.info["md_step"] for atoms in frames] == [4 + 3 * k for k in range(1, 9)] * 2
    assert [atoms.info["source"] for atoms in frames[::8]] == ["fcc-Cu-2x2x2/md-0", "fcc-Cu-2x2x2/md-1"]
    for frame in frames[3::8]:
        probe = frame.copy()
        probe.calc = EMT()
        assert frame.info["REF_energy"] == pytest.approx(probe.get_potential_energy(), abs=1e-5)
    moved = np.linalg.norm(frames[7].positions - frames[0].positions, axis=1)
    assert 0.02 < moved.mean() < 1.0


def test_the_thermostat_reaches_its_temperature(tmp_path: Path) -> None:
    from data_tools.structures import MDSampling
    from data_tools.worker import trajectory

    atoms = bulk("Cu", cubic=True).repeat(2)
    settings = MDSampling(temperature=600, steps=300, every=5, equilibrate=100, timestep=0.004, damping=0.03)
    states = [state for number, _, state in trajectory(atoms, lambda _: EMT(), settings, 5, ["energy"], None) if number]
    momenta = np.array([state["momenta"] for state in states])
    kinetic = (momenta**2).sum(axis=(1, 2)) / (2 * 63.546)
    temperature = 2 * kinetic.mean() / (3 * 31 * 8.617333e-5)
    assert temperature == pytest.approx(600, rel=0.12)  # about 40 independent samples of 93 degrees of freedom: 3 %


def interrupted(tmp_path: Path, structures: str, wait_for: int, kill: str) -> None:
    """Start labelling in another process, wait for lines in the journal, and kill it."""
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from pydantic import TypeAdapter\n"
        "from data_tools.calculators import TBLiteConfig, EMTConfig\n"
        "from data_tools.label import label\n"
        "from data_tools.structures import StructureConfig, build_structures\n"
        f"config = TypeAdapter(StructureConfig).validate_python({structures})\n"
        "label(build_structures(config, 3), EMTConfig(), sys.argv[1], workers=2)\n"
    )
    journal = tmp_path / "out/journal.jsonl"
    process = subprocess.Popen([sys.executable, str(script), str(tmp_path / "out")], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while (journal.read_bytes().count(b"\n") if journal.exists() else 0) < wait_for:
        assert process.poll() is None, "labelling ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    if kill == "driver":
        process.kill()
        assert process.wait() == -signal.SIGKILL
    else:
        os.kill(children_of(process.pid)[0], signal.SIGKILL)
        assert process.wait(timeout=300) == 0


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            words = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(words[1]) == pid:
            found.append(int(path.parent.name))
    return found


SINGLES = {"prototype": "fcc", "element": "Cu", "supercell": [3, 3, 3], "rattle": 0.1, "count": 14}
DYNAMICS = {
    "prototype": "fcc", "element": "Cu", "supercell": [2, 2, 2], "count": 2,
    "sampling": {"md": {"temperature": 500, "steps": 60, "every": 2, "timestep": "3 fs"}},
}  # fmt: skip


@pytest.mark.parametrize("declared", [SINGLES, DYNAMICS], ids=["singles", "dynamics"])
@pytest.mark.parametrize("kill", ["driver", "worker"])
def test_killed_and_run_again_is_the_unbroken_run(tmp_path: Path, declared: dict[str, Any], kill: str) -> None:
    structures = build_structures(CONFIG.validate_python(declared), 3)
    interrupted(tmp_path, repr(declared), 6, kill)
    if kill == "driver":
        assert not (tmp_path / "out/frames.extxyz").exists()
        with (tmp_path / "out/journal.jsonl").open("ab") as journal:
            journal.write(b'{"key": "torn')  # as if killed while writing
        wait_unlocked(tmp_path / "out/journal.jsonl")
    again = label(structures, EMTConfig(), tmp_path / "out", workers=2)
    assert again.n_reused >= 3
    whole = label(structures, EMTConfig(), tmp_path / "unbroken", workers=1)
    assert again.frames.read_bytes() == whole.frames.read_bytes()


def wait_unlocked(path: Path) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            Journal(path).close()
            return
        except DataError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_charges_and_moments_of_a_file_are_those_of_its_labels(tmp_path: Path) -> None:
    pytest.importorskip("tblite")
    ion = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], charges=[-1, 0])
    excited = Atoms("O2", [[0, 0, 0], [0, 0, 1.21]], magmoms=[1, 1])
    plain = [Atoms(atoms.numbers, atoms.positions) for atoms in (ion, excited)]
    write(tmp_path / "in.extxyz", [ion, excited, *plain], format="extxyz")
    structures = build_structures(CONFIG.validate_python({"path": str(tmp_path / "in.extxyz")}), 0)
    found = read(label(structures, TBLiteConfig(), tmp_path / "out", properties=("energy",)).frames, ":")
    energies = [atoms.info["REF_energy"] for atoms in found]
    assert energies[0] < energies[2] - 1  # eV; the anion is bound, the radical is another molecule
    assert abs(energies[1] - energies[3]) > 0.05  # triplet and singlet
    assert found[0].get_initial_charges().tolist() == [-1, 0]
    given = label(plain[:1], TBLiteConfig(charge=-1), tmp_path / "given", properties=("energy",))
    assert energies[0] == pytest.approx(read(given.frames).info["REF_energy"], abs=1e-9)


@pytest.mark.lammps
def test_labels_of_a_potential_are_not_those_of_another_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pair = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]])
    shipped = lammps_potentials()
    assert shipped is not None
    found = []
    for source in ("Cu_mishin1.eam.alloy", "Cu_zhou.eam.alloy", "Cu_mishin1.eam.alloy"):
        shutil.copy(shipped / source, "mine.eam.alloy")
        result = label([pair], EAMConfig(potential="mine.eam.alloy"), "out", properties=("energy",))
        found.append((read(result.frames).info["REF_energy"], result.n_reused))
    assert abs(found[0][0] - found[1][0]) > 1e-3
    assert found[2] == (found[0][0], 1)


DRIVER = """
import io, os, queue, sys
from ase.build import bulk
from data_tools import pool
from data_tools.worker import atoms_to_dict
log = open(sys.argv[1], "ab")
worker = pool._Worker([sys.executable, "-m", "data_tools.worker", str(os.getpid())], log, queue.Queue())
md = {"md": {"temperature": 300, "steps": 10**7, "every": 10**7}, "seed": 1}
atoms = atoms_to_dict(bulk("Cu", cubic=True))
worker.give({"task": 0, "atoms": atoms, "calculator": {"name": "emt"}, "properties": ["energy"], "md": md})
print(worker.process.pid, flush=True)
os._exit(0)
"""


def test_a_worker_in_the_midst_of_a_calculation_ends_with_its_driver(tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "log")]
    pid = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_more_structures_later_reuse_what_is_there(tmp_path: Path) -> None:
    label(copper(3), EMTConfig(), tmp_path)
    result = label(copper(5), EMTConfig(), tmp_path)
    assert (result.n_frames, result.n_reused) == (5, 3)
    other = label(copper(3), LJConfig(sigma=2.3, epsilon=0.4), tmp_path)
    assert other.n_reused == 0


def test_equal_structures_are_computed_once(tmp_path: Path) -> None:
    atoms = copper(1)[0]
    result = label([atoms, atoms.copy()], EMTConfig(), tmp_path)
    assert result.n_frames == 2
    assert sum(b'"frame"' in line for line in (tmp_path / "journal.jsonl").read_bytes().splitlines()) == 1


def colliding() -> Atoms:
    return Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 0]], cell=[9, 9, 9], pbc=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_failures_are_counted_against_the_tolerance(tmp_path: Path) -> None:
    structures = [*copper(3), colliding()]
    sentence = (
        r"label: 1 of 4 frames failed \(25%\), at most 10% are tolerated \(see .*failed.json\): "
        r"structure 3 \(Cu2\): ValueError: (energy|forces) is not finite"
    )
    with pytest.raises(DataError, match=sentence):
        label(structures, EMTConfig(), tmp_path, tolerate_failures=0.1)
    assert not (tmp_path / "frames.extxyz").exists()
    result = label(structures, EMTConfig(), tmp_path, tolerate_failures=0.25)
    assert (result.n_frames, result.n_failed, result.n_reused) == (3, 1, 3)
    failed = json.loads(result.failed.read_text())["failed"]
    assert [(one["index"], one["formula"], one["frames"]) for one in failed] == [(3, "Cu2", 1)]
    with pytest.raises(DataError, match=r"1 of 1 frames failed \(100%\), at most 100% are tolerated"):
        label([colliding()], EMTConfig(), tmp_path / "all", tolerate_failures=1.0)


def test_no_convergence_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 of 1 frames failed.*structure 0 \(H2O\)"):
        label([molecule("H2O")], TBLiteConfig(max_iterations=1), tmp_path)


def test_a_worker_that_always_dies_fails_only_its_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [{"task": i, "die": i == 1} for i in range(3)]
    program = tmp_path / "worker.py"
    program.write_text(
        "import json, os, signal, sys\n"
        "for line in sys.stdin:\n"
        "    task = json.loads(line)\n"
        "    if task['die']: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    print(json.dumps({'task': task['task'], 'done': True}), flush=True)\n"
    )
    start = pool._Worker.__init__
    monkeypatch.setattr(
        pool._Worker,
        "__init__",
        lambda self, command, log, answers: start(self, [sys.executable, str(program)], log, answers),
    )
    answers = sorted(pool.run_tasks(tasks, 2, tmp_path / "log"), key=lambda answer: answer["task"])
    assert answers[::2] == [{"task": 0, "done": True}, {"task": 2, "done": True}]
    assert answers[1]["error"].startswith("the worker was killed by SIGKILL (out of memory?), see ")


def test_a_journal_serves_one_process(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "journal.jsonl"),
        pytest.raises(DataError, match=r"journal\.jsonl is in use by another process"),
    ):
        label(copper(1), EMTConfig(), tmp_path)


def test_structures_survive_the_way_to_the_worker() -> None:
    atoms = copper(1)[0]
    atoms.set_initial_magnetic_moments([1.0, 0, 0, 2.0])
    again = atoms_from_dict(json.loads(json.dumps(atoms_to_dict(atoms))))
    np.testing.assert_array_equal(again.positions, atoms.positions)
    np.testing.assert_array_equal(again.get_initial_magnetic_moments(), [1, 0, 0, 2])
    assert (again.cell == atoms.cell).all()


def slab() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.pbc = (True, True, False)
    return atoms


@pytest.mark.parametrize(
    ("config", "atoms", "sentence"),
    [
        (EMTConfig(), Atoms("Si"), "Si: emt has no parameters for Si, expected Ag, Al"),
        (EAMConfig(potential="Cu_mishin1.eam.alloy"), Atoms("CuZr"), "has no parameters for Zr, expected Cu"),
        (EAMConfig(potential="Cu_mishin1.eam.alloy"), slab(), "periodic in some directions only"),
        (EAMConfig(potential="Cu_x.eam.alloy"), Atoms("Cu"), r"potential Cu_x.eam.alloy is no file .* LAMMPS brings"),
        (EAMConfig(potential="Cu.eam"), Atoms("Cu"), "Cu.eam"),
        (TBLiteConfig(), Atoms("U"), "tblite knows elements up to Rn"),
        (TBLiteConfig(), slab(), "periodic in some directions only"),
        (PySCFConfig(), bulk("Cu"), "calculator pyscf treats molecules, but the structure is periodic"),
    ],
)  # fmt: skip
def test_structures_that_a_calculator_does_not_take(tmp_path: Path, config: Any, atoms: Atoms, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        label([atoms], config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_calculators_are_chosen_by_name() -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(CalculatorConfig)
    assert isinstance(adapter.validate_python({"name": "tblite", "method": "GFN2-xTB"}), TBLiteConfig)
    for wrong in (
        {"name": "gaussian"},
        {"method": "GFN1-xTB"},
        {"name": "tblite", "method": "PM6"},
        {"name": "emt", "x": 1},
    ):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
    for name in ("emt", "lj"):
        assert isinstance(adapter.validate_python({"name": name}).build(Atoms("Cu")), Calculator)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"properties": ["dipole"]}, r"label: properties are \['dipole'\], expected some of energy, forces, stress"),
        ({"tolerate_failures": 5}, "label: tolerate_failures is 5, expected a share between 0 and 1"),
        ({"workers": 0}, "label: workers is 0, expected at least one process"),
    ],
)
def test_options_that_are_refused(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        label(copper(1), EMTConfig(), tmp_path, **options)
    with pytest.raises(DataError, match="label: there are no structures"):
        label([], EMTConfig(), tmp_path)
    with pytest.raises(DataError, match=r"label: structure 0 \(.*\) has no atoms"):
        label([Atoms()], EMTConfig(), tmp_path)


def test_only_what_is_asked_for_is_written(tmp_path: Path) -> None:
    frame = read(label(copper(1), EMTConfig(), tmp_path, properties=["energy"]).frames)
    assert "REF_energy" in frame.info
    assert "REF_stress" not in frame.info
    assert "REF_forces" not in frame.arrays
