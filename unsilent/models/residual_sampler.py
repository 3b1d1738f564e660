"""The sampler of a residual codebook: a transformer over columns, then a small network that predicts a column's codes level by level.

batch      sequences side by side
sequence   codes: column by column, coarsest level first
columns    code columns of one clip
condition  code columns of the embedded condition
width      residual stream of the transformer
inner      width of the network over levels
dim        width of a code vector

The transformer has one position per column instead of one per code, so its cost is divided by the number of levels. Its input is the sum of
the code vectors of the column before. The input of the network over levels is the transformer's output and the sum of the column's code
vectors so far.

Source:
    Lee et al., "Autoregressive image generation using residual quantization" (CVPR 2022). Differs: the network over levels is an MLP,
    because the sum of the code vectors so far determines the residual.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unsilent.errors import ParameterError
from unsilent.models.code_order import select_columns
from unsilent.models.condition import Condition
from unsilent.models.configs import ResidualSamplerConfig
from unsilent.models.sampler import AnySampler, initialise, positional_encoding
from unsilent.models.transformer import KeyValueCache, Look, Transformer


@dataclass
class ColumnState:
    """State of one window between steps.

    Attributes:
        cache: KV cache of the columns read so far.
        positions: position embedding plus condition of each column, added to its embedding.
        hidden: the transformer's output for the current column.
        level: number of known codes of the current column.
        sum: sum of their code vectors.
    """

    cache: KeyValueCache
    positions: Float[Tensor, "batch columns width"]
    hidden: Float[Tensor, "batch width"]
    level: int
    sum: Float[Tensor, "batch dim"]


class LevelBlock(nn.Module):
    """Pre-norm MLP, added to its input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Float[Tensor, "*rows inner"]) -> Float[Tensor, "*rows inner"]:
        """Keep shape."""
        return x + self.down(F.gelu(self.up(self.norm(x))))


