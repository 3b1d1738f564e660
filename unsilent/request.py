"""Parameters of a generation: a frozen record that is resolved once against a model's defaults."""

import logging
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from unsilent.choices import MAX_SAMPLED, MAX_TAKES, Bits, Original, PrimeKeep, Scenes, SoundRate
from unsilent.config import MAX_SECONDS, Config
from unsilent.cues import AUTO, Cue, Stretch
from unsilent.errors import ParameterError
from unsilent.labels import is_name_of, labels_meant, nearest_label

log = logging.getLogger(__name__)

OWN = "own"  # value of `prime`: the video's own sound
PRIME_SECONDS = 3.0  # default length of a prime
CUE_CANDIDATES = 4  # default number of candidates with cues, because their onsets differ in how well they fit
AUDITION_SECONDS = 2.6  # length of an audition, after which most candidates end (LOG.md)
MAX_WORDS = 200  # labels over time, or sounds to avoid, that are no class names
FINALISTS = 3  # candidates of each take that continue after the audition (LOG.md)


@dataclass(frozen=True)
class Defaults:
    """A model's defaults for a request, and the limits of its values.

    Attributes:
        model: the model's name, for messages.
        n_codes: entries of the codebook, the upper limit of `top_k`.
        top_k, temperature, guidance: defaults of these fields.
        classes: class names by the sampler's class numbers; empty for a model without classes.
        candidates: default of this field; 0 for a model that cannot rank, because it lacks a listener or sight.
        sees: whether the model recognises the class from the frames if no label is given.
    """

    model: str
    n_codes: int
    top_k: int
    temperature: float
    guidance: float
    classes: tuple[str, ...] = ()
    candidates: int = 0
    sees: bool = False


