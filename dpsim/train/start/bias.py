"""The output bias of a model that is there: moved to other data, fitted anew, or given (spec fittings.md §11)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dpsim import ops
from dpsim.errors import DataError, ModelError
from dpsim.model.base import Model
from dpsim.model.checkpoint import read_header, save_model
from dpsim.model.compose.dplr import DPLRModel
from dpsim.model.multi_task import MultiTaskModel
from dpsim.model.statistics import Moments, OutputBias, composition, output_bias, shared_bias
from dpsim.physics.derivatives import sum_by_frame
from dpsim.train.batches.frames import SCANNED, DataSource, FrameSet, require_parameters, scan, spaced
from dpsim.train.batches.loader import BatchMaker
from dpsim.train.batches.sampler import in_order
from dpsim.train.records.state import heads_in, load_state, read_any, read_model
from dpsim.train.settings.standard_model import ElementBias
from dpsim.train.start.electrostatics import WithoutElectrostatics
from dpsim.train.start.given_bias import BIASED, given_bias
from dpsim.train.start.setup import check_widths, nonzero_deviations, set_parameter_scales

FloatArray = npt.NDArray[np.float64]
Mode = Literal["change", "set"]
"""``change``: add what the model leaves of the labels; ``set``: take what the labels say, whatever the model says."""
ATOMS_AT_ONCE = 512
"""Frames are evaluated together up to about this many atoms."""


class BiasChange(NamedTuple):
    """What became of an output bias, element by element."""

    type_map: tuple[str, ...]
    atoms: npt.NDArray[np.int64]
    """(n_types,) number of atoms in the frames that were looked at."""
    before: FloatArray
    after: FloatArray
    """(n_types, ...); energies in eV."""
    n_frames: int = 0
    """Frames with a label; 0 where the bias was given."""
    rmse: tuple[float, float] | None = None
    """Of energies in eV/atom, before and after; None where they were not compared."""

    def as_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        columns = zip(self.type_map, self.atoms.tolist(), self.before.tolist(), self.after.tolist(), strict=True)
        return {
            "frames": self.n_frames,
            "rmse": None if self.rmse is None else {"before": self.rmse[0], "after": self.rmse[1]},
            "elements": {name: {"atoms": n, "before": a, "after": b} for name, n, a, b in columns},
        }

    def lines(self) -> list[str]:
        """Table for people: one line an element, and the errors. Of tensors and grids, the mean is shown."""
        rows = [("", "atoms", "before", "after", "change")]
        each = (values.reshape(len(self.type_map), -1).mean(1) for values in (self.before, self.after))
        for name, n, a, b in zip(self.type_map, self.atoms, *each, strict=True):
            rows.append((name, str(n), f"{a:.6f}", f"{b:.6f}", f"{b - a:+.6f}"))
        widths = [max(len(row[k]) for row in rows) for k in range(5)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        if self.rmse is not None:
            lines.append(f"energy error (RMSE): {self.rmse[0]:.6f} -> {self.rmse[1]:.6f} eV/atom")
        return lines


def fit_bias(
    model: Model,
    frames: FrameSet,
    mode: Mode = "change",
    *,
    preset: Mapping[str, ElementBias] | None = None,
    indices: Sequence[int] | None = None,
    most: int = SCANNED,
) -> BiasChange:
    """Fit the output bias of a model to data, in place.

    ``change`` adds the least-squares solution for label − prediction by composition, so that elements that the data do
    not have keep their bias. ``set`` takes that for the labels alone, and sets the scales of the parameters of frames
    and atoms as well; elements that the data do not have get zero.

    Parameters
    ----------
    preset
        Values of elements that are not fitted.
    indices
        Frames to look at; by default all, or of large data many of every system and element.
    most
        About so many, then.

    Raises
    ------
    DataError
        If no frame has a label, or lacks what the model takes.
    ModelError
        If the model has no output bias, or `preset` does not go with it.
    """
    _require_bias(model)
    given = given_bias(model, preset or {}, ModelError)
    found = scan(frames, model.output)
    check_widths(found, model, "given")
    require_parameters(found, model.inputs, "given")
    chosen = found.sample(frames, most) if indices is None else list(indices)
    labels = _Labels.of(frames, model, chosen)
    before = model.out_bias.detach().cpu().numpy().copy()
    if mode == "set":
        rmse = None
        fit = _fitted(model, labels, None, given)
        bias = fit.bias
        std = nonzero_deviations(model, fit.std, labels.values)
        model.out_std.copy_(torch.from_numpy(std).reshape(model.out_std.shape))
        set_parameter_scales(model, found)
    else:
        predicted = _predictions(model, frames, labels)
        flat = before.reshape(len(model.type_map), -1)
        fit = _fitted(model, labels, predicted, {t: values - flat[t] for t, values in given.items()})
        bias = flat + fit.bias
        rmse = _errors(labels, predicted, fit) if model.output == "energy" else None
    model.out_bias.copy_(torch.from_numpy(bias).reshape(model.out_bias.shape))
    return BiasChange(model.type_map, labels.atoms, before, bias.reshape(before.shape), fit.n_frames, rmse)


def give_bias(model: Model, values: Sequence[float]) -> BiasChange:
    """Take energies in eV, one an element, as the output bias of a model, in place.

    Raises
    ------
    ModelError
        If the model predicts something else, or there are not as many numbers as elements.
    """
    n = len(model.type_map)
    if model.output != "energy":
        raise ModelError(f"the model predicts {model.output}: only energies can be given as numbers, one an element")
    if len(values) != n:
        raise ModelError(f"{len(values)} energies were given, expected {n}: one each for {' '.join(model.type_map)}")
    before = model.out_bias.detach().cpu().numpy().copy()
    after = np.array(values, dtype=np.float64)
    model.out_bias.copy_(torch.from_numpy(after))
    return BiasChange(model.type_map, np.zeros(n, dtype=np.int64), before, after)


class _Labels(NamedTuple):
    """Labels of what the model predicts, of the frames that have them."""

    frames: list[int]
    compositions: FloatArray
    """(M, n_types)"""
    values: FloatArray
    """(M, k)"""
    atomic: bool
    """Whether they are those of atoms: then `values` holds one row an atom."""
    types: npt.NDArray[np.int64]
    """Of these atoms."""
    atoms: npt.NDArray[np.int64]
    """(n_types,) number of atoms in the frames."""

    @classmethod
    def of(cls, frames: FrameSet, model: Model, indices: Sequence[int]) -> _Labels:
        names = ("energy",) if model.output == "energy" else (f"atomic_{model.output}", model.output)
        n_types = len(model.type_map)
        for name in names:  # those of atoms take precedence
            here, counts, values, types = [], [], [], []
            for i in indices:
                frame = frames[i]
                if name in frame.labels:
                    here.append(i)
                    counts.append(composition(frame.types, n_types))
                    types.append(frame.types)
                    values.append(np.asarray(frame.labels[name], dtype=np.float64))
            if here:
                atomic = name.startswith("atomic_")
                rows = [value.reshape(len(t) if atomic else 1, -1) for value, t in zip(values, types, strict=True)]
                table = np.array(counts)
                atoms = table.sum(0).astype(np.int64)
                return cls(here, table, np.concatenate(rows), atomic, np.concatenate(types), atoms)
        raise DataError(f"no frame of the data has a label of the {model.output}: there is nothing to fit a bias to")


def _fitted(model: Model, labels: _Labels, predicted: FloatArray | None, given: Mapping[int, FloatArray]) -> OutputBias:
    """Bias that makes up for the labels, or for what the model leaves of them."""
    values = labels.values if predicted is None else labels.values - predicted
    if labels.atomic:
        moments = Moments.of(values, labels.types, len(model.type_map))
        bias = moments.mean
        bias[list(given)] = np.array(list(given.values())).reshape(-1, bias.shape[1])
        return OutputBias(bias, moments.std, len(labels.frames))
    excluded, shared = model.atom_exclude_types, not getattr(_fitting(model), "distinguish_types", True)
    if shared:
        return shared_bias(labels.compositions, values, excluded, mean=model.intensive)
    return output_bias(labels.compositions, values, excluded, preset=given, mean=model.intensive)


def _fitting(model: Model) -> Any:
    return getattr(model.config, "fitting", None)


@torch.no_grad()
def _predictions(model: Model, frames: FrameSet, labels: _Labels) -> FloatArray:
    """What the model says where there are labels, in the same form."""
    make, rows = BatchMaker.for_model(frames, model, labels=()), []
    for chunk in in_order(labels.frames, atoms=ATOMS_AT_ONCE, n_atoms=frames.n_atoms):
        batch = make(chunk).to(model.device)
        hood = batch.neighborhood
        values = model(hood)
        if not labels.atomic:
            values = sum_by_frame(values, hood.frame, batch.n_frames)
            if model.intensive:
                values = values / batch.n_atoms.reshape(-1, *[1] * (values.ndim - 1))
        rows.append(values.reshape(len(values), -1).cpu().numpy())
    return np.concatenate(rows)


def _errors(labels: _Labels, predicted: FloatArray, fit: OutputBias) -> tuple[float, float]:
    n_atoms = np.maximum(labels.compositions.sum(1), 1)
    left = (labels.values - predicted)[:, 0]
    both = (left / n_atoms, (left - labels.compositions @ fit.bias[:, 0]) / n_atoms)
    before, after = (float(np.sqrt(np.mean(one**2))) for one in both)
    return before, after


def _require_bias(model: Model) -> None:
    if model.output not in ("energy", *BIASED):
        raise ModelError(f"the model predicts {model.output}, which has no output bias")


def change_bias(
    path: str | Path,
    data: DataSource | None = None,
    output: str | Path | None = None,
    *,
    mode: Mode = "change",
    values: Sequence[float] | None = None,
    head: str | None = None,
    frames_per_system: int | None = None,
) -> tuple[Path, BiasChange]:
    """Change the output bias of a model file; the result goes to a file of its own, written at once.

    Parameters
    ----------
    path
        A model file of dpsim or DeePMD-kit, but for frozen ones.
    data
        Labelled data, for `mode`.
    output
        By default the name of the model file with ``_updated.safetensors``.
    values
        Energies in eV to take instead, one an element.
    head
        Branch of a multi-task model.
    frames_per_system
        At most so many frames of each system, evenly spaced; None: all.

    Returns
    -------
    Path
        The file written.
    BiasChange

    Raises
    ------
    ModelError
        If the model cannot be read or has no such bias, or `output` cannot be written.
    DataError
        If the data have no labels, or elements that the model does not know.
    """
    ops.keep_memory()
    path = Path(path)
    target = path.with_name(f"{path.stem}_updated.safetensors") if output is None else Path(output)
    _check_output(target, path)
    if (values is None) == (data is None):
        raise ModelError("an output bias follows from data or from given numbers: give one of the two")
    whole = read_any(path) if heads_in(path) else read_model(path, head)
    model = whole.head(head, str(path)) if isinstance(whole, MultiTaskModel) else whole
    if values is not None:
        change = give_bias(model, values)
    else:
        assert data is not None
        frames = FrameSet(data, model.type_map, model.property_name)
        if isinstance(model, DPLRModel):
            frames.changed = WithoutElectrostatics(copy.deepcopy(model))
        chosen = evenly(frames, frames_per_system)
        change = fit_bias(model, frames, mode, preset=preset_of(path, head), indices=chosen)
    facts = {"bias changed of": path.name, "mode": "given" if values is not None else mode}
    if head is not None:
        facts["head"] = head
    return save_model(whole, target, provenance_of(path) | facts), change


def evenly(frames: FrameSet, limit: int | None) -> list[int]:
    """Indices of at most `limit` frames of each system, evenly spaced; of all if None."""
    return [i for pool in frames.pools("systems") for i in spaced(pool, limit or len(pool))]


def _check_output(target: Path, source: Path) -> None:
    if target.suffix != ".safetensors":
        raise ModelError(f"{target}: the result is a .safetensors file, found {target.suffix or 'no suffix'!r}")
    if not target.parent.is_dir():
        raise ModelError(f"{target.parent}: there is no such folder to write {target.name} into")
    if target.exists() and source.exists() and target.samefile(source):
        raise ModelError(f"{target} is the model to change: choose another name for the result")


def provenance_of(path: Path) -> dict[str, Any]:
    """What a model file says of where it comes from; nothing for files of others."""
    return dict(read_header(path).get("provenance") or {}) if path.suffix == ".safetensors" else {}


def preset_of(path: Path, head: str | None = None) -> dict[str, ElementBias]:
    """Output biases of elements that were given when a model was trained, so that they are not fitted."""
    settings = load_state(path).config if path.suffix == ".ckpt" else provenance_of(path).get("training") or {}
    given = _given_in(settings.get("model"))
    for name, own in (settings.get("heads") or {}).items():
        if head is not None and head in (name, *own.get("aliases", ())):
            given = (_given_in(own["model"]) if own.get("model") else given) | _given_in(own)
    return given


def _given_in(section: Mapping[str, Any] | None) -> dict[str, ElementBias]:
    """Output biases that a section of the settings of a training, as JSON, gives."""
    return dict((section or {}).get("preset_out_bias") or {})
