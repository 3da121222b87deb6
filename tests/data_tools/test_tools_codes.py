"""Codes that are run as programs: right numbers, failures that say why, and what the machine lacks said beforehand."""

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
from ase.io import read
from pydantic import ValidationError

from data_tools.calculators import Property
from data_tools.code_calculators import CodeConfig
from data_tools.label import LabelResult, label
from dpsim.errors import DataError, DpsimError, SetupError, StageError
from dpsim.workflow.planning.load import load

PROGRAM = '''
"""Springs between all atoms, in the files of DFTB+."""
import itertools, os, pathlib, sys, time
mode, notes = sys.argv[1], pathlib.Path(sys.argv[2])
(notes / f"{os.getpid()}.pid").write_text(os.getcwd())
assert "dftb_in.hsd" in os.listdir(), "not started in a folder with its input"
print("DFTB+ springs")
lines = pathlib.Path("geo_end.gen").read_text().split("\\n")
n = int(lines[0].split()[0])
if mode == "slow" and len(list(notes.glob("*.pid"))) > 1:
    time.sleep(600)
if mode == "exit":
    print("ERROR!\\n-> Missing Slater-Koster file")
    sys.exit(3)
places = [[float(x) / 0.529177210903 for x in line.split()[2:5]] for line in lines[2:2 + n]]
energy, forces = 0.0, [[0.0] * 3 for _ in range(n)]
for i, j in itertools.combinations(range(n), 2):
    d = [a - b for a, b in zip(places[i], places[j])]
    r = sum(x * x for x in d) ** 0.5
    energy += 0.05 * (r - 2) ** 2
    for k in range(3):
        forces[i][k] -= 0.1 * (r - 2) * d[k] / r
        forces[j][k] += 0.1 * (r - 2) * d[k] / r
if mode == "unconverged":
    print("SCC is NOT converged, maximal SCC iterations exceeded")
pathlib.Path("detailed.out").write_text(f"Total energy: {energy:.15f} H\\n")
with open("results.tag", "w") as tag:
    if mode != "empty":
        print(f"forces              :real:2:3,{n}", file=tag)
        for row in forces:
            print(*(f"{x:.15E}" for x in row), file=tag)
'''
HARTREE, BOHR = 27.211386024367243, 0.5291772105638411


def springs(tmp_path: Path, mode: str = "ok", **options: Any) -> CodeConfig:
    """Return a code whose program is a few lines of Python."""
    program = tmp_path / "dftb+.py"
    program.write_text(PROGRAM)
    (tmp_path / "notes").mkdir(exist_ok=True)
    command = [sys.executable, str(program), mode, str(tmp_path / "notes")]
    return CodeConfig(name="dftb", settings={"Hamiltonian_": "xTB"}, command=command, **options)


def molecules(count: int = 3) -> list[Atoms]:
    found = []
    for seed in range(count):
        atoms = molecule("H2O")
        atoms.rattle(0.1, seed=seed)
        atoms.info["source"] = f"water-{seed}"
        found.append(atoms)
    return found


def run(
    tmp_path: Path, mode: str = "ok", properties: tuple[Property, ...] = ("energy", "forces"), **options: Any
) -> LabelResult:
    keys = {name: options.pop(name) for name in ("tolerate_failures", "workers") if name in options}
    return label(molecules(), springs(tmp_path, mode, **options), tmp_path / "out", properties=properties, **keys)


def test_labels_are_those_of_the_program_once_for_each_frame(tmp_path: Path) -> None:
    result = run(tmp_path, workers=2)
    assert (result.n_frames, result.n_failed) == (3, 0)
    for atoms, frame in zip(molecules(), read(result.frames, ":"), strict=True):
        distances = atoms.get_all_distances()[np.triu_indices(3, 1)] / BOHR
        assert frame.info["REF_energy"] == pytest.approx(0.05 * ((distances - 2) ** 2).sum() * HARTREE, abs=1e-6)
        vector = atoms.positions[0] - atoms.positions
        length = np.linalg.norm(vector[1:], axis=1)[:, None]
        force = -(0.1 * (length / BOHR - 2) * vector[1:] / length).sum(axis=0) * HARTREE / BOHR
        np.testing.assert_allclose(frame.arrays["REF_forces"][0], force, atol=1e-6)
    assert len(list((tmp_path / "notes").iterdir())) == 3  # energy and forces in one run
    assert not (tmp_path / "out/frames").exists()  # files of frames that went well
    written = json.loads((tmp_path / "out/calculator.json").read_text())
    assert written["name"] == "dftb"
    assert written["command"][-2] == "ok"


