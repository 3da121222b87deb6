"""``dpsim train``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dpsim.cli.common import ModelPath, fetch_model, json_option, print_json, shown
from dpsim.cli.models.grant import Grant
from dpsim.errors import ConfigError
from dpsim.train.parallel.place import recognised

if TYPE_CHECKING:
    from dpsim.model.peer.inputs.input import TrainingInput
    from dpsim.train.parallel.place import Launcher
    from dpsim.train.records.result import TrainResult
    from dpsim.workflow.driver.progress import ProgressLine
    from dpsim.workflow.stages.train import TrainStage


@dataclass
class Request:
    """What is to be trained on what."""

    settings: dict[str, Any]
    """Of a `TrainConfig`."""
    data: list[Path] | dict[str, list[Path]]
    """By head if there are several."""
    valid: list[Path] | dict[str, list[Path]] | None
    start: Path | None
    type_map: tuple[str, ...] | None
    old_data: list[Path] | None = None
    grant: Grant = field(default_factory=Grant)
    """Processes to start, cores and GPUs to use."""


@dataclass
class Start:
    """What the command line says of a model to start from."""

    path: Path | None
    finetune: bool
    head: str | None
    settings: bool
    """Whether its settings replace those of the input."""

    @classmethod
    def of(cls, init_model: Path | None, finetune: Path | None, head: str | None, settings: bool) -> Start:
        """Check that the options go together.

        Raises
        ------
        ConfigError
            If they do not.
        """
        if init_model is not None and finetune is not None:
            raise ConfigError("--init-model and --finetune exclude each other: give one of them")
        path = init_model or finetune
        if path is None and (head is not None or settings):
            word = "--use-pretrain-script" if head is None else "--head"
            raise ConfigError(f"{word} is about a model to start from: give --finetune or --init-model as well")
        return cls(path, finetune is not None, head, settings)

    def keys(self) -> dict[str, Any]:
        """Keys of a train stage that say the same."""
        found: dict[str, Any] = {} if self.path is None else {"start_from": {"path": str(self.path.absolute())}}
        found |= {"recipe": "finetune"} if self.finetune else {}
        return found | ({} if self.head is None else {"head": self.head})


@click.command("train")
@click.argument("file", metavar="INPUT", type=click.Path(path_type=Path))
@click.option("--output", "-o", type=click.Path(path_type=Path, file_okay=False), default="train", show_default=True)
@click.option("--restart", type=click.Path(path_type=Path, exists=True), help="Go on from this checkpoint.")
@click.option("--init-model", type=ModelPath(), help="Start from the weights of a model.")
@click.option("--finetune", type=ModelPath(), help="Fine-tune a pretrained model: a file, or hub://NAME.")
@click.option("--head", help="Head of that model, if it has several; RANDOM: a new fitting net.")
@click.option("--use-pretrain-script", is_flag=True, help="Take the model's settings instead of those in INPUT.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--ranks", type=click.IntRange(min=1), help="Train on so many processes of this machine.")
@click.option(
    "--launcher",
    type=click.Choice(["auto", "torchrun", "mpi", "none"]),
    default="auto",
    show_default=True,
    help="What has started this process together with others.",
)
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value; repeatable.")
@json_option
def command(
    file: Path,
    output: Path,
    restart: Path | None,
    init_model: Path | None,
    finetune: Path | None,
    head: str | None,
    use_pretrain_script: bool,
    device: str,
    ranks: int | None,
    launcher: Launcher,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Train the model that INPUT declares: the keys of one train stage, with paths of data sets.

    \b
        type_map: [O, H]
        data: water/train
        valid: water/valid
        model: {preset: dpa3-tiny}
        steps: 2000

    Data may also be a list or a pattern. An input.json of DeePMD-kit does as well. The same command again continues a
    training that was stopped.

    A fine-tuning takes the settings of the pretrained model where INPUT has no `model`. Elements may differ, and the
    energy of each is adjusted to the data before the first step. With `recipe: lora` in INPUT, thin matrices are
    trained.

    With --ranks N, or started by torchrun or mpiexec, N processes train together, each with batches of its own.
    """
    start = Start.of(init_model, finetune, head, use_pretrain_script)

    def read() -> Request:
        if file.suffix == ".json":
            return read_peer_input(file, overrides, start)
        return read_stage(file, overrides, start, output / "data")

    result = _train(read, ranks, recognised(os.environ) if launcher == "auto" else launcher, device, output, restart)
    if result is None:
        return
    if as_json:
        print_json({"best": str(result.best), "last": str(result.last), "metrics": result.metrics})
    else:
        click.echo(f"best model: {shown(result.best)}\nlearning curve: {shown(result.curve)}")


