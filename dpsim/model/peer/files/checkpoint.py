"""Checkpoints of DeePMD-kit's PyTorch trainer, ``.pt``, and frozen models, ``.pth`` (spec common.md §18-19).

Both give a section ``model`` of the peer's input, and tensors by the peer's names.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from dpsim.config import first_problem
from dpsim.errors import ModelError
from dpsim.model.base import Model
from dpsim.model.config import read_config
from dpsim.model.multi_task import MultiTaskModel, gather
from dpsim.model.peer.families import FAMILIES
from dpsim.model.peer.family import Arrays, Context, ModelFamily
from dpsim.model.peer.files.convert import DAMAGED, fill
from dpsim.model.peer.files.torchscript import read_torchscript
from dpsim.model.peer.section import StoredInput

_ALIAS = re.compile(r"\._networks\.")
_ALWAYS_INERT = (r"(?:.*\.)?min_nbor_dist", r"(?:.*\.)?out_std")


def load_checkpoint(path: str | Path, head: str | None = None) -> Model:
    """Read a ``.pt`` checkpoint; nothing in it is executed.

    Parameters
    ----------
    head
        Branch of a multi-task model, by its name or one of its aliases.

    Raises
    ------
    ModelError
        If the file is damaged or holds more than tensors, if `head` is missing, unknown or given for a model with
        one branch, or if the model is of a kind that dpsim does not implement.
    """
    where = str(path)
    params, state = read_checkpoint(path)
    return _branch(*branch_of(params, head, where), state, where)


def _branch(section: dict[str, Any], branch: str, state: Mapping[str, torch.Tensor], where: str) -> Model:
    own = {name.removeprefix(f"model.{branch}."): t for name, t in state.items() if name.startswith(f"model.{branch}.")}
    if not own:
        raise ModelError(f"{where}: there are no tensors of the branch {branch!r}: the file is damaged")
    return _build(section, own, where)


def load_heads(path: str | Path) -> MultiTaskModel:
    """Read all heads of a multi-task ``.pt``; parts with the same numbers become shared ones.

    Raises
    ------
    ModelError
        As `load_checkpoint`, or if there is a single head.
    """
    params, state = read_checkpoint(path)
    names = heads_of(params)
    if not names:
        raise ModelError(f"{path} has a single head")
    sections = params["model_dict"]
    aliases = {name: [a for a in sections[name].get("model_branch_alias") or () if a != name] for name in names}
    return gather({name: _branch(dict(sections[name]), name, state, str(path)) for name in names}, aliases)


def load_frozen(path: str | Path, head: str | None = None) -> Model:
    """Read a ``.pth``; nothing in it is executed.

    Raises
    ------
    ModelError
        As `load_checkpoint`; a frozen model has one branch.
    """
    section, state = read_torchscript(path)
    refuse_head(head, str(path))
    return _build(section, state, str(path))


def read_checkpoint(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Model section and all tensors of a ``.pt``.

    Raises
    ------
    ModelError
        If the file is missing, damaged, or holds more than tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file")
    try:
        _check_sums(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(f"{path} {_refusal(str(error))}") from None
    except Exception as error:  # damaged archives fail in many ways
        raise ModelError(
            f"{path} is not a checkpoint of DeePMD-kit, or is damaged ({type(error).__name__}): copy it again"
        ) from None
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not any(isinstance(value, torch.Tensor) for value in state.values()):
        raise ModelError(f"{path}: expected the tensors of a DeePMD-kit model, found none")
    extra = state.get("_extra_state")
    params = extra.get("model_params") if isinstance(extra, Mapping) else None
    if not isinstance(params, Mapping):
        raise ModelError(
            f"{path} holds tensors without the model's settings ('_extra_state'): use the checkpoint as DeePMD-kit "
            "wrote it, or its .pth or .dp"
        )
    return dict(params), {str(name): value for name, value in state.items() if isinstance(value, torch.Tensor)}


def _check_sums(path: Path) -> None:
    """Check the numbers of an archive against their check sums, which torch passes over."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("check sum")


