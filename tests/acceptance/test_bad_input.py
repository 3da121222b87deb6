"""Bad input as a user meets it: one clear sentence with place and remedy, an exit code, nothing half-written."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from acceptance_commands import BIN, TRAIN, call, environment, write_structures

WORKFLOW = """\
dpsim: 1
name: water
type_map: [O, H]
stages:
  data: {uses: convert, from: {path: good.extxyz}, split: {train: 0.7, valid: 0.3}}
  model:
    uses: train
    data: data
    model: {preset: dpa3-tiny, cutoff: 4 angstrom}
    steps: 20
  frozen: {uses: freeze, from: model.best}
"""

# what is wrong: (text, its replacement, code, line:column, first line of the message, suggestion)
UNITS = "is not a unit of length: use one of angstrom, "
TRAIN_KEY = "is not a key of a train stage"
DECLARATIONS = {
    "key": ("uses: train", "uses: train\n    log_evry: 5", "E203", "8:5", f"'log_evry' {TRAIN_KEY}", "log_every"),
    "required key": ("steps:", "stepz:", "E203", "10:5", f"'stepz' {TRAIN_KEY}", "steps"),
    "top key": ("name:", "nmae:", "E203", "2:1", "'nmae' is not a key of a workflow", "name"),
    "unit": ("4 angstrom", "4 parsec", "E207", "9:40", f"unit 'parsec' in '4 parsec' {UNITS}", ""),
    "dimension": ("4 angstrom", "4 eV", "E207", "9:40", f"unit 'eV' in '4 eV' {UNITS}", ""),
    "missing file": ("good.extxyz", "god.extxyz", "E401", "5:31", "no file matches 'god.extxyz' in .", ""),
    "stage": ("data: data", "data: dta", "E301", "8:11", "there is no stage 'dta'", "data"),
    "output": ("model.best", "model.bst", "E304", "11:32", "'model.bst' is not an output of stage ", "model.best"),
    "stage type": ("uses: freeze", "uses: freze", "E208", "11:18", "", "freeze"),
    "element": ("[O, H]", "[O, Hh]", "E212", "3:15", "", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", DECLARATIONS)
def test_a_wrong_declaration(name: str, folder: Path) -> None:
    text, wrong, code, place, message, suggestion = DECLARATIONS[name]
    assert WORKFLOW.count(text) == 1
    (folder / "w.yaml").write_text(WORKFLOW.replace(text, wrong))
    found = call(folder, "dpsim", "run", "w.yaml")
    assert (found.code, found.out, found.added) == (3, "", frozenset())
    blocks = found.err.strip().split("\n\n")
    assert len(blocks) == 1, found.err
    first, second, *rest = blocks[0].splitlines()
    assert first.startswith(f"error[{code}] w.yaml:{place}  ")
    assert second.startswith(f"  {message}")
    assert suggestion == "" or any(line.endswith(f"did you mean {suggestion!r}?") for line in rest)
    assert rest[-1].endswith(f"help: dpsim explain {code}")


def test_the_unspoilt_declaration_is_right(folder: Path) -> None:
    (folder / "w.yaml").write_text(WORKFLOW)
    assert call(folder, "dpsim", "validate", "w.yaml").code == 0


def test_all_that_is_wrong_is_said_at_once(folder: Path) -> None:
    text = WORKFLOW
    for name in ("key", "top key", "dimension", "missing file", "stage", "output"):
        text = text.replace(*DECLARATIONS[name][:2])
    (folder / "w.yaml").write_text(text)
    expected = [
        ("E203", "2:1"), ("E401", "5:31"), ("E203", "8:5"), ("E301", "9:11"), ("E207", "10:40"), ("E304", "12:32"),
    ]  # fmt: skip
    for verb in ("validate", "plan", "run"):
        found = call(folder, "dpsim", verb, "w.yaml")
        assert (found.code, found.out, found.added) == (3, "", frozenset())
        assert re.findall(r"^error\[(E\d+)\] w\.yaml:(\d+:\d+)  ", found.err, re.MULTILINE) == expected


def test_a_workflow_that_is_not_there(folder: Path) -> None:
    found = call(folder, "dpsim", "run", "nowhere.yaml")
    assert (found.code, found.added) == (3, frozenset())
    assert re.match(r"error\[E106\] nowhere\.yaml:1:1\n  cannot be read: no such file .*; check the path\n", found.err)


def test_a_wrong_training_input(folder: Path) -> None:
    (folder / "train.yaml").write_text(TRAIN.replace("steps", "stpes").replace("nlayers: 1", "nlayers: x"))
    found = call(folder, "dpsim", "train", "train.yaml", "-o", "new")
    assert (found.code, found.added) == (3, frozenset())
    assert re.findall(r"^error\[(E\d+)\] train\.yaml:(\d+):", found.err, re.MULTILINE) == [("E205", "5"), ("E203", "7")]
    (folder / "train.yaml").write_text(TRAIN.replace("data: data", "data: nowhere"))
    found = call(folder, "dpsim", "train", "train.yaml", "-o", "new")
    assert found.code == 3
    assert found.sentence == "dpsim: ConfigError: data: no file matches 'nowhere' in .; check the path"


# --- data ----------------------------------------------------------------------------------------------------


def xenon(frames: list) -> None:
    frames[1].symbols[2] = "Xe"


def nan_force(frames: list) -> None:
    frames[1].calc.results["forces"][2, 0] = np.nan


def nan_position(frames: list) -> None:
    frames[1].positions[2, 0] = np.nan


def small_box(frames: list) -> None:
    frames[1].cell[:] = np.eye(3) * 0.5


def flat_box(frames: list) -> None:
    frames[1].cell[2] = frames[1].cell[1]


BAD_FRAMES = {
    xenon: r"bad\.extxyz#1: has element Xe, which is not in the type_map \(O H\): add it there or leave this file out",
    nan_force: r"bad\.extxyz#1: forces of atom 2 is nan, expected a finite number: remove or repair the frame",
    nan_position: r"bad\.extxyz#1: coordinates of atom 2 is nan, expected a finite number: remove or repair the frame",
    small_box: r"bad\.extxyz#1: the box has a volume of 0\.125 Å³ for 3 atoms, expected more than 0\.1 Å³ an atom: .*",
    flat_box: r"bad\.extxyz#1: the box has a volume of 0 Å³ for 3 atoms, expected more than 0\.1 Å³ an atom: .*",
}  # fmt: skip


@pytest.mark.parametrize("spoil", BAD_FRAMES)
def test_bad_frames_are_not_converted(spoil, folder: Path) -> None:
    write_structures(folder / "bad.extxyz", spoil)
    found = call(folder, "dpsim", "data", "convert", "good.extxyz", "bad.extxyz", "-o", "new", "--type-map", "O H")
    assert found.code == 4
    assert re.fullmatch(f"dpsim: DataError: {BAD_FRAMES[spoil]}", found.sentence)


def test_all_bad_files_are_named_at_once(folder: Path) -> None:
    write_structures(folder / "bad1.extxyz", xenon)
    write_structures(folder / "bad2.extxyz", nan_force)
    found = call(
        folder, "dpsim", "data", "convert", "nowhere.xyz", "bad*.extxyz", "-o", "new", "--type-map", "O H"
    )  # fmt: skip
    assert (found.code, found.out, found.added) == (4, "", frozenset())
    first, *problems = found.err.splitlines()
    assert first == "dpsim: DataError: 3 problems:"
    for problem, pattern in zip(
        problems, ("nowhere.xyz.*", "bad1.*Xe", r"bad2.extxyz#1: forces of atom 2"), strict=True
    ):
        assert re.match(rf"  {pattern}", problem)


def test_a_stage_with_bad_data(folder: Path) -> None:
    write_structures(folder / "bad.extxyz", xenon)
    (folder / "w.yaml").write_text(WORKFLOW.replace("good.extxyz", "bad.extxyz"))
    found = call(folder, "dpsim", "run", "w.yaml", "--quiet")
    assert (found.code, found.out.split(" in ")[0]) == (4, "water: 1 failed, 2 blocked")
    lines = found.err.strip().splitlines()
    assert re.fullmatch(rf"stage 'data' failed: .*{BAD_FRAMES[xenon]}", lines[0])
    assert lines[-1] == "  run it alone:    dpsim run w.yaml --only data"
    done = {Path(name).name for name in found.added}
    assert not {"outputs.json", "dataset.json", "coord.npy"} & done


def spoil_array(folder: Path, name: str, index: tuple[int, int], value: float) -> None:
    path = next((folder / "data").rglob(f"{name}.npy"))
    array = np.load(path)
    array[index] = value
    np.save(path, array)


BAD_ARRAYS = {
    "force": (np.nan, r"forces of atom 1 is nan, expected a finite number"),
    "coord": (np.inf, r"coordinates of atom 1 is inf, expected a finite number"),
    "box": (-5.0, r"the box has a volume of 0 Å³ for 3 atoms, expected more than 0\.1 Å³ an atom"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_data_sets_are_neither_trained_on_nor_tested_with(name: str, folder: Path, model: Path) -> None:
    value, sentence = BAD_ARRAYS[name]
    spoil_array(folder, name, (1, 4), value)
    if name == "box":  # the second vector onto the first
        spoil_array(folder, name, (1, 3), 5.0)
        spoil_array(folder, name, (1, 4), 0.0)
    pattern = rf"dpsim: DataError: data/3/set\.000#1: {sentence}: .*"
    for command in (("train", "train.yaml", "-o", "new"), ("test", model, "data")):
        found = call(folder, "dpsim", *command)
        assert found.code == 4
        assert re.fullmatch(pattern, found.sentence)


def test_a_model_does_not_know_an_element(folder: Path, model: Path) -> None:
    write_structures(folder / "bad.extxyz", xenon)
    found = call(folder, "dpsim", "eval", model, "bad.extxyz", "-o", "new.extxyz")
    assert found.code == 4
    assert found.sentence == "dpsim: ModelError: bad.extxyz#1: element 'Xe' is not in the model's type map ['O', 'H']"
    (folder / "train.yaml").write_text(TRAIN.replace("[O, H]", "[O, C]"))
    found = call(folder, "dpsim", "train", "train.yaml", "-o", "new")
    assert found.code == 4
    assert re.fullmatch(
        r"dpsim: DataError: data/3/set\.000/real_atom_types\.npy: frame 0 .*has element H, "
        r"which is not in the type_map \(O C\): add it there or leave this system out",
        found.sentence,
    )


@pytest.mark.parametrize(("spoil", "sentence"), [
    (nan_position, "the position of atom 2 is not finite"),
    (flat_box, r"the periodic vectors of cell .* are too short or parallel: expected independent vectors, .*"),
])  # fmt: skip
def test_structures_that_no_model_can_judge(spoil, sentence: str, folder: Path, model: Path) -> None:
    write_structures(folder / "bad.extxyz", spoil)
    found = call(folder, "dpsim", "eval", model, "bad.extxyz", "-o", "new.extxyz")
    assert found.code == 4
    assert re.fullmatch(rf"dpsim: DataError: bad\.extxyz#1: {sentence}", found.sentence)


LABEL = """\
dpsim: 1
name: label
type_map: [O, H]
stages:
  label: {uses: label, structures: {path: bad.extxyz}, calculator: {name: emt}}
