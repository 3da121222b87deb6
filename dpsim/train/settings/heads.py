"""Settings of a training with several heads (spec fittings.md §12). No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from dpsim.config import Config, InnerErrors, first_problem
from dpsim.errors import ConfigError
from dpsim.model.config import AnyModelConfig
from dpsim.model.multi_config import HeadConfig, MultiTaskConfig, SharedPart
from dpsim.train.settings.data import BatchSize, Sampling, size_of
from dpsim.train.settings.loss import LossConfig, Rate
from dpsim.train.settings.model import ModelSection
from dpsim.train.settings.standard_model import ElementBias, StandardSection, merged
from dpsim.train.settings.transfer import RANDOM

if TYPE_CHECKING:
    from dpsim.train.config import TrainConfig

HeadName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]*$")]
"""Name of a head: it is part of the names of columns."""
SHARED = ("descriptor",)


class HeadSettings(Config):
    """One head of a training with several: what it has of its own."""

    aliases: tuple[str, ...] = ()
    """Other names by which the head may be asked for."""
    model: ModelSection | None = None
    """A model in full instead of that of all heads; what is shared must be the same."""
    fitting: dict[str, Any] = {}
    """Settings of the fitting that replace those of the model of all heads."""
    preset_out_bias: dict[str, ElementBias] = {}
    """Output biases that are given instead of fitted to the data, by element."""
    loss: LossConfig | None = None
    """What is made small, instead of the loss of all heads."""
    batch_size: BatchSize | None = None
    """Instead of that of all heads."""
    sampling: Sampling | None = None
    """Instead of that of all heads."""
    probability: Annotated[float, Field(gt=0)] | None = None
    """How often a step is for this head; divided by the sum over all. By default the number of its systems."""
    epochs: Rate | None = None
    """Instead of `probability`, and of `steps` for all heads: how often each frame of this head is seen."""
    start_head: str | None = None
    """In a fine-tuning, the head of the pretrained model that this one begins with; ``RANDOM``: the descriptor of the
    first with a new fitting net. By default the head of the same name, whose bias then stays; else ``RANDOM``."""

    @model_serializer(mode="wrap")
    def _without_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later, where it has no effect: older trainings can be continued."""
        return {key: value for key, value in handler(self).items() if key != "epochs" or value is not None}


class HeadsSettings(Config):
    """Several heads on one model."""

    heads: Annotated[dict[HeadName, HeadSettings], Field(min_length=1)] | None = None
    """Heads by name; each step is for one of them."""
    shared: tuple[str | SharedPart, ...] = SHARED
    """Parts that the heads have in common: ``descriptor``, ``descriptor.type_embedding``, ``fitting`` (with
    ``dim_case_embd``, the number of heads, it is told which of them is meant), or ``{part: ..., heads: [...]}``."""

    @property
    def epochs_of_heads(self) -> dict[str, float]:
        """Epochs of those heads that have them."""
        return {name: head.epochs for name, head in (self.heads or {}).items() if head.epochs is not None}


HEADS_SETTINGS = tuple(HeadsSettings.model_fields)


def check_heads(config: TrainConfig) -> None:
    """Refuse settings that do not go with several heads, or only with them.

    Raises
    ------
    ValueError
        Naming the setting.
    """
    if config.heads is None:
        if config.shared != SHARED:
            raise ValueError("shared is about several heads: give heads as well")
        return
    _check_others(config)
    for name, head in config.heads.items():
        where = f"heads.{name}"
        if name == RANDOM:
            raise ValueError(f"{where}: no head can have the name {RANDOM}")
        if head.start_head is not None and not config.tunes:
            raise ValueError(f"{where}.start_head has no effect without recipe: finetune: leave it out")
        common = head.model is None and isinstance(config.model, StandardSection)
        if head.fitting and not common:
            raise ValueError(f"{where}.fitting changes a model of all heads with descriptor and fitting: there is none")
        if config.model is not None or head.model is not None:
            section = section_of(config, name)
            if getattr(section, "type", "") == "dplr":
                raise ValueError(f"{where}: a model with electrostatics is trained alone")
    several = {head.model is None for head in config.heads.values()}
    if config.model is None and len(several) > 1:
        raise ValueError("model: some heads have a model of their own, the others need one")
    unknown = {name for group in config.shared if isinstance(group, SharedPart) for name in group.heads}
    if unknown - set(config.heads):
        raise ValueError(f"shared: {sorted(unknown - set(config.heads))[0]!r} is no head")


