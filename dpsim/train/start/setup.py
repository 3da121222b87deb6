"""What happens before the first step: the model, and the numbers taken from the data."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dpsim.descriptors.blocks import EnvironmentBlock
from dpsim.descriptors.environment import Environment
from dpsim.descriptors.tabulated import TabulatedNetwork
from dpsim.errors import ConfigError, DataError
from dpsim.fittings import PropertyFittingConfig
from dpsim.fittings.network import FittingNetwork
from dpsim.model.base import Model
from dpsim.model.config import AnyModelConfig, ModelConfig, read_config
from dpsim.model.multi_config import read_settings
from dpsim.model.multi_task import MultiTaskModel
from dpsim.model.statistics import environment_statistics, output_bias, shared_bias
from dpsim.physics.neighbors import FrameGraph
from dpsim.train.batches.frames import FrameSet, Scan, require_parameters
from dpsim.train.batches.loader import BatchMaker
from dpsim.train.config import TrainConfig, resolve_model
from dpsim.train.records.resume import Resume, differences
from dpsim.train.records.state import read_model
from dpsim.train.settings.standard_model import ElementBias, StandardSection
from dpsim.train.settings.transfer import RANDOM
from dpsim.train.start.component_scales import set_component_scales
from dpsim.train.start.given_bias import BIASED, given_bias
from dpsim.train.start.statistics_file import with_statistics

log = logging.getLogger("dpsim.train")

SMALLEST_DEVIATION = 1e-2
"""Parameters whose standard deviation is less are scaled with this instead."""
_FLAT = 1e-10
"""Deviation of a property, relative to its labels, that is rounding only."""
STATISTICS_FRAMES = 100
"""Frames, about, from which environment scales are computed."""

ModelSource = str | Path | Model | MultiTaskModel
FloatArray = npt.NDArray[np.float64]


class Target(NamedTuple):
    """What is trained, as far as the data are concerned."""

    output: str = "energy"
    property_name: str = ""


def target_of(config: TrainConfig, resume: Resume | None, initial: Model | None) -> Target:
    """What the model of a training predicts."""
    new_fitting = config.head == RANDOM and config.model is not None
    if initial is not None and not new_fitting:
        return Target(initial.output, initial.property_name)
    return target_of_settings(read_config(resume.state.model_config) if resume is not None else config.model)


def target_of_settings(settings: Any) -> Target:
    """What a model predicts, from its settings or its section in a training."""
    if isinstance(settings, StandardSection):
        fitting = settings.parts()[1]
    elif isinstance(settings, ModelConfig):
        fitting = settings.fitting
    else:
        return Target()
    return Target(fitting.output, fitting.property_name if isinstance(fitting, PropertyFittingConfig) else "")


def load_initial(source: ModelSource, config: TrainConfig) -> Model:
    """Copy of the model whose weights training starts from, in the precision asked for.

    Raises
    ------
    ConfigError
        If the training declares a model of other settings.
    ModelError
        If the file cannot be read.
    """
    if isinstance(source, Model) and config.head is not None:
        raise ConfigError(f"the model to start from is a single one: leave out head: {config.head}")
    if isinstance(source, MultiTaskModel):
        source = source.head(config.head, "the model to start from")
    model = source if isinstance(source, Model) else read_model(Path(source), config.head)
    refuse_tables(model)
    if config.model is not None:
        wanted = resolve_model(config, model.type_map)
        if found := differences(wanted, model.config):
            raise ConfigError(
                f"the model to start from differs from `model` ({found[0]}): leave `model` out, or make them equal"
            )
        return _copy(model, wanted)
    return _copy(model, model.config if config.precision is None else model.config.with_precision(config.precision))


def refuse_tables(model: nn.Module) -> None:
    """Refuse a compressed model: its embedding has no parameters."""
    if any(isinstance(module, TabulatedNetwork) for module in model.modules()):
        raise ConfigError("a compressed model cannot be trained: train the model that it was made from")


def _copy(model: Model, config: AnyModelConfig) -> Model:
    """The same parameters in a model of its own, with settings that differ in the precision alone."""
    copy: Model = config.build(0).to(model.device)
    copy.load_state_dict(model.state_dict())
    return copy


def new_model(config: TrainConfig, frames: FrameSet, found: Scan, maker: BatchMaker | None = None) -> Model:
    """Model with parameters from the seed, and output bias and scales from the data."""
    model = resolve_model(config, frames.type_map).build(config.seed)
    refuse_tables(model)
    check_widths(found, model, "training")
    require_parameters(found, model.inputs, "training")
    preset = config.model.preset_out_bias if config.model is not None else {}

    def take() -> None:
        set_environment_scales(model, maker or BatchMaker.for_model(frames, model), found)
        set_parameter_scales(model, found)
        set_output(model, found, preset)

    facts = {"data": found.digest, "preset_out_bias": preset, "frames": STATISTICS_FRAMES}
    with_statistics(config.statistics_file, model, facts, take)
    if config.model is not None:
        config.model.complete(model)
    return model


def set_output(model: Model, found: Scan, preset: Mapping[str, ElementBias]) -> None:
    """Output bias of a new model from the labels.

    Parameters
    ----------
    preset
        What is given for elements instead.

    Raises
    ------
    ConfigError
        If something is given that the model has not, or for elements that it does not know.
    """
    given = given_bias(model, preset, ConfigError)
    if model.output == "energy" and (len(found.values) or preset):
        _set_energy_bias(model, found, given)
    elif model.output in BIASED:
        _set_output_bias(model, found, given)


def _set_energy_bias(model: Model, found: Scan, given: Mapping[int, FloatArray]) -> None:
    fit = output_bias(found.compositions, found.values, model.atom_exclude_types, preset=given)
    model.out_bias.copy_(torch.from_numpy(fit.bias[:, 0]))
    per_element = ", ".join(
        f"{name} {bias:.4f}" if count or t in given else f"{name} none (in none of these frames)"
        for t, (name, bias, count) in enumerate(zip(model.type_map, fit.bias[:, 0], found.atoms, strict=True))
    )
    log.info(
        "energy bias in eV, from %d frames: %s; standard deviation of the rest %.4g eV a frame",
        fit.n_frames,
        per_element,
        fit.std[0, 0],
    )


def _set_output_bias(model: Model, found: Scan, given: Mapping[int, FloatArray]) -> None:
    """Bias and deviation: from the labels of atoms where there are any, else from those of structures."""
    if found.of_types is not None:
        bias, std, source = found.of_types.mean, found.of_types.std, f"{int(found.of_types.number.sum())} atoms"
        bias[list(given)] = np.array(list(given.values())).reshape(-1, bias.shape[1])
    else:
        excluded, shared = model.atom_exclude_types, not getattr(model.config.fitting, "distinguish_types", True)
        if shared:
            fit = shared_bias(found.compositions, found.values, excluded, mean=model.intensive)
        else:
            fit = output_bias(found.compositions, found.values, excluded, preset=given, mean=model.intensive)
        bias, std, source = fit.bias, nonzero_deviations(model, fit.std, found.values), f"{fit.n_frames} frames"
    model.out_bias.copy_(torch.from_numpy(bias).reshape(model.out_bias.shape))
    model.out_std.copy_(torch.from_numpy(std).reshape(model.out_std.shape))
    log.info("%s: bias of the elements from %s", model.output, source)


def nonzero_deviations(model: Model, std: FloatArray, values: FloatArray) -> FloatArray:
    """Deviations of the labels of a property, which its error is divided by: 1 where all labels are the same."""
    flat = std < _FLAT * max(1.0, float(np.abs(values).max(initial=0.0)))
    if model.output != "property" or not flat.any():
        return std
    components = ", ".join(map(str, np.flatnonzero(flat.any(0)) + 1))
    log.warning(
        "%s: the labels leave no deviation of component %s (all are the same, or there are no more frames than "
        "elements): 1 is taken", model.property_name or model.output, components,
    )  # fmt: skip
    return np.where(flat, 1.0, std)


def set_parameter_scales(model: Model, found: Scan) -> None:
    """Mean and deviation of the parameters of frames and atoms, in all fitting nets."""
    for module in model.modules():
        if isinstance(module, FittingNetwork):
            for name, size in (("fparam", module.config.numb_fparam), ("aparam", module.config.numb_aparam)):
                moments = found.parameters.get(name)
                if size and moments is not None:
                    scale = 1 / np.maximum(moments.std[0], SMALLEST_DEVIATION)
                    module.get_buffer(f"{name}_mean").copy_(torch.from_numpy(moments.mean[0]))
                    module.get_buffer(f"{name}_inv_std").copy_(torch.from_numpy(scale))
                    log.info("%s: mean %s", name, np.array2string(moments.mean[0], precision=4))


def check_widths(found: Scan, model: Model, what: str) -> None:
    """Refuse labels or parameters with another number of components than the model's.

    Raises
    ------
    DataError
        Naming both numbers.
    """
    wide = math.prod(model.output_shape)
    widths = {model.output: (found.values.shape[1], wide)} if len(found.values) else {}
    if found.of_types is not None:
        widths[f"atomic_{model.output}"] = (found.of_types.total.shape[1], wide)
    for name, size in (("fparam", model.inputs.n_fparam), ("aparam", model.inputs.n_aparam)):
        if size and name in found.parameters:
            widths[name] = (found.parameters[name].total.shape[1], size)
    for name, (there, expected) in widths.items():
        if there != expected:
            raise DataError(f"{name} has {there} numbers in the {what} data, and {expected} in the model's settings")


def set_environment_scales(model: Model, maker: BatchMaker, found: Scan) -> None:
    """Scales of environments from the frames of a maker, for every descriptor of a model."""
    for block in blocks_from_data(model):
        scale_environment(model, block, sampled_graphs([(maker, found)]))
    for name in set_component_scales(model, sampled_graphs([(maker, found)])):
        log.info("%s: scales of all components are set", name)


def sampled_graphs(data: Iterable[tuple[BatchMaker, Scan]]) -> Iterator[FrameGraph]:
    """Neighbourhoods of some frames of each maker, of all its systems and elements."""
    return (maker.graph(i) for maker, found in data for i in found.sample(maker.frames, STATISTICS_FRAMES))


def blocks_from_data(model: Model) -> list[EnvironmentBlock]:
    """Environments of a model whose scales are taken from data."""
    return [block for block in model.config.environments() if not (block.constant_stddev and block.zero_mean)]


def scale_environment(model: Model, block: EnvironmentBlock, graphs: Iterable[FrameGraph]) -> None:
    """Mean and deviation of one environment from neighbourhoods."""
    found = environment_statistics(graphs, block, model.n_row_types)
    environment = model.get_submodule(block.module)
    assert isinstance(environment, Environment)
    stddev = np.full_like(found.stddev, block.constant_stddev) if block.constant_stddev else found.stddev
    rows = list(block.rows or range(len(stddev)))
    # the types of centres are the last axis but one, the same for all types of neighbours
    environment.mean[..., rows, :] = torch.from_numpy(found.mean[:, : environment.columns]).to(environment.mean)
    environment.stddev[..., rows, :] = torch.from_numpy(stddev[:, : environment.columns]).to(environment.stddev)
    log.info("%s: scales (radial, angular) %s", block.module, np.array2string(found.stddev[:, :2], precision=4))


def type_map_for(
    config: TrainConfig, resume: Resume | None, initial: Model | MultiTaskModel | None, asked: Sequence[str] | None
) -> tuple[str, ...] | None:
    """Elements of the model: those of the checkpoint or the initial model, else as asked, else None.

    A fine-tuned model has the elements that are asked for, whatever the pretrained one knows.

    Raises
    ------
    ConfigError
        If an element asked for is not one of the model's.
    """
    free = initial is None or (config.tunes and asked is not None)
    if resume is None and free:
        return tuple(asked) if asked is not None else None
    known = read_settings(resume.state.model_config).type_map if resume else initial.type_map if initial else ()
    missing = [name for name in asked or () if name not in known]
    if missing:
        raise ConfigError(
            f"type_map has {', '.join(missing)}, but the model to go on from knows {' '.join(known)}: "
            "fine-tune it (recipe: finetune), train a new model, or leave these elements out"
        )
    return known


def check_validation(found: Scan, config: TrainConfig, model: Model) -> None:
    """Refuse validation data that the model cannot be evaluated on, or compared with.

    Raises
    ------
    DataError
        Naming the labels wanted, or the parameters missing.
    """
    fields = dict.fromkeys(field for term in config.loss.active for field in config.loss.needs(term, model.output))
    if not any(found.labels.get(field) for field in fields):
        raise DataError(
            f"no frame of the validation data has one of the labels {', '.join(fields)}: "
            "add them, or train without validation data"
        )
    check_widths(found, model, "validation")
    require_parameters(found, model.inputs, "validation")
