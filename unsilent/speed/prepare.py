"""Prepares a sampler for fast inference: quantises and packs weights while they load, and replaces steps by C or a CUDA graph."""

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
    """Context for sampling: sets torch's thread count, and autocast if torch computes in bfloat16.

    torch gets one thread for a packed transformer, which has its own threads, and for a small network. Both run hundreds of small torch
    operations, for which several threads would spend more time waiting than computing on a busy machine.
    """
    is_packed = isinstance(sampler.transformer, PackedTransformer)
    autocast = torch.autocast(sampler.pos_emb.device.type, torch.bfloat16, enabled=precision == "bfloat16" and not is_packed)
    with EXCLUSIVE:
        if is_packed:
            sampler.transformer.threads = torch.get_num_threads()
        with one_thread(is_packed or sampler.config.transformer.n_weights < SMALL_WEIGHTS), autocast:
            yield


def prepare_block(part: nn.Module, precision: Precision, packs: bool) -> nn.Module:
    """Replace a transformer block for inference as soon as its weights are loaded; other parts are returned unchanged.

    Args:
        part: part of the sampler.
        precision: precision of the packed weights; int8 takes a quarter of the memory.
        packs: whether blocks are packed for C; if not, their three projections are fused for torch.
    """
    if not isinstance(part, Block):
        return part
    if not packs:
        part.attn.fuse()
        return part
    packed = PackedBlock(part, precision)
    for layer in part.modules():
        layer._parameters.clear()  # frees the weights even if the block is still referenced
    trim_memory()
    return packed


def accelerate(sampler: AnySampler, precision: Precision, device: torch.device) -> None:
    """Replace a sampler's step with a faster one: C if its blocks are packed, a CUDA graph on a GPU."""
    if device.type == "cuda":
        if isinstance(sampler, Sampler):
            sampler.fast_advance = GraphedAdvance(sampler)
    elif all(isinstance(block, PackedBlock) for block in sampler.transformer.blocks):
        sampler.transformer = PackedTransformer(sampler.transformer, precision)
        if isinstance(sampler, Sampler) and sampler.config.codes % LANES == 0:
            sampler.head = PackedHead(sampler.head, sampler.transformer, "float32" if precision == "float32" else "bfloat16")
