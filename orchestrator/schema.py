"""The JSON Schema of a sweep file, for editors, made from the classes of the settings themselves.

`python -m orchestrator.schema` prints it; it is kept in sweeps/sweep.schema.json.
"""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from aiqn_core.command import NAME as VALUE
from aiqn_core.command import Command
from aiqn_core.config import BESIDE_COMMAND, NAMED, PLAIN, SECTIONS, Chosen, ModelConfig
from orchestrator.document import KEYS
from orchestrator.objectives import known_metrics
from orchestrator.runs import NAME, SWEEP_NAME
from orchestrator.sections import OwnSections
from orchestrator.space import searchable

OWN = {"type": "string", "pattern": r"^[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*$"}  # a class of `code`


def json_schema() -> dict[str, Any]:
    """What editors check a sweep file with while it is written (draft 2020-12)."""
    from orchestrator.samplers import PRUNERS, SAMPLERS

    sections = {key: {"$ref": f"#/$defs/{key}"} for key in SECTIONS}
    schema = OwnSections.model_json_schema()
    definitions = schema["$defs"]
    definitions |= {key: _section_schema(key) for key in SECTIONS}
    method = _object({**sections, "space": {"$ref": "#/$defs/space"}}, "A method, and what may vary in it.")
    definitions["arm"] = {"if": {"required": ["command"]}, "then": {"$ref": "#/$defs/command"}, "else": method}
    definitions["command"] = _command_schema(sections)
    definitions["dimension"] = _dimension_schema("space")
    definitions["value"] = _dimension_schema("values")
    definitions["values"] = {
        "type": "object",
        "description": "What may vary: the names in braces of the command.",
        "patternProperties": {f"^{VALUE.pattern}$": {"$ref": "#/$defs/value"}},
        "additionalProperties": False,
    }
    dimensions = {key: {"$ref": "#/$defs/dimension"} for key in searchable()}
    definitions["space"] = {
        "type": "object",
        "description": "What may vary: dotted keys of the configuration.",
        "properties": dimensions,
        # Keys of somebody's own classes are checked when the sweep is loaded; a word without a dot is none.
        "patternProperties": {r"^(model|optimizer|schedule|loss)\.": {"$ref": "#/$defs/dimension"}},
        "additionalProperties": False,
    }
    for key, names in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
        name = {"description": "As Optuna names it, in small letters.", "enum": list(names)}
        with_arguments = {"type": "object", "properties": {"name": name}, "required": ["name"]}
        described = definitions["Search"]["properties"][key].get("description", "")
        definitions["Search"]["properties"][key] = {"description": described, "anyOf": [name, with_arguments]}
    metric = {"anyOf": [{"enum": list(known_metrics())}, {"type": "string"}]}
    definitions["Objective"]["properties"]["metric"] |= metric
    one = {"anyOf": [metric, {"$ref": "#/$defs/Objective"}]}
    definitions["Search"]["properties"]["objective"] = {
        "description": "The metric that decides which trial is better, or several; left out, the distance to the data.",
        "anyOf": [one, {"type": "array", "items": one, "minItems": 1}],
    }
    arms = {
        "type": "object",
        "description": "The methods that are compared, by name.",
        "minProperties": 1,
        "propertyNames": {"pattern": f"^{NAME.pattern}$"},
        "additionalProperties": {"$ref": "#/$defs/arm"},
    }
    code = {
        "type": "string",
        "description": "A Python file or package folder beside this one, with your own classes.",
    }
    properties = {**schema["properties"], **sections, "arms": arms, "code": code}
    properties["name"] = {
        "type": "string",
        "description": "Of the sweep, and of its run folder.",
        "pattern": f"^{SWEEP_NAME.pattern}$",
        "maxLength": 100,
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "AIQN sweep",
        **_object({key: properties[key] for key in KEYS}, "A sweep: arms that are tuned with the same budget."),
        "required": ["name", "arms"],
        "$defs": definitions,
    }


