"""Softmax over segments, with the places of a neighbour list that no edge fills."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dpsim.nn.softmax import segment_softmax

PTR = torch.tensor([0, 3, 3, 4, 9])
LIKE = torch.empty(4)


def logits(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    return (torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=dtype) * scale).requires_grad_()


def padded(z: Tensor, places: int) -> Tensor:
    """Softmax over `places` places of each segment, those that are not filled at -20."""
    rows = []
    for start, stop in zip(PTR[:-1].tolist(), PTR[1:].tolist(), strict=True):
        part = torch.cat([z[start:stop], z.new_full((places - (stop - start), z.shape[1]), -20.0)])
        rows.append(part.softmax(0)[: stop - start])
    return torch.cat(rows)


def empty(places: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return (places - PTR.diff()).to(dtype)[:, None]


def test_without_further_terms() -> None:
    z = logits()
    expected = torch.cat([part.softmax(0) for part in z.tensor_split(PTR[1:-1])])
    torch.testing.assert_close(segment_softmax(z, PTR, LIKE), expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("places", [5, 60])
@pytest.mark.parametrize("shift", [0.0, -20.0, -35.0, 700.0, -3000.0])
def test_places_that_are_not_filled(places: int, shift: float) -> None:
    z = logits(3.0) + shift
    torch.testing.assert_close(segment_softmax(z, PTR, LIKE, empty(places)), padded(z, places), rtol=1e-12, atol=0)


def test_lists_that_are_full_in_part() -> None:
    """No term where nothing is empty, however low the items are."""
    leaf = logits()
    z = leaf - 900.0
    got = segment_softmax(z, PTR, LIKE, empty(5))
    assert torch.equal(empty(5)[3], torch.zeros(1, dtype=torch.float64))
    torch.testing.assert_close(got[4:].sum(0), torch.ones(2, dtype=torch.float64))
    assert got[:4].eq(0).all()
    (slope,) = torch.autograd.grad((got * torch.arange(18.0).reshape(9, 2)).sum(), leaf)
    assert slope[4:].ne(0).all()
    assert slope[:4].eq(0).all()


def test_finite_differences_to_second_order() -> None:
    for extra in (None, empty(7), empty(7) * 1e8):
        assert torch.autograd.gradcheck(lambda z, e=extra: segment_softmax(z, PTR, LIKE, e), logits())
        assert torch.autograd.gradgradcheck(lambda z, e=extra: segment_softmax(z, PTR, LIKE, e), logits())


def test_number_of_terms_can_be_differentiated() -> None:
    assert torch.autograd.gradcheck(
        lambda z, e: segment_softmax(z, PTR, LIKE, e, extra_logit=-1.0), (logits(), empty(7).requires_grad_())
    )


def test_masked_items() -> None:
    """Items at minus infinity count nothing; a segment of nothing else gives zeros, with finite slopes."""
    mask = torch.tensor([1, 0, 1, 0, 1, 1, 0, 1, 1], dtype=torch.bool)[:, None]
    z = logits()
    got = segment_softmax(torch.where(mask, z, -torch.inf), PTR, LIKE)
    assert got[~mask.expand_as(got)].eq(0).all()
    torch.testing.assert_close(got[:3].sum(0), torch.ones(2, dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda z: segment_softmax(torch.where(mask, z, -torch.inf), PTR, LIKE), z)


def test_float32_and_no_items() -> None:
    z = logits(dtype=torch.float32)
    got = segment_softmax(z, PTR, LIKE, empty(60, torch.float32))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), padded(z.double(), 60), rtol=1e-6, atol=0)
    none = torch.zeros(3, dtype=torch.int64)
    assert segment_softmax(z[:0], none, LIKE[:2], torch.ones(2, 1)).shape == (0, 2)
    assert segment_softmax(z[:0], none[:1], LIKE[:0]).shape == (0, 2)
