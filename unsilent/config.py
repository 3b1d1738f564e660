"""Base class of configurations: frozen fields, unknown keys refused, errors in one sentence."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from unsilent.errors import ParameterError, did_you_mean

# Allowed values by pydantic's error type, or by its first word; placeholders come from the error's context.
_RULES = {
    "greater_than": "above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "below {lt:g}",
    "less_than_equal": "{le:g} or less",
    "multiple_of": "a multiple of {multiple_of:g}",
    "literal_error": "{expected}",
    "finite_number": "a finite number",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "tuple": "a list",
}


# Upper bounds of sizes in configuration files, far above those of any network, so that damaged files are refused before allocation.
MAX_SIZE, MAX_DEPTH = 1 << 20, 1000
MAX_HOURS = 12  # longest video and longest sound, which takes about 1 GB of memory per hour
MAX_SECONDS = MAX_HOURS * 3600


class Config(BaseModel):
    """A frozen pydantic model that can be written to JSON or TOML and read back. Field descriptions give units and ranges.

    Raises:
        ParameterError: for an unknown key, a value out of range, or inconsistent values; the message names the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ParameterError(" ".join(explain(problem, known=type(self).model_fields) for problem in error.errors())) from None


def explain(problem: Any, name: str = "", known: Iterable[str] = ()) -> str:
    """One sentence for a pydantic error: `seed is -1, but must be 0 or more.`

    Args:
        problem: an item of `ValidationError.errors()`.
        name: name of the value; by default its field's.
        known: names of all fields, for suggestions.
    """
    kind, name = problem["type"], name or ".".join(map(str, problem["loc"]))
    if kind == "extra_forbidden":
        hint = did_you_mean(name, known) or f"known are {', '.join(known)}."
        return f"there is no field {name!r}; {hint.rstrip()}"
    if kind == "missing":
        return f"{name} is missing."
    if rule := _RULES.get(kind) or _RULES.get(kind.split("_")[0]):
        return f"{name} is {problem['input']!r}, but must be {rule.format(**problem.get('ctx', {}))}."
    what = problem["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{name}: {what}." if name else f"{what}."
