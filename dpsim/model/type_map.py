"""Models for other elements: types in another order, fewer, or more (spec common.md §9, §11.2, fittings.md §13).

What a model knows of the elements that stay is kept: their energies do not change. This needs descriptors whose
networks serve all types; where each type has networks of its own, there is nothing that a new type could begin with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from dpsim.config import first_problem
from dpsim.descriptors import DescriptorConfig
from dpsim.descriptors.environment import Environment
from dpsim.descriptors.hybrid.config import HybridConfig
from dpsim.descriptors.settings import CompressibleSettings
from dpsim.errors import ModelError
from dpsim.fittings.network import FittingNetwork
from dpsim.model.base import Model
from dpsim.model.compose.base import EnergyModel
from dpsim.model.compose.config import LinearModelConfig, PairTableConfig, ZBLModelConfig
from dpsim.model.compose.linear import CombinedModel
from dpsim.model.compose.spin import SpinModel
from dpsim.model.compose.spin_config import SpinModelConfig, doubled_type_map
from dpsim.model.compose.table import pair_of_types
from dpsim.model.compose.zbl import ZBLModel
from dpsim.model.config import AnyModelConfig
from dpsim.model.potential import PotentialModel
from dpsim.model.standard import ModelConfig
from dpsim.nn.type_embedding import TypeEmbedding

ModelT = TypeVar("ModelT", bound=Model)

ROWS: dict[type[nn.Module], tuple[str, ...]] = {
    Environment: ("mean", "stddev"),
    FittingNetwork: ("bias_by_type",),
    PotentialModel: ("out_bias", "out_std"),
    EnergyModel: ("out_bias", "out_std"),
}
"""Tensors with one row a type, by the module that has them; `TypeEmbedding` beside."""


class Move(NamedTuple):
    """From the types of one model to those of another."""

    old: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def rows(self) -> list[int | None]:
        """Old type of each new one; None where there is none."""
        return [self.old.index(name) if name in self.old else None for name in self.new]

    def types(self, types: Sequence[int]) -> tuple[int, ...]:
        """Types as the new model counts them, without those that it does not have."""
        return tuple(self.new.index(self.old[t]) for t in types if self.old[t] in self.new)

    def pairs(self, pairs: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
        """Pairs of types as the new model counts them."""
        moved = [self.types(pair) for pair in pairs]
        return tuple((pair[0], pair[1]) for pair in moved if len(pair) == 2)


def with_type_map(model: ModelT, type_map: Sequence[str], *, seed: int = 0) -> ModelT:
    """Copy of a model for other elements.

    Elements that the model does not know get a random type embedding, drawn from `seed`, an output bias of zero,
    and the scales of a model that has seen no data.

    Raises
    ------
    ModelError
        If the model cannot be moved; see `moved_config`.
    """
    target: ModelT = moved_config(model.config, type_map).build(seed).to(model.device)  # type: ignore[assignment]
    inherit(target, model, seed=seed)
    return target


def moved_config(config: AnyModelConfig, type_map: Sequence[str]) -> AnyModelConfig:
    """Settings of the same model for other elements; excluded types are renumbered, and dropped where they vanish.

    Raises
    ------
    ModelError
        If the descriptor has networks for each type, or a new element needs something that only its user knows:
        a table of pair energies, or the scale of its spins.
    """
    names = tuple(type_map)
    if names == config.type_map:
        return config
    try:
        return _moved(config, Move(config.type_map, names))
    except ValidationError as error:
        raise ModelError(f"a model for {' '.join(names) or 'no element'} cannot be: {first_problem(error)}") from None


def _moved(config: AnyModelConfig, move: Move) -> AnyModelConfig:
    if isinstance(config, ModelConfig):
        return _standard(config, move)
    if isinstance(config, PairTableConfig):
        return _table(config, move)
    if isinstance(config, SpinModelConfig):
        return _spin(config, move)
    if isinstance(config, LinearModelConfig | ZBLModelConfig):
        return _combined(config, move)
    raise ModelError(f"the elements of a {config.type} model cannot be changed: it would need new training")


def inherit(target: Model, source: Model, *, fitting: bool = True, seed: int = 0) -> None:
    """Fill a model with what another knows, in place; the two may have other elements.

    Elements that the source does not know keep the scales that the target has, which may come from data; their
    output bias is zero and their type embedding drawn from `seed`. A model that gives way to a table of pair energies
    may inherit from one without.

    Parameters
    ----------
    fitting
        Whether fitting nets and output biases are inherited; otherwise only descriptors are.

    Raises
    ------
    ModelError
        If the two are models of different kinds or shapes.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _inherit(target, source, fitting, generator)


