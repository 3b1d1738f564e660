"""The decoder-only transformer of the sampler, and the cache that lets it take one step at a time."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from unsilent.config import Config
from unsilent.errors import ParameterError


class TransformerConfig(Config):
    """Sizes of a transformer; the paper's are 24 layers, 16 heads, width 1024."""

    layers: int = Field(gt=0)
    heads: int = Field(gt=0)
    width: int = Field(gt=0)  # of the residual stream; the perceptrons are four times as wide
    dropout: float = Field(default=0.0, ge=0, lt=1)  # while training, on attention weights and on each residual

    @model_validator(mode="after")
    def _divides(self) -> "TransformerConfig":
        if self.width % self.heads:
            raise ParameterError(f"a width of {self.width} does not split into {self.heads} heads.")
        return self

    @property
    def n_weights(self) -> int:
        """Numbers in its matrices, which are nearly all there is: queries, keys, values, projection, and the perceptron's two of four."""
        return 12 * self.layers * self.width**2


class KeyValueCache:
    """Keys and values of all positions seen so far, in memory that is laid out once.

    Args:
        config: of the transformer.
        batch: sequences side by side.
        capacity: positions at most.
        like: gives device and dtype.
        kept: numbers of one key or value; None for as many as a head is wide.
    """

    def __init__(self, config: TransformerConfig, batch: int, capacity: int, like: Tensor, kept: int | None = None) -> None:
        self.memory = like.new_empty((config.layers, 2, batch, config.heads, capacity, kept or config.width // config.heads))
        self.length = 0

    def grow(self, new: int) -> int:
        """Count `new` positions as seen, which whoever asks is about to write; gives how many there were before.

        Raises:
            ParameterError: if there is no room for them.
        """
        known, capacity = self.length, self.memory.shape[4]
        if known + new > capacity:
            raise ParameterError(f"{known + new} positions do not fit into a cache of {capacity}.")
        self.length += new
        return known

    def repeat(self, batch: int, capacity: int) -> None:
        """Let `batch` sequences go on from what fewer have seen, as many from each, those of the first one first, to more positions."""
        seen = self.memory
        self.memory = seen.new_empty((*seen.shape[:2], batch, seen.shape[3], capacity, seen.shape[5]))
        self.memory.unflatten(2, (seen.shape[2], -1))[..., : self.length, :] = seen[:, :, :, None, :, : self.length]


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.key = nn.Linear(config.width, config.width)
        self.query = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.proj = nn.Linear(config.width, config.width)
        self.fused: nn.Module | None = None

    def fuse(self) -> None:
        """Join the three projections, for inference: same attention, one product; names in the state dict change."""
        parts = (self.query, self.key, self.value)
        self.fused = nn.Linear(1, 1, device="meta")
        self.fused.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
        self.fused.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
        del self.query, self.key, self.value

    def forward(
        self, x: Float[Tensor, "batch sequence width"], memory: Tensor | None = None, known: int | Int[Tensor, "1"] = 0
    ) -> Float[Tensor, "batch sequence width"]:
        """Each position sees itself and those before it, among them `known` ones in the layer's `memory` of a cache, and is kept there.

        A single position may come with a tensor for what is known: then shapes do not depend on it, as a recorded graph wants them.
        """
        if self.fused is None:
            projected = torch.stack([project(x) for project in (self.query, self.key, self.value)], dim=2)
        else:
            projected = self.fused(x).unflatten(2, (3, -1))
        q, k, v = projected.unflatten(3, (self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()  # [batch, heads, sequence, head_dim]
        sequence = x.shape[1]
        if isinstance(known, Tensor):
            k, v = memory.index_copy_(3, known, torch.stack([k, v]).to(memory)).unbind()
            seen = torch.arange(k.shape[2], device=x.device) <= known
            return self.proj(F.scaled_dot_product_attention(q.to(k), k, v, attn_mask=seen[None]).transpose(1, 2).flatten(2))
        if memory is not None:
            stop = known + sequence
            memory[0, :, :, known:stop], memory[1, :, :, known:stop] = k, v
            k, v = memory[:, :, :, :stop].unbind()
        if sequence == 1:
            attended = F.scaled_dot_product_attention(q, k, v)
        elif memory is None or known == 0:
            dropout = self.dropout if self.training else 0.0
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        else:
            mask = torch.ones(sequence, k.shape[2], dtype=torch.bool, device=x.device).tril(known)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a perceptron, each behind its own normalisation and added to the stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(config.width)
        self.attn = Attention(config)
        self.ln2 = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(nn.Linear(config.width, 4 * config.width), nn.GELU(), nn.Linear(4 * config.width, config.width))
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "batch sequence width"], memory: Tensor | None = None, known: int | Int[Tensor, "1"] = 0
    ) -> Float[Tensor, "batch sequence width"]:
        """Keep shape."""
        x = x + self.drop(self.attn(self.ln1(x), memory, known))
        return x + self.drop(self.mlp(self.ln2(x)))


class Transformer(nn.Module):
    """A stack of blocks over vectors; embedding and prediction are the sampler's.

    Source:
        Paper section 3.2 and its supplement 6.1.4: GPT-2 as released by minGPT, biases everywhere, exact GELU. Differs: dropout, which
        the released configuration leaves at zero, is there for small data.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width)

    def cache(self, batch: int, capacity: int, like: Tensor) -> KeyValueCache:
        """An empty cache that `forward` can be given; arguments as of `KeyValueCache`."""
        return KeyValueCache(self.config, batch, capacity, like)

    def forward(
        self, x: Float[Tensor, "batch sequence width"], cache: KeyValueCache | None = None
    ) -> Float[Tensor, "batch sequence width"]:
        """Causal; with a cache, `x` continues what the cache holds, and is added to it."""
        memory, known = (cache.memory, cache.grow(x.shape[1])) if cache else (None, 0)
        for layer, block in enumerate(self.blocks):
            x = block(x, None if memory is None else memory[layer], known)
        return self.ln_f(x)
