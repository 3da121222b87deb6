"""Stage ``train``: a Deep Potential from a data set."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from dpsim.train.config import TrainConfig
from dpsim.train.settings.dplr_model import DPLRModel
from dpsim.train.settings.heads import HeadName, HeadSettings
from dpsim.train.settings.run import NOT_IN_RESULT
from dpsim.workflow.records.files import full_path
from dpsim.workflow.stage import (
    MAX_MEMBERS,
    Input,
    MaybeReference,
    Output,
    Resources,
    SeededStage,
    Slot,
    Source,
    sources_of,
)
from dpsim.workflow.stages.training_data import DataInputs, paths_of_slot

if TYPE_CHECKING:
    from dpsim.workflow.context import Context


class HeadStage(HeadSettings):
    """One head of a training with several: its data, and what else it has of its own."""

    data: DataInputs
    """Data set of this head; its parts ``train`` and ``valid`` are used where it has them."""
    valid: DataInputs | None = None
    """Data set to validate on, instead of the part ``valid`` of `data`."""


class TrainStage(TrainConfig, SeededStage):
    """Trains a model; raising ``steps`` continues a finished training."""

    slots: ClassVar[Mapping[str, Slot]] = {
        "data": Slot(frozenset({"dataset"}), many=True),
        "valid": Slot(frozenset({"dataset"}), many=True),
        "start_from": Slot(frozenset({"weights"})),
        "old_data": Slot(frozenset({"dataset"}), many=True),
        "dipole": Slot(frozenset({"weights"})),
    }
    outputs: ClassVar[Mapping[str, Output]] = {
        "best": Output("best.safetensors", "weights"),
        "last": Output("last.safetensors", "weights"),
        "curve": Output("lcurve.csv", "table"),
        "metrics": Output("metrics.json", "metrics"),
    }
    main: ClassVar[str] = "best"
    uses_type_map: ClassVar[bool] = True
    wants: ClassVar[Resources] = Resources(ranks=1, cpus=None, gpus=1)
    gpu_of_each_rank: ClassVar[bool] = True
    soft: ClassVar[tuple[str, ...]] = ("torch",)
    later: ClassVar[tuple[str, ...]] = (*TrainConfig.later, "old_data")

    not_in_key: ClassVar[frozenset[str]] = SeededStage.not_in_key | set(NOT_IN_RESULT) | {"ensemble"}

    uses: Literal["train"] = "train"
    data: DataInputs | None = None
    """Data set to train on; its parts ``train`` and ``valid`` are used where it has them. With `heads`, each has its
    own."""
    valid: DataInputs | None = None
    """Data set to validate on, instead of the part ``valid`` of `data`."""
    heads: Annotated[dict[HeadName, HeadStage], Field(min_length=1)] | None = None  # type: ignore[assignment]
    """Heads by name, each with its data; each step is for one of them."""
    ensemble: Annotated[int, Field(ge=1, le=MAX_MEMBERS)] = 1
    """Number of models that differ in nothing but their seed, each a stage of its own: ``fit@member=2`` has the seed of
    the stage + 1. Stages that make one thing of a model (freeze, compress, test) do so with each; an input that takes a
    list (``potential: frozen.models``) takes all, one that takes a single model the first."""
    start_from: Input | None = None
    """Model whose parameters training starts from; with ``recipe: finetune`` or ``lora`` the pretrained model."""
    old_data: DataInputs | None = None
    """Data that the pretrained model was made for: its errors on them are compared with those after a fine-tuning. The
    part ``valid`` is used where there is one."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None  # type: ignore[assignment]
    """Of the initial parameters and of the order of the frames; by default that of the workflow."""

    def sources(self) -> Iterator[Source]:
        """Yield the data, the model to start from, and the model of dipoles beside one with electrostatics."""
        for slot in ("data", "valid", "start_from", "old_data"):
            yield from sources_of(slot, (slot,), getattr(self, slot))
        for name, head in (self.heads or {}).items():
            for slot in ("data", "valid"):
                yield from sources_of(slot, ("heads", name, slot), getattr(head, slot))
        if isinstance(self.model, DPLRModel):
            yield Source("dipole", ("model", "dipole"), MaybeReference(self.model.dipole))

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Check that there are data and a model."""
        if self.heads is None and self.data is None:
            yield (), "a train stage takes 'data', or 'heads' with data of their own"
        for slot in ("data", "valid", "old_data") if self.heads is not None else ():
            if getattr(self, slot) is not None:
                yield (slot,), f"with 'heads', each head has its data: '{slot}' has no effect"
        own = self.heads is not None and all(head.model is not None for head in self.heads.values())
        if self.model is None and self.start_from is None and not own:
            yield (), "a train stage takes 'model', or 'start_from' to go on from another model"
        if self.start_from is None:
            if self.tunes:
                yield ("recipe",), "a fine-tuning takes 'start_from', the pretrained model"
            if self.head is not None:
                yield ("head",), "'head' is that of the model in 'start_from', and there is none"
        if self.old_data is not None and not self.tunes:
            yield ("old_data",), "old data are compared with after a fine-tuning (recipe: finetune)"

    def citations(self) -> Iterator[str]:
        """Yield the references of the descriptors, as far as the settings name them."""
        from dpsim.descriptors.citations import citations_of
        from dpsim.model.presets import PRESETS

        models = [self.model, *(head.model for head in (self.heads or {}).values())]
        settings = [model.model_dump(mode="json") for model in models if model is not None]
        presets = [PRESETS[one["preset"]].descriptor.model_dump(mode="json") for one in settings if one.get("preset")]
        yield from dict.fromkeys(citations_of([*presets, *settings]))

    def key_options(self) -> dict[str, Any]:
        """Return the options with the number of ranks where there are several: each makes batches of its own."""
        options = super().key_options()
        ranks = self.resources.ranks if isinstance(self.resources, Resources) else None
        return options | ({"ranks": ranks} if ranks is not None and ranks > 1 else {})

    def work_parts(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Keep checkpoints under the key without the number of steps, so that raising it continues."""
        options = {name: value for name, value in parts["options"].items() if name not in ("steps", "epochs")}
        if "heads" in options:
            heads = options["heads"].items()
            options["heads"] = {name: {k: v for k, v in head.items() if k != "epochs"} for name, head in heads}
        return {**parts, "options": options}

    def execute(self, context: Context) -> None:
        """Train in the work folder, from the newest checkpoint there is, and hand out the models."""
        from dpsim.train.parallel.ranks import train_on
        from dpsim.train.start.length import steps_on

        settings = self.settings()
        if isinstance(self.model, DPLRModel):
            settings["model"] = self.model.model_copy(update={"dipole": str(context.input("dipole"))})
        if self.statistics_file is not None:
            settings["statistics_file"] = str(full_path(context.base, self.statistics_file))
        config = TrainConfig.model_validate(settings | {"seed": context.seed})
        data, valid = self._data(context)
        ranks = context.resources.ranks
        folder = _folder(context.work, steps_on(config, data, ranks))
        train_on(
            ranks,
            config,
            folder,
            train_data=data,
            valid_data=valid,
            type_map=context.type_map,
            init_model=context.input("start_from") if self.start_from is not None else None,
            old_data=[part_of(path, "valid") for path in paths_of_slot(self, context, "old_data")] or None,
            progress=context.progress,
            device="auto" if context.resources.gpus else "cpu",
        )
        for output in self.outputs.values():
            shutil.copy2(folder / output.path, context.out / output.path)

    def settings(self) -> dict[str, Any]:
        """Return those of the training, as `TrainConfig` takes them."""
        settings = {name: getattr(self, name) for name in TrainConfig.model_fields}
        if self.heads is not None:
            names = HeadSettings.model_fields
            settings["heads"] = {key: {n: getattr(head, n) for n in names} for key, head in self.heads.items()}
        return settings

    def _data(self, context: Context) -> tuple[Any, Any]:
        """Return data to train on and to validate on, by head if there are several."""
        places: list[tuple[str, ...]] = [()] if self.heads is None else [("heads", name) for name in self.heads]
        train: dict[str, list[Path]] = {}
        valid: dict[str, list[Path]] = {}
        for place in places:
            whole = paths_of_slot(self, context, "data", *place)
            name = place[-1] if place else ""
            train[name] = [part_of(path, "train") for path in whole]
            found = validation_of(paths_of_slot(self, context, "valid", *place), whole)
            if found is not None:
                valid[name] = found
        return (train[""], valid.get("")) if self.heads is None else (train, valid)


def _folder(work: Path, steps: int) -> Path:
    """Return where to train: the work folder, or, if a longer training is there already, one for this length.

    A shorter training has another schedule of the learning rate, so it is no part of the longer one.
    """
    reached = [int(match[1]) for path in work.glob("step-*.ckpt") if (match := re.fullmatch(r"step-(\d+)", path.stem))]
    return work / f"until-{steps}" if max(reached, default=0) > steps else work


def part_of(data: Path, name: str) -> Path:
    """Return a part of a data set, or the data set itself if it is not divided."""
    return data / name if (data / name).is_dir() else data


def validation_of(valid: Sequence[Path], data: Sequence[Path]) -> list[Path] | None:
    """Return what is validated on: what is given, else the part ``valid`` of the data sets that have one."""
    if valid:
        return [part_of(path, "valid") for path in valid]
    return [path / "valid" for path in data if (path / "valid").is_dir()] or None
