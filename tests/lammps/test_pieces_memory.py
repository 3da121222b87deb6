"""Memory of models without messages does not grow with the atoms as it does where all are evaluated at once."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from families import freeze
from lammps_runs import System, grid, head, run, symbols

pytestmark = pytest.mark.lammps

FAMILY = "se_e3_tebd-ener-inputs"
PEAK = re.compile(r"peak memory of the process \(MB\) ([0-9.e+]+)/")
PIECES = re.compile(r"pieces that the atoms are evaluated in (\d+)/")


def test_pieces_take_less_memory(request: pytest.FixtureRequest, plugin: Path, tmp_path: Path) -> None:
    model = freeze([FAMILY], request.config.cache.mkdir("dpsim-models"))[FAMILY]
    side = 18.0
    system = System(grid(500, (side,) * 3, 5), symbols(500, 5), np.eye(3) * side)
    start = head(system, system.write(tmp_path / "s.data", ("O", "H"))) + "replicate 3 2 2\n"
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
    assert (whole[2], hundreds[2]) == (1, 60)
    assert automatic[2] > 2
    for values, peak_mb, _ in (hundreds, automatic):
        np.testing.assert_allclose(values, whole[0], rtol=1e-10)
        assert peak_mb < whole[1] - 60
