"""Loading the operators, doing without them, and the allocator's settings; each in a process of its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpsim import ops
from dpsim.native import build

WITHOUT = """\
import torch
from dpsim import ops
from dpsim.ops import reference
assert not ops.load()
assert not ops.load()
print(ops.unavailable_reason())
torch.manual_seed(0)
ptr, index = torch.tensor([0, 2, 2, 5]), torch.tensor([0, 1, 1, 0, 1])
x, s, b, w = (torch.randn(*n, dtype=torch.float64).requires_grad_() for n in ((5, 4), (3, 4), (2, 4), (5,)))
h, plan = torch.randn(5, 3, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)
reduced, item = ops.gather_act_reduce(x, s, b, w, ptr, index, 3, 1, 0.5)
assert torch.autograd.gradgradcheck(lambda *a: ops.gather_act_reduce(*a, ptr, index, 3, 1, 0.5), (x, s, b, w))
assert reduced.equal(reference.gather_act_reduce(x, s, b, w, ptr, index, 3, 1, 0.5)[0])
assert ops.segment_sum(x, ptr, s).shape == (3, 4)
assert ops.segment_expand(s, ptr, x)[2:].equal(s[[2, 2, 2]])
assert ops.segment_max(x, ptr, s)[2].equal(x[2:].amax(0))
pair_ptr = torch.tensor([0, 2, 4, 7, 10, 13])
dots = ops.pair_dot(x[:, None], x[:, None], ptr, pair_ptr, torch.empty(13))
assert dots[4:, 0].view(3, 3).allclose(x[2:] @ x[2:].T)
assert ops.pair_mix(dots, x[:, None], ptr, pair_ptr)[:2, 0].allclose(x[:2] @ x[:2].T @ x[:2])
assert ops.gather_rows(b, index).equal(b[index])
assert ops.scatter_rows(x, index, b)[0].allclose(x[[0, 3]].sum(0))
outer = ops.edge_outer_sum(h, x, ptr)
assert ops.edge_outer_dot(outer, x, ptr).shape == (5, 3)
assert ops.edge_outer_mix(outer, h, ptr).shape == (5, 4)
assert ops.halo_extend(h, h, plan).equal(h) and ops.halo_fold(h, h, plan).equal(h)
"""
FAULTS = """\
import resource, sys, torch
from dpsim.ops.allocator import keep_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    assert keep_memory()
x = torch.ones(10_000_000)  # more than the 32 MB up to which glibc adapts by itself
for _ in range(10):  # the heap grows until it holds blocks that also fit with their alignment
    torch.nn.functional.silu(x)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.nn.functional.silu(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
FOREIGN = """\
import sys, torch
torch.ops.load_library(sys.argv[1])
from dpsim import ops
from dpsim.native import build
build.ensure = None  # must not be needed
assert ops.load(), ops.unavailable_reason()
x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
ops.gather_rows(x, torch.tensor([1, 1])).sum().backward()
print(x.grad.tolist())
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_a_compiler_the_plain_versions_serve(tmp_path: Path) -> None:
    reason = run(WITHOUT, PATH="", CXX="", XDG_CACHE_HOME=str(tmp_path))
    assert reason == (
        "no C++ compiler: none of c++, g++, clang++ is on the PATH; install one, for example apt-get install g++"
    )


def test_library_that_is_in_the_process_already_is_used() -> None:
    folder = build.build_dir_if_ready("ops")
    assert folder is not None
    assert run(FOREIGN, str(build.library("ops", folder))) == "[[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]]"


def test_reason_is_none_when_loaded() -> None:
    assert ops.load()
    assert ops.unavailable_reason() is None


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
def test_kept_memory_costs_no_page_faults() -> None:
    plain, kept = int(run(FAULTS, "plain")), int(run(FAULTS, "keep"))
    assert plain > 5_000, "five results of 40 MB cost 10,000 faults each as glibc comes, or 20 with huge pages"
    assert kept < plain / 20


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert ops.keep_memory() is False


def test_library_offers_the_setting_to_the_plugin() -> None:
    folder = build.build_dir_if_ready("ops")
    assert folder is not None
    code = "import ctypes, sys, torch; print(ctypes.CDLL(sys.argv[1]).dpsim_keep_memory())"
    assert run(code, str(build.library("ops", folder))) == "1"
