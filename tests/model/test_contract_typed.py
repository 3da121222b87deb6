"""The contract on descriptors with typed neighbour places whose environments have a mean, and on mixtures of them."""

from __future__ import annotations

import pytest
import torch

from dpsim.model.config import ModelConfig
from dpsim.testing import CHECKS, ContractError, Subject

A = {"type": "se_e2_a", "rcut": 4.0, "rcut_smth": 2.0, "sel": 40, "neuron": (3, 6), "axis_neuron": 2}
R = {"type": "se_e2_r", "rcut": 3.4, "rcut_smth": 1.0, "sel": (40, 30), "neuron": (3, 6)}
T = {"type": "se_e3", "rcut": 3.5, "rcut_smth": 1.5, "sel": 40, "neuron": (3, 6)}
DPA1 = {
    "type": "dpa1", "rcut": 3.4, "rcut_smth": 2.0, "sel": 80, "neuron": (3, 6), "axis_neuron": 2, "tebd_dim": 2,
    "attn": 4, "attn_layer": 1, "smooth_type_embedding": True,
}  # fmt: skip
APART = {"exclude_types": ((0, 1),)}
VARIANTS = {
    "se_e2_a, one side": (A | APART | {"type_one_side": True}, "OH"),
    "se_e2_a, two sides": (A | APART, "OH"),
    "se_e2_a, one element": (A, "O"),
    "se_e2_r, exclusions": (R | APART, "OH"),
    "se_e3, exclusions": (T | APART, "OH"),
    "se_e3, one element": (T, "O"),
    "hybrid with exclusions": ({"type": "hybrid", "list": [A, R | APART, T | APART]}, "OH"),
    "hybrid with DPA-1": ({"type": "hybrid", "list": [DPA1, A]}, "OH"),
}
NAMES = {
    "check_rotation", "check_permutation", "check_edge_order", "check_batch", "check_empty", "check_isolated_atom",
    "check_forces", "check_virial", "check_parameter_gradient", "check_cutoff", "check_inner_cutoffs",
    "check_pair_exclusions", "check_single_precision", "check_file_round_trip",
}  # fmt: skip


JUMPS = {"se_e2_a, one side", "se_e2_a, two sides", "se_e2_r, exclusions", "hybrid with exclusions"}
"""By the definition (spec classic.md §0): an excluded neighbour is not an empty place where there is a mean."""


def subject(descriptor, elements):
    settings = {"type_map": tuple(elements), "descriptor": descriptor, "fitting": {"neuron": (8, 8)}}
    found = Subject.from_config(ModelConfig.model_validate(settings))
    generator = torch.Generator().manual_seed(0)
    for name, buffer in found.model.named_buffers():
        random = torch.rand(buffer.shape[:-1], generator=generator, dtype=torch.float64)
        if name.endswith("environment.stddev"):
            buffer.copy_(0.2 + 0.2 * random.unsqueeze(-1))
        if name.endswith("environment.mean") and "embedding" not in name:
            buffer[..., 0] = 0.1 * random
    return found


@pytest.mark.parametrize("check", [c for c in CHECKS if c.__name__ in NAMES], ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", VARIANTS)
def test_contract_of_typed_descriptors(name, check):
    if check.__name__ != "check_cutoff" or name not in JUMPS:
        check(subject(*VARIANTS[name]))
        return
    with pytest.raises(ContractError, match="energy where a neighbour crosses the cutoff"):
        check(subject(*VARIANTS[name]))


def test_all_checks_are_there():
    assert {check.__name__ for check in CHECKS} >= NAMES
