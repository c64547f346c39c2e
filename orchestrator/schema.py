"""The JSON Schema of a sweep file, for editors.

`python -m orchestrator.schema` prints it; it is kept in sweeps/sweep.schema.json.
"""

import dataclasses
import json
import math
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from aiqn_core.config import Range, TrainConfig
from orchestrator.document import KEYS
from orchestrator.objectives import known_metrics
from orchestrator.runs import NAME, SWEEP_NAME
from orchestrator.sections import OwnSections
from orchestrator.space import (
    SECTIONS,
    searchable,
)


def json_schema() -> dict[str, Any]:
    """What editors check a sweep file with while it is written (draft 2020-12)."""
    from orchestrator.samplers import PRUNERS, SAMPLERS

    hints = get_type_hints(TrainConfig, include_extras=True)
    sections = {key: {"$ref": f"#/$defs/{key}"} for key in SECTIONS}
    schema = OwnSections.model_json_schema()
    definitions = schema["$defs"]
    definitions |= {key: _hint_schema(hints[key]) for key in SECTIONS}
    definitions["arm"] = _object({**sections, "space": {"$ref": "#/$defs/space"}}, "A method, and what may vary in it.")
    definitions["dimension"] = _dimension_schema()
    dimensions = {key: {"$ref": "#/$defs/dimension"} for key in searchable()}
    definitions["space"] = _object(dimensions, "What may vary: dotted keys of the configuration.")
    for key, names in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        name = {"enum": list(names)}
        with_arguments = {"type": "object", "properties": {"name": name}, "required": ["name"]}
        definitions["Search"]["properties"][key] = {"anyOf": [name, with_arguments]}
    metric = {"enum": list(known_metrics())}
    definitions["Objective"]["properties"]["metric"] |= metric
    one = {"anyOf": [metric, {"$ref": "#/$defs/Objective"}]}
    definitions["Search"]["properties"]["objective"] = {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}
    arms = {
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": {"$ref": "#/$defs/arm"},
    }
    properties = {**schema["properties"], **sections, "arms": arms}
    properties["name"] = {"type": "string", "pattern": f"^{SWEEP_NAME.pattern}$", "maxLength": 100}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "AIQN sweep",
        **_object({key: properties[key] for key in KEYS}, "A sweep: arms that are tuned with the same budget."),
        "required": ["name", "arms"],
        "$defs": definitions,
    }


def _object(properties: dict[str, Any], description: str) -> dict[str, Any]:
    return {"type": "object", "description": description, "properties": properties, "additionalProperties": False}


def _dimension_schema() -> dict[str, Any]:
    number, choices = {"type": "number"}, {"type": "array", "minItems": 1}
    keys = {"low": number, "high": number, "log": {"type": "boolean"}, "step": {"type": ["number", "null"]}}
    bounds = {**_object(keys, "A range, both ends included."), "required": ["low", "high"]}
    below = {"anyOf": [{"$ref": "#/$defs/space"}, {"type": "null"}]}
    branches = {"type": "object", "minProperties": 1, "not": {"required": ["low"]}, "additionalProperties": below}
    return {"anyOf": [choices, bounds, branches]}


def _hint_schema(hint: Any) -> dict[str, Any]:
    """The schema of a type in aiqn_core.config."""
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        section = _object({key: _hint_schema(kind) for key, kind in hints.items()}, (hint.__doc__ or "").split("\n")[0])
        return {"anyOf": [section, _hint_schema(hints["name"])]} if "name" in hints else section
    if origin in (Union, types.UnionType):
        return {"anyOf": [_hint_schema(arg) for arg in args if arg is not types.NoneType] + [{"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _hint_schema(args[0]), "minItems": 1}
    if origin is Literal:
        return {"enum": list(args)}
    if origin is Annotated:
        return {**_hint_schema(args[0]), **_bounds_schema(args[1])}
    return {"type": {int: "integer", float: "number", str: "string", bool: "boolean"}[hint]}


def _bounds_schema(bounds: Range) -> dict[str, float]:
    ends = {
        "minimum": bounds.low,
        "exclusiveMinimum": bounds.above,
        "maximum": bounds.high,
        "exclusiveMaximum": bounds.below,
    }
    return {word: end for word, end in ends.items() if math.isfinite(end)}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
