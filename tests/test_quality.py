"""Effect of lower precision on 200 sounds each, measured by the classifier of the package."""

from pathlib import Path

import numpy as np
import pytest
import torch

import unsilent
from unsilent.evaluation.classifier import load_classifier
from unsilent.metrics import fid, mkl
from unsilent.signal.mel import to_mel01
from unsilent.speed import cpu_convolutions, cpu_transformer
from unsilent.vision.scene import Scene

CPU = torch.device("cpu")
in_c = pytest.mark.skipif(not cpu_transformer.is_built(), reason="installed without a C compiler")
in_int8 = pytest.mark.skipif(not cpu_convolutions.can_quantise(CPU), reason="no AVX-512 VNNI, or no C compiler")
DEMO = Scene(Path(__file__).parents[1] / "demo/cat.mp4", 10.0)
SOUNDS, COLUMNS = 200, 12


@torch.inference_mode()
def hear(precision, seed):
    """Features and logits of as many sounds of 2.2 s for the demonstration clip."""
    pipeline, judge = unsilent.load("everyday", device="cpu", precision=precision), load_classifier("everyday", "cpu")
    request, plan = pipeline.resolve(takes=SOUNDS, seed=seed, candidates=1), pipeline.plan(DEMO, COLUMNS)
    grids = pipeline.sample(plan, pipeline.conditions(plan, pipeline.observe(DEMO, plan, request), request), request)
    features, logits = zip(*(judge.classify(to_mel01(pipeline.codec.decode(grid))) for grid in grids), strict=True)
    return np.stack(features), np.stack(logits)


@pytest.fixture(scope="module")
def exact():
    return hear("float32", 0)


@pytest.fixture(scope="module")
def others(exact):
    """FID and MKL between float32 sounds of two seeds, which are equally good."""
    features, logits = hear("float32", 1)
    return fid(exact[0], features), mkl(exact[1], logits)


@pytest.mark.parametrize("precision", [pytest.param("bfloat16", marks=pytest.mark.slow), pytest.param("int8", marks=in_c)])
def test_lower_precision_keeps_fid_and_mkl(exact, others, precision):
    """With the same seed, MKL is below that of another seed, and FID at most a tenth above it.

    In float32 with another seed, FID is 0.309 and MKL 3.06; in bfloat16 0.307 and 2.28, in int8 0.308 and 2.61.
    """
    features, logits = hear(precision, 0)
    assert fid(exact[0], features) < 1.1 * others[0]
    assert mkl(exact[1], logits) < others[1]


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("int8", marks=in_int8)])
@torch.inference_mode()
def test_lower_precision_keeps_decoded_mels(precision):
    """The decoder is a linear map in float32, whatever the precision of the networks."""
    exact, light = (unsilent.load("everyday", device="cpu", precision=one) for one in ("float32", precision))
    codes = torch.from_numpy(exact.generate(DEMO.path, candidates=1).codes)
    assert torch.equal(light.codec.decode(codes), exact.codec.decode(codes))
