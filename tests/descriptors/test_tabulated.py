"""Tables of networks: nodes, quintics, ranges of the input, and the accuracy that they have."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from dpsim.descriptors import DPA1Config, HybridConfig, SeE2AConfig, SeE3Config, SeE3TebdConfig
from dpsim.descriptors.table_grid import TableGrid
from dpsim.descriptors.tabulated import TabulatedNetwork, nodes, quintics, scalar_networks
from dpsim.nn.linear import EmbeddingNetwork


def network(name="tanh", *, resnet_dt=False, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EmbeddingNetwork(1, (4, 8, 16), name, resnet_dt=resnet_dt, dtype=dtype).requires_grad_(False)


def table(net, step, lower=-2, upper=3, *, both_sides=False, dtype=torch.float64):
    grid = TableGrid.over(lower, upper, step, 3.0, both_sides=both_sides)
    made = TabulatedNetwork(grid, 16, dtype)
    made.fill(net)
    return made


def test_grid():
    grid = TableGrid.over(-2, 3, 0.25, 3.0, both_sides=True)
    assert grid.numbers == (-6.0, -2.0, 3.0, 9.0, 2, 20, 3)
    assert TableGrid.over(-2, 3, 0.25, 1.0, both_sides=True).numbers == (-2.0, -2.0, 3.0, 3.0, 0, 20, 0)
    assert TableGrid.over(0, 3, 0.1, 1.0, both_sides=False).inside == 30  # 3 / 0.1 is a little more than 30
    at = nodes(torch.tensor(grid.numbers, dtype=torch.float64))
    assert len(at) == grid.n_intervals + 1
    assert at[[0, 1, 2, 3, 22, 23, 25]].tolist() == [-6.0, -4.0, -2.0, -1.75, 3.0, 5.0, 9.0]


@pytest.mark.parametrize(
    "changes", [{"lower": 3.0}, {"upper": -3.0}, {"below": 0}, {"above": 0}, {"inside": 0}, {"end": 2.0}]
)
def test_wrong_grids(changes):
    settings = TableGrid.over(-2, 3, 0.25, 3.0, both_sides=True).model_dump()
    with pytest.raises(ValidationError):
        TableGrid(**settings | changes)


def test_quintics_meet_value_slope_and_curvature_at_both_ends():
    net, at = network("gelu", resnet_dt=True), torch.linspace(-1, 2, 7, dtype=torch.float64)
    c, h = quintics(net, at), 0.5
    powers = torch.tensor([[h**k for k in range(6)]], dtype=torch.float64)
    slopes = torch.tensor([[k * h ** (k - 1) for k in range(1, 6)]], dtype=torch.float64)
    bends = torch.tensor([[k * (k - 1) * h ** (k - 2) for k in range(2, 6)]], dtype=torch.float64)
    upper = [torch.einsum("ak,skm->sm", p, c[:, 6 - p.shape[1] :]) for p in (powers, slopes, bends)]
    x = at.clone().requires_grad_()
    y = net(x.unsqueeze(1))
    for m in range(16):
        (d,) = torch.autograd.grad(y[:, m].sum(), x, create_graph=True, retain_graph=True)
        (b,) = torch.autograd.grad(d.sum(), x, retain_graph=True)
        for expected, lower, found in zip((y[:, m], d, b / 2), (0, 1, 2), upper, strict=True):
            torch.testing.assert_close(c[:, lower, m], expected[:-1].detach(), rtol=1e-12, atol=1e-12)
            scale = 2 if lower == 2 else 1
            torch.testing.assert_close(found[:, m] / scale, expected[1:].detach(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("step", "value_error", "slope_error"), [(0.1, 1e-8, 1e-6), (0.01, 1e-13, 1e-11)])
@pytest.mark.parametrize("resnet_dt", [False, True])
@pytest.mark.parametrize("name", ["tanh", "gelu", "silu", "softplus", "sigmoid", "linear"])
def test_accuracy_in_the_fine_part(name, resnet_dt, step, value_error, slope_error):
    net = network(name, resnet_dt=resnet_dt)
    made = table(net, step)
    x = torch.linspace(-2, 3, 1001, dtype=torch.float64)[:-1].unsqueeze(1).requires_grad_()
    found, expected = made(x), net(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=value_error)
    slopes = [torch.autograd.grad(y[:, 3].sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=0, atol=slope_error)


@pytest.mark.parametrize("both_sides", [False, True])
def test_accuracy_of_all_intervals(both_sides):
    """Also of the first and last of each part, where the widths of neighbouring intervals differ."""
    net = network()
    made = table(net, 0.02, both_sides=both_sides)
    at = nodes(made.grid)
    middle = 0.5 * (at[1:] + at[:-1]).unsqueeze(1)
    error = (made(middle) - net(middle)).abs().max(1).values
    width = at.diff()
    assert error[width < 0.1].max() < 1e-11
    assert error.max() < 1e-5


def test_far_outside_it_goes_on_in_a_straight_line():
    made = table(network(), 0.02)
    x = torch.tensor([[9.0], [20.0], [31.0]], dtype=torch.float64)
    y = made(x)
    torch.testing.assert_close(y[2] - y[1], y[1] - y[0])


def test_float32():
    net = network(dtype=torch.float32)
    made = table(net, 0.05, dtype=torch.float32)
    x = torch.linspace(-2, 3, 101)[:-1].unsqueeze(1)
    assert made(x).dtype == torch.float32
    torch.testing.assert_close(made(x), net(x), rtol=1e-5, atol=1e-5)


def descriptor(config, stddev=0.1, mean=0.05):
    module = config.build(("O", "H"))
    for name, buffer in module.named_buffers():
        if name.endswith("environment.stddev"):
            buffer.fill_(stddev)
        if name.endswith("environment.mean"):
            buffer[..., 0] = mean
    return module


def test_ranges_of_the_input():
    """Whole numbers around what neighbours give between the smallest distance and the cutoff."""
    one = SeE2AConfig(sel=10, type_one_side=True, rcut=4.0, rcut_smth=2.0)
    module = descriptor(one)
    module.environment.mean[1, 0, 0] = 0.15  # neighbours of type 1 around type 0
    (first, second) = scalar_networks(module, 1.0)
    assert first == ("networks.0", -1, 10, False)  # −0.05/0.1 and (1/1.0 − 0.05)/0.1
    assert second == ("networks.1", -2, 10, False)
    two = descriptor(one.model_copy(update={"type_one_side": False}))
    two.environment.mean[1, 0, 0] = 0.15
    two.environment.stddev[0, 1, 0] = 0.2
    assert [found[1:3] for found in scalar_networks(two, 1.0)] == [(-1, 10), (-1, 5), (-2, 9), (-1, 10)]
    angles = scalar_networks(descriptor(SeE3Config(sel=10, rcut=4.0, rcut_smth=2.0)), 2.0)
    assert [found[0] for found in angles] == ["networks.0", "networks.1", "networks.2"]
    assert {found[1:] for found in angles} == {(-25, 25, True)}  # (1/2.0 / 0.1)²


def test_what_can_be_tabulated():
    strip = DPA1Config.tiny().model_copy(update={"tebd_input_mode": "strip"})
    assert [found.path for found in scalar_networks(descriptor(strip), 1.0)] == ["embedding.network"]
    assert scalar_networks(descriptor(DPA1Config.tiny()), 1.0) == ()
    angles = SeE3TebdConfig.tiny().model_copy(update={"tebd_input_mode": "strip"})
    assert [found.path for found in scalar_networks(descriptor(angles), 1.0)] == ["three_body.network"]
    paths = [found.path for found in scalar_networks(descriptor(HybridConfig.tiny()), 1.0)]
    assert len(paths) == 4 + 2
    assert paths[0] == "members.0.networks.0"


def test_settings_without_tables_for_all_networks():
    grid = TableGrid.over(-2, 3, 0.5, 3.0, both_sides=False)
    config = SeE2AConfig.tiny().model_copy(update={"compressed": (grid,)})
    with pytest.raises(ValueError, match="compressed has 1 tables, expected 4: one for each network of a number"):
        config.build(("O", "H"))


def test_empty_tables_give_no_numbers():
    """Before they are filled, so that forgetting it is seen."""
    grid = TableGrid.over(-2, 3, 0.5, 3.0, both_sides=False)
    assert TabulatedNetwork(grid, 2, torch.float64)(torch.zeros(1, 1, dtype=torch.float64)).isnan().all()
