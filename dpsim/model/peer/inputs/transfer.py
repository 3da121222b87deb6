"""What an ``input.json`` says of parts that are not trained and of a pretrained model (spec fittings.md §13)."""

from __future__ import annotations

from typing import Any

from dpsim.model.peer.section import InputSection


def take_frozen(model: InputSection) -> list[str]:
    """Parts of a model whose ``trainable`` is false, as dpsim names them; the keys are taken out.

    One false among those of the layers of a fitting net holds for the whole net, as in the reference.
    """
    kind = model.node.get("type", "standard")
    if kind == "linear_ener":
        return []  # its parts have sections of their own, which refuse the key
    prefix = "backbone." if "spin" in model.node else "models.0." if "use_srtab" in model.node else ""
    frozen: list[str] = []
    for key, part in (("descriptor", "descriptor"), ("fitting_net", "fitting")):
        node = model.node.get(key)
        if isinstance(node, dict):
            model.node[key] = _without_flag(node, prefix + part, frozen)
    return frozen


def _without_flag(node: dict[str, Any], part: str, frozen: list[str]) -> dict[str, Any]:
    """The section without ``trainable``, also within a hybrid; parts that are not trained are added to `frozen`."""
    rest = {key: value for key, value in node.items() if key != "trainable"}
    flag = node.get("trainable", True)
    if flag is False or (isinstance(flag, list) and not all(flag)):
        frozen.append(part)
    members = node.get("list")
    if isinstance(members, list):
        rest["list"] = [
            _without_flag(member, f"{part}.members.{index}", frozen) if isinstance(member, dict) else member
            for index, member in enumerate(members)
        ]
    return rest


def take_pretrained(model: InputSection, notes: list[str]) -> None:
    """Take all settings of a model that a pretrained one replaces."""
    replaced = [key for key in model.node if key not in ("type_map", "type")]
    for key in list(model.node):
        model.take(key)
    if replaced:
        notes.append(f"{model.where}.{{{', '.join(replaced)}}}: the settings of the pretrained model hold instead")
