"""The expanded form of a workflow: every default filled in, every quantity with its unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from dpsim.workflow.language.yaml_loader import core_resolvers
from dpsim.workflow.planning.plan import Plan
from dpsim.workflow.records.digest import digest_bytes


class _Dumper(yaml.SafeDumper):
    """Writes text so that the YAML 1.2 loader reads it back as text."""

    yaml_implicit_resolvers = core_resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out; aliases are for people who write."""
        return True


def to_yaml(value: Any) -> str:
    """Return plain values as YAML that `yaml_loader` reads back to the same values."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=None)


def lock_file(plan: Plan) -> str:
    """Return the text of ``workflow.lock.yaml``."""
    workflow = plan.workflow
    files = {path.name: digest_bytes(path.read_bytes()) for path in workflow.document.files}
    head = "# Made by dpsim: the workflow as it is understood, with defaults and units. A copy for reading.\n"
    body: dict[str, Any] = {"dpsim": 1, "name": workflow.name, "seed": workflow.seed}
    if workflow.type_map:
        body["type_map"] = list(workflow.type_map)
    body["x-digests"] = files
    body["stages"] = {name: expanded(workflow.tasks[name].config) for name in plan.order}
    return head + to_yaml(body)


def expanded(config: BaseModel) -> dict[str, Any]:
    """Return the settings of a model as plain values, quantities as text with their unit, without absent ones."""
    result = {}
    for name, info in type(config).model_fields.items():
        value = _plain(getattr(config, name), info.annotation, _unit_of(info))
        if value is not None and value != {}:
            result[info.alias or name] = value
    return result


def _plain(value: Any, annotation: Any, unit: str | None) -> Any:
    if isinstance(value, BaseModel):
        return expanded(value)
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        unit = unit if unit is not None else next(_units(annotation), None)
        number = float(f"{value:.12g}")
        return f"{number:.12g} {unit}" if unit and unit != "1" else number
    if isinstance(value, list | tuple | frozenset | set):
        inner = _item_annotations(annotation, len(value))
        return [_plain(item, inner[i], unit) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        inner_annotation = _value_annotation(annotation)
        return {str(key): _plain(item, inner_annotation, None) for key, item in value.items()}
    return str(value) if isinstance(value, str) else value


def _unit_of(info: FieldInfo) -> str | None:
    extra = info.json_schema_extra
    return str(extra["unit"]) if isinstance(extra, dict) and "unit" in extra else None


def _units(annotation: Any) -> Iterator[str]:
    """Yield the units of the quantities among the members of a union."""
    for item in getattr(annotation, "__metadata__", ()):
        if isinstance(item, FieldInfo) and (unit := _unit_of(item)) is not None:
            yield unit
    for part in get_args(annotation):
        if get_origin(annotation) not in (list, tuple, dict):
            yield from _units(part)


def _members(annotation: Any) -> Iterator[Any]:
    """Yield the list-like members inside of Annotated and unions."""
    if getattr(annotation, "__metadata__", None) is not None:
        yield from _members(get_args(annotation)[0])
    elif get_origin(annotation) in (list, tuple, dict, Mapping):
        yield annotation
    else:
        for part in get_args(annotation):
            yield from _members(part)


def _item_annotations(annotation: Any, count: int) -> list[Any]:
    for member in _members(annotation):
        arguments = [part for part in get_args(member) if part is not Ellipsis]
        if get_origin(member) is list or (get_origin(member) is tuple and len(arguments) == 1):
            return arguments[:1] * count
        if get_origin(member) is tuple and len(arguments) == count:
            return arguments
    return [None] * count


def _value_annotation(annotation: Any) -> Any:
    for member in _members(annotation):
        if get_origin(member) in (dict, Mapping):
            return get_args(member)[1]
    return None
