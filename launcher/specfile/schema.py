"""The JSON Schema of a job spec, for editors that complete and check YAML.

What the schema cannot say, such as combinations of values, `planner` checks.
"""

from typing import Any

from launcher.spec import JobSpec


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a job spec; `null` and absent are one, so it has no nulls."""
    schema = _without_nulls(JobSpec.model_json_schema())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "launcher job spec",
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
