"""A process of a training that dies before all have come together is noticed at once, not after half an hour."""

from __future__ import annotations

import subprocess
import sys
import time

PROGRAM = """
import subprocess, sys
from dpsim.errors import StageError
from dpsim.train.parallel import launcher

dying = [sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]
launcher._start = lambda *place: subprocess.Popen(dying, stdin=subprocess.PIPE)
try:
    with launcher.started(2, "cpu"):
        print("they came")
except StageError as error:
    print(error)
"""


def test_one_that_dies_before_it_comes() -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (
        0,
        "process 1 was ended by signal 9 (Killed) before all had come together\n",
    ), done.stderr
    assert time.monotonic() - began < 200
