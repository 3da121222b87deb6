"""DPA-2 and se_e3_tebd in DeePMD-kit's files and inputs, beyond the golden cases."""

from __future__ import annotations

import numpy as np
import pytest

from dpsim.descriptors import DPA2Config, SeE3TebdConfig
from dpsim.errors import ConfigError, ModelError
from dpsim.model.checkpoint import state_digest
from dpsim.model.config import ModelConfig
from dpsim.model.peer.descriptors.dpa2 import DPA2Peer
from dpsim.model.peer.descriptors.se_e3_tebd import SeE3TebdPeer
from dpsim.model.peer.families import FAMILIES
from dpsim.model.peer.family import Context
from dpsim.model.peer.files.convert import load_serialized, write_serialized
from dpsim.model.peer.files.tree import read_tree, write_tree
from dpsim.model.peer.section import InputSection

CONTEXT = Context(("O", "H"), FAMILIES)
REQUIRED = {
    "repinit": {"rcut": 6.0, "rcut_smth": 0.5, "nsel": 120},
    "repformer": {"rcut": 4.0, "rcut_smth": 3.5, "nsel": 40},
}


def from_input(family, node):
    return family.from_input(InputSection(node, "input.json: model.descriptor"), CONTEXT)


def model(descriptor):
    return ModelConfig(type_map=("O", "H"), descriptor=descriptor, fitting=ModelConfig.tiny().fitting).build(1)


def widths(g1_dim, **repinit):
    tiny = DPA2Config.tiny().model_dump()
    parts = {"repinit": tiny["repinit"] | repinit, "repformer": tiny["repformer"] | {"g1_dim": g1_dim}}
    return DPA2Config.model_validate(tiny | parts)


def test_inputs_have_the_defaults_of_the_peer():
    config = DPA2Config.model_validate(from_input(DPA2Peer(), {"type": "dpa2", **REQUIRED}))
    assert (config.repinit.axis_neuron, config.repinit.neuron, config.repinit.use_three_body) == (
        16,
        (25, 50, 100),
        False,
    )
    assert (config.repformer.g1_dim, config.repformer.g2_dim, config.repformer.update_style) == (128, 16, "res_avg")
    assert (config.concat_output_tebd, config.smooth, config.add_tebd_to_repinit_out) == (True, True, False)
    config = SeE3TebdConfig.model_validate(from_input(SeE3TebdPeer(), {"type": "se_e3_tebd", "sel": [20, 40]}))
    assert (config.sel, config.rcut, config.neuron, config.use_tebd_bias) == (60, 6.0, (10, 20, 40), True)


def test_inputs_know_other_names_and_no_epsilon():
    layers = REQUIRED["repformer"] | {"ln_eps": None}
    config = from_input(DPA2Peer(), REQUIRED | {"repformer": layers, "repformer_add_type_ebd_to_seq": True})
    checked = DPA2Config.model_validate(config)
    assert checked.add_tebd_to_repinit_out
    assert checked.repformer.ln_eps == 1e-5


def test_numbers_of_neighbours_may_be_counted():
    first = REQUIRED["repinit"] | {"nsel": "auto", "three_body_sel": "auto:1.2", "three_body_rcut": 3.0}
    config = from_input(DPA2Peer(), REQUIRED | {"repinit": first})
    places = DPA2Peer().sel_places(config, FAMILIES)
    assert [(place.path, place.cutoff) for place in places] == [
        (("repinit", "nsel"), 6.0),
        (("repinit", "three_body_sel"), 3.0),
        (("repformer", "nsel"), 4.0),
    ]
    config = from_input(SeE3TebdPeer(), {"rcut": 5.0})
    assert config["sel"] == "auto"
    assert [(place.path, place.cutoff) for place in SeE3TebdPeer().sel_places(config, FAMILIES)] == [(("sel",), 5.0)]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"repinit": {"rcut": 6.0}, "repformer": {}}, r"descriptor\.repinit: the key 'rcut_smth' is missing"),
        ({"repformer": {}}, r"descriptor: the key 'repinit' is missing"),
        (REQUIRED | {"repformer": REQUIRED["repformer"] | {"nlayer": 3}}, r"repformer: the key 'nlayer' is not known"),
        (REQUIRED | {"rcut": 6.0}, r"descriptor: the key 'rcut' is not known"),
    ],
)
def test_inputs_are_refused_with_the_place(node, message):
    with pytest.raises(ConfigError, match=message):
        from_input(DPA2Peer(), {"type": "dpa2", **node})


@pytest.mark.parametrize(
    ("descriptor", "kind"),
    [
        (widths(30, use_three_body=False), "Identity"),
        (widths(34), "Layer"),  # the peer's reader overlooks the three-body part: the map is written as one of ones
        (widths(8), "Layer"),
    ],
)
def test_the_map_to_the_layers_comes_back(tmp_path, descriptor, kind):
    written = model(descriptor)
    path = write_serialized(written, tmp_path / "m.dp")
    assert read_tree(path)["model"]["descriptor"]["g1_shape_tranform"]["@class"] == kind
    read = load_serialized(path)
    assert read.config == written.config
    assert state_digest(read) == state_digest(written)


def test_what_the_peer_would_read_wrongly_is_not_written(tmp_path):
    with pytest.raises(ModelError, match=r"equals g1_dim \(30\) beside a three-body part: DeePMD-kit reads"):
        write_serialized(model(widths(30)), tmp_path / "m.dp")
    assert not list(tmp_path.iterdir())


def changed(tmp_path, descriptor, change):
    """A written model whose section of the descriptor is changed."""
    path = write_serialized(model(descriptor), tmp_path / "m.dp")
    tree = read_tree(path)
    change(tree["model"]["descriptor"])
    return write_tree(tree, tmp_path / "changed.dp")


def test_a_map_between_equal_widths_is_refused(tmp_path):
    def change(node):
        node["g1_shape_tranform"]["@variables"]["w"] = np.eye(34) * 2

    with pytest.raises(ModelError, match="g1_shape_tranform: found a map between equal widths"):
        load_serialized(changed(tmp_path, widths(34), change))


@pytest.mark.parametrize("descriptor", [DPA2Config.tiny(), SeE3TebdConfig.tiny()])
def test_a_mean_direction_is_refused(tmp_path, descriptor):
    def change(node):
        node.get("repinit_three_body_variable", node)["@variables"]["davg"][:, :, 2] = 0.1

    with pytest.raises(ModelError, match="davg: the mean of the vector part is not zero"):
        load_serialized(changed(tmp_path, descriptor, change))


def test_older_records_lack_the_newer_updates(tmp_path):
    """Version 2 has no separate updates, whatever the arguments say: its arrays are those of such a model."""
    tiny = DPA2Config.tiny()
    off = {"use_sqrt_nnei": False, "g1_out_conv": False, "g1_out_mlp": False}
    old = tiny.model_copy(update={"repformer": tiny.repformer.model_copy(update=off)})

    def change(node):
        node["@version"] = 2
        for name in off:
            node["repformer_args"][name] = True

    assert load_serialized(changed(tmp_path, old, change)).config.descriptor == old