def _train(
    read: Callable[[], Request], ranks: int | None, launcher: Launcher, device: str, output: Path, restart: Path | None
) -> TrainResult | None:
    """Train in this process, in some that it starts, or together with those it was started with.

    Returns
    -------
    TrainResult or None
        None in all processes but the first.
    """
    if launcher == "none":
        request = read()
        from dpsim.train.parallel.ranks import train_on

        number = request.grant.number(ranks)
        request.grant.hide_others()
        with _reporting() as progress:
            arguments = _arguments(request, output, restart, device, number)
            return train_on(number, **arguments, progress=progress)
    if ranks is not None:
        raise ConfigError(f"--ranks {ranks}: this process was started with others already: leave the option out")
    from dpsim.train.parallel.launcher import joined
    from dpsim.train.trainer import train

    with joined(launcher, device) as workers, _reporting(workers.first) as progress:
        request = workers.once(read)
        request.grant.check(workers.number, workers.local_number)
        arguments = _arguments(request, output, restart, device, workers.local_number)
        result = train(**arguments, progress=progress, workers=workers)
        return result if workers.first else None


def _arguments(request: Request, output: Path, restart: Path | None, device: str, ranks_here: int) -> dict[str, Any]:
    """Arguments of `dpsim.train.trainer.train`.

    Parameters
    ----------
    ranks_here
        Processes of the training on this machine.
    """
    from dpsim.train.config import TrainConfig

    return {
        "config": TrainConfig.model_validate(request.settings),
        "output_dir": output,
        "train_data": request.data,
        "valid_data": request.valid,
        "type_map": request.type_map,
        "restart": restart,
        "init_model": request.start,
        "old_data": request.old_data,
        "device": request.grant.device(device),
        "threads": request.grant.threads(ranks_here),
    }


@contextlib.contextmanager
def _reporting(first: bool = True) -> Iterator[ProgressLine | None]:
    """Log, and give what shows the progress; the other processes are silent."""
    import logging

    from dpsim.workflow.driver.progress import ProgressLine

    level = logging.INFO if first else logging.ERROR
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    with ProgressLine() if first else contextlib.nullcontext() as progress:
        yield progress


def read_stage(file: Path, overrides: tuple[str, ...], start_from: Start, converted: Path) -> Request:
    """What a file with the keys of one train stage asks for, together with the command line.

    Parameters
    ----------
    converted
        Where data are kept that have to be converted.

    Raises
    ------
    ConfigError
        With all that is wrong.
    """
    from dpsim.train.settings.dplr_model import DPLRModel
    from dpsim.workflow.stages.train import part_of, validation_of

    stage, type_map = read_input(file, overrides, start_from)

    def data_of(value: Any, key: str) -> list[Path]:
        return _data_of(value, file.parent, key, converted, type_map)

    start = paths_of(stage.start_from, file.parent, "start_from")
    old = [part_of(path, "valid") for path in data_of(stage.old_data, "old_data")]
    settings = stage.settings()
    if isinstance(stage.model, DPLRModel):
        settings["model"] = stage.model.model_copy(update={"dipole": str(file.parent / stage.model.dipole)})
    if stage.statistics_file is not None:
        settings["statistics_file"] = str(file.parent / stage.statistics_file)
    if stage.seed is None:
        del settings["seed"]
    owners: dict[str, Any] = {"": stage} if stage.heads is None else dict(stage.heads)
    train: dict[str, list[Path]] = {}
    valid: dict[str, list[Path]] = {}
    for name, owner in owners.items():
        where = f"heads.{name}." if name else ""
        whole = data_of(owner.data, f"{where}data")
        train[name] = [part_of(path, "train") for path in whole]
        found = validation_of(data_of(owner.valid, f"{where}valid"), whole)
        if found is not None:
            valid[name] = found
    first = start[0] if start else None
    grant = Grant.of(stage.resources)
    if stage.heads is None:
        return Request(settings, train[""], valid.get(""), first, type_map, old or None, grant)
    return Request(settings, train, valid, first, type_map, grant=grant)


def read_peer_input(file: Path, overrides: tuple[str, ...], start: Start) -> Request:
    """What an ``input.json`` of DeePMD-kit asks for; what has no effect is said on stderr.

    Raises
    ------
    ConfigError
        Naming the first thing that dpsim does not do.
    """
    from pydantic import ValidationError

    from dpsim.config import first_problem
    from dpsim.model.peer.inputs import input as peer
    from dpsim.model.peer.inputs.auto_sel import resolve_sel
    from dpsim.train.config import TrainConfig

    found = peer.read_input(file, overrides, pretrained=start.settings)
    if found.head is not None and not start.finetune:
        found.notes.append("model.finetune_head: has no effect without --finetune")
    for note in found.notes:
        click.echo(f"{file}: {note}", err=True)
    if found.heads:
        return _peer_heads(file, found, start)
    keys = start.keys()
    keys.pop("start_from", None)
    head = {"head": found.head} if start.finetune and found.head is not None else {}
    settings = resolve_sel(found) | head | keys
    try:
        TrainConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(first_problem(error, str(file))) from None
    return Request(settings, found.train_systems, found.valid_systems or None, start.path, found.type_map)


