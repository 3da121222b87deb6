"""The least time that the arithmetic of DPA-3 takes on this machine, were there nothing but arithmetic.

    python tests/benchmarks/floor.py [--model dpa3-l6] [--cores 2]

Counted are the matrix products of the split evaluation, edge and angle sums included, without what never reaches the
energy, and the activations of edges and angles (not of atoms, which are few). Energies and forces take each product
twice (value, derivative) and each activation twice; a training step takes products six times and activations three
times. Rates are measured here and now on one core, in float32: a large matrix product, and the native activation.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from processes import machine
from water import TYPE_MAP, water

HERE = Path(__file__).parent


class Work(NamedTuple):
    """Of one evaluation of the energy."""

    flop: float
    activations: float


class Rates(NamedTuple):
    """Of one core."""

    flop: float
    activations: float


def work(flow: Any, atoms: int, edges: int, angle_edges: int, angles: int) -> Work:
    """Arithmetic of all layers for the settings of a ``repflow``."""
    n, e, a, axis = flow.n_dim, flow.e_dim, flow.a_dim, flow.axis_neuron
    heads = flow.n_multi_edge_message * n
    node_in, edge_in = flow.compressed_widths if flow.a_compress_rate else (n, e)
    flop = activations = 0.0
    for layer in range(flow.nlayers):
        edge_out = heads + (e if layer < flow.nlayers - 1 else 0)
        flop += atoms * (2 * n * n + 2 * axis * (n + e) * n + 4 * n * edge_out) + 6 * edges * (n + e)
        flop += 2 * edges * e * edge_out
        activations += edges * edge_out
        if flow.update_angle and layer < flow.nlayers - 1:
            angle_out = e + (a if layer < flow.nlayers - 2 else 0)
            flop += 2 * atoms * node_in * angle_out + angle_edges * (4 * edge_in * angle_out + 2 * e * e)
            flop += 2 * angles * a * angle_out
            activations += angles * angle_out
    return Work(flop, activations)


def work_of_water(model: str) -> Work:
    """The same for a model of `inputs` on the 192 atoms of the benchmarks."""
    from dpsim.cli.models.train import Start, read_peer_input
    from dpsim.physics.neighbors import frame_graph
    from dpsim.train.config import TrainConfig, resolve_model

    settings = read_peer_input(HERE / "inputs" / f"{model}.json", (), Start(None, False, None, False)).settings
    config: Any = resolve_model(TrainConfig.model_validate(settings), TYPE_MAP)
    frame = water(1)[0]
    graph = frame_graph(frame.positions, frame.types, frame.cell, config.neighbors())
    (near,) = graph.inner
    counts = [int(((graph.center[near.edge]) == i).sum()) for i in range(192)]
    return work(config.descriptor.repflow, 192, graph.n_edges, len(near.edge), sum(c * c for c in counts))


def measured_rates() -> Rates:
    """Rates of this machine."""
    import torch

    from dpsim import ops

    torch.set_num_threads(1)
    ops.keep_memory()
    ops.load()
    x, w = torch.randn(4096, 1024), torch.randn(1024, 1024)
    items, columns = 2048, 96
    one, few = torch.randn(items, columns), torch.zeros(32, columns)
    index = torch.arange(items) // 64
    arguments = (one, few, few, torch.ones(items), torch.arange(0, items + 1, 64), index, columns, 1, 10.0)
    product = _best(lambda: x @ w)
    activation = _best(lambda: ops.gather_act_reduce(*arguments))
    return Rates(2 * 4096 * 1024 * 1024 / product, items * columns / activation)


def _best(function: Callable[[], object]) -> float:
    function()
    times = []
    for _ in range(30):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def floors(model: str, cores: int) -> dict[str, Any]:
    """Seconds of a step at full rate on all cores, and what they come from."""
    one, rates = work_of_water(model), measured_rates()

    def seconds(products: int, activations: int) -> float:
        return round((products * one.flop / rates.flop + activations * one.activations / rates.activations) / cores, 4)

    return {
        "benchmark": "floor", "model": model, "atoms": 192, "cores": cores,
        "gflop": round(one.flop / 1e9, 2), "activations_millions": round(one.activations / 1e6, 1),
        "gflop_per_second": round(rates.flop / 1e9, 1),
        "activations_per_second_millions": round(rates.activations / 1e6),
        "md_seconds": seconds(2, 2), "training_seconds": seconds(6, 3),
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="dpa3-l6")
    parser.add_argument("--cores", type=int, default=2)
    options = parser.parse_args()
    print(json.dumps({**floors(options.model, options.cores), **machine()}))


if __name__ == "__main__":
    main()
