"""Base class of configurations: frozen fields, unknown keys refused, errors in one sentence."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from unsilent.errors import ParameterError, did_you_mean

# Rule that a value breaks, by the type of pydantic's error or its first word; placeholders come from the error's context.
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


# Upper bounds of sizes in configuration files, far above every network's: damaged files are refused before anything is built.
MAX_SIZE, MAX_DEPTH = 1 << 20, 1000


class Config(BaseModel):
    """A frozen model that can be written to JSON or TOML and read back. Units and ranges are in the fields' descriptions.

    Raises:
        ParameterError: for an unknown key, a value out of range, or values that do not fit each other; names the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ParameterError(" ".join(explain(problem, known=type(self).model_fields) for problem in error.errors())) from None


def explain(problem: Any, name: str = "", known: Iterable[str] = ()) -> str:
    """One sentence for a problem that pydantic found: `seed is -1, but must be 0 or more.`

    Args:
        problem: an item of `ValidationError.errors()`.
        name: of the value; by default that of its field.
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
