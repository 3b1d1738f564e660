"""The decoder-only transformer of the sampler, and the cache that lets it take one step at a time."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
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


class KeyValueCache:
    """Keys and values of all positions seen so far, in memory that is laid out once.

    Args:
        config: of the transformer.
        batch: sequences side by side.
        capacity: positions at most.
        like: gives device and dtype.
    """

    def __init__(self, config: TransformerConfig, batch: int, capacity: int, like: Tensor) -> None:
        shape = (config.layers, 2, batch, config.heads, capacity, config.width // config.heads)
        self.memory = torch.empty(shape, device=like.device, dtype=like.dtype)
        self.capacity = capacity
        self.length = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values `[batch, heads, new, head_dim]` behind the known ones of a layer; give all of them."""
        stop = self.length + keys.shape[2]
        if stop > self.capacity:
            raise ParameterError(f"{stop} positions do not fit into a cache of {self.capacity}.")
        stored_keys, stored_values = self.memory[layer]
        stored_keys[:, :, self.length : stop] = keys
        stored_values[:, :, self.length : stop] = values
        return stored_keys[:, :, :stop], stored_values[:, :, :stop]


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.key = nn.Linear(config.width, config.width)
        self.query = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.proj = nn.Linear(config.width, config.width)

    def forward(
        self, x: Float[Tensor, "batch sequence width"], cache: KeyValueCache | None = None, layer: int = 0
    ) -> Float[Tensor, "batch sequence width"]:
        """Each position sees itself and those before it, in the cache as well."""
        q, k, v = (project(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for project in (self.query, self.key, self.value))
        known = cache.length if cache else 0
        if cache:
            k, v = cache.append(layer, k, v)  # [batch, heads, known + sequence, head_dim]
        if known and q.shape[2] > 1:
            mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=x.device).tril(known)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            dropout = self.dropout if self.training else 0.0
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=q.shape[2] > 1, dropout_p=dropout)
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
        self, x: Float[Tensor, "batch sequence width"], cache: KeyValueCache | None = None, layer: int = 0
    ) -> Float[Tensor, "batch sequence width"]:
        """Keep shape."""
        x = x + self.drop(self.attn(self.ln1(x), cache, layer))
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

    def forward(
        self, x: Float[Tensor, "batch sequence width"], cache: KeyValueCache | None = None
    ) -> Float[Tensor, "batch sequence width"]:
        """Causal; with a cache, `x` continues what the cache holds, and is added to it."""
        for layer, block in enumerate(self.blocks):
            x = block(x, cache, layer)
        if cache:
            cache.length += x.shape[1]
        return self.ln_f(x)
