"""The state of a training in a file: ``step-N.ckpt``.

It holds everything that the next step depends on, so that a resumed training is, bit for bit, the unbroken
one. Random numbers need no state of their own: they follow from the seed and the cursor of the sampler.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpsim.data.files import new_file
from dpsim.errors import ModelError
from dpsim.model.base import Model
from dpsim.model.checkpoint import any_from_state, load_any, load_model, read_header
from dpsim.model.multi_task import MultiTaskModel
from dpsim.train.batches.sampler import Cursor

FORMAT_VERSION = 1
SUFFIXES = (".safetensors", ".ckpt", ".pt2", ".dp", ".yaml", ".yml", ".pt", ".pth")
"""Suffixes of the model files that can be loaded."""
_NAME = re.compile(r"^step-(\d+)\.ckpt$")


@dataclass
class Best:
    """The best model so far."""

    step: int = 0
    metric: float = float("inf")
    errors: dict[str, float] = field(default_factory=dict)


@dataclass
class TrainingState:
    """What a checkpoint holds."""

    step: int
    """Steps made."""
    config: dict[str, Any]
    """The `TrainConfig` as JSON."""
    model_config: dict[str, Any]
    """The `ModelConfig` as JSON."""
    model: dict[str, Tensor]
    """Parameters and buffers."""
    optimizer: dict[str, Any]
    """State of torch's optimizer."""
    cursors: dict[str, Cursor]
    """Where the sampler of each head stands; a single head has no name."""
    sums: dict[str, dict[str, tuple[float, int]]]
    """Running means since the last row of the curve, and since the last check."""
    best: Best
    """The best model so far."""
    origin: dict[str, str]
    """Digests of the data and of the model that training started from."""
    seconds: float = 0.0
    """Time of all steps so far, in s."""
    average: dict[str, Tensor] = field(default_factory=dict)
    """Averages of the parameters by name, if there are any."""
    workers: int = 1
    """Processes that trained together."""
    restarted: str = ""
    """The checkpoint that was asked for when training went on from one, as `resume.mark_of` names it."""

    def build_model(self, where: str, *, averaged: bool = False) -> Model:
        """Make the model with a single head; parameters and errors as those of `build_any`."""
        model = self.build_any(where, averaged=averaged)
        return model.head(None, where) if isinstance(model, MultiTaskModel) else model

    def build_any(self, where: str, *, averaged: bool = False) -> Model | MultiTaskModel:
        """Make the model, with all its heads.

        Parameters
        ----------
        where
            The file, for messages.
        averaged
            With the averages of the parameters in their place, where there are any.
        """
        return any_from_state(self.model_config, self.model | (self.average if averaged else {}), where)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step}.ckpt"


def checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """Steps and files of the checkpoints in a folder, oldest first."""
    found = [(match, path) for path in folder.iterdir() if (match := _NAME.match(path.name))]
    return sorted((int(match[1]), path) for match, path in found)


def save_state(state: TrainingState, folder: Path) -> Path:
    """Write ``step-N.ckpt``, atomically."""
    path = checkpoint_path(folder, state.step)
    content = {
        "format_version": FORMAT_VERSION,
        "kind": "training",
        "step": state.step,
        "config": state.config,
        "model_config": state.model_config,
        "model": {name: t.detach().cpu() for name, t in state.model.items()},
        "optimizer": state.optimizer,
        "cursors": {name: {"draws": c.draws, "taken": list(c.taken)} for name, c in state.cursors.items()},
        "sums": state.sums,
        "best": {"step": state.best.step, "metric": state.best.metric, "errors": state.best.errors},
        "origin": state.origin,
        "seconds": state.seconds,
        "average": {name: t.detach().cpu() for name, t in state.average.items()},
        "workers": state.workers,
        "restarted": state.restarted,
    }
    # By a path instead of a file, the temporary name would be part of the content.
    with new_file(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)
    return path


