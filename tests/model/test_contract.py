"""The contract battery on every model, and that it finds models that break it."""

from __future__ import annotations

import math

import pytest
import torch

from dpsim.model.config import ModelConfig
from dpsim.testing import CHECKS, ContractError, Subject, Tolerances, check_all, checks_for, tiny_models

MODELS = tiny_models()


BROKEN = {
    "loc_frame-ener": {  # mirror images differ, neighbours at one distance have no order, nothing fades out
        "check_rotation", "check_edge_order", "check_supercell", "check_images", "check_cutoff",
    },
}  # fmt: skip
"""What a model breaks by its definition; its own tests say what holds instead."""
CASES = [
    (name, check)
    for name, config in MODELS.items()
    for check in checks_for(config)
    if check.__name__ not in BROKEN.get(name, ())
]


@pytest.mark.parametrize(("name", "check"), CASES, ids=lambda part: getattr(part, "__name__", part))
def test_contract(name, check):
    check(Subject.from_config(MODELS[name]))


def dpa3(changes=None, **flow):
    """The tiny DPA-3 model with other settings of the descriptor and of its layers."""
    config = ModelConfig.tiny()
    descriptor = config.descriptor.model_dump() | (changes or {})
    descriptor["repflow"] |= flow
    return ModelConfig.model_validate(config.model_dump() | {"descriptor": descriptor})


def switch_at(rcut, rcut_smth):
    """Value of the exponential switch at the cutoff."""
    return math.exp(-math.exp(20 / rcut_smth * (rcut - rcut_smth)))


