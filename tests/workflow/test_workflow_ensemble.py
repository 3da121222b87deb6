"""Ensembles: which stages stand for several, and with which seeds; what they do is in the tests of active learning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dpsim.workflow.language.ensemble import members
from dpsim.workflow.planning.load import load

Write = Callable[..., Path]


def test_seeds_differ_between_iterations_and_members(write: Write) -> None:
    text = """
dpsim: 1
type_map: [Cu]
seed: 7
stages:
  data: {uses: convert, from: {path: frames.extxyz}}
  fit: {uses: train, data: data, model: {preset: dpa3-tiny}, steps: 5, ensemble: 3}
  own: {uses: train, data: data, model: {preset: dpa3-tiny}, steps: 5, ensemble: 2, seed: 1}
  plain: {uses: train, data: data, model: {preset: dpa3-tiny}, steps: 5}
  loop:
    uses: loop
    max_iterations: 2
    until: {metric: again.step, at_least: 1}
    carry: {weights: fit.best}
    stages:
      again: {uses: train, data: data, start_from: loop.weights, steps: 5, ensemble: 2}
    next: {weights: again.best}
"""
    plan = load(write(text), check_files=False)
    workflow = plan.workflow
    seeds = {name: workflow.seed_of(task) for name, task in workflow.tasks.items()}
    assert [seeds[f"fit@member={k}"] for k in (1, 2, 3)] == [7, 8, 9]
    assert [seeds[f"own@member={k}"] for k in (1, 2)] == [1, 2]
    (loop,) = workflow.loops.values()
    assert [workflow.seed_of(task) for number in (1, 2, 3) for task in loop.tasks(number)] == [
        7, 8, 1007, 1008, 2007, 2008,
    ]  # fmt: skip
    # a member starts from the same member
    links = {link.slot: link.producers for link in plan.links["loop.01.again@member=2"]}
    assert links["start_from"] == (("fit@member=2", "best.safetensors"),)


def test_stages_that_stand_for_several() -> None:
    train = {"uses": "train", "ensemble": 3}
    stages = {
        "late": {"uses": "test", "model": "small"},
        "small": {"uses": "compress", "from": "fit.best"},
        "one": {"uses": "freeze", "from": "fit@member=2.best"},
        "fit": train,
        "single": {"uses": "train", "ensemble": 1},
        "round": {"uses": "freeze", "from": "trip"},
        "trip": {"uses": "freeze", "from": "round"},
        "lost": {"uses": "freeze", "from": "nowhere.best"},
        "wrong": {"uses": "train", "ensemble": "many"},
        "all": {"uses": "freeze", "from": "loop.weights"},
        "first": {"uses": "freeze", "from": "loop.first"},
        "loop": {
            "uses": "loop",
            "stages": {"again": {"uses": "train", "ensemble": 2}, "small": {"uses": "compress", "from": "again"}},
            "next": {"weights": "small.model", "first": "again@member=1.best"},
        },
    }
    assert members(stages) == {"late": 3, "small": 3, "fit": 3, "all": 2}
    assert members({"inner": {"uses": "freeze", "from": "fit"}}, stages) == {"inner": 3}
    chain = {f"s{k}": {"uses": "freeze", "from": f"s{k - 1}"} for k in range(2000, 0, -1)}
    assert len(members({**chain, "s0": train})) == 2001
