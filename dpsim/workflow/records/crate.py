"""A run described as an RO-Crate 1.1: files, programs and which stage made what from what, for archives to read."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping
from typing import Any, Final

from dpsim.workflow.records.files import read_json
from dpsim.workflow.records.store import Entry, Store

METADATA: Final = "ro-crate-metadata.json"
_TOP: Final = ("workflow.yaml", "workflow.lock.yaml", "manifest.json", "events.jsonl")


def crate(store: Store) -> dict[str, Any]:
    """Return the metadata of a run directory as JSON-LD; paths are relative to it."""
    manifest = read_json(store.manifest)
    stages = manifest.get("stages", {})
    done = {name: store.entry(record["key"]) for name, record in stages.items() if record.get("key")}
    done = {name: entry for name, entry in done.items() if entry.is_done()}
    outputs = {name: dict(_outputs(store, entry)) for name, entry in done.items()}
    packages = [
        {"@id": f"#package-{name}", "@type": "SoftwareApplication", "name": name, "softwareVersion": version}
        for name, version in {"dpsim": manifest.get("dpsim", {}).get("version"), **manifest.get("packages", {})}.items()
        if isinstance(version, str) and version != "absent"
    ]
    actions = [
        _action(name, stages[name], entry, outputs, done, {package["name"] for package in packages})
        for name, entry in done.items()
    ]
    files = [*_top_files(store), *(item for made in outputs.values() for item in made.values())]
    files = list({item["@id"]: item for item in files}.values())
    root = {
        "@id": "./",
        "@type": "Dataset",
        "name": manifest.get("name"),
        "description": f"Run of the dpsim workflow {manifest.get('name')!r}",
        "datePublished": manifest.get("finished") or manifest.get("started"),
        "hasPart": [{"@id": item["@id"]} for item in files],
        "mainEntity": {"@id": "workflow.yaml"},
        "mentions": [{"@id": action["@id"]} for action in actions],
        "citation": list(manifest.get("citations", [])),
    }
    about = {
        "@id": METADATA,
        "@type": "CreativeWork",
        "about": {"@id": "./"},
        "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
    }
    language = {"@id": "#language", "@type": "ComputerLanguage", "name": "dpsim workflow", "version": "1"}
    graph = [about, root, language, *files, *packages, *actions]
    return {"@context": "https://w3id.org/ro/crate/1.1/context", "@graph": graph}


def _top_files(store: Store) -> Iterator[dict[str, Any]]:
    for name in _TOP:
        path = store.run_dir / name
        if path.is_file():
            item: dict[str, Any] = {"@id": name, "@type": "File", "name": name, "contentSize": path.stat().st_size}
            if name == "workflow.yaml":
                item["@type"] = ["File", "SoftwareSourceCode", "ComputationalWorkflow"]
                item["programmingLanguage"] = {"@id": "#language"}
            yield item


def _outputs(store: Store, entry: Entry) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the outputs of a done entry by name."""
    for name, record in entry.read("outputs.json").get("outputs", {}).items():
        path = entry.out / record["path"]
        place = path.relative_to(store.run_dir).as_posix()
        folder = path.is_dir()
        yield (
            name,
            {
                "@id": f"{place}/" if folder else place,
                "@type": "Dataset" if folder else "File",
                "name": name,
                "contentSize": record["size"],
                "identifier": f"blake2b-160:{record['digest']}",
                "additionalType": record["kind"],
            },
        )


def _action(
    name: str,
    record: Mapping[str, Any],
    entry: Entry,
    outputs: Mapping[str, Mapping[str, Mapping[str, Any]]],
    done: Mapping[str, Entry],
    packages: set[str],
) -> dict[str, Any]:
    """Return which program made which files from which others, and when."""
    described = entry.read("stage.json")
    attempts = [attempt for attempt in record.get("attempts", []) if attempt.get("exit") == 0]
    places = {item["@id"].rstrip("/"): item["@id"] for made in outputs.values() for item in made.values()}
    objects = []
    for given in entry.read("inputs.json").get("inputs", []):
        objects += [places.get(path, path) for path in given["paths"]]
    used = [f"#package-{package}" for package in described.get("soft", {}) if package in packages]
    action: dict[str, Any] = {
        "@id": f"#stage-{name}",
        "@type": "CreateAction",
        "name": f"{name} ({described.get('type')})",
        "instrument": [{"@id": "workflow.yaml"}, *({"@id": one} for one in used)],
        "object": [{"@id": one} for one in dict.fromkeys(objects)],
        "result": [{"@id": item["@id"]} for item in outputs[name].values()],
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }
    if attempts:
        action |= {"startTime": _time(attempts[-1]["start"]), "endTime": _time(attempts[-1]["end"])}
    return action


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
