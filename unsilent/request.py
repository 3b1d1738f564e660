"""Parameters of a generation: a frozen record, resolved once against a model's defaults."""

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from unsilent.choices import MAX_TAKES, Original, PrimeKeep
from unsilent.config import Config
from unsilent.errors import ParameterError
from unsilent.labels import find_label

OWN = "own"  # as `prime`: the video's own sound
PRIME_SECONDS = 3.0  # of a beginning, where nothing else is asked for


@dataclass(frozen=True)
class Defaults:
    """A model's defaults for a request, and the limits of its values.

    Attributes:
        model: its name, for messages.
        n_codes: entries of its codebook, the upper limit of `top_k`.
        top_k, temperature, guidance: its own values of these fields.
        classes: names in the order of the sampler's class numbers; empty for a model without classes.
        candidates: its own value of this field; 0 for a model that is trained without dropped conditions, and so cannot rank.
        sees: whether the model recognises the class in the pictures if no label is given.
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
    """A request for one or several sounds of one video. None takes the model's own value, see `resolve`."""

    seed: int = Field(default=0, ge=0, description="Source of all randomness. Same seed, video, model and machine: same sound.")
    takes: int = Field(
        default=1, ge=1, le=MAX_TAKES, description="Number of different sounds. Take t does not depend on how many there are."
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
        description="Scale of classifier-free guidance; 1 is without, above 1 follows the video more closely with less variety.",
    )
    motion: bool = Field(
        default=True, description="Condition on the video's motion, for models that take it; leave it out for a shaking camera."
    )
    label: str | None = Field(
        default=None, description="What sounds: a class name, for models with classes. A model that sees, such as everyday, needs none."
    )
    candidates: int | None = Field(
        default=None, ge=1, description="Sounds sampled for each take; the one that fits best what is seen or named is kept."
    )
    seconds: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Length of the sound; None is that of the video, whose last frame stays after it.",
    )
    prime: str | None = Field(
        default=None, description="File whose sound is the beginning, or `own` for the video's own; the model continues it (priming)."
    )
    prime_seconds: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="Length of this beginning, rounded down to whole code columns; None is 3."
    )
    prime_keep: PrimeKeep = Field(
        default="codes", description="What is kept of it: its codes, or its very samples, at their own level and cross-faded into the rest."
    )
    original: Original = Field(default="drop", description="The video's own sound: drop, keep (mixed in), or duck (mixed in, quieter).")

    def resolve(self, defaults: Defaults) -> "Request":
        """Replace None by the model's defaults; resolving twice changes nothing.

        Returns:
            A request without None, except `label` for a model without classes or one that sees, `seconds`, and what concerns a prime where
            there is none. The label has the model's spelling.

        Raises:
            ParameterError: if `top_k` is above the number of codes, a label is given to a model without classes, unknown to the model, or
                missing for one that needs it; or something is asked of a prime that is not given.
        """
        if self.prime is None and (self.prime_seconds is not None or self.prime_keep != "codes"):
            raise ParameterError("prime_seconds and prime_keep are about a beginning, but prime is not given; name a file, or `own`.")
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
            "candidates": _resolve_candidates(self.candidates, defaults),
        }
        return self.model_copy(update=filled)

    def describe(self) -> dict[str, Any]:
        """Fields that a take's sound depends on, without those that are None.

        Part of the recipe inside outputs, of JSON records and of `samples.json`.
        """
        without_prime = {"prime_keep"} if self.prime is None else set()
        unranked = {"takes"} if self.candidates is None else set()  # ranking orders takes, so their number matters
        return self.model_dump(exclude={"original"} | unranked | without_prime, exclude_none=True)


def _resolve_candidates(candidates: int | None, defaults: Defaults) -> int | None:
    if candidates is not None and not defaults.candidates:
        raise ParameterError(f"the model {defaults.model!r} does not rank its sounds; leave candidates out.")
    return candidates or defaults.candidates or None


def _resolve_label(label: str | None, defaults: Defaults) -> str | None:
    classes = defaults.classes
    if label is None and (defaults.sees or not classes):
        return None
    if not classes:
        raise ParameterError(
            f"the model {defaults.model!r} has no classes, so it takes no label {label!r}; one with `class` in its name does."
        )
    if label is None:
        some = ", ".join(repr(name) for name in classes[:3])
        raise ParameterError(f"the model {defaults.model!r} needs one of its {len(classes)} classes as label, such as {some}.")
    return classes[find_label(label, classes)]
