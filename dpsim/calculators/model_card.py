"""The card of a model: what it is, how it was checked, what it was trained on and with, what to cite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from dpsim.calculators.model_summary import Facts, summarize
from dpsim.data.files import digest_of, read_json
from dpsim.descriptors.citations import citations_of
from dpsim.errors import DataError, ModelError
from dpsim.model.checkpoint import read_header

_TRAINING: Final = ("steps", "epochs", "recipe", "batch_size", "optimizer", "learning_rate", "loss", "ema", "seed")
"""Settings of a training that a card names."""
TO_FILL: Final = ("authors", "date_added", "date_published", "repo", "doi", "checkpoint_url", "license",
                  "training_sets")  # fmt: skip
"""Fields of matbench-discovery that no file of a model tells."""


def model_card(path: str | Path, head: str | None = None) -> Facts:
    """Return what is known of a model file, ready for JSON.

    Of a frozen model in a run directory, the model that it was made of is read too, and the card that was written
    when it was frozen and checked.

    Parameters
    ----------
    head
        Branch of a model with several; None describes all of them.

    Raises
    ------
    ModelError
        If the file cannot be read, or has no such head.
    """
    path = Path(path)
    facts = summarize(path, head)
    frozen = _frozen_card(path, facts) if path.suffix == ".pt2" else {}
    weights = _made_of(path, facts) if path.suffix == ".pt2" else path
    told = facts if weights in (None, path) else summarize(weights) | facts
    header = read_header(weights) if weights is not None and weights.suffix == ".safetensors" else {}
    provenance: Mapping[str, Any] = header.get("provenance") or {}
    training = provenance.get("training") or {}
    known = {name: training[name] for name in _TRAINING if training.get(name) is not None}
    data = {name: provenance[name] for name in ("training data", "validation data", "initial model")
            if provenance.get(name)}  # fmt: skip
    return {
        "file": path.name,
        "sha256": digest_of(path),
        "bytes": path.stat().st_size,
        **{name: value for name, value in told.items() if name != "provenance"},
        **({"checks": frozen["checks"]} if frozen.get("checks") else {}),
        **({"training": {"step": provenance.get("step"), **known}} if known else {}),
        **({"data": data} if data else {}),
        **({"validation metric": provenance["metric"]} if "metric" in provenance else {}),
        "citations": list(dict.fromkeys(citations_of(header.get("config") or told))),
    }


def _frozen_card(path: Path, facts: Facts) -> dict[str, Any]:
    """Return the card that ``freeze`` wrote beside a frozen model, empty if there is none of this one."""
    for card in (path.with_suffix(".card.json"), path.with_name("card.json")):
        try:
            found = read_json(card) if card.is_file() else {}
        except DataError:
            continue
        if found.get("digest") == facts["digest"]:
            return found
    return {}


def _made_of(path: Path, facts: Facts) -> Path | None:
    """Return the weights that a frozen model in a run directory was made of, if they are still there."""
    entry = path.resolve().parent.parent
    try:
        inputs = read_json(entry / "inputs.json").get("inputs", []) if (entry / "inputs.json").is_file() else []
        for given in inputs:
            for name in given.get("paths", ()):
                weights = entry.parents[2] / name
                if weights.suffix == ".safetensors" and read_header(weights).get("digest") == facts["digest"]:
                    return weights
    except (DataError, ModelError, IndexError):
        return None
    return None


def as_markdown(card: Facts) -> str:
    """Return a card as a page to read."""
    lines = [
        f"# {card['file']}",
        "",
        f"SHA-256 `{card['sha256']}`, {card['bytes']:,} bytes",
        "",
        "| | |",
        "| --- | --- |",
    ]
    special = ("file", "sha256", "bytes", "heads", "checks", "training", "data", "citations")
    if isinstance(card.get("heads"), list):
        lines.append(f"| heads | {', '.join(card['heads'])} |")
    lines += _rows({name: value for name, value in card.items() if name not in special})
    for name, one in card["heads"].items() if isinstance(card.get("heads"), Mapping) else ():
        lines += ["", f"## Head {name}", "", "| | |", "| --- | --- |", *_rows(one)]
    if "checks" in card:
        lines += [
            "",
            "## Checks when it was frozen",
            "",
            "| check | found | tolerance | |",
            "| --- | --- | --- | --- |",
        ]
        for name, check in card["checks"].items():
            found = f"{check['value']:.2g}" if isinstance(check.get("value"), int | float) else "not made"
            unit, note = check.get("unit", ""), check.get("note", "")
            lines.append(f"| {name.replace('_', ' ')} | {found} | {check.get('tolerance')} {unit} | {note} |")
    for name, title in (("training", "Training"), ("data", "Data (digests)")):
        if name in card:
            lines += ["", f"## {title}", "", "| | |", "| --- | --- |", *_rows(card[name])]
    if card["citations"]:
        lines += ["", "## To cite", "", *(f"- {citation}" for citation in card["citations"])]
    return "\n".join(lines) + "\n"


def _rows(facts: Mapping[str, Any]) -> list[str]:
    return [f"| {name} | {_cell(name, value)} |" for name, value in facts.items() if value not in (None, {}, [])]


def _cell(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        parts = (
            f"{key.replace('_', ' ')} {_cell(key, one)}" for key, one in value.items() if one not in (None, {}, [])
        )
        return ", ".join(parts)
    if isinstance(value, list):
        if len(value) > 32 and isinstance(value[0], list):
            return f"{len(value)} rows of {len(value[0])} numbers"
        return " ".join(_cell("", one) for one in value)
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if name in ("total", "descriptor", "fitting") else str(value)
    return f"{value}{' Å' if name == 'cutoff' else ''}".replace("|", "\\|")


def as_matbench(card: Facts, packages: Mapping[str, str], python: str) -> Facts:
    """Return a card as a submission to Matbench Discovery names its fields; what no file tells is None.

    Parameters
    ----------
    packages
        Versions by name.
    python
        Version of Python.
    """
    one = next(iter(card["heads"].values())) if isinstance(card.get("heads"), Mapping) else card
    training = dict(card.get("training") or {})
    return {
        "model_name": Path(card["file"]).stem,
        "model_key": "".join(letter if letter.isalnum() else "-" for letter in Path(card["file"]).stem.lower()),
        "model_version": card["sha256"][:12],
        **dict.fromkeys(TO_FILL),
        "license": {"code": "MIT", "checkpoint": None},
        "environment": {"dependencies": dict(packages), "python_version": python},
        "targets": _targets(training),
        "model_type": "UIP" if one.get("output") == "energy" else None,
        "model_params": (one.get("parameters") or {}).get("total"),
        "train_task": "S2EFS" if _targets(training) == "EFS_G" else None,
        "hyperparams": {
            "cutoff": one.get("cutoff"),
            **training,
            "evaluation": dict.fromkeys(("max_force", "max_steps", "ase_optimizer", "cell_filter")),
        },
        "notes": {"Description": f"{_kind(one)} in dpsim", "Citations": list(card["citations"])},
    }


def _kind(one: Facts) -> str:
    descriptor = one.get("descriptor")
    return f"descriptor {descriptor['type']}" if isinstance(descriptor, Mapping) else str(one.get("model", "model"))


def _targets(training: Mapping[str, Any]) -> str | None:
    """Return what was trained on: energies, forces, stress; forces and stress are gradients."""
    loss = training.get("loss")
    if not isinstance(loss, Mapping):
        return None
    wanted = [letter for letter, name in (("E", "energy"), ("F", "forces"), ("S", "virial")) if _weighs(loss.get(name))]
    return "".join(wanted) + ("_G" if len(wanted) > 1 else "") or None


def _weighs(prefactors: Any) -> bool:
    values: Iterator[Any] = iter(prefactors if isinstance(prefactors, list | tuple) else [prefactors])
    return any(isinstance(value, int | float) and value > 0 for value in values)
