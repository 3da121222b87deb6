"""Models with several heads: what is shared, their files, and the heads as models of their own."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

from dpsim.calculators.evaluate import load
from dpsim.calculators.model_summary import convert_model, summarize
from dpsim.cli.main import run as cli
from dpsim.errors import ModelError
from dpsim.fittings import EnergyFittingConfig
from dpsim.model.checkpoint import load_any, load_model, save_model, state_digest
from dpsim.model.config import ModelConfig
from dpsim.model.multi_config import MultiTaskConfig
from dpsim.model.multi_task import MultiTaskModel, gather
from dpsim.model.peer.files.checkpoint import load_checkpoint, load_heads
from dpsim.physics.neighborhood import collate
from dpsim.testing import Subject
from dpsim.train.records.state import heads_in, read_model


def config_of(shared, fitting=None, **heads):
    """Heads with one fitting net each, or the given one, and what they share."""
    names = heads or {"a": {}, "b": {}, "c": {}}
    plain = ModelConfig.tiny().model_dump() | ({} if fitting is None else {"fitting": fitting})
    settings = {name: {"model": plain | changes} for name, changes in names.items()}
    groups = [{"part": part, "heads": tuple(group)} for part, group in shared]
    return MultiTaskConfig.model_validate({"heads": settings, "shared": groups})


def gradients(model: MultiTaskModel, head: str) -> set[str]:
    """Names of the parameters that one head's energies depend on."""
    member = model.members[head]
    subject = Subject(member.requires_grad_(True))
    model.requires_grad_(True)
    model.zero_grad()
    member(collate([subject.graph(subject.crystal())])).sum().backward()
    return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}


def test_gradients_reach_what_is_shared():
    """A step for one head moves its own parts and the shared ones, and nothing else."""
    model = config_of([("descriptor", "ab"), ("descriptor.type_embedding", "ac")]).build(1)
    a, b, c = (gradients(model, name) for name in "abc")
    names = [name for name, _ in model.named_parameters()]
    own = [{name for name in names if name.startswith(f"heads.{k}.fitting")} for k in range(3)]
    for mine, reached, others in ((own[0], a, b | c), (own[1], b, a | c), (own[2], c, a | b)):
        assert mine <= reached
        assert not mine & others
    assert {p for p in a if ".descriptor." in p} == {p for p in b if ".descriptor." in p}
    embedding = "heads.0.descriptor.type_embedding.linear.weight"
    assert a & c == {embedding}
    assert embedding in b
    assert {p for p in c if ".descriptor." in p} - {embedding} <= {name for name in names if "heads.2." in name}


def test_shared_parts_are_counted_once():
    config = config_of([("descriptor", "abc")])
    model, single = config.build(1), ModelConfig.tiny().build(1)
    descriptor = sum(p.numel() for p in single.descriptor.parameters())
    fitting = sum(p.numel() for p in single.fitting.parameters())
    assert sum(p.numel() for p in model.parameters()) == descriptor + 3 * fitting
    names = model.state_dict()
    assert not [name for name in names if name.startswith(("heads.1.descriptor", "heads.2.descriptor"))]
    other = config.build(2)
    other.load_state_dict(names)
    assert state_digest(other) == state_digest(model)
    first, last = (other.members[name].descriptor.edge_embedding.weight for name in "ac")
    assert first is last


def test_shared_fitting_with_case_vectors():
    """One fitting net for all; a vector that is not shared says which head is meant (place among the sorted names)."""
    fitting = EnergyFittingConfig.tiny().model_copy(update={"dim_case_embd": 3, "numb_fparam": 1}).model_dump()
    config = config_of([("descriptor", "cab"), ("fitting", "cab")], fitting, c={}, a={}, b={})
    model = config.build(1)
    cases = {name: head.fitting.case_embedding.tolist() for name, head in model.members.items()}
    assert cases == {"a": [1, 0, 0], "b": [0, 1, 0], "c": [0, 0, 1]}
    first = model.members["c"].fitting
    first.fparam_mean.fill_(2.0)
    for head in model.members.values():
        assert head.fitting.networks is first.networks
        assert (head.fitting.fparam_mean == 2).all()
        assert head.fitting.config == first.config
    model.members["a"].out_bias.fill_(1.0)
    assert (model.members["b"].out_bias == 0).all()
    reached = [gradients(model, name) for name in "abc"]
    assert reached[0] == reached[1] == reached[2]


def test_file(tmp_path):
    config = config_of([("descriptor", "ab")], b={"atom_exclude_types": (1,)}, a={}, c={})
    model = config.build(3)
    for k, head in enumerate(model.members.values()):
        head.out_bias.copy_(torch.tensor([k + 0.5, -k]))
    path = save_model(model, tmp_path / "m.safetensors", {"step": 5})
    with safe_open(str(path), framework="pt") as file:
        assert set(file.keys()) == set(model.state_dict())
    read = load_any(path)
    assert isinstance(read, MultiTaskModel)
    assert state_digest(read) == state_digest(model)
    assert heads_in(path) == ["b", "a", "c"]
    for name, head in model.members.items():
        single = load_model(path, name)
        assert state_digest(single) == state_digest(head)
        subject = Subject(head.with_precision("float64"))
        structure = subject.crystal()
        found = load(path, head=name, device="cpu").evaluate(**structure.as_frame())
        assert found.energy == pytest.approx(subject.evaluate(structure).energy, rel=1e-12)
    with pytest.raises(ModelError, match=r"m\.safetensors has several heads: choose one head of b, a, c"):
        load(path)
    with pytest.raises(ModelError, match=r"has no head 'd': choose one of b, a, c"):
        load_model(path, "d")
    plain = save_model(ModelConfig.tiny().build(1), tmp_path / "p.safetensors")
    assert heads_in(plain) == []
    with pytest.raises(ModelError, match="has a single head: leave out head='a'"):
        read_model(plain, "a")


