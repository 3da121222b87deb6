"""Properties of many crystals: one by one, resumed after a kill, with tables and the comparison with a reference."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpsim.calculators.md.results import write_frames
from dpsim.calculators.statics.neb import check_ends
from dpsim.calculators.statics.properties import Found, band, compute, problems_of
from dpsim.calculators.statics.properties_config import PropertiesConfig
from dpsim.calculators.statics.property_names import group_of
from dpsim.calculators.statics.relax import Relaxed, check_cell_moves
from dpsim.calculators.statics.relax_kept import relaxed_once
from dpsim.calculators.statics.source import Progress, as_source, name_of
from dpsim.calculators.statics.values import (
    Compared,
    References,
    Value,
    compare,
    read_references,
    write_compared,
    write_values,
)
from dpsim.data.files import read_json, write_json
from dpsim.errors import ConfigError, DataError, StageError

if TYPE_CHECKING:
    from ase import Atoms

_LOG = logging.getLogger(__name__)
NEB = "neb"
"""Name under which a barrier between two given states stands."""


@dataclass
class Properties:
    """What was found.

    Attributes
    ----------
    values
        All numbers.
    details
        By structure and property.
    relaxed
        The relaxed crystals.
    failures
        Structure, property, and why it could not be computed.
    problems
        What a person should be told, by structure.
    compared
        Values beside their reference.
    unused
        Reference values without counterpart.
    """

    values: list[Value] = field(default_factory=list)
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    relaxed: list[Relaxed] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    problems: list[tuple[str, str]] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)


def run_properties(
    config: PropertiesConfig,
    structures: Sequence[Atoms],
    source: Any,
    out: Path,
    *,
    ends: tuple[Atoms, Atoms] | None = None,
    reference: Path | None = None,
    work: Path | None = None,
    progress: Progress | None = None,
) -> Properties:
    """Compute properties and write ``table.csv``, ``properties.json``, ``relaxed.extxyz`` and ``vs_reference.csv``.

    Parameters
    ----------
    config
        Its `on`, the ends of ``neb`` and `reference` have been resolved.
    structures
        The crystals, each with a name of its own in ``info["name"]``.
    source
        A `Potential`, a calculator of ASE, or what gives calculators.
    out
        Folder for the outputs.
    ends
        The two states of ``neb``, if it has its own.
    reference
        File of reference values, see `read_references`.
    work
        Folder kept between attempts.
    progress
        Called as ``progress(done, total, message)``.

    Raises
    ------
    DpsimError
        If a structure or the reference is refused, before anything is computed.
    StageError
        If more calculations fail than may, or a value is too far from its reference, after all was computed.
    """
    make = as_source(source)
    references = read_references(reference) if reference is not None else None
    _check(config, structures, make, ends, references)
    found = Properties()
    names = config.compute.of_crystals
    total = len(structures) * len(names) + (ends is not None)
    for number, atoms in enumerate(structures):
        _one_crystal(config, atoms, make, found, _folder(work, number), _sayer(progress, number * len(names), total))
    if ends is not None:
        assert config.compute.neb
        say = _sayer(progress, total - 1, total)
        settings = config.compute.neb
        _attempt(found, NEB, "neb", lambda: band(*ends, make, settings, lambda text: say(0, text)), work)
    if references is not None:
        found.compared, found.unused = compare(found.values, references, config.tolerance)
    if progress is not None:
        progress(total, total, "properties computed")
    write_properties(found, out, compared=references is not None)
    _judge(found, config, total)
    return found


def _check(
    config: PropertiesConfig, structures: Sequence[Atoms], make: Any, ends: Any, references: References | None
) -> None:
    called = Counter([*map(name_of, structures), *([NEB] if ends is not None else [])])
    for name, times in called.items():
        if times > 1:
            raise DataError(f'{times} structures are called {name}, expected another name for each: set info["name"]')
    for atoms in structures:
        make(atoms)
        check_cell_moves(atoms, config.compute.start)
        if not atoms.pbc.all():
            raise DataError(
                f"{name_of(atoms)}: properties are those of crystals, periodic in three directions, found pbc "
                f"{[bool(flag) for flag in atoms.pbc]}"
            )
    if ends is not None:
        make(ends[0])
        check_ends(*ends)
    if references is not None:
        known = {name_of(atoms) for atoms in structures} | ({NEB} if ends is not None else set()) | {""}
        if not known & references.keys():
            raise ConfigError(
                f"reference: it holds {', '.join(list(references)[:5])}, but the structures are called "
                f"{', '.join(sorted(known - {''}))}: give the same names, e.g. on: {{{next(iter(references))}: ...}}"
            )
        held = {name for own in references.values() for name in own}
        for key in () if isinstance(config.tolerance, str) else config.tolerance:
            if key not in held | {group_of(name) for name in held}:
                raise ConfigError(
                    f"tolerance.{key} has no effect: the reference holds no {key}, only {', '.join(sorted(held))}"
                )


def _folder(work: Path | None, number: int) -> Path | None:
    return None if work is None else work / f"crystal-{number:05d}"


Say = Callable[[int, str], None]


def _sayer(progress: Progress | None, done: int, total: int) -> Say:
    def say(more: int, message: str) -> None:
        if progress is not None:
            progress(done + more, total, message)

    return say


def _one_crystal(
    config: PropertiesConfig, atoms: Atoms, make: Any, found: Properties, folder: Path | None, say: Say
) -> None:
    name = name_of(atoms)
    say(0, f"{name}: relaxing")
    try:
        relaxed = relaxed_once(atoms, make, config.compute.start, folder)
    except StageError as error:
        found.failures += [(name, one, str(error)) for one in config.compute.of_crystals]
        _LOG.warning("%s", error)
        return
    found.relaxed.append(relaxed)
    for number, one in enumerate(config.compute.of_crystals):
        say(number, f"{name}: {one}")

        def run(one: str = one, number: int = number) -> Found:
            kept = folder / one if folder is not None else None
            return compute(
                one, relaxed, make, config.compute, kept=kept, say=lambda text: say(number, f"{name}: {text}")
            )

        _attempt(found, name, one, run, folder)


def _attempt(found: Properties, name: str, one: str, run: Callable[[], Found], folder: Path | None) -> None:
    """Compute one property, or take what an earlier attempt left; note why it could not be."""
    kept = folder / f"{one}.json" if folder is not None else None
    try:
        if kept is not None and kept.is_file():
            result = Found(**read_json(kept))
        else:
            result = run()
            if kept is not None:
                write_json(kept, result._asdict())
    except (StageError, DataError) as error:
        found.failures.append((name, one, str(error)))
        _LOG.warning("%s: %s: %s", name, one, error)
        return
    found.values += [Value(name, key, value) for key, value in result.values.items()]
    found.details.setdefault(name, {})[one] = result.details
    for problem in problems_of(one, result):
        found.problems.append((name, problem))
        _LOG.warning("%s: %s", name, problem)


def write_properties(found: Properties, out: Path, *, compared: bool = True) -> None:
    """Write what was found as files; see `run_properties`."""
    out.mkdir(parents=True, exist_ok=True)
    write_values(out / "table.csv", found.values)
    frames = []
    for one in found.relaxed:
        atoms = one.atoms.copy()
        atoms.info = {key: value for key, value in atoms.info.items() if key in ("name", "source")}
        if one.after is not None:
            atoms.info["dpsim_energy"] = one.after.energy
        frames.append(atoms)
    write_frames(out / "relaxed.extxyz", frames)
    if compared:
        write_compared(out / "vs_reference.csv", found.compared)
    document = {
        "values": [
            {"structure": one.structure, "property": one.name, "value": one.value, "unit": one.unit}
            for one in found.values
        ],
        "details": found.details,
        "failures": [{"structure": a, "property": b, "reason": c} for a, b, c in found.failures],
        "problems": [{"structure": a, "message": b} for a, b in found.problems],
        "reference": {
            "compared": len(found.compared),
            "within": sum(one.within is True for one in found.compared),
            "beyond": sum(one.within is False for one in found.compared),
            "not_computed": found.unused,
        } if compared else None,
    }  # fmt: skip
    write_json(out / "properties.json", document)


def _judge(found: Properties, config: PropertiesConfig, total: int) -> None:
    if len(found.failures) > config.tolerate_failures * total:
        named = "; ".join(f"{name}, {one}: {reason}" for name, one, reason in found.failures[:3])
        more = f"; and {len(found.failures) - 3} more" if len(found.failures) > 3 else ""
        raise StageError(f"{len(found.failures)} of {total} calculations failed ({named}{more})")
    beyond = [one for one in found.compared if one.within is False]
    if not beyond:
        return
    shown = "; ".join(
        f"{one.value.structure}.{one.value.name} is {one.value.value:.4g} {one.value.unit}, the reference "
        f"{one.reference:.4g} (allowed ±{one.limit:.3g})"
        for one in beyond[:4]
    )
    more = f"; and {len(beyond) - 4} more" if len(beyond) > 4 else ""
    text = f"{len(beyond)} of {len(found.compared)} values are beyond their tolerance: {shown}{more}"
    if config.beyond_tolerance == "fail":
        raise StageError(f"{text}; improve the model, or set beyond_tolerance: warn")
    _LOG.warning("%s", text)
