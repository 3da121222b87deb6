"""The parts of a report about data, training, testing and freezing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dpsim.errors import DataError
from dpsim.report.artifacts import Array, read_arrays, read_columns, read_object
from dpsim.report.blocks import Block, Card, Picture, Section, Table, duration, number, shares
from dpsim.report.figures import SERIES, Canvas, parity, smooth, thin
from dpsim.report.transfer import transfer_tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AS_LABELLED = "as labelled"
QUANTITIES = {
    "energy": ("energy", "eV/atom", 1000.0, "meV/atom"),
    "forces": ("force", "eV/Å", 1000.0, "meV/Å"),
    "virial": ("virial", "eV/atom", 1000.0, "meV/atom"),
    "magnetic_forces": ("magnetic force", "eV/μB", 1000.0, "meV/μB"),
    **{name: (name.replace("_", " "), AS_LABELLED, 1.0, AS_LABELLED)
       for name in ("dipole", "atomic_dipole", "polarizability", "atomic_polarizability", "dos", "atomic_dos",
                    "property", "atomic_population")},
}  # fmt: skip
"""Name in words, unit in files, factor to the unit shown, unit shown."""
COMPARED = ("forces", "energy", *(name for name in QUANTITIES if name not in ("forces", "energy")))
"""The same in the order in which they matter."""


def data_block(section: Section, canvas: Canvas) -> Block | None:
    """Label table of a data set, from ``dataset.json``."""
    card = read_object(section.out / "dataset.json")
    if not card:
        return None
    fields: dict[str, Any] = card.get("fields") or {}
    sources: list[dict[str, Any]] = card.get("sources") or []
    parts: dict[str, int] = card.get("parts") or {}
    compositions: dict[str, int] = card.get("compositions") or {}
    facts = [("frames", number(card.get("frames"))), ("elements", ", ".join(card.get("type_map") or []) or "–")]
    bars = [("Split (frames)", shares({str(k): float(v) for k, v in parts.items()}))] if len(parts) > 1 else []
    if len(compositions) > 1:
        top = dict(list(compositions.items())[:7])
        if rest := sum(compositions.values()) - sum(top.values()):
            top["others"] = rest
        bars.append(("Compositions (frames)", shares({k: float(v) for k, v in top.items()})))
    header = ("source", "format", "files", "frames", *fields)
    rows = [
        (
            str(s.get("path", "–")), ", ".join(map(str, s.get("formats") or [])) or "–", number(s.get("files")),
            number(s.get("frames")), *(_coverage(s, name) for name in fields),
        )
        for s in sources
    ]  # fmt: skip
    tables = [Table("Labels found in each source (frames that carry them)", header, rows, text=(1,))] if rows else []
    lead = "Structures and labels the model was trained on."
    summary = {"frames": card.get("frames"), "parts": parts, "fields": fields}
    return Block(_anchor(section), "Data", section.name, lead, facts, bars, tables=tables, summary=summary)


def _coverage(source: dict[str, Any], name: str) -> str:
    found = (source.get("fields") or {}).get(name, 0)
    return number(found) if found else "none"


def label_block(section: Section, canvas: Canvas) -> Block | None:
    """What the labelling stage was asked for and gave, from ``metrics.json`` or ``summary.json``."""
    counts = read_object(section.out / "metrics.json") or read_object(section.out / "summary.json")
    calculator = section.options.get("calculator")
    if not counts and not calculator:
        return None
    facts = [(str(k), number(v)) for k, v in counts.items() if isinstance(v, int | float) and not isinstance(v, bool)]
    if isinstance(calculator, dict):
        ordered = {"name": "", **calculator}
        facts = [("calculator", " ".join(v for v in ordered.values() if isinstance(v, str) and v)), *facts]
    lead = "Energies, forces and stress computed for structures built or read by the workflow."
    return Block(_anchor(section), "Labels", section.name, lead, facts, summary=counts)


def train_block(section: Section, canvas: Canvas) -> Block | None:
    """Learning curves from ``lcurve.csv``, facts from ``metrics.json``."""
    curve, metrics = read_columns(section.out / "lcurve.csv"), read_object(section.out / "metrics.json")
    if not curve and not metrics:
        return None
    frames: dict[str, Any] = metrics.get("frames") or {}
    per_step = metrics.get("seconds_per_step")
    known = {
        "steps": number(metrics.get("step")), "parameters": number(metrics.get("parameters")),
        "precision": str(metrics.get("precision", "–")),
        "frames": " + ".join(f"{number(v)} {k}" for k, v in frames.items() if v) or "–",
        "wall time": duration(metrics.get("seconds")), "speed": f"{number(1 / per_step)} steps/s" if per_step else "–",
    }  # fmt: skip
    facts = [(name, value) for name, value in known.items() if value != "–"]
    pictures = _curves(curve, list(metrics.get("heads") or {}), canvas) if curve else []
    best = metrics.get("best") or {}
    lead = "Root mean square errors during training; both axes are logarithmic."
    if best.get("step") is not None:
        lead += f" The best model is that of step {number(best['step'])}."
    cards = [Card("Training speed", number(1 / per_step), "steps/s")] if per_step else []
    cards += _validation_cards(best)
    tables = transfer_tables(metrics)
    return Block(_anchor(section), "Training", section.name, lead, facts, [], pictures, tables, cards, {"best": best})


def _validation_cards(best: dict[str, Any]) -> list[Card]:
    """Errors of the best model on validation data; a test stage replaces them."""
    cards = []
    for key in (name for name in COMPARED if name != "virial"):
        value = best.get(f"rmse_{key}")
        if isinstance(value, float):
            word, _, factor, unit = QUANTITIES[key]
            cards.append(Card(f"{word.capitalize()} RMSE", number(value * factor), unit, "validation"))
    return cards


def _curves(curve: dict[str, Array], heads: Sequence[str], canvas: Canvas) -> list[Picture]:
    if "step" not in curve:
        raise DataError("lcurve.csv has no column 'step': the learning curve cannot be drawn")
    pictures = []
    shown = [(key, head) for head in heads or [""] for key in QUANTITIES]
    for key, head in shown:
        name, _, factor, unit = QUANTITIES[key]
        word, column = (f"{name} of {head}", f"rmse_{key}_{head}") if head else (name, f"rmse_{key}")
        lines = {part: curve[f"{column}_{part}"] * factor for part in ("train", "valid") if f"{column}_{part}" in curve}
        lines = {part: values for part, values in lines.items() if _drawable(values)}
        if lines:
            last = {p: float(v[_finite(v)][-1]) for p, v in lines.items()}
            said = ", ".join(f"{p} {number(v)} {unit}" for p, v in last.items())
            alt = f"Learning curve of the {word} RMSE over {number(curve['step'][-1])} steps; at the end: {said}."
            pictures.append(
                canvas.picture(
                    _learning(curve["step"], lines, f"{word} RMSE ({unit})"),
                    alt,
                    f"{word.capitalize()} RMSE; last: {said}.",
                )
            )
    if "loss" in curve and _drawable(curve["loss"]):
        last_loss = number(float(curve["loss"][_finite(curve["loss"])][-1]))
        alt = f"Training loss over steps with the learning rate; last loss {last_loss}."
        pictures.append(canvas.picture(_loss(curve), alt, "Loss and learning rate."))
    return pictures


def _finite(values: Array) -> Any:
    return np.isfinite(values) & (values > 0)


def _drawable(values: Array) -> bool:
    return bool(_finite(values).sum() > 1)


def _learning(step: Array, lines: dict[str, Array], label: str) -> Any:
    def draw(figure: Figure, axes: Axes) -> None:
        for part, values in lines.items():
            used = _finite(values)
            x, y = np.maximum(step[used], 1), values[used]
            if part == "train":
                axes.plot(*thin(x, y), color=SERIES[0], alpha=0.35, linewidth=0.9)
                axes.plot(*thin(x, np.exp(smooth(np.log(y), widening=0.12))), color=SERIES[0], label="training")
            else:
                marker = "o" if len(x) <= 60 else None
                axes.plot(*thin(x, y), color=SERIES[1], marker=marker, markersize=3, label="validation")
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain_decades(axes)
        axes.set_xlabel("step")
        axes.set_ylabel(label)

    return draw


def plain_decades(axes: Axes, *, y: bool = True) -> None:
    """Write 0.1, 1, 10 rather than powers, with marks between where an axis spans less than two decades."""
    _plain_numbers(axes.xaxis, axes.get_xlim())
    if y:
        _plain_numbers(axes.yaxis, axes.get_ylim())


def _plain_numbers(axis: Any, limits: tuple[float, float]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = np.log10(limits[1] / limits[0])
    subs = (1.0,) if decades > 2 else (1.0, 3.0) if decades > 0.9 else (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(float(value))))
    axis.set_minor_locator(NullLocator())


def _tick(value: float) -> str:
    return f"{value:g}" if 1e-3 <= value < 1e4 else number(value, 1).removeprefix("1 × ")


def _loss(curve: dict[str, Array]) -> Any:
    def draw(figure: Figure, axes: Axes) -> None:
        used = _finite(curve["loss"])
        x, y = np.maximum(curve["step"][used], 1), curve["loss"][used]
        axes.plot(*thin(x, y), color=SERIES[0], alpha=0.35, linewidth=0.9)
        axes.plot(*thin(x, np.exp(smooth(np.log(y), widening=0.12))), color=SERIES[0], label="loss")
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain_decades(axes)
        axes.set_xlabel("step")
        axes.set_ylabel("loss")
        rate = curve.get("learning_rate")
        if rate is not None and _drawable(rate):
            other = axes.twinx()
            other.grid(False)
            other.plot(
                *thin(np.maximum(curve["step"][_finite(rate)], 1), rate[_finite(rate)]), color=SERIES[2], linestyle="--"
            )
            axes.plot([], [], color=SERIES[2], linestyle="--", label="learning rate (right)")
            other.set_yscale("log")
            _plain_numbers(other.yaxis, other.get_ylim())
            other.set_ylabel("learning rate")

    return draw


def test_block(section: Section, canvas: Canvas) -> Block | None:
    """Parity plots from ``parity.npz`` and the table of errors from ``metrics.json``."""
    arrays, metrics = read_arrays(section.out / "parity.npz"), read_object(section.out / "metrics.json")
    if arrays is None and not metrics:
        return None
    overall, systems = metrics.get("overall") or {}, metrics.get("systems") or {}
    pictures, fits = [], {}
    names = [str(name) for name in (arrays or {}).get("systems", [])]
    for key in COMPARED:
        pair = _pair(section, arrays or {}, key)
        if pair is not None:
            fits[key] = _fit(*pair[:2])
            pictures.append(_parity_picture(canvas, key, pair, names, fits[key]))
    present = [q for q in QUANTITIES if any(f"{q}_rmse" in row for row in [overall, *systems.values()])]
    header = (
        "system",
        "frames",
        "atoms",
        *(f"{QUANTITIES[q][0]} {m} ({QUANTITIES[q][3]})" for q in present for m in ("RMSE", "MAE")),
    )
    listed = [("all", overall), *(sorted(systems.items()) if len(systems) > 1 or not overall else ())]
    rows = [_error_row(name, row, present) for name, row in listed if row]
    tables = [Table("Errors on test data", header, rows).compact()] if rows else []
    cards = []
    for q in COMPARED:
        value = overall.get(f"{q}_rmse", fits[q]["rmse"] if q in fits else None)
        if isinstance(value, int | float):
            word, _, factor, unit = QUANTITIES[q]
            mae = overall.get(f"{q}_mae", fits[q]["mae"] if q in fits else None)
            note = f"test; MAE {number(mae * factor)}" if isinstance(mae, int | float) else "test"
            cards.append(Card(f"{word.capitalize()} RMSE", number(value * factor), unit, note))
    lead = "Model against reference on data that training never saw. The corner shows the distribution of errors."
    facts = [(k, number(overall.get(k))) for k in ("frames", "atoms") if overall.get(k) is not None]
    return Block(
        _anchor(section),
        "Test",
        section.name,
        lead,
        facts,
        [],
        pictures,
        tables,
        cards,
        {"overall": overall, "fits": fits},
        three=True,
    )


Pair = tuple[Array, Array, Any]


def _pair(section: Section, arrays: dict[str, Any], key: str) -> Pair | None:
    if f"{key}_reference" not in arrays or f"{key}_predicted" not in arrays:
        return None
    reference, predicted = arrays[f"{key}_reference"], arrays[f"{key}_predicted"]
    if reference.shape != predicted.shape or not np.issubdtype(reference.dtype, np.number):
        raise DataError(
            f"{section.out / 'parity.npz'}: {key}_reference {reference.shape} and {key}_predicted {predicted.shape} "
            "must be numbers of the same shape"
        )
    if not reference.size:
        return None
    groups = arrays.get(f"{key}_system", arrays.get("system"))
    width = reference.size // len(reference)
    groups = np.repeat(groups, width) if groups is not None and len(groups) == len(reference) else None
    x, y = reference.astype(float).ravel(), predicted.astype(float).ravel()
    used = np.isfinite(x) & np.isfinite(y)
    if not used.any():
        return None
    return x[used], y[used], None if groups is None else groups[used]


def _fit(reference: Array, predicted: Array) -> dict[str, float]:
    error = predicted - reference
    spread = float(((reference - reference.mean()) ** 2).sum())
    result = {
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
        "values": float(len(error)),
    }
    return result | ({"r2": 1 - float((error**2).sum()) / spread} if spread > 0 else {})


def _parity_picture(canvas: Canvas, key: str, pair: Pair, names: Sequence[str], fit: dict[str, float]) -> Picture:
    word, unit, factor, shown = QUANTITIES[key]
    reference, predicted, groups = pair
    if groups is not None:
        found = np.unique(groups)
        named = len(found) and found[0] >= 0 and found[-1] < len(names)
        groups = groups if named and 1 < len(found) <= len(SERIES) else None
    r2 = f", R² {fit['r2']:.5f}" if "r2" in fit else ""
    said = f"RMSE {number(fit['rmse'] * factor)} {shown}, MAE {number(fit['mae'] * factor)} {shown}{r2}"
    special = {"energy": "energy per atom", "forces": "force component", "virial": "virial component per atom"}
    what = special.get(key, f"{word} component")
    alt = f"Parity plot of the {what}, model against reference, {number(len(reference))} values: {said}."
    # Total energies differ in their last digits only: what is seen is their distance from the mean.
    middle, label = (float(reference.mean()), "energy − mean") if key == "energy" else (0.0, word)
    draw = parity(reference - middle, predicted - middle, groups, [_short(n) for n in names], (label, unit))
    return canvas.picture(draw, alt, f"{what.capitalize()}: {said}.", width=3.9, height=3.9)


def _short(name: str, limit: int = 22) -> str:
    return name if len(name) <= limit else f"…{name[1 - limit :]}"


def _error_row(name: str, row: dict[str, Any], present: Sequence[str]) -> tuple[str, ...]:
    values = [
        number(value * QUANTITIES[q][2]) if isinstance(value := row.get(f"{q}_{m}"), int | float) else "–"
        for q in present
        for m in ("rmse", "mae")
    ]
    return (name, number(row.get("frames")), number(row.get("atoms")), *values)


def freeze_block(section: Section, canvas: Canvas) -> Block | None:
    """Checks and metadata of a frozen model, from ``card.json``."""
    paths = [section.out / "card.json", *sorted(section.out.glob("*.card.json"))]
    card = next((found for path in paths if (found := read_object(path))), {})
    if not card:
        return None
    checks: dict[str, dict[str, Any]] = card.get("checks") or {}
    rows: list[tuple[str, ...]] = []
    for name, check in checks.items():
        value, tolerance = check.get("value"), check.get("tolerance")
        good = isinstance(value, int | float) and isinstance(tolerance, int | float) and value <= tolerance
        rows.append(
            (
                name.replace("_", " "),
                "passed" if good else "failed",
                number(value, 2),
                number(tolerance, 1),
                str(check.get("unit", "")),
                str(check.get("note", "")),
            )
        )
    header = ("check", "result", "largest difference", "tolerance", "unit", "note")
    caption = "Checks made before the file was handed out"
    tables = [Table(caption, header, rows, text=(1, 4, 5)).compact()] if rows else []
    hidden = {"checks", "config", "model", "format"}
    facts = [
        (k.replace("_", " "), _plain(v))
        for k, v in card.items()
        if k not in hidden and v and not isinstance(v, dict)  # what is zero, empty or off is no news
    ]
    lead = "The same structures through PyTorch, the frozen file, ASE and LAMMPS, and finite differences of the energy."
    passed = sum(row[1] == "passed" for row in rows)
    cards = [Card("Freeze checks", f"{passed}/{len(rows)}", "passed")] if rows else []
    return Block(_anchor(section), "Frozen model", section.name, lead, facts, [], [], tables, cards, {"checks": checks})


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value) or "none"
    text = str(value)
    return text if len(text) <= 44 else f"{text[:20]}…"


def _anchor(section: Section) -> str:
    return "".join(c if c.isalnum() else "-" for c in f"{section.type}-{section.name}")
