"""Electronic-structure codes that label structures: programs run by the calculators of ASE, one folder for each frame.

How a program is started stands in ASE's own file, ``~/.config/ase/config.ini`` (or those of ``$ASE_CONFIG_PATH``), or
in `CodeConfig.command`. What runs them is in `data_tools.code_runs`.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from dpsim.config import Config
from dpsim.errors import DataError, SetupError

if TYPE_CHECKING:
    from ase import Atoms

CodeName = Literal["espresso", "cp2k", "vasp", "abinit", "siesta", "aims", "orca", "nwchem", "dftb"]
Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Code:
    """What is known about a code before it runs."""

    section: str
    """Example of its section in ASE's file."""
    program: str
    """What the names of its programs begin with."""
    cell: Literal["needed", "free", "none"]
    """Whether it treats structures in a cell only, any, or molecules only."""
    outputs: tuple[str, ...]
    """Files that tell what went wrong, the best first."""
    unconverged: tuple[str, ...] = ()
    """What stands in the first of `outputs` if self-consistency was not reached."""
    refused: tuple[str, ...] = ()
    """Settings that would move the atoms."""


CODES: dict[str, Code] = {
    "espresso": Code(
        "command = pw.x; pseudo_dir = FOLDER", "pw", "needed", ("espresso.pwo", "espresso.err"),
        ("convergence NOT achieved",),
    ),
    "cp2k": Code("cp2k_shell = cp2k.psmp -s", "cp2k", "needed", ("cp2k.out",), ("SCF run NOT converged",)),
    "vasp": Code("command = vasp_std", "vasp", "needed", ("vasp.out", "OUTCAR"), (), ("nsw",)),
    "abinit": Code(
        "command = abinit; pp_paths = FOLDER", "abinit", "needed", ("abinit.log", "abinit.err"),
        ("was not enough SCF cycles to converge",), ("ionmov", "ntime"),
    ),
    "siesta": Code(
        "command = siesta; pseudo_path = FOLDER", "siesta", "free", ("siesta.out",),
        ("SCF_NOT_CONV", "SCF did not converge"),
    ),
    "aims": Code(
        "command = aims.x; default_species_directory = FOLDER", "aims", "free", ("aims.out", "aims.err"),
        ("Self-consistency cycle not converged",), ("relax_geometry",),
    ),
    "orca": Code("command = /FOLDER/orca", "orca", "none", ("orca.out", "orca.err"), ("SCF NOT CONVERGED",)),
    "nwchem": Code(
        "command = nwchem", "nwchem", "free", ("nwchem.nwo",), ("Calculation failed to converge",), ("task",)
    ),
    "dftb": Code("command = dftb+; skt_path = FOLDER", "dftb", "free", ("dftb.out",), ("SCC is NOT converged",)),
}  # fmt: skip
_TAKEN = ("profile", "directory", "command", "label", "atoms", "restart", "txt", "debug", "auto_write", "inp")
"""Arguments of ASE's calculators that are not settings of the method."""
_FOLDERS = ("pseudo_dir", "pp_paths", "pseudo_path", "slako_dir", "species_dir")
_FILES = ("basis_set_file", "potential_file")
_KNOWN = {
    "espresso": (
        "input_data", "pseudopotentials", "kpts", "kspacing", "koffset", "crystal_coordinates", "additional_cards"
    ),
    "orca": ("charge", "mult", "orcasimpleinput", "orcablocks"),
}  # fmt: skip
"""Settings of the calculators that pass over others in silence."""
_LAUNCHERS = ("mpirun", "mpiexec", "srun", "env")
_SHELL = re.compile(r"\d*[<>|&;]")
_NOT_IN_KEY = ("profile", "command", "cores", "keep")