def test_files_of_frames_are_kept_if_asked_for(tmp_path: Path) -> None:
    run(tmp_path, keep="all")
    assert len(list((tmp_path / "out/frames").glob("*/run-1/dftb_in.hsd"))) == 3


def test_dynamics_runs_in_the_same_way(tmp_path: Path) -> None:
    atoms = molecules(1)[0]
    sampling = {"temperature": 300, "steps": 4, "every": 2, "timestep": 0.0005}
    atoms.info["sampling"] = {"md": sampling, "seed": 1}
    result = label([atoms], springs(tmp_path), tmp_path / "out", properties=["energy"])
    assert result.n_frames == 2


def test_a_failure_is_told_with_the_last_lines_of_the_output(tmp_path: Path) -> None:
    sentence = r"StageError: dftb in .*run-1: ended with exit status 3; dftb.out ends: .*ERROR! / -> Missing Slater"
    with pytest.raises(DataError, match=rf"3 of 3 frames failed.*structure 0 \(water-0\): {sentence}"):
        run(tmp_path, "exit")
    assert len(list((tmp_path / "out/frames").glob("*/run-1/dftb_in.hsd"))) == 3  # for looking into
    assert run(tmp_path).n_frames == 3  # the command is not part of what decides the labels
    assert not (tmp_path / "out/frames").exists()


def test_no_self_consistency_is_a_failure_whatever_is_written(tmp_path: Path) -> None:
    atoms = molecule("H2O")
    atoms.calc = springs(tmp_path, "unconverged").build(atoms)
    with pytest.raises(StageError, match=r"was not reached; dftb.out ends: .*SCC is NOT converged") as caught:
        atoms.get_potential_energy()
    kept = Path(str(caught.value).split()[2].rstrip(":"))  # in a temporary folder, but kept
    assert (kept / "dftb.out").is_file()
    shutil.rmtree(kept.parent)


def test_results_that_are_missing_are_a_failure(tmp_path: Path) -> None:
    for atoms, mode, name in ((molecule("H2O"), "empty", "forces"), (bulk("Si", cubic=True), "ok", "stress")):
        atoms.calc = springs(tmp_path, mode).build(atoms, tmp_path / "run")
        sentence = rf"dftb in .*run-1: gave no {name}: see what its settings compute, or take it out of properties"
        with pytest.raises(StageError, match=sentence):
            atoms.get_potential_energy()


def test_frames_that_are_done_are_not_done_again(tmp_path: Path) -> None:
    run(tmp_path)
    assert run(tmp_path, "exit").n_reused == 3
    other = springs(tmp_path).model_copy(update={"settings": {"Hamiltonian_": "xTB", "Hamiltonian_Method": "GFN1-xTB"}})
    assert label(molecules(), other, tmp_path / "out", properties=["energy", "forces"]).n_reused == 0


DRIVER = """
import sys
sys.path.insert(0, {folder!r})
from test_tools_codes import *
run(Path({tmp!r}), "slow")
"""


