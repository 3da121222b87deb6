"""Fitting nets against their formulas (spec fittings.md §1, §2) in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from dpsim.descriptors import SeE2AConfig, SeE2RConfig
from dpsim.descriptors.described import Described
from dpsim.errors import ConfigError
from dpsim.fittings import (
    DipoleFittingConfig,
    DOSFittingConfig,
    EnergyFittingConfig,
    FittingConfig,
    PolarizabilityFittingConfig,
    PopulationFittingConfig,
    PropertyFittingConfig,
)
from dpsim.model.config import ModelConfig
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import NeighborSpec, frame_graph
from dpsim.testing import CHECKS, check_all

N, D, M = 5, 4, 3
TYPES = np.array([0, 1, 1, 0, 1])
RNG = np.random.default_rng(0)
FEATURES, BASIS = RNG.normal(size=(N, D)), RNG.normal(size=(N, M, 3))
DESCRIBED = Described(torch.from_numpy(FEATURES), torch.from_numpy(BASIS))
HOOD = collate([frame_graph(np.arange(3.0 * N).reshape(N, 3), TYPES, None, NeighborSpec(1.0, 1))])


def module(config, *, mixed_types=False):
    """A fitting with random biases."""
    torch.manual_seed(0)
    fitting = config.build(2, D, M, mixed_types=mixed_types).double()
    if fitting.own_bias:
        fitting.bias_by_type.copy_(torch.randn(fitting.bias_by_type.shape, dtype=torch.float64))
    return fitting.requires_grad_(False)


def rows_of(fitting, x):
    """Rows of the network, by the layers' definition: tanh, learned scale, residual where widths are equal."""
    out = np.zeros((N, fitting.networks[0].output.weight.shape[1]))
    for t in (0, 1):
        network, y = fitting.networks[t % len(fitting.networks)], x
        for layer in network.hidden:
            z = np.tanh(y @ layer.linear.weight.numpy() + layer.linear.bias.numpy())
            z = z * layer.idt.numpy() if layer.idt is not None else z
            y = z + y if z.shape == y.shape else z
        out[t == TYPES] = (y @ network.output.weight.numpy() + network.output.bias.numpy())[t == TYPES]
    if fitting.own_bias:
        out += fitting.bias_by_type.numpy()[TYPES]
    out[np.isin(TYPES, fitting.config.exclude_types)] = 0
    return out


@pytest.mark.parametrize("mixed_types", [False, True])
@pytest.mark.parametrize("exclude", [(), (1,)])
def test_dipole(mixed_types, exclude):
    fitting = module(DipoleFittingConfig(neuron=(6, 6), exclude_types=exclude), mixed_types=mixed_types)
    assert len(fitting.networks) == (1 if mixed_types else 2)
    found = fitting(DESCRIBED, HOOD).numpy()
    expected = np.einsum("im,imk->ik", rows_of(fitting, FEATURES), BASIS)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    values = torch.from_numpy(found)
    assert fitting.with_bias(values, torch.ones(2, 3), torch.ones(2, 3), HOOD.types) is values


@pytest.mark.parametrize("scale", [1.0, (1.5, -0.5)])
@pytest.mark.parametrize("fit_diag", [True, False])
def test_polarizability(fit_diag, scale):
    config = PolarizabilityFittingConfig(neuron=(6,), fit_diag=fit_diag, scale=scale)
    fitting = module(config)
    factor = np.broadcast_to(scale, 2)[TYPES]
    rows = rows_of(fitting, FEATURES) * factor[:, None]
    if fit_diag:
        expected = np.einsum("im,imk,iml->ikl", rows, BASIS, BASIS)
    else:
        matrix = rows.reshape(N, M, M)
        expected = np.einsum("imk,imn,inl->ikl", BASIS, 0.5 * (matrix + matrix.transpose(0, 2, 1)), BASIS)
    found = fitting(DESCRIBED, HOOD)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-14)
    bias = RNG.normal(size=(2, 3, 3))
    shift = np.trace(bias, axis1=1, axis2=2)[TYPES] / 3 * factor
    shifted = fitting.with_bias(found, torch.from_numpy(bias), torch.ones(2, 3, 3), HOOD.types)
    np.testing.assert_allclose(shifted.numpy(), expected + shift[:, None, None] * np.eye(3), rtol=1e-12)
    still = module(config.model_copy(update={"shift_diag": False}))
    assert still.with_bias(found, torch.from_numpy(bias), torch.ones(2, 3, 3), HOOD.types) is found


def test_density_of_states():
    fitting = module(DOSFittingConfig(neuron=(6,), numb_dos=7))
    found, bias = fitting(DESCRIBED, HOOD), RNG.normal(size=(2, 7))
    np.testing.assert_allclose(found.numpy(), rows_of(fitting, FEATURES), rtol=1e-12)
    with_bias = fitting.with_bias(found, torch.from_numpy(bias), torch.full((2, 7), 9.0), HOOD.types)
    np.testing.assert_allclose(with_bias.numpy(), found.numpy() + bias[TYPES], rtol=1e-12)


@pytest.mark.parametrize("distinguish", [True, False])
def test_property(distinguish):
    """In units of the deviation: times it, plus the bias; of each type, or of the first for all."""
    config = PropertyFittingConfig(neuron=(6,), property_name="gap", task_dim=2, distinguish_types=distinguish)
    fitting = module(config)
    found, bias, std = fitting(DESCRIBED, HOOD), RNG.normal(size=(2, 2)), RNG.uniform(1, 2, (2, 2))
    np.testing.assert_allclose(found.numpy(), rows_of(fitting, FEATURES), rtol=1e-12)
    which = TYPES if distinguish else np.zeros(N, dtype=int)
    expected = found.numpy() * std[which] + bias[which]
    with_bias = fitting.with_bias(found, torch.from_numpy(bias), torch.from_numpy(std), HOOD.types)
    np.testing.assert_allclose(with_bias.numpy(), expected, rtol=1e-12)


