"""Memory of models without messages does not grow with the atoms as it does where all are evaluated at once."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from families import freeze
from lammps_runs import TIMEOUT, System, grid, head, run, run_program, symbols

from dpsim.lammps.packages import program_environment

pytestmark = pytest.mark.lammps

PROGRAM = """
import resource
from dpsim.lammps import start
lmp = start(cmdargs=["-screen", "none", "-log", "none"])
lmp.commands_string(open("in.part").read() + "{pair} chunk 50\\npair_coeff * * O H\\nrun 0\\n")
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20),) * 2)
lmp.commands_string("{pair} {words}\\npair_coeff * * O H\\nrun 0\\n")
print("went on")
"""
FAMILY = "se_e3_tebd-ener-inputs"
PEAK = re.compile(r"peak memory of the process \(MB\) ([0-9.e+]+)/")
PIECES = re.compile(r"pieces that the atoms are evaluated in (\d+)/")


@pytest.fixture(scope="module")
def model(request: pytest.FixtureRequest, plugin: Path) -> Path:
    """Without messages, and with many pairs of edges."""
    return freeze([FAMILY], request.config.cache.mkdir("dpsim-models"))[FAMILY]


def large_box(folder: Path) -> str:
    """Beginning of a deck with 9000 atoms."""
    side = 18.0
    system = System(grid(500, (side,) * 3, 5), symbols(500, 5), np.eye(3) * side)
    return head(system, system.write(folder / "s.data", ("O", "H"))) + "replicate 3 3 2\n"


def test_pieces_take_less_memory(model: Path, tmp_path: Path) -> None:
    start = large_box(tmp_path)
    measure = "thermo_style custom step pe press\nthermo_modify format float %.15g\nrun 0\n"
    found = {}
    for words in ("chunk 0", "chunk 100", ""):
        pair = f"pair_style dpsim {model} aparam 0.7 verbose yes {words}\npair_coeff * * O H\n"
        text = run(tmp_path, start + pair + measure)
        numbers = re.search(r"^ +0 +(\S+) +(\S+)$", text, re.MULTILINE)
        assert numbers is not None, text
        peak, pieces = PEAK.search(text), PIECES.search(text)
        assert peak
        assert pieces
        found[words] = ([float(v) for v in numbers.groups()], float(peak[1]), int(pieces[1]))
    whole, hundreds, automatic = found.values()
    assert (whole[2], hundreds[2]) == (1, 90)
    assert automatic[2] > 2
    for values, peak_mb, _ in (hundreds, automatic):
        np.testing.assert_allclose(values, whole[0], rtol=1e-10)
        assert peak_mb < whole[1] - 60


NO_MEMORY = (
    r"not enough memory for the neighbors of 9000 atoms; .* a smaller number behind the keyword chunk"
    r'|needs more memory than there is for the 9000 atoms .* of one piece; write "chunk 2250" or less'
)


@pytest.mark.parametrize(("words", "sentence"), [("chunk 60", "went on"), ("chunk 0", NO_MEMORY)])
def test_where_memory_ends(words: str, sentence: str, model: Path, tmp_path: Path) -> None:
    """With some megabytes beside what a run in pieces has taken."""
    (tmp_path / "in.part").write_text(large_box(tmp_path))
    pair = f"pair_style dpsim {model} aparam 0.7"
    (tmp_path / "program.py").write_text(PROGRAM.format(pair=pair, words=words))
    code, text = run_program([sys.executable, "program.py"], program_environment(None, 1), tmp_path, TIMEOUT)
    assert re.search(sentence, text), text[-3000:]
    assert (code == 0) == (sentence == "went on")