class CodeConfig(Config):
    """An electronic-structure code, run as a program by its calculator in ASE; single points of the given structures.

    Its command stands in ASE's file ``~/.config/ase/config.ini``, as ``[espresso] command = mpiexec -n 4 pw.x``.
    """

    name: CodeName
    """``espresso`` is Quantum ESPRESSO (pw.x), ``aims`` FHI-aims, ``dftb`` DFTB+; ``orca`` takes molecules only."""
    settings: dict[str, Any] = {}
    """Arguments of ASE's calculator of that name: ``{pseudopotentials: {Si: Si.upf}, kpts: [3, 3, 3], ...}``."""
    input: str | None = Field(default=None, min_length=1)
    """Template: of cp2k an input file without structure (ASE's ``inp``), of espresso one with namelists only."""
    profile: Literal["ase-config"] = "ase-config"
    """Where the command comes from if `command` is not given: ASE's file."""
    command: list[str] | None = Field(default=None, min_length=1)
    """Program and its arguments in place of those of the profile: ``[mpiexec, -n, "4", pw.x]``. No shell reads them."""
    cores: int = Field(default=1, ge=1)
    """Cores that one calculation takes (ranks that the command starts); a label stage runs cpus / cores calculations at
    once. Threads of OpenMP are one, unless the command sets them: ``[env, OMP_NUM_THREADS=2, pw.x]``."""
    keep: Literal["failed", "all"] = "failed"
    """Whose files stay, in the work folder of a label stage under ``frames``: of failed frames, or of all."""

    @field_validator("settings")
    @classmethod
    def _settings_are_of_the_method(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for name in _TAKEN:
            if name in settings:
                use = {"command": "`command`", "inp": "`input`", "profile": "`profile`"}.get(name)
                raise ValueError(f"{name} is not a setting of the method: " + (f"use {use}" if use else "take it out"))
        return settings

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.input is not None and self.name not in ("cp2k", "espresso"):
            raise ValueError(f"{self.name} takes no input file, only cp2k and espresso do: write its settings")
        moving = [name for name in CODES[self.name].refused if self.settings.get(name)]
        if moving:
            raise ValueError(
                f"{moving[0]} would move the atoms, but labels are those of the given structure: take it out"
            )
        known = _KNOWN.get(self.name)
        unknown = [name for name in self.settings if known is not None and name not in known]
        if known is not None and unknown:
            raise ValueError(f"{unknown[0]} is not a setting of {self.name}, expected some of {', '.join(known)}")
        if self.name == "espresso":
            _check_namelists(self.settings.get("input_data", {}))
        return self

    @property
    def code(self) -> Code:
        """What is known about the code."""
        return CODES[self.name]

    def section(self) -> dict[str, str]:
        """Return its section in ASE's file, empty without one."""
        return ase_section(self.name)

    def words(self) -> list[str]:
        """Return the command as words, the program with its full path.

        Raises
        ------
        SetupError
            If it is not configured, cannot be found, or needs a shell.
        """
        words = self._configured()
        if any(_SHELL.match(word) for word in words):
            raise SetupError(
                f"calculator {self.name}: its command is {' '.join(words)!r}, but no shell reads it: no redirections"
            )
        programs = words[:1]
        if Path(words[0]).name.split(".")[0] in _LAUNCHERS:
            programs += [word for word in words[1:] if Path(word).name.startswith(self.code.program)][:1]
        for program in programs:
            if shutil.which(program) is None:
                raise SetupError(
                    f"calculator {self.name}: program {program} is not found: install it, or correct "
                    f"{'`command`' if self.command else f'[{self.name}] in {config_file()}'}"
                )
        return [os.path.abspath(str(shutil.which(words[0]))), *words[1:]]

    def _configured(self) -> list[str]:
        if self.command is not None:
            return list(self.command)
        section = self.section()
        text = section.get("cp2k_shell") or section.get("command")
        if text is None and self.name == "vasp":
            text = variable("ASE_VASP_COMMAND") or variable("VASP_COMMAND")
        try:
            words = shlex.split(text or "")
        except ValueError as error:
            raise SetupError(
                f"[{self.name}] in {config_file()}: command {text!r} cannot be read ({error}): correct it"
            ) from None
        if not words:
            raise SetupError(
                f"calculator {self.name} is not configured: write a section [{self.name}] with "
                f"{' and '.join(self.code.section.split('; '))} into {config_file()}, or give `command`"
            )
        return words

    def located(self) -> CodeConfig:
        """Return the same with full paths of program, folders and files, since it runs in another folder.

        Raises
        ------
        SetupError
            As `words`.
        """
        update: dict[str, Any] = {"command": self.words(), "settings": _located(self.settings)}
        if self.input is not None:
            update["input"] = os.path.abspath(os.path.expanduser(self.input))
        return self.model_copy(update=update)

    def key_settings(self) -> dict[str, Any]:
        """Return what decides the labels, beside the content of `files`."""
        settings = self.model_dump(mode="json", exclude=set(_NOT_IN_KEY))
        return {**settings, "input": None if self.input is None else "<input>"}

    def pseudo_dir(self) -> str | None:
        """Return the folder of the pseudopotentials of Quantum ESPRESSO."""
        data = self.settings.get("input_data", {})
        nested = {name.lower(): value for name, value in data.items()}
        control = nested.get("control")
        found = control.get("pseudo_dir") if isinstance(control, dict) else None
        return found or nested.get("pseudo_dir") or self.section().get("pseudo_dir")

    def files(self) -> Iterator[tuple[Keys, str]]:
        """Yield place and path of the files that are named: their content is part of what decides the labels."""
        if self.input is not None:
            yield ("input",), self.input
        for name in _FILES:
            value = self.settings.get(name)
            if isinstance(value, str) and "/" in value:
                yield ("settings", name), value
        names = self.settings.get("pseudopotentials") if self.name == "espresso" else None
        folder = self.pseudo_dir() if names else None
        if isinstance(names, dict) and folder is not None:
            for element, name in names.items():
                yield ("settings", "pseudopotentials", element), os.path.join(folder, str(name))

    def digests(self) -> dict[str, str]:
        """Return the digests of `files` by place.

        Raises
        ------
        DataError
            If one cannot be read.
        """
        found = {}
        for place, path in self.files():
            try:
                content = Path(path).expanduser().read_bytes()
            except OSError as error:
                where = ".".join(map(str, place))
                raise DataError(
                    f"calculator {self.name}: {where}: {path} cannot be read ({error.strerror}): name a file"
                ) from None
            found[".".join(map(str, place))] = hashlib.sha256(content).hexdigest()
        return found

    def check(self, atoms: Atoms, properties: tuple[str, ...]) -> None:
        """Refuse what the machine or the code cannot do, before anything runs."""
        self.words()
        name = str(atoms.info.get("source") or atoms.get_chemical_formula())
        if self.code.cell == "none" and atoms.pbc.any():
            raise DataError(f"{name}: {self.name} treats molecules, but the structure is periodic: use another code")
        if self.code.cell == "needed" and atoms.cell.rank < 3:
            raise DataError(f"{name}: {self.name} needs a cell, but the structure has none: put the molecule in a box")
        if self.name == "espresso":
            self._check_pseudopotentials(atoms, name)
            self._check_template()
        if self.name == "vasp" and not os.path.isdir(variable("VASP_PP_PATH") or ""):
            raise SetupError(
                f"calculator vasp: VASP_PP_PATH is {variable('VASP_PP_PATH')}, expected a folder with POTCAR files: "
                f"write it into section [environment] of {config_file()}"
            )
        self.digests()

    def _check_pseudopotentials(self, atoms: Atoms, name: str) -> None:
        named = self.settings.get("pseudopotentials") or {}
        missing = sorted(set(atoms.get_chemical_symbols()) - set(named))
        if missing:
            raise DataError(
                f"{name}: no pseudopotential for {', '.join(missing)}: name its file in settings.pseudopotentials"
            )
        if self.pseudo_dir() is None:
            raise SetupError(
                f"calculator espresso: the folder of the pseudopotentials is not known: write pseudo_dir = FOLDER into "
                f"section [espresso] of {config_file()}, or give settings.input_data.control.pseudo_dir"
            )

    def _check_template(self) -> None:
        from ase.io.espresso import read_fortran_namelist

        if self.input is None:
            return
        try:
            with Path(self.input).expanduser().open(encoding="utf-8") as file:
                data, cards = read_fortran_namelist(file)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.input} cannot be read ({error}): expected namelists of pw.x") from None
        cards = [line for line in cards if line.strip()]
        if cards:
            raise DataError(
                f"{self.input} has {cards[0].strip()!r}, expected namelists only: cards are made of the structure, "
                "of kpts and of pseudopotentials in settings: take it out"
            )
        if "pseudo_dir" in data.get("control", {}):
            raise DataError(f"{self.input} has pseudo_dir: write it into settings.input_data.control, or ASE's file")

    def build(self, atoms: Atoms, folder: Path | None = None, properties: tuple[str, ...] | None = None) -> Any:
        """Return the calculator.

        Parameters
        ----------
        folder
            Where it works; a temporary folder if not given.
        properties
            What one run computes; if not given energy, forces and, of periodic structures, stress.
        """
        from data_tools.code_runs import CodeCalculator

        return CodeCalculator(self.located(), folder, properties)


