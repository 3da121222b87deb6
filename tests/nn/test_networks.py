"""Linear maps, residual networks, type embedding and message sums."""

from __future__ import annotations

import math

import pytest
import torch

from dpsim.nn.activation import activation
from dpsim.nn.linear import Linear, ResidualLayer, ResidualNetwork
from dpsim.nn.message import message_sum
from dpsim.nn.type_embedding import TypeEmbedding

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12)
        yield


def close(found, expected, tolerance=1e-13):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def test_linear():
    x = torch.randn(5, 3, dtype=F64)
    with_bias, without = Linear(3, 4, dtype=F64), Linear(3, 4, bias=False, dtype=F64)
    close(with_bias(x), torch.einsum("mi,io->mo", x, with_bias.weight) + with_bias.bias)
    close(without(x), torch.einsum("mi,io->mo", x, without.weight))
    assert [name for name, _ in without.named_parameters()] == ["weight"]
    assert with_bias(x[:0]).shape == (0, 4)


def test_initial_statistics():
    layer = Linear(300, 200, dtype=F64)
    n = layer.weight.numel()
    assert layer.weight.std().item() == pytest.approx(1 / math.sqrt(500), rel=4 / math.sqrt(2 * n))
    assert abs(layer.weight.mean().item()) < 4 / math.sqrt(500 * n)
    biases = torch.cat([Linear(1, 500, dtype=F64).bias for _ in range(10)])
    assert biases.std().item() == pytest.approx(1.0, rel=4 / math.sqrt(2 * 5000))
    assert abs(biases.mean().item()) < 4 / math.sqrt(5000)
    idt = ResidualLayer(500, 500, activation("tanh"), resnet_dt=True, dtype=F64).idt
    assert idt.mean().item() == pytest.approx(0.1, abs=4 * 0.001 / math.sqrt(500))
    assert idt.std().item() == pytest.approx(0.001, rel=4 / math.sqrt(1000))


def test_dtypes_share_the_random_numbers():
    torch.manual_seed(1)
    double = Linear(4, 5, dtype=F64)
    torch.manual_seed(1)
    single = Linear(4, 5, dtype=torch.float32)
    assert single.weight.dtype == torch.float32
    torch.testing.assert_close(single.weight, double.weight.float(), rtol=0, atol=0)


@pytest.mark.parametrize(("n_out", "copies"), [(3, 1), (6, 2), (4, 0), (9, 0), (1, 0)])
@pytest.mark.parametrize("resnet_dt", [False, True])
def test_residual_layer(n_out, copies, resnet_dt):
    layer = ResidualLayer(3, n_out, activation("tanh"), resnet_dt=resnet_dt, dtype=F64)
    assert (layer.idt is not None) == (resnet_dt and copies > 0)
    x = torch.randn(5, 3, dtype=F64)
    expected = torch.tanh(x @ layer.linear.weight + layer.linear.bias)
    if layer.idt is not None:
        expected = expected * layer.idt
    if copies:
        expected = expected + torch.cat([x] * copies, dim=1)
    close(layer(x), expected)


def test_residual_network_is_its_layers():
    net = ResidualNetwork(3, (6, 6, 4), 2, "silut:10", resnet_dt=True, dtype=F64)
    x = y = torch.randn(5, 3, dtype=F64)
    for layer in net.hidden:
        y = layer(y)
    close(net(x), y @ net.output.weight + net.output.bias)
    assert net(x[:0]).shape == (0, 2)
    assert [layer.copies for layer in net.hidden] == [2, 1, 0]


def test_network_without_hidden_layers_is_linear():
    net = ResidualNetwork(3, (), 1, "tanh", resnet_dt=False, dtype=F64)
    x = torch.randn(4, 3, dtype=F64)
    close(net(x), net.output(x))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("width", "copies"), [(3, 1), (6, 2), (5, 0), (9, 0)])
def test_type_embedding_adds_the_identity_where_widths_match(width, copies, bias):
    embedding = TypeEmbedding(("O", "H", "C"), width, bias=bias, dtype=F64)
    table = embedding.linear.weight.detach().clone()
    if copies:
        table += torch.cat([torch.eye(3, dtype=F64)] * copies, dim=1)
    if bias:
        table += embedding.linear.bias
    types = torch.tensor([2, 0, 2, 1])
    close(embedding(types), table[types])
    assert "identity" not in embedding.state_dict()
    assert embedding(types[:0]).shape == (0, width)


@pytest.mark.parametrize("name", ["silut:2", "silu", "tanh", "gelu"])
def test_message_sum_is_its_definition(name):
    segments = torch.tensor([0, 0, 0, 2, 2, 3])
    ptr, index = torch.tensor([0, 3, 3, 5, 6]), torch.tensor([1, 0, 4, 4, 2, 3])
    x, s, b, w = (torch.randn(shape, dtype=F64, requires_grad=True) for shape in ((6, 5), (4, 5), (5, 5), (6,)))
    reduced, item = message_sum(x, s, b, w, ptr, index, 3, activation(name))
    active = activation(name)(x + s[segments] + b[index])
    expected = torch.zeros(4, 3, dtype=F64).index_add(0, segments, active[:, :3] * w[:, None])
    close(reduced, expected)
    close(item, active[:, 3:])
    loss, plain = reduced.square().sum() + item.sin().sum(), expected.square().sum() + active[:, 3:].sin().sum()
    for found, wanted in zip(
        torch.autograd.grad(loss, (x, s, b, w)), torch.autograd.grad(plain, (x, s, b, w)), strict=True
    ):
        close(found, wanted, 1e-12)
