"""A training on several processes of this machine, started from the first of them.

The others run ``python -m dpsim.train.parallel.ranks RANK NUMBER PORT DEVICE``, are told what to train, and train with
it.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dpsim.data import Dataset
from dpsim.errors import ConfigError, DpsimError
from dpsim.train import trainer
from dpsim.train.config import TrainConfig
from dpsim.train.parallel.distributed import Workers
from dpsim.train.parallel.launcher import connected, join_store, started
from dpsim.train.parallel.place import Place
from dpsim.train.records.result import TrainResult

_OF_THE_FIRST = ("progress", "stop")
"""Arguments of `train` that the other processes do without."""


def train_on(ranks: int, config: TrainConfig, output_dir: str | Path, **options: Any) -> TrainResult:
    """Train on so many processes of this machine; other arguments and errors are those of `dpsim.train.trainer.train`.

    Each of them makes `batch_size` frames of a step. Data are given by their folders.

    Raises
    ------
    ConfigError
        If data are given as an open data set.
    """
    if ranks == 1:
        return trainer.train(config, output_dir, **options)
    for key in ("train_data", "valid_data", "old_data"):
        _check_folders(key, options.get(key))
    with started(ranks, options.get("device", "auto")) as workers:
        told = {key: value for key, value in options.items() if key not in _OF_THE_FIRST}
        workers.once(lambda: (config, Path(output_dir).absolute(), told))
        return trainer.train(config, output_dir, **options, workers=workers)


def _check_folders(key: str, data: Any) -> None:
    values = list(data.values()) if isinstance(data, Mapping) else [data]
    for value in values:
        several = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        if any(isinstance(one, Dataset) for one in several):
            raise ConfigError(f"{key}: an open data set stays in its process: give its folders to several ranks")


def _follow(workers: Workers) -> None:
    """Train what the first process says."""
    told: Any = workers.once(tuple)
    config, output_dir, options = told
    trainer.train(config, output_dir, **options, workers=workers)


def _end_with_parent() -> None:
    """End when the first process, which holds the other end of standard input, is gone."""
    while os.read(0, 4096):
        pass
    os._exit(1)


def main(arguments: Sequence[str]) -> int:
    """Run one of the other processes; the exit status."""
    rank, number, port = (int(word) for word in arguments[:3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the first's, which ends the others
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    store = join_store("127.0.0.1", port, number)
    try:
        with connected(Place(rank, number, rank, number), store, False, arguments[3]) as workers:
            _follow(workers)
    except DpsimError as error:
        if not error.said:
            print(f"process {rank} of {number}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # threads of torch that are at work do not mind
