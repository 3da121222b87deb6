"""Type embedding from electron configurations (from one-hot types: `test_networks`)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase.data import chemical_symbols

from dpsim.errors import ConfigError
from dpsim.nn.electron_configuration import DIM, EXCEPTIONS, SUBSHELLS, configuration_vector, occupations
from dpsim.nn.type_embedding import TypeEmbedding

CAPACITY = {"s": 2, "p": 6, "d": 10, "f": 14}
# NIST
KNOWN = {
    "H": "1s1",
    "O": "1s2 2s2 2p4",
    "Si": "1s2 2s2 2p6 3s2 3p2",
    "K": "1s2 2s2 2p6 3s2 3p6 4s1",
    "Fe": "1s2 2s2 2p6 3s2 3p6 3d6 4s2",
    "Cu": "1s2 2s2 2p6 3s2 3p6 3d10 4s1",
    "Pd": "1s2 2s2 2p6 3s2 3p6 3d10 4s2 4p6 4d10",
    "Gd": "1s2 2s2 2p6 3s2 3p6 3d10 4s2 4p6 4d10 4f7 5s2 5p6 5d1 6s2",
    "Lr": "1s2 2s2 2p6 3s2 3p6 3d10 4s2 4p6 4d10 4f14 5s2 5p6 5d10 5f14 6s2 6p6 6d1 7s2",
}
UNPAIRED = {"H": 1, "N": 3, "O": 2, "Cr": 6, "Mn": 5, "Zn": 0, "Mo": 6, "Pd": 0, "Eu": 7, "Gd": 8, "U": 4, "Og": 0}


def text(symbol):
    filled = occupations(symbol)
    return " ".join(f"{name}{filled[name]}" for name in SUBSHELLS if filled.get(name))


@pytest.mark.parametrize("symbol", KNOWN)
def test_configurations(symbol):
    assert text(symbol) == KNOWN[symbol]


def test_every_element_has_all_its_electrons_in_subshells_that_hold_them():
    for number, symbol in enumerate(chemical_symbols[1:119], start=1):
        filled = occupations(symbol)
        assert sum(filled.values()) == number
        assert all(0 < n <= CAPACITY[name[1]] for name, n in filled.items())
        spins = configuration_vector(symbol) * math.sqrt(DIM)
        assert spins.shape == (118,)
        assert np.count_nonzero(spins > 0) == number
    assert len({text(symbol) for symbol in chemical_symbols[1:119]}) == 118


@pytest.mark.parametrize("symbol", EXCEPTIONS)
def test_exceptions_move_one_or_two_electrons(symbol):
    """Away from the rule of Madelung; more would be a slip of the pen."""
    number, rule = chemical_symbols.index(symbol), dict.fromkeys(SUBSHELLS, 0)
    for name in sorted(SUBSHELLS, key=lambda n: (int(n[0]) + "spdf".index(n[1]), int(n[0]))):
        rule[name] = min(CAPACITY[name[1]], number - sum(rule.values()))
    filled = occupations(symbol)
    moved = sum(abs(filled.get(name, 0) - rule[name]) for name in SUBSHELLS) / 2
    assert 1 <= moved <= 2


@pytest.mark.parametrize("symbol", UNPAIRED)
def test_unpaired_electrons_in_the_vector(symbol):
    pairs = configuration_vector(symbol).reshape(-1, 2) * math.sqrt(DIM)
    kinds = {(-1.0, -1.0): 0, (-1.0, 1.0): 1, (1.0, 1.0): 2}
    electrons = [kinds[tuple(np.round(pair, 12))] for pair in pairs]
    assert electrons.count(1) == UNPAIRED[symbol]
    assert np.linalg.norm(configuration_vector(symbol)) == pytest.approx(1.0)


def test_order_within_a_subshell():
    oxygen = configuration_vector("O")[4:10] * math.sqrt(DIM)
    np.testing.assert_allclose(oxygen, [1, 1, -1, 1, -1, 1])


@pytest.mark.parametrize("symbol", ["X", "O_spin", "Uue", ""])
def test_types_that_are_no_elements(symbol):
    with pytest.raises(ConfigError, match=f"type '{symbol}' is no chemical element"):
        configuration_vector(symbol)


@pytest.mark.parametrize(("width", "copies"), [(6, 0), (118, 1), (236, 2)])
def test_table_from_configurations(width, copies):
    embedding = TypeEmbedding(("O", "H", "Cr"), width, bias=True, econf=True, dtype=torch.float64)
    vectors = np.stack([configuration_vector(symbol) for symbol in ("O", "H", "Cr")])
    expected = vectors @ embedding.linear.weight.detach().numpy() + embedding.linear.bias.detach().numpy()
    expected += np.tile(vectors, copies) if copies else 0.0
    np.testing.assert_allclose(embedding.table().detach(), expected, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(embedding(torch.tensor([2, 0])).detach(), embedding.table().detach()[[2, 0]])
    assert list(embedding.state_dict()) == ["linear.weight", "linear.bias"]