class Request(Config):
    """A request for one or several sounds of one video. None takes the model's default, see `resolve`."""

    seed: int = Field(default=0, ge=0, description="Source of all randomness. Same seed, video, model and machine: same sound.")
    takes: int = Field(
        default=1, ge=1, le=MAX_TAKES, description="Number of different sounds. Without ranking, take t does not depend on this number."
    )
    top_k: int | None = Field(
        default=None, ge=1, description="Sample among the k most likely codes, 1 to the codebook's size (the paper's top-X)."
    )
    temperature: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Divisor of the logits: above 1 more varied, below 1 more repetitive, 0 greedy.",
    )
    guidance: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="Scale of classifier-free guidance; 1 is none, above 1 follows the condition more closely with less variety.",
    )
    motion: bool = Field(
        default=True, description="Condition on the video's motion, if the model takes it; turn it off for a shaking camera."
    )
    label: str | None = Field(
        default=None,
        description="Class name of the sound, for models with classes. Models that recognise pictures, such as everyday, need none.",
    )
    avoid: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="Sounds to avoid: class names, or words such as `music` that stand for several classes."
    )
    like: str | None = Field(
        default=None,
        description="File with a reference sound. Takes continue its codes, which are cut off; those most similar to it come first.",
    )
    candidates: int | None = Field(
        default=None,
        ge=1,
        le=MAX_TAKES,
        description="Sounds begun per take; the one that best matches the cues, or else the label or recognised classes, is kept.",
    )
    cues: tuple[Cue, ...] | Literal["auto"] | None = Field(
        default=None, description="Times of sounds, in place of the video's motion; `auto` takes the impacts detected in the video."
    )
    prompt_track: tuple[Stretch, ...] | None = Field(
        default=None, description="Labels over time: stretches with a label each, for models that take one for each column."
    )
    mute: tuple[Stretch, ...] | None = Field(default=None, description="Stretches, without labels, that are silent.")
    seconds: float | None = Field(
        default=None,
        gt=0,
        le=MAX_SECONDS,
        allow_inf_nan=False,
        description="Length of the sound. None is the video's; beyond the end of the video, its last frame is the condition.",
    )
    prime: str | None = Field(
        default=None,
        description="File with the beginning of the sound, or `own` for the video's own sound; the model continues it (priming).",
    )
    prime_seconds: float | None = Field(
        default=None, gt=0, le=MAX_SECONDS, description="Length of the prime, rounded down to whole code columns; None is 3."
    )
    prime_keep: PrimeKeep = Field(
        default="codes",
        description="What is kept of the prime: its codes, or its exact samples, at their own level and cross-faded into the rest.",
    )
    stream: bool = Field(
        default=False,
        description="Look ahead less than a second and do not adjust the loudness, so that the sound can be played while it is generated.",
    )
    original: Original = Field(default="drop", description="The video's own sound: drop, keep (mixed in), or duck (mixed in, quieter).")
    scenes: Scenes = Field(default="auto", description="Condition each shot on its own frames (auto), or ignore cuts (off).")
    lufs: float | None = Field(default=None, ge=-60, le=-5, description="Integrated loudness (EBU R 128); None is -23 LUFS.")
    true_peak: float | None = Field(
        default=None, ge=-30, le=0, description="Limit of the true peak, in dBTP; None limits samples to -1 dB of full scale."
    )
    fade_in: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Fade-in, in seconds.")
    fade_out: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Fade-out, in seconds.")
    stereo: bool = Field(default=False, description="Two channels, panned to the position of motion; their mean is the mono sound.")
    rate: SoundRate | None = Field(default=None, description="Sample rate of files, in Hz; None is the model's.")
    bits: Bits = Field(default="16", description="Bits per sample in sound files; 32f is floating point.")

    def n_samples(self, video_seconds: float, sample_rate: int) -> int:
        """Length of the sound of a video, in samples."""
        return max(1, round((self.seconds or video_seconds) * sample_rate))

    def files(self) -> dict[str, str]:
        """Sound files that the request names, by field; on a server, ids of uploads."""
        return {name: path for name in ("prime", "like") if (path := getattr(self, name)) not in (None, OWN)}

    @property
    def n_sampled(self) -> int:
        """Number of sounds that are sampled: all candidates of all takes."""
        return self.takes * (self.candidates or 1)

    def resolve(self, defaults: Defaults) -> "Request":
        """Replace None by the model's defaults; resolving twice changes nothing.

        Returns:
            A request in which only optional features remain None, and `seconds`, and `label` if the model needs none. Labels have the
            model's spelling, and words in `avoid` are replaced by the classes that they stand for.

        Raises:
            ParameterError: if `top_k` is above the number of codes; if a label is unknown, missing, given to a model without classes, or
                both wanted and avoided; if takes times candidates is above `MAX_SAMPLED`; if a field needs a prime that is not given, an
                ability that the model lacks, or the whole sound, which a stream does not have.
        """
        if self.prime is None and (self.prime_seconds is not None or self.prime_keep != "codes"):
            raise ParameterError("prime_seconds and prime_keep need a prime, but prime is not given; name a file, or `own`.")
        if self.prime is not None and self.like is not None:
            raise ParameterError("prime and like both say how the sound begins; give one of them.")
        over_time = (self.prime, self.like, self.cues, self.prompt_track, self.mute)
        if self.stream and (self.takes > 1 or (self.candidates or 1) > 1 or any(one is not None for one in over_time)):
            raise ParameterError(
                "a stream is one sound that is played while it is made; leave out takes, candidates, prime, like, cues, prompt_track "
                "and mute, or stream."
            )
        if self.stream and any(one is not None for one in (self.lufs, self.true_peak, self.fade_in, self.fade_out)):
            raise ParameterError("the loudness of a stream is not adjusted; leave out lufs, true_peak, fade_in and fade_out, or stream.")
        top_k = min(defaults.top_k, defaults.n_codes) if self.top_k is None else self.top_k
        if top_k > defaults.n_codes:
            raise ParameterError(
                f"top_k {top_k} was given; the model {defaults.model!r} has {defaults.n_codes} codes, choose 1 to {defaults.n_codes}."
            )
        filled = {
            "top_k": top_k,
            "temperature": defaults.temperature if self.temperature is None else self.temperature,
            "guidance": defaults.guidance if self.guidance is None else self.guidance,
            "label": _resolve_label(self.label, defaults),
            "prime_seconds": self.prime_seconds or (None if self.prime is None else PRIME_SECONDS),
            "candidates": None if self.stream else self._resolve_candidates(defaults),
            "cues": _with_labels(self.cues, defaults),
            "prompt_track": _with_labels(self.prompt_track, defaults),
        }
        if any(stretch.label is None for stretch in self.prompt_track or ()):
            raise ParameterError("a stretch of prompt_track has no label; give it one, or move the stretch to mute.")
        resolved = self.model_copy(update=filled)._resolve_avoided(defaults)
        if resolved.n_sampled > MAX_SAMPLED:
            raise ParameterError(f"takes times candidates is {resolved.n_sampled}, but must be {MAX_SAMPLED} or less.")
        return resolved

    def describe(self) -> dict[str, Any]:
        """Fields that determine a take's sound, without those that are None.

        They are part of the recipe inside outputs, of JSON records and of `samples.json`.
        """
        without_prime = {"prime_keep"} if self.prime is None else set()
        unranked = {"takes"} if self.candidates is None else set()  # ranking orders takes, so their number matters
        plain = {name for name in ("stream", "stereo", "bits", "scenes") if getattr(self, name) == type(self).model_fields[name].default}
        described = self.model_dump(exclude={"original"} | unranked | without_prime | plain, exclude_none=True)
        for name in ("avoid", "cues", "prompt_track", "mute"):
            if isinstance(described.get(name), tuple):
                described[name] = [str(one) for one in getattr(self, name)]
        return described

    def _resolve_avoided(self, defaults: Defaults) -> "Request":
        for name, value in (("avoid", self.avoid), ("like", self.like)):
            if value is not None and not defaults.candidates:
                raise ParameterError(
                    f"the model {defaults.model!r} has no listener, so {name} has no effect; choose a model such as everyday."
                )
        if self.avoid is None:
            return self
        wanted = {self.label, *(one.label for over in (self.cues, self.prompt_track) if isinstance(over, tuple) for one in over)}
        _limit_words(set(self.avoid), defaults)
        avoided = set[str]()
        for word in self.avoid:
            meant = set(labels_meant(word, defaults.classes))
            if named := sorted(name for name in wanted & meant if len(meant) == 1 or is_name_of(word, name)):
                raise ParameterError(f"{named[0]!r} is both wanted and avoided; remove it from one of the two.")
            avoided |= meant - wanted
        if len(avoided) == len(defaults.classes):
            raise ParameterError("all classes of the model are avoided; avoid fewer.")
        return self.model_copy(update={"avoid": tuple(sorted(avoided))})

    def _resolve_candidates(self, defaults: Defaults) -> int | None:
        if self.cues is not None:
            return self.candidates or CUE_CANDIDATES
        if self.candidates is not None and not defaults.candidates:
            raise ParameterError(f"the model {defaults.model!r} does not rank its sounds; leave candidates out.")
        return self.candidates or defaults.candidates or None


