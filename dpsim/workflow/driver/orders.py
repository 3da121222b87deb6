"""What the process of a stage is told, in the files of its entry: options, what it is granted, inputs."""

from __future__ import annotations

from dataclasses import asdict

from dpsim.workflow.context import Granted
from dpsim.workflow.planning.decide import Decision
from dpsim.workflow.planning.plan import Plan
from dpsim.workflow.records.files import link_folder
from dpsim.workflow.records.store import Store


def write_orders(plan: Plan, store: Store, name: str, decision: Decision, granted: Granted) -> None:
    """Write ``stage.json`` and ``inputs.json`` of a task that is to run, and link the folder it works in."""
    entry, key = decision.entry, decision.key
    assert entry is not None
    assert key is not None
    entry.path.mkdir(parents=True, exist_ok=True)
    work = store.entry(key.work_digest)
    task = plan.workflow.tasks[name]
    entry.write(
        "stage.json",
        {
            "format": 1,
            "name": name,
            "type": key.type,
            "key": key.digest,
            "work": f"{work.path.parent.name}/{work.path.name}/work",
            "parts": key.parts(),
            "soft": dict(key.soft),
            "options": task.config.model_dump(mode="json", by_alias=True, exclude={"resources", "matrix"}),
            "seed": key.seed,
            "resources": asdict(granted),
            "type_map": list(plan.workflow.type_map),
            "base": str(plan.workflow.base),
        },
    )
    entry.write("inputs.json", {"inputs": [r.as_dict(store.run_dir) for r in decision.inputs]})
    if work.path != entry.path:
        link_folder(entry.path / "work", work.path / "work")
