"""The JSON Schema of workflow files, from which editors complete and check them."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from dpsim.workflow.language.schema import WorkflowFile
from dpsim.workflow.stages import stage_union

MODELINE = "# yaml-language-server: $schema={path}"
_INTERPOLATED = {"type": "string", "pattern": r"\$\{"}
_SHORTHAND: dict[tuple[str, str], dict[str, Any]] = {
    ("MDStage", "analyse"): {"type": "array", "items": {"type": ["string", "object"]}},
    ("MDStage", "start"): {"type": "string"},
    ("PropertiesStage", "compute"): {"type": "array", "items": {"type": ["string", "object"]}},
}
"""Short forms that validators expand before pydantic sees them, by definition and key."""
_WRAPPED = ("integer", "number", "boolean", "array", "object")


def json_schema() -> dict[str, Any]:
    """Return the schema of a whole workflow file.

    Every value that is not text may also be a text with ``${...}``, and every mapping may have ``x-*`` keys, as
    the loader has it.
    """
    schema = WorkflowFile.model_json_schema(by_alias=True)
    stages = TypeAdapter(stage_union()).json_schema(by_alias=True)
    definitions = {**schema.pop("$defs", {}), **stages.pop("$defs", {})}
    schema["properties"]["stages"] = {
        "type": "object",
        "minProperties": 1,
        "description": "The stages by name.",
        "propertyNames": {"pattern": r"^([A-Za-z][A-Za-z0-9_-]*|x-.*)$"},
        "additionalProperties": _stage(definitions, stages),
    }
    # inner stages of a loop are stages like all others
    definitions["AnyStage"] = _stage(definitions, stages)
    definitions["LoopStage"]["properties"]["stages"]["additionalProperties"] = {"$ref": "#/$defs/AnyStage"}
    schema["properties"]["include"] = {
        "description": "Files that are merged into this one.",
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
    }
    for (definition, key), short in _SHORTHAND.items():
        properties = definitions[definition]["properties"]
        properties[key] = {"anyOf": [properties[key], short]}
    _add_sections_of_deepmd(definitions["TrainStage"]["properties"])
    whole = {**{key: value for key, value in schema.items() if key != "title"}, "$defs": definitions}
    relaxed = {key: value if key == "$defs" else _relax(value, top=True) for key, value in whole.items()}
    relaxed["$defs"] = {name: _open(_relax_inside(value)) for name, value in definitions.items()}
    relaxed["properties"] = {
        name: value if name == "stages" else _relax(value) for name, value in whole["properties"].items()
    }
    relaxed["properties"]["dpsim"] = {"const": 1, "description": "Version of the language."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dpsim workflow",
        **_open(relaxed),
    }


def _add_sections_of_deepmd(properties: dict[str, Any]) -> None:
    """Let sections of a train stage be those of DeePMD-kit: of an ``input.json`` that is named, or written out.

    What such a section holds is checked when it is translated, see `dpsim.workflow.language.peer_parts`.
    """
    from dpsim.model.peer.inputs.input import PART_TYPES, PARTS

    file = {"type": "string", "description": "An input.json of DeePMD-kit: its section of this name is taken."}
    named = {"type": "object", "required": ["deepmd"], "properties": {"deepmd": file}, "additionalProperties": False}
    for key, words in PARTS.items():
        told_by: list[dict[str, Any]] = [{"required": [word]} for word in words]
        if key in PART_TYPES:
            told_by.append({"required": ["type"], "properties": {"type": {"const": PART_TYPES[key]}}})
        own = properties[key]
        kept = {name: own[name] for name in ("description", "default", "title") if name in own}
        choices = own["anyOf"] if "anyOf" in own else [{k: v for k, v in own.items() if k not in kept}]
        properties[key] = {"anyOf": [*choices, named, {"type": "object", "anyOf": told_by}], **kept}


def _stage(definitions: dict[str, Any], stages: dict[str, Any]) -> dict[str, Any]:
    """Choose the stage type by ``uses`` with if/then, so that an editor reports the errors of that type only."""
    mapping = stages["discriminator"]["mapping"]
    rules = []
    for name, reference in mapping.items():
        definition = definitions[reference.rpartition("/")[2]]
        definition.setdefault("required", [])
        definition["required"] = sorted({*definition["required"], "uses"})
        rules.append({"if": {"properties": {"uses": {"const": name}}}, "then": {"$ref": reference}})
    return {
        "type": "object",
        "required": ["uses"],
        "properties": {"uses": {"enum": list(mapping)}},
        "allOf": rules,
    }


def _open(schema: dict[str, Any]) -> dict[str, Any]:
    """Allow ``x-*`` keys in a closed mapping."""
    if schema.get("additionalProperties") is False:
        return {**schema, "patternProperties": {"^x-": {}}}
    return schema


def _relax_inside(schema: dict[str, Any]) -> dict[str, Any]:
    """Relax the values inside of a definition."""
    result = dict(schema)
    for key in ("properties",):
        if key in result:
            result[key] = {name: value if name == "uses" else _relax(value) for name, value in result[key].items()}
    if isinstance(result.get("additionalProperties"), dict):
        result["additionalProperties"] = _relax(result["additionalProperties"])
    return result


def _relax(value: Any, *, top: bool = False) -> Any:
    """Let a value also be a text with ``${...}``."""
    if not isinstance(value, dict) or top:
        return value
    kept = {key: value[key] for key in ("description", "default", "title") if key in value}
    inner = _relax_children({key: item for key, item in value.items() if key not in kept})
    needs = inner.get("type") in _WRAPPED or any(key in inner for key in ("$ref", "enum", "const", "anyOf", "oneOf"))
    if not needs:
        return {**inner, **kept}
    choices = inner["anyOf"] if set(inner) == {"anyOf"} else [inner]
    items = inner.get("prefixItems", [])
    if len(items) == 2 and items[0] == items[1]:
        choices = [*choices, items[0]]  # [from, to] may be written as one value
    return {"anyOf": [*choices, _INTERPOLATED], **kept}


def _relax_children(schema: dict[str, Any]) -> dict[str, Any]:
    result = dict(schema)
    if isinstance(result.get("items"), dict):
        result["items"] = _relax(result["items"])
    if "prefixItems" in result:
        result["prefixItems"] = [_relax(item) for item in result["prefixItems"]]
    if isinstance(result.get("additionalProperties"), dict):
        result["additionalProperties"] = _relax(result["additionalProperties"])
    if "properties" in result:
        result["properties"] = {name: _relax(item) for name, item in result["properties"].items()}
    for key in ("anyOf", "oneOf"):
        if key in result:
            result[key] = [_relax_children(item) for item in result[key]]
    return result