def _inherit(target: Model, source: Model, fitting: bool, generator: torch.Generator) -> None:
    move = Move(source.type_map, target.type_map)
    if isinstance(target, ZBLModel) and isinstance(source, PotentialModel):
        _inherit(_member(target, 0), source, fitting, generator)
        return
    if type(target) is not type(source):
        raise ModelError(f"a {target.config.type} model cannot go on from a {source.config.type} model")
    if isinstance(target, SpinModel) and isinstance(source, SpinModel):
        _inherit(target.backbone, source.backbone, fitting, generator)
    elif isinstance(target, CombinedModel) and isinstance(source, CombinedModel):
        if len(target.models) != len(source.models):
            raise ModelError(f"the model has {len(target.models)} parts, the one to go on from {len(source.models)}")
        for index in range(len(target.models)):
            _inherit(_member(target, index), _member(source, index), fitting, generator)
    elif isinstance(target, PotentialModel) and isinstance(source, PotentialModel):
        for part in ("descriptor", "fitting") if fitting else ("descriptor",):
            _copy(target.get_submodule(part), source.get_submodule(part), move, part, generator)
    if fitting and not isinstance(target, SpinModel):  # there it is the backbone's
        _own(target, source, move, target.config.type)


def _member(model: CombinedModel, index: int) -> Model:
    member = model.models[index]
    assert isinstance(member, Model)
    return member


def _copy(target: nn.Module, source: nn.Module, move: Move, where: str, generator: torch.Generator) -> None:
    """Copy a module with all that is in it."""
    if isinstance(target, TypeEmbedding) and isinstance(source, TypeEmbedding):
        _embedding(target, source, generator)
        return
    _own(target, source, move, where)
    new, old = dict(target.named_children()), dict(source.named_children())
    for name in sorted(new.keys() | old.keys()):
        if name not in new or name not in old:
            raise ModelError(f"{where}.{name} is not in both models: the settings of the two differ")
        _copy(new[name], old[name], move, f"{where}.{name}", generator)