def _check_others(config: TrainConfig) -> None:
    if config.head is not None:
        raise ValueError("head is for a training of a single head: with heads, each has its start_head")
    if config.epochs is not None:
        raise ValueError("epochs are given for each head (heads.NAME.epochs): leave them out here")
    _check_epochs(config)
    if config.recipe == "lora":
        raise ValueError("recipe: lora is for a training of a single head: write recipe: finetune")
    if config.optimizer.type == "LKF":
        raise ValueError("optimizer.type: LKF is for a training of a single head: choose another")


def _check_epochs(config: TrainConfig) -> None:
    assert config.heads is not None
    epochs = config.epochs_of_heads
    if epochs and config.steps is not None:
        raise ValueError(f"heads.{next(iter(epochs))}.epochs and steps ({config.steps}) exclude each other: give one")
    for name, head in config.heads.items() if epochs else ():
        if head.epochs is None:
            raise ValueError(f"heads.{name}.epochs is missing: the other heads have epochs")
        if head.probability is not None:
            raise ValueError(f"heads.{name}: probability follows from the epochs: give one of them")
        size = config.batch_size if head.batch_size is None else head.batch_size
        if size_of(size).rule == "edges":
            raise ValueError(f"heads.{name}.epochs cannot be counted with batch_size: {size}: give steps instead")


def section_of(config: TrainConfig, name: str) -> Any:
    """Section ``model`` of one head; None if it is that of a model to start from."""
    assert config.heads is not None
    head = config.heads[name]
    section = head.model or config.model
    if not (isinstance(section, StandardSection) and (head.fitting or head.preset_out_bias)):
        return section
    settings = section.model_dump()
    kind = settings["fitting"].get("type", "ener")
    same = head.fitting.get("type", kind) == kind
    settings["fitting"] = merged(settings["fitting"], head.fitting) if same else head.fitting
    settings["preset_out_bias"] = section.preset_out_bias | head.preset_out_bias
    try:
        return type(section).model_validate(settings)
    except ValidationError as error:
        raise InnerErrors(error, "heads", name) from None


def head_config(config: TrainConfig, name: str) -> TrainConfig:
    """Settings of a training of one head alone."""
    assert config.heads is not None
    head = config.heads[name]
    own = {key: value for key in ("loss", "batch_size", "sampling") if (value := getattr(head, key)) is not None}
    return config.model_copy(update={"heads": None, "shared": SHARED, "model": section_of(config, name), **own})


def shared_parts(config: TrainConfig) -> tuple[SharedPart, ...]:
    """What the heads share; a part that is named alone is that of all heads."""
    assert config.heads is not None
    names = tuple(config.heads)
    if len(names) == 1:
        return ()
    return tuple(
        group if isinstance(group, SharedPart) else SharedPart(part=group, heads=names) for group in config.shared
    )


def multi_config(config: TrainConfig, type_map: tuple[str, ...]) -> MultiTaskConfig:
    """Complete settings of all heads.

    Raises
    ------
    ConfigError
        If a head has no model, or the settings contradict each other.
    """
    from dpsim.train.config import resolve_model

    assert config.heads is not None
    models = {name: resolve_model(head_config(config, name), type_map) for name in config.heads}
    return joined_heads(config, models)


def joined_heads(config: TrainConfig, models: Mapping[str, AnyModelConfig]) -> MultiTaskConfig:
    """Settings of all heads from those of each.

    Raises
    ------
    ConfigError
        If they contradict each other.
    """
    assert config.heads is not None
    try:
        heads = {name: HeadConfig(model=models[name], aliases=head.aliases) for name, head in config.heads.items()}
        return MultiTaskConfig(heads=heads, shared=shared_parts(config))
    except ValidationError as error:
        raise ConfigError(first_problem(error, "heads")) from None
