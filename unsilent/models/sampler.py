"""The sampler: a transformer that predicts codes autoregressively, given a condition. Paper section 3.2.

batch      sequences side by side
sequence   codes, or positions of the transformer: condition positions, then codes
condition  positions of the embedded condition (for kind `columns`: code columns)
width      residual stream
rows       sequences in a batch of conditional and, with guidance, unconditional ones; a multiple of takes
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unsilent.errors import ParameterError
from unsilent.models.code_order import select_columns
from unsilent.models.condition import Condition, coordinates
from unsilent.models.configs import AnySamplerConfig, SamplerConfig
from unsilent.models.transformer import KeyValueCache, Look, Transformer

_EMBEDDING_STD = 0.3  # initial standard deviation of positional encodings and of embeddings from codebook vectors
_LONGEST_COLUMNS = 200  # a quarter of the longest wavelength of the initial positional encoding


class WindowState(NamedTuple):
    """State of one window between steps.

    Attributes:
        cache: KV cache of the positions read so far.
        positions: result of `Sampler.position_embeddings`, shared by all sequences or one for each.
    """

    cache: KeyValueCache
    positions: Float[Tensor, "#batch sequence width"]


# chooses codes, given logits and random numbers
ChooseCodes = Callable[[Float[Tensor, "rows codes"], Float[Tensor, "takes"]], Int[Tensor, "takes"]]


class Advance(Protocol):
    """A faster implementation of `AnySampler.advance`: same arguments, same results to rounding."""

    def __call__(
        self, choose: ChooseCodes, logits: Float[Tensor, "rows codes"], uniforms: Float[Tensor, "takes"], state: WindowState
    ) -> tuple[Int[Tensor, "takes"], Float[Tensor, "rows codes"]]:
        """Choose the next code of each take and compute the logits of the code after it."""


class AnySampler(nn.Module):
    """Interface of both kinds of samplers: predicts each code of a clip from the condition and the codes before it.

    Positions are learned for one clip; longer sounds are sampled in windows (`unsilent.generation.sampling`).

    Attributes:
        config: sizes of the clip, the condition and the transformer.
        pos_emb: learned positions, `[1, positions, width]`.
        embedder: embeds the condition.
        transformer: transformer with a KV cache.
        n_condition: positions of the transformer before those of codes.
        per_column: positions of a code column.
        fast_advance: a faster implementation of `advance` (a CUDA graph); None without one.
    """

    config: AnySamplerConfig
    pos_emb: nn.Parameter
    embedder: Condition
    transformer: Transformer
    n_condition: int
    per_column: int
    fast_advance: Advance | None = None

    def condition(
        self,
        features: Float[Tensor, "batch features dim"] | None = None,
        labels: Int[Tensor, "batch *features"] | None = None,
        motion: Float[Tensor, "batch columns motion"] | None = None,
        generator: torch.Generator | None = None,
        avoided: Sequence[int] = (),
    ) -> Float[Tensor, "batch condition width"]:
        """Embed a condition, once for all steps. For classifier-free guidance, the unconditional one is all zeros.

        Args:
            features: `n_features` of one clip; None for kinds without features.
            labels: class indices; None for kinds without classes. For kind `sight` also one for each feature; -1 or None takes the
                recognised class.
            motion: motion of each code column, for kinds with motion; None for no motion.
            generator: draws the random vector of kind `none`.
            avoided: class indices that kind `sight` must not recognise.

        Raises:
            ParameterError: if the inputs do not fit the kind or its sizes.
        """
        return self.embedder(features, labels, motion, avoided)

    def logits(
        self,
        codes: Int[Tensor, "batch sequence"],
        condition: Float[Tensor, "#batch condition width"],
        context: Int[Tensor, "batch sequence"] | None = None,
        columns: Int[Tensor, "chosen"] | None = None,
    ) -> Float[Tensor, "batch predicted codes"]:
        """Logits of every code given the true codes before it (teacher forcing).

        Args:
            codes: codes of one clip or its beginning, in the order of `code_order`; for a sampler over columns, whole columns.
            condition: result of `condition`.
            context: codes that replace `codes` as input, for training on corrupted context; None takes `codes`. Inside a column, a sampler
                over columns always reads `codes`, because finer levels quantise the residual of the true ones.
            columns: columns whose codes are predicted; None predicts all.
        """
        raise NotImplementedError

    def forward(
        self,
        codes: Int[Tensor, "batch sequence"],
        features: Float[Tensor, "batch features dim"] | None = None,
        labels: Int[Tensor, "batch"] | None = None,
        motion: Float[Tensor, "batch columns motion"] | None = None,
        keep: Bool[Tensor, "batch"] | None = None,
        context: Int[Tensor, "batch sequence"] | None = None,
        columns: Int[Tensor, "chosen"] | None = None,
    ) -> Float[Tensor, "batch predicted codes"]:
        """`condition` and `logits` in one call, for training, with the arguments of both.

        `keep` is False for sequences whose condition is dropped (condition dropout for guidance); None keeps all.
        """
        condition = self.condition(features, labels, motion)
        return self.logits(codes, condition if keep is None else condition * keep[:, None, None], context, columns)

    def start(
        self, codes: Int[Tensor, "batch sequence"], condition: Float[Tensor, "conditions condition width"], look: Look | None = None
    ) -> tuple[Float[Tensor, "batch codes"], Any]:
        """Prefill: process the condition and the known codes, if any, and compute the logits of the next code.

        Args:
            codes: the known codes.
            condition: embedded conditions, each shared by `batch / conditions` consecutive sequences.
            look: layer and head whose attention weights this call and all later steps record in the KV cache; None records none.

        Returns:
            The logits, and the state of the window for `step`.

        Raises:
            ParameterError: if the codes fill the window, or are not whole columns where the sampler is over columns; or for a layer or
                head that the sampler does not have.
        """
        raise NotImplementedError

    def step(self, code: Int[Tensor, "batch"], state: Any) -> Float[Tensor, "batch codes"]:
        """Process one more code, and compute the logits of the next."""
        raise NotImplementedError

    @torch.inference_mode()
    def advance(
        self, choose: ChooseCodes, logits: Float[Tensor, "rows codes"], uniforms: Float[Tensor, "takes"], state: Any
    ) -> tuple[Int[Tensor, "takes"], Float[Tensor, "rows codes"]]:
        """One sampling step: choose the next code of each take, and feed it to the transformer.

        Args:
            choose: chooses codes from logits; compares equal to a callable with the same settings, so that CUDA graphs can be reused.
            logits: logits of the next code.
            uniforms: random numbers for `choose`.
            state: state of the window; its rows are all takes, once, or twice with guidance (conditional, unconditional).

        Returns:
            The codes, and the logits of the codes after them; the next call may overwrite both.
        """
        if self.fast_advance is not None:
            return self.fast_advance(choose, logits, uniforms, state)
        codes = choose(logits, uniforms)
        return codes, self.step(codes.repeat(len(logits) // len(codes)), state)


class Sampler(AnySampler):
    """A transformer over codes, with one position for each code."""

    def __init__(self, config: SamplerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.transformer.width
        self.n_condition, self.per_column = config.condition.n_tokens(config.clip), config.clip.rows
        self.tok_emb = nn.Embedding(config.codes, width)
        self.pos_emb = nn.Parameter(torch.zeros(1, self.n_condition + config.clip.n_codes, width))
        self.embedder = Condition(config.condition, width, config.clip)
        self.transformer = Transformer(config.transformer)
        self.head = nn.Linear(width, config.codes, bias=False)
        self.apply(initialise)
        # not on meta tensors, which are filled later: torch would import sympy for them, which takes a second
        if config.condition.kind == "columns" and not self.pos_emb.is_meta:
            self.pos_emb.data.copy_(positional_encoding(self.pos_emb.shape[1], config.clip.rows, width))

    @torch.no_grad()
    def init_from_codebook(self, vectors: Float[Tensor, "codes dim"]) -> None:
        """Initialise token embeddings and output head with random projections of the codebook vectors, so that similar codes start similar.

        Raises:
            ParameterError: if the codebook has a different number of codes.
        """
        if len(vectors) != self.config.codes:
            raise ParameterError(f"the codebook has {len(vectors)} codes, the sampler {self.config.codes}; take both from one preset.")
        scaled = (vectors - vectors.mean(0)) / vectors.std()
        projected = scaled @ torch.randn(scaled.shape[1], self.tok_emb.embedding_dim) / scaled.shape[1] ** 0.5
        self.tok_emb.weight.copy_(_EMBEDDING_STD * (projected + 0.3 * torch.randn_like(projected)))
        self.head.weight.copy_(0.02 * projected)

    def condition(
        self,
        features: Float[Tensor, "batch features dim"] | None = None,
        labels: Int[Tensor, "batch *features"] | None = None,
        motion: Float[Tensor, "batch columns motion"] | None = None,
        generator: torch.Generator | None = None,
        avoided: Sequence[int] = (),
    ) -> Float[Tensor, "batch condition width"]:
        """See `AnySampler.condition`. Kind `coordinates` is embedded like codes, and kind `none` draws a random vector."""
        config = self.config.condition
        if config.kind == "coordinates":
            return self.tok_emb(coordinates(self.config.clip, self.config.codes).to(self.pos_emb.device))
        if config.kind == "none" and features is None:
            if generator is None:
                raise ParameterError("a sampler with a condition of kind 'none' draws a random vector; give a generator.")
            features = torch.rand(1, config.n_features, config.feature_dim, generator=generator).to(self.pos_emb.device)
        return super().condition(features, labels, motion, avoided=avoided)

    def logits(
        self,
        codes: Int[Tensor, "batch sequence"],
        condition: Float[Tensor, "#batch condition width"],
        context: Int[Tensor, "batch sequence"] | None = None,
        columns: Int[Tensor, "chosen"] | None = None,
    ) -> Float[Tensor, "batch predicted codes"]:
        """See `AnySampler.logits`."""
        read = codes if context is None else context
        embedded = self._embed(read[:, :-1], condition, self.position_embeddings(condition), 0)
        hidden = self.transformer(embedded)[:, self.n_condition - 1 :]
        return self.head(hidden if columns is None else select_columns(hidden, columns, self.config.clip.rows))

    @torch.inference_mode()
    def start(
        self, codes: Int[Tensor, "batch sequence"], condition: Float[Tensor, "conditions condition width"], look: Look | None = None
    ) -> tuple[Float[Tensor, "batch codes"], WindowState]:
        """See `AnySampler.start`. Each condition is processed once and then repeated for its sequences."""
        positions, each = self.position_embeddings(condition), len(codes) // len(condition)
        prefix = self._embed(codes[: len(condition), :0], condition, positions, 0)
        capacity = self.pos_emb.shape[1]
        cache = self.transformer.cache(len(prefix), capacity if each == 1 else prefix.shape[1], self._cached_like(prefix), look)
        hidden = self.transformer(prefix, cache)
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
        """See `AnySampler.step`."""
        embedded = self._embed(code[:, None], None, state.positions, state.cache.length)
        return self.head(self.transformer(embedded, state.cache)[:, -1])

    def position_embeddings(self, condition: Float[Tensor, "#batch condition width"]) -> Float[Tensor, "#batch sequence width"]:
        """Position embeddings; for kind `columns`, plus the condition of the column that each position predicts."""
        if self.config.condition.kind != "columns":
            return self.pos_emb
        per_code = condition.to(self.pos_emb).repeat_interleave(self.config.clip.rows, dim=1)
        return self.pos_emb + F.pad(per_code, (0, 0, 0, 1))  # the last position of a window predicts nothing

    def _embed(
        self,
        codes: Int[Tensor, "batch sequence"],
        condition: Float[Tensor, "#batch condition width"] | None,
        positions: Float[Tensor, "#batch positions width"],
        known: int,
    ) -> Float[Tensor, "batch embedded width"]:
        """Input of the transformer from position `known` on: the condition, if given, and codes."""
        embedded = self.tok_emb(codes)
        if condition is not None:
            # kind `columns` is part of the position embeddings; its prefix is one zero vector
            prefix = torch.zeros_like(condition[:, :1]) if self.config.condition.kind == "columns" else condition
            embedded = torch.cat([prefix.expand(len(codes), -1, -1).to(embedded), embedded], dim=1)
        stop = known + embedded.shape[1]
        if stop > self.pos_emb.shape[1]:
            clip = self.config.clip
            raise ParameterError(f"{stop - self.n_condition} codes were given, but this sampler takes {clip.n_codes} at once; use windows.")
        return embedded + positions[:, known:stop]

    def _cached_like(self, embedded: Float[Tensor, "batch embedded width"]) -> Float[Tensor, ""]:
        """Device and dtype of the KV cache; autocast computes keys in its own lower precision."""
        kind = embedded.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else embedded.dtype
        return torch.empty((), device=embedded.device, dtype=dtype)


def initialise(module: nn.Module) -> None:
    """Initialisation of minGPT: normal weights of standard deviation 0.02, zero biases, zero positions."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def positional_encoding(positions: int, rows: int, width: int) -> Float[Tensor, "positions width"]:
    """Initial position embeddings: half of each vector is a sinusoidal encoding of the column, the other half a random vector for the row.

    Starting from zeros as in minGPT, training on small data takes a thousand steps to learn which codes are adjacent.
    """
    position, half = torch.arange(positions), width // 2
    lengths = _LONGEST_COLUMNS ** (torch.arange(half // 2) / (half // 2))
    angles = (position // rows)[:, None] * (torch.pi / 2) / lengths
    columns = 2**0.5 * torch.cat([angles.sin(), angles.cos()], dim=1)
    of_rows = torch.randn(rows, width - columns.shape[1])[position % rows]
    return _EMBEDDING_STD * torch.cat([columns, of_rows], dim=1)


def released_names(module: Sampler) -> dict[str, str]:
    """Map from the released transformer's state-dict names to ours.

    Its feature embedder is a convolution of width 1, whose weight has one more axis; with two embedders its name differs.
    """
    both = module.config.condition.kind == "features+class"
    embedders = {"feature_embedder": "feat_embedder", "class_embedder": "cls_embedder"} if both else {}
    return {_released(name, embedders): name for name in module.state_dict()}


def _released(name: str, embedders: dict[str, str]) -> str:
    parts = name.removeprefix("transformer.").split(".")
    if parts[0] == "embedder":
        parts = [embedders.get(parts[1], "embedder"), *parts[2:]]
    return ".".join(parts)
