"""What one family of DeePMD-kit's models knows: its serialised form, its torch names, its input.

A family is one descriptor, one fitting or one kind of whole model, and one module in this folder. It translates in
both directions between dpsim's `Config` and state (arrays by dpsim's names) and the peer's files:

``read``
    section of a ``.dp``/``.yaml`` file → config as a dict, state
``write``
    config, state → section with everything that DeePMD-kit 3.2.0 needs to read it
``torch_names``
    dpsim's name of each array → its name in the peer's torch state (``.pt``, ``.pth``)
``from_input``
    section of the peer's ``input.json``, defaults and aliases included → config as a dict

To add one, write for example::

    class SeE2APeer(DescriptorFamily[SeE2AConfig]):
        type = "se_e2_a"                       # of the dpsim Config
        names = ("se_e2_a", "se_a")            # of the peer, in files and inputs

        def read(self, section, context):
            section.expect("Descriptor", (1, 2, 3))
            where, n_types = section.where, len(context.type_map)
            config = {"type": self.type, "rcut": section.take("rcut"), ...}
            state = records.read_statistics(section, "environment.")
            for t, net in enumerate(records.read_collection(section.section("embeddings"), 1, n_types)):
                state |= records.read_network(net, f"networks.{t}.", records.shape_of(config))
            section.ignore("ntypes", "trainable", "env_mat", "type_map")
            section.finish()                   # what nobody took is an error
            return config, state

        def torch_names(self, config, names, context):
            return renamed(
                names,
                *records.statistics_rule(r"environment", "sea"),
                *records.embedding_rule(r"networks\\.(\\d+)", r"sea.filter_layers.networks.\1"),
            )

and put an instance into the tuple of `dpsim.model.peer.families`. Records that several families share (layers,
networks, collections, type embedding, statistics) are in `dpsim.model.peer.records`, in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np

from dpsim.config import Config
from dpsim.errors import DpsimError, ModelError
from dpsim.model.peer.section import InputSection, Section

Arrays = dict[str, np.ndarray]
"""State of a component: arrays by dpsim's names."""
Settings = dict[str, Any]
"""A config as a dict: what its `Config` validates."""
Tree = dict[str, Any]
"""A section of the peer's files; arrays stand below ``@variables``."""
ConfigT = TypeVar("ConfigT", bound=Config)


class TorchTensor:
    """Where one array of dpsim is in the peer's torch state.

    Parameters
    ----------
    names
        Names of the tensors it is made of, without the component's prefix.
    read
        Makes the array from these tensors; without it the tensor is taken as it is.
    default
        Taken where the file has none of the tensors; None means that they must be there.
    """

    def __init__(
        self, *names: str, read: Callable[..., np.ndarray] | None = None, default: np.ndarray | None = None
    ) -> None:
        self.names, self.default = names, default
        self.read: Callable[..., np.ndarray] = read or (lambda array: array)

    def below(self, prefix: str) -> TorchTensor:
        """The same tensor of a component that is part of another."""
        return TorchTensor(*(prefix + name for name in self.names), read=self.read, default=self.default)


TorchNames = dict[str, TorchTensor]


def setting_at(node: Any, path: tuple[str | int, ...]) -> Any:
    """Value at a place of nested settings."""
    for key in path:
        node = node[key]
    return node


class SelPlace(NamedTuple):
    """A setting that may be ``"auto"`` in an input: it is then counted in the data (spec common.md §2.6)."""

    path: tuple[str | int, ...]
    """Keys that lead to it in the descriptor's config."""
    cutoff: float
    """Å within which neighbours are counted."""
    by_type: bool = False
    """One number for each type of the neighbours."""
    copies: int = 1
    """How often a neighbour counts in a number for all types: spin models list its virtual atom as well."""


@dataclass(frozen=True)
class Context:
    """What a component needs to know of the model around it, and the families of its members."""

    type_map: tuple[str, ...]
    families: Families
    training: bool = False
    """``from_input``: the input is to be trained, so that what only matters there must be honoured as well."""
    mixed_types: bool = True
    """Fittings: one network for all types, because the descriptor knows the type of the centre."""
    dim_descriptor: int = 0
    """``write`` of fittings: width of the features."""
    dim_basis: int = 0
    """``write`` of fittings: number of directions."""
    atom_exclude_types: tuple[int, ...] = ()
    """``write`` of fittings: types without an output of their own."""
    notes: list[str] = field(default_factory=list)
    """``from_input``: what is read and has no effect, to be said once."""
    folder: Path | None = None
    """``from_input``: where the files that an input names are looked for first."""
    tensors: Mapping[str, Any] | None = None
    """``from_input`` of a checkpoint: its tensors by their names below the model's root."""

    @property
    def n_types(self) -> int:
        """Number of types."""
        return len(self.type_map)

    def inside(self, **changes: Any) -> Context:
        """The context of a member: equal but for what is named."""
        return replace(self, **changes)


