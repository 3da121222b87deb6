"""Text and examples for the page of profiles; the examples are whole workflow files, so that a test validates them."""

from __future__ import annotations

from typing import Final

ABOUT: Final = """\
A profile (`dpsim run --profile NAME`) says where the stages of a run are executed, a machine is a cluster as
dpdispatcher describes it, and `resources` names what stages are granted: `resources: gpu1` in a stage, or the mapping
itself. None of it is in the cache key, but for the ranks of a training: what was computed on a cluster is found on a
laptop, and the other way round. Without a profile, stages are processes of this machine.
"""
EXECUTORS: Final = """\
| executor | a stage is | when the run is ended | needs |
| --- | --- | --- | --- |
| `local` | a process of this machine, with others as cores, GPUs and memory allow | it goes on with the next `dpsim run` |  |
| `dpdispatcher` | a job of Slurm, PBS, Torque, SGE, LSF or a shell, here or behind SSH | jobs are cancelled or go on (`on_stop`); those are found again | `pip install 'dpsim[cluster]'` |
| `parsl` | a process inside of a pilot job, which many share | pilots end; stages go on where they were | `pip install 'dpsim[cluster]'` |
"""  # noqa: E501 - rows of a table
SLURM: Final = """\
# dpsim run workflow.yaml --profile cluster      (pip install 'dpsim[cluster]'; run it on a login node)
dpsim: 1
name: training-on-slurm
type_map: [Cu]

resources:
  train: {gpus: 1, cpus: 8, walltime: 12 h, partition: gpu}
  md: {nodes: 2, gpus: 4, ranks: 8, mpi: cuda-aware, walltime: 24 h, lines: ["#SBATCH --account=chem"]}

machines:
  a100: {batch_type: Slurm, context_type: LazyLocalContext}

profiles:
  laptop:
    slots: {cpu: 2, gpu: 0}
    overrides: {stages.model.steps: 100, resources.train: {}, resources.md: {ranks: 2}}
  cluster:
    executor: dpdispatcher          # each stage is a job; killed or logged out, the next `dpsim run` finds it again
    machine: a100
    here: [convert, report]         # too small for a job
    retries: {preempted: 20, oom: 1}
    on_stop: leave                  # Ctrl-C leaves the jobs alone

stages:
  data: {uses: convert, from: {path: "aimd/**/OUTCAR", format: vasp/outcar}, split: {train: 0.9, valid: 0.1}}
  model: {uses: train, data: data, model: {preset: dpa3-tiny}, steps: 100000, resources: train}
  frozen: {uses: freeze, from: model.best, resources: train}
  melt:
    uses: md
    potential: frozen.model
    start: {prototype: fcc, element: Cu, supercell: [20, 20, 20]}
    run: {ensemble: npt, temperature: 1400 K, pressure: 1 bar, timestep: 2 fs, time: 1 ns}
    resources: md
  report: {uses: report, from: [model, melt]}
"""
PARSL: Final = """\
# dpsim run workflow.yaml --profile cluster      (pip install 'dpsim[cluster]'; leave it running, in tmux or a job)
dpsim: 1
name: many-points-in-few-jobs
type_map: [Cu]

resources:
  node: {nodes: 1, cpus: 32, walltime: 4 h}
  point: {ranks: 1, cpus: 2}        # sixteen of them at once on such a node

profiles:
  cluster:
    executor: dpdispatcher          # all else is a job of its own
    fanout: parsl                   # the points of a matrix share pilot jobs, so that the queue sees two, not forty
    machine: {batch_type: Slurm, context_type: LazyLocalContext}
    pilot: node
    pilots: 2
    here: [report]

stages:
  cool:
    uses: md
    potential: {path: copper.pt2}
    matrix: {T: [300, 500, 700, 900, 1100], P: [1 bar, 10 kbar, 20 kbar, 30 kbar], seed: [1, 2]}
    seed: "${matrix.seed}"
    start: {prototype: fcc, element: Cu, supercell: [6, 6, 6]}
    run: {ensemble: npt, temperature: "${matrix.T} K", pressure: "${matrix.P}", timestep: 2 fs, time: 100 ps}
    analyse: [rdf, density]
    resources: point
  report: {uses: report, from: [cool]}
"""
EXAMPLES: Final = {"Jobs of Slurm, with dpdispatcher": SLURM, "Many points in a few jobs, with Parsl": PARSL}
"""By heading."""
