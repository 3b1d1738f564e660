"""The decoder-only transformer of the sampler, and its KV cache.

batch     sequences side by side
sequence  positions processed in one call
width     residual stream: heads * head_dim
capacity  positions that the KV cache has room for
past      positions in the KV cache before this call
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from unsilent.errors import ParameterError
from unsilent.models.configs import TransformerConfig

LayerMemory = Float[Tensor, "2 batch heads capacity head_dim"]  # one layer of `KeyValueCache.memory`


@dataclass(frozen=True)
class Look:
    """The layer and head whose attention weights are recorded.

    Attributes:
        layer: number of the layer; None averages over all layers.
        head: number of the head; None averages over all heads.
    """

    layer: int | None = None
    head: int | None = None


class Looked:
    """Attention weights, recorded by the steps that compute them.

    Args:
        config: sizes of the transformer.
        look: layer and head whose weights are recorded.
        batch, capacity: those of the KV cache.
        device: device of the transformer.

    Attributes:
        weights: row `i` has the weights of position `i` on all positions. They sum to 1; rows of positions not yet processed are 0.

    Raises:
        ParameterError: for a layer or head that the transformer does not have.
    """

    weights: Float[Tensor, "batch capacity capacity"]

    def __init__(self, config: TransformerConfig, look: Look, batch: int, capacity: int, device: torch.device) -> None:
        for name, asked, n in (("layer", look.layer, config.layers), ("head", look.head, config.heads)):
            if asked is not None and not 0 <= asked < n:
                raise ParameterError(f"{name} is {asked}, but this sampler has 0 to {n - 1}.")
        self.look = look
        self.layers = range(config.layers) if look.layer is None else range(look.layer, look.layer + 1)
        self.weights = torch.zeros(batch, capacity, capacity, device=device)

    def of(self, layer: int) -> "Looked | None":
        """The record itself if it includes the layer; else None."""
        return self if layer in self.layers else None

    def add(self, weights: Float[Tensor, "batch heads sequence positions"], past: int | Int[Tensor, "1"]) -> None:
        """Add a layer's weights; arguments as in `Attention.forward`."""
        share = (weights.mean(1) if self.look.head is None else weights[:, self.look.head]).float() / len(self.layers)
        if isinstance(past, Tensor):
            self.weights.index_add_(1, past, share)
        else:
            self.weights[:, past : past + share.shape[1], : share.shape[2]] += share

    def repeat(self, batch: int, capacity: int) -> None:
        """Repeat the record like `KeyValueCache.repeat`."""
        before = self.weights
        self.weights = before.new_zeros(batch, capacity, capacity)
        self.weights[:, : before.shape[1], : before.shape[2]] = before.repeat_interleave(batch // len(before), dim=0)


class KeyValueCache:
    """Keys and values of all past positions, allocated once.

    Args:
        config: sizes of the transformer.
        batch: number of sequences.
        capacity: largest number of positions.
        like: tensor whose device and dtype the cache has.
        head_dim: stored width of one key or value; None for `width / heads`.
        look: layer and head whose attention weights are recorded; None records none.

    Attributes:
        memory: `[layers, 2, batch, heads, capacity, head_dim]`, keys then values; undefined from `length` on.
        length: positions stored.
        looked: the recorded attention weights; None if they are not recorded.

    Raises:
        ParameterError: for a layer or head that the transformer does not have.
    """

    def __init__(
        self,
        config: TransformerConfig,
        batch: int,
        capacity: int,
        like: Tensor,
        head_dim: int | None = None,
        look: Look | None = None,
    ) -> None:
        self.memory = like.new_empty((config.layers, 2, batch, config.heads, capacity, head_dim or config.width // config.heads))
        self.length = 0
        self.looked = None if look is None else Looked(config, look, batch, capacity, like.device)

    def grow(self, new: int) -> int:
        """Reserve `new` positions, which the caller then writes.

        Returns:
            The number of positions stored before.

        Raises:
            ParameterError: if the positions exceed the capacity.
        """
        past, capacity = self.length, self.memory.shape[4]
        if past + new > capacity:
            raise ParameterError(f"{past + new} positions do not fit into a KV cache of {capacity}.")
        self.length += new
        return past

    def repeat(self, batch: int, capacity: int) -> None:
        """Reallocate for a larger batch and capacity; each sequence is repeated consecutively."""
        stored = self.memory
        self.memory = stored.new_empty((*stored.shape[:2], batch, stored.shape[3], capacity, stored.shape[5]))
        self.memory.unflatten(2, (stored.shape[2], -1))[..., : self.length, :] = stored[:, :, :, None, :, : self.length]
        if self.looked is not None:
            self.looked.repeat(batch, capacity)


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
        """Concatenate the three projections into one matrix, for inference; changes state-dict names."""
        parts = (self.query, self.key, self.value)
        self.fused = nn.Linear(1, 1, device="meta")
        self.fused.weight = nn.Parameter(torch.cat([part.weight for part in parts]), requires_grad=False)
        self.fused.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
        del self.query, self.key, self.value

    def forward(
        self,
        x: Float[Tensor, "batch sequence width"],
        memory: LayerMemory | None = None,
        past: int | Int[Tensor, "1"] = 0,
        looked: Looked | None = None,
    ) -> Float[Tensor, "batch sequence width"]:
        """Attend to the `past` positions in the KV cache and, causally, to the new ones, which are appended to the cache.

        Args:
            x: the new positions.
            memory: one layer of `KeyValueCache.memory`; None without cache.
            past: number of positions in the cache. As a tensor, for a single new position, it keeps shapes constant for CUDA graphs.
            looked: gets the weights; None where they are not wanted.
        """
        if self.fused is None:
            projected = torch.stack([project(x) for project in (self.query, self.key, self.value)], dim=2)
        else:
            projected = self.fused(x).unflatten(2, (3, -1))
        # each [batch, heads, sequence, head_dim]
        q, k, v = projected.unflatten(3, (self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()
        sequence = x.shape[1]
        if isinstance(past, Tensor):
            k, v = memory.index_copy_(3, past, torch.stack([k, v]).to(memory)).unbind()
            valid = torch.arange(k.shape[2], device=x.device) <= past
            if looked is not None:
                looked.add(weights_of(q.to(k), k, valid[None]), past)
            return self.proj(F.scaled_dot_product_attention(q.to(k), k, v, attn_mask=valid[None]).transpose(1, 2).flatten(2))
        if memory is not None:
            stop = past + sequence
            memory[0, :, :, past:stop], memory[1, :, :, past:stop] = k, v
            k, v = memory[:, :, :, :stop].unbind()
        if looked is not None:
            looked.add(weights_of(q, k, torch.ones(sequence, k.shape[2], dtype=torch.bool, device=x.device).tril(past)), past)
        if sequence == 1:
            attended = F.scaled_dot_product_attention(q, k, v)
        elif memory is None or past == 0:
            dropout = self.dropout if self.training else 0.0
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=dropout)
        else:
            mask = torch.ones(sequence, k.shape[2], dtype=torch.bool, device=x.device).tril(past)
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(attended.transpose(1, 2).flatten(2))


def weights_of(
    q: Float[Tensor, "batch heads sequence head_dim"],
    k: Float[Tensor, "batch heads positions head_dim"],
    valid: Bool[Tensor, "#sequence positions"],
) -> Float[Tensor, "batch heads sequence positions"]:
    """Attention weights of queries to the keys that are valid, which `scaled_dot_product_attention` does not give."""
    scores = (q @ k.transpose(2, 3)).float() / q.shape[-1] ** 0.5
    return scores.masked_fill(~valid, -torch.inf).softmax(-1)


class Block(nn.Module):
    """Pre-norm transformer block: `x + attention(LayerNorm(x))`, then `x + MLP(LayerNorm(x))`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(config.width)
        self.attn = Attention(config)
        self.ln2 = nn.LayerNorm(config.width)
        self.mlp = nn.Sequential(nn.Linear(config.width, 4 * config.width), nn.GELU(), nn.Linear(4 * config.width, config.width))
        self.drop = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch sequence width"],
        memory: LayerMemory | None = None,
        past: int | Int[Tensor, "1"] = 0,
        looked: Looked | None = None,
    ) -> Float[Tensor, "batch sequence width"]:
        """Arguments as in `Attention.forward`."""
        x = x + self.drop(self.attn(self.ln1(x), memory, past, looked))
        return x + self.drop(self.mlp(self.ln2(x)))


class Transformer(nn.Module):
    """A stack of blocks and a final LayerNorm; embeddings and output head belong to the sampler.

    Source:
        Paper section 3.2 and supplement 6.1.4: GPT-2 as in minGPT, with biases everywhere and exact GELU. Differs: optional dropout for
        small data, zero in the released configuration.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width)

    def cache(self, batch: int, capacity: int, like: Tensor, look: Look | None = None) -> KeyValueCache:
        """An empty KV cache for `forward`; arguments as in `KeyValueCache`."""
        return KeyValueCache(self.config, batch, capacity, like, look=look)

    def forward(
        self, x: Float[Tensor, "batch sequence width"], cache: KeyValueCache | None = None
    ) -> Float[Tensor, "batch sequence width"]:
        """Process positions causally. With a KV cache, they follow the cached positions and are appended to it."""
        memory, past, looked = (cache.memory, cache.grow(x.shape[1]), cache.looked) if cache else (None, 0, None)
        for layer, block in enumerate(self.blocks):
            x = block(x, None if memory is None else memory[layer], past, looked and looked.of(layer))
        return self.ln_f(x)
