"""What every stage type is made of: common keys, inputs that refer to other stages, declared outputs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from dpsim.config import Config, Memory, Walltime
from dpsim.model.pretrained import HUB

if TYPE_CHECKING:
    from dpsim.workflow.context import Context

MAX_MEMBERS: Final = 64
"""Models of an ensemble."""
STAGE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")
_REFERENCE = re.compile(r"[A-Za-z][A-Za-z0-9_-]*(@[A-Za-z0-9_.=,+-]+)?(\.[A-Za-z0-9_.-]+)?")


class Output(NamedTuple):
    """One product of a stage."""

    path: str
    """Relative to the output folder; ``.`` is the folder itself."""
    kind: str
    """What it is: frames, dataset, weights, frozen, table, report, metrics ... ``any`` fits everywhere."""


class Slot(NamedTuple):
    """One input of a stage type."""

    kinds: frozenset[str]
    """Kinds of outputs that fit."""
    many: bool = False
    """Whether several artifacts are taken."""
    whole: bool = False
    """Whether a bare stage name means the whole output folder instead of the main output."""


def dotted(path: tuple[str | int, ...]) -> str:
    """Return a path as it is written in references and in ``--set``."""
    return ".".join(str(part) for part in path)


class Source(NamedTuple):
    """One value of an input slot, as declared."""

    slot: str
    path: tuple[str | int, ...]
    """Where it stands inside of the stage."""
    value: str | Files
    optional: bool = False
    """Whether files may be missing, because their name then means something else."""


def _check_reference(text: str) -> str:
    if not _REFERENCE.fullmatch(text):
        raise ValueError(f"{text!r} is not a reference 'stage' or 'stage.output'; a file is written {{path: {text}}}")
    return text


def is_reference(value: Any) -> bool:
    """Whether a plain value reads like the output of a stage."""
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def _number_as_text(value: Any) -> Any:
    return repr(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _true_or_false(value: Any) -> Any:
    """Take true and false, and the words, which are what ``${env.NAME}`` gives."""
    if isinstance(value, str) and value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false; write one of them, or ${{...}} that gives one of them")
    return value


Text = Annotated[str, BeforeValidator(_number_as_text)]
"""Text; a number is taken as it would be written."""

Reference = Annotated[str, AfterValidator(_check_reference), Field(json_schema_extra={"format": "dpsim-reference"})]
"""The output of a stage: ``data`` (its main output) or ``model.best``."""


class Files(Config):
    """Files from outside of the workflow."""

    path: Annotated[str, Field(min_length=1)]
    """A file, a folder, or a pattern with ``*`` and ``**``, relative to the workflow file; or ``hub://NAME``, a
    pretrained model (``dpsim model pull --list``), which can stand without ``path`` as well."""

    @model_validator(mode="before")
    @classmethod
    def _address(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) and value.startswith(HUB) else value

    def patterns(self) -> tuple[str, ...]:
        """Return the patterns to try; the first that matches something counts."""
        return (self.path,)


Input = Reference | Files
Inputs = Reference | Files | list[Reference | Files]


class MaybeReference(str):
    """A reference if its first part is the name of a stage, else the path of a file."""


class Resources(Config):
    """What a stage is granted. None of it changes the result or the cache key, but for the ranks of a training: each of
    them makes batches of its own. Nodes, wall-clock time, queue and lines are for jobs of a cluster."""

    nodes: Annotated[int, Field(ge=1)] | None = None
    """Nodes of a cluster; by default one."""
    ranks: Annotated[int, Field(ge=1)] | None = None
    """MPI ranks; by default what the stage type prefers. Of a training: processes that train together, each with
    batches of ``batch_size`` for every step."""
    cpus: Annotated[int, Field(ge=1)] | None = None
    """Cores of each node; by default what the stage type prefers, on a cluster as many as there are ranks on a node."""
    gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs of each node; by default one where the stage type can use it and the machine has one, on a cluster none."""
    mpi: Literal["auto", "device", "host", "cuda-aware"] | None = None
    """How ranks of LAMMPS with models on GPUs exchange data, in stage md: from GPU to GPU (``device``, or
    ``cuda-aware``, which is the same: an error where the MPI library cannot), through the memory of the host, or as a
    trial message at the start shows (``auto``, the default)."""
    memory: Memory | None = None
    """Memory of each node, in bytes if it is a bare number (``16 GB``). On this machine a stage that takes more is
    ended; on a cluster the job asks for it."""
    walltime: Walltime | None = None
    """Longest time of one job on a cluster, s; the stage saves before it is over, and goes on in another job."""
    queue: Annotated[str, Field(min_length=1)] | None = None
    """Queue of a cluster, by default that of the machine."""
    partition: Annotated[str, Field(min_length=1)] | None = None
    """Another word for `queue`."""
    lines: list[str] | None = None
    """Further lines for the head of the job's script, as ``#SBATCH --account=chem``."""

    @field_validator("lines")
    @classmethod
    def _one_line_each(cls, lines: list[str] | None) -> list[str] | None:
        for line in lines or ():
            if not line.startswith("#") or "\n" in line:
                raise ValueError(f"{line!r} must be one line that begins with '#', as '#SBATCH --account=chem'")
        return lines

    @model_validator(mode="after")
    def _one_queue(self) -> Resources:
        if self.queue is not None and self.partition is not None:
            raise ValueError("'queue' and 'partition' are two words for the same; give one of them")
        return self


