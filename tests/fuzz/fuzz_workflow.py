"""Throws spoilt and senseless workflow files at the loader and the planner.

    python tests/fuzz/fuzz_workflow.py --cases 100000 --seed 0

Of every case it asks: an error is an `InvalidWorkflow` and can be printed; no case takes longer than `LIMIT_S`; no
process is started, no file written, no connection opened (Python's audit hooks tell); no name of a task leads out of
its folder; what is planned can be written down and read back. The address space is
bounded, so that a blow-up is a `MemoryError`.
Prints one line of JSON: cases, seconds, slowest case, how many were valid, and how often each error code was seen.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from dpsim.workflow.language.problems import InvalidWorkflow
from dpsim.workflow.language.yaml_loader import load_text
from dpsim.workflow.planning.decide import Decider
from dpsim.workflow.planning.load import load
from dpsim.workflow.planning.plan import Plan
from dpsim.workflow.records.digest import Digester
from dpsim.workflow.records.store import Store
from dpsim.workflow.reference.describe import lock_file, to_yaml
from dpsim.workflow.stage import Stage
from dpsim.workflow.stages import STAGE_TYPES, find_stage_type

LIMIT_S: Final = 10.0
"""Of one case, CPU."""
MEMORY: Final = 2 << 30
"""Bytes of address space of the whole program."""
FORBIDDEN: Final = (
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn",
    "socket.connect", "socket.bind", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink",
    "os.truncate", "os.chmod", "os.chown", "shutil.rmtree", "shutil.move", "shutil.copyfile", "ctypes.dlopen",
)  # fmt: skip
WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

# --- hostile and ordinary values -----------------------------------------------------------------------------

WORDS: Final = [
    "", " ", "~", "null", "true", "no", "-1", "0", "1e-3", "1e400", "0x", "9" * 500, ".inf", ".nan", "nan", "12:30",
    "../../etc/passwd", "/etc/passwd", "..", ".", "/", "/dev/zero", "/dev/stdin", "a/../../b", "~/x", "\\\\host\\x",
    "$(touch /tmp/owned)", "`id`", "; rm -rf /", "| sh", "%s%n", "{inputs.x}", "{out}/../../x", "{}", "{0.__class__}",
    "${vars.T}", "${vars.x}", "${env.HOME}", "${matrix.T}", "$${x}", "${", "${vars.T", "${__import__('os')}",
    "${vars.}", "2 fs", "1 parsec", "-3 K", "1e999 bar", "4 %", "nan angstrom", "inf eV", "K 5", "1 1 K",
    "0.08 angstrom", "model.best", "data", "label.frames", "a@b=1", "model..best", "@", "x@T=1.y", "stage.out.more",
    "é", "\u202e",
    "\u0000", "a" * 5000, "[", "{", "- x", "key: value", "&a", "*a", "!!python/object:os.system", "<<", "x-note", "\t",
    "\n", "🧪", "dpa3-tiny", "Cu", "Xx", "fcc", "emt", "npt", "rdf", "mixed", "**/*", "*.xyz", "[!", "?",
]  # fmt: skip
SNIPPETS: Final = [
    "&a ", "*a", "<<: *a", "<<: [*a, *a]", "!!python/object/apply:os.system [id]", "!include x", "? [a]\n: b", "- ",
    ": ", "\t", "\n", "\n\n  ", "{", "}", "[", "]", ",", "'", '"', "|", ">", "#", "%", "@", "`", "\x00", "\x85",
    "\ufeff", "---\n", "...\n", "dpsim: 1\n", "${vars.T}", "${", "x-a: 1\n", "1: 2\n", "a: 1\na: 2\n", "!!set {x}",
    "!!int x",
    "include: [w.yaml]\n", "include: [/dev/zero]\n", "include: ..\n", "matrix: {T: [1, 2]}\n", "when: false\n",
]  # fmt: skip
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.sampled_from(WORDS)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=4),
    max_leaves=10,
)


def keys_of_the_language() -> list[str]:
    """Return every key that some mapping may have at its first level."""
    from dpsim.workflow.language.schema import Profile, WorkflowFile

    types = [find_stage_type(name) for name in STAGE_TYPES]
    models: list[Any] = [WorkflowFile, Profile, Stage, *types]
    return sorted({info.alias or name for model in models for name, info in model.model_fields.items()})


KEYS: Final = keys_of_the_language()
stages = st.dictionaries(st.sampled_from(KEYS), values, max_size=5).flatmap(
    lambda body: st.sampled_from([*STAGE_TYPES, "nope"]).map(lambda uses: {"uses": uses, **body})
)
whole = st.fixed_dictionaries(
    {
        "dpsim": st.just(1) | values,
        "stages": st.dictionaries(st.sampled_from(["a", "b", "c", *WORDS]), stages, max_size=4),
    },
    optional=dict.fromkeys(("name", "type_map", "vars", "seed", "profiles", "resources", "include", "notes"), values),
)  # fmt: skip

# --- spoiling a good file ------------------------------------------------------------------------------------


def recipes() -> list[str]:
    """Return the texts of the recipes."""
    found = sorted(files("dpsim.recipes").iterdir(), key=lambda entry: entry.name)
    return [entry.read_text(encoding="utf-8") for entry in found if entry.name.endswith(".yaml")]


RECIPES: Final = recipes()
TREES: Final = [load_text(text, "recipe").data for text in RECIPES]


def singles() -> list[str]:
    """Return a small file for each stage of the recipes, since many small files find more than a few large ones."""
    found = []
    for tree in TREES:
        for name, stage in tree["stages"].items():
            found.append(to_yaml({**tree, "stages": {name: stage}}))
    return found


SINGLES: Final = singles()


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything in a tree."""
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


