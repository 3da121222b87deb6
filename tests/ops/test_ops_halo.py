"""Halo operators in a single process; the exchange itself is tested with the LAMMPS plugin."""

from __future__ import annotations

import pytest
import torch

from dpsim import ops

PLAN = torch.zeros(1, dtype=torch.int64)


def test_one_process_copies() -> None:
    h = torch.randn(4, 3, 2)
    for got in (ops.halo_extend(h, torch.empty(4), PLAN), ops.halo_fold(h, torch.empty(4), PLAN)):
        assert got.equal(h)
        assert got.data_ptr() != h.data_ptr()


@pytest.mark.parametrize("rows", [0, 3])
def test_each_is_the_others_derivative(rows: int) -> None:
    h = torch.randn(rows, 2, dtype=torch.float64, requires_grad=True)
    for operator in (ops.halo_extend, ops.halo_fold):
        assert torch.autograd.gradcheck(lambda h, f=operator: f(h, h.detach(), PLAN), h)
        assert torch.autograd.gradgradcheck(lambda h, f=operator: f(h**2, h.detach(), PLAN).sin(), h)


@pytest.mark.parametrize(
    ("rows", "plan", "message"),
    [
        (5, PLAN, "4 owned rows but 5 feature rows; without a halo plan"),
        (4, PLAN + 77, "no exchange is registered under handle 77"),
        (4, PLAN.float(), "expected one int64 on the CPU"),
    ],
)
def test_misuse_is_refused(rows: int, plan: torch.Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        ops.halo_extend(torch.zeros(4, 3), torch.empty(rows), plan)


def test_operators_pass_torchs_own_checks() -> None:
    h = torch.randn(4, 3, requires_grad=True)
    torch.library.opcheck(torch.ops.dpsim.halo_extend, (h, torch.empty(4), PLAN))
    torch.library.opcheck(torch.ops.dpsim.halo_fold, (h, torch.empty(4), PLAN))
