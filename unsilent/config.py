"""Base class of configurations: frozen fields, unknown keys refused, errors in one sentence."""

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from unsilent.errors import ParameterError


class Config(BaseModel):
    """A frozen model that can be written to JSON or TOML and read back. Units and ranges are in the fields' descriptions.

    Raises:
        ParameterError: for an unknown key, a value out of range, or values that do not fit each other; names the field.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ParameterError(f"{type(self).__name__}: {'; '.join(_say(problem) for problem in error.errors())}.") from None


def _say(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    what = problem["msg"].removeprefix("Value error, ").rstrip(".")
    found = "" if problem["type"] in ("value_error", "missing") else f" (found {problem['input']!r})"
    return f"{where}: {what}{found}" if where else what + found
