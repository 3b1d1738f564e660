"""Jobs that a client can submit: their schema, their checks against a server's limits, and their expected cost."""

from typing import Literal

from pydantic import Field

from unsilent.choices import Layer, VocoderChoice
from unsilent.config import Config
from unsilent.errors import ParameterError
from unsilent.request import AUDITION_SECONDS, FINALISTS, OWN, Defaults, Request
from unsilent.server.settings import Settings

Kind = Literal["generate", "retake", "reconstruct", "encode", "decode"]
CANDIDATES = 12  # default candidates per take of `everyday`, for the estimate of the work
NEEDS = {
    "generate": ("video",),
    "retake": ("video",),
    "reconstruct": ("video", "sound"),
    "encode": ("video", "sound"),
    "decode": ("codes",),
}


class Again(Config):
    """Parameters of a retake: a stretch of a finished sound that is regenerated. The fields match `unsilent retake`."""

    job: str = Field(description="Id of the job that generated the sound.")
    sound: str = Field(description="Name of the sound's video among the files of that job, such as `take1.mp4`.")
    start: float | None = Field(default=None, description="Start of the stretch in seconds; None is the beginning.")
    stop: float | None = Field(default=None, description="End of the stretch in seconds; None is the end of the sound.")
    seed: int | None = Field(default=None, ge=0, description="Random seed; None takes the previous seed + 1.")
    takes: int = Field(default=1, ge=1, description="Number of results, best first.")
    candidates: int = Field(default=8, ge=1, description="Number of candidates to sample.")
    label: str | None = Field(default=None, description="Class name of the new stretch; None is that of the sound.")
    layer: Layer = Field(default="replace", description="Replace the old sound, or mix the new one with it.")
    keep: float = Field(default=0.0, ge=0, lt=1, description="Fraction of the codes to keep.")


class Ask(Config):
    """A job: how to process an upload. `request` has the same fields as on the command line and in Python, see `unsilent.Request`."""

    kind: Kind = Field(
        default="generate",
        description="Generate sounds, regenerate a stretch, reconstruct the upload's sound, encode it as codes, or decode codes.",
    )
    input: str = Field(description="Id of an upload: a video; a video or sound to reconstruct or encode; a file of codes to decode.")
    model: str = Field(default="everyday", description="Name of a model that is installed on the server.")
    vocoder: VocoderChoice = Field(default="neural", description="Method from mel to waveform.")
    again: Again | None = Field(default=None, description="Parameters of `retake`. It uses the model of the original job.")
    compare: bool = Field(default=False, description="With `generate`: also return the video's own sound and its reconstruction.")
    attention: bool = Field(default=False, description="Also compute the sampler's attention map.")
    request: Request = Field(
        default=Request(), description="Parameters of `generate`. `like`, and `prime` unless it is `own`, are ids of other uploads."
    )


def check_ask(ask: Ask, found: str, has_sound: bool, seconds: float, defaults: Defaults, settings: Settings) -> None:
    """Check a job before it is queued.

    Args:
        ask: the job as submitted; its model is installed.
        found: kind of the upload: `video`, `sound` or `codes`.
        has_sound: whether the upload has sound.
        seconds: length of the upload in seconds.
        defaults: defaults of the model.
        settings: settings of the server, with its limits.

    Raises:
        ParameterError: if the upload has the wrong kind, the model does not allow a value, or a limit is exceeded.
    """
    if found not in NEEDS[ask.kind] or (ask.kind not in ("generate", "retake") and not has_sound):
        wanted = " or ".join(
            {"video": "a video with sound" if ask.kind not in ("generate", "retake") else "a video"}.get(one, one)
            for one in NEEDS[ask.kind]
        )
        raise ParameterError(f"{ask.kind} needs {wanted}; this upload is {found if has_sound else found + ' without sound'}.")
    if (ask.kind == "retake") != (ask.again is not None):
        raise ParameterError("`again` must be given if kind is retake, and only then.")
    if ask.again is not None and max(ask.again.takes, ask.again.candidates) > settings.max_takes:
        raise ParameterError(f"candidates is {ask.again.candidates}, but the limit of this server is {settings.max_takes}.")
    if ask.kind != "generate":
        return
    if ask.attention and ask.request.stream:
        raise ParameterError("the attention of a stream is not recorded; leave out attention, or stream.")
    if ask.compare and not has_sound:
        raise ParameterError("compare returns the video's own sound, but the video has none; leave it out.")
    request = ask.request.resolve(defaults)
    draws = request.takes * (request.candidates or 1)
    if draws > settings.max_takes:
        raise ParameterError(f"takes times candidates is {draws}, but the limit of this server is {settings.max_takes}.")
    if (request.seconds or 0) > settings.max_seconds:
        raise ParameterError(f"seconds is {request.seconds:g}, but the limit of this server is {settings.max_seconds:g}.")
    needed = expected_bytes(request.seconds or seconds, request.takes)
    if needed > settings.max_memory:
        raise ParameterError(
            f"this needs {needed / 1e9:.1f} GB of memory, but the limit is {settings.max_memory / 1e9:.1f} GB; reduce takes or seconds."
        )
    if request.prime == OWN and not has_sound:
        raise ParameterError("prime is `own`, but the video has no sound; give the id of another upload.")


def expected_bytes(seconds: float, takes: int) -> float:
    """Estimate the memory of a process that generates sounds, from measurements with `everyday` on a CPU.

    Args:
        seconds: length of the sound.
        takes: number of takes.
    """
    return 0.8e9 + seconds * (1.1e6 + 0.15e6 * takes)


def expected_seconds(ask: Ask, seconds: float) -> float:
    """Estimate the processing time of a job in seconds, from measurements with `everyday` on two idle cores. A server corrects
    it by its own speed.

    Args:
        ask: the job.
        seconds: length of the upload in seconds.
    """
    request = ask.request
    seconds, takes = request.seconds or seconds, request.takes
    if ask.kind == "generate":
        windows = seconds + 0.5 * max(0.0, seconds - 10)  # windows after the first overlap
        candidates, auditioned = request.candidates or CANDIDATES, min(windows, AUDITION_SECONDS)
        sampled = candidates * auditioned + min(candidates, FINALISTS) * (windows - auditioned)
        return 0.3 + 0.25 * takes + windows * (0.03 + 0.02 * takes) + 0.0085 * takes * sampled
    return 0.3 + 0.03 * seconds