def spoil(tree: Any, draw: Callable[[Any], Any]) -> Any:
    """Change one thing somewhere in a tree."""
    tree = json.loads(json.dumps(tree))
    found = [path for path in places(tree) if path]
    path = draw(st.sampled_from(found))
    holder = tree
    for part in path[:-1]:
        holder = holder[part]
    last = path[-1]
    action = draw(st.sampled_from(["replace", "replace", "delete", "rename", "add", "move", "nest", "many", "type"]))
    if action == "delete":
        del holder[last]
    elif action == "rename" and isinstance(holder, dict):
        holder[draw(st.sampled_from([*WORDS, *KEYS]) | st.just(str(last)[:-1]))] = holder.pop(last)
    elif action == "add" and isinstance(holder, dict):
        holder[draw(st.sampled_from([*KEYS, *WORDS]))] = draw(values)
    elif action == "move":
        other = tree
        for part in draw(st.sampled_from(found)):
            other = other[part]
        holder[last] = json.loads(json.dumps(other))
    elif action == "nest":
        for _ in range(draw(st.integers(1, 80))):
            holder[last] = [holder[last]]
    elif action == "many":
        holder[last] = {f"k{i}": draw(scalars) if i < 3 else i for i in range(draw(st.integers(1, 300)))}
    elif action == "type":
        holder[last] = draw(st.sampled_from([[], {}, [holder[last]], str(holder[last]), {"path": holder[last]}, [[]]]))
    else:
        holder[last] = draw(values)
    return tree


@st.composite
def spoilt_trees(draw: st.DrawFn) -> str:
    """Some stages of a recipe with a few things changed."""
    tree = draw(st.sampled_from(TREES))
    if draw(st.integers(0, 9)):
        kept = draw(st.lists(st.sampled_from(sorted(tree["stages"])), min_size=1, max_size=3, unique=True))
        tree = {**tree, "stages": {name: stage for name, stage in tree["stages"].items() if name in kept}}
    for _ in range(draw(st.integers(1, 4))):
        if not isinstance(tree, dict) or not tree:
            break
        tree = spoil(tree, draw)
    return to_yaml(tree)


@st.composite
def spoilt_texts(draw: st.DrawFn) -> str:
    """A recipe, or a stage of one, with a few stretches of its text changed."""
    text = draw(st.sampled_from(SINGLES) if draw(st.integers(0, 9)) else st.sampled_from(RECIPES))
    text = text[text.index("dpsim: 1") :]
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, len(text)))
        end = min(len(text), start + draw(st.sampled_from([0, 0, 1, 2, 5, 40])))
        text = text[:start] + draw(st.sampled_from(SNIPPETS) | st.sampled_from(WORDS)) + text[end:]
    return text