def _own(target: nn.Module, source: nn.Module, move: Move, where: str) -> None:
    """Copy the tensors of a module, without those of modules within."""
    by_type = next((names for kind, names in ROWS.items() if isinstance(target, kind)), ())
    old = _tensors(source)
    for name, tensor in _tensors(target).items():
        values = old.get(name)
        if values is not None and name in by_type:
            fresh = tensor if isinstance(target, Environment) else _unknown(name, tensor)
            values = _moved_rows(values, fresh, move)
        if values is None or values.shape != tensor.shape:
            found = "is absent" if values is None else f"has shape {tuple(values.shape)}"
            raise ModelError(
                f"{where}.{name} {found} in the model to go on from, expected {tuple(tensor.shape)}: "
                "the settings of the two differ"
            )
        tensor.copy_(values)


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers of a module, without those of modules within."""
    hidden = module._non_persistent_buffers_set
    buffers = {name: t for name, t in module.named_buffers(recurse=False) if name not in hidden}
    return {**dict(module.named_parameters(recurse=False)), **buffers}


def _unknown(name: str, like: Tensor) -> Tensor:
    """Rows of types that no data have shown."""
    return torch.ones_like(like) if name == "out_std" else torch.zeros_like(like)


def _moved_rows(values: Tensor, fresh: Tensor, move: Move) -> Tensor:
    """Rows of the new types: those of `values` where the old model has the type, else those of `fresh`."""
    if values.shape[1:] != fresh.shape[1:]:
        return values  # another model; whoever compares the shapes says so
    return torch.stack([fresh[k] if row is None else values[row].to(fresh) for k, row in enumerate(move.rows)])


def _embedding(target: TypeEmbedding, source: TypeEmbedding, generator: torch.Generator) -> None:
    """Vectors of the types; the residual rule depends on their number, so the identity is taken out and put in."""
    old, new = source.linear, target.linear
    values: Tensor = old.weight
    if source.names != target.names and source.inputs is None:
        table = values if source.identity is None else values + source.identity
        fresh = torch.rand(new.weight.shape, generator=generator, dtype=torch.float64).to(new.weight)
        values = _moved_rows(table, fresh, Move(source.names, target.names))
        if target.identity is not None and values.shape == target.identity.shape:
            values = values - target.identity
    for tensor, given in ((new.weight, values), (new.bias, old.bias)):
        if tensor is None and given is None:
            continue
        if tensor is None or given is None or tensor.shape != given.shape:
            raise ModelError("the type embeddings of the two models have different settings")
        tensor.copy_(given)


def _standard(config: ModelConfig, move: Move) -> ModelConfig:
    _require_mixed(config.descriptor)
    if None in move.rows and _is_compressed(config.descriptor):
        raise ModelError(
            "a compressed model cannot take in elements, as its tables end where its own did: use the model that it "
            "was made from"
        )
    return ModelConfig(
        type_map=move.new,
        descriptor=_descriptor(config.descriptor.model_dump(), move),
        fitting=_fitting(config.fitting.model_dump(), move),
        pair_exclude_types=move.pairs(config.pair_exclude_types),
        atom_exclude_types=move.types(config.atom_exclude_types),
    )


def _require_mixed(descriptor: DescriptorConfig) -> None:
    members = descriptor.list if isinstance(descriptor, HybridConfig) else ()
    for member in members:
        _require_mixed(member)
    if not descriptor.mixed_types:
        raise ModelError(
            f"the elements of a model cannot be changed where the descriptor ({descriptor.type}) has networks for each "
            "of them: this needs one that serves all types, for example dpa1, dpa2 or dpa3"
        )


def _is_compressed(descriptor: DescriptorConfig) -> bool:
    members = descriptor.list if isinstance(descriptor, HybridConfig) else (descriptor,)
    return any(isinstance(member, CompressibleSettings) and bool(member.compressed) for member in members)


def _descriptor(settings: dict[str, Any], move: Move) -> Any:
    """Settings of a descriptor with renumbered pairs, also in those within."""
    moved: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "exclude_types":
            moved[key] = move.pairs(value)
        elif isinstance(value, dict):
            moved[key] = _descriptor(value, move)
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            moved[key] = [_descriptor(one, move) for one in value]
        else:
            moved[key] = value
    return moved


def _fitting(settings: dict[str, Any], move: Move) -> Any:
    moved = {**settings, "exclude_types": move.types(settings["exclude_types"])}
    flags, scale = settings.get("vacuum_types"), settings.get("scale")
    if flags is not None:
        kept = [row is not None and flags[row] for row in move.rows]
        # one network serves all types, so a single flag counts for all atoms: it must not vanish with its type
        lost = any(flags) and not any(kept)
        moved["vacuum_types"] = [row is not None for row in move.rows] if lost else kept
    if isinstance(scale, list | tuple):
        moved["scale"] = [1.0 if row is None else scale[row] for row in move.rows]
    return moved


def _table(config: PairTableConfig, move: Move) -> PairTableConfig:
    missing = [name for name in move.new if name not in move.old]
    if missing:
        raise ModelError(f"the table of pair energies knows nothing of {', '.join(missing)}: give a table that does")
    old, n = pair_of_types(len(move.old)), len(move.new)
    rows = [move.old.index(name) for name in move.new]
    columns = [0, *(1 + int(old[rows[a], rows[b]]) for a in range(n) for b in range(a, n))]
    return config.model_copy(
        update={
            "type_map": move.new,
            "table": tuple(tuple(row[c] for c in columns) for row in config.table),
            "pair_exclude_types": move.pairs(config.pair_exclude_types),
            "atom_exclude_types": move.types(config.atom_exclude_types),
        }
    )


def _spin(config: SpinModelConfig, move: Move) -> SpinModelConfig:
    missing = [name for name in move.new if name not in move.old]
    if missing:
        raise ModelError(f"the spin model has no virtual_scale for {', '.join(missing)}: train a new model for them")
    return SpinModelConfig(
        type_map=move.new,
        virtual_scale=tuple(config.virtual_scale[row] for row in move.rows if row is not None),
        backbone=_standard(config.backbone, Move(config.backbone.type_map, doubled_type_map(move.new))),
    )


def _combined(config: LinearModelConfig | ZBLModelConfig, move: Move) -> LinearModelConfig | ZBLModelConfig:
    changes: dict[str, Any] = {
        "type_map": move.new,
        "pair_exclude_types": move.pairs(config.pair_exclude_types),
        "atom_exclude_types": move.types(config.atom_exclude_types),
    }
    members = [_with_more(member, move.new) for member in config.members]
    if isinstance(config, ZBLModelConfig):
        changes |= {"model": members[0], "table": members[1]}
    else:
        changes["models"] = tuple(members)
    return type(config).model_validate(config.model_dump() | changes)


def _with_more(member: ModelConfig | PairTableConfig, names: tuple[str, ...]) -> AnyModelConfig:
    """A part with the elements that it lacks; those that it has beside stay, as parts may know more than the whole."""
    more = [name for name in names if name not in member.type_map]
    return moved_config(member, (*member.type_map, *more))
