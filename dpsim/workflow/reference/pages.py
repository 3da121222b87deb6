"""The reference: one page for each stage type, made from its settings, and one for all error codes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, Final

from dpsim.workflow.language.codes import CODES
from dpsim.workflow.language.schema import WorkflowFile
from dpsim.workflow.language.yaml_loader import load_text
from dpsim.workflow.reference.describe import to_yaml
from dpsim.workflow.reference.machine_examples import ABOUT, EXECUTORS
from dpsim.workflow.reference.machine_examples import EXAMPLES as MACHINE_EXAMPLES
from dpsim.workflow.stage import Stage
from dpsim.workflow.stages import STAGE_TYPES, find_stage_type

EXAMPLES: Final = {
    "inspect": {"uses": "inspect", "from": "data", "fail_on": ["nan", "missing_type", "duplicate_train_valid"]},
    "compress": {"uses": "compress", "from": {"path": "model.safetensors"}, "data": "data"},
    "command": {
        "uses": "command",
        "run": ["sh", "-c", "wc -l {inputs.frames} > {out}/lines.txt"],
        "inputs": {"frames": "label.frames"},
        "outputs": {"lines": "lines.txt"},
    },
}
"""Of types that no recipe shows."""
_COMMON: Final = tuple(Stage.model_fields)
_MADE: Final = "<!-- Made by `dpsim schema --pages`; change the settings' docstrings instead. -->\n"
_BARE: Final = "; a bare number is in "
"""In the description of a quantity that has no other."""


def recipes() -> dict[str, dict[str, Any]]:
    """Return the stages of each recipe."""
    found = {}
    for entry in sorted(files("dpsim.recipes").iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".yaml"):
            data = load_text(entry.read_text(encoding="utf-8"), entry.name).data
            found[entry.name] = {name: stage for name, stage in data["stages"].items() if isinstance(stage, dict)}
    return found


def pages(tests: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the pages by file name, ``README.md`` with the table of all among them.

    Parameters
    ----------
    tests
        Where each stage type is tested; in the table if given.
    """
    used = recipes()
    made = {f"{name}.md": stage_page(name, used) for name in STAGE_TYPES}
    return {
        "README.md": _index(used, tests),
        "common.md": _common_page(),
        "machines.md": machines_page(),
        **made,
        "errors.md": errors_page(),
    }


def _index(used: Mapping[str, Mapping[str, Any]], tests: Mapping[str, str] | None) -> str:
    header = ["stage", "what it does", "recipes", *(["test"] if tests is not None else [])]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for name in STAGE_TYPES:
        shown = sorted(recipe for recipe, stages in used.items() if any(s.get("uses") == name for s in _all(stages)))
        cells = [f"[{name}]({name}.md)", _about(_type(name)), ", ".join(one.removesuffix(".yaml") for one in shown)]
        lines.append(f"| {' | '.join([*cells, *([tests.get(name, '')] if tests is not None else [])])} |")
    return (
        f"{_MADE}# Stages of a workflow\n\n"
        "Every stage has the [common keys](common.md) besides its own. Profiles, machines and resources say "
        "[where they run](machines.md). What went wrong is explained by code in [errors](errors.md) and by `dpsim "
        "explain CODE`.\n\n" + "\n".join(lines) + "\n"
    )


