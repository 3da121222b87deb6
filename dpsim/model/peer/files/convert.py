"""Serialised models of DeePMD-kit, ``.dp`` and ``.yaml``: read to a `Model`, and written from one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from pydantic import ValidationError

from dpsim.config import first_problem
from dpsim.descriptors.tabulated import TabulatedNetwork
from dpsim.errors import ModelError
from dpsim.model.base import Model
from dpsim.model.checkpoint import check_finite
from dpsim.model.config import read_config
from dpsim.model.peer.families import FAMILIES
from dpsim.model.peer.family import Arrays, Context, Settings
from dpsim.model.peer.files.script import script_of
from dpsim.model.peer.files.tree import read_tree, write_tree
from dpsim.model.peer.section import Section
from dpsim.version import __version__

DAMAGED = (KeyError, IndexError, TypeError, ValueError, AttributeError)
"""What a reader stumbles over where a file is not built as expected."""


def load_serialized(path: str | Path) -> Model:
    """Read a ``.dp`` or ``.yaml`` model of DeePMD-kit.

    Raises
    ------
    ModelError
        If the file is damaged, or holds something that dpsim does not implement.
    """
    where, tree = str(path), read_tree(path)
    try:
        section = Section(tree["model"], f"{where}: model")
        type_map = tuple(str(symbol) for symbol in section.node.get("type_map") or ())
        family = FAMILIES.model(section.node.get("type", "standard"), section.where)
        config, state = family.read(section, Context(type_map, FAMILIES))
        return assemble(config, state, where)
    except ValidationError as error:
        raise ModelError(first_problem(error, f"{where}: model")) from None
    except DAMAGED as error:
        raise ModelError(
            f"{where}: the model's sections are not as expected ({error!r}): the file is damaged"
        ) from None


def write_serialized(model: Model, path: str | Path) -> Path:
    """Write a model to a ``.dp`` or ``.yaml`` file that DeePMD-kit 3.2.0 reads, atomically.

    Raises
    ------
    ModelError
        If the peer has no form for such a model, or the suffix is another.
    """
    family = FAMILIES.model(model.config.type, str(path))
    if any(isinstance(module, TabulatedNetwork) for module in model.modules()):
        raise ModelError(f"{path}: a compressed model cannot be written for DeePMD-kit: write the one it was made from")
    state = {name: tensor.detach().cpu().numpy() for name, tensor in model.state_dict().items()}
    tree = family.write(model.config, state, Context(model.type_map, FAMILIES))
    header = {
        "software": "dpsim",
        "version": __version__,
        "time": datetime.now(UTC).isoformat(sep=" "),
        "backend": "PyTorch",
        "pt_version": torch.__version__,
    }
    script = script_of(tree, model.config)
    return write_tree({**header, "model": tree, "model_def_script": script, "@variables": {}}, path)


def assemble(config: Settings, state: Arrays, where: str) -> Model:
    """Model of the settings with the arrays in it.

    Raises
    ------
    ModelError
        If they do not fit.
    """
    try:
        model = read_config(config).build(0)
    except ValidationError as error:
        raise ModelError(first_problem(error, f"{where}: model")) from None
    fill(model, state, where)
    return model


def fill(model: Model, state: Arrays, where: str) -> None:
    """Put arrays into a model that was built for them.

    Raises
    ------
    ModelError
        If names or shapes do not fit, or numbers are not finite.
    """
    wanted = model.state_dict()
    tensors = {name: torch.from_numpy(np.array(value)) for name, value in settled(state, where).items()}
    for name, tensor in tensors.items():
        if name in wanted:
            fits = name.rpartition(".")[2] in ("out_bias", "out_std") and tensor.numel() == wanted[name].numel()
            tensors[name] = (tensor.reshape(wanted[name].shape) if fits else tensor).to(wanted[name].dtype)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"{where}: the arrays do not fit the model's settings: {str(error).splitlines()[-1].strip()}"
        ) from None
    check_finite(model, where)


def settled(state: Mapping[str, np.ndarray], where: str) -> Arrays:
    """The state without what stands beside it (`Family.beside`).

    Raises
    ------
    ModelError
        If an array that must be zero is not.
    """
    settled = {name: value for name, value in state.items() if "@" not in name}
    for name, value in state.items():
        owner, _, special = name.partition("@")
        if special == "out_bias":
            target = f"{owner.removesuffix('fitting.')}out_bias"
            if np.size(value) != settled[target].size:
                raise ModelError(
                    f"{where}: the arrays do not fit the model's settings: {target} has shape {settled[target].shape}, "
                    f"the bias of the fitting net {np.shape(value)}"
                )
            settled[target] = settled[target] + np.reshape(value, settled[target].shape)
        elif special and np.any(value):
            raise ModelError(f"{where}: {owner}{special.removeprefix('zero.')} is not zero, which is not supported")
    return settled