@st.composite
def bombs(draw: st.DrawFn) -> str:
    """Little text that stands for a lot."""
    width, depth = draw(st.integers(1, 40)), draw(st.integers(1, 60))
    kind = draw(st.sampled_from(["lists", "maps", "merges", "flow", "keys", "stages", "vars", "matrix", "long"]))
    if kind == "lists":
        lines = [f"a0: &a0 [{', '.join('x' * 1 for _ in range(width))}]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, depth)]
    elif kind == "maps":
        lines = ["a0: &a0 {k: v}"]
        lines += [f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(width))}}}" for i in range(1, depth)]
    elif kind == "merges":
        lines = ["a0: &a0 {k: v}"]
        lines += [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * width)}], k{i}: 1}}" for i in range(1, depth)]
    elif kind == "flow":
        lines = ["a: " + draw(st.sampled_from(["[", "{a: ", "- ", "? "])) * (width * depth * 20)]
    elif kind == "keys":
        lines = [f"key{i}: {i}" for i in range(width * depth * 10)]
    elif kind == "stages":
        lines = ["stages:", *(f"  s{i}: {{uses: commnd, rnu: [x], from: s{i + 1}.y}}" for i in range(width * depth))]
    elif kind == "vars":
        lines = ["vars:", "  v0: [x, x, x, x, x, x, x, x]"]
        lines += [
            f"  v{i}: [{', '.join([chr(34) + '${vars.v' + str(i - 1) + '}' + chr(34)] * width)}]"
            for i in range(1, depth)
        ]
    elif kind == "matrix":
        axes = ", ".join(f"x{i}: [{', '.join(map(str, range(width)))}]" for i in range(depth))
        lines = ["stages:", f"  s: {{uses: command, run: [x], matrix: {{{axes}}}}}"]
    else:
        lines = [f"a: '{'x' * (width * depth * 400)}'", "b: 'x"]
    return "dpsim: 1\n" + "\n".join(lines) + "\n"


cases = st.one_of(
    spoilt_trees(), spoilt_trees(), spoilt_texts(), spoilt_texts(), whole.map(to_yaml), values.map(to_yaml)
)

# --- what must hold -------------------------------------------------------------------------------------------


class TooLong(BaseException):
    """A case took too long."""


class Watch:
    """Refuses what a loader must not do, while it is on."""

    def __init__(self) -> None:
        self.on = False
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Look at one event."""
        if not self.on:
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING
        if writes or event in FORBIDDEN:
            self.on = False
            raise AssertionError(f"a workflow file led to {event} {arguments}")


class Checker:
    """Runs cases and counts what became of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.watch = folder, Watch()
        self.count, self.slowest, self.slowest_text = 0, 0.0, ""
        self.codes: Counter[str] = Counter()

    def __call__(self, text: str) -> None:
        """Try one file."""
        path = self.folder / "w.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        began = time.process_time()
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
        self.watch.on = True
        try:
            self.codes.update(self._try(path))
        finally:
            self.watch.on = False
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        self.count += 1
        seconds = time.process_time() - began
        if seconds > self.slowest:
            self.slowest, self.slowest_text = seconds, text

    def _try(self, path: Path) -> list[str]:
        try:
            plan = load(path, environment={"HOME": "/home/x"})
        except InvalidWorkflow as error:
            problems, rendered = error.problems, error.render()
        else:
            return self._look_at(plan)
        assert problems, "an error without a problem"
        assert len(rendered) < 200_000, "an error that fills many screens"
        return sorted({problem.code for problem in problems})

    def _look_at(self, plan: Plan) -> list[str]:
        decider = Decider(plan, Store(self.folder / "runs" / "x"), Digester())
        for name in plan.order:
            target = os.path.normpath(self.folder / "stages" / name)
            assert os.path.dirname(target) == str(self.folder / "stages"), f"a task named {name!r}"
            assert len(name.encode()) <= 240, f"a task whose name is too long for a file: {name!r}"
            if not any(link.patterns for link in plan.links[name]):  # else it may read whole disks, as it is told to
                decider.decide(name)
        load_text(lock_file(plan), "lock")
        return ["valid"]


def too_long(number: int, frame: object) -> None:
    """End a case that hangs."""
    raise TooLong(f"longer than {LIMIT_S} s of CPU")


def peak_memory() -> float:
    """The most memory of this program in MB."""
    if (status := Path("/proc/self/status")).is_file():
        # what getrusage tells begins with the memory of the process that started this one
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    """Run so many cases; print what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.dont_write_bytecode = True
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGVTALRM, too_long)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        checker = Checker(Path(name))
        os.chdir(name)
        for share, strategy, number in ((0.99, cases, 0), (0.01, bombs(), 1)):
            rng = random.Random(f"{options.seed}.{number}")
            left = max(1, int(options.cases * share))
            while left > 0:  # a run of hypothesis keeps all of its examples, so not all at once
                chunk = min(left, 2000)
                run = settings(
                    max_examples=chunk, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
                    suppress_health_check=list(HealthCheck),
                )(given(strategy)(lambda text: checker(text)))  # fmt: skip
                seeded(rng.getrandbits(64))(run)()
                left -= chunk
    print(
        json.dumps(
            {
                "cases": checker.count,
                "seed": options.seed,
                "seconds": round(time.perf_counter() - began, 1),
                "slowest_cpu_s": round(checker.slowest, 2),
                "slowest": checker.slowest_text[:60],
                "peak_mb": round(peak_memory()),
                "codes": dict(sorted(checker.codes.items())),
            }
        )
    )


if __name__ == "__main__":
    main()
