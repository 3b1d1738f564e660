"""Cues and stretches: which sound is requested at which time. `exchange` reads and writes their files."""

from pydantic import Field, model_validator

from unsilent.config import MAX_SECONDS, Config
from unsilent.errors import ParameterError

AUTO = "auto"  # value of `Request.cues`: impacts detected in the video


class Cue(Config):
    """A moment at which something sounds."""

    seconds: float = Field(ge=0, le=MAX_SECONDS, description="Time since the first frame.")
    strength: float = Field(default=1.0, gt=0, le=1, description="Amplitude relative to a cue of 1.")
    label: str | None = Field(default=None, min_length=1, description="Class that sounds until the next cue; None is the request's label.")
    length: float | None = Field(default=None, gt=0, description="Seconds until silence, up to the next cue; None lets the sound decay.")

    def __str__(self) -> str:
        text = f"{self.seconds:g}" + ("" if self.strength == 1 else f"*{self.strength:g}")
        return text + ("" if self.length is None else f"+{self.length:g}") + ("" if self.label is None else f":{self.label}")


class Stretch(Config):
    """A stretch of time and the class that sounds in it."""

    start: float = Field(ge=0, le=MAX_SECONDS, description="Seconds since the first frame.")
    stop: float = Field(gt=0, le=MAX_SECONDS, description="Seconds since the first frame, after `start`.")
    label: str | None = Field(default=None, min_length=1, description="Class that sounds; None is silence.")

    @model_validator(mode="after")
    def _has_length(self) -> "Stretch":
        if self.stop <= self.start:
            raise ParameterError(f"the stretch from {self.start:g} to {self.stop:g} s ends before it begins; give start-stop in seconds.")
        return self

    def __str__(self) -> str:
        return f"{self.start:g}-{self.stop:g}" + ("" if self.label is None else f":{self.label}")


def parse_stretch(text: str) -> Stretch:
    """Parse `START-STOP` in seconds, such as `2-4.5`.

    Raises:
        ParameterError: for other text.
    """
    start, _, stop = text.partition("-")
    try:
        return Stretch(start=float(start), stop=float(stop))
    except ValueError as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"{text!r} is not a stretch of time; give seconds as START-STOP, such as 2-4.5.") from None
