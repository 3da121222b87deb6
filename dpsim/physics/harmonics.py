"""Real solid harmonics of low degree."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def solid_harmonics(u: Tensor, degree: int) -> Tensor:
    """Homogeneous harmonic polynomials of the vectors `u`, normalised to the Legendre polynomials.

    ``Σ_m Y_lm(a) Y_lm(b) = (|a| |b|)^l P_l(cos(a, b))``. They follow from the recurrences of the sectoral terms
    ``(x + iy)^m`` and of the factors in z, so they have no singular direction.

    Parameters
    ----------
    u
        (E, 3).
    degree
        l, at least 0.

    Returns
    -------
    Tensor
        ``(E, 2l + 1)``, m from −l to l.
    """
    x, y, z = u.unbind(1)
    r2 = x * x + y * y + z * z
    cosines, sines = [torch.ones_like(x)], [torch.zeros_like(x)]
    for _ in range(degree):
        c, s = cosines[-1], sines[-1]
        cosines.append(x * c - y * s)
        sines.append(x * s + y * c)
    columns: dict[int, Tensor] = {}
    for m in range(degree + 1):
        polar = _polar(z, r2, degree, m)
        norm = math.sqrt((2 if m else 1) * math.factorial(degree - m) / math.factorial(degree + m))
        columns[m] = norm * polar * cosines[m]
        if m:
            columns[-m] = norm * polar * sines[m]
    return torch.stack([columns[m] for m in range(-degree, degree + 1)], dim=1)


def _polar(z: Tensor, r2: Tensor, degree: int, m: int) -> Tensor:
    """``r^(l−m) P_l^m / sin^m``, without the phase of Condon and Shortley."""
    before, now = torch.zeros_like(z), torch.full_like(z, float(math.prod(range(1, 2 * m, 2))))
    for k in range(m + 1, degree + 1):
        before, now = now, ((2 * k - 1) * z * now - (k + m - 1) * r2 * before) / (k - m)
    return now