def _object(properties: Mapping[str, Any], description: str) -> dict[str, Any]:
    return {"type": "object", "description": description, "properties": properties, "additionalProperties": False}


def _section_schema(section: str) -> dict[str, Any]:
    """A section of a training: of a named one only the keys that the named thing has."""
    if section in PLAIN:
        return _settings_schema(PLAIN[section])
    if section == "loss":
        losses = {found.thing.loss for found in ModelConfig.ours().values() if found.thing.loss is not None}
        return _object(_union([_settings_schema(loss) for loss in sorted(losses, key=str)]), "Of the quantile losses.")
    return _named_schema(NAMED[section])


def _named_schema(kind: type[Chosen]) -> dict[str, Any]:
    each = {name: _settings_schema(found.settings) for name, found in kind.ours().items()}
    described = {name: one.get("description", "") for name, one in each.items()}
    alternatives = [
        {
            **_object({"name": {"const": name, "description": described[name]}, **one["properties"]}, described[name]),
            "required": ["name"],
        }
        for name, one in each.items()
    ]
    without_name = _object(_union(list(each.values())), "Settings of what is named elsewhere.")
    own = {
        "type": "object",
        "properties": {"name": {**OWN, "description": "Its name."}},
        "required": ["name"],
        "description": "A class of your own.",
    }
    names: list[dict[str, Any]] = [{"enum": list(each)}, OWN]
    if kind.role == "data":  # every other word is a name of prepared data
        names = [{"type": "string"}]
        own["properties"] = {"name": {"type": "string", "description": "As it was prepared."}}
    return {"description": (kind.__doc__ or "").split("\n")[0], "anyOf": [*names, *alternatives, own, without_name]}


def _union(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """The keys of several classes; of one that they have with different types, any of them."""
    found: dict[str, list[Any]] = {}
    for schema in schemas:
        for key, value in schema["properties"].items():
            bare = {word: what for word, what in value.items() if word != "default"}
            if bare not in found.setdefault(key, []):
                found[key].append(bare)
    return {
        key: values[0] if len(values) == 1 else {"description": values[0].get("description", ""), "anyOf": values}
        for key, values in found.items()
    }


def _settings_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """The schema of a class of settings without references, every key of which may also be null: left out."""
    schema = kind.model_json_schema(by_alias=True)
    for value in schema.get("properties", {}).values():
        value.pop("title", None)
    return _object(schema.get("properties", {}), " ".join((kind.__doc__ or "").split("\n")[0].split()))


def _command_schema(sections: Mapping[str, Any]) -> dict[str, Any]:
    """An arm that is a command, with the sections that mean something to it."""
    own = _settings_schema(Command)["properties"]
    steps = {"steps": _settings_schema(PLAIN["train"])["properties"]["steps"]}
    train = _object(steps, "How many steps the command is told to train; what one is, it decides itself.")
    keys = {"command": own["line"], "values": own["values"], "files": own["files"]}
    beside = {key: sections[key] for key in BESIDE_COMMAND} | {"train": train}
    return _object({**beside, **keys, "space": {"$ref": "#/$defs/values"}}, (Command.__doc__ or "").strip())


def _dimension_schema(space: str) -> dict[str, Any]:
    number, choices = {"type": "number"}, {"type": "array", "minItems": 1}
    keys = {
        "low": {**number, "description": "The smallest value."},
        "high": {**number, "description": "The largest value."},
        "log": {"type": "boolean", "description": "Whether small and large factors are equally likely."},
        "step": {"type": ["number", "null"], "description": "The distance of two values."},
    }
    bounds = {**_object(keys, "A range, both ends included."), "required": ["low", "high"]}
    below = {"anyOf": [{"$ref": f"#/$defs/{space}"}, {"type": "null"}]}
    branches = {"type": "object", "minProperties": 1, "not": {"required": ["low"]}, "additionalProperties": below}
    return {"anyOf": [choices, bounds, branches]}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