def config_file() -> str:
    """Return the name of ASE's file, for messages."""
    return os.environ.get("ASE_CONFIG_PATH") or "~/.config/ase/config.ini"


def ase_section(name: str) -> dict[str, str]:
    """Return a section of ASE's file, empty without one.

    Raises
    ------
    SetupError
        If the file cannot be read.
    """
    paths = [Path(path).expanduser() for path in config_file().split(":")]
    parser = configparser.ConfigParser(interpolation=configparser.ExtendedInterpolation())
    try:
        parser.read(paths, encoding="utf-8")
        return dict(parser[name]) if parser.has_section(name) else {}
    except (configparser.Error, UnicodeDecodeError) as error:
        raise SetupError(f"{config_file()} cannot be read: {' '.join(str(error).split())}: correct it") from None


def variable(name: str) -> str | None:
    """Return a variable that ASE would see: of section ``[environment]`` of its file, else of the environment."""
    return ase_section("environment").get(name.lower()) or os.environ.get(name)


def _check_namelists(data: Any) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"input_data is {data!r}, expected namelists: {{system: {{ecutwfc: 40}}}}")
    inner = {str(key).lower(): value for key, value in data.items()}
    flat = {**inner}
    for value in inner.values():
        if isinstance(value, dict):
            flat.update((str(key).lower(), one) for key, one in value.items())
    if str(flat.get("calculation", "scf")) != "scf":
        raise ValueError(
            f"calculation is {flat['calculation']!r}, expected 'scf': labels are those of the given structure"
        )
    for name in ("outdir", "wfcdir", "prefix", "tprnfor", "tstress"):
        if name in flat:
            raise ValueError(f"input_data: {name} is set for each frame: take it out")


def _located(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _located(one, str(name).lower()) for name, one in value.items()}
    if isinstance(value, list):
        return [_located(one, key) for one in value]
    if isinstance(value, str) and (key in _FOLDERS or (key in _FILES and "/" in value)):
        return os.path.abspath(os.path.expanduser(value))
    return value
