"""How a data set is written: the layouts by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from data_tools.write_extxyz import EXTXYZ, write_extxyz
from dpsim.data.lmdb import LMDB
from dpsim.data.npy import MIXED, PLAIN
from dpsim.data.write import write_mixed, write_npy
from dpsim.data.write_lmdb import write_lmdb

Layout = Literal["mixed", "npy", "lmdb", "extxyz"]
"""How frames are written: ``deepmd/npy/mixed``, ``deepmd/npy``, one ``deepmd/lmdb``, or a file of extended XYZ."""
LAYOUTS: dict[Layout, tuple[str, Callable[..., list[Path]]]] = {
    "mixed": (MIXED, write_mixed), "npy": (PLAIN, write_npy), "lmdb": (LMDB, write_lmdb),
    "extxyz": (EXTXYZ, write_extxyz),
}  # fmt: skip
"""Name of the format, and what writes it."""
