"""Cache keys of one stage of each type; run it to write ``golden_keys.json`` after a change that is meant."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from dpsim.workflow.planning.key import make_key
from dpsim.workflow.planning.load import load

GOLDEN = Path(__file__).with_name("golden_keys.json")
WORKFLOW = """\
dpsim: 1
type_map: [O, H]
seed: 3
stages:
  label:
    uses: label
    structures: {molecules: {H2O: 8}, density: 1.0 g/cm3, count: 4}
    calculator: {name: tblite}
  data: {uses: convert, from: label.frames, split: {train: 0.8, valid: 0.1, test: 0.1}}
  check: {uses: inspect, from: data}
  model: {uses: train, data: data, model: {preset: dpa3-tiny}, steps: 100}
  frozen: {uses: freeze, from: model.best}
  test: {uses: test, model: frozen, data: data.test}
  md:
    uses: md
    potential: frozen
    start: {frames: label.frames}
    run: [{ensemble: nvt, temperature: 300 K, timestep: 0.5 fs, time: 1 ps}]
    analyse: [rdf]
  relaxed: {uses: relax, potential: frozen, on: label.frames}
  phonons: {uses: phonon, potential: frozen, on: {frames: relaxed.frames, index: 0}}
  properties: {uses: properties, potential: frozen, on: relaxed.frames, compute: [relax, eos, elastic]}
  compressed: {uses: compress, from: model.best, min_distance: 0.8 angstrom}
  select:
    uses: select
    from: label.frames
    models: model.best
    trust: {mode: fixed, low: 0.1 eV/angstrom, high: 1 eV/angstrom}
    diversify: {method: fps, max: 20}
    drop: [unphysical, near_duplicate]
  more: {uses: convert, from: [data, label.frames], split: {keep: data, train: 0.9, valid: 0.1}}
  loop:
    uses: loop
    max_iterations: 2
    until: {metric: again.accurate, at_least: 0.9, for: 2}
    carry: {data: data}
    stages: {again: {uses: select, from: label.frames, models: model.best}, grow: {uses: convert, from: loop.data}}
    next: {data: grow}
  report: {uses: report, from: [model, md]}
  command: {uses: command, run: [sh, -c, "cp {inputs.m} {out}/m"], inputs: {m: frozen}, outputs: [m]}
"""


def keys(text: str) -> dict[str, str]:
    """Return the keys of the stages; input number i of a stage has the digest ``i`` in 40 digits."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "w.yaml"
        path.write_text(text)
        plan = load(path, check_files=False)
    found = {}
    for name in plan.order:
        task = plan.workflow.tasks[name]
        inputs = {".".join(map(str, link.path)): f"{i:040x}" for i, link in enumerate(plan.links[name])}
        seed = plan.workflow.seed_of(task)
        found[name] = make_key(task.config, inputs, type_map=plan.workflow.type_map, seed=seed).digest
    return found


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(keys(WORKFLOW), indent=1) + "\n")
