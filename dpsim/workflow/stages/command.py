"""Stage ``command``: any program, with its inputs and outputs declared so that it is cached like the others."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from dpsim.errors import DataError, StageError
from dpsim.workflow.stage import Files, Output, Reference, SeededStage, Slot, Source, Text

if TYPE_CHECKING:
    from dpsim.workflow.context import Context

_PLACEHOLDER = re.compile(r"\{(python|out|work|seed|ranks|cpus|inputs\.([A-Za-z][A-Za-z0-9_-]*))\}")
_GRACE_S = 10.0


class CommandStage(SeededStage):
    """Runs a program; an escape hatch for what no stage type does."""

    slots: ClassVar[Mapping[str, Slot]] = {"inputs": Slot(frozenset({"any"}), many=True)}

    uses: Literal["command"] = "command"
    run: Annotated[list[Text], Field(min_length=1)]
    """The program and its arguments, without a shell.

    ``{out}``, ``{work}``, ``{inputs.NAME}``, ``{seed}``, ``{ranks}``, ``{cpus}`` and ``{python}`` stand for the
    folders, the paths of the inputs, what is granted and the running Python. An input of several files (a pattern, a
    stage with a matrix) becomes as many arguments where ``{inputs.NAME}`` is all of one, else its paths with spaces
    between them.
    """
    inputs: dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")], Reference | Files] = {}
    """What the program reads, by name."""
    outputs_: Annotated[dict[str, Text] | list[Text], Field(alias="outputs")] = {}
    """What the program writes into ``{out}``, as ``name: path``, or a list of paths; the first is the main output."""

    def sources(self) -> Iterator[Source]:
        """Yield the inputs by their own names."""
        for name, value in self.inputs.items():
            yield Source("inputs", ("inputs", name), value)

    def declared_outputs(self) -> Mapping[str, Output]:
        """Return the outputs, the whole folder if none is declared."""
        if isinstance(self.outputs_, list):
            return {path: Output(path, "any") for path in self.outputs_} or {".": Output(".", "any")}
        return {name: Output(path, "any") for name, path in self.outputs_.items()} or {".": Output(".", "any")}

    def main_output(self) -> str:
        """Return the first declared output."""
        return next(iter(self.declared_outputs()))

    def problems(self) -> Iterator[tuple[tuple[str | int, ...], str]]:
        """Check placeholders and paths of outputs."""
        for index, argument in enumerate(self.run):
            for match in _PLACEHOLDER.finditer(argument):
                if match[2] and match[2] not in self.inputs:
                    known = ", ".join(self.inputs) or "none"
                    yield ("run", index), f"{match[0]} names no input of this stage; inputs: {known}"
        for name, output in self.declared_outputs().items():
            path = PurePosixPath(output.path)
            if path.is_absolute() or ".." in path.parts:
                key = self.outputs_.index(name) if isinstance(self.outputs_, list) else name
                yield ("outputs", key), f"{output.path!r} must be a path inside of the output folder"

    def execute(self, context: Context) -> None:
        """Run the program in the output folder.

        Raises
        ------
        StageError
            If the program cannot be started or does not return 0.
        DataError
            If a declared output is missing afterwards.
        """
        values = {
            "python": sys.executable,
            "out": str(context.out),
            "work": str(context.work),
            "seed": str(context.seed),
            "ranks": str(context.resources.ranks),
            "cpus": str(context.resources.cpus),
        }
        paths: dict[str, list[str]] = {f"inputs.{name}": [] for name in self.inputs}
        for artifact in context.inputs.get("inputs", ()):
            paths[artifact.place] += map(str, artifact.paths)
        values |= {place: " ".join(found) for place, found in paths.items()}
        argv = []
        for argument in self.run:
            whole = _PLACEHOLDER.fullmatch(argument)
            filled = _PLACEHOLDER.sub(lambda match: values[match[1]], argument)
            argv += paths[whole[1]] if whole and whole[1] in paths else [filled]
        context.log("running " + " ".join(argv))
        _execute(argv, context)
        for name, output in self.declared_outputs().items():
            if not (context.out / output.path).exists():
                raise DataError(
                    f"{argv[0]} returned 0 but did not write the output {name!r} ({output.path}) into {{out}}"
                )


def _execute(argv: list[str], context: Context) -> None:
    try:
        process = subprocess.Popen(argv, cwd=context.out, env=os.environ.copy(), stdin=subprocess.DEVNULL)
    except (OSError, ValueError) as error:  # a zero byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise StageError(f"cannot start {argv[0]!r}: {reason}; check run: [...]") from None
    try:
        while True:
            try:
                code = process.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                context.progress(0, None, PurePosixPath(argv[0]).name)
    except BaseException:
        process.terminate()
        try:
            process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    if code != 0:
        how = f"was ended by signal {-code}" if code < 0 else f"returned {code}"
        raise StageError(f"{argv[0]!r} {how}; its output is in the log of the stage")
