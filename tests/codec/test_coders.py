"""The range coder with a sampler's probabilities: lossless, the same on all machines, never larger than plain codes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unsilent.clip import Clip
from unsilent.codec import coders
from unsilent.codec.bitstream import Header, pack, unpack
from unsilent.codec.coders import PlainCoder, SamplerCoder
from unsilent.errors import DataError
from unsilent.models.configs import ConditionConfig, ResidualSamplerConfig, TransformerConfig
from unsilent.models.residual_sampler import ResidualSampler

LEVELS, ROWS, N_CODES = 2, 3, 64
HEADER = Header(ROWS, N_CODES, 22050, 4096, 53, 0.0, bytes(16))


@pytest.fixture(scope="module")
def sampler():
    """Trained on nothing, but with a head so large that some codes are much likelier than others."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = ResidualSampler(
            ResidualSamplerConfig(
                clip=Clip(levels=LEVELS),
                codes=N_CODES,
                dim=8,
                transformer=TransformerConfig(layers=1, heads=2, width=16),
                inner=16,
                inner_blocks=1,
                condition=ConditionConfig(kind="sight", n_features=3, feature_dim=4, n_classes=5, motion=8),
            )
        )
        module.vectors.normal_()
        module.head.data.normal_(std=1.0)
    return module.eval()


@pytest.fixture
def coder(sampler):
    return SamplerCoder(sampler, PlainCoder(ROWS, 6), bytes(range(16)))


def drawn(sampler, n_columns, choose, seed=0):
    """Codes chosen from logits one by one, and a row that the sampler does not predict."""
    rng = np.random.default_rng(seed)
    logits, state = sampler.start(torch.zeros(1, 0, dtype=torch.long), torch.zeros_like(sampler.pos_emb))
    codes = np.empty(n_columns * LEVELS, np.int64)
    for number in range(len(codes)):
        codes[number] = choose(logits[0])
        if number + 1 < len(codes):
            logits = sampler.step(torch.tensor([codes[number]]), state)
    return np.concatenate([codes.reshape(n_columns, LEVELS), rng.integers(0, N_CODES, (n_columns, ROWS - LEVELS))], axis=1)


def sampled(sampler, n_columns, seed=0):
    """Codes as likely as the sampler finds them."""
    generator = torch.Generator().manual_seed(seed)
    return drawn(sampler, n_columns, lambda logits: int(torch.multinomial(logits.softmax(0), 1, generator=generator)), seed)


@pytest.mark.parametrize("n_columns", [1, 2, 53])
def test_codes_come_back(coder, sampler, n_columns):
    codes = sampled(sampler, n_columns)
    assert np.array_equal(coder.decode(coder.encode(codes), n_columns), codes)


def test_likely_codes_take_fewer_bits(coder, sampler):
    codes = sampled(sampler, 53)
    assert len(coder.encode(codes)) < 0.9 * len(PlainCoder(ROWS, 6).encode(codes))


def test_unlikely_codes_take_one_byte_more_than_plain_ones(coder, sampler):
    codes = drawn(sampler, 53, lambda logits: int(logits.argmin()))
    coded = coder.encode(codes)
    assert len(coded) == 1 + len(PlainCoder(ROWS, 6).encode(codes))
    assert np.array_equal(coder.decode(coded, 53), codes)


def test_another_machine_s_rounding_changes_nothing(coder, sampler, monkeypatch):
    """Logits that are off by a thousand times what two machines differ by."""
    codes, rng, own = sampled(sampler, 20), np.random.default_rng(3), coders._steps
    coded = coder.encode(codes)
    monkeypatch.setattr(coders, "_steps", lambda logits, shift: own(logits + rng.uniform(-4e-10, 4e-10, logits.shape), shift))
    assert np.array_equal(coder.decode(coded, 20), codes)


def test_logits_near_a_border_take_another_grid(coder, sampler, monkeypatch):
    codes = sampled(sampler, 5)
    safe = iter([False, False, True])
    monkeypatch.setattr(coders, "_is_safe", lambda logits, shift: next(safe))
    coded = coder.encode(codes)
    assert coded[0] == 2
    assert np.array_equal(coder.decode(coded, 5), codes)


def test_borders_of_the_grid_are_seen():
    """Five steps below the likeliest code in grid 3, to 1e-11 nats, which another machine might count as four."""
    logits = np.array([[0.0, -(5 - 3.5 / 16) * 1.2 / 8 + 1e-11]])
    assert [shift for shift in range(16) if not coders._is_safe(logits, shift)] == [3]


def test_bytes_of_a_block_are_those_of_the_format():
    """A change here makes files unreadable that others have: raise the version of the format."""
    from constriction import stream

    logits = np.arange(8.0)[None].repeat(6, 0) / 2
    coder = stream.queue.RangeEncoder()
    coder.encode(np.array([0, 7, 3, 5, 1, 2], np.int32), stream.model.Categorical(perfect=False), coders._probabilities(logits, 3))
    coder.encode(np.array([5, 900], np.int32), stream.model.Uniform(1024))
    assert coder.get_compressed().tolist() == GOLDEN
    assert coders._WEIGHTS[[0, 1, 8, 96]].tolist() == [1048576, 925365, 385749, 6]


GOLDEN = [57769374, 1694108606]


def test_damage_loses_one_block_and_never_gives_wrong_codes(coder, sampler):
    grid = np.concatenate([sampled(sampler, 9, seed).T for seed in range(3)], axis=1)
    header = replace(HEADER, block_columns=9)
    data = b"".join(pack(header, [grid[:, start : start + 9] for start in (0, 9, 18)], lambda: 27 * 4096, coder))
    assert np.array_equal(unpack(data, coder).grid, grid)
    rng, n_saved = np.random.default_rng(1), 0
    for _ in range(8):
        changed = bytearray(data)
        changed[int(rng.integers(70, len(changed)))] ^= 1 << int(rng.integers(8))
        found = unpack(bytes(changed), coder)
        kept = found.grid >= 0
        assert np.array_equal(found.grid[kept], grid[kept])
        assert len(found.lost) <= 1
        n_saved += kept.mean()
    assert n_saved > 5


def test_other_probabilities_are_told_from_damage(coder, sampler):
    """Those of a machine that computes otherwise: the codes have a checksum of their own."""
    data = b"".join(pack(HEADER, [sampled(sampler, 53).T], lambda: 53 * 4096, coder))
    other = SamplerCoder(sampler, PlainCoder(ROWS, 6), coder.digest)
    other._sampler.head.data.mul_(1.01)
    with pytest.raises(DataError, match="this machine computes other probabilities than those of the encoder"):
        unpack(data, other)