def _all(stages: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield stages and those inside of loops."""
    for stage in stages.values():
        if isinstance(stage, dict):
            yield stage
            inner = stage.get("stages")
            yield from _all(inner) if isinstance(inner, dict) else ()


def _type(name: str) -> type[Stage]:
    found = find_stage_type(name)
    assert found is not None
    return found


def _about(model: Any) -> str:
    return " ".join(_clean(model.__doc__ or "").split("\n\n")[0].split())


def stage_page(name: str, used: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """Return the page of a stage type: inputs, outputs, options with types, units and defaults, an example."""
    stage_type = _type(name)
    schema = stage_type.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})
    parts = [f"{_MADE}# {name}\n\n{_clean(stage_type.__doc__ or '')}\n"]
    if stage_type.slots:
        lines = ["| input | takes | how many |", "| --- | --- | --- |"]
        for slot, what in stage_type.slots.items():
            many = "one or several" if what.many else "one"
            lines.append(f"| `{slot}` | {', '.join(sorted(what.kinds))} | {many} |")
        parts.append("## Inputs\n\n" + "\n".join(lines) + "\n")
    outputs = dict(stage_type.outputs)
    lines = [
        f"| `{output}`{' (main)' if output == stage_type.main else ''} | {what.kind} | `{what.path}` |"
        for output, what in outputs.items()
    ]
    body = "\n".join(["| output | kind | file |", "| --- | --- | --- |", *lines]) if lines else "As declared."
    parts.append(f"## Outputs\n\n{body}\n")
    own = {key: value for key, value in schema["properties"].items() if key not in (*_COMMON, "uses")}
    parts.append("## Options\n\n" + _table(own, schema.get("required", ()), definitions))
    for title in _reached(own, definitions):
        inner = definitions[title]
        text = _clean(inner.get("description", ""))
        properties = inner.get("properties")
        rows = _table(properties, inner.get("required", ()), definitions) if properties else _kind(inner, definitions)
        parts.append(f"### {title}\n\n{text}\n\n{rows}".replace("\n\n\n", "\n\n"))
    parts.append(f"## Example\n\n```yaml\n{_example(name, used if used is not None else recipes())}```\n")
    return "\n".join(parts)


def _common_page() -> str:
    schema = Stage.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})
    parts = [f"{_MADE}# Keys of every stage\n", _table(schema["properties"], schema.get("required", ()), definitions)]
    for title in _reached(schema["properties"], definitions):
        inner = definitions[title]
        rows = _table(inner.get("properties", {}), inner.get("required", ()), definitions)
        parts.append(f"### {title}\n\n{_clean(inner.get('description', ''))}\n\n{rows}")
    return "\n".join(parts)


def machines_page() -> str:
    """Return what says where stages run: profiles, machines, resources, executors, with examples."""
    schema = WorkflowFile.model_json_schema(by_alias=True)
    definitions = schema.get("$defs", {})
    own = {key: schema["properties"][key] for key in ("profiles", "machines", "resources")}
    parts = [
        f"{_MADE}# Where stages run\n\n{ABOUT}",
        _table(own, schema.get("required", ()), definitions),
        EXECUTORS,
    ]
    for title in _reached(own, definitions):
        inner = definitions[title]
        rows = _table(inner.get("properties", {}), inner.get("required", ()), definitions)
        parts.append(f"### {title}\n\n{_clean(inner.get('description', ''))}\n\n{rows}")
    parts += [f"## {heading}\n\n```yaml\n{text}```\n" for heading, text in MACHINE_EXAMPLES.items()]
    return "\n".join(parts)


def errors_page() -> str:
    """Return all error codes with what they mean and how to mend them."""
    parts = [f"{_MADE}# Errors of workflow files\n\nThe same texts as `dpsim explain CODE`.\n"]
    parts += [f"## {code}: {entry.title}\n\n{entry.page}\n" for code, entry in sorted(CODES.items())]
    return "\n".join(parts)


def _example(name: str, used: Mapping[str, Mapping[str, Any]]) -> str:
    for stages in used.values():
        for stage, declared in stages.items():
            if declared.get("uses") == name:
                return to_yaml({stage: {key: value for key, value in declared.items() if not key.startswith("x-")}})
    return to_yaml({name: EXAMPLES.get(name, {"uses": name})})


def _table(properties: Mapping[str, Any], required: Any, definitions: Mapping[str, Any]) -> str:
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, value in properties.items():
        unit = _unit(value, definitions)
        default = "needed" if key in required else _default(value.get("default"), unit)
        kind = _kind(value, definitions)
        meaning = _clean(value.get("description", ""))
        meaning = "" if _BARE in meaning else meaning.replace("\n", " ").replace("|", "\\|")
        lines.append(f"| `{key}` | {kind} | {default} | {meaning} |")
    return "\n".join(lines) + "\n"


def _clean(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines()).replace("``", "`")


def _unit(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return the unit of the first quantity in a schema."""
    if "x-unit" in schema:
        return str(schema["x-unit"])
    for key in ("anyOf", "oneOf", "prefixItems"):
        for member in schema.get(key, ()):
            if unit := _unit(member, definitions):
                return unit
    items = schema.get("items")
    return _unit(items, definitions) if isinstance(items, dict) else ""


def _default(value: Any, unit: str) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and unit and unit != "1":
        return f"`{value:g} {unit}`"
    if isinstance(value, dict):
        value = {key: item for key, item in value.items() if item is not None}
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return f"`{text}`" if text and len(text) <= 60 else "as below" if text else ""


def _kind(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return the type of a value in words."""
    if "x-unit" in schema:
        unit, dimension = schema["x-unit"], schema["x-dimension"]
        return str(dimension) if unit == "1" else f"{dimension} ({unit})"
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        inner = definitions.get(name, {})
        return f"[{name}](#{name.lower()})" if "properties" in inner else _kind(inner, definitions)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            kinds = dict.fromkeys(_kind(member, definitions) for member in schema[key])
            return " or ".join(kind for kind in kinds if kind != "nothing") or "nothing"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("format") == "dpsim-reference":
        return "reference"
    return _plain(schema, definitions)


def _plain(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if kind == "array" and "prefixItems" in schema:
        return f"[{', '.join(_kind(item, definitions) for item in schema['prefixItems'])}]"
    if kind == "array":
        return f"list of {_kind(schema.get('items', {}), definitions)}"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"names to {_kind(inner, definitions)}" if isinstance(inner, dict) else "mapping"
    words = {"integer": "integer", "number": "number", "string": "text", "boolean": "true or false", "null": "nothing"}
    if kind not in words:
        return "any value"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if abs(schema.get(key, 1e18)) < 1e15]
    return " ".join([words[kind], *limits])


def _reached(properties: Mapping[str, Any], definitions: Mapping[str, Any]) -> list[str]:
    """Return the definitions that options lead to, in the order in which a reader meets them."""
    seen: dict[str, None] = {}
    queue: list[Any] = [*properties.values()]
    while queue:
        item = queue.pop(0)
        if isinstance(item, list):
            queue += item
        elif isinstance(item, dict):
            name = str(item.get("$ref", "")).rpartition("/")[2]
            if name in definitions and name not in seen:
                seen[name] = None
                queue.append(definitions[name])
            queue += [value for key, value in item.items() if key not in ("$ref", "discriminator", "default")]
    return [name for name in seen if "properties" in definitions[name]]
