"""Labels without their electrostatic part, for the training of the short-range model of DPLR (spec fittings.md §5)."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from dpsim.data import Frame
from dpsim.errors import ConfigError, DataError
from dpsim.model.base import Model
from dpsim.model.compose.dplr import DPLRModel
from dpsim.physics.neighborhood import collate
from dpsim.physics.neighbors import frame_graph
from dpsim.train.batches.frames import FrameSet
from dpsim.train.config import TrainConfig
from dpsim.train.records.resume import Resume
from dpsim.train.settings.dplr_model import DPLRModel as DPLRSection

CHANGED = ("energy", "forces", "virial")
DIVIDED = {"energy", "forces", "virial", "weighted_forces"}
"""Terms of a loss that compare with these."""


class WithoutElectrostatics:
    """Takes the electrostatic energy, forces and virial from the labels of frames; each is computed once.

    Parameters
    ----------
    model
        Its dipole part and its charges count.
    """

    def __init__(self, model: DPLRModel) -> None:
        self.model = model.eval().requires_grad_(False)
        self._known: dict[int, Mapping[str, np.ndarray]] = {}

    def __call__(self, i: int, frame: Frame) -> Frame:
        """Frame `i` of a data set with the labels of the short-range part; types are the model's.

        Raises
        ------
        DataError
            If the frame is not periodic.
        """
        wanted = [name for name in CHANGED if name in frame.labels]
        if not wanted:
            return frame
        if i not in self._known:
            self._known[i] = self._electrostatics(frame)
        part = self._known[i]
        return replace(frame, labels={**frame.labels, **{name: frame.labels[name] - part[name] for name in wanted}})

    def _electrostatics(self, frame: Frame) -> Mapping[str, np.ndarray]:
        if frame.cell is None:
            raise DataError(
                f"{frame.source}: the frame is not periodic, which electrostatics needs: leave this system out"
            )
        real = frame.types >= 0
        positions = frame.positions[real]
        try:
            graph = frame_graph(positions, frame.types[real], frame.cell, self.model.neighbors)
        except DataError as error:
            raise DataError(f"{frame.source}: {error}") from None
        cells = torch.from_numpy(np.asarray(frame.cell, dtype=np.float64)).unsqueeze(0)
        found = self.model.electrostatics(collate([graph]), torch.from_numpy(positions), cells)
        forces = np.zeros((len(real), 3))
        forces[real] = found.forces.numpy()
        return {
            "energy": found.atomic_energy.sum().numpy(),
            "forces": forces,
            "virial": found.atomic_virial.sum(0).numpy(),
        }


def take_out_electrostatics(
    config: TrainConfig, resume: Resume | None, initial: Model | None, frames: FrameSet, valid: FrameSet | None
) -> None:
    """Let the frames of a model with electrostatics have the labels of its short-range part; others stay as they are.

    Raises
    ------
    ConfigError
        If the loss compares with what cannot be divided into the parts.
    """
    model = _model(config, resume, initial, frames.type_map)
    if not isinstance(model, DPLRModel):
        return
    undivided = sorted(set(config.loss.active) - DIVIDED)
    if undivided:
        raise ConfigError(
            f"loss.{undivided[0]}: the labels of atoms and second derivatives cannot be divided into electrostatics "
            f"and the rest: leave this term out"
        )
    for some in (frames, valid):
        if some is not None:
            some.changed = WithoutElectrostatics(model)


def _model(
    config: TrainConfig, resume: Resume | None, initial: Model | None, type_map: tuple[str, ...]
) -> Model | None:
    if resume is not None:
        of_resume = resume.state.model_config.get("type") == "dplr"
        return resume.state.build_model(str(resume.path)) if of_resume else None
    if initial is None and isinstance(config.model, DPLRSection):
        model = config.model.resolve(type_map, None).build(0)
        config.model.complete(model)
        return model
    return copy.deepcopy(initial) if initial is not None and initial.long_range else None