def _peer_heads(file: Path, found: TrainingInput, start: Start) -> Request:
    """What a multi-task input asks for."""
    from pydantic import ValidationError

    from dpsim.config import first_problem
    from dpsim.model.peer.inputs.auto_sel import resolve_sel
    from dpsim.train.config import TrainConfig

    settings = resolve_sel(found)
    named = [name for name, head in settings["heads"].items() if "start_head" in head]
    for name in [] if start.finetune else named:
        click.echo(f"{file}: model.model_dict.{name}.finetune_head: has no effect without --finetune", err=True)
        del settings["heads"][name]["start_head"]
    settings |= {key: value for key, value in start.keys().items() if key != "start_from"}
    try:
        TrainConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(first_problem(error, str(file))) from None
    data = {name: one.train_systems for name, one in found.heads.items()}
    valid = {name: one.valid_systems for name, one in found.heads.items() if one.valid_systems}
    return Request(settings, data, valid, start.path, found.type_map)


_OF_WORKFLOWS = ("matrix", "when", "cache", "retries", "timeout", "env")
"""Keys of a stage that say how a workflow runs it."""


def read_input(file: Path, overrides: tuple[str, ...], start: Start) -> tuple[TrainStage, tuple[str, ...] | None]:
    """Read the keys of one train stage, with those of the command line, and the type map.

    Raises
    ------
    ConfigError
        With all that is wrong.
    """
    from pydantic import ValidationError

    from dpsim.workflow.language.document import apply_override
    from dpsim.workflow.language.messages import report
    from dpsim.workflow.language.peer_parts import translated
    from dpsim.workflow.language.schema import check_type_map
    from dpsim.workflow.language.yaml_loader import load_file
    from dpsim.workflow.stages.train import TrainStage

    loaded = load_file(file)
    collector = loaded.collector()
    raw = loaded.data
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} is not a mapping; write the keys of one train stage, see 'dpsim train --help'")
    if "dpsim" in raw:
        raise ConfigError(f"{file} is a workflow; run it with: dpsim run {file}")
    for text in overrides:
        apply_override(raw, text, loaded, collector)
    type_map = raw.pop("type_map", None)
    checked = check_type_map(type_map, collector)
    heads = raw.get("heads")
    for owner in (raw, *(heads.values() if isinstance(heads, dict) else ())):
        for key in ("data", "valid", "start_from", "old_data") if isinstance(owner, dict) else ():
            if key in owner:
                owner[key] = _as_files(owner[key])
    if found := [key for key in _OF_WORKFLOWS if key in raw]:
        raise ConfigError(f"{file}: {found[0]} has an effect in a workflow only: leave it out")
    if start.path is not None and "start_from" in raw:
        raise ConfigError(f"{file} has start_from, and the command --init-model or --finetune: give one of them")
    if start.settings:
        raw.pop("model", None)
    keys = start.keys()
    if start.finetune and raw.get("recipe") == "lora":
        del keys["recipe"]
    raw |= {"uses": "train", **raw, **keys}
    raw = translated(raw, file.parent, checked, collector)
    stage = None
    try:
        stage = TrainStage.model_validate(raw)
    except ValidationError as error:
        report(error, raw, TrainStage, collector, (), "a train stage")
    if stage is not None:
        for where, message in stage.problems():
            collector.add("E405", where, message)
    collector.check()
    assert stage is not None
    return stage, checked or None


def _as_files(value: Any) -> Any:
    """Without a workflow there are no stages to refer to: plain text is a path."""
    if isinstance(value, str):
        return {"path": value}
    return [_as_files(item) for item in value] if isinstance(value, list) else value


def paths_of(value: Any, base: Path, key: str) -> list[Path]:
    """Return the files that a declared input means.

    Raises
    ------
    ConfigError
        If nothing matches.
    """
    from dpsim.model.pretrained import HUB
    from dpsim.workflow.planning.files import match_files

    found: list[Path] = []
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        if item.path.startswith(HUB):
            found.append(fetch_model(item.path))
            continue
        matches = match_files(base, item.patterns())
        if not matches:
            raise ConfigError(f"{key}: no file matches {item.path!r} in {base}; check the path")
        found += matches
    return found


def _data_of(value: Any, base: Path, key: str, converted: Path, type_map: tuple[str, ...] | None) -> list[Path]:
    """What declared data mean; parameters and errors as in `paths_of`, and `data_paths` of stages."""
    from dpsim.workflow.stages.training_data import data_paths

    items = value if isinstance(value, list) else [] if value is None else [value]
    return [path for item in items for path in data_paths(item, base, paths_of(item, base, key), converted, type_map)]
