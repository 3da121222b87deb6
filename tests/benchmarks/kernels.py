"""Time of the fused operator beside plain PyTorch, at the sizes of DPA-3 on 192-atom water.

    python tests/benchmarks/kernels.py [--seconds 1] [--threads 1] [--float64]

One JSON line for each case: `edge` is the edge update (segments are centre atoms), `angle` the angle update
(segments are edges). `forward` is the value, `backward` value and first derivative, `double_backward` also the
derivative of the first one, as a training step on forces needs it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpsim import ops
from dpsim.ops import reference


class Size(NamedTuple):
    """Items, segments, gathered rows, columns, and how many of these are summed."""

    items: int
    segments: int
    rows: int
    columns: int
    summed: int


SIZES = {"edge": Size(17_064, 192, 192, 192, 128), "angle": Size(129_198, 4_950, 4_950, 96, 64)}
Function = Callable[..., tuple[Tensor, Tensor]]


def arguments(size: Size, dtype: torch.dtype) -> tuple[list[Tensor], tuple[Any, ...]]:
    """Random tensors of the operator; gathered rows lie near their segment, as edges of one centre do."""
    g = torch.Generator().manual_seed(0)
    ptr = torch.linspace(0, size.items, size.segments + 1).round().to(torch.int64)
    segment = reference.segment_ids(ptr, size.items)
    near = torch.randint(-20, 21, (size.items,), generator=g)
    index = ((segment if size.segments > 1000 else near * 4) + near).remainder(size.rows)
    shapes = ((size.items, size.columns), (size.segments, size.columns), (size.rows, size.columns), (size.items,))
    leaves = [torch.randn(*shape, generator=g, dtype=dtype).requires_grad_() for shape in shapes]
    return leaves, (ptr, index, size.summed, reference.SILUT, 10.0)


def steps(function: Function, leaves: list[Tensor], rest: tuple[Any, ...]) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    with torch.no_grad():
        cotangents = [torch.randn_like(o) for o in function(*leaves, *rest)]
        second = [torch.randn_like(leaf) for leaf in leaves]

    def forward() -> object:
        with torch.no_grad():
            return function(*leaves, *rest)

    def backward(create_graph: bool = False) -> tuple[Tensor, ...]:
        return torch.autograd.grad(function(*leaves, *rest), leaves, cotangents, create_graph=create_graph)

    def double_backward() -> object:
        return torch.autograd.grad(backward(create_graph=True), leaves, second)

    return {"forward": forward, "backward": backward, "double_backward": double_backward}


def measure(step: Callable[[], object], seconds: float) -> tuple[float, float, int]:
    """Median and spread (interquartile range) in seconds, at least ten runs after a warm one."""
    step()
    times: list[float] = []
    while sum(times) < seconds or len(times) < 10:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    low, middle, high = statistics.quantiles(times, n=4)
    return middle, high - low, len(times)


def main() -> None:
    """Run all cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="time spent on each case")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--float64", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = torch.float64 if options.float64 else torch.float32
    ops.keep_memory()
    functions: dict[str, Function] = {"plain": reference.gather_act_reduce}
    if ops.load():
        functions["fused"] = ops.gather_act_reduce
    for case, size in SIZES.items():
        leaves, rest = arguments(size, dtype)
        for name, function in functions.items():
            for what, step in steps(function, leaves, rest).items():
                median, spread, runs = measure(step, options.seconds)
                facts = {"case": case, **size._asdict(), "version": name, "step": what, "dtype": str(dtype)[6:]}
                facts |= {"seconds": round(median, 5), "spread": round(spread, 5), "runs": runs}
                facts |= {"threads": options.threads, "torch": torch.__version__, "processor": platform.processor()}
                print(json.dumps(facts), flush=True)
    if reason := ops.unavailable_reason():
        raise SystemExit(f"the fused version was not timed: {reason}")


if __name__ == "__main__":
    main()