VARIANTS = {
    "exponential switch": dpa3(use_exp_switch=True, e_rcut_smth=3.2, a_rcut_smth=2.5),
    "dynamic selection": dpa3(use_dynamic_sel=True, sel_reduce_factor=2.0),
    "sequential": dpa3(sequential_update=True),
    "no angles": dpa3(update_angle=False),
    "averages": dpa3(update_style="res_avg", edge_init_use_dist=False),
    "increments": dpa3(update_style="res_incr", n_multi_edge_message=2, axis_neuron=3),
    "linear compression": dpa3(a_compress_use_split=False, a_compress_rate=2),
    "no compression, one layer": dpa3(a_compress_rate=0, nlayers=1),
    "plain activation": dpa3({"activation_function": "gelu", "concat_output_tebd": True, "use_tebd_bias": True}),
    "protected distances": dpa3({"env_protection": 0.01, "exclude_types": ((0, 0),)}),
}
ESSENTIAL = {
    "check_rotation", "check_edge_order", "check_batch", "check_empty", "check_forces", "check_virial",
    "check_parameter_gradient", "check_cutoff", "check_inner_cutoffs",
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_contract_of_settings(name):
    check_all(VARIANTS[name], skip={check.__name__ for check in CHECKS} - ESSENTIAL)


def test_exponential_switch_is_continuous_up_to_its_value_at_the_cutoff():
    """With the published ratio 5.3 : 6.0 the switch ends at 8e-7; the jump is of that order and no more."""
    config = dpa3(use_exp_switch=True, e_rcut_smth=4.0 * 5.3 / 6.0, a_rcut_smth=3.0 * 3.5 / 4.0)
    assert switch_at(4.0, 4.0 * 5.3 / 6.0) == pytest.approx(8e-7, rel=0.05)
    every = {check.__name__ for check in CHECKS}
    allowed = Tolerances(jump=100 * switch_at(6.0, 5.3))
    check_all(config, tolerances=allowed, skip=every - {"check_cutoff", "check_inner_cutoffs"})


def test_rough_edge_update_jumps_at_the_angle_cutoff():
    """By its definition (spec dpa3.md §4.4); the battery sees it, and everything else holds."""
    rough = dpa3(smooth_edge_update=False)
    every = {check.__name__ for check in CHECKS}
    with pytest.raises(
        ContractError, match="check_inner_cutoffs: energy where a neighbour crosses the cutoff of an inner list"
    ):
        check_all(rough, skip=every - {"check_inner_cutoffs"})
    check_all(rough, skip=every - (ESSENTIAL - {"check_inner_cutoffs"}))


class Broken(torch.nn.Module):
    """A descriptor spoiled in one respect."""

    def __init__(self, descriptor, spoil):
        super().__init__()
        self.inner, self.spoil = descriptor, spoil

    def forward(self, hood):
        return self.spoil(self.inner, hood)


def add(inner, hood, extra):
    """Descriptor plus a number of each atom."""
    return shifted(inner(hood), extra.to(torch.float64).unsqueeze(1))


def shifted(described, extra):
    return described._replace(features=described.features + extra)


def edge_sum(hood, values):
    return torch.zeros(hood.n_atoms, dtype=torch.float64).index_add(0, hood.center, values)


def last_edge(hood):
    """Length of the last edge of each centre: depends on the order of the edges."""
    r = torch.cat([hood.displacements.norm(dim=1), torch.zeros(1, dtype=torch.float64)])
    return torch.where(hood.edge_ptr.diff() > 0, r[hood.edge_ptr[1:] - 1], 0.0)


SPOILED = {
    "check_rotation": lambda d, h: add(d, h, edge_sum(h, h.displacements[:, 0])),
    "check_permutation": lambda d, h: add(d, h, torch.arange(h.n_atoms) * 0.1),
    "check_edge_order": lambda d, h: add(d, h, last_edge(h)),
    "check_batch": lambda d, h: add(d, h, h.frame * 0.1),
    "check_extensivity": lambda d, h: add(d, h, torch.full((h.n_atoms,), 0.1 * h.n_atoms)),
    "check_supercell": lambda d, h: add(d, h, torch.full((h.n_atoms,), 0.1 * h.n_atoms)),
    "check_isolated_atom": lambda d, h: add(d, h, torch.full((h.n_atoms,), float("nan"))),
    "check_cutoff": lambda d, h: add(d, h, edge_sum(h, torch.ones(len(h.center), dtype=torch.float64))),
    "check_forces": lambda d, h: add(d, h, edge_sum(h, h.displacements.detach().norm(dim=1))),
    "check_virial": lambda d, h: add(d, h, edge_sum(h, h.displacements.detach().norm(dim=1))),
    "check_parameter_gradient": lambda d, h: shifted(d(h), (d.layers[0].node_self.weight.detach() ** 2).sum()),
    "check_images": lambda d, h: add(d, h, torch.full((h.n_atoms,), 0.1 * h.n_atoms)),
}


@pytest.mark.parametrize("name", SPOILED)
def test_the_battery_finds(name):
    subject = Subject.from_config(ModelConfig.tiny())
    check = {check.__name__: check for check in CHECKS}[name]
    check(subject)
    subject.model.descriptor = Broken(subject.model.descriptor, SPOILED[name])
    with pytest.raises(ContractError):
        check(subject)


def test_the_battery_finds_exclusions_without_effect(monkeypatch):
    subject = Subject.from_config(ModelConfig.tiny())
    checks = {check.__name__: check for check in CHECKS}
    monkeypatch.setattr(ModelConfig, "neighbors", lambda self: self.descriptor.neighbors(2))
    with pytest.raises(ContractError, match="molecule with all pairs excluded: atomic_energy"):
        checks["check_pair_exclusions"](subject)
    monkeypatch.setattr(Subject, "variant", lambda self, **changes: self)
    with pytest.raises(ContractError, match="molecule with an excluded type: atomic_energy"):
        checks["check_atom_exclusions"](subject)


def test_failures_are_listed_with_numbers():
    every = {check.__name__ for check in CHECKS}
    with pytest.raises(ContractError) as caught:
        check_all(
            ModelConfig.tiny(), tolerances=Tolerances(derivative=0.0), skip=every - {"check_forces", "check_virial"}
        )
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["check_forces", "check_virial"]
    assert all("differs from" in line and "allowed 0.0e+00" in line for line in lines)


def test_names_to_skip_are_checked():
    with pytest.raises(ValueError, match="there is no check 'check_rotations'"):
        check_all(ModelConfig.tiny(), skip={"check_rotations"})


def test_every_member_of_the_unions_is_covered():
    from typing import get_args

    from dpsim.descriptors import DPA3Config
    from dpsim.fittings import EnergyFittingConfig
    from dpsim.model.config import AnyModelConfig, DPLRModelConfig

    standard = [config for config in MODELS.values() if isinstance(config, ModelConfig)]
    assert any(isinstance(config.descriptor, DPA3Config) for config in standard)
    assert any(isinstance(config.fitting, EnergyFittingConfig) for config in standard)
    assert {type(config) for config in MODELS.values()} == set(get_args(AnyModelConfig)) - {DPLRModelConfig}
