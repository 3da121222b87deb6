"""The list of all checks, and the models that they are made on."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, get_args

from dpsim.descriptors import DescriptorConfig
from dpsim.fittings import FittingConfig
from dpsim.model.compose.spin_config import SpinModelConfig
from dpsim.model.config import AnyModelConfig, DPLRModelConfig, ModelConfig
from dpsim.testing import files, magnetism, size, smoothness, symmetry
from dpsim.testing.subject import DEFAULT, ContractError, Subject, Tolerances

CHECKS: tuple[Callable[[Subject], None], ...] = tuple(
    check
    for room in (symmetry, size, smoothness, magnetism, files)
    for name, check in vars(room).items()
    if name.startswith("check_") and check.__module__ == room.__name__
)
"""All checks; each takes a `Subject` and raises `ContractError`."""


def checks_for(config: AnyModelConfig) -> tuple[Callable[[Subject], None], ...]:
    """The checks that have a meaning for what a model takes and predicts, as forces have for energies alone."""
    output = config.fitting.output if isinstance(config, ModelConfig) else "energy"
    spins = isinstance(config, SpinModelConfig)
    checks = (check for check in CHECKS if output in getattr(check, "outputs", (output,)))
    return tuple(check for check in checks if getattr(check, "spins", spins) == spins)


def check_all(
    config: AnyModelConfig, *, tolerances: Tolerances = DEFAULT, skip: Collection[str] = (), seed: int = 0
) -> None:
    """Make every check on a model with the given settings and random parameters.

    Parameters
    ----------
    config
        Small settings; the precision is float64 whatever they say.
    tolerances
        See `Tolerances`.
    skip
        Names of checks that these settings break by definition, for example ``check_inner_cutoffs`` for an edge
        update that is not smooth.
    seed
        Of the parameters.

    Raises
    ------
    ContractError
        With one line for each check that failed.
    """
    unknown = set(skip) - {check.__name__ for check in CHECKS}
    if unknown:
        raise ValueError(f"there is no check {sorted(unknown)[0]!r}: names are {', '.join(c.__name__ for c in CHECKS)}")
    subject = Subject.from_config(config, tolerances, seed)
    failures = []
    for check in checks_for(config):
        if check.__name__ not in skip:
            try:
                check(subject)
            except ContractError as error:
                failures.append(f"{check.__name__}: {error}")
    if failures:
        raise ContractError("\n".join(failures))


def tiny_models() -> dict[str, AnyModelConfig]:
    """Smallest models: every descriptor with the first fitting, every fitting with the first descriptor, and every
    composition but DPLR.
    """
    descriptors, fittings = _members(DescriptorConfig), _members(FittingConfig)
    pairs = [(descriptor, fittings[0]) for descriptor in descriptors] + [
        (descriptors[0], fitting) for fitting in fittings[1:]
    ]
    standard = {
        f"{descriptor.model_fields['type'].default}-{fitting.model_fields['type'].default}": ModelConfig(
            type_map=("O", "H"), descriptor=descriptor.tiny(), fitting=fitting.tiny()
        )
        for descriptor, fitting in pairs
    }
    # electrostatics needs a periodic cell and reaches through all of it: DPLR has tests of its own
    others = [kind for kind in _members(AnyModelConfig) if kind not in (ModelConfig, DPLRModelConfig)]
    return standard | {kind.model_fields["type"].default: kind.tiny() for kind in others}


def _members(union: Any) -> list[Any]:
    """Config classes of ``A | B``, ``Annotated[A | B, ...]`` or plain ``A``."""
    if isinstance(union, type):
        return [union]
    return [member for part in get_args(union) for member in _members(part)] if get_args(union) else []