"""


@pytest.mark.parametrize("spoil", [nan_position, flat_box, small_box])
def test_structures_that_cannot_be_labelled(spoil, folder: Path) -> None:
    write_structures(folder / "bad.extxyz", spoil)
    (folder / "w.yaml").write_text(LABEL)
    found = call(folder, "dpsim", "run", "w.yaml", "--quiet")
    assert (found.code, found.out.split(" in ")[0]) == (4, "label: 1 failed")
    assert re.fullmatch(rf"stage 'label' failed: .*{BAD_FRAMES[spoil]}", found.err.strip().splitlines()[0])
    assert not {"outputs.json", "frames.extxyz"} & {Path(name).name for name in found.added}


@pytest.mark.lammps
@pytest.mark.parametrize("spoil", [nan_position, flat_box, small_box])
def test_dynamics_does_not_start_from_nonsense(spoil, folder: Path, frozen: Path) -> None:
    write_structures(folder / "bad.extxyz", lambda frames: (spoil(frames), frames.pop()))
    found = call(folder, "dpsim", "md", frozen, "bad.extxyz", "--time", "2 fs", "--no-rdf", "--quiet")
    assert (found.code, found.out.split(" in ")[0]) == (4, "md-bad: 1 failed")
    sentence = BAD_FRAMES[spoil].replace(r"bad\.extxyz#1", "the start structure")
    assert re.fullmatch(rf"stage 'md' failed: {sentence}", found.err.strip().splitlines()[0])
    assert "final.extxyz" not in {Path(name).name for name in found.added}


def test_a_wrong_option_of_md_leaves_no_run_behind(folder: Path, frozen: Path) -> None:
    found = call(folder, "dpsim", "md", frozen, "good.extxyz", "--time", "2 parsec")
    assert (found.code, found.out, found.added) == (3, "", frozenset())
    assert re.search(r"^  unit 'parsec' in '2 parsec' is not a unit of time: use one of ps, fs, ns$", found.err, re.M)


# --- the machine ---------------------------------------------------------------------------------------------

NO_COMPILER = r"no C\+\+ compiler: none of c\+\+, g\+\+, clang\+\+ is on the PATH; install one, for example apt-get .*"


def test_no_compiler(folder: Path, model: Path, frozen: Path, bare: dict[str, str]) -> None:
    commands = {
        ("lammps", "build"): "",
        ("freeze", str(model), "-o", "new.pt2"): r"a model cannot be frozen without dpsim's operators: ",
        ("eval", str(frozen), "good.extxyz", "-o", "new.extxyz"): r".*\.pt2 needs dpsim's operators: ",
    }
    for command, words in commands.items():
        found = call(folder, "dpsim", *command, env=bare)
        assert found.code == 6, found.err
        assert re.fullmatch(f"dpsim: SetupError: {words}{NO_COMPILER}", found.sentence)
    assert not list(Path(bare["XDG_CACHE_HOME"]).rglob("*"))


def test_training_without_a_compiler_is_slower_and_says_so(folder: Path, bare: dict[str, str]) -> None:
    found = call(folder, "dpsim", "train", "train.yaml", "-o", "new", env=bare)
    assert found.code == 0
    assert len(re.findall(f"native operators are missing, training is slower: {NO_COMPILER}", found.err)) == 1
    assert "new/best.safetensors" in found.added


@pytest.mark.lammps
def test_dynamics_without_a_compiler(folder: Path, frozen: Path, bare: dict[str, str]) -> None:
    command = ("md", frozen, "good.extxyz", "--supercell", 2, 2, 2, "--time", "2 fs", "--no-rdf", "--quiet")
    found = call(folder, "dpsim", *command, env=bare)
    assert (found.code, found.out.split(" in ")[0]) == (6, "md-good: 1 failed")
    assert re.fullmatch(f"stage 'md' failed: {NO_COMPILER}", found.err.strip().splitlines()[0])
    assert not [name for name in found.added if "/out/" in name or name.endswith("outputs.json")]


def test_the_doctor_misses_the_compiler(folder: Path, bare: dict[str, str]) -> None:
    found = call(folder, "dpsim", "doctor", "--no-step", env=bare)
    assert (found.code, found.added) == (6, frozenset())
    assert re.findall(r"^FAIL +(.+?)  +", found.out, re.MULTILINE) == ["C++ compiler"]
    assert re.search(r"mend it with: install one, for example apt-get install g\+\+", found.out)


@pytest.fixture
def open_mpi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the ``mpiexec`` of another MPI, which notes whenever it is asked to run something."""
    place = tmp_path_factory.mktemp("openmpi")
    for name in ("mpiexec", "mpirun"):
        (place / name).write_text(
            "#!/bin/sh\n"
            'if [ "$1" = --version ]; then echo "mpiexec (OpenRTE) 4.1.4"; exit 0; fi\n'
            f'echo "$@" >> {place}/called\n'
            'echo "Open MPI: it cannot be" >&2\nexit 1\n'
        )
        (place / name).chmod(0o755)
    return place


