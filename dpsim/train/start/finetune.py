"""Fine-tuning: a pretrained model is brought to other elements and other energies (spec common.md §11.2, fittings §13).

Descriptor (with its scales) and fitting net are inherited. Elements that the pretrained model does not know begin with
a random type embedding and the scales of the data. The output bias is moved by what the model leaves of the labels; a
new fitting net (head ``RANDOM``) takes the bias that the labels ask for.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpsim.errors import ConfigError, ModelError
from dpsim.model.base import Model
from dpsim.model.checkpoint import load_any, save_model, state_digest
from dpsim.model.config import AnyModelConfig, ModelConfig, ZBLModelConfig
from dpsim.model.multi_task import MultiTaskModel
from dpsim.model.type_map import Move, inherit, moved_config
from dpsim.train.batches.frames import DataSource, FrameSet, Scan
from dpsim.train.batches.loader import BatchMaker
from dpsim.train.batches.sampler import in_order
from dpsim.train.config import TrainConfig, resolve_model
from dpsim.train.loss import make_loss
from dpsim.train.records.resume import differences
from dpsim.train.records.running import Running
from dpsim.train.records.state import heads_in, read_model
from dpsim.train.settings.standard_model import ElementBias
from dpsim.train.settings.transfer import RANDOM
from dpsim.train.start.bias import BiasChange, fit_bias, provenance_of
from dpsim.train.start.given_bias import BIASED
from dpsim.train.start.setup import (
    ModelSource,
    load_initial,
    refuse_tables,
    set_environment_scales,
    set_parameter_scales,
)
from dpsim.train.start.statistics_file import with_statistics

log = logging.getLogger("dpsim.train")

BIAS_FRAMES = 2000
"""Frames, evenly spaced, to which the output bias is fitted."""
COMPARED_FRAMES = 500
"""Frames of the old data, evenly spaced, on which the models are compared."""
ATOMS_AT_ONCE = 512
"""Frames are evaluated together up to about this many atoms."""
BIAS_CHANGE = "bias after training"
"""Key of the provenance of models whose bias was changed after the training."""


def load_pretrained(source: ModelSource, head: str | None) -> Model:
    """Model to fine-tune.

    Parameters
    ----------
    head
        One of several heads; ``RANDOM`` is the first.

    Raises
    ------
    ModelError
        If the file cannot be read, or has several heads and `head` is none of them.
    """
    if isinstance(source, MultiTaskModel):
        source = source.head(next(iter(source.members)) if head == RANDOM else head, "the model to start from")
        head = None
    if isinstance(source, Model):
        if head not in (None, RANDOM):
            raise ModelError(f"the model to start from is a single one: leave out head={head!r}")
        refuse_tables(source)
        return source
    path = Path(source)
    if not path.is_file():
        raise ModelError(f"{path}: there is no such model file")
    heads = heads_in(path)
    if heads and head is None:
        raise ModelError(
            f"{path} has several heads: choose one of {', '.join(heads)} to go on from, or {RANDOM} for a new fitting "
            "net on their descriptor"
        )
    model = read_model(path, (heads[0] if heads else None) if head == RANDOM else head)
    refuse_tables(model)
    return model


def starting_model(source: ModelSource | None, config: TrainConfig) -> Model | None:
    """Model that a training starts from; as it is in the file where it is to be fine-tuned.

    Raises
    ------
    ConfigError
        If the settings ask for such a model and there is none, or it has other settings than those declared.
    ModelError
        If the file cannot be read, or has several heads and none of them is chosen.
    """
    if config.tunes:
        if source is None:
            raise ConfigError(
                f"recipe: {config.recipe} needs a pretrained model: name it in start_from, or with --finetune"
            )
        return load_pretrained(source, config.head)
    if source is None and config.head is not None:
        raise ConfigError(f"head: {config.head} is that of a model to start from, and there is none: give start_from")
    return None if source is None else load_initial(source, config)


def target_config(config: TrainConfig, pretrained: Model, type_map: tuple[str, ...]) -> AnyModelConfig:
    """Complete settings of the fine-tuned model.

    Raises
    ------
    ConfigError
        If the training declares a model with other settings than those that are inherited.
    ModelError
        If the pretrained model cannot have these elements.
    """
    moved = moved_config(pretrained.config, type_map)
    if config.model is None:
        return moved if config.precision is None else moved.with_precision(config.precision)
    wanted = resolve_model(config, type_map)
    # a model that gives way to a table may begin with one that does not
    part = wanted.model if isinstance(wanted, ZBLModelConfig) and isinstance(moved, ModelConfig) else wanted
    found = differences(part, moved)
    if config.head == RANDOM:
        found = [place for place in found if not place.startswith(("fitting", "atom_exclude_types"))]
    if found:
        raise ConfigError(
            f"model: the settings differ from those of the pretrained model ({'; '.join(found)}): "
            "leave `model` out to take its settings, or make them equal"
        )
    return wanted


def adapted_model(
    config: TrainConfig, pretrained: Model, frames: FrameSet, found: Scan, maker: BatchMaker | None = None
) -> Model:
    """Model with which a fine-tuning begins; what becomes of its output bias is logged element by element."""
    random = config.head == RANDOM
    model = target_config(config, pretrained, frames.type_map).build(config.seed)
    if config.model is not None:
        config.model.complete(model)
    unknown = [name for name in model.type_map if name not in pretrained.type_map]
    if unknown:
        log.info("%s: unknown to the pretrained model, with new type embeddings", ", ".join(unknown))
    preset = config.model.preset_out_bias if config.model is not None else {}

    def take() -> None:
        if unknown:
            set_environment_scales(model, maker or BatchMaker.for_model(frames, model), found)
            inherit(model, pretrained, fitting=not random, seed=config.seed)
        adjust_output(model, frames, found, random=random, preset=preset)

    inherit(model, pretrained, fitting=not random, seed=config.seed)
    facts = {"data": found.digest, "preset_out_bias": preset, "of": state_digest(pretrained), "new fitting": random}
    if not with_statistics(config.statistics_file, model, facts, take):
        announce_kept(model)
    return model


def announce_kept(model: Model) -> None:
    """Log the output bias of the elements that a file of statistics gave."""
    log.info("%s bias of the elements, as it was kept:", model.output)
    for name, values in zip(model.type_map, model.out_bias.reshape(len(model.type_map), -1), strict=True):
        log.info("  %s  %.6f", name, values.mean().item())


def adjust_output(
    model: Model, frames: FrameSet, found: Scan, *, random: bool, preset: Mapping[str, ElementBias]
) -> None:
    """Bring the output bias of an inherited model to the labels of the data, and log what becomes of it.

    Parameters
    ----------
    random
        The fitting net is new: the bias is that of the labels.
    preset
        Output biases of elements that are given.
    """
    if random:
        set_parameter_scales(model, found)
    if not len(found.values) and found.of_types is None:
        log.warning("the data have no label of the %s: the output bias of the pretrained model stays", model.output)
    elif model.output in ("energy", *BIASED):
        change = fit_bias(model, frames, "set" if random else "change", preset=preset, most=BIAS_FRAMES)
        _announce(model, change, "fitted to the labels" if random else "moved by what the pretrained model leaves")


def _announce(model: Model, change: BiasChange, how: str) -> None:
    unit = " in eV" if model.output == "energy" else ""
    log.info("%s bias of the elements%s, %s, from %d frames:", model.output, unit, how, change.n_frames)
    for line in change.lines():
        log.info("  %s", line)


class FineTuning:
    """What a fine-tuning compares with: the pretrained model, and data that it was made for.

    Parameters
    ----------
    old
        Such data; elements must be known to both models.

    Raises
    ------
    DataError
        If the old data have an element that one of the models does not know.
    """

    def __init__(self, config: TrainConfig, pretrained: Model, old: FrameSet | None) -> None:
        self.config, self.pretrained, self.old = config, pretrained, old
        if old is not None:
            self.chosen = old.sample(COMPARED_FRAMES)
            self.old_before = FrameSet(old.dataset, pretrained.type_map)
            for frames in (old, self.old_before):  # an element that one does not know is found before the first step
                for i in self.chosen:
                    frames[i]

    @classmethod
    def of(
        cls, config: TrainConfig, pretrained: Model | None, old: DataSource | None, frames: FrameSet
    ) -> FineTuning | None:
        """None where the training is no fine-tuning.

        Parameters
        ----------
        frames
            The training data.

        Raises
        ------
        ConfigError
            If there are old data without a fine-tuning.
        """
        if not config.tunes:
            if old is not None:
                raise ConfigError("old_data are compared with after a fine-tuning: leave them out, or ask for one")
            return None
        assert pretrained is not None
        return cls(config, pretrained, None if old is None else FrameSet(old, frames.type_map))

    def report(self, model: Model, n_moved: int) -> dict[str, Any]:
        """What became of the output bias, and the errors of both models on the old data, ready for JSON.

        Parameters
        ----------
        n_moved
            Numbers that were trained.
        """
        rows = Move(self.pretrained.type_map, model.type_map).rows
        before = self.pretrained.out_bias.tolist()
        bias = {
            name: {"before": None if row is None else before[row], "after": after}
            for name, row, after in zip(model.type_map, rows, model.out_bias.tolist(), strict=True)
        }
        facts: dict[str, Any] = {"head": self.config.head, "bias": bias}
        if self.config.recipe == "lora":
            lora, number = self.config.lora, sum(p.numel() for p in model.parameters())
            facts["lora"] = {"rank": lora.rank, "alpha": lora.alpha, "trained": n_moved, "parameters": number}
        if self.old is not None:
            facts["old_data"] = {
                "before": self._errors(self.pretrained, self.old_before),
                "after": self._errors(model, self.old),
            }
            for name, errors in facts["old_data"].items():
                log.info("old data, %s: %s", name, ", ".join(f"{key} {value:.4g}" for key, value in errors.items()))
        return facts

    def _errors(self, model: Model, frames: FrameSet) -> dict[str, float]:
        """Errors on the old data; of energies also apart from a constant for each element, as references differ."""
        loss = make_loss(self.config.loss, model)
        maker, sums = BatchMaker.for_model(frames, model, loss.labels), Running()
        for chunk in in_order(self.chosen, atoms=ATOMS_AT_ONCE, n_atoms=frames.n_atoms):
            batch = maker(chunk).to(model.device)
            sums.add(loss.errors(loss.predict(batch, training=False), batch))
        found = {f"rmse_{name}": root for name in loss.quantities if (root := sums.root(name)) is not None}
        if model.output == "energy" and "rmse_energy" in found:
            change = fit_bias(copy.deepcopy(model), frames, indices=self.chosen)
            assert change.rmse is not None
            found["rmse_energy_apart_from_elements"] = change.rmse[1]
        return found


def change_bias_of_result(path: Path, data: Mapping[str, tuple[FrameSet, Mapping[str, ElementBias]]]) -> dict[str, Any]:
    """Move the output bias of a model that a training wrote by what it leaves of the training data; once.

    Parameters
    ----------
    data
        Training frames and given energies of each head; a single head has no name.

    Returns
    -------
    dict
        The change, ready for JSON; by head if there are several.
    """
    facts = provenance_of(path)
    if BIAS_CHANGE not in facts:
        whole = load_any(path)
        changes = {}
        for name, (frames, preset) in data.items():
            model = whole.members[name] if isinstance(whole, MultiTaskModel) else whole
            change = fit_bias(model, frames, preset=preset, most=BIAS_FRAMES)
            _announce(model, change, f"of {name or path.name}, moved by what is left of the training data")
            changes[name] = change.as_dict()
        facts[BIAS_CHANGE] = changes if isinstance(whole, MultiTaskModel) else changes[""]
        save_model(whole, path, facts)
    return dict(facts[BIAS_CHANGE])
