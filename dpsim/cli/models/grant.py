"""What the key ``resources`` of a training file grants on this machine: processes, cores, GPUs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dpsim.errors import ConfigError

if TYPE_CHECKING:
    from dpsim.workflow.stage import Resources


@dataclass(frozen=True)
class Grant:
    """Processes, cores and GPUs; None where nothing is said of them."""

    ranks: int | None = None
    cpus: int | None = None
    gpus: int | None = None

    @classmethod
    def of(cls, resources: str | Resources) -> Grant:
        """What the key says.

        Raises
        ------
        ConfigError
            If it names an entry of a workflow, or more than this machine has.
        """
        if isinstance(resources, str):
            raise ConfigError(
                f"resources: {resources!r} names an entry of a workflow, and this is a training alone: write "
                "{ranks: N, cpus: N, gpus: N}"
            )
        for name in ("nodes", "memory", "walltime", "queue", "partition", "lines"):
            if getattr(resources, name):
                raise ConfigError(
                    f"resources.{name} is for the stages of a workflow, and has no effect on a training alone"
                )
        cores = len(os.sched_getaffinity(0))
        if resources.cpus is not None and resources.cpus > cores:
            raise ConfigError(f"resources.cpus: {resources.cpus} is more than the {cores} cores of this process")
        if resources.gpus:
            from dpsim.workflow.records.host import gpu_names

            there = len(gpu_names())
            if resources.gpus > there:
                raise ConfigError(f"resources.gpus: {resources.gpus} is more than the {there} GPUs of this machine")
        return cls(resources.ranks, resources.cpus, resources.gpus)

    def number(self, ranks: int | None) -> int:
        """Processes to start: as the command line says, else as here, else one."""
        return ranks or self.ranks or 1

    def check(self, number: int, here: int) -> None:
        """Compare with processes that were started from outside.

        Parameters
        ----------
        number, here
            Processes in all, and on this machine.

        Raises
        ------
        ConfigError
            If they are others than asked for, or are not one for each GPU.
        """
        if self.ranks is not None and self.ranks != number:
            raise ConfigError(
                f"resources.ranks is {self.ranks}, but {number} processes were started: start so many, or leave it out"
            )
        if self.gpus and self.gpus != here:
            raise ConfigError(
                f"resources.gpus is {self.gpus}, but {here} processes were started on this machine, which take one "
                "each: start so many, or leave it out"
            )

    def threads(self, ranks_here: int) -> int | None:
        """Threads of each process; None leaves them as they are."""
        return None if self.cpus is None else max(1, self.cpus // ranks_here)

    def device(self, asked: str) -> str:
        """What is computed on: ``cpu`` without GPUs, ``cuda`` with them, else what is asked for by ``--device``.

        Raises
        ------
        ConfigError
            If one contradicts the other.
        """
        if self.gpus is None:
            return asked
        wanted = "cuda" if self.gpus else "cpu"
        if asked not in ("auto", wanted):
            raise ConfigError(f"--device {asked} contradicts resources.gpus: {self.gpus}: leave one of them out")
        return wanted

    def hide_others(self) -> None:
        """Hide further GPUs from this process, and from those that it starts."""
        if self.gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(self.gpus)))).split(",")
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible[: self.gpus])
