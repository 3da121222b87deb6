"""Training: one loop from batches to weights, and what is written on the way.

batch → energies, forces, virial → loss → gradient → step → row of the curve → validation → checkpoint
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil
import torch

from dpsim import ops
from dpsim.data.files import write_text
from dpsim.errors import Interrupted, StageError
from dpsim.model.checkpoint import load_model, save_model, state_digest
from dpsim.model.multi_task import MultiTaskModel
from dpsim.train.batches.frames import DataSource
from dpsim.train.batches.loader import Batch, Prefetch, making_threads
from dpsim.train.batches.sampler import Cursor
from dpsim.train.compile import compile_tasks
from dpsim.train.config import TrainConfig
from dpsim.train.optimizers.arithmetic import check_products, tf32_products
from dpsim.train.optimizers.average import Average
from dpsim.train.parallel.distributed import ALONE, Workers
from dpsim.train.parallel.joining import Head, Joint
from dpsim.train.records.board import Board, check_board
from dpsim.train.records.curve import Curve
from dpsim.train.records.folder import training_folder
from dpsim.train.records.progress import Progress, Reporter, silent
from dpsim.train.records.result import TrainResult
from dpsim.train.records.resume import Resume, announce_resume, bring_best, check_resume, find_resume, origin_of
from dpsim.train.records.running import WAITING, Clock, Running
from dpsim.train.records.state import Best, TrainingState, checkpoint_path, checkpoints, remove_old, save_state, step_of
from dpsim.train.session import StopSignal, device_of, torch_threads
from dpsim.train.start.finetune import change_bias_of_result
from dpsim.train.start.multi import prepare_heads
from dpsim.train.start.prepare import HeadData, Prepared, prepare, same_model
from dpsim.train.start.setup import ModelSource
from dpsim.train.start.trained_parts import freeze_parts, restrict
from dpsim.train.step import NotFiniteError, grouped, make_step
from dpsim.train.task import Stream, Task

log = logging.getLogger("dpsim.train")

CACHE_BYTES = 2 << 30
"""Memory for neighbourhoods that are kept, where a quarter of what is free is not less."""


def train(
    config: TrainConfig,
    output_dir: str | Path,
    *,
    train_data: HeadData,
    valid_data: HeadData | None = None,
    type_map: Sequence[str] | None = None,
    restart: str | Path | None = None,
    init_model: ModelSource | None = None,
    old_data: DataSource | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
    threads: int | None = None,
    device: str = "auto",
    cache_bytes: int | None = None,
    workers: Workers = ALONE,
) -> TrainResult:
    """Train a model, or go on with a training.

    A folder that holds checkpoints of the same training is continued from the newest one; on a CPU the result is
    the same, bit for bit, as without the interruption. If ``steps`` was raised meanwhile, the learning rate
    decays over the new total from there on. A folder whose training is complete is left as it is.

    Parameters
    ----------
    output_dir
        Receives ``best.safetensors``, ``last.safetensors``, ``step-N.ckpt``, ``lcurve.csv`` and ``metrics.json``.
    train_data, valid_data
        A data set, or folders to open as one; for several heads a dict of these by name.
    type_map
        Elements of the model; by default those of the initial model or of the training data.
    restart
        Checkpoint to go on from instead of the newest of `output_dir`.
    init_model
        Model file or model whose weights a new training starts from; it brings its own energy bias. With
        ``recipe: finetune`` it is brought to the elements and energies of the data.
    old_data
        Data that the pretrained model was made for: errors on them before and after are part of the metrics.
    progress
        Called about once a second with the steps done, their total, a line of text and numbers: ``loss``,
        ``learning_rate``, ``steps_per_second``, ``seconds_left`` and the columns of the curve that there are.
    stop
        Asked after every step; when true, the state is saved and training stops.
    threads
        Threads of torch; None leaves its setting.
    device
        ``cpu``, ``cuda`` or ``auto``.
    cache_bytes
        Memory for neighbourhoods that are kept between epochs.
    workers
        Processes that train together, as `dpsim.train.parallel.launcher.joined` gives them; all call this with the same
        arguments, and see the same files of data. Each makes batches of `batch_size` for a step; the first one writes,
        and calls `progress`.

    Raises
    ------
    ConfigError
        If the settings contradict each other or the checkpoint.
    DataError
        If a frame is damaged, an element unknown, or a term of the loss has no labels.
    StageError
        If the loss is not finite, another process trains into the folder, or it cannot be written.
    SetupError
        If a GPU is asked for and there is none.
    Interrupted
        After SIGTERM or `stop`; the same call goes on.
    """
    ops.keep_memory()
    ops.load()
    folder, signal = Path(output_dir), StopSignal(stop, config.walltime)
    with _folder(folder, workers) as checked, torch_threads(threads), tf32_products(config.matrix_products):
        resume = find_resume(folder, restart, workers)
        make = prepare if config.heads is None else prepare_heads
        prepared = make(config, train_data, valid_data, type_map, resume, init_model, old_data, workers)
        trainer = Trainer(prepared, folder, resume, device_of(device, workers.local_rank), cache_bytes, workers)
        checked()
        return trainer.run(progress or silent, signal)


def _folder(folder: Path, workers: Workers) -> contextlib.AbstractContextManager[Callable[[], None]]:
    """The folder of the training, made and held by the first process."""
    return training_folder(folder) if workers.first else contextlib.nullcontext(lambda: None)


class Trainer:
    """A training in progress: everything is made ready here, `run` makes the steps."""

    def __init__(
        self,
        prepared: Prepared,
        folder: Path,
        resume: Resume | None,
        device: torch.device,
        cache_bytes: int | None,
        workers: Workers = ALONE,
    ) -> None:
        self.config = config = prepared.config
        self.workers = workers
        self.folder, self.device, self.steps = folder, device, config.total_steps
        self.tasks, self.chances, self.tuning = prepared.tasks, prepared.chances, prepared.tuning
        self.origin = origin_of(self.tasks, prepared.initial)
        if resume is not None:
            check_resume(resume, config, self.origin, folder)
        model = same_model(prepared.build, workers) if resume is None else resume.state.build_any(str(resume.path))
        self.model = model.to(device)
        self._attach(cache_bytes)
        check_products(config.matrix_products, device, self.model.precision)
        if config.tensorboard:
            check_board()
        if config.zero and workers.alone:
            log.warning("zero: %d makes no difference in a single process", config.zero)
        freeze_parts(self.model, config.frozen)
        factored = restrict(self.model, config) if config.recipe == "lora" else []
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.step, self.best, self.seconds, self.restarted = 0, Best(), 0.0, ""
        self.clock = Clock()
        losses = [task.loss for task in self.tasks]
        self.make_step = make_step(config, losses[0], self.parameters, self.clock, workers, losses, factored)
        self.joint = Joint(workers, losses)
        moving = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.average = Average(moving, config.ema) if config.ema is not None else None
        if resume is not None:
            self._restore(resume)

    def _attach(self, cache_bytes: int | None) -> None:
        free = psutil.virtual_memory().available // (4 * self.workers.local_number)
        memory = min(CACHE_BYTES, free) if cache_bytes is None else cache_bytes
        total = sum(task.n_frames for task in self.tasks)
        for task in self.tasks:
            model = self.model.members[task.name] if isinstance(self.model, MultiTaskModel) else self.model
            task.attach(model, self.device, memory * task.n_frames / total)

    def _restore(self, resume: Resume) -> None:
        state = resume.state
        self.make_step.load_state_dict(state.optimizer)
        if self.average is not None:
            self.average.load(state.average)
        self.step, self.best, self.seconds, self.restarted = state.step, state.best, state.seconds, resume.restarted
        if not self.workers.once(lambda: bring_best(resume, self.folder)):
            self.best = Best()
        for task in self.tasks:
            task.restore(state.cursors[task.name], state.sums)
        announce_resume(resume, self.config, self.workers.number)

    def run(self, progress: Progress, stop: StopSignal) -> TrainResult:
        """Make the steps that are left, and write the results."""
        config, steps = self.config, self.steps
        self._announce()
        if self.step == steps:
            return self._result()
        self._compile(progress if self.workers.first else silent, stop)
        quantities = [name for task in self.tasks for name in task.quantities]
        first, writers = self.workers.first, list[Curve | Board]()
        if first:
            writers.append(Curve(self.folder / "lcurve.csv", quantities, self.step))
        if first and config.tensorboard:
            writers.append(Board(self.folder, self.step))
        reporter = Reporter(progress if first else silent, self.step, steps)
        stream = Stream(self.tasks, self.chances, config.seed, self.step, config.accumulate, self.workers)
        threads = making_threads(self.device, self.workers.local_number)
        with _closing(writers), stop, Prefetch(stream.make, iter(stream), threads) as batches:
            self.clock.start()
            for group, drawn in grouped(batches, config.accumulate):
                self.clock.lap(WAITING)
                task = self.tasks[drawn.task]
                head = Head(drawn.task, drawn.workers)
                loss = self._advance(task, head, [batch.to(self.device) for batch in group])
                last = self.step == steps
                check = last or self.step % config.validate_every == 0
                with self.make_step.whole() if check else contextlib.nullcontext():
                    errors = self._check() if check else {}
                if check or self.step == 1 or self.step % config.log_every == 0:
                    self._row(writers, errors, reporter)
                reporter.after_step(self.step, loss)
                stopped = self.workers.any(stop.requested) and not last
                if last or stopped or self.step % config.checkpoint_every == 0:
                    for writer in writers:
                        writer.sync()
                    with self.make_step.whole():
                        self._save(drawn.cursors)
                if last:
                    break
                if stopped:
                    raise Interrupted(
                        f"training stopped at step {self.step} of {steps}; its state is in "
                        f"{checkpoint_path(self.folder, self.step)}: run again to go on"
                    )
                self.clock.lap("records")
        return self._result()

    def _compile(self, progress: Progress, stop: StopSignal) -> None:
        """Let the models compute compiled, where that is wanted."""
        with stop, self.make_step.whole():
            compile_tasks(
                self.tasks, self.chances, self.steps, self.device, workers=self.workers, stop=lambda: stop.interrupted,
                tell=lambda text: progress(self.step, self.steps, text),
            )  # fmt: skip

    def _announce(self) -> None:
        train = sum(len(task.frames) for task in self.tasks)
        valid = sum(task.n_frames for task in self.tasks) - train
        log.info(
            "%d parameters, %s, on %s with %d threads%s; %d training and %d validation frames; step %d of %d",
            self.make_step.n_moved, self.model.precision, self.device, torch.get_num_threads(),
            "" if self.workers.alone else f" in each of {self.workers.number} processes",
            train, valid, self.step, self.steps,
        )  # fmt: skip
        if reason := ops.unavailable_reason():
            log.warning("native operators are missing, training is slower: %s", reason)

    def _advance(self, task: Task, head: Head, batches: Sequence[Batch]) -> float:
        """One step; the loss before it."""
        begin = time.perf_counter()
        self.make_step.loss, self.make_step.head = task.loss, head
        try:
            outcome = self.make_step(batches, self.step)
        except NotFiniteError as error:
            self._refuse(error, [source for batch in batches for source in batch.sources])
        self.step += 1
        if self.average is not None:
            self.average.update(self.step)
        found = self.joint.outcomes(head, outcome)
        for (number, workers), one in found:
            self.tasks[number].count(one, workers)
        self.clock.steps += 1
        for batch in batches:
            for name, seconds in batch.seconds.items():
                self.clock.add_ahead(name, seconds)
        self.seconds += time.perf_counter() - begin
        return found[0][1].loss

    def _refuse(self, error: NotFiniteError, sources: Sequence[str]) -> NoReturn:
        if not math.isfinite(error.norm):  # in all processes
            everywhere = self.workers.gather((error.loss, list(sources)))
            bad = [own for loss, own in everywhere if not math.isfinite(loss)] or [own for _, own in everywhere]
            sources = [source for own in bad for source in own]
        names = ", ".join(sources[:8]) + (" and more" if len(sources) > 8 else "")
        saved = checkpoints(self.folder)
        kept = f"{saved[-1][1].name} holds the last good state" if saved else "no checkpoint was written yet"
        cure = "lower learning_rate.start" if self.make_step.rate(self.step) is not None else "take another optimizer"
        raise StageError(
            f"step {self.step + 1}: {error}, expected finite numbers; "
            f"the batch holds {names}; {kept}: {cure}, or look at these frames"
        ) from None

    def _check(self) -> dict[str, float]:
        """Errors on the validation data; keeps the model if its metric is the lowest so far."""
        checked = [task.check(self._averaged()) for task in self.tasks]
        self.clock.lap("validation")
        known = [(found.metric, chance) for found, chance in zip(checked, self.chances, strict=True)
                 if found.metric is not None]  # fmt: skip
        errors = {name: value for found in checked for name, value in found.errors.items()}
        if known:
            metric = sum(value * chance for value, chance in known) / sum(chance for _, chance in known)
            if not math.isfinite(metric):
                raise StageError(
                    f"step {self.step}: the validation metric is {metric:g}, expected a finite number: "
                    "lower learning_rate.start"
                )
            alike = len(known) == len(checked) or (self.step == self.steps and not self.best.step)
            if metric < self.best.metric and alike:
                self.best = Best(self.step, metric, errors)
                if self.workers.first:
                    with self._writing():
                        self._save_model("best", metric)
        shown = [found.errors for task, found in zip(self.tasks, checked, strict=True) if task.valid is not None]
        return {name: value for errors in shown for name, value in errors.items()}

    def _row(self, writers: Sequence[Curve | Board], valid: dict[str, float], reporter: Reporter) -> None:
        sums = Running()
        for task in self.tasks:
            sums.add_value("loss", *task.since_row.sums.get("loss", (0.0, 0)))
        row: dict[str, float | int | None] = {
            "step": self.step,
            "learning_rate": self.make_step.rate(self.step - 1),
            "loss": sums.mean("loss"),
            **{name: value for task in self.tasks for name, value in task.errors_since_row().items()},
            **{f"{name}_valid": value for name, value in valid.items()},
        }
        for writer in writers:
            writer.append(row)
        if self.workers.first:
            reporter.after_row({name: value for name, value in row.items() if value is not None}, self.clock)
        for task in self.tasks:
            task.since_row.clear()

    def _save(self, cursors: Sequence[Cursor]) -> None:
        """Write the state; all processes go on when it is there."""
        self._check_equal()
        optimizer = self.make_step.state_dict()
        if self.workers.first:
            self._write(cursors, optimizer)
        self.workers.wait()
        self.clock.lap("saving")

    def _check_equal(self) -> None:
        """Refuse to go on where processes have come to different parameters."""
        if self.workers.alone:
            return
        digests = self.workers.gather(state_digest(self.model))
        other = next((rank for rank, digest in enumerate(digests) if digest != digests[0]), None)
        if other is not None:
            raise StageError(
                f"step {self.step}: the parameters of process {other} are not those of process 0, though both made the "
                "same steps: start all of them on machines of one kind, with the same packages"
            )

    def _write(self, cursors: Sequence[Cursor], optimizer: dict[str, Any]) -> None:
        state = TrainingState(
            step=self.step,
            config=self.config.model_dump(mode="json"),
            model_config=self.model.config.model_dump(mode="json"),
            model=self.model.state_dict(),
            optimizer=optimizer,
            cursors={task.name: cursor for task, cursor in zip(self.tasks, cursors, strict=True)},
            sums={name: values for task in self.tasks for name, values in task.sums().items()},
            best=self.best,
            origin=self.origin,
            seconds=self.seconds,
            average=self.average.values if self.average is not None else {},
            workers=self.workers.number,
            restarted=self.restarted,
        )
        with self._writing():
            save_state(state, self.folder)
            remove_old(self.folder, self.config.keep_checkpoints)
            self._save_model("last")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Within, what cannot be written is an error for the user."""
        try:
            yield
        except OSError as error:
            raise StageError(
                f"step {self.step}: the state cannot be written to {self.folder}: {error}; "
                "make room and run again to go on"
            ) from None

    def _save_model(self, name: str, metric: float | None = None) -> Path:
        provenance = {
            "step": self.step,
            "steps": self.steps,
            "training": self.config.model_dump(mode="json"),
            **self.origin,
        }
        if metric is not None:
            provenance["metric"] = metric
        with self._averaged():
            return save_model(self.model, self.folder / f"{name}.safetensors", provenance)

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        """Within, the model is the one that is kept: with averages of its parameters if there are any."""
        return self.average.applied() if self.average is not None else contextlib.nullcontext()

    def _result(self) -> TrainResult:
        with self.make_step.whole():
            return self.workers.once(self._made_result)

    def _made_result(self) -> TrainResult:
        files = {name: self.folder / f"{name}.safetensors" for name in ("best", "last")}
        for name, file in files.items():
            there = step_of(file)
            if there is None:
                log.warning("%s is missing: the model of step %d is written there", file, self.step)
            if there is None or (name == "last" and there != self.step):  # a process ended between the two files
                with self._writing():
                    self._save_model(name)
        metrics = self._metrics()
        if self.config.change_bias_after_training:
            data = {task.name: (task.frames, task.preset) for task in self.tasks}
            metrics["bias_after_training"] = {name: change_bias_of_result(file, data) for name, file in files.items()}
        if self.tuning is not None:
            metrics["finetune"] = self.tuning.report(load_model(files["best"]), self.make_step.n_moved)
        path = self.folder / "metrics.json"
        write_text(path, json.dumps(metrics, indent=1) + "\n")
        self.clock.log_shares()
        log.info("done: step %d, best model at step %d with metric %.6g", self.step, self.best.step, self.best.metric)
        return TrainResult(
            **files,
            checkpoint=checkpoint_path(self.folder, self.step),
            curve=self.folder / "lcurve.csv",
            metrics_path=path,
            metrics=metrics,
        )

    def _metrics(self) -> dict[str, Any]:
        metric = self.best.metric if self.best.step else None
        return {
            "step": self.step,
            "steps": self.steps,
            "type_map": list(self.model.type_map),
            "parameters": self.make_step.n_moved,
            "precision": self.model.precision,
            "ranks": self.workers.number,
            **(self.tasks[0].facts() if self.config.heads is None else self._facts_of_heads()),
            "best": {"step": self.best.step, "metric": metric, **self.best.errors},
            "seconds": self.seconds,
            "seconds_per_step": self.seconds / max(self.step, 1),
            "time_shares": self.clock.shares(),
        }

    def _facts_of_heads(self) -> dict[str, Any]:
        chances = {task.name: chance / sum(self.chances) for task, chance in zip(self.tasks, self.chances, strict=True)}
        return {"heads": {task.name: {"probability": chances[task.name], **task.facts()} for task in self.tasks}}


@contextlib.contextmanager
def _closing(writers: Sequence[Curve | Board]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for writer in writers:
            stack.callback(writer.close)
        yield
