"""Freeze one of the tiny models, in a process of its own."""

import sys
from pathlib import Path

from families import build

from dpsim.export.compile import compile_model

compile_model(build(sys.argv[1]), Path(sys.argv[2]))
