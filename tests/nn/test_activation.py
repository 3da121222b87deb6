"""Activation functions against their formulas, with derivatives."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from dpsim.errors import ConfigError
from dpsim.nn.activation import activation
from dpsim.nn.activation_name import PLAIN, ActivationName, read_activation

X = torch.cat([torch.linspace(-12, 14, 105), torch.tensor([-50.0, 3.0, 10.0, 50.0])]).double()


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def silut(threshold):
    def f(x):
        if x < threshold:
            return x * sigmoid(x)
        s = sigmoid(threshold)
        return math.tanh((s + threshold * s * (1 - s)) * (x - threshold)) + threshold * s

    return f


FORMULAS = {
    "tanh": math.tanh,
    "silu": lambda x: x * sigmoid(x),
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "sigmoid": sigmoid,
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
    "gelu": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "gelu_tf": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "none": lambda x: x,
    "linear": lambda x: x,
    "silut": silut(3.0),
    "SiluT:10": silut(10.0),
    "custom_silu:2.5": silut(2.5),
}


def test_every_plain_name_has_a_formula_here():
    assert set(PLAIN) <= set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
def test_values(name):
    expected = torch.tensor([FORMULAS[name](x) for x in X.tolist()], dtype=torch.float64)
    # softplus of torch is linear beyond 20, an error of 2e-9
    torch.testing.assert_close(activation(name)(X), expected, rtol=1e-14, atol=3e-9 if name == "softplus" else 1e-14)


@pytest.mark.parametrize("name", FORMULAS)
def test_first_and_second_derivatives(name):
    phi, step = activation(name), 1e-4
    centers = torch.linspace(-3.95, 12.25, 55).double()  # on no kink
    x = centers.clone().requires_grad_(True)
    y = phi(x)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    torch.testing.assert_close(
        first.detach(), (phi(centers + step) - phi(centers - step)) / (2 * step), atol=2e-8, rtol=1e-7
    )
    if first.requires_grad:
        second = torch.autograd.grad(first.sum(), x, allow_unused=True)[0]
        expected = (phi(centers + step) - 2 * phi(centers) + phi(centers - step)) / step**2
        torch.testing.assert_close(torch.zeros_like(x) if second is None else second, expected, atol=2e-6, rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.5, 3.0, 10.0])
def test_silut_continues_value_and_slope(threshold):
    phi = activation(f"silut:{threshold}")
    x = torch.tensor([threshold - 1e-9, threshold + 1e-9], dtype=torch.float64, requires_grad=True)
    y = phi(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert (y[1] - y[0]).abs().item() < 1e-8
    assert (slope[1] - slope[0]).abs().item() < 1e-7


def test_codes_of_the_fused_kernels():
    from dpsim import ops

    assert {name: activation(name).code for name in ("silu", "silut:10", "tanh")} == {
        "silu": ops.ACTIVATIONS["silu"], "silut:10": ops.ACTIVATIONS["silut"], "tanh": ops.ACTIVATIONS["tanh"],
    }  # fmt: skip
    assert activation("silut:10").threshold == 10.0
    assert activation("gelu").code is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("swish", "activation 'swish' is unknown: use one of tanh, silu"),
        ("tanh:3", "activation 'tanh:3' is unknown"),
        ("", "activation '' is unknown"),
        ("silut:x", r"'x' is no threshold, expected a positive number below 700 as in 'silut:10'"),
        ("silut:-1", "'-1' is no threshold"),
        ("silut:nan", "'nan' is no threshold"),
        ("silut:1e9", "'1e9' is no threshold"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(ConfigError, match=message):
        activation(name)
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(ActivationName).validate_python(name)


def test_declared_names_are_kept_as_written():
    assert TypeAdapter(ActivationName).validate_python(" SILUT:10 ") == " SILUT:10 "
    assert read_activation(" SILUT:10 ") == ("silut", 10.0)
    assert read_activation("custom_silu") == ("silut", 3.0)