@pytest.mark.parametrize("kill", ["driver", "worker"])
def test_killed_in_the_midst_the_program_ends_too(tmp_path: Path, kill: str) -> None:
    springs(tmp_path)
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(folder=str(Path(__file__).parent), tmp=str(tmp_path)))
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    waiting = wait_for(lambda: sorted(started(tmp_path), key=os.path.getmtime)[1:])
    program = int(waiting[0].stem)
    wait_for(lambda: (tmp_path / "out/journal.jsonl").read_bytes().count(b"\n") >= 1)
    if kill == "driver":
        process.kill()
        process.wait()
    else:
        os.kill(parent_of(program), signal.SIGKILL)
    wait_for(lambda: not alive(program))
    if kill == "worker":  # a new worker has taken the frame
        wait_for(lambda: len(started(tmp_path)) == 3)
        process.kill()
        process.wait()
    wait_for(lambda: not any(alive(int(path.stem)) for path in started(tmp_path)))
    again = run(tmp_path)
    assert (again.n_frames, again.n_reused) == (3, 1)


def wait_for(condition: Any) -> Any:
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def started(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "notes").glob("*.pid"))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


# --- what is said before anything runs ---------------------------------------------------------------------------


@pytest.fixture
def config_ini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.ini"
    monkeypatch.setenv("ASE_CONFIG_PATH", str(path))
    for name in ("VASP_PP_PATH", "VASP_COMMAND", "ASE_VASP_COMMAND"):
        monkeypatch.delenv(name, raising=False)
    return path


