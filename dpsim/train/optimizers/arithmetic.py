"""Faster products of matrices at the price of digits, where the GPU has them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from dpsim.errors import ConfigError, SetupError

CAPABILITY = (8, 0)
"""Least compute capability of a GPU that multiplies in TF32 and bfloat16."""


def check_products(products: str, device: torch.device, precision: str) -> None:
    """Refuse products of matrices that make no difference here, or that the device does not have.

    Raises
    ------
    ConfigError
        If the networks are in float64.
    SetupError
        If there is no GPU that has them.
    """
    if products == "full":
        return
    if precision != "float32":
        raise ConfigError(
            f"matrix_products: {products} is for networks in float32, found {precision}: write full, or "
            "precision: float32"
        )
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    if capability is None or capability < CAPABILITY:
        found = "the device is a CPU" if capability is None else f"the GPU has {capability[0]}.{capability[1]}"
        raise SetupError(
            f"matrix_products: {products} needs a GPU of compute capability {CAPABILITY[0]}.{CAPABILITY[1]} or more, "
            f"and {found}: write full, or train on such a GPU"
        )


@contextlib.contextmanager
def tf32_products(products: str) -> Iterator[None]:
    """Within, products of float32 matrices are made in TF32 if these are asked for."""
    before = torch.get_float32_matmul_precision()
    try:
        if products == "tf32":
            torch.set_float32_matmul_precision("high")
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def bf16_products(products: str, device: str) -> contextlib.AbstractContextManager[object]:
    """Within, torch multiplies in bfloat16 if that is asked for; what is added up stays in float32."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=products == "bf16")