class Stage(Config):
    """Keys that every stage type has."""

    slots: ClassVar[Mapping[str, Slot]] = {}
    outputs: ClassVar[Mapping[str, Output]] = {}
    output_needs: ClassVar[Mapping[str, str]] = {}
    """Outputs that there are only with an option, and this option; for messages."""
    more_outputs: ClassVar[bool] = False
    """Whether a declaration may have outputs of other names beside these."""
    main: ClassVar[str] = ""
    """The output meant by the bare name of the stage."""
    result_version: ClassVar[int] = 1
    """Raised when the same input gives another result than before, so that the cache forgets the old one."""
    uses_type_map: ClassVar[bool] = False
    random: ClassVar[bool] = False
    """Whether the result depends on the seed."""
    wants: ClassVar[Resources] = Resources(ranks=1, cpus=1, gpus=0)
    """What the stage type prefers; ``cpus=None`` means every core that is free to use."""
    maps: ClassVar[str] = ""
    """The slot whose models are taken one by one: given an ensemble, the stage stands for as many as there are."""
    gpu_of_each_rank: ClassVar[bool] = False
    """Whether each rank takes as many GPUs as `wants` says, where the machine has them."""
    soft: ClassVar[tuple[str, ...]] = ()
    """Packages that are recorded beside the result, and enter the key under ``cache: strict``."""
    not_in_key: ClassVar[frozenset[str]] = frozenset(
        {"uses", "resources", "matrix", "when", "cache", "retries", "timeout", "notes", "seed"}
    )
    later: ClassVar[tuple[str, ...]] = ()
    """Keys that came later: they are in the cache key only where they differ from their default, so that the results
    of older workflows are found."""

    uses: str
    """Type of the stage."""
    resources: str | Resources = Resources()
    """What the stage is granted: a name under ``resources:`` of the file, or ``{ranks, cpus, gpus}``."""
    matrix: dict[str, list[Any]] | None = None
    """Axes of values; the stage runs once for every combination, as ``${matrix.NAME}``."""
    when: Annotated[bool, BeforeValidator(_true_or_false)] = True
    """Whether the stage is run at all; stages that need its output are left out with it. ``${env.NAME}`` must give the
    word true or false, ``${matrix.NAME}`` leaves points out one by one."""
    cache: Literal["auto", "strict", "off"] = "auto"
    """``strict`` also compares package versions; ``off`` runs the stage every time."""
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    """How often a failed attempt is repeated; wrong input and a wrong setup are not."""
    timeout: Walltime | None = None
    """Longest time of one attempt, s."""
    env: dict[str, Text] = {}
    """Environment variables of the stage's process."""
    notes: str | list[str] = ""
    """Free text."""

    def sources(self) -> Iterator[Source]:
        """Yield the declared inputs; a stage type with inputs deeper inside overrides this."""
        for slot in self.slots:
            yield from sources_of(slot, (slot,), getattr(self, _attribute(slot)))

    @property
    def inherits(self) -> tuple[str, ...]:
        """Slots that are filled from the stages behind its frames where nothing is declared (`workflow.lineage`)."""
        return ()

    def declared_outputs(self) -> Mapping[str, Output]:
        """Return the outputs by name; fixed for all types but ``command``."""
        return self.outputs

    def wanted(self) -> Resources:
        """Return what the stage prefers; `wants`, unless it depends on the settings."""
        return self.wants

    def main_output(self) -> str:
        """Return the name of the output meant by the bare name of the stage."""
        return self.main

    def elements(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield (place, symbol) of elements that are known before anything runs."""
        return iter(())

    def packages(self) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
        """Yield (place, module, command that installs it) of optional packages that the settings need."""
        return iter(())

    def programs(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield (place, sentence) of programs that the settings need and this machine lacks."""
        return iter(())

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Yield (place, sentence) of settings that do not fit each other, beyond what pydantic checks."""
        return iter(())

    def citations(self) -> Iterator[str]:
        """Yield what a paper that uses the result should cite."""
        return iter(())

    def seed_for(self, workflow_seed: int) -> int | None:
        """Return the seed: the stage's own ``seed``, else that of the workflow; None if nothing is random."""
        if not self.random:
            return None
        own = getattr(self, "seed", None)
        return workflow_seed if own is None else int(own)

    def key_options(self) -> dict[str, Any]:
        """Return what enters the cache key: options without names of stages, files and resources."""
        fields = type(self).model_fields
        silent = {name for name in self.later if name in fields and getattr(self, name) == fields[name].default}
        options = self.model_dump(mode="json", by_alias=True, exclude=set(self.not_in_key) | silent)
        for source in self.sources():
            _blank(options, source)
        return options

    def work_parts(self, parts: dict[str, Any]) -> dict[str, Any]:
        """Return the parts of the key that the work folder depends on; all of them unless overridden.

        What is left out may change without earlier work being lost, so the library that uses the folder must
        itself tell what of it still holds.
        """
        return parts

    def execute(self, context: Context) -> None:
        """Produce the declared outputs in ``context.out``."""
        raise NotImplementedError


class SeededStage(Stage):
    """A stage whose result depends on a seed."""

    random: ClassVar[bool] = True

    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    """Seed of random numbers; by default that of the workflow."""


def _attribute(slot: str) -> str:
    return "from_" if slot == "from" else slot


def sources_of(slot: str, path: tuple[str | int, ...], value: Any) -> Iterator[Source]:
    """Yield the sources in a value that is a reference, `Files`, a list of them, or None."""
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield Source(slot, (*path, index), item)
    elif value is not None:
        yield Source(slot, path, value)


def _blank(options: Any, source: Source) -> None:
    """Replace a reference by a mark and drop the path of files: their content is in the key instead."""
    *parents, last = source.path
    for part in parents:
        options = options[part]
    if isinstance(source.value, str):
        options[last] = "<input>"
    elif isinstance(options[last], dict):
        _, mark, group = source.value.path.partition("#")  # of an HDF5 file, whose digest is that of all groups
        options[last]["path"] = f"<input>{mark}{group}"