def load_state(path: str | Path) -> TrainingState:
    """Read a checkpoint; nothing in the file is executed.

    Raises
    ------
    ModelError
        If the file is missing, damaged, or no checkpoint of dpsim.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"{path}: there is no such checkpoint")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        if content["kind"] != "training":
            raise KeyError("kind")
        version = content["format_version"]
    except Exception:  # damaged files fail in many ways
        raise ModelError(
            f"{path} is not a checkpoint of dpsim: expected a file that `dpsim train` wrote (perhaps it is truncated)"
        ) from None
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{path}: checkpoint format {version!r} is unknown to this dpsim (format {FORMAT_VERSION}): use a newer one"
        )
    # one that has no name stood by itself before there were several
    written = content["cursors"] if "cursors" in content else {"": content["cursor"]}
    cursors = {name: Cursor(one["draws"], tuple(one["taken"])) for name, one in written.items()}
    names = ("step", "config", "model_config", "model", "optimizer", "sums", "origin", "seconds")
    known = {name: content[name] for name in names} | {
        "workers": content.get("workers", 1),
        "restarted": content.get("restarted", ""),
    }
    return TrainingState(cursors=cursors, best=Best(**content["best"]), average=content.get("average", {}), **known)


def step_of(path: Path) -> int | None:
    """Step whose model a file that a training wrote holds; None if there is no file, or it says nothing.

    Raises
    ------
    ModelError
        If the file is damaged.
    """
    return read_header(path).get("provenance", {}).get("step") if path.is_file() else None


def remove_old(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for _, path in checkpoints(folder)[:-keep]:
        path.unlink(missing_ok=True)


def load_checkpoint_model(path: str | Path, head: str | None = None) -> Model:
    """The model of a ``step-N.ckpt``, with averages of the parameters if the training makes some.

    Parameters
    ----------
    head
        One of several heads.

    Raises
    ------
    ModelError
        If the file is missing, damaged, or no checkpoint of dpsim, or `head` does not fit it.
    """
    model = load_state(path).build_any(str(path), averaged=True)
    if isinstance(model, MultiTaskModel):
        return model.head(head, str(path))
    if head is not None:
        raise ModelError(f"{path} has a single head: leave out head={head!r}")
    return model


def heads_in(path: Path) -> list[str]:
    """Names of the heads of a model file; none if it has a single one.

    Raises
    ------
    ModelError
        If the file cannot be read.
    """
    if path.suffix == ".safetensors":
        return list(read_header(path)["config"].get("heads", ()))
    if path.suffix == ".ckpt":
        return list(load_state(path).model_config.get("heads", ()))
    if path.suffix != ".pt":
        return []
    from dpsim.model.peer.files.checkpoint import heads_of, read_checkpoint

    return heads_of(read_checkpoint(path)[0])


def read_model(path: Path, head: str | None = None) -> Model:
    """Model of any file that holds modules (all but ``.pt2``).

    Parameters
    ----------
    head
        Branch of a multi-task model.

    Raises
    ------
    ModelError
        If the suffix is unknown, the file cannot be read, or `head` does not fit it.
    """
    if path.suffix in (".pt", ".pth"):
        from dpsim.model.peer.files.checkpoint import load_checkpoint, load_frozen

        return (load_checkpoint if path.suffix == ".pt" else load_frozen)(path, head)
    if path.suffix == ".safetensors":
        return load_model(path, head)
    if path.suffix == ".ckpt":
        return load_checkpoint_model(path, head)
    if head is not None:
        raise ModelError(f"{path} has a single head: leave out head={head!r}")
    if path.suffix in (".dp", ".yaml", ".yml"):
        from dpsim.model.peer.files.convert import load_serialized

        return load_serialized(path)
    if path.suffix == ".pt2":
        raise ModelError(f"{path} is a frozen model: this needs the model it was made from (.safetensors)")
    raise ModelError(f"{path}: model files end in {', '.join(SUFFIXES)}, found {path.suffix or 'no suffix'!r}")


def read_any(path: Path) -> Model | MultiTaskModel:
    """Model of any file that holds modules, with all its heads.

    Raises
    ------
    ModelError
        If the suffix is unknown, or the file cannot be read.
    """
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file")
    if path.suffix == ".safetensors":
        return load_any(path)
    if path.suffix == ".ckpt":
        return load_state(path).build_any(str(path), averaged=True)
    if path.suffix == ".pt" and heads_in(path):
        from dpsim.model.peer.files.checkpoint import load_heads

        return load_heads(path)
    return read_model(path)