@pytest.mark.lammps
def test_open_mpi_first_on_the_path(folder: Path, frozen: Path, open_mpi: Path) -> None:
    env = environment([open_mpi])
    found = call(folder, "dpsim", "doctor", "--no-step", env=env)
    assert found.code == 0
    assert re.search(
        rf"mpiexec on the PATH +{open_mpi}/mpiexec is Open MPI\n +dpsim does not use it; .*mpiexec", found.out
    )
    command = ("md", frozen, "good.extxyz", "--supercell", 2, 2, 2, "--time", "2 fs", "--no-rdf", "-q", "--ranks", 2)
    found = call(folder, "dpsim", *command, env=env)
    assert (found.code, found.err) == (0, "")
    assert not (open_mpi / "called").exists()
    log = next((folder / "runs/md-good/store").rglob("log*.lammps"))
    assert re.search(r"on 2 procs for \d+ steps with 24 atoms", log.read_text())


# --- inputs of LAMMPS ----------------------------------------------------------------------------------------

DECK = """\
units metal
newton on
region box block 0 5 0 5 0 5
create_box 2 box
create_atoms 1 single 1 1 1
create_atoms 2 single 2 1 1
mass 1 15.999
mass 2 1.008
pair_style dpsim MODEL
pair_coeff * * O H
dump 1 all custom 1 new.dump id x y z
run 1
"""
DECKS = {
    "lj": (
        "units metal",
        "units lj",
        r'needs units that have dimensions, the input has "units lj"; write "units metal" .*',
    ),
    "newton": (
        "newton on",
        "newton off",
        r'needs "newton on", the input has newton off.*; write "newton on" before .*',
    ),
    "model": ("MODEL", "nowhere.pt2", r".*nowhere\.pt2.*"),
    "element": ("* * O H", "* * O Xe", r"element Xe \(for atom type 2\) is not in the model, which knows O H .*"),
}


