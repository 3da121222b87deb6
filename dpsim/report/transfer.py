"""Tables of a training that goes on from another model, or has several heads: what became of energies and errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpsim.report.blocks import Table, number

_ERRORS = {
    "rmse_energy": ("energy RMSE", 1000.0, "meV/atom"),
    "rmse_energy_apart_from_elements": ("energy RMSE, apart from a constant for each element", 1000.0, "meV/atom"),
    "rmse_forces": ("force RMSE", 1000.0, "meV/Å"),
    "rmse_virial": ("virial RMSE", 1000.0, "meV/atom"),
}
"""Column of the learning curve: words, factor to the unit shown, unit shown."""


def transfer_tables(metrics: Mapping[str, Any]) -> list[Table]:
    """Tables from ``metrics.json`` of a train stage; none for a training of its own."""
    tuned = metrics.get("finetune") or {}
    tables = []
    if bias := _bias(tuned.get("bias") or {}):
        tables.append(Table("Energy of each element before and after the fine-tuning (eV)", _HEADER, bias))
    if lora := tuned.get("lora"):
        row = (f"{lora['rank']}", f"{lora['alpha']:g}", f"{lora['trained']}", f"{lora['parameters']}")
        tables.append(Table("Matrices moved by products of low rank", ("rank", "alpha", "trained", "of"), [row]))
    if old := _old_data(tuned.get("old_data") or {}):
        caption = "Errors on data that the pretrained model was made for"
        tables.append(Table(caption, ("", "before", "after", "unit"), old, text=(3,)))
    best = (metrics.get("bias_after_training") or {}).get("best") or {}
    for name, change in ({"": best} if "elements" in best else best).items():
        if bias := _bias(change["elements"]):
            of = f" of head {name}" if name else ""
            tables.append(Table(f"Energy of each element{of} before and after it was fitted again (eV)", _HEADER, bias))
    if heads := _heads(metrics.get("heads") or {}):
        tables.append(heads)
    return tables


_HEADER = ("element", "before", "after", "change")


def _bias(elements: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for name, values in elements.items():
        before, after = values.get("before"), values.get("after")
        if not isinstance(after, int | float):
            return []  # tensors and grids have no place in a row
        known = isinstance(before, int | float)
        shown = f"{before:.4f}" if known else "new"
        rows.append((name, shown, f"{after:.4f}", f"{after - before:+.4f}" if known else "–"))
    return rows


def _old_data(errors: Mapping[str, Any]) -> list[tuple[str, ...]]:
    before, after = errors.get("before") or {}, errors.get("after") or {}
    rows: list[tuple[str, ...]] = []
    for key in before:
        plain = key.removeprefix("rmse_").replace("_", " ")
        word, factor, unit = _ERRORS.get(key, (f"{plain} RMSE", 1.0, "as labelled"))
        if key in after:
            rows.append((word, number(before[key] * factor), number(after[key] * factor), unit))
    return rows


def _heads(heads: Mapping[str, Any]) -> Table | None:
    if not heads:
        return None
    rows: list[tuple[str, ...]] = []
    for name, facts in heads.items():
        frames = facts.get("frames") or {}
        share = facts.get("probability")
        rows.append((
            name, number(frames.get("train")), number(frames.get("valid")),
            f"{100 * share:.0f} %" if isinstance(share, float) else "–",
        ))  # fmt: skip
    return Table("Heads", ("head", "training frames", "validation frames", "steps"), rows)
