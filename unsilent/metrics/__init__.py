"""Metrics as pure functions: fidelity (FID, KID, inception score) and relevance (MKL) from classifier outputs; F1 of onsets."""

from unsilent.metrics.fid import fid
from unsilent.metrics.inception_score import inception_score
from unsilent.metrics.kid import kid
from unsilent.metrics.mkl import mkl
from unsilent.metrics.onsets import OnsetScore, onset_f1
from unsilent.metrics.statistics import Score

__all__ = ["OnsetScore", "Score", "fid", "inception_score", "kid", "mkl", "onset_f1"]