@pytest.mark.lammps
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", DECKS)
def test_wrong_input_of_lammps(name: str, ranks: int, folder: Path, frozen: Path) -> None:
    text, wrong, sentence = DECKS[name]
    (folder / "in.wrong").write_text(DECK.replace(text, wrong).replace("MODEL", str(frozen)))
    launcher = () if ranks == 1 else (BIN / "mpiexec", "-n", str(ranks))
    found = call(folder, *launcher, BIN / "lmp", "-in", "in.wrong", "-log", "none")
    assert found.code not in (0, 139)
    errors = [line for line in found.out.splitlines() + found.err.splitlines() if line.startswith("ERROR")]
    assert len(errors) == 1, found.out
    assert re.fullmatch(rf"ERROR: (pair_style dpsim|pair_coeff):? {sentence}", errors[0])
    assert not found.added


@pytest.mark.lammps
def test_lammps_without_the_plugin_names_the_remedy(folder: Path, frozen: Path, bare: dict[str, str]) -> None:
    (folder / "in.good").write_text(DECK.replace("MODEL", str(frozen)))
    found = call(
        folder,
        BIN / "lmp",
        "-in",
        "in.good",
        "-log",
        "none",
        env=environment() | {"XDG_CACHE_HOME": bare["XDG_CACHE_HOME"]},
    )
    assert (found.code, found.added) == (1, frozenset())
    said = re.findall(r"^dpsim: .*", found.err, re.MULTILINE)
    assert said == [
        "dpsim: pair_style dpsim is not built yet for this torch and LAMMPS; build it with: dpsim lammps build"
    ]
