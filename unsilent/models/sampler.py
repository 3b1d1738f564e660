"""The sampler: a transformer that writes codes, one after another, given a condition. Paper section 3.2."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from unsilent.clip import Clip
from unsilent.config import Config
from unsilent.errors import ParameterError
from unsilent.models.condition import Condition, ConditionConfig, coordinates
from unsilent.models.transformer import KeyValueCache, Transformer, TransformerConfig

_BEGIN_STD = 0.3  # of what positions and codes begin as, where they begin as more than small random numbers
_LONGEST_COLUMNS = 200  # a quarter of the longest wave that tells positions apart


class SamplerConfig(Config):
    """Sizes of a sampler."""

    clip: Clip = Clip()
    codes: int = Field(gt=1)  # entries of the codebook it speaks
    transformer: TransformerConfig
    condition: ConditionConfig

    @model_validator(mode="after")
    def _has_columns(self) -> "SamplerConfig":
        if self.condition.kind == "columns" and self.condition.n_features > self.clip.columns:
            raise ParameterError(
                f"{self.condition.n_features} features do not fit beside {self.clip.columns} code columns; one each at most."
            )
        return self


class WindowState(NamedTuple):
    """State of one window between steps.

    Attributes:
        cache: KV cache of the positions read so far.
        positions: what is added to the code at each position of the window, of all sequences or of each, `[batch, sequence, width]`.
    """

    cache: KeyValueCache
    positions: Tensor


ChooseCodes = Callable[[Float[Tensor, "rows codes"], Float[Tensor, "takes"]], Int[Tensor, "takes"]]  # logits and random numbers → codes


class Advance(Protocol):
    """A faster implementation of `Sampler.advance`: same arguments, same results to rounding."""

    def __call__(
        self, choose: ChooseCodes, logits: Float[Tensor, "rows codes"], uniforms: Float[Tensor, "takes"], state: WindowState
    ) -> tuple[Int[Tensor, "takes"], Float[Tensor, "rows codes"]]:
        """Choose the next code of each take and compute the logits of the code after it."""


class Sampler(nn.Module):
    """Predicts each code of a clip from the condition and the codes before it.

    Positions are learned for one clip; longer sounds are sampled in windows (`unsilent.generation.sampling`).

    Attributes:
        fast_advance: replaces `advance` where there is a faster implementation (a CUDA graph); None without one.
    """

    def __init__(self, config: SamplerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.transformer.width
        self.n_condition = config.condition.n_tokens(config.clip)
        self.tok_emb = nn.Embedding(config.codes, width)
        self.pos_emb = nn.Parameter(torch.zeros(1, self.n_condition + config.clip.n_codes, width))
        self.embedder = Condition(config.condition, width, config.clip)
        self.transformer = Transformer(config.transformer)
        self.head = nn.Linear(width, config.codes, bias=False)
        self.fast_advance: Advance | None = None
        self.apply(_initialise)
        # on meta tensors, which are about to be filled, torch would compute through sympy, whose import takes a second
        if config.condition.kind == "columns" and not self.pos_emb.is_meta:
            self.pos_emb.data.copy_(_places(config.clip, self.pos_emb.shape[1], width))

    @torch.no_grad()
    def begin_as(self, vectors: Float[Tensor, "codes dim"]) -> None:
        """Let embeddings and scores of codes begin as the vectors of a codebook, turned at random, so that like codes begin alike.

        Raises:
            ParameterError: if the codebook has another number of codes.
        """
        if len(vectors) != self.config.codes:
            raise ParameterError(f"the codebook has {len(vectors)} codes, the sampler {self.config.codes}; they must be of one preset.")
        scaled = (vectors - vectors.mean(0)) / vectors.std()
        turned = scaled @ torch.randn(scaled.shape[1], self.tok_emb.embedding_dim) / scaled.shape[1] ** 0.5
        self.tok_emb.weight.copy_(_BEGIN_STD * (turned + 0.3 * torch.randn_like(turned)))
        self.head.weight.copy_(0.02 * turned)

    def condition(
        self,
        features: Float[Tensor, "batch features dim"] | None = None,
        labels: Int[Tensor, "batch"] | None = None,
        motion: Float[Tensor, "batch columns motion"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "batch condition width"]:
        """Embed a condition once, for all steps that follow; all zeros stand for a condition that is not told.

        Args:
            features: visual features of one clip, as many as the configuration says; None for kinds without.
            labels: class numbers; None for kinds without.
            motion: of each code column, for kind `columns`; None where nothing moves.
            generator: of the random vector that stands for nothing; wanted for kind `none` only.

        Raises:
            ParameterError: if what is given does not fit the kind or its sizes.
        """
        config = self.config.condition
        if config.kind == "coordinates":
            return self.tok_emb(coordinates(self.config.clip, self.config.codes).to(self.pos_emb.device))
        if config.kind == "none" and features is None:
            if generator is None:
                raise ParameterError("a sampler without a condition draws a random vector in its place and wants a generator for it.")
            features = torch.rand(1, config.n_features, config.feature_dim, generator=generator).to(self.pos_emb.device)
        return self.embedder(features, labels, motion)

    def logits(
        self, codes: Int[Tensor, "batch sequence"], condition: Float[Tensor, "#batch condition width"]
    ) -> Float[Tensor, "batch sequence codes"]:
        """Scores of every code given the true codes before it (teacher forcing).

        Args:
            codes: of one clip or its beginning, in the order of `code_order`.
            condition: as `condition` gives it.
        """
        embedded = self._embed(codes[:, :-1], condition, self._positions(condition), 0)
        return self.head(self.transformer(embedded)[:, self.n_condition - 1 :])

    def forward(
        self,
        codes: Int[Tensor, "batch sequence"],
        features: Float[Tensor, "batch features dim"] | None = None,
        labels: Int[Tensor, "batch"] | None = None,
        motion: Float[Tensor, "batch columns motion"] | None = None,
        keep: Bool[Tensor, "batch"] | None = None,
    ) -> Float[Tensor, "batch sequence codes"]:
        """What training calls: condition and scores in one.

        Args:
            codes: as `logits` wants them.
            features: as `condition` wants them.
            labels: as `condition` wants them.
            motion: as `condition` wants it.
            keep: false for sequences that are to do without their condition, which then is all zeros; None keeps all.
        """
        told = self.condition(features, labels, motion)
        return self.logits(codes, told if keep is None else told * keep[:, None, None])

    @torch.inference_mode()
    def start(
        self, codes: Int[Tensor, "batch sequence"], condition: Float[Tensor, "told condition width"]
    ) -> tuple[Float[Tensor, "batch codes"], WindowState]:
        """Read the condition and the codes that are already known (perhaps none); score the next code.

        Each condition is read once, however many sequences of codes go on from it: as many from each, those of the first one first.

        Returns:
            The scores, and what `step` continues from.
        """
        positions, each = self._positions(condition), len(codes) // len(condition)
        told = self._embed(codes[: len(condition), :0], condition, positions, 0)
        capacity = self.pos_emb.shape[1]
        cache = self.transformer.cache(len(told), capacity if each == 1 else told.shape[1], self._cached_like(told))
        hidden = self.transformer(told, cache)
        if each > 1:
            cache.repeat(len(codes), capacity)
        if len(positions) > 1:
            positions = positions.repeat_interleave(each, dim=0)
        if codes.shape[1]:
            hidden = self.transformer(self._embed(codes, None, positions, cache.length), cache)
        logits = self.head(hidden[:, -1])
        return logits.repeat_interleave(len(codes) // len(logits), dim=0), WindowState(cache, positions)

    @torch.inference_mode()
    def step(self, code: Int[Tensor, "batch"], state: WindowState) -> Float[Tensor, "batch codes"]:
        """Read one more code; score the next."""
        embedded = self._embed(code[:, None], None, state.positions, state.cache.length)
        return self.head(self.transformer(embedded, state.cache)[:, -1])

    @torch.inference_mode()
    def advance(
        self, choose: ChooseCodes, logits: Float[Tensor, "rows codes"], uniforms: Float[Tensor, "takes"], state: WindowState
    ) -> tuple[Int[Tensor, "takes"], Float[Tensor, "rows codes"]]:
        """One sampling step: choose the next code of each take and feed it to the transformer.

        Args:
            choose: picks codes from logits; compares equal to any other that picks the same.
            logits: of the next code.
            uniforms: random numbers for `choose`.
            state: of the window; its rows are those of all takes, once or several times (conditional, unconditional).

        Returns:
            The codes, and the logits of the codes after them; the next call may overwrite both.
        """
        if self.fast_advance is not None:
            return self.fast_advance(choose, logits, uniforms, state)
        codes = choose(logits, uniforms)
        return codes, self.step(codes.repeat(len(logits) // len(codes)), state)

    def _positions(self, condition: Tensor) -> Tensor:
        """What each position is told besides the code at it: its place, and for kind `columns` what is seen while the next code sounds."""
        if self.config.condition.kind != "columns":
            return self.pos_emb
        beside = condition.to(self.pos_emb).repeat_interleave(self.config.clip.rows, dim=1)
        return self.pos_emb + F.pad(beside, (0, 0, 0, 1))  # after the last code of a window nothing is predicted

    def _embed(self, codes: Tensor, condition: Tensor | None, positions: Tensor, known: int) -> Tensor:
        embedded = self.tok_emb(codes)
        if condition is not None:
            # what stands beside the codes is in the positions already
            before = torch.zeros_like(condition[:, :1]) if self.config.condition.kind == "columns" else condition
            embedded = torch.cat([before.expand(len(codes), -1, -1).to(embedded), embedded], dim=1)
        stop = known + embedded.shape[1]
        if stop > self.pos_emb.shape[1]:
            clip = self.config.clip
            raise ParameterError(f"{stop - self.n_condition} codes given, this sampler reads {clip.n_codes} at once; use windows.")
        return embedded + positions[:, known:stop]

    def _cached_like(self, embedded: Tensor) -> Tensor:
        """Under autocast keys come out in the lower precision, whatever goes in."""
        kind = embedded.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else embedded.dtype
        return torch.empty((), device=embedded.device, dtype=dtype)


def _initialise(module: nn.Module) -> None:
    """minGPT's: small normal weights, zero biases; positions start at zero."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _places(clip: Clip, positions: int, width: int) -> Float[Tensor, "positions width"]:
    """What positions begin as: half of each vector tells the column, as waves of many lengths, the other half the row, at random.

    From zeros, as minGPT has it, small data take a thousand steps to find out which codes lie beside each other.
    """
    place, half = torch.arange(positions), width // 2
    lengths = _LONGEST_COLUMNS ** (torch.arange(half // 2) / (half // 2))
    angles = (place // clip.rows)[:, None] * (torch.pi / 2) / lengths
    columns = 2**0.5 * torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = torch.randn(clip.rows, width - columns.shape[1])[place % clip.rows]
    return _BEGIN_STD * torch.cat([columns, rows], dim=1)


def released_names(module: Sampler) -> dict[str, str]:
    """Each name of the released transformer's state dict, with its name here.

    Its embedder of features is a convolution of width 1, whose weight has one more axis, and bears another name where there are two.
    """
    both = module.config.condition.kind == "features+class"
    embedders = {"feature_embedder": "feat_embedder", "class_embedder": "cls_embedder"} if both else {}
    return {_released(name, embedders): name for name in module.state_dict()}


def _released(name: str, embedders: dict[str, str]) -> str:
    parts = name.removeprefix("transformer.").split(".")
    if parts[0] == "embedder":
        parts = [embedders.get(parts[1], "embedder"), *parts[2:]]
    return ".".join(parts)
