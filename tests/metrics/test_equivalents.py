"""Equality with torchmetrics and scipy, without random draws."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch import nn

from unsilent import metrics

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchmetrics")


class Rows(nn.Module):
    """The inputs are the features."""

    num_features = 16

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows


@pytest.fixture(scope="module")
def rows():
    """Real and generated rows, many more than columns."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((16, 16))
    return [torch.from_numpy(rng.standard_normal((200, 16)) @ mix + shift) for shift in (0.0, 0.5)]


def test_fid_equals_torchmetrics(rows):
    from torchmetrics.image.fid import FrechetInceptionDistance

    theirs = FrechetInceptionDistance(feature=Rows()).set_dtype(torch.float64)
    theirs.update(rows[0], real=True)
    theirs.update(rows[1], real=False)
    assert metrics.fid(*rows) == pytest.approx(theirs.compute().item(), rel=1e-4)


def test_kid_equals_torchmetrics(rows):
    from torchmetrics.image.kid import KernelInceptionDistance

    theirs = KernelInceptionDistance(feature=Rows(), subsets=2, subset_size=200)
    theirs.update(rows[0], real=True)
    theirs.update(rows[1], real=False)
    assert metrics.kid(*rows, subsets=2, subset_size=200).value == pytest.approx(theirs.compute()[0].item(), rel=1e-4)


def test_inception_score_equals_torchmetrics(rows):
    from torchmetrics.image.inception import InceptionScore

    theirs = InceptionScore(feature=Rows(), splits=1)
    theirs.update(rows[0])
    assert metrics.inception_score(rows[0], splits=1).value == pytest.approx(theirs.compute()[0].item(), rel=1e-4)


def test_mkl_equals_scipys_relative_entropy(rows):
    real, generated = (softmax(one.numpy() / 4, axis=1) for one in rows)
    expected = rel_entr(real, generated + 1e-6).sum(1).mean()
    assert metrics.mkl(*(log_softmax(one.numpy() / 4, axis=1) for one in rows)) == pytest.approx(expected, rel=1e-9)
