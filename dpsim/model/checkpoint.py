"""Model files: weights and a JSON header in one safetensors file.

The header holds the configuration, the type map, the format version and where the model came from. Nothing in
the file is executed; it loads on any device.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from dpsim.config import first_problem
from dpsim.data.files import new_file
from dpsim.errors import ConfigError, ModelError
from dpsim.model.base import Model
from dpsim.model.multi_config import read_settings
from dpsim.model.multi_task import MultiTaskModel
from dpsim.version import __version__

FORMAT_VERSION = 1


def state_digest(model: Model | MultiTaskModel) -> str:
    """Hex digest of the settings and every parameter: equal models have equal digests.

    Settings that have their default value do not enter, so that a later version with more options finds the
    same digest.
    """
    config = model.config.model_dump(mode="json", exclude_defaults=True)
    return _digest(config, model.state_dict())


def _digest(facts: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=20)
    digest.update(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def save_model(model: Model | MultiTaskModel, path: str | Path, provenance: dict[str, Any] | None = None) -> Path:
    """Write a model, with all its heads, to a ``.safetensors`` file, atomically.

    Parameters
    ----------
    provenance
        JSON-serialisable facts to keep with the model, for example the training step and the data digest.
    """
    from safetensors.torch import save

    path = Path(path)
    header = {
        "format_version": FORMAT_VERSION,
        "kind": "multi-task" if isinstance(model, MultiTaskModel) else "potential",
        "config": model.config.model_dump(mode="json"),
        "digest": state_digest(model),
        "dpsim": __version__,
        "provenance": provenance or {},
    }
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
    header["content"] = content_digest(header, tensors)
    with new_file(path) as temporary:
        # `save_file` would leave a file that only its owner may read.
        temporary.write_bytes(save(tensors, metadata={"dpsim": json.dumps(header)}))
    return path


def content_digest(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Hex digest of all that a model file holds, as it is written: the rest of the header and the tensors."""
    facts = {key: value for key, value in header.items() if key != "content"}
    return _digest(json.loads(json.dumps(facts)), tensors)


def read_header(path: str | Path) -> dict[str, Any]:
    """JSON header of a model file.

    Raises
    ------
    ModelError
        If the file is missing, damaged or no model of dpsim.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {})["dpsim"])
    except (SafetensorError, OSError, ValueError, KeyError):
        raise ModelError(
            f"{path} is not a dpsim model: expected a safetensors file written by dpsim (perhaps it is truncated)"
        ) from None
    if not isinstance(header, dict) or header.get("format_version") != FORMAT_VERSION:
        version = header.get("format_version") if isinstance(header, dict) else None
        raise ModelError(
            f"{path}: model format {version!r} is not known to this dpsim (format {FORMAT_VERSION}): use a newer dpsim"
        )
    return header


def load_model(path: str | Path, head: str | None = None) -> Model:
    """Read a model from a ``.safetensors`` file.

    Parameters
    ----------
    head
        Name of one of several heads.

    Raises
    ------
    ModelError
        If the file is missing, damaged, no model of dpsim, or does not match its own header, or if `head` is
        missing, unknown or given for a model with one head.
    """
    model = load_any(path)
    if isinstance(model, MultiTaskModel):
        return model.head(head, str(path))
    if head is not None:
        raise ModelError(f"{path} has a single head: leave out head={head!r}")
    return model


def load_any(path: str | Path) -> Model | MultiTaskModel:
    """Read a model with all its heads from a ``.safetensors`` file.

    Raises
    ------
    ModelError
        As `load_model`.
    """
    from safetensors.torch import load_file

    header = read_header(path)
    tensors = load_file(str(path))
    if header.get("content") != content_digest(header, tensors):
        raise ModelError(
            f"{path}: its content does not match the digest in its header: the file is damaged, copy it again"
        )
    return any_from_state(header.get("config", {}), tensors, str(path))


def model_from_state(config: dict[str, Any], state: dict[str, torch.Tensor], where: str) -> Model:
    """Model with a single head from its configuration and tensors, strictly matched.

    Raises
    ------
    ModelError
        As `any_from_state`, or if there are several heads.
    """
    model = any_from_state(config, state, where)
    return model.head(None, where) if isinstance(model, MultiTaskModel) else model


def any_from_state(config: dict[str, Any], state: dict[str, torch.Tensor], where: str) -> Model | MultiTaskModel:
    """Model, with all its heads, from its configuration and tensors, strictly matched.

    Raises
    ------
    ModelError
        If they do not match, or a tensor has values that are not finite; `where` names the file.
    """
    try:
        model = read_settings(config).build(0)
        model.load_state_dict(state)
    except ValidationError as error:
        raise ModelError(f"{where}: the model's configuration is not valid ({first_problem(error)})") from None
    except (RuntimeError, TypeError, ConfigError) as error:
        first = str(error).splitlines()[-1].strip()
        raise ModelError(
            f"{where}: the tensors do not fit the model's configuration ({first}): the file is damaged"
        ) from None
    check_finite(model, where)
    return model


def check_finite(model: Model | MultiTaskModel, where: str) -> None:
    """Refuse a model that could only give NaN.

    Raises
    ------
    ModelError
        If a tensor has values that are not finite; `where` names the file.
    """
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{where}: {name} has values that are not finite: the training that wrote it diverged")