def _refusal(text: str) -> str:
    found = re.search(r"GLOBAL ([\w.]+)", text)
    if found:
        return f"holds the Python object {found[1]!r}, which could run code: it is not read; ask for a file of tensors"
    return "is not a checkpoint of DeePMD-kit, or is damaged: copy it again"


def heads_of(params: Mapping[str, Any]) -> list[str]:
    """Branches of a multi-task model; none for a model with one branch."""
    return [str(name) for name in params.get("model_dict", {})]


def branch_of(params: Mapping[str, Any], head: str | None, where: str) -> tuple[dict[str, Any], str]:
    """Section ``model`` of one branch, and its name in the torch state.

    Raises
    ------
    ModelError
        If `head` does not name a branch of a multi-task model, or is given for a model with one branch.
    """
    heads = heads_of(params)
    if not heads:
        refuse_head(head, where)
        return dict(params), "Default"
    if head is None:
        raise ModelError(f"{where} has several heads: choose one head of {', '.join(heads)}")
    for name, section in params["model_dict"].items():
        if head == name or head in (section.get("model_branch_alias") or ()):
            return dict(section), str(name)
    raise ModelError(f"{where} has no head {head!r}: choose one of {', '.join(heads)}")


def refuse_head(head: str | None, where: str) -> None:
    """Complain about a head that is given for a model without several.

    Raises
    ------
    ModelError
        If one is given.
    """
    if head is not None:
        raise ModelError(f"{where} has a single head: leave out head={head!r}")


def _build(params: dict[str, Any], tensors: Mapping[str, Any], where: str) -> Model:
    try:
        section = StoredInput(params, f"{where}: model")
        type_map = tuple(str(symbol) for symbol in params.get("type_map") or ())
        root = ModelFamily.torch_root
        own = {name.removeprefix(root): _array(tensor) for name, tensor in tensors.items() if name.startswith(root)}
        context = Context(type_map, FAMILIES, tensors=own)
        family, settings = FAMILIES.from_input(section, context)
        config = read_config(settings)
        model: Model = config.build(0)
        fill(model, _named(family, config, model, tensors, context, where), where)
        return model
    except ValidationError as error:
        raise ModelError(first_problem(error, f"{where}: model")) from None
    except DAMAGED as error:
        raise ModelError(f"{where}: the model is not as expected ({error!r}): the file is damaged") from None


def _named(
    family: ModelFamily[Any], config: Any, model: Model, tensors: Mapping[str, Any], context: Context, where: str
) -> Arrays:
    """Arrays by dpsim's names; every tensor of the file is used or known to be without effect."""
    state: Arrays = {}
    used: set[str] = set()
    for name, tensor in family.torch_names(config, list(model.state_dict()), context).items():
        names = [family.torch_root + peer_name for peer_name in tensor.names]
        used.update(names)
        absent = [peer_name for peer_name in names if peer_name not in tensors]
        if not absent:
            state[name] = tensor.read(*(_array(tensors[peer_name]) for peer_name in names))
        elif tensor.default is not None:
            state[name] = tensor.default
        else:
            raise ModelError(f"{where}: the tensor {absent[0]!r} is missing: the file is damaged")
    inert = [re.escape(family.torch_root) + f"(?:{pattern})" for pattern in family.inert_names(config, FAMILIES)]
    _refuse_others(tensors, used, (*_ALWAYS_INERT, *inert), where)
    return state


def _refuse_others(tensors: Mapping[str, Any], used: set[str], inert: tuple[str, ...], where: str) -> None:
    for name in sorted(set(tensors) - used):
        twin = _ALIAS.sub(".networks.", name)
        if (twin != name and twin in tensors) or _array(tensors[name]).size == 0:
            continue  # another name of the same numbers, or the place of tables that are not there
        if any(re.fullmatch(pattern, name) for pattern in inert):
            continue
        if re.search(r"\.(?:compress_data|compress_info|type_embd_data)(?:\.|$)", name):
            raise ModelError(f"{where} is a compressed model: use the model it was made from, and 'dpsim compress'")
        raise ModelError(f"{where}: the tensor {name!r} is not known to dpsim")


def _array(value: Any) -> np.ndarray:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
