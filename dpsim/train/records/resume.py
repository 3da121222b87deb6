"""Going on from a checkpoint: which one, and what must be as it was."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel

from dpsim.data.files import digest_of, new_file
from dpsim.errors import ConfigError
from dpsim.model.base import Model
from dpsim.model.checkpoint import state_digest
from dpsim.model.config import AnyModelConfig
from dpsim.model.multi_config import MultiTaskConfig, read_settings
from dpsim.model.multi_task import MultiTaskModel
from dpsim.train.batches.frames import Scan
from dpsim.train.config import TrainConfig, resolve_model
from dpsim.train.optimizers.schedule import LearningRate
from dpsim.train.parallel.distributed import ALONE, Workers
from dpsim.train.records.state import TrainingState, checkpoints, load_state, step_of
from dpsim.train.settings.heads import multi_config
from dpsim.train.settings.run import NOT_IN_RESULT

log = logging.getLogger("dpsim.train")

BEST = "best.safetensors"

CHANGEABLE = (
    "steps", "log_every", "validate_every", "checkpoint_every", "keep_checkpoints", "change_bias_after_training",
    "model", *NOT_IN_RESULT,
)  # fmt: skip
"""Settings in which a continued training may differ from its beginning; `model` is compared by itself."""


class Resume(NamedTuple):
    """A checkpoint to go on from."""

    path: Path
    state: TrainingState
    restarted: str = ""
    """The checkpoint that was asked for, now or earlier."""


def find_resume(folder: Path, restart: str | Path | None, workers: Workers = ALONE) -> Resume | None:
    """Checkpoint to go on from: the one asked for, else the newest of the folder, else none.

    Of a folder that went on from the one asked for already, it is the newest: the same call goes on.

    Parameters
    ----------
    workers
        Processes that train together: the first looks for the checkpoint, all read it.

    Raises
    ------
    ModelError
        If the checkpoint is missing or damaged.
    """
    if not workers.first:
        path = workers.once(lambda: None)
        return None if path is None else Resume(path, load_state(path))
    found = _found(folder, restart)
    workers.once(lambda: None if found is None else found.path.absolute())
    return found


def _found(folder: Path, restart: str | Path | None) -> Resume | None:
    there = checkpoints(folder)
    newest = Resume(there[-1][1], load_state(there[-1][1])) if there else None
    if newest is not None:
        newest = newest._replace(restarted=newest.state.restarted)
    if restart is None:
        return newest
    path = Path(restart)
    if newest is not None and newest.restarted and newest.restarted.startswith(mark_of(path)):
        return newest
    return Resume(path, load_state(path), mark_of(path))


def mark_of(path: Path) -> str:
    """Name of a checkpoint: its path and, while it is there, what it holds."""
    return f"{path.resolve()}\0" + (digest_of(path) if path.is_file() else "")


def bring_best(resume: Resume, folder: Path) -> bool:
    """Copy the best model of a training that goes on in another folder; whether it is there."""
    source, target = resume.path.parent / BEST, folder / BEST
    if not resume.state.best.step or source.resolve() == target.resolve():
        return True
    if step_of(source) != resume.state.best.step:
        log.warning("%s is not the model of step %d: the best one is looked for anew", source, resume.state.best.step)
        return False
    with new_file(target) as temporary:
        shutil.copyfile(source, temporary)
    return True


def check_resume(resume: Resume, config: TrainConfig, origin: dict[str, str], folder: Path) -> None:
    """Refuse to go on from a checkpoint of another training.

    Going back to an older checkpoint of the folder takes the newer ones out of it, as the steps after it are
    made anew.

    Raises
    ------
    ConfigError
        If settings, data or the initial model differ, or the checkpoint is past the last step.
    """
    path, state = resume.path, resume.state
    advice = f"train into another folder than {folder}, with the checkpoint as initial model if its weights are wanted"
    before, now = _settings(TrainConfig.model_validate(state.config)), _settings(config)
    changed = [key for key in now if key not in CHANGEABLE and now[key] != before[key]]
    if changed:
        pairs = "; ".join(f"{key}: {before[key]!r} became {now[key]!r}" for key in changed)
        raise ConfigError(f"{path} was made with other settings ({pairs}): {advice}, or put them back")
    there = read_settings(state.model_config)
    declared = declared_settings(config, there.type_map, there)
    found = [] if declared is None else differences(declared, there)
    if found:
        raise ConfigError(f"{path} holds another model ({found[0]}): {advice}, or put the settings back")
    for name, digest in origin.items():
        if state.origin.get(name, digest) != digest:
            raise ConfigError(f"{path} was made with other {name}: {advice}")
    if state.step > config.total_steps:
        raise ConfigError(
            f"{path} is past the last step (steps: {config.total_steps}): raise steps, or train into another folder"
        )
    for step, later in checkpoints(folder):  # not before all is known to fit
        if step > state.step or (step == state.step and later.resolve() != path.resolve()):
            log.warning("%s is removed, as training goes back to %s", later, path)
            later.unlink(missing_ok=True)


def declared_settings(
    config: TrainConfig, type_map: tuple[str, ...], like: AnyModelConfig | MultiTaskConfig | None = None
) -> AnyModelConfig | MultiTaskConfig | None:
    """Complete settings of the model that a training declares; None if they are those of a model to start from.

    Parameters
    ----------
    like
        Settings whose order of the heads is taken.
    """
    if config.heads is None:
        return None if config.model is None else resolve_model(config, type_map)
    if isinstance(like, MultiTaskConfig) and like.heads.keys() == config.heads.keys():
        config = config.model_copy(update={"heads": {name: config.heads[name] for name in like.heads}})
    assert config.heads is not None
    has_own = all(head.model is not None for head in config.heads.values())
    return multi_config(config, type_map) if has_own or config.model is not None else None


def _settings(config: TrainConfig) -> dict[str, Any]:
    """All settings as JSON, also those that are left out of files where they have their default."""
    return {name: _plain(getattr(config, name)) for name in TrainConfig.model_fields}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value


def announce_resume(resume: Resume, config: TrainConfig, workers: int = 1) -> None:
    """Log where training goes on, and what raised steps do to the learning rate, or other processes to a step."""
    step, before = resume.state.step, int(resume.state.config["steps"])
    log.info("continuing from %s: step %d of %d", resume.path, step, config.total_steps)
    if workers != resume.state.workers and step < config.total_steps:
        log.warning("it was made by %d processes, now there are %d: a step has %.3g times as many frames",
                    resume.state.workers, workers, workers / resume.state.workers)  # fmt: skip
    if before != config.total_steps and step < config.total_steps:
        old = LearningRate(TrainConfig.model_validate(resume.state.config).learning_rate, before)
        log.info(
            "steps: %d became %d: the learning rate now decays over the new total and is %.3g at step %d, not %.3g",
            before, config.total_steps, LearningRate(config.learning_rate, config.total_steps)(step), step,
            old(min(step, before - 1)),
        )  # fmt: skip


class Scanned(Protocol):
    """Data of one head, looked at."""

    name: str
    found: Scan
    found_valid: Scan | None


def origin_of(data: Iterable[Scanned], initial: Model | MultiTaskModel | None) -> dict[str, str]:
    """Digests of what a training is made from."""
    origin: dict[str, str] = {}
    for one in data:
        place = f" of {one.name}" if one.name else ""
        origin[f"training data{place}"] = one.found.digest
        origin[f"validation data{place}"] = one.found_valid.digest if one.found_valid else ""
    return origin | {"initial model": state_digest(initial) if initial else ""}


def differences(a: AnyModelConfig | MultiTaskConfig, b: AnyModelConfig | MultiTaskConfig) -> list[str]:
    """Places where two model settings differ, with both values; precision aside."""
    return list(_differences(a.model_dump(mode="json"), b.model_dump(mode="json"), ""))


def _differences(a: Any, b: Any, where: str) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            if key != "precision":
                yield from _differences(a.get(key), b.get(key), f"{where}.{key}" if where else str(key))
    elif a != b:
        yield f"{where}: {a!r} here, {b!r} there"
