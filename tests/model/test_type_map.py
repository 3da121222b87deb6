"""Models moved to other elements: what they know of the elements that stay does not change."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dpsim.descriptors import DPA1Config, DPA2Config, DPA3Config, HybridConfig, SeE2AConfig, SeE3TebdConfig
from dpsim.errors import ModelError
from dpsim.fittings import EnergyFittingConfig
from dpsim.model.compose.config import LinearModelConfig, PairTableConfig, ZBLModelConfig
from dpsim.model.compress import compress
from dpsim.model.config import ModelConfig
from dpsim.model.type_map import inherit, moved_config, with_type_map
from dpsim.testing import Subject, tiny_models
from dpsim.testing.structures import Structure

MODELS = {
    name: config for name, config in tiny_models().items() if config.type != "standard" or config.descriptor.mixed_types
}
WIDTHS = {"as many as types": 2, "twice as many": 4, "as many as types later": 3, "others": 5}


def subject_of(config) -> Subject:
    """Model with random scales beside random parameters, so that rows in the wrong place show."""
    subject = Subject.from_config(config)
    generator = torch.Generator().manual_seed(1)
    for name, buffer in subject.model.named_buffers():
        if name.endswith((".mean", ".stddev")):
            buffer.copy_(0.3 + torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
            if name.endswith(".mean"):
                buffer[..., 1:] = 0.0
    return subject


def renamed(structure: Structure, old, new) -> Structure:
    """The same atoms in the types of another model."""
    return structure._replace(types=np.array([new.index(old[t]) for t in structure.types]))


def agree(subject: Subject, type_map, structure: Structure, relative: float = 1e-14) -> Subject:
    """Move the model; it says the same of a structure of elements that both know."""
    moved = Subject(with_type_map(subject.model, type_map, seed=3))
    other = renamed(structure, subject.model.type_map, list(type_map))
    arguments = {**subject.frame(structure), "types": other.types}
    moved.agree_all("moved", moved.potential.evaluate(**arguments), subject.evaluate(structure), relative)
    assert moved.model.type_map == tuple(type_map)
    return moved


@pytest.mark.parametrize("name", MODELS)
def test_permuted(name):
    subject = subject_of(MODELS[name])
    for structure in subject.samples().values():
        agree(subject, ("H", "O"), structure)


@pytest.mark.parametrize("name", MODELS)
def test_reduced(name):
    subject = subject_of(MODELS[name])
    for keep in (0,) if name == "spin" else (0, 1):  # one element must stay magnetic
        structure = subject.crystal()
        only = structure._replace(types=np.full_like(structure.types, keep))
        agree(subject, (subject.model.type_map[keep],), only)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("pairtab", "linear", "zbl", "spin")])
def test_extended(name):
    """With three more elements, in another order; the state of every module fits, and the new ones can be evaluated."""
    subject = subject_of(MODELS[name])
    moved = agree(subject, ("C", "H", "N", "O", "Si"), subject.crystal())
    assert np.all(np.isfinite(moved.totals([moved.crystal()])))
    assert (moved.model.out_bias[[0, 2, 4]] == 0).all()
    back = with_type_map(moved.model, subject.model.type_map)
    for key, tensor in subject.model.state_dict().items():
        torch.testing.assert_close(back.state_dict()[key], tensor, rtol=0, atol=1e-15)


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("econf", [False, True])
def test_type_vectors_stay(width, bias, econf):
    """The residual rule of the embedding depends on the number of types; the vectors do not change with it."""
    descriptor = DPA1Config.tiny().model_dump()
    descriptor |= {"tebd_dim": width, "use_tebd_bias": bias, "use_econf_tebd": econf}
    model = ModelConfig(type_map=("O", "H"), descriptor=descriptor, fitting=EnergyFittingConfig.tiny()).build(1)
    moved = with_type_map(model, ("H", "Li", "O"), seed=4)
    old, new = (m.descriptor.type_embedding.table().detach() for m in (model, moved))
    torch.testing.assert_close(new[[2, 0]], old, rtol=0, atol=1e-15)
    if not econf and not bias:
        assert ((new[1] >= 0) & (new[1] < 1)).all()
        assert not torch.equal(
            new[1], with_type_map(model, ("H", "Li", "O"), seed=5).descriptor.type_embedding.table()[1]
        )


@pytest.mark.parametrize("descriptor", [DPA1Config, DPA2Config, DPA3Config, SeE3TebdConfig])
def test_exclusions_are_renumbered(descriptor):
    settings = descriptor.tiny().model_copy(update={"exclude_types": ((0, 1), (1, 1))})
    config = ModelConfig(
        type_map=("O", "H"), descriptor=settings, fitting={"exclude_types": (1,)},
        pair_exclude_types=((0, 0),), atom_exclude_types=(0,),
    )  # fmt: skip
    moved = moved_config(config, ("H", "C", "O"))
    assert moved.descriptor.exclude_types == ((2, 0), (0, 0))
    assert (moved.fitting.exclude_types, moved.atom_exclude_types) == ((0,), (2,))
    assert moved.pair_exclude_types == ((2, 2),)
    less = moved_config(config, ("H",))
    assert (less.descriptor.exclude_types, less.pair_exclude_types, less.atom_exclude_types) == (((0, 0),), (), ())
    subject = Subject.from_config(config)
    agree(subject, ("H", "C", "O"), subject.crystal())


def test_vacuum_stays_when_its_type_goes():
    """One network serves all types: the flag of a type counts for every atom."""
    fitting = EnergyFittingConfig.tiny().model_copy(update={"vacuum_types": (False, True)})
    subject = subject_of(ModelConfig(type_map=("O", "H"), descriptor=DPA3Config.tiny(), fitting=fitting))
    structure = subject.crystal()
    agree(subject, ("C", "O"), structure._replace(types=np.zeros_like(structure.types)))
    agree(subject, ("C", "H", "O"), structure)


def test_new_types_take_the_scales_of_the_target():
    model = ModelConfig(type_map=("O", "H"), descriptor=DPA1Config.tiny(), fitting=EnergyFittingConfig.tiny()).build(1)
    target = moved_config(model.config, ("H", "C")).build(2)
    environment = target.descriptor.embedding.environment
    environment.stddev.copy_(torch.arange(8.0).reshape(2, 4) + 1)
    inherit(target, model)
    assert (environment.stddev[0] == model.descriptor.embedding.environment.stddev[1]).all()
    assert (environment.stddev[1] == torch.arange(4.0) + 5).all()


def test_descriptor_alone():
    config = ModelConfig.tiny()
    source, target = config.build(1), config.build(2)
    source.out_bias.fill_(3.0)
    fresh = {name: value.clone() for name, value in target.state_dict().items()}
    inherit(target, source, fitting=False)
    for name, value in target.state_dict().items():
        expected = source.state_dict()[name] if name.startswith("descriptor.") else fresh[name]
        assert torch.equal(value, expected), name


def test_composed():
    """Parts of a sum may know more than the sum; a table can lose elements but not learn them."""
    subject = subject_of(LinearModelConfig.tiny())
    moved = agree(subject, ("H",), _all(subject, 1))
    assert moved.config.models[0].type_map == ("O", "H")
    for config in (LinearModelConfig.tiny(), ZBLModelConfig.tiny(), PairTableConfig.tiny()):
        with pytest.raises(ModelError, match=r"table of pair energies knows nothing of Li: give a table that does"):
            moved_config(config, ("O", "Li"))
    two = LinearModelConfig(type_map=("O", "H"), models=(ModelConfig.tiny(), ModelConfig.tiny()))
    agree(subject_of(two), ("C", "H", "O"), subject.crystal())


def _all(subject: Subject, t: int) -> Structure:
    structure = subject.crystal()
    return structure._replace(types=np.full_like(structure.types, t))


def test_a_table_joins_a_plain_model():
    plain = Subject.from_config(ModelConfig.tiny()).model
    target = ZBLModelConfig.tiny().build(5)
    inherit(target, plain)
    state = target.state_dict()
    for name, value in plain.state_dict().items():
        assert torch.equal(state[f"models.0.{name}"], value)


@pytest.mark.parametrize(
    ("descriptor", "named"),
    [(SeE2AConfig.tiny(), "se_e2_a"), (HybridConfig(list=(DPA1Config.tiny(), SeE2AConfig.tiny())), "se_e2_a")],
)
def test_networks_by_type_are_refused(descriptor, named):
    config = ModelConfig(type_map=("O", "H"), descriptor=descriptor, fitting=EnergyFittingConfig.tiny())
    with pytest.raises(ModelError, match=rf"\({named}\) has networks for each of them: .* dpa3"):
        moved_config(config, ("H", "O"))
    assert moved_config(config, ("O", "H")) is config


def test_compressed():
    """Tables of a distance serve all types; they end where the elements that they were made for did."""
    strip = DPA1Config.tiny().model_dump() | {"tebd_input_mode": "strip", "attn_layer": 0}
    config = ModelConfig(type_map=("O", "H"), descriptor=strip, fitting=EnergyFittingConfig.tiny())
    subject = Subject(compress(subject_of(config).model, 0.5).model)
    assert subject.model.config.descriptor.compressed
    agree(subject, ("H", "O"), subject.crystal())
    with pytest.raises(ModelError, match="a compressed model cannot take in elements"):
        moved_config(subject.model.config, ("O", "H", "C"))


def test_other_settings_are_refused():
    config = ModelConfig.tiny()
    wider = config.model_copy(update={"fitting": EnergyFittingConfig(neuron=(8, 9), activation_function="silut:10")})
    deeper = config.model_copy(
        update={"fitting": EnergyFittingConfig(neuron=(8, 8, 8), activation_function="silut:10")}
    )
    with pytest.raises(ModelError, match=r"fitting\.networks\.0\..* has shape .* expected .* settings"):
        inherit(wider.build(1), config.build(1))
    with pytest.raises(ModelError, match=r"fitting\..* is not in both models"):
        inherit(deeper.build(1), config.build(1))
    with pytest.raises(ModelError, match=r"a zbl model cannot go on from a linear model"):
        inherit(ZBLModelConfig.tiny().build(1), LinearModelConfig.tiny().build(1))
    spin = tiny_models()["spin"]
    with pytest.raises(ModelError, match=r"no virtual_scale for C"):
        moved_config(spin, ("O", "C"))
    with pytest.raises(ModelError, match=r"a model for H cannot be: .*at least one must be magnetic"):
        moved_config(spin, ("H",))
