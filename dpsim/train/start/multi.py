"""Trainings with several heads: their tasks, and the model that they begin with (spec fittings.md §12, §13)."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from torch import nn

from dpsim.descriptors.loc_frame.descriptor import LocFrame
from dpsim.errors import ConfigError
from dpsim.fittings.network import FittingNetwork
from dpsim.model.base import Model
from dpsim.model.checkpoint import state_digest
from dpsim.model.multi_config import MultiTaskConfig, read_settings
from dpsim.model.multi_task import MultiTaskModel
from dpsim.model.statistics import Moments
from dpsim.model.type_map import inherit
from dpsim.train.batches.frames import DataSource, Scan
from dpsim.train.batches.loader import BatchMaker
from dpsim.train.config import TrainConfig
from dpsim.train.parallel.distributed import ALONE, Workers
from dpsim.train.records.resume import Resume, declared_settings, differences
from dpsim.train.records.state import read_any
from dpsim.train.settings.heads import head_config, joined_heads
from dpsim.train.settings.transfer import RANDOM
from dpsim.train.start.component_scales import set_component_scales
from dpsim.train.start.finetune import adjust_output, announce_kept, target_config
from dpsim.train.start.length import with_steps_of_heads
from dpsim.train.start.prepare import HeadData, Prepared, frame_sets
from dpsim.train.start.setup import (
    ModelSource,
    blocks_from_data,
    check_widths,
    refuse_tables,
    sampled_graphs,
    scale_environment,
    set_output,
    set_parameter_scales,
    target_of_settings,
    type_map_for,
)
from dpsim.train.start.statistics_file import with_statistics
from dpsim.train.task import Task

log = logging.getLogger("dpsim.train")

Beside = TypeVar("Beside")

SINGLE = "Default"
"""How the one head of a pretrained model is called where a head has to be named."""


def prepare_heads(
    config: TrainConfig,
    train_data: HeadData,
    valid_data: HeadData | None,
    type_map: Sequence[str] | None,
    resume: Resume | None,
    init_model: ModelSource | None,
    old_data: DataSource | None,
    workers: Workers = ALONE,
) -> Prepared:
    """Make a training with several heads ready; arguments and errors are those of `dpsim.train.trainer.train`."""
    if old_data is not None:
        raise ConfigError("old_data are compared with after the fine-tuning of a single head: leave them out")
    data, valid = _by_head(config, train_data, "training"), _by_head(config, valid_data, "validation")
    initial = _starting(config, init_model)
    names = type_map_for(config, resume, initial, type_map)
    if names is None:
        raise ConfigError("type_map is missing: a training with several heads needs the elements of all of them")
    whole = _settings(config, resume, initial, names)
    tasks = []
    for name, head in whole.heads.items():
        own, target = head_config(config, name), target_of_settings(head.model)
        frames, others = frame_sets(own, data[name], valid.get(name), names, target.property_name, name, workers)
        tasks.append(Task(name, own, frames, others, target.output, workers))
    config = with_steps_of_heads(config, {task.name: task.frames for task in tasks}, workers.number)
    chances = [_chance(config, task) for task in tasks]
    return Prepared(config, tasks, chances, initial, lambda: _build(config, whole, tasks, initial, chances))


def _by_head(config: TrainConfig, data: HeadData | None, what: str) -> dict[str, DataSource]:
    assert config.heads is not None
    if data is None:
        return {}
    if not isinstance(data, Mapping):
        raise ConfigError(f"the {what} data of a training with heads are given by head: {{{', '.join(config.heads)}}}")
    unknown = [name for name in data if name not in config.heads]
    missing = [name for name in config.heads if name not in data] if what == "training" else []
    if unknown or missing:
        problem = f"there is no head {unknown[0]!r}" if unknown else f"those of {missing[0]!r} are missing"
        raise ConfigError(f"{what} data: {problem}: expected some for {', '.join(config.heads)}")
    return dict(data)


def _starting(config: TrainConfig, source: ModelSource | None) -> Model | MultiTaskModel | None:
    """Model to start from, with all its heads."""
    if source is None:
        if config.tunes:
            raise ConfigError("recipe: finetune needs a pretrained model: name it in start_from, or with --finetune")
        return None
    model = source if isinstance(source, nn.Module) else read_any(Path(source))
    refuse_tables(model)
    if not config.tunes and not isinstance(model, MultiTaskModel):
        raise ConfigError(
            "the model to start from has a single head: fine-tune it (recipe: finetune), or start from one with the "
            "same heads"
        )
    return model


def _settings(
    config: TrainConfig, resume: Resume | None, initial: Model | MultiTaskModel | None, type_map: tuple[str, ...]
) -> MultiTaskConfig:
    """Complete settings of all heads."""
    assert config.heads is not None
    if resume is not None:
        there = read_settings(resume.state.model_config)
        if not isinstance(there, MultiTaskConfig) or there.heads.keys() != config.heads.keys():
            raise ConfigError(f"{resume.path} was made with other heads: train into another folder")
        return there
    if config.tunes:
        assert initial is not None
        return _tuned_settings(config, initial, type_map)
    declared = declared_settings(config, type_map, None if initial is None else initial.config)
    if initial is None:
        if declared is None:
            raise ConfigError("model: neither settings nor a model to start from are given: write for example "
                              "`model: dpa3-small`")  # fmt: skip
        assert isinstance(declared, MultiTaskConfig)
        return declared
    assert isinstance(initial, MultiTaskModel)
    if initial.config.heads.keys() != config.heads.keys():
        raise ConfigError(
            f"the model to start from has the heads {', '.join(initial.config.heads)}, expected "
            f"{', '.join(config.heads)}: fine-tune it (recipe: finetune) for others"
        )
    if declared is not None and (found := differences(declared, initial.config)):
        raise ConfigError(f"the model to start from differs ({found[0]}): leave `model` out, or make them equal")
    return initial.config


def _chance(config: TrainConfig, task: Task) -> float:
    """How often a step is for a head; the number of its systems where nothing is said."""
    assert config.heads is not None
    given = config.heads[task.name].probability
    return given if given is not None else float(len(task.frames.dataset.systems))


def _build(
    config: TrainConfig,
    whole: MultiTaskConfig,
    tasks: Sequence[Task],
    initial: Model | MultiTaskModel | None,
    chances: Sequence[float],
) -> MultiTaskModel:
    if initial is not None and not config.tunes:
        assert isinstance(initial, MultiTaskModel)
        model = whole.build(0)
        model.load_state_dict(initial.state_dict())
        return model
    model = whole.build(config.seed)
    for task in tasks:
        check_widths(task.found, model.members[task.name], f"{task.name}: training")
    facts = {"data": {task.name: task.found.digest for task in tasks}, "chances": list(chances),
             "preset_out_bias": {task.name: task.preset for task in tasks}}  # fmt: skip
    if initial is None:
        with_statistics(config.statistics_file, model, facts, lambda: _take_statistics(model, tasks, chances))
        return model
    origins = _inherit_heads(config, model, tasks, initial)
    _announce_origins(origins, [name for name in model.type_map if name not in initial.type_map])
    facts["of"] = state_digest(initial)
    facts["heads"] = {name: [origin.name, origin.random, origin.stays] for name, origin in origins.items()}

    def take() -> None:
        if any(name not in initial.type_map for name in model.type_map):
            _set_scales(model, tasks, chances)
            _inherit_heads(config, model, tasks, initial)
        _adjust_heads(model, tasks, origins)

    if not with_statistics(config.statistics_file, model, facts, take):
        for head in model.members.values():
            announce_kept(head)
    return model


def _take_statistics(model: MultiTaskModel, tasks: Sequence[Task], chances: Sequence[float]) -> None:
    """Scales and output bias of a new model."""
    _set_scales(model, tasks, chances)
    for task in tasks:
        log.info("head %s:", task.name)
        set_output(model.members[task.name], task.found, task.preset)


def _set_scales(model: MultiTaskModel, tasks: Sequence[Task], chances: Sequence[float]) -> None:
    """Scales of what heads share, from the data of all of them."""
    heads = model.members
    data = {task.name: (BatchMaker.for_model(task.frames, heads[task.name]), task.found) for task in tasks}
    for groups in _sharing({name: [(heads[name].get_submodule(block.module), block) for block in blocks_from_data(head)]
                            for name, head in heads.items()}):  # fmt: skip
        first, block = groups[0]
        scale_environment(heads[first], block, sampled_graphs(data[name] for name, _ in groups))
    for own in _sharing({name: [(m, None) for m in head.modules() if isinstance(m, LocFrame)]
                         for name, head in heads.items()}):  # fmt: skip
        set_component_scales(heads[own[0][0]], sampled_graphs(data[name] for name, _ in own))
    found = {task.name: (task.found, chance) for task, chance in zip(tasks, chances, strict=True)}
    for nets in _sharing({name: [(m.networks, None) for m in head.modules() if isinstance(m, FittingNetwork)]
                          for name, head in heads.items()}):  # fmt: skip
        _scale_parameters(heads[nets[0][0]], [found[name] for name, _ in nets])


def _scale_parameters(head: Model, found: Sequence[tuple[Scan, float]]) -> None:
    """Scales of the parameters of frames and atoms, where data count by how often a step is for them."""
    base, chance = found[0]
    parameters: dict[str, Moments] = {}
    for one, other in found:
        for name, moments in one.parameters.items():
            weighted = Moments(*(other / chance * part for part in moments))
            parameters[name] = weighted.joined(parameters.get(name))
    set_parameter_scales(head, dataclasses.replace(base, parameters=parameters))


def _sharing(modules: Mapping[str, Sequence[tuple[nn.Module, Beside]]]) -> list[list[tuple[str, Beside]]]:
    """Names of heads that have the same module, with what stands beside it, in groups."""
    groups: dict[int, list[tuple[str, Beside]]] = {}
    for name, own in modules.items():
        for module, beside in own:
            groups.setdefault(id(module), []).append((name, beside))
    return list(groups.values())


class _Origin:
    """Where a head of a fine-tuning begins."""

    def __init__(self, pretrained: Model | MultiTaskModel, name: str, asked: str | None) -> None:
        members = pretrained.members if isinstance(pretrained, MultiTaskModel) else {SINGLE: pretrained}
        first = next(iter(members))
        self.stays = asked is None and name in members
        self.random = asked == RANDOM or (asked is None and name not in members)
        if asked is not None and not self.random and isinstance(pretrained, MultiTaskModel):
            self.model = pretrained.head(asked, "the pretrained model")
            self.name = asked
            return
        self.name = first if self.random else (asked or name)
        if self.name not in members:
            raise ConfigError(
                f"heads.{name}.start_head: the pretrained model has no head {self.name!r}: write {SINGLE} for its only "
                f"one, or {RANDOM} for a new fitting net"
            )
        self.model = members[self.name]


def _origins(config: TrainConfig, pretrained: Model | MultiTaskModel) -> dict[str, _Origin]:
    assert config.heads is not None
    return {name: _Origin(pretrained, name, head.start_head) for name, head in config.heads.items()}


def _tuned_settings(
    config: TrainConfig, pretrained: Model | MultiTaskModel, type_map: tuple[str, ...]
) -> MultiTaskConfig:
    models = {}
    for name, origin in _origins(config, pretrained).items():
        own = head_config(config, name).model_copy(update={"head": RANDOM if origin.random else None})
        models[name] = target_config(own, origin.model, type_map)
    return joined_heads(config, models)


def _inherit_heads(
    config: TrainConfig, model: MultiTaskModel, tasks: Sequence[Task], pretrained: Model | MultiTaskModel
) -> dict[str, _Origin]:
    """Take parameters and scales from the pretrained model; where each head begins."""
    origins = _origins(config, pretrained)
    # new fitting nets first: what they share with an inherited one is inherited
    for task in sorted(tasks, key=lambda task: not origins[task.name].random):
        origin = origins[task.name]
        inherit(model.members[task.name], origin.model, fitting=not origin.random, seed=config.seed)
    return origins


def _announce_origins(origins: Mapping[str, _Origin], unknown: Sequence[str]) -> None:
    if unknown:
        log.info("%s: unknown to the pretrained model, with new type embeddings", ", ".join(unknown))
    for name, origin in origins.items():
        what = "a new fitting net on its descriptor" if origin.random else "its descriptor and fitting net"
        log.info("head %s begins with head %s of the pretrained model: %s", name, origin.name, what)


def _adjust_heads(model: MultiTaskModel, tasks: Sequence[Task], origins: Mapping[str, _Origin]) -> None:
    """Bring the output bias of each head to its data."""
    for task in tasks:
        origin, head = origins[task.name], model.members[task.name]
        if not origin.stays:
            log.info("head %s:", task.name)
            adjust_output(head, task.frames, task.found, random=origin.random, preset=task.preset)