def _with_labels(over: Any, defaults: Defaults) -> Any:
    """The cues or stretches, with their labels in the model's spelling; None and `auto` stay."""
    if over in (None, AUTO):
        return over
    labels = {one.label for one in over} - {None}
    if labels and defaults.classes and not defaults.sees:
        raise ParameterError(
            f"the model {defaults.model!r} takes one label for the whole sound; labels over time need a model such as everyday."
        )
    _limit_words(labels, defaults)
    resolved = {label: _resolve_label(label, defaults) for label in sorted(labels)}
    return tuple(one if one.label is None else one.model_copy(update={"label": resolved[one.label]}) for one in over)


def _limit_words(words: set[str], defaults: Defaults) -> None:
    """Refuse many words that are no class names, because each is compared with all of them."""
    if len(words - set(defaults.classes)) > MAX_WORDS:
        raise ParameterError(f"{len(words)} different labels were given; at most {MAX_WORDS} may be words other than class names.")


def _resolve_label(label: str | None, defaults: Defaults) -> str | None:
    classes = defaults.classes
    if label is None and (defaults.sees or not classes):
        return None
    if not classes:
        raise ParameterError(
            f"the model {defaults.model!r} has no classes, so it takes no label {label!r}; models with `class` in their names do."
        )
    if label is None:
        some = ", ".join(repr(name) for name in classes[:3])
        raise ParameterError(f"the model {defaults.model!r} needs one of its {len(classes)} classes as label, such as {some}.")
    number, sentence = nearest_label(label, classes)
    if sentence:
        log.warning("%s", sentence)
    return classes[number]
