"""Solid harmonics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpsim.physics.harmonics import solid_harmonics


@pytest.mark.parametrize("degree", range(6))
def test_addition_theorem(degree):
    rng = np.random.default_rng(degree)
    a, b = rng.normal(size=(2, 9, 3))
    a[0], b[1] = [0.0, 0.0, 2.0], 0.0
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / np.where(lengths > 0, lengths, 1.0)
    expected = np.polynomial.legendre.Legendre.basis(degree)(cosine) * lengths**degree
    first, second = (solid_harmonics(torch.from_numpy(u), degree) for u in (a, b))
    assert first.shape == (9, 2 * degree + 1)
    np.testing.assert_allclose((first * second).sum(1), expected, atol=1e-11)


def test_second_degree():
    x, y, z = u = np.array([0.3, -0.7, 1.1])
    root = np.sqrt(3)
    expected = [root * x * y, root * y * z, (3 * z * z - u @ u) / 2, root * x * z, root / 2 * (x * x - y * y)]
    np.testing.assert_allclose(solid_harmonics(torch.from_numpy(u[None]), 2)[0], expected, rtol=1e-13)


def test_no_vectors():
    assert solid_harmonics(torch.zeros(0, 3), 3).shape == (0, 7)
