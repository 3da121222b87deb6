"""Switch functions against their formulas, with derivatives."""

from __future__ import annotations

import math

import pytest
import torch

from dpsim.physics.switch import exponential_switch, polynomial_switch

RS, RC = 5.3, 6.0
R = torch.linspace(0.1, 6.5, 641, dtype=torch.float64)


def derivatives(switch, r, order):
    """Value and derivatives at `r`."""
    r = r.clone().requires_grad_(True)
    results = [switch(r, RS, RC)]
    for _ in range(order):
        results.append(torch.autograd.grad(results[-1].sum(), r, create_graph=True)[0])
    return [x.detach() for x in results]


def test_polynomial_formula():
    expected = []
    for r in R.tolist():
        u = min(max((r - RS) / (RC - RS), 0.0), 1.0)
        expected.append(u**3 * (-6 * u**2 + 15 * u - 10) + 1)
    torch.testing.assert_close(
        polynomial_switch(R, RS, RC), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-14
    )


def test_polynomial_is_smooth_and_falls():
    w, slope, curvature = derivatives(polynomial_switch, R, 2)
    assert torch.all(w[R <= RS] == 1)
    assert torch.all(w[R >= RC].abs() < 1e-14)
    assert torch.all(slope <= 0)
    u = (R - RS) / (RC - RS)
    inside = (u > 0) & (u < 1)
    expected = -30 * u**2 * (1 - u) ** 2 / (RC - RS)
    torch.testing.assert_close(slope[inside], expected[inside], rtol=1e-12, atol=1e-13)
    second = -60 * u * (1 - u) * (1 - 2 * u) / (RC - RS) ** 2
    torch.testing.assert_close(curvature[inside], second[inside], rtol=1e-11, atol=1e-11)
    ends = torch.tensor([RS, RC], dtype=torch.float64)
    _, slope, curvature = derivatives(polynomial_switch, ends, 2)
    assert slope.abs().max() < 1e-12
    assert curvature.abs().max() < 1e-10


def test_exponential_formula():
    expected = [math.exp(-math.exp(20 / RS * (min(r, RC) - RS))) for r in R.tolist()]
    torch.testing.assert_close(
        exponential_switch(R, RS, RC), torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0
    )


def test_exponential_landmarks():
    w = exponential_switch(torch.tensor([RS, RC, 7.0], dtype=torch.float64), RS, RC)
    assert w[0].item() == pytest.approx(math.exp(-1), rel=1e-14)
    assert w[1].item() == pytest.approx(8e-7, rel=0.05)
    assert w[2] == w[1]
    _, slope = derivatives(exponential_switch, torch.tensor([4.0, 5.5, 6.2], dtype=torch.float64), 1)
    for r, found in ((4.0, slope[0]), (5.5, slope[1])):
        x = 20 / RS * (r - RS)
        assert found.item() == pytest.approx(-20 / RS * math.exp(x) * math.exp(-math.exp(x)), rel=1e-12)
    assert slope[2] == 0


@pytest.mark.parametrize("switch", [polynomial_switch, exponential_switch])
def test_dtype_is_kept(switch):
    assert switch(R.float(), RS, RC).dtype == torch.float32
    assert switch(R[:0], RS, RC).shape == (0,)
