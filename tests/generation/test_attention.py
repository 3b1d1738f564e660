"""Attention of sampled codes: torch's own weights, over time, drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from unsilent.errors import ParameterError
from unsilent.generation.attention import WindowAttention, over_time
from unsilent.generation.windows import Window
from unsilent.models.code_order import to_sequence
from unsilent.vision.scene import Scene


def test_attention_is_that_of_torch(pipeline, make_clip):
    """Of one head: the weights, applied to the values, give what torch's attention gives."""
    made = pipeline.generate(make_clip("twelve.mp4", n_frames=300), seed=2)
    windows = pipeline.attention(made, layer=0, head=1)
    assert [one.window.start for one in windows] == [0, 26]
    sampler, first = pipeline.parts.plain_sampler(), windows[0]
    inputs, outputs = [], []
    layer = sampler.transformer.blocks[0].attn
    layer.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    layer.proj.register_forward_pre_hook(lambda module, given: outputs.append(given[0]))
    scene = Scene(made.video, 12.0)
    plan = pipeline.plan(scene, made.codes.shape[1])
    condition = pipeline.conditions(plan, pipeline.observe(scene, plan, made.request), made.request)[0]
    codes = to_sequence(torch.from_numpy(made.codes[None, :, :53]))
    with torch.inference_mode():
        sampler.logits(codes, condition)
        values = layer.value(inputs[0])[0, :, 32:]  # of the second of two heads
    weights = np.concatenate([first.condition, first.codes[:, :-1]], axis=1)
    np.testing.assert_allclose(weights @ values.numpy(), outputs[0][0, 52:, 32:].numpy(), atol=1e-5)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert first.condition.shape == (265, 53)
    assert not np.triu(first.codes).any()


def test_attention_is_drawn_over_time(pipeline, make_clip, tmp_path):
    made = pipeline.generate(make_clip("four.mp4", n_frames=100))
    looked = pipeline.attention(made)
    weights, places = over_time(looked, 5)
    assert (weights.shape, places) == ((53, made.codes.shape[1]), "position of the condition")
    made.save_picture(tmp_path / "plain.png")
    made.save_picture(tmp_path / "looked.png", looked)
    with Image.open(tmp_path / "looked.png") as looked_at, Image.open(tmp_path / "plain.png") as plain:
        assert looked_at.size[1] > plain.size[1]
    with pytest.raises(ParameterError, match="layer 1 was asked for; this sampler has 0 to 0"):
        pipeline.attention(made, layer=1)


def test_attention_of_a_model_without_a_prefix_is_by_distance():
    rng = np.random.default_rng(0)
    codes = np.tril(rng.random((20, 20)), -1)
    weights, places = over_time([WindowAttention(Window(0, 0, 4), np.zeros((20, 1)), codes)], 5)
    assert (weights.shape, places) == ((4, 4), "columns before")
    assert weights[2, 3] == pytest.approx(codes[15:, 5:10].sum(1).mean())
    assert weights[3, 2] == 0
