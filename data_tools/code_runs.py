"""Running the codes of `data_tools.code_calculators` by the calculators of ASE: no shell, a folder for each run."""

from __future__ import annotations

import copy
import shlex
import shutil
import subprocess
import tempfile
import weakref
from contextlib import ExitStack, chdir
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.calculators.abinit import Abinit, AbinitProfile
from ase.calculators.aims import Aims, AimsProfile
from ase.calculators.calculator import Calculator, StandardProfile, all_changes
from ase.calculators.cp2k import CP2K, Cp2kShell
from ase.calculators.dftb import Dftb
from ase.calculators.espresso import Espresso, EspressoProfile
from ase.calculators.nwchem import NWChem
from ase.calculators.orca import ORCA, OrcaProfile
from ase.calculators.siesta.siesta import Siesta
from ase.calculators.vasp import Vasp

from dpsim.errors import DpsimError, StageError

if TYPE_CHECKING:
    from ase import Atoms

    from data_tools.code_calculators import CodeConfig

_TAIL_LINES, _TAIL_LETTERS = 5, 400


class CodeCalculator(Calculator):  # type: ignore[misc]
    """Runs a code once for each structure, for all properties together, and says what went wrong.

    Parameters
    ----------
    config
        Settings with full paths.
    folder
        Where it works: a folder for each run, ``run-1``, ``run-2``...; a temporary folder if None.
    properties
        What a run computes; energy, forces and, of periodic structures, stress if None.
    """

    def __init__(self, config: CodeConfig, folder: Path | None, properties: tuple[str, ...] | None):
        super().__init__()
        self.config = config
        self.wanted = properties or ("energy", "forces", "stress")
        self.implemented_properties = [*self.wanted]
        self.runs = 0
        self._temporary: weakref.finalize[Any, Any] | None = None
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix=f"dpsim-{config.name}-"))
            self._temporary = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.folder = folder.absolute()

    def calculate(
        self, atoms: Atoms | None = None, properties: Any = ("energy",), system_changes: Any = all_changes
    ) -> None:
        """Compute all that is wanted in one run; of smeared electrons the energy is the free energy, as forces are.

        Raises
        ------
        StageError
            If the program fails, does not converge, or gives less than what is wanted.
        """
        super().calculate(atoms, properties, system_changes)
        self.runs += 1
        folder = self.folder / f"run-{self.runs}"
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
        folder.mkdir(parents=True)
        wanted = [name for name in self.wanted if name != "stress" or self.atoms.pbc.all()]
        try:
            self.results = self._run(self.atoms.copy(), folder, wanted)
        except Exception as error:  # calculators raise whatever they meet
            if self._temporary is not None:
                self._temporary.detach()
            raise StageError(f"{self.config.name} in {folder}: {self._what(error, folder)}") from error
        if self.config.keep == "failed":
            shutil.rmtree(folder)

    def _run(self, atoms: Atoms, folder: Path, wanted: list[str]) -> dict[str, Any]:
        calculator = _BUILD[self.config.name](self.config, folder, atoms, wanted)
        try:
            calculator.calculate(atoms, wanted, all_changes)
        finally:
            if isinstance(calculator, CP2K):
                calculator.close()
        if self._unconverged(folder) or getattr(calculator, "converged", None) is False:
            raise StageError("self-consistency was not reached")
        results = calculator.results
        missing = [
            name for name in wanted if results.get(name) is None or np.shape(results[name]) != _shape(name, len(atoms))
        ]
        if missing:
            raise StageError(f"gave no {missing[0]}: see what its settings compute, or take it out of properties")
        found = {name: results[name] for name in wanted}
        if results.get("free_energy") is not None and "energy" in found:  # of which forces are the derivatives
            found["energy"] = results["free_energy"]
        return found

    def _unconverged(self, folder: Path) -> bool:
        path = folder / self.config.code.outputs[0]
        text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        return any(sentence in text for sentence in self.config.code.unconverged)

    def _what(self, error: Exception, folder: Path) -> str:
        what = str(error) if isinstance(error, DpsimError) else f"{type(error).__name__} {error}".strip()
        if self._unconverged(folder):
            what = "self-consistency was not reached"
        for name in self.config.code.outputs:
            if last := tail(folder / name):
                return f"{what}; {name} ends: {last}"
        return f"{what}; there is no output"

    def clean(self) -> None:
        """Remove the folder if there is nothing in it."""
        for folder in (self.folder, self.folder.parent):
            try:
                folder.rmdir()
            except OSError:
                return