def test_show_convert_and_bias(tmp_path, capsys):
    model = config_of([("descriptor", "ab")]).build(3)
    path = save_model(model, tmp_path / "m.safetensors")
    assert cli(["model", "show", str(path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts["heads"]) == ["a", "b", "c"]
    assert facts["shared"] == ["descriptor of a, b"]
    assert facts["heads"]["b"]["digest"] == state_digest(model.members["b"])
    assert cli(["model", "show", str(path)]) == 0
    assert "shared: descriptor of a, b" in capsys.readouterr().out
    assert summarize(path, "b")["head"] == "b"
    assert cli(["model", "convert", str(path), str(tmp_path / "b.dp"), "--head", "b"]) == 0
    assert state_digest(read_model(tmp_path / "b.dp")) == state_digest(model.members["b"])
    with pytest.raises(ModelError, match="choose one head of a, b, c"):
        convert_model(path, tmp_path / "x.dp")
    capsys.readouterr()
    assert cli(["model", "change-bias", str(path), "--head", "b", "-b", "1", "2"]) == 0
    changed = load_any(tmp_path / "m_updated.safetensors")
    assert changed.members["b"].out_bias.tolist() == [1, 2]
    for name in "ac":
        assert state_digest(changed.members[name]) == state_digest(model.members[name])


@pytest.mark.parametrize(
    ("file", "groups"),
    [
        ("ckpt_multi", [("descriptor", ("head_a", "head_b"))]),
        ("ckpt_multi_case", [("descriptor", ("w1", "w2")), ("fitting", ("w1", "w2"))]),
    ],
)
def test_checkpoints_of_the_peer(golden, tmp_path, file, groups):
    """All heads in one file; what they share is found by its numbers, and every head says the same as alone."""
    source = golden / f"{file}.ckpt-6.pt"
    model = load_heads(source)
    assert [(group.part, group.heads) for group in model.config.shared] == groups
    convert_model(source, tmp_path / "m.safetensors")
    for name in heads_in(source):
        alone = load_checkpoint(source, name)
        assert state_digest(load_model(tmp_path / "m.safetensors", name)) == state_digest(alone)
    convert_model(source, tmp_path / "one.safetensors", name)
    assert heads_in(tmp_path / "one.safetensors") == []


def test_gathered_heads_share_what_is_equal():
    config = ModelConfig.tiny()
    a, b, c = config.build(1), config.build(1), config.build(2)
    b.fitting = config.build(5).fitting
    c.descriptor.type_embedding = a.descriptor.type_embedding
    model = gather({"a": a, "b": b, "c": c}, {"b": ["second"]})
    assert [(group.part, group.heads) for group in model.config.shared] == [
        ("descriptor", ("a", "b")), ("descriptor.type_embedding", ("a", "c")),
    ]  # fmt: skip
    for name, head in (("a", a), ("b", b), ("c", c)):
        assert state_digest(model.head(name)) == state_digest(head)
    assert model.head("second") is model.head("b")
    with pytest.raises(ModelError, match=r"cannot be in one model \(.*heads have different type maps"):
        gather({"a": a, "b": config.model_copy(update={"type_map": ("C", "H")}).build(1)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared": [{"part": "descriptor", "heads": ("a", "x")}]}, "is to be shared by 'x', which is no head"),
        ({"shared": [{"part": "fitting", "heads": ("a", "b", "a")}]}, "fitting of 'a' is named twice"),
        ({"heads": {"RANDOM": {"model": ModelConfig.tiny()}}, "shared": []}, "cannot have the name 'RANDOM'"),
        (
            {"heads": {"a": {"model": ModelConfig.tiny(), "aliases": ["a"]}}, "shared": []},
            "two heads have the name 'a'",
        ),
        ({"heads": {}, "shared": []}, "at least 1 item"),
    ],
)
def test_settings_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        MultiTaskConfig.model_validate(MultiTaskConfig.tiny().model_dump() | changes)


def test_shared_parts_must_be_alike():
    other = ModelConfig.tiny().model_copy(update={"fitting": EnergyFittingConfig(neuron=(5,))}).model_dump()
    heads = {"a": {"model": ModelConfig.tiny()}, "b": {"model": other}}
    with pytest.raises(ValueError, match="heads a and b share fitting, but its settings differ"):
        MultiTaskConfig.model_validate({"heads": heads, "shared": [{"part": "fitting", "heads": ("a", "b")}]})
    with pytest.raises(Exception, match=r"shared: a standard model has no part 'descriptor\.nothing'"):
        config_of([("descriptor.nothing", "ab")]).build()
    with pytest.raises(Exception, match=r"fitting\.networks\.0\.hidden\.0 has different shapes in a and b"):
        MultiTaskConfig.model_validate(
            {"heads": heads, "shared": [{"part": "fitting.networks.0.hidden.0", "heads": ("a", "b")}]}
        ).build()