class ResidualSampler(AnySampler):
    """Predicts each code of a clip from the condition, the columns before it and the coarser levels of its column."""

    n_condition = per_column = 1  # one start position, and one position per column

    def __init__(self, config: ResidualSamplerConfig) -> None:
        super().__init__()
        self.config = config
        width, inner, rows = config.transformer.width, config.inner, config.clip.rows
        self.register_buffer("vectors", torch.zeros(rows, config.codes, config.dim))
        self.column_embedder = nn.Linear(config.dim, width)
        self.pos_emb = nn.Parameter(torch.zeros(1, config.clip.columns, width))
        self.embedder = Condition(config.condition, width, config.clip)
        self.transformer = Transformer(config.transformer)
        self.column = nn.Linear(width, inner)
        self.partial = nn.Linear(config.dim, inner)
        self.level = nn.Parameter(torch.zeros(rows, inner))
        self.blocks = nn.ModuleList(LevelBlock(inner) for _ in range(config.inner_blocks))
        self.norm = nn.LayerNorm(inner)
        self.head = nn.Parameter(torch.zeros(rows, config.codes, inner))
        self.apply(initialise)
        # not on meta tensors, which are filled later: torch would import sympy for them, which takes a second
        if not self.pos_emb.is_meta:
            self.pos_emb.data.copy_(positional_encoding(config.clip.columns, 1, width))
            nn.init.normal_(self.level, std=0.3)
            # at minGPT's 0.02, classes would be negligible relative to codes and stay unlearned for a thousand steps
            nn.init.normal_(self.embedder.class_embedder.weight)
            nn.init.normal_(self.embedder.columns.out.weight, std=width**-0.5)
            for layer in (self.column, self.partial, self.column_embedder):
                nn.init.normal_(layer.weight, std=layer.in_features**-0.5)

    @torch.no_grad()
    def init_from_codebook(self, vectors: Float[Tensor, "levels codes dim"]) -> None:
        """Use the vectors of the first levels as embeddings, and initialise the head from them.

        Each dimension is divided by the root of its standard deviation, because otherwise a few principal components would dominate.

        Raises:
            ParameterError: if the codebook has fewer levels, or another number or width of codes.
        """
        rows, codes, dim = self.vectors.shape
        if len(vectors) < rows or vectors.shape[1:] != (codes, dim):
            found = " x ".join(str(n) for n in vectors.shape)
            raise ParameterError(f"the codebook has vectors of shape {found}, but the sampler needs {rows} levels of {codes} x {dim}.")
        spread = vectors[:rows].var(1).sum(0).sqrt()
        self.vectors.copy_(vectors[:rows] / (spread * spread.mean()).sqrt())
        spreads = self.vectors.std((1, 2), keepdim=True)
        projection = torch.randn(dim, self.head.shape[2]) / dim**0.5
        self.head.copy_(0.02 * (self.vectors / spreads) @ projection)

    def logits(
        self,
        codes: Int[Tensor, "batch sequence"],
        condition: Float[Tensor, "#batch condition width"],
        context: Int[Tensor, "batch sequence"] | None = None,
        columns: Int[Tensor, "chosen"] | None = None,
    ) -> Float[Tensor, "batch predicted codes"]:
        """See `AnySampler.logits`."""
        context = codes if context is None else context
        embedded = self._embed_columns(self._sums(context)[:, :-1, -1], condition)
        # a packed transformer always writes a cache
        hidden = self.transformer(embedded, None if self.training else self.transformer.cache(*embedded.shape[:2], embedded))
        if columns is not None:
            hidden = hidden[:, columns]
            codes = select_columns(codes, columns, len(self.vectors))
        sums = F.pad(self._sums(codes)[:, :, :-1], (0, 0, 1, 0))
        inner = self.column(hidden)[:, :, None] + self.partial(sums) + self.level
        logits = torch.einsum("bcli,lki->bclk", self._levels(inner), self.head.to(inner.dtype))
        return logits.flatten(1, 2)

    @torch.inference_mode()
    def start(
        self, codes: Int[Tensor, "batch sequence"], condition: Float[Tensor, "conditions condition width"], look: Look | None = None
    ) -> tuple[Float[Tensor, "batch codes"], ColumnState]:
        """See `AnySampler.start`."""
        rows, columns = self.vectors.shape[0], self.pos_emb.shape[1]
        if codes.shape[1] % rows or codes.shape[1] >= rows * columns:
            raise ParameterError(f"{codes.shape[1]} codes were given; this sampler takes fewer than {columns} whole columns of {rows}.")
        positions = (self.pos_emb + condition.to(self.pos_emb)).repeat_interleave(len(codes) // len(condition), dim=0)
        cache = self.transformer.cache(len(codes), columns, positions, look)
        known = self._sums(codes)[:, :, -1]
        embedded = self._embed_known(known, positions)
        hidden = self.transformer(embedded, cache)[:, -1]
        state = ColumnState(cache, positions, hidden, 0, known.new_zeros(len(codes), self.config.dim))
        return self._logits(state), state

    def recondition(self, state: ColumnState, condition: Float[Tensor, "conditions condition width"]) -> None:
        """Replace the condition of all columns that were not processed yet; each condition is for consecutive sequences, as in `start`."""
        positions = self.pos_emb + condition.to(self.pos_emb)
        state.positions = positions.repeat_interleave(len(state.positions) // len(positions), dim=0)

    @torch.inference_mode()
    def step(self, code: Int[Tensor, "batch"], state: ColumnState) -> Float[Tensor, "batch codes"]:
        """See `AnySampler.step`."""
        state.sum = state.sum + self.vectors[state.level][code]
        state.level += 1
        if state.level == len(self.vectors):
            embedded = self.column_embedder(state.sum) + state.positions[:, state.cache.length]
            state.hidden = self.transformer(embedded[:, None], state.cache)[:, -1]
            state.level, state.sum = 0, torch.zeros_like(state.sum)
        return self._logits(state)

    def _logits(self, state: ColumnState) -> Float[Tensor, "batch codes"]:
        inner = self.column(state.hidden) + self.partial(state.sum) + self.level[state.level]
        return self._levels(inner) @ self.head[state.level].T

    def _levels(self, inner: Float[Tensor, "*rows inner"]) -> Float[Tensor, "*rows inner"]:
        for block in self.blocks:
            inner = block(inner)
        return self.norm(inner)

    def _sums(self, codes: Int[Tensor, "batch sequence"]) -> Float[Tensor, "batch columns rows dim"]:
        """Cumulative sums over levels of the code vectors of each column."""
        grid = codes.unflatten(1, (-1, self.vectors.shape[0]))
        return torch.stack([F.embedding(grid[:, :, level], vectors) for level, vectors in enumerate(self.vectors)], 2).cumsum(2)

    def _embed_columns(
        self, known: Float[Tensor, "batch known dim"], condition: Float[Tensor, "#batch condition width"]
    ) -> Float[Tensor, "batch embedded width"]:
        return self._embed_known(known, self.pos_emb + condition.to(self.pos_emb))

    def _embed_known(
        self, known: Float[Tensor, "batch known dim"], positions: Float[Tensor, "#batch columns width"]
    ) -> Float[Tensor, "batch embedded width"]:
        """Input of the transformer: zeros for the first column, then each known column."""
        embedded = F.pad(self.column_embedder(known), (0, 0, 1, 0))
        return embedded + positions[:, : embedded.shape[1]]