def _shape(name: str, n: int) -> tuple[int, ...]:
    """Return the shape of a result of n atoms; some readers give empty arrays for what they do not find."""
    return {"energy": (), "forces": (n, 3), "stress": (6,)}[name]


def tail(path: Path) -> str:
    """Return the last lines of a file that say something, in one."""
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace")[-20000:].splitlines()
    said = [" ".join(line.split()) for line in lines if any(letter.isalnum() for letter in line)]
    return " / ".join(said[-_TAIL_LINES:])[-_TAIL_LETTERS:]


def run_program(
    words: list[str], folder: Path, stdout: str, stderr: str | None = None, stdin: str | None = None
) -> None:
    """Run a program in a folder, with its streams in files there.

    Raises
    ------
    StageError
        If it cannot be started, or ends with an error.
    """
    with ExitStack() as stack:
        out = stack.enter_context((folder / stdout).open("wb"))
        errors = subprocess.STDOUT if stderr is None else stack.enter_context((folder / stderr).open("wb"))
        given = subprocess.DEVNULL if stdin is None else stack.enter_context((folder / stdin).open("rb"))
        try:
            code = subprocess.run(words, cwd=folder, stdin=given, stdout=out, stderr=errors, check=False).returncode
        except OSError as error:
            raise StageError(f"{words[0]} cannot be started ({error.strerror})") from error
    if code != 0:
        raise StageError(f"ended with exit status {code}" if code > 0 else f"was killed by signal {-code}")


# --- codes whose profiles run an input file ----------------------------------------------------------------------


def _runs(profile: Any) -> Any:
    """Let a profile of ASE run its program by `run_program`."""

    def run(
        folder: Path, inputfile: str | None, outputfile: str, errorfile: str | None = None, append: bool = False
    ) -> None:
        run_program(profile.get_command(inputfile), Path(folder), outputfile, errorfile)

    profile.run = run
    return profile


def _options(config: CodeConfig, *names: str) -> dict[str, str]:
    """Return what the profile says beside the command."""
    section = config.section()
    return {name: section[name] for name in names if name in section}


def _command(config: CodeConfig) -> str:
    return shlex.join(config.words())


def _settings(config: CodeConfig) -> dict[str, Any]:
    return copy.deepcopy(config.settings)


def _espresso(config: CodeConfig, folder: Path, atoms: Atoms, wanted: list[str]) -> Any:
    settings = _settings(config)
    data = _namelists(config)
    data["control"].update(
        calculation="scf", outdir=".", prefix="pwscf", tprnfor="forces" in wanted, tstress="stress" in wanted
    )
    settings["input_data"] = data
    profile = EspressoProfile(_command(config), config.pseudo_dir() or ".")
    return Espresso(profile=_runs(profile), directory=folder, **settings)


def _namelists(config: CodeConfig) -> Any:
    """Return the namelists of the input file, with those of the settings over them."""
    from ase.io.espresso import Namelist, read_fortran_namelist

    data = Namelist()
    if config.input is not None:
        with open(config.input, encoding="utf-8") as file:
            data, _ = read_fortran_namelist(file)
    data = Namelist(data)
    data.to_nested("pw")
    given = Namelist(config.settings.get("input_data") or {})
    given.to_nested("pw")
    for name, values in given.items():
        data.setdefault(name, {}).update(values)
    return data


def _abinit(config: CodeConfig, folder: Path, atoms: Atoms, wanted: list[str]) -> Any:
    profile = AbinitProfile(_command(config), **_options(config, "pp_paths"))
    return Abinit(profile=_runs(profile), directory=folder, **_settings(config))


def _aims(config: CodeConfig, folder: Path, atoms: Atoms, wanted: list[str]) -> Any:
    profile = AimsProfile(_command(config), **_options(config, "default_species_directory"))
    return Aims(profile=_runs(profile), directory=folder, **_settings(config))


def _orca(config: CodeConfig, folder: Path, atoms: Atoms, wanted: list[str]) -> Any:
    settings = _settings(config)
    if "forces" in wanted:
        simple = str(settings.get("orcasimpleinput", "B3LYP def2-TZVP"))  # the default of ASE
        settings["orcasimpleinput"] = simple if "engrad" in simple.lower() else f"{simple} EnGrad"
    return ORCA(profile=_runs(OrcaProfile(_command(config))), directory=folder, **settings)


