"""What a model file says of itself, and model files in other containers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpsim.config import Config
from dpsim.errors import ModelError
from dpsim.export.metadata import FrozenMetadata, read_metadata
from dpsim.model.base import Model
from dpsim.model.checkpoint import load_any, read_header, save_model, state_digest
from dpsim.model.multi_task import MultiTaskModel, head_named
from dpsim.model.peer.files.checkpoint import branch_of, heads_of, load_checkpoint, load_frozen, read_checkpoint
from dpsim.model.peer.files.convert import load_serialized, write_serialized
from dpsim.model.peer.files.torchscript import read_torchscript
from dpsim.model.peer.files.tree import SUFFIXES as SERIALIZED
from dpsim.model.peer.files.tree import read_tree
from dpsim.train.records.state import heads_in, load_state, read_any, read_model

Facts = dict[str, Any]


def summarize(path: str | Path, head: str | None = None) -> Facts:
    """Facts of a model file, ready for JSON.

    Parameters
    ----------
    head
        Branch of a multi-task model; None describes all of them, under ``heads``.

    Raises
    ------
    ModelError
        If the file cannot be read, or has no such head.
    """
    path = Path(path)
    if path.suffix == ".pt":
        return _checkpoint(path, head)
    if path.suffix == ".pth":
        section, _ = read_torchscript(path)
        return {"format": "DeePMD-kit frozen model"} | _facts(load_frozen(path, head)) | _observed(section)
    if path.suffix == ".safetensors":
        return _model_file(path, head)
    if head is not None and path.suffix != ".ckpt":
        raise ModelError(f"{path} has a single head: leave out head={head!r}")
    if path.suffix == ".pt2":
        return _frozen(read_metadata(path))
    if path.suffix == ".ckpt":
        state = load_state(path)
        facts = {"format": "dpsim training state", "step": state.step}
        return facts | _facts_of(state.build_any(str(path)), head, path)
    if path.suffix in SERIALIZED:
        tree = read_tree(path)
        written = " ".join(str(tree[key]) for key in ("software", "version") if key in tree)
        facts = {"format": "DeePMD-kit serialised model", "written_by": written}
        return facts | _facts(load_serialized(path)) | _observed(tree.get("model_def_script"))
    return _facts(read_model(path))


def _model_file(path: Path, head: str | None) -> Facts:
    header, model = read_header(path), load_any(path)
    facts: Facts = {"format": f"dpsim model {header['format_version']}", "written_by": f"dpsim {header.get('dpsim')}"}
    return facts | _facts_of(model, head, path) | {"provenance": header.get("provenance") or {}}


def _facts_of(model: Model | MultiTaskModel, head: str | None, path: Path) -> Facts:
    if not isinstance(model, MultiTaskModel):
        if head is not None:
            raise ModelError(f"{path} has a single head: leave out head={head!r}")
        return _facts(model)
    if head is not None:
        name = head_named(model.config, head, str(path))
        return {"heads": list(model.members), "head": name} | _facts(model.members[name])
    shared = [f"{group.part} of {', '.join(group.heads)}" for group in model.config.shared]
    return {"heads": {name: _facts(one) for name, one in model.members.items()}, "shared": shared}


def _checkpoint(path: Path, head: str | None) -> Facts:
    params, _ = read_checkpoint(path)
    heads = heads_of(params)
    if not heads or head is not None:
        section, _ = branch_of(params, head, str(path))
        facts = {"format": "DeePMD-kit checkpoint"} | ({"heads": heads, "head": head} if heads else {})
        return facts | _facts(load_checkpoint(path, head)) | _observed(section)
    each = {name: _facts(load_checkpoint(path, name)) | _observed(params["model_dict"][name]) for name in heads}
    return {"format": "DeePMD-kit checkpoint"} | {"heads": each}


def _observed(section: Any) -> Facts:
    info = section.get("info") if isinstance(section, Mapping) else None
    seen = info.get("observed_type") if isinstance(info, Mapping) else None
    return {"observed_types": list(seen)} if seen else {}


def _facts(model: Model) -> Facts:
    config = model.config
    parts = {name: getattr(config, name) for name in ("descriptor", "fitting") if hasattr(config, name)}
    if set(parts) == {"descriptor", "fitting"}:
        settings = {name: {"type": part.type} | _unusual(part) for name, part in parts.items()}
        rest = {k: v for k, v in _unusual(config).items() if k not in ("type_map", "descriptor", "fitting")}
    else:
        settings, rest = {}, {k: v for k, v in _unusual(config).items() if k != "type_map"}
    return {
        "model": config.type,
        "type_map": list(model.type_map),
        "cutoff": model.neighbors.cutoff,
        "output": model.output,
        **settings,
        **({"options": rest} if rest else {}),
        "parameters": _sizes(model),
        "precision": model.precision,
        "digest": state_digest(model),
    }


def _unusual(config: Any) -> Facts:
    """Settings that differ from their defaults; parts within keep their type."""
    unusual = config.model_dump(mode="json", exclude_defaults=True)
    return {k: v for k, v in _with_types(config, unusual).items() if k != "type"}


def _with_types(config: Any, unusual: Any) -> Any:
    """The same with the type of every part, which is the default of its settings."""
    if isinstance(config, tuple):
        return [_with_types(part, found) for part, found in zip(config, unusual, strict=True)]
    if not isinstance(config, Config):
        return unusual
    parts = {key: _with_types(getattr(config, key), value) for key, value in unusual.items()}
    return {"type": config.type, **parts} if "type" in type(config).model_fields else parts  # type: ignore[attr-defined]


def _sizes(model: Model) -> dict[str, int]:
    sizes = {"descriptor": 0, "fitting": 0, "total": 0}
    for name, parameter in model.named_parameters():
        sizes["total"] += parameter.numel()
        for part in ("descriptor", "fitting"):
            sizes[part] += parameter.numel() * (part in name.split("."))
    return sizes


def _frozen(metadata: FrozenMetadata) -> Facts:
    charges = metadata.electrostatics
    return {
        "format": f"dpsim frozen model {metadata.format}",
        "written_by": f"dpsim {metadata.dpsim}, torch {metadata.torch}, for {metadata.device}",
        "type_map": list(metadata.type_map),
        "cutoff": metadata.neighbors.cutoff,
        "output": metadata.output,
        **({} if charges is None else {"electrostatics": charges.model_dump(mode="json")}),
        "precision": metadata.dtype,
        "digest": metadata.digest,
    }


def convert_model(source: str | Path, output: str | Path, head: str | None = None) -> Path:
    """Write a model in the container that the suffix of `output` names, atomically.

    Parameters
    ----------
    source
        A model file of dpsim or DeePMD-kit, but for frozen ``.pt2``.
    output
        ``.safetensors``, ``.dp``, ``.yaml`` or ``.yml``.
    head
        Branch of a multi-task model; None takes all of them into a ``.safetensors`` file.

    Raises
    ------
    ModelError
        If the model cannot be read, or has no form in that container.
    """
    source, output = Path(source), Path(output)
    if output.suffix not in (".safetensors", *SERIALIZED):
        hint = {".pt2": ": use 'dpsim freeze'", ".pth": ": write .dp, and 'dp convert-backend' makes it of that"}
        raise ModelError(
            f"{output}: models are written to .safetensors, {', '.join(SERIALIZED)}, not to "
            f"{output.suffix or 'a file without suffix'!r}{hint.get(output.suffix, '')}"
        )
    if not output.parent.is_dir():
        raise ModelError(f"{output.parent}: there is no such folder to write {output.name} into")
    if output.exists() and source.exists() and output.samefile(source):
        raise ModelError(f"{output} is the file to convert: choose another name for the result")
    if output.suffix == ".safetensors" and head is None and heads_in(source):
        return save_model(read_any(source), output, {"converted from": source.name})
    model = read_model(source, head)
    if output.suffix == ".safetensors":
        return save_model(model, output, {"converted from": source.name} | ({"head": head} if head else {}))
    return write_serialized(model, output)
