"""The JSON Schema of a job spec, for editors that complete and check YAML.

What the schema cannot say, such as combinations of values, `planner` checks.
"""

import ast
import inspect
import itertools
from typing import Any

from launcher import spec


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a job spec; `null` and absent are one, so it has no nulls."""
    schema = _without_nulls(spec.JobSpec.model_json_schema())
    texts = _field_docstrings()
    for name, section in [("JobSpec", schema), *schema["$defs"].items()]:
        for part in (section, *section.get("anyOf", ())):
            for field, value in part.get("properties", {}).items():
                if text := texts.get((name, field)):
                    value["description"] = text
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "launcher job spec",
    }


def _field_docstrings() -> dict[tuple[str, str], str]:
    """The text under each field of `spec`, by class and field, inherited ones too.

    Pydantic can collect it itself, but at every import, which `validate` would pay for.
    """
    own = {}
    for section in ast.parse(inspect.getsource(spec)).body:
        if isinstance(section, ast.ClassDef):
            for field, text in itertools.pairwise(section.body):
                match field, text:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(docstring))),
                    ):
                        own[section.name, name] = docstring
    return {
        (section.__name__, field): own[base.__name__, field]
        for section in vars(spec).values()
        if isinstance(section, type)
        for base in reversed(section.__mro__)
        for field in getattr(section, "model_fields", ())
        if (base.__name__, field) in own
    }


def _without_nulls(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_nulls(item) for item in value if item != {"type": "null"}]
    if not isinstance(value, dict):
        return value
    rest = {k: _without_nulls(v) for k, v in value.items() if (k, v) != ("default", None)}
    options = rest.get("anyOf")
    if isinstance(options, list) and len(options) == 1:
        del rest["anyOf"]
        return {**options[0], **rest}
    return rest
