"""Attention of sampled codes: from the steps that sample them, equal to torch's, over time, drawn."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from unsilent import Look
from unsilent.checkpoints.bundle import load_sampler
from unsilent.checkpoints.folders import read_bundle
from unsilent.errors import ParameterError
from unsilent.generation.attention import WindowAttention, over_time
from unsilent.generation.windows import Window
from unsilent.models.code_order import to_sequence
from unsilent.pipeline import Pipeline
from unsilent.vision.scene import Scene


@pytest.mark.parametrize(("precision", "tolerance"), [(None, 1e-5), ("float32", 1e-5), ("int8", 0.01)])
def test_attention_is_that_of_torch(pipeline, make_clip, precision, tolerance):
    """The weights of a head from sampling, applied to its values, give what torch's attention gives for the finished codes."""
    device, folder = torch.device("cpu"), pipeline.parts.folder
    sampler = load_sampler(folder / read_bundle(folder)["parts"]["sampler"], precision, device)
    sampling = Pipeline(dataclasses.replace(pipeline.parts, sampler=sampler), device, precision or "float32")
    made = sampling.generate(make_clip("twelve.mp4", n_frames=300), seed=2, attention=Look(layer=0, head=1))
    assert [one.window.start for one in made.attention] == [0, 26]
    first, plain = made.attention[0], pipeline.parts.sampler
    inputs, outputs = [], []
    layer = plain.transformer.blocks[0].attn
    hooks = [layer.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))]
    hooks.append(layer.proj.register_forward_pre_hook(lambda module, given: outputs.append(given[0])))
    scene = Scene(made.video, 12.0)
    plan = pipeline.plan(scene, made.codes.shape[1])
    condition = pipeline.conditions(plan, pipeline.observe(scene, plan, made.request), made.request)[0]
    codes = to_sequence(torch.from_numpy(made.codes[None, :, :53]))
    with torch.inference_mode():
        plain.logits(codes, condition)
        values = layer.value(inputs[0])[0, :, 32:]  # of the second of two heads
    for hook in hooks:
        hook.remove()
    weights = np.concatenate([first.condition, first.codes[:, :-1]], axis=1)
    expected = outputs[0][0, 52:, 32:].numpy()
    assert np.linalg.norm(weights @ values.numpy() - expected) < tolerance * np.linalg.norm(expected)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert first.condition.shape == (265, 53)
    assert not np.triu(first.codes).any()


def test_asking_for_attention_changes_no_sound(pipeline, seeing, make_clip):
    """Each take carries its own, also where the best of several candidates are kept."""
    clip = make_clip("four.mp4", n_frames=100)  # four seconds
    for model, fields in ((pipeline, {}), (seeing, {"candidates": 2}), (seeing, {"candidates": 5})):  # five go through an audition
        plain, looked = model.takes(clip, 2, seed=4, **fields), model.takes(clip, 2, seed=4, attention=Look(), **fields)
        assert plain == looked
        assert all(one.attention is None for one in plain)
        first, second = (one.attention[0].codes for one in looked)
        assert not np.array_equal(first, second)
        alone = next(one for one in looked if one.take == 0) if model is pipeline else None
        if alone is not None:
            np.testing.assert_allclose(
                model.generate(clip, seed=4, attention=Look()).attention[0].codes, alone.attention[0].codes, atol=1e-6
            )


def test_a_sampler_over_columns_has_the_attention_of_columns(seeing, make_clip):
    made = seeing.generate(make_clip("four.mp4", n_frames=100), attention=Look())
    (only,) = made.attention
    n_columns = made.codes.shape[1]
    assert (only.condition.shape, only.codes.shape, only.each) == ((n_columns, 1), (n_columns, n_columns), 1)
    np.testing.assert_allclose(only.condition[:, 0] + only.codes.sum(1), 1, atol=1e-5)
    assert over_time(made.attention)[1] == "distance to earlier columns"


def test_attention_is_drawn_over_time(pipeline, make_clip, tmp_path):
    clip = make_clip("four.mp4", n_frames=100)
    made, plain = pipeline.generate(clip, attention=Look()), pipeline.generate(clip)
    weights, places = over_time(made.attention)
    assert (weights.shape, places) == ((53, made.codes.shape[1]), "position of the condition")
    made.save_picture(tmp_path / "looked.png")
    plain.save_picture(tmp_path / "plain.png")
    with Image.open(tmp_path / "looked.png") as looked_at, Image.open(tmp_path / "plain.png") as without:
        assert looked_at.size[1] > without.size[1]
    with pytest.raises(ParameterError, match="layer is 1, but this sampler has 0 to 0"):
        pipeline.generate(clip, attention=Look(layer=1))
    with pytest.raises(ParameterError, match="the attention of a stream is not recorded"):
        pipeline.generate(clip, attention=Look(), stream=True)


def test_codes_of_a_prime_have_attention_too(pipeline, make_clip):
    """Also where windows are left out, because the prime fills them."""
    sound = 0.1 * np.random.default_rng(0).standard_normal((1, 18 * 22050))
    clip = make_clip("eighteen.mp4", n_frames=18 * 25, sound=sound)
    for seconds in (2, 12):
        made = pipeline.generate(clip, prime="own", prime_seconds=seconds, attention=Look())
        weights, _ = over_time(made.attention)
        first = 0 if seconds == 2 else 53  # after one whole window
        assert weights.shape[1] == made.codes.shape[1]
        assert weights[:, first:].sum(0).min() > 0.01
        assert not weights[:, :first].any()


def test_attention_of_a_model_without_a_prefix_is_by_distance():
    rng = np.random.default_rng(0)
    codes = np.tril(rng.random((20, 20)), -1)
    weights, places = over_time([WindowAttention(Window(0, 0, 4), np.zeros((20, 1)), codes)])
    assert (weights.shape, places) == ((4, 4), "distance to earlier columns")
    assert weights[2, 3] == pytest.approx(codes[15:, 5:10].sum(1).mean())
    assert weights[3, 2] == 0
