"""The codec's dtype: Griffin-Lim computes in float32 whatever the networks compute in."""

import torch

from unsilent.codec.codec import Codec


def test_griffin_lim_does_not_depend_on_the_dtype_of_the_networks(parts):
    """Regression: under autocast, the product with the inverse mel filters was rounded to bfloat16."""
    mel = torch.rand(80, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    made = [Codec(parts.codebook, None, torch.device("cpu"), dtype).vocode(mel) for dtype in (torch.float32, torch.bfloat16)]
    assert torch.equal(*made)
