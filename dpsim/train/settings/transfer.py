"""Settings of a training that goes on from another model. No torch here: a declaration is checked without it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from dpsim.config import Config

RANDOM = "RANDOM"
"""Instead of the name of a head: the descriptor of the first one with a new fitting net."""


class LowRankConfig(Config):
    """A fine-tuning that moves each matrix by a product of two thin ones (LoRA); what it learns is little, and what the
    pretrained model knows stays. The model that comes out is an ordinary one."""

    rank: Annotated[int, Field(ge=1)] = 8
    """Columns of the first and rows of the second. A matrix with no more elements than the two together is trained
    whole; biases and other vectors are not trained."""
    alpha: Annotated[float, Field(gt=0)] = 8.0
    """The product counts `alpha / rank` times."""
    whole: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Parts of the model that are trained without this limit, for example ``fitting``; a new fitting net (``head:
    RANDOM``) always is."""


class TransferSettings(Config):
    """What is taken from the model that training starts from, and which parts of it stay as they are."""

    later: ClassVar[tuple[str, ...]] = ("recipe", "lora", "head", "frozen", "change_bias_after_training")
    """Fields that came later: they are left out where they have their default, so that cache keys of older trainings
    stay, and those can be continued."""

    recipe: Literal["scratch", "finetune", "lora"] = "scratch"
    """``finetune``: the model to start from is a pretrained one, which is brought to the elements and the energies of
    the data before the first step; otherwise its parameters are taken as they are. ``lora``: such a fine-tuning with
    thin matrices (see `lora`)."""
    lora: LowRankConfig = LowRankConfig()
    """How ``recipe: lora`` moves the matrices of the pretrained model."""
    head: str | None = None
    """Head of the model to start from, if it has several; ``RANDOM``: a new fitting net on its descriptor."""
    frozen: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Parts of the model that are not trained, for example ``descriptor``, ``fitting`` or
    ``descriptor.type_embedding``."""
    change_bias_after_training: bool = False
    """Fit the output bias of the results to what they leave of the training data."""

    @model_validator(mode="after")
    def _check_transfer(self) -> TransferSettings:
        if self.head == RANDOM and not self.tunes:
            raise ValueError("head: RANDOM asks for a new fitting net, which needs recipe: finetune")
        if self.recipe != "lora" and self.lora != LowRankConfig():
            raise ValueError(f"lora has no effect with recipe: {self.recipe}: write recipe: lora, or leave it out")
        return self

    @property
    def tunes(self) -> bool:
        """Whether a pretrained model is brought to the data before the first step."""
        return self.recipe != "scratch"

    @model_serializer(mode="wrap")
    def _without_later(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        silent = {name for name in self.later if name in fields and getattr(self, name) == fields[name].default}
        return {key: value for key, value in values.items() if key not in silent}
