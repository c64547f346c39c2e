import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from sweep_files import SMALL

from orchestrator.reference import reference
from orchestrator.schema import json_schema

ROOT = Path(__file__).parent.parent


def test_the_schema_in_the_repository_is_up_to_date():
    stored = (ROOT / "sweeps" / "sweep.schema.json").read_text()
    assert stored == json.dumps(json_schema(), indent=2) + "\n", (
        "run: python -m orchestrator.schema > sweeps/sweep.schema.json"
    )


@pytest.mark.parametrize(
    "old", ["trials: 3", "layers: 2", "high: 1e-2", "optimizer.lr: {", "steps: 13", "model: pixeliqn"]
)
def test_the_schema_refuses_what_the_loader_refuses(mistakes, old):
    jsonschema.Draft202012Validator.check_schema(json_schema())
    text = SMALL.replace("1e-4", "1.0e-4").replace("1e-2", "1.0e-2").replace("high: 1e-2", "high: 1.0e-2")
    old = old.replace("1e-2", "1.0e-2")
    jsonschema.validate(yaml.safe_load(text), json_schema())
    wrong = text.replace(old, f"x{old}", 1)
    assert mistakes(wrong)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(wrong), json_schema())


def test_the_reference_page_is_up_to_date():
    stored = (ROOT / "docs" / "reference.md").read_text()
    assert stored == reference(), "run: python -m orchestrator.reference > docs/reference.md"


def test_every_key_has_a_description():
    def without(schema, path=""):
        for key, value in (schema.get("properties") or {}).items():
            if isinstance(value, dict) and "$ref" not in value and not value.get("description"):
                yield f"{path}.{key}"
        for key, value in schema.items():
            for inner in value if isinstance(value, list) else [value]:
                if isinstance(inner, dict):
                    yield from without(inner, f"{path}.{key}")

    assert list(without(json_schema())) == []


@pytest.mark.parametrize(
    ("model", "key"), [("made", "planes: 3"), ("vae", "trunk: snail"), ("pixelcnn", "hidden: [5]")]
)
def test_a_model_has_only_its_own_keys(model, key):
    text = f"name: x\narms: {{a: {{model: {{name: {model}, {key}}}}}}}"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(yaml.safe_load(text), json_schema())
    jsonschema.validate(yaml.safe_load(text.replace(f"name: {model}, ", "")), json_schema())  # named elsewhere
