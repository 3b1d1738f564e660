"""What a client may ask for: the schema of a job, and the limits of a server."""

from typing import Literal

from pydantic import Field

from unsilent.choices import Layer, VocoderChoice
from unsilent.config import Config
from unsilent.errors import ParameterError
from unsilent.request import AUDITION_SECONDS, FINALISTS, OWN, Defaults, Request
from unsilent.server.settings import Settings

Kind = Literal["generate", "retake", "reconstruct", "encode", "decode"]
CANDIDATES = 12  # of each take of `everyday`, for the expected work
NEEDS = {
    "generate": ("video",),
    "retake": ("video",),
    "reconstruct": ("video", "sound"),
    "encode": ("video", "sound"),
    "decode": ("codes",),
}


class Again(Config):
    """A stretch of a finished sound that is made anew; every sample outside it stays. Fields as of `unsilent retake`."""

    job: str = Field(description="Id of the job that made it.")
    sound: str = Field(description="Name of its video among the files of that job, such as `take1.mp4`.")
    start: float | None = Field(default=None, description="Seconds.")
    stop: float | None = Field(default=None, description="Seconds; None is the end.")
    seed: int | None = Field(default=None, ge=0, description="None takes one more than the last.")
    takes: int = Field(default=1, ge=1, description="Results, the best first.")
    candidates: int = Field(default=8, ge=1, description="How many are sampled.")
    label: str | None = Field(default=None, description="What sounds there; None as in the sound.")
    layer: Layer = Field(default="replace", description="Replace what is there, or mix with it.")
    keep: float = Field(default=0.0, ge=0, lt=1, description="Share of the codes that stay.")


class Ask(Config):
    """A job: what is done with an upload. `request` is that of the command line and of Python, see `unsilent.Request`."""

    kind: Kind = Field(
        default="generate",
        description="Make sounds; make a stretch anew; send the own sound through the codes and back; to codes; from codes.",
    )
    input: str = Field(description="Id of an upload: a video; for the other kinds a sound, or a file of codes.")
    model: str = Field(default="everyday", description="Name of a model whose weights are on the server.")
    vocoder: VocoderChoice = Field(default="neural", description="Mel to waveform.")
    again: Again | None = Field(default=None, description="For `retake`: what is made anew. The model is that of the job.")
    compare: bool = Field(default=False, description="With `generate`: also give the video's own sound and its reconstruction.")
    attention: bool = Field(default=False, description="Also compute what the sampler's attention looks at.")
    request: Request = Field(
        default=Request(), description="Parameters of `generate`. `like`, and `prime` unless it is `own`, are ids of other uploads."
    )


def check_ask(ask: Ask, found: str, has_sound: bool, seconds: float, defaults: Defaults, settings: Settings) -> None:
    """Refuse a job before it waits.

    Args:
        ask: as given; its model is here.
        found: kind of the upload: `video`, `sound` or `codes`.
        has_sound: whether the upload has a sound.
        seconds: length of the upload.
        defaults: of the model.
        settings: with the limits.

    Raises:
        ParameterError: if the upload is of the wrong kind, a value does not fit the model, or a limit is exceeded.
    """
    if found not in NEEDS[ask.kind] or (ask.kind not in ("generate", "retake") and not has_sound):
        wanted = " or ".join(
            {"video": "a video with sound" if ask.kind not in ("generate", "retake") else "a video"}.get(one, one)
            for one in NEEDS[ask.kind]
        )
        raise ParameterError(f"{ask.kind} needs {wanted}; this upload is {found if has_sound else found + ' without sound'}.")
    if (ask.kind == "retake") != (ask.again is not None):
        raise ParameterError("`again` says what a retake makes anew; give it with the kind retake, and only there.")
    if ask.again is not None and max(ask.again.takes, ask.again.candidates) > settings.max_takes:
        raise ParameterError(f"candidates is {ask.again.candidates}; this server samples {settings.max_takes} at most.")
    if ask.kind != "generate":
        return
    if ask.attention and ask.request.stream:
        raise ParameterError("the attention of a stream is not recorded; leave out attention, or stream.")
    if ask.compare and not has_sound:
        raise ParameterError("compare puts the video's own sound beside the others, but the video has none; leave it out.")
    request = ask.request.resolve(defaults)
    draws = request.takes * (request.candidates or 1)
    if draws > settings.max_takes:
        raise ParameterError(f"takes times candidates is {draws}; this server makes {settings.max_takes} at most.")
    if (request.seconds or 0) > settings.max_seconds:
        raise ParameterError(f"seconds is {request.seconds:g}; this server makes {settings.max_seconds:g} at most.")
    needed = expected_bytes(request.seconds or seconds, request.takes)
    if needed > settings.max_memory:
        raise ParameterError(
            f"this needs {needed / 1e9:.1f} GB of memory; this server has {settings.max_memory / 1e9:.1f}: ask for fewer takes or seconds."
        )
    if request.prime == OWN and not has_sound:
        raise ParameterError("prime is `own`, but the video has no sound of its own; name another upload.")


def expected_bytes(seconds: float, takes: int) -> float:
    """Memory of a process that makes sounds, as measured with `everyday` on a CPU: what is loaded, and what grows with the sound.

    Args:
        seconds: of the sound.
        takes: of it.
    """
    return 0.8e9 + seconds * (1.1e6 + 0.15e6 * takes)


def expected_seconds(ask: Ask, seconds: float) -> float:
    """Seconds of work on a job, as measured with `everyday` on two quiet cores; a server learns how much faster or slower it is.

    Args:
        ask: the job.
        seconds: length of the upload.
    """
    request = ask.request
    seconds, takes = request.seconds or seconds, request.takes
    if ask.kind == "generate":
        windows = seconds + 0.5 * max(0.0, seconds - 10)  # later ones overlap
        candidates, auditioned = request.candidates or CANDIDATES, min(windows, AUDITION_SECONDS)
        sampled = candidates * auditioned + min(candidates, FINALISTS) * (windows - auditioned)
        return 0.3 + 0.25 * takes + windows * (0.03 + 0.02 * takes) + 0.0085 * takes * sampled
    return 0.3 + 0.03 * seconds