def silicon() -> Atoms:
    atoms = bulk("Si", a=5.43)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.parametrize(
    ("ini", "options", "sentence"),
    [
        ("", {}, r"calculator espresso is not configured: write a section \[espresso\] with command = pw.x and "
         r"pseudo_dir = FOLDER into .*config.ini, or give `command`"),
        ("[espresso]\ncommand = nothing.x\n", {}, r"program nothing.x is not found: install it, or correct \[espr"),
        ("", {"command": ["nothing.x"]}, r"program nothing.x is not found: install it, or correct `command`"),
        ("[espresso]\ncommand = env pw.nothing\n", {}, "program pw.nothing is not found"),
        ("[espresso]\ncommand = true > out\n", {}, "its command is 'true > out', but no shell reads it"),
        ("[espresso]\ncommand = 'true\n", {}, r"\[espresso\] in .*: command .* cannot be read \(No closing"),
        ("command = true\n", {}, r"config.ini cannot be read: File contains no section headers"),
        ("[espresso]\ncommand = true\n", {}, "the folder of the pseudopotentials is not known: write pseudo_dir"),
        ("", {"name": "vasp", "command": ["true"], "settings": {}}, "VASP_PP_PATH is None, expected a folder"),
        ("[environment]\nVASP_COMMAND = nothing_std\n", {"name": "vasp", "settings": {}}, "program nothing_std"),
        ("", {"name": "cp2k", "settings": {}}, r"a section \[cp2k\] with cp2k_shell = cp2k.psmp -s into"),
    ],
)  # fmt: skip
def test_what_the_machine_lacks(
    config_ini: Path, tmp_path: Path, ini: str, options: dict[str, Any], sentence: str
) -> None:
    config_ini.write_text(ini)
    given = {"name": "espresso", "settings": {"pseudopotentials": {"Si": "Si.upf"}}, **options}
    with pytest.raises(SetupError, match=sentence):
        label([silicon()], CodeConfig.model_validate(given), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "atoms", "sentence"),
    [
        ({}, silicon(), "Si2: no pseudopotential for Si: name its file in settings.pseudopotentials"),
        ({}, molecule("H2"), "H2: espresso needs a cell, but the structure has none: put the molecule in a box"),
        ({"name": "orca"}, silicon(), "Si2: orca treats molecules, but the structure is periodic"),
        (
            {"settings": {"pseudopotentials": {"Si": "Si.upf"}, "input_data": {"control": {"pseudo_dir": "none"}}}},
            silicon(),
            r"settings.pseudopotentials.Si: none/Si.upf cannot be read \(No such file or directory\)",
        ),
        ({"name": "cp2k", "input": "none.inp"}, silicon(), "input: none.inp cannot be read"),
    ],
)
def test_what_the_code_does_not_take(tmp_path: Path, options: dict[str, Any], atoms: Atoms, sentence: str) -> None:
    config = CodeConfig.model_validate({"name": "espresso", "command": ["true"], **options})
    with pytest.raises(DataError, match=sentence):
        label([atoms], config, tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "gaussian"}, "Input should be 'espresso'"),
        ({"settings": {"command": "pw.x"}}, "command is not a setting of the method: use `command`"),
        ({"settings": {"input_data": {"calculation": "relax"}}}, "calculation is 'relax', expected 'scf'"),
        ({"settings": {"input_data": {"control": {"outdir": "x"}}}}, "outdir is set for each frame"),
        ({"settings": {"input_data": "x"}}, "input_data is 'x', expected namelists"),
        ({"settings": {"ecutwfc": 40}}, "ecutwfc is not a setting of espresso, expected some of input_data"),
        ({"name": "orca", "settings": {"xc": "PBE"}}, "xc is not a setting of orca"),
        ({"name": "vasp", "settings": {"nsw": 10}}, "nsw would move the atoms"),
        ({"name": "orca", "input": "orca.inp"}, "orca takes no input file, only cp2k and espresso do"),
        ({"command": []}, "at least 1 item"),
        ({"cores": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        CodeConfig.model_validate({"name": "espresso", **options})


WORKFLOW = """
dpsim: 1
type_map: [Si]
stages:
  label:
    uses: label
    structures: {{prototype: diamond, element: Si}}
    calculator:
      name: espresso
      settings:
        pseudopotentials: {{Si: Si.upf}}
        input_data: {{control: {{pseudo_dir: pseudo}}, system: {{ecutwfc: {cutoff}}}}}
      {more}
"""


def planned(tmp_path: Path, more: str = "command: ['true']", cutoff: int = 25) -> Any:
    path = tmp_path / "w.yaml"
    path.write_text(WORKFLOW.format(more=more, cutoff=cutoff))
    return load(path)


def test_the_key_knows_settings_and_files_but_not_the_command(tmp_path: Path) -> None:
    (tmp_path / "pseudo").mkdir()
    (tmp_path / "pseudo/Si.upf").write_text("one")
    (tmp_path / "pw.in").write_text("&system\n ecutwfc = 30\n/\n")

    def options(*given: Any) -> Any:
        return planned(tmp_path, *given).workflow.tasks["label"].config.key_options()

    first = options()
    assert options("command: [env, 'true']\n      cores: 4") == first
    assert options("command: ['true']", 30) != first
    assert options("command: ['true']\n      input: pw.in") != first
    sources = planned(tmp_path, "command: ['true']\n      input: pw.in").workflow.tasks["label"].config.sources()
    assert [source.value.path for source in sources] == ["pw.in", "pseudo/Si.upf"]
    digests = CodeConfig(name="espresso", input=str(tmp_path / "pw.in")).digests()
    (tmp_path / "pw.in").write_text("&system\n ecutwfc = 40\n/\n")
    assert CodeConfig(name="espresso", input=str(tmp_path / "pw.in")).digests() != digests


def test_a_plan_says_what_is_missing(config_ini: Path, tmp_path: Path) -> None:
    (tmp_path / "pseudo").mkdir()
    with pytest.raises(DpsimError, match=r"E401|no file matches") as caught:
        planned(tmp_path)
    (tmp_path / "pseudo/Si.upf").write_text("one")
    with pytest.raises(DpsimError) as caught:
        planned(tmp_path, "profile: ase-config")
    assert "E403" in str(caught.value)
    assert "calculator espresso is not configured" in str(caught.value)
    config_ini.write_text("[espresso]\ncommand = true\n")
    planned(tmp_path, "profile: ase-config")


# --- the real ones, where they are ---------------------------------------------------------------------------------

PSEUDO = Path("/usr/share/espresso/pseudo")


def espresso(**more: Any) -> CodeConfig:
    if shutil.which("pw.x") is None or not (PSEUDO / "Si.pz-vbc.UPF").is_file():
        pytest.skip("pw.x of Quantum ESPRESSO with its pseudopotentials is not installed")
    data = {"control": {"pseudo_dir": str(PSEUDO)}, "system": {"ecutwfc": 16}, "electrons": {"conv_thr": 1e-11, **more}}
    settings = {"pseudopotentials": {"Si": "Si.pz-vbc.UPF"}, "kpts": [2, 2, 2], "input_data": data}
    return CodeConfig(name="espresso", settings=settings, command=["pw.x"])


def test_quantum_espresso_gives_forces_that_are_derivatives(tmp_path: Path) -> None:
    config = espresso()
    frame = read(label([silicon()], config, tmp_path).frames)
    assert frame.info["REF_stress"].shape == (9,)
    ends = []
    for step in (-0.01, 0.01):
        moved = silicon()
        moved.positions[0, 0] += step
        moved.calc = config.build(moved)
        ends.append(moved.get_potential_energy())
    assert frame.arrays["REF_forces"][0, 0] == pytest.approx((ends[0] - ends[1]) / 0.02, abs=2e-3)


def test_a_template_of_quantum_espresso_has_namelists_only(tmp_path: Path) -> None:
    for text, sentence in (
        ("&system\n ecutwfc = 30\n/\nK_POINTS gamma\n", "has 'K_POINTS gamma', expected namelists only"),
        ("&control\n pseudo_dir = 'x'\n/\n", "has pseudo_dir: write it into settings.input_data.control"),
    ):
        template = tmp_path / "pw.in"
        template.write_text(text)
        (tmp_path / "Si.upf").touch()
        settings = {"pseudopotentials": {"Si": "Si.upf"}, "input_data": {"pseudo_dir": str(tmp_path)}}
        config = CodeConfig(name="espresso", input=str(template), settings=settings, command=["true"])
        with pytest.raises(DataError, match=sentence):
            config.check(silicon(), ("energy",))
    template.write_text("&system\n ecutwfc = 30\n nbnd = 6\n/\n")
    settings["input_data"]["ecutwfc"] = 20
    silicon_calculator = config.model_copy(update={"settings": settings}).build(silicon(), tmp_path / "run")
    with pytest.raises(StageError, match=r"gave no|espresso in"):
        silicon_calculator.calculate(silicon())
    written = (tmp_path / "run/run-1/espresso.pwi").read_text().lower()
    values = dict(line.replace(" ", "").split("=") for line in written.splitlines() if "=" in line)
    assert (values["ecutwfc"], values["nbnd"], values["tprnfor"]) == ("20", "6", ".true.")


def test_quantum_espresso_that_does_not_converge_is_a_failure(tmp_path: Path) -> None:
    atoms = silicon()
    atoms.calc = espresso(electron_maxstep=2).build(atoms, tmp_path)
    with pytest.raises(StageError, match=r"espresso in .*run-1: self-consistency was not reached; espresso.pwo ends"):
        atoms.get_potential_energy()


def test_cp2k_with_a_template(tmp_path: Path) -> None:
    if shutil.which("cp2k.psmp") is None:
        pytest.skip("cp2k.psmp is not installed")
    template = tmp_path / "cp2k.inp"
    scf = "&SCF\nEPS_SCF 1e-6\n&OT\n&END OT\n&END SCF\n"
    template.write_text(f"&FORCE_EVAL\n&DFT\n{scf}&END DFT\n&END FORCE_EVAL\n")
    settings = {"xc": "PBE", "basis_set": "SZV-MOLOPT-SR-GTH", "potential_file": "POTENTIAL", "cutoff": 2500}
    config = CodeConfig(name="cp2k", settings=settings, input=str(template), command=["cp2k.psmp", "-s"])
    atoms = molecule("H2", vacuum=2, pbc=True)
    frame = read(label([atoms], config, tmp_path / "out").frames)
    assert frame.info["REF_energy"] == pytest.approx(-31, abs=1.5)
    assert abs(frame.arrays["REF_forces"].sum(axis=0)).max() < 1e-2
    unconverged = config.model_copy(update={"settings": {**settings, "max_scf": 1}})
    with pytest.raises(DataError, match="self-consistency was not reached"):
        label([atoms], unconverged, tmp_path / "short")