def test_population():
    fitting = module(PopulationFittingConfig(neuron=(6,)))
    found = fitting(DESCRIBED, HOOD)
    assert found.shape == (N, 2)
    np.testing.assert_allclose(found.numpy(), rows_of(fitting, FEATURES), rtol=1e-12)
    assert fitting.with_bias(found, torch.ones(2, 2), torch.ones(2, 2), HOOD.types) is found


def test_parameters_are_scaled_and_appended():
    config = DipoleFittingConfig(neuron=(6,), numb_fparam=2, numb_aparam=1, dim_case_embd=2)
    fitting = module(config)
    fparam, aparam = RNG.normal(size=(1, 2)), RNG.normal(size=(N, 1))
    for name in ("fparam_mean", "fparam_inv_std", "aparam_mean", "aparam_inv_std", "case_embedding"):
        buffer = fitting.get_buffer(name)
        buffer.copy_(torch.from_numpy(RNG.uniform(1, 2, tuple(buffer.shape))))
    hood = HOOD._replace(fparam=torch.from_numpy(fparam), aparam=torch.from_numpy(aparam))
    frame = (fparam - fitting.fparam_mean.numpy()) * fitting.fparam_inv_std.numpy()
    atom = (aparam - fitting.aparam_mean.numpy()) * fitting.aparam_inv_std.numpy()
    case = np.tile(fitting.case_embedding.numpy(), (N, 1))
    x = np.concatenate([FEATURES, np.repeat(frame, N, axis=0), atom, case], axis=1)
    expected = np.einsum("im,imk->ik", rows_of(fitting, x), BASIS)
    np.testing.assert_allclose(fitting(DESCRIBED, hood).numpy(), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("mixed_types", [False, True])
def test_vacuum(mixed_types):
    """The value for a zero descriptor is taken off: of all atoms where one network serves all types."""
    fitting = module(EnergyFittingConfig(neuron=(6,), vacuum_types=(False, True)), mixed_types=mixed_types)
    zero = rows_of(fitting, np.zeros_like(FEATURES))[:, 0]
    subtracted = np.ones(N) if mixed_types else (TYPES == 1)
    expected = rows_of(fitting, FEATURES)[:, 0] - zero * subtracted
    np.testing.assert_allclose(fitting(DESCRIBED, HOOD).numpy(), expected, rtol=1e-12)


VARIANTS = {
    "full polarizability": PolarizabilityFittingConfig.tiny().model_copy(update={"fit_diag": False}),
    "sum without types": PropertyFittingConfig.tiny().model_copy(
        update={"intensive": False, "distinguish_types": False}
    ),
    "parameters": EnergyFittingConfig.tiny().model_copy(update={"numb_fparam": 2, "numb_aparam": 1}),
    "case": DipoleFittingConfig.tiny().model_copy(update={"dim_case_embd": 2, "exclude_types": (1,)}),
    "vacuum": EnergyFittingConfig.tiny().model_copy(update={"vacuum_types": (True, False)}),
}
ESSENTIAL = {
    "check_rotation", "check_permutation", "check_supercell", "check_batch", "check_placeholders", "check_empty",
    "check_isolated_atom", "check_atom_exclusions", "check_forces", "check_dipole_derivatives",
    "check_parameter_gradient", "check_single_precision", "check_file_round_trip",
}  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_contract_of_settings(name):
    config = ModelConfig(type_map=("O", "H"), descriptor=SeE2AConfig.tiny(), fitting=VARIANTS[name])
    check_all(config, skip={check.__name__ for check in CHECKS} - ESSENTIAL)


def test_a_fitting_without_a_type_is_that_of_energies():
    adapter = TypeAdapter(FittingConfig)
    assert adapter.validate_python({"neuron": [3]}) == EnergyFittingConfig(neuron=(3,))
    assert adapter.validate_python({"type": "dos"}) == DOSFittingConfig()


@pytest.mark.parametrize(
    ("fitting", "message"),
    [
        (
            {"type": "polar", "scale": [1.0, 2.0, 3.0]},
            r"fitting\.scale has 3 numbers, expected one a type \(2\) or one",
        ),
        ({"type": "dipole", "exclude_types": [2]}, r"fitting\.exclude_types: \[2\] are outside 0\.\.1"),
        ({"vacuum_types": [True]}, r"fitting\.vacuum_types has 1 entries, expected one a type \(2\)"),
        ({"type": "property"}, "property_name"),
        ({"type": "property", "property_name": "../gap"}, "should match pattern"),
        ({"type": "dos", "numb_dos": 0}, "greater than 0"),
        ({"type": "quadrupole"}, "expected tags: 'ener', 'dipole', 'polar', 'dos', 'property', 'population'"),
        ({"type": "dipole", "numb_fparam": 1, "default_fparam": []}, "default_fparam has 0 numbers"),
    ],
)
def test_wrong_settings(fitting, message):
    with pytest.raises(ValidationError, match=message):
        ModelConfig(type_map=("O", "H"), descriptor=SeE2AConfig.tiny(), fitting=fitting)


def test_vectors_need_a_descriptor_with_directions():
    config = ModelConfig(type_map=("O", "H"), descriptor=SeE2RConfig.tiny(), fitting=DipoleFittingConfig.tiny())
    with pytest.raises(ConfigError, match="'se_e2_r' gives no directions, which fittings of vectors and tensors need"):
        config.build(0)
