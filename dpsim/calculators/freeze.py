"""Freeze a model, and show that the frozen file says the same through every door before it is handed out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dpsim.calculators.freeze_checks import Check, run_checks
from dpsim.data.files import write_json
from dpsim.errors import ModelError, SetupError
from dpsim.export.compile import check_machine, compile_model
from dpsim.export.metadata import FrozenMetadata
from dpsim.model.base import Model
from dpsim.train.records.state import read_model

Progress = Callable[..., None]


def freeze(
    model: str | Path | Model,
    output: str | Path,
    *,
    head: str | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    checks: bool = True,
    lammps: bool = True,
    card: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compile a model into a ``.pt2`` file, check it, and write its card.

    The same structures go through the PyTorch model, the frozen one, ASE and LAMMPS, and forces and stress are
    compared with finite differences. The differences are stored in the card; one above its tolerance is an
    error, and no file is left.

    Parameters
    ----------
    model
        A model file that holds weights, or a model.
    output
        Path of the package, ending in ``.pt2``.
    head
        Branch of a multi-task model file.
    device
        ``"cpu"`` or ``"cuda"``.
    dtype
        ``"float32"``, ``"float64"`` or None for the model's own.
    checks
        Make the checks; without them the card says that they were not made.
    lammps
        Include LAMMPS, for which the plugin is built if need be.
    card
        Path of the card; by default ``<output>.card.json``.
    progress
        Called as ``progress(done, total, message)``.

    Returns
    -------
    dict
        The card: the header of the frozen model, ``checks`` and times.

    Raises
    ------
    ModelError
        If the model cannot be read, or a check fails.
    SetupError
        If there is no compiler, or no GPU for ``"cuda"``.
    """
    output = Path(output)
    if output.suffix != ".pt2":
        raise ModelError(f"{output}: a frozen model ends in .pt2, found {output.suffix or 'no suffix'!r}")
    if not output.parent.is_dir():
        raise SetupError(f"{output.parent}: there is no such folder to write {output.name} into")
    check_machine(device)
    source = model if isinstance(model, Model) else read_model(Path(model), head)
    if dtype is not None:
        if dtype not in ("float32", "float64"):
            raise ModelError(f"dtype {dtype!r} is unknown: use float32 or float64")
        source = source.with_precision(dtype)
    report = progress or (lambda *_, **__: None)
    total = 2 + (2 + lammps) * checks
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        temporary = Path(folder) / output.name
        report(0, total, "tracing and compiling")
        start = time.monotonic()
        metadata = compile_model(source, temporary, device=device)
        seconds = time.monotonic() - start
        results = (
            run_checks(source, temporary, device, lammps, lambda done, text: report(1 + done, total, text))
            if checks
            else []
        )
        content = _card(metadata, results, seconds, model)
        _refuse_failed(results, output)
        temporary.replace(output)
    write_json(Path(card) if card is not None else output.with_suffix(".card.json"), content)
    report(total, total, "frozen")
    return content


def _card(metadata: FrozenMetadata, results: list[Check], seconds: float, model: Any) -> dict[str, Any]:
    checks = {result.name: {k: v for k, v in asdict(result).items() if k != "name"} for result in results}
    source = None if isinstance(model, Model) else Path(model).name
    return metadata.model_dump(mode="json") | {"source": source, "compile_seconds": round(seconds, 2), "checks": checks}


def _refuse_failed(results: list[Check], output: Path) -> None:
    failed = [result for result in results if not result.passed]
    if failed:
        listed = "; ".join(f"{r.name}: {r.value:.3g} {r.unit} (tolerance {r.tolerance:.1g})" for r in failed)
        raise ModelError(f"{output} was not written: the frozen model failed its checks: {listed}")
