"""Comparison with the authors' numbers in the fixtures, as `make parity` prints it."""

import numpy as np
import parity
import pytest
import torch


@pytest.fixture(scope="module")
def numbers():
    return parity.Numbers()


def compare_three_samplers(numbers):
    """One with features, one with a class, one with both; the others have another number of features."""
    return parity.compare_samplers(numbers, ("transformer_5_a", "transformer_class_a", "transformer_cls5_a"))


SECTIONS = [pytest.param(section, marks=pytest.mark.slow) if section is parity.compare_samplers else section for section in parity.SECTIONS]


@pytest.mark.parametrize("section", [*SECTIONS, compare_three_samplers], ids=lambda section: section.__name__)
def test_our_numbers_equal_the_authors(section, numbers):
    with torch.inference_mode():
        rows = list(section(numbers))
    assert rows
    assert not [row for row in rows if not row.passed]


def test_a_difference_is_reported(numbers):
    waveform = numbers.expected("melgan_a", "waveform_first_4096")
    assert numbers.near("melgan_a", "waveform_first_4096", waveform, 1e-6).passed
    assert not numbers.near("melgan_a", "waveform_first_4096", waveform + 1e-3, 1e-3).passed
    assert not numbers.near("melgan_a", "waveform_first_4096", waveform * np.nan, 1e-3).passed
    assert not numbers.near("melgan_a", "waveform_first_4096", waveform[:-1], 1e-3).passed
    tokens = numbers.expected("codebook_a", "tokens").copy()
    assert numbers.same("codebook_a", "tokens", tokens).passed
    tokens[7] += 1
    row = numbers.same("codebook_a", "tokens", tokens)
    assert (row.passed, row.detail) == (False, "264 of 265")