class Family(Generic[ConfigT]):
    """Base of the three kinds of families."""

    type: ClassVar[str]
    """``type`` of dpsim's Config."""
    names: ClassVar[tuple[str, ...]]
    """``type`` in the peer's files and inputs, all spellings."""
    inert: ClassVar[tuple[str, ...]] = ()
    """Regular expressions of torch names (without prefix) that may be there and have no effect."""

    @property
    def beside(self) -> tuple[str, ...]:
        """Arrays that `read` may give and `torch_names` is asked for beside those of the state.

        ``@out_bias`` (n_types, n) is added to the model's output bias; ``@zero.<name>`` has to be zero.
        """
        return ()

    def read(self, section: Section, context: Context) -> tuple[Settings, Arrays]:
        """Config and state from a serialised section whose ``type`` is not yet taken."""
        raise NotImplementedError

    def write(self, config: ConfigT, state: Mapping[str, np.ndarray], context: Context) -> Tree:
        """Serialised section; the inverse of `read`.

        Raises
        ------
        ModelError
            If the peer has no form for it.
        """
        raise NotImplementedError

    def torch_names(self, config: ConfigT, names: Sequence[str], context: Context) -> TorchNames:
        """Where each of dpsim's arrays, whose names are given, is in the torch state."""
        raise NotImplementedError

    def from_input(self, section: InputSection, context: Context) -> Settings:
        """Config from a section of the peer's input whose ``type`` is not yet taken."""
        raise NotImplementedError


class DescriptorFamily(Family[ConfigT]):
    """A descriptor; torch names are those below ``descriptor.``."""

    def sel_places(self, config: Settings, families: Families) -> tuple[SelPlace, ...]:
        """Settings of a config from `from_input` that may be ``"auto"``."""
        return ()


class FittingFamily(Family[ConfigT]):
    """A fitting net; torch names are those below ``fitting_net.``."""

    def read_bias(self, values: np.ndarray) -> np.ndarray:
        """Output bias (or its deviation) of dpsim from the peer's ``(n_types, n)``; it is reshaped as needed."""
        return values

    def write_bias(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `read_bias`: ``(n_types, n)``."""
        return values.reshape(len(values), -1)


class ModelFamily(Family[ConfigT]):
    """A whole model; torch names are those below `torch_root`."""

    torch_root: ClassVar[str] = "atomic_model."

    def inert_names(self, config: ConfigT, families: Families) -> tuple[str, ...]:
        """Regular expressions of all torch names below `torch_root` that may be there and have no effect."""
        return self.inert

    def sel_places(self, config: Settings, families: Families) -> tuple[SelPlace, ...]:
        """As for descriptors, with paths from the model's config."""
        return ()


FamilyT = TypeVar("FamilyT", bound=Family[Any])


@dataclass(frozen=True)
class Families:
    """All families that dpsim reads and writes."""

    models: tuple[ModelFamily[Any], ...]
    descriptors: tuple[DescriptorFamily[Any], ...]
    fittings: tuple[FittingFamily[Any], ...]

    def model(self, kind: Any, where: str, error: type[DpsimError] = ModelError) -> ModelFamily[Any]:
        """Family of a model by the peer's name or dpsim's type."""
        return _find(self.models, kind, f"{where}: model type", error)

    def descriptor(self, kind: Any, where: str, error: type[DpsimError] = ModelError) -> DescriptorFamily[Any]:
        """Family of a descriptor by the peer's name or dpsim's type."""
        return _find(self.descriptors, kind, f"{where}: descriptor type", error)

    def fitting(self, kind: Any, where: str, error: type[DpsimError] = ModelError) -> FittingFamily[Any]:
        """Family of a fitting by the peer's name or dpsim's type."""
        return _find(self.fittings, kind, f"{where}: fitting type", error)

    def from_input(self, section: InputSection, context: Context) -> tuple[ModelFamily[Any], Settings]:
        """Family and config of the section ``model`` of an input."""
        kind = str(section.node.get("type", "standard"))
        if "spin" in section:
            kind = "spin_ener"
        elif "use_srtab" in section:
            kind = "zbl"
        family = self.model(kind, section.where, section.error)
        return family, family.from_input(section, context)


def _find(families: Iterable[FamilyT], kind: Any, what: str, error: type[DpsimError]) -> FamilyT:
    known: list[str] = []
    for family in families:
        if kind == family.type or kind in family.names:
            return family
        known += [name for name in family.names if name not in known]
    raise error(f"{what} {kind!r} is not supported: use one of {', '.join(known)}")


def split(state: Mapping[str, np.ndarray], prefix: str) -> Arrays:
    """Arrays below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def joined(prefix: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """The same arrays (or torch names) with a prefix on dpsim's names."""
    return {prefix + name: value for name, value in state.items()}


def renamed(names: Iterable[str], *rules: tuple[str, str | Callable[[str], TorchTensor]]) -> TorchNames:
    """Torch names by rules: the first regular expression that matches a whole name gives its replacement.

    A rule's second part is a replacement as of `re.sub`, or a function of the name that it gives.
    """
    found: TorchNames = {}
    for name in names:
        for pattern, new in rules:
            if re.fullmatch(pattern, name):
                found[name] = TorchTensor(re.sub(pattern, new, name)) if isinstance(new, str) else new(name)
                break
        else:
            raise KeyError(f"no rule gives the torch name of {name}")
    return found
