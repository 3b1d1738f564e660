"""Makes a sampler ready for fast inference: weights quantised and packed while they load, steps in C or as a CUDA graph."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from unsilent.choices import Precision
from unsilent.models.sampler import AnySampler, Sampler
from unsilent.models.transformer import Block
from unsilent.speed.cpu_transformer import LANES, PackedBlock, PackedHead, PackedTransformer
from unsilent.speed.gpu_graphs import GraphedAdvance
from unsilent.speed.memory import trim_memory
from unsilent.speed.threads import EXCLUSIVE, SMALL_WEIGHTS, one_thread


@contextmanager
def sampling_mode(sampler: AnySampler, precision: Precision) -> Iterator[None]:
    """Context for sampling: torch's thread count, and autocast where torch computes in bfloat16.

    torch gets one thread beside a packed transformer, which has threads of its own, and for a small network. Both run hundreds of small
    operations, and on a busy machine threads would wait for each other longer than they compute.
    """
    is_packed = isinstance(sampler.transformer, PackedTransformer)
    autocast = torch.autocast(sampler.pos_emb.device.type, torch.bfloat16, enabled=precision == "bfloat16" and not is_packed)
    with EXCLUSIVE:
        if is_packed:
            sampler.transformer.threads = torch.get_num_threads()
        with one_thread(is_packed or sampler.config.transformer.n_weights < SMALL_WEIGHTS), autocast:
            yield


def prepare_block(part: nn.Module, precision: Precision, packs: bool) -> nn.Module:
    """Replace a part of a sampler for inference, as soon as its weights are loaded; parts other than transformer blocks stay.

    Args:
        part: of the sampler.
        precision: of the packed weights; int8 takes a quarter of the memory.
        packs: whether blocks are packed for C; if not, their three projections are joined for torch.
    """
    if not isinstance(part, Block):
        return part
    if not packs:
        part.attn.fuse()
        return part
    packed = PackedBlock(part, precision)
    for layer in part.modules():
        layer._parameters.clear()  # frees the weights even where the block is still referenced
    trim_memory()
    return packed


def accelerate(sampler: AnySampler, precision: Precision, device: torch.device) -> None:
    """Replace a sampler's step by a faster one: C if its blocks are packed, a CUDA graph on a GPU."""
    if device.type == "cuda":
        if isinstance(sampler, Sampler):
            sampler.fast_advance = GraphedAdvance(sampler)
    elif all(isinstance(block, PackedBlock) for block in sampler.transformer.blocks):
        sampler.transformer = PackedTransformer(sampler.transformer, precision)
        if isinstance(sampler, Sampler) and sampler.config.codes % LANES == 0:
            sampler.head = PackedHead(sampler.head, sampler.transformer, "float32" if precision == "float32" else "bfloat16")
