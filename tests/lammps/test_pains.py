"""What users of such plugins complain about, and the tests that keep it from happening here.

`PAINS` is the table: a row of the list of recurring pains (1 to 12 are about LAMMPS), and for each the tests, as
``file::test`` or ``file::test[case]``. That they exist is tested; what they need beyond the tests of other rooms
stands at the end.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import numpy as np
import pytest
from lammps_runs import System, grid, head, run, run_program, symbols

TESTS = Path(__file__).parents[1]

PAINS: dict[str, tuple[str, ...]] = {
    "1 LAMMPS, plugin, torch and MPI of different builds": (
        "lammps/test_doctor.py::test_a_broken_lammps_of_the_user[plugin of another torch]",
        "lammps/test_doctor.py::test_a_broken_lammps_of_the_user[plugin of another LAMMPS]",
        "lammps/test_doctor.py::test_a_broken_lammps_of_the_user[mpirun of another MPI]",
        "lammps/test_doctor.py::test_a_broken_lammps_of_the_user[plugin of other integers]",
        "lammps/test_source_builds.py::test_what_cannot_be_built",
        "native/test_native_identity.py::test_plugin_key_follows_lammps_and_mpich",
    ),
    "2 unrecognized pair style": (
        "lammps/test_session.py::test_entry_point_names_the_folder",
        "lammps/test_session.py::test_entry_point_is_light_and_speaks_when_nothing_is_built",
        "lammps/test_doctor.py::test_the_packages",
    ),
    "3 message passing without atom maps": (
        "lammps/test_parity_table.py::test_single_point",
        "lammps/test_dynamics.py::test_nve_is_the_same_on_one_and_two_ranks",
        "lammps/test_pains.py::test_no_atom_map_is_asked_for",
    ),
    "4 boxes that are not periodic": (
        "lammps/test_parity_table.py::test_single_point",
        "lammps/test_pains.py::test_every_boundary_is_in_the_table",
    ),
    "5 a rank without atoms": (
        "lammps/test_parity_table.py::test_a_rank_is_empty",
        "lammps/test_dynamics.py::test_atoms_come_and_go",
    ),
    "6 whether MPI takes GPU memory": (
        "lammps/test_halo.py::test_what_mpi_says_of_device_memory",
        "lammps/test_errors.py::test_wrong_input[device route]",
        "lammps/test_gpu_script.py::test_on_the_cpu",
    ),
    "7 out of memory": (
        "calculators/test_memory.py::test_prediction_is_near_the_peak",
        "calculators/test_memory.py::test_command_reads_a_structure",
        "lammps/test_failing_rank.py::test_rank_of_a_python_program[no memory]",
    ),
    "8 memory that grows": ("lammps/test_session.py::test_clear_in_a_loop_leaves_nothing_behind",),
    "9 accelerated variants and their flags": (
        "lammps/test_errors.py::test_wrong_input[newton off]",
        "lammps/test_pains.py::test_suffixes_change_nothing",
        "lammps/test_pains.py::test_kokkos_is_refused_by_lammps_itself",
    ),
    "10 more neighbours than sel": (
        "lammps/test_parity_table.py::test_lists_are_full",
        "lammps/test_graph.py::test_truncation_and_exclusion_matter",
    ),
    "11 types of LAMMPS are not those of the model": (
        "lammps/test_errors.py::test_wrong_input[few elements]",
        "lammps/test_errors.py::test_wrong_input[types by number]",
        "lammps/test_errors.py::test_mass_of_another_element_is_a_warning",
        "lammps/test_parity.py::test_order_of_elements_and_an_unused_type",
    ),
    "12 NULL and hybrid styles": (
        "lammps/test_parity.py::test_hybrid_with_unmapped_atoms",
        "lammps/test_parity.py::test_overlay_of_two_instances",
        "lammps/test_atom_outputs.py::test_atoms_under_hybrid",
        "lammps/test_errors.py::test_wrong_input[NULL alone]",
    ),
}


@pytest.mark.parametrize("pain", PAINS)
def test_each_row_has_its_tests(pain: str) -> None:
    for name in PAINS[pain]:
        match = re.fullmatch(r"([\w/]+\.py)::(\w+)(?:\[(.+)\])?", name)
        assert match is not None, name
        text = (TESTS / match[1]).read_text(encoding="utf-8")
        functions = {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)}
        assert match[2] in functions, name
        assert match[3] is None or f'"{match[3]}":' in text, name


def test_every_row_is_there() -> None:
    assert [int(pain.split()[0]) for pain in PAINS] == [*range(1, 13)]


def test_every_boundary_is_in_the_table() -> None:
    """Of a message-passing model, on one rank and on several; more of the combinations are run when all are."""
    from parity_cases import bulk, quick

    found = {(case.boundary, case.ranks > 1) for case in [*quick(), *bulk()] if case.model == "dpa3"}
    for boundary in ("p p p", "p p f", "f f f"):
        for several in (False, True):
            assert (boundary, several) in found


# ---- tests of rows that no other room has ------------------------------------------------------------------------


def _deck(folder: Path, model: Path, before: str = "") -> str:
    system = System(grid(40, (8.2,) * 3, 21), symbols(40, 21), np.eye(3) * 8.2)
    deck = head(system, system.write(folder / "s.data", ("O", "H")), before=before)
    return f'{deck}pair_style dpsim {model}\npair_coeff * * O H\nrun 0\nprint "energy $(pe:%.12g)"\n'


def _energy(text: str) -> float:
    return float(re.findall(r"^energy (\S+)$", text, re.MULTILINE)[-1])


@pytest.mark.lammps
def test_no_atom_map_is_asked_for(model64: Path, tmp_path: Path) -> None:
    """The energy does not depend on whether LAMMPS keeps a map from ids to atoms."""
    energies = [_energy(run(tmp_path, _deck(tmp_path, model64, kind), 2)) for kind in ("", "atom_modify map yes")]
    assert energies[0] == pytest.approx(energies[1], rel=1e-12)


@pytest.mark.lammps
def test_suffixes_change_nothing(model64: Path, tmp_path: Path) -> None:
    plain = _energy(run(tmp_path, _deck(tmp_path, model64)))
    assert _energy(run(tmp_path, _deck(tmp_path, model64, "package omp 1\nsuffix omp"))) == pytest.approx(
        plain, rel=1e-12
    )


@pytest.mark.lammps
def test_kokkos_is_refused_by_lammps_itself(model64: Path, tmp_path: Path) -> None:
    """There is no variant of the style for KOKKOS, and the LAMMPS of the packages has none of it either."""
    from dpsim.lammps.launcher import lammps_command

    (tmp_path / "in.lammps").write_text(_deck(tmp_path, model64))
    argv, env = lammps_command(1, tmp_path / "in.lammps", log="none", plugin=True, extra=["-k", "on", "-sf", "kk"])
    code, text = run_program(argv, env, tmp_path, 60)
    assert code != 0
    assert re.search(r"KOKKOS", text)