class _Profile(StandardProfile):  # type: ignore[misc]
    """How the older calculators of ASE start their program."""

    def execute(self, calc: Any) -> None:
        """Run it with the streams that its calculator declares."""
        rules = calc.fileio_rules
        names = [
            None if name is None else name.format(prefix=calc.prefix) for name in (rules.stdout_name, rules.stdin_name)
        ]
        words = [*shlex.split(self.command), *(word.format(prefix=calc.prefix) for word in rules.extend_argv)]
        run_program(words, Path(calc.directory), names[0] or "out", stdin=names[1])


def _older(config: CodeConfig, folder: Path, atoms: Atoms, wanted: list[str]) -> Any:
    kind = {"siesta": Siesta, "nwchem": NWChem, "dftb": Dftb}[config.name]
    profile = _Profile(_command(config), kind.fileio_rules.load_config(config.section()))
    settings = _settings(config)
    if config.name == "dftb":
        settings.update(atoms=atoms)  # which k points that are given by their density need
    return kind(profile=profile, directory=str(folder), **settings)


# --- codes that ASE starts through a shell ------------------------------------------------------------------------


class _Vasp(Vasp):  # type: ignore[misc]
    words: list[str]

    def _run(self, command: Any = None, out: Any = None, directory: Any = None) -> tuple[int, str]:
        with tempfile.TemporaryFile("w+", errors="replace") as errors:
            done = subprocess.run(
                self.words,
                cwd=directory or self.directory,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=errors,
                check=False,
            )
            errors.seek(0)
            return done.returncode, errors.read()


def _vasp(config: CodeConfig, folder: Path, atoms: Atoms, wanted: list[str]) -> Any:
    calculator = _Vasp(directory=str(folder), command="vasp", txt="vasp.out", **_settings(config))
    calculator.words = config.words()
    return calculator


class _Shell(Cp2kShell):  # type: ignore[misc]
    """The interactive mode of CP2K, in a folder of its own."""

    _child: Any

    def __init__(self, words: list[str], folder: Path):
        self.isready, self.version, self._debug = False, 1.0, False
        self._errors = (folder / "cp2k.err").open("wb")
        self._child = subprocess.Popen(
            words, cwd=folder, text=True, bufsize=1, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        while self.recv() != "* READY":
            pass
        self.send("VERSION")
        self.version = float(self.recv().removeprefix("CP2K Shell Version:"))
        self.expect("* READY")
        self.send("HARSH")
        self.expect("* READY")

    def recv(self) -> str:
        """Return a line of its answer.

        Raises
        ------
        StageError
            If it has ended.
        """
        line = self._child.stdout.readline()
        if not line:
            raise StageError(f"ended with exit status {self._child.wait()}")
        self.isready = line.strip() == "* READY"
        return line.strip()

    def send(self, line: str) -> None:
        """Send a line.

        Raises
        ------
        StageError
            If it has ended.
        """
        self.isready = False
        try:
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()
        except OSError:
            raise StageError(f"ended with exit status {self._child.wait()}") from None

    def close(self) -> None:
        """End the program, by force if it is not waiting for a command."""
        child = getattr(self, "_child", None)
        if child is None:
            return
        if self.isready:
            self.send("EXIT")
        else:
            child.kill()
        child.communicate()
        self._errors.close()
        self._child, self.isready = None, False


class _CP2K(CP2K):  # type: ignore[misc]
    def __init__(self, words: list[str], folder: Path, settings: dict[str, Any]):
        self._debug = False
        self._shell = self._force_env_id = self.label = self.parameters = self.results = self.atoms = None
        Calculator.__init__(self, label="cp2k", **settings)
        self.folder = folder
        self._shell = _Shell(words, folder)

    def calculate(self, atoms: Any = None, properties: Any = None, system_changes: Any = all_changes) -> None:
        with chdir(self.folder):  # where it writes positions with set_pos_file
            super().calculate(atoms, properties, system_changes)


def _cp2k(config: CodeConfig, folder: Path, atoms: Atoms, wanted: list[str]) -> Any:
    settings = _settings(config)
    settings.setdefault("stress_tensor", "stress" in wanted)
    if config.input is not None:
        settings["inp"] = Path(config.input).read_text(encoding="utf-8")
    return _CP2K(config.words(), folder, settings)


_BUILD: dict[str, Any] = {
    "espresso": _espresso, "cp2k": _cp2k, "vasp": _vasp, "abinit": _abinit, "siesta": _older, "aims": _aims,
    "orca": _orca, "nwchem": _older, "dftb": _older,
}  # fmt: skip
