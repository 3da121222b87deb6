"""The parts of a report about structures at rest: relaxation, phonons, properties."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from dpsim.report.artifacts import Array, read_columns, read_object, read_rows
from dpsim.report.blocks import Block, Card, Picture, Section, Table, number
from dpsim.report.figures import INK, MUTED, SERIES, Canvas

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Draw = Callable[["Figure", "Axes"], None]
    Rows = list[dict[str, str]]

MAX_BAND_POINTS = 20_000
"""Points of all bands of a figure; of crystals with many atoms, not every q-point is drawn."""
MAX_FIGURES = 12
"""Figures of one stage; what further structures have to show is in their tables."""


def _anchor(kind: str, section: Section) -> str:
    return f"{kind}-{''.join(c if c.isalnum() else '-' for c in section.name)}"


def _float(text: str | None) -> float | None:
    return float(text) if text else None


# ---- relax ---------------------------------------------------------------------------------------


def relax_block(section: Section, canvas: Canvas) -> Block | None:
    """What became of each structure, from ``table.csv`` of a relax stage."""
    rows, summary = read_rows(section.out / "table.csv"), read_object(section.out / "summary.json")
    if not rows:
        return None
    failed = [row for row in rows if row["converged"] != "yes"]
    facts = [("structures", number(len(rows))), ("relaxed", number(len(rows) - len(failed)))]
    facts += [(key, str(summary[key])) for key in ("cell", "engine") if summary.get(key)]
    if (steps := summary.get("steps")) is not None:
        facts.append(("steps", number(steps)))
    lead = "Structures brought to rest by the model."
    if failed:
        lead += f" {len(failed)} of {len(rows)} did not converge: {failed[0]['structure']}: {failed[0]['reason']}."
    header = (
        "structure", "atoms", "relaxed", "steps", "energy change (meV/atom)", "longest force (eV/Å)",
        "volume change (%)", "a (Å)", "b (Å)", "c (Å)",
    )  # fmt: skip
    body = [_relaxed_row(row) for row in sorted(rows, key=lambda row: row["converged"] == "yes")]
    tables = [Table("Relaxed structures", header, body, text=(2,)).compact()]
    pictures = _changes(rows, canvas) if len(rows) > 4 else []
    return Block(
        _anchor("relax", section), "Relaxation", section.name, lead, facts, [], pictures, tables, [], dict(summary)
    )


def _relaxed_row(row: dict[str, str]) -> tuple[str, ...]:
    atoms = int(row["atoms"])
    energies = [_float(row[f"energy_{when}_eV"]) for when in ("before", "after")]
    volumes = [_float(row[f"volume_{when}_A3"]) for when in ("before", "after")]
    change = 1000 * (energies[1] - energies[0]) / atoms if energies[0] is not None and energies[1] is not None else None
    swelling = 100 * (volumes[1] / volumes[0] - 1) if volumes[0] and volumes[1] else None
    return (
        row["structure"], number(atoms), row["converged"], row["steps"], number(change),
        number(_float(row["fmax_after_eV_A"])), number(swelling),
        *(f"{float(row[f'{axis}_A']):.4f}" if row[f"{axis}_A"] else "–" for axis in "abc"),
    )  # fmt: skip


def _changes(rows: Rows, canvas: Canvas) -> list[Picture]:
    """Energies that structures lost."""
    lost = [
        1000 * (float(row["energy_before_eV"]) - float(row["energy_after_eV"])) / int(row["atoms"])
        for row in rows
        if row["energy_before_eV"] and row["energy_after_eV"]
    ]
    if not lost:
        return []

    def draw(figure: Figure, axes: Axes) -> None:
        axes.hist(lost, bins=min(30, max(5, len(lost) // 3)), color=SERIES[0], alpha=0.8, linewidth=0)
        axes.set_xlabel("energy lost (meV/atom)")
        axes.set_ylabel("structures")

    said = f"Energy lost by relaxation: median {number(float(np.median(lost)))} meV/atom, at most {number(max(lost))}."
    return [canvas.picture(draw, said, said)]


# ---- phonon --------------------------------------------------------------------------------------


def phonon_block(section: Section, canvas: Canvas) -> Block | None:
    """Bands, density of states and thermal properties of a phonon stage."""
    summary = read_object(section.out / "summary.json")
    bands = read_rows(section.out / "bands.csv")
    if not summary and not bands:
        return None
    pictures: list[Picture] = []
    if bands:
        pictures.append(_bands_picture(bands, read_rows(section.out / "bands_reference.csv"), summary, canvas))
    if dos := read_columns(section.out / "dos.csv"):
        pictures.append(_dos_picture(dos, canvas))
    if (thermal := read_columns(section.out / "thermal.csv")) and len(thermal.get("temperature_K", ())) > 1:
        pictures += _thermal_pictures(thermal, canvas)
    lead = "Harmonic lattice vibrations of the model, by finite displacements in a supercell."
    if summary.get("imaginary"):
        lead += f" Warning: {summary.get('message')}."
    reference, cards = summary.get("reference") or {}, []
    if reference:
        note = f"root mean square along the bands, largest {number(reference.get('largest_THz'))} THz"
        cards.append(Card("Phonon error", number(reference.get("rms_THz")), "THz", note))
    return Block(
        _anchor("phonon", section), "Phonons", section.name, lead, _phonon_facts(summary), [], pictures,
        _points_table(summary), cards, summary,
    )  # fmt: skip


def _phonon_facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    facts = [(key, str(summary[key])) for key in ("formula", "space_group") if summary.get(key)]
    facts = [(key.replace("_", " "), value) for key, value in facts]
    for key, words, unit in (
        ("supercell_atoms", "atoms of the supercell", ""), ("displacements", "displacements", ""),
        ("highest_THz", "highest frequency", " THz"), ("lowest_THz", "lowest frequency", " THz"),
        ("zero_point_eV_atom", "zero-point energy", " eV/atom"),
    ):  # fmt: skip
        if isinstance(summary.get(key), int | float):
            # Acoustic modes at Γ are zero but for rounding.
            facts.append((words, number(round(summary[key], 4)) + unit))
    return facts


def _points_table(summary: dict[str, Any]) -> list[Table]:
    points: dict[str, list[float]] = summary.get("points_THz") or {}
    rows: list[tuple[str, ...]] = [
        (name, ", ".join(number(round(value, 3)) if abs(value) > 5e-3 else "0" for value in _distinct(values)))
        for name, values in points.items()
    ]
    return [Table("Frequencies at points of high symmetry", ("point", "THz"), rows, text=(1,))] if rows else []


def _distinct(values: list[float]) -> list[float]:
    kept: list[float] = []
    for value in sorted(values):
        if not kept or value - kept[-1] > 1e-2:
            kept.append(value)
    return kept[:30]


def _bands_picture(rows: Rows, others: Rows | None, summary: dict[str, Any], canvas: Canvas) -> Picture:
    modes = [name for name in rows[0] if name.startswith("mode_")]
    stride = max(1, len(modes) * len(rows) // MAX_BAND_POINTS)

    def lines(axes: Axes, table: Rows, color: str, style: str, width: float, label: str) -> None:
        for part in dict.fromkeys(row["part"] for row in table):
            all_rows = [row for row in table if row["part"] == part]
            own = [*all_rows[:-1:stride], all_rows[-1]]
            x = [float(row["distance_1_A"]) for row in own]
            y = np.array([[float(row[mode]) for mode in modes] for row in own])
            axes.plot(x, y, color=color, linewidth=width, linestyle=style)
        axes.plot([], [], color=color, linewidth=width, linestyle=style, label=label)

    def draw(figure: Figure, axes: Axes) -> None:
        if others:
            lines(axes, others, MUTED, "--", 1.1, "reference")
        lines(axes, rows, SERIES[0], "-", 1.2, "model" if others else "_")
        ticks = _ticks(rows)
        for x, _ in ticks:
            axes.axvline(x, color=MUTED, linewidth=0.5)
        axes.axhline(0.0, color=INK, linewidth=0.7)
        axes.set_xticks([x for x, _ in ticks], [name for _, name in ticks])
        axes.set_xlim(ticks[0][0], ticks[-1][0])
        axes.grid(axis="x", visible=False)
        axes.set_ylabel("frequency (THz)")
        axes.set_xlabel("path through the Brillouin zone (negative: imaginary)")

    path = ", ".join(dict.fromkeys(f"{row['begin']}–{row['end']}" for row in rows))
    low, high = (number(summary.get(key)) for key in ("lowest_THz", "highest_THz"))
    said = f"Phonon bands along {path}, from {low} to {high} THz"
    reference = summary.get("reference") or {}
    beside = (
        f"; difference to the reference {number(reference.get('rms_THz'))} THz (root mean square)" if others else ""
    )
    return canvas.picture(draw, f"{said}{beside}.", f"Phonon bands{beside}.")


def _ticks(rows: Rows) -> list[tuple[float, str]]:
    """Places and names of the ends of all parts; two names where the path jumps."""
    ticks: list[tuple[float, str]] = []
    for part in dict.fromkeys(row["part"] for row in rows):
        own = [row for row in rows if row["part"] == part]
        begin, end = (float(row["distance_1_A"]) for row in (own[0], own[-1]))
        if not ticks:
            ticks.append((begin, own[0]["begin"]))
        elif ticks[-1][1] != own[0]["begin"]:
            ticks[-1] = (begin, f"{ticks[-1][1]}|{own[0]['begin']}")
        ticks.append((end, own[0]["end"]))
    return ticks


def _dos_picture(dos: dict[str, Array], canvas: Canvas) -> Picture:
    def draw(figure: Figure, axes: Axes) -> None:
        axes.plot(dos["frequency_THz"], dos["total"], color=INK, label="all" if len(dos) > 2 else "_")
        for color, (name, values) in zip(SERIES, list(dos.items())[2:], strict=False):
            axes.plot(dos["frequency_THz"], values, color=color, linewidth=1.2, label=name)
        axes.set_xlabel("frequency (THz)")
        axes.set_ylabel("states/THz")
        axes.set_ylim(bottom=0)

    said = "Phonon density of states of the primitive cell"
    peak = float(dos["frequency_THz"][int(np.argmax(dos["total"]))])
    return canvas.picture(draw, f"{said}, highest at {number(peak)} THz.", f"{said}.")


def _thermal_pictures(thermal: dict[str, Array], canvas: Canvas) -> list[Picture]:
    x = thermal["temperature_K"]

    def heat(figure: Figure, axes: Axes) -> None:
        axes.plot(x, thermal["heat_capacity_J_K_mol"], color=SERIES[0], label="heat capacity")
        axes.plot(x, thermal["entropy_J_K_mol"], color=SERIES[1], label="entropy")
        axes.set_xlabel("temperature (K)")
        axes.set_ylabel("J/K for a mole of primitive cells")

    def free(figure: Figure, axes: Axes) -> None:
        axes.plot(x, thermal["free_energy_kJ_mol"], color=SERIES[2])
        axes.set_xlabel("temperature (K)")
        axes.set_ylabel("kJ for a mole of primitive cells")

    last = f"{number(float(thermal['heat_capacity_J_K_mol'][-1]))} J/K/mol at {number(float(x[-1]))} K"
    return [
        canvas.picture(heat, f"Heat capacity and entropy; heat capacity {last}.", "Heat capacity and entropy."),
        canvas.picture(free, "Vibrational free energy over temperature.", "Vibrational free energy."),
    ]


# ---- properties ----------------------------------------------------------------------------------


def properties_block(section: Section, canvas: Canvas) -> Block | None:
    """Properties beside their reference, equations of state, barriers."""
    rows, details = read_rows(section.out / "table.csv"), read_object(section.out / "properties.json")
    if not rows and not details:
        return None
    compared = read_rows(section.out / "vs_reference.csv")
    reference = details.get("reference") or {}
    structures = list(dict.fromkeys(row["structure"] for row in rows or []))
    facts = [("structures", number(len(structures))), ("values", number(len(rows or [])))]
    lead = "Properties of crystals, computed by the model."
    if reference:
        facts.append(("compared", number(reference.get("compared"))))
        if beyond := reference.get("beyond"):
            lead += f" {beyond} of {reference.get('compared')} values are beyond their tolerance."
    for problem in (details.get("problems") or [])[:5]:
        lead += f" {problem['structure']}: {problem['message']}."
    tables = _failures(details)
    tables += [_compared_table(compared)] if compared else []
    tables += [_values_table(rows, compared or [])] if rows else []
    pictures = _properties_pictures(details.get("details") or {}, compared or [], canvas)
    summary = {"values": {f"{r['structure']}.{r['property']}": _float(r["value"]) for r in rows or []}, **reference}
    return Block(
        _anchor("properties", section), "Properties", section.name, lead, facts, [], pictures,
        [table for table in tables if table.rows], _worst(compared or []), summary,
    )  # fmt: skip


def _worst(compared: Rows) -> list[Card]:
    moduli = [
        row
        for row in compared
        if row["group"] == "elastic" and row["difference_percent"] and row["property"].startswith("C")
    ]
    if not moduli:
        return []
    worst = max(moduli, key=lambda row: abs(float(row["difference_percent"])))
    note = f"{worst['property']} of {worst['structure']}, the worst"
    return [Card("Elastic constants", number(abs(float(worst["difference_percent"]))), "% off", note)]


def _failures(details: dict[str, Any]) -> list[Table]:
    failures = details.get("failures") or []
    rows: list[tuple[str, ...]] = [(one["structure"], one["property"], one["reason"]) for one in failures]
    return [Table("Not computed", ("structure", "property", "reason"), rows, text=(1, 2))]


def _compared_table(compared: Rows) -> Table:
    header = ("structure", "property", "model", "reference", "difference", "%", "unit", "within tolerance", "source")
    rows: list[tuple[str, ...]] = [
        (
            row["structure"], row["property"], number(_float(row["value"]), 4), number(_float(row["reference"]), 4),
            number(_float(row["difference"])), number(_float(row["difference_percent"])), row["unit"],
            row["within"] or "–", row["source"] or "–",
        )
        for row in compared
    ]  # fmt: skip
    return Table("Beside the reference", header, rows, text=(1, 6, 7, 8)).compact()


def _values_table(rows: Rows, compared: Rows) -> Table:
    shown = {(row["structure"], row["property"]) for row in compared}
    body: list[tuple[str, ...]] = [
        (row["structure"], row["property"], number(_float(row["value"]), 5), row["unit"] or "–")
        for row in rows
        if (row["structure"], row["property"]) not in shown
    ]
    return Table(
        "Values without a reference" if compared else "Values",
        ("structure", "property", "value", "unit"),
        body,
        text=(1, 3),
    )


def _properties_pictures(details: dict[str, Any], compared: Rows, canvas: Canvas) -> list[Picture]:
    pictures = _errors_picture(compared, canvas)
    for structure, own in details.items():
        if "eos" in own:
            pictures.append(_eos_picture(structure, own["eos"], canvas))
        if "neb" in own:
            pictures.append(_neb_picture(structure, own["neb"], canvas))
    return pictures[:MAX_FIGURES]


def _errors_picture(compared: Rows, canvas: Canvas) -> list[Picture]:
    known = [row for row in compared if row["difference_percent"]][:24]
    if len(known) < 2:
        return []
    several = len({row["structure"] for row in known}) > 1
    names = [f"{row['structure']} {row['property']}" if several else row["property"] for row in known]
    values = [float(row["difference_percent"]) for row in known]
    colors = [SERIES[1] if row["within"] == "no" else SERIES[0] for row in known]

    def draw(figure: Figure, axes: Axes) -> None:
        axes.barh(range(len(known)), values, color=colors, alpha=0.85)
        axes.set_yticks(range(len(known)), names)
        axes.invert_yaxis()
        axes.axvline(0.0, color=INK, linewidth=0.8)
        axes.set_xlabel("difference to the reference (%)")
        axes.set_ylabel("property (of the reference)")
        axes.grid(axis="y", visible=False)

    worst = max(range(len(known)), key=lambda index: abs(values[index]))
    said = f"Differences to the reference; the largest is {number(values[worst])} % for {names[worst]}."
    return [canvas.picture(draw, said, said, height=max(3.1, 0.22 * len(known) + 0.9))]


def _eos_picture(structure: str, eos: dict[str, Any], canvas: Canvas) -> Picture:
    volumes, energies = eos["volumes_A3_atom"], np.array(eos["energies_eV_atom"])
    zero, fitted = float(energies.min()), np.array(eos["curve_energies_eV_atom"])

    def draw(figure: Figure, axes: Axes) -> None:
        axes.plot(eos["curve_volumes_A3_atom"], 1000 * (fitted - zero), color=SERIES[0], linewidth=1.2)
        axes.plot(volumes, 1000 * (energies - zero), "o", color=SERIES[0], markersize=4)
        axes.set_xlabel("volume (Å³/atom)")
        axes.set_ylabel("energy (meV/atom)")

    said = f"Energy of {structure} over the volume, {len(volumes)} volumes"
    return canvas.picture(draw, f"{said}.", f"Equation of state of {structure}.")


def _neb_picture(structure: str, neb: dict[str, Any], canvas: Canvas) -> Picture:
    def draw(figure: Figure, axes: Axes) -> None:
        axes.plot(neb["curve_distances_A"], neb["curve_energies_eV"], color=SERIES[0], linewidth=1.2)
        axes.plot(neb["distances_A"], neb["energies_eV"], "o", color=SERIES[0], markersize=4)
        axes.set_xlabel("path (Å)")
        axes.set_ylabel("energy (eV)")

    high = number(max(neb["curve_energies_eV"]))
    said = f"Energy along the path between two states of {structure}; the barrier is {high} eV."
    return canvas.picture(draw, said, said)
