"""Visual features: preprocessing equal to Pillow, frame pairs, streaming in batches, errors."""

import itertools
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from unsilent.errors import MediaError, ParameterError
from unsilent.models.backbones.efficientnet_lite import EfficientNetLite0
from unsilent.vision.features import BACKBONES, Backbone, extract, find_backbone, needed_frames, network_inputs

LITE0 = find_backbone("efficientnet-lite0")
TWO_STREAM = find_backbone("bninception")


class Shrink(nn.Module):
    """A tiny backbone: the images at 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return (nn.functional.adaptive_avg_pool2d(images, 8) * self.scale).flatten(1)


class Identity(Shrink):
    """A backbone whose features are its input."""

    def forward(self, images):
        return images.flatten(1)


def preprocessed(frames: np.ndarray, backbone: Backbone) -> torch.Tensor:
    """The input of a network, `[frames, channels, 224, 224]`."""
    return extract(frames, Identity().eval(), backbone).unflatten(1, (-1, 224, 224))


def random_frames(n: int, height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def by_pillow(frame: np.ndarray) -> np.ndarray:
    height, width, _ = frame.shape
    image = Image.fromarray(frame).resize(
        (256 * width // min(height, width), 256 * height // min(height, width)), Image.Resampling.BILINEAR
    )
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    return np.asarray(image.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1)


@pytest.mark.parametrize(("height", "width"), [(360, 641), (641, 360), (64, 64), (256, 340), (255, 255), (1080, 300)])
def test_preprocessing_equals_pillow(height, width):
    frame = random_frames(1, height, width)[0]
    ours = preprocessed(frame[None], LITE0)[0] * 0.5 + 0.5
    # one level, because rounding differs
    np.testing.assert_allclose(ours.numpy() * 255, by_pillow(frame), atol=1.01)


def test_preprocessing_for_resnet_equals_pillow_with_imagenet_statistics():
    frame = random_frames(1, 360, 641)[0]
    expected = (by_pillow(frame) / 255 - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape([0.229, 0.224, 0.225], (3, 1, 1))
    ours = preprocessed(frame[None], find_backbone("resnet50"))[0]
    # one level of the channel with the smallest deviation
    np.testing.assert_allclose(ours.numpy(), expected, atol=1.01 / 255 / 0.224)


def test_pairs_are_resized_without_crop():
    """As with Pillow; in levels minus their centre, blue first; zero flow is 0."""
    flow = pytest.importorskip("unsilent.vision.flow")
    pytest.importorskip("cv2", reason="optical flow needs the extra unsilent[flow]")
    frame = np.repeat(np.repeat(random_frames(1, 9, 16)[0], 40, axis=0), 40, axis=1)
    ours = preprocessed(np.stack([frame, frame])[None], TWO_STREAM)
    assert ours.shape == (1, 5, 224, 224)
    whole = Image.fromarray(np.ascontiguousarray(flow.two_stream_input(np.stack([frame, frame]))[..., :3]))
    expected = np.asarray(whole.resize((224, 224), Image.Resampling.BILINEAR)).transpose(2, 0, 1) - np.reshape([104, 117, 128], (3, 1, 1))
    np.testing.assert_allclose(ours[0, :3].numpy(), expected, atol=1.01)
    np.testing.assert_allclose(ours[0, 3:].numpy(), 0, atol=1e-4)


def test_extract_takes_pairs():
    pytest.importorskip("cv2", reason="optical flow needs the extra unsilent[flow]")
    frames = np.repeat(random_frames(1), 3, axis=0)
    pairs = (pair for _, pair in network_inputs(enumerate(frames), [0, 1], TWO_STREAM))
    assert extract(pairs, Shrink().eval(), TWO_STREAM).shape == (2, 5 * 8 * 8)


def test_needed_frames_of_pairs_include_the_next():
    assert needed_frames([9, 3, 4], LITE0) == [3, 4, 9]
    assert needed_frames([9, 3, 4], TWO_STREAM) == [3, 4, 5, 9, 10]
    assert needed_frames(range(3, 12, 4), TWO_STREAM) == [3, 4, 7, 8, 11, 12]


def inputs(numbers, rows, backbone=TWO_STREAM):
    """Frames that each feature is computed from, given frames `numbers`."""
    stream = ((number, np.full((2, 2, 3), number, np.uint8)) for number in numbers)
    return {number: np.unique(frames).tolist() for number, frames in network_inputs(stream, rows, backbone)}


def test_network_inputs_of_single_frames_are_the_frames():
    assert inputs([3, 9], [3, 9], LITE0) == {3: [3], 9: [9]}


def test_network_inputs_of_pairs_include_the_next_frame():
    assert inputs([3, 4, 5, 9, 10], [3, 4, 9]) == {3: [3, 4], 4: [4, 5], 9: [9, 10]}


def test_incomplete_pairs_are_left_out():
    """At the end of a video or in a damaged one, frames that are not consecutive are not a pair."""
    assert inputs([3, 4, 9], [3, 9]) == {3: [3, 4]}
    assert inputs([3, 5, 9, 10], [3, 9]) == {9: [9, 10]}


def test_last_frame_is_paired_with_itself_where_no_pair_is_complete():
    assert inputs([0], [0]) == {0: [0]}
    assert inputs([0, 7], [0, 7]) == {7: [7]}


def test_pairs_are_copied_from_a_decoder_that_reuses_its_buffer():
    frame = np.empty((2, 2, 3), np.uint8)

    def decoder():
        for number in range(3):
            frame[:] = number
            yield number, frame

    assert [np.unique(pair).tolist() for _, pair in network_inputs(decoder(), [0, 1], TWO_STREAM)] == [[0, 1], [1, 2]]


def test_preprocessing_maps_black_and_white_to_minus_one_and_one():
    grey = preprocessed(np.stack([np.zeros((30, 20, 3), np.uint8), np.full((30, 20, 3), 255, np.uint8)]), LITE0)
    torch.testing.assert_close(grey, torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 224, 224))


def test_preprocessing_keeps_the_order_of_colours():
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 255
    assert preprocessed(red[None], LITE0).mean(dim=(0, 2, 3)).tolist() == pytest.approx([1, -1, -1])


def test_read_only_frames_give_no_warning():
    """Views of a decoder's memory are read-only."""
    frames = random_frames(1)
    frames.flags.writeable = False
    extract(frames, Shrink().eval(), LITE0)


@pytest.mark.parametrize("batch", [1, 2, 5, 7, 100])
def test_batch_size_does_not_change_features(batch):
    frames = random_frames(7)
    whole = Shrink()(preprocessed(frames, LITE0)).detach()
    torch.testing.assert_close(extract(iter(frames), Shrink().eval(), LITE0, batch), whole, atol=1e-5, rtol=0)


def test_batch_size_does_not_change_features_of_a_real_network():
    torch.manual_seed(0)
    network, frames = EfficientNetLite0().eval(), random_frames(4)
    one, three = (extract(frames, network, LITE0, batch) for batch in (1, 3))
    assert one.shape == (4, LITE0.dim)
    torch.testing.assert_close(one, three, atol=1e-5, rtol=0)


def test_frames_are_copied_from_a_decoder_that_reuses_its_buffer():
    def decoder():
        frame = np.empty((256, 256, 3), np.uint8)
        for level in (10, 200):
            frame[:] = level
            yield frame

    dark, bright = extract(decoder(), Shrink().eval(), LITE0)
    assert dark.mean() < 0 < bright.mean()


def test_extract_reads_at_most_three_batches_ahead():
    """So that a long video is never in memory as a whole."""
    asked, done = [0], [0]

    def stream():
        for frame in random_frames(40):
            asked[0] += 1
            assert asked[0] - done[0] <= 12
            yield frame

    extract(stream(), Shrink().eval(), LITE0, batch=4, on_batch=lambda n: done.__setitem__(0, n))
    assert done == [40]


def test_frames_are_read_while_earlier_ones_are_embedded():
    """The network waits for a frame of two batches later."""
    asked = [threading.Event() for _ in range(12)]

    def stream():
        for event, frame in zip(asked, random_frames(12), strict=True):
            event.set()
            yield frame

    class Waiting(Shrink):
        def forward(self, x):
            assert asked[5].wait(timeout=60)
            return super().forward(x)

    assert len(extract(stream(), Waiting().eval(), LITE0, batch=2)) == 12


def test_errors_in_the_stream_or_the_network_end_both():
    before = threading.active_count()

    def damaged():
        yield from random_frames(5)
        raise MediaError("the stream is damaged.")

    class Failing(Shrink):
        def forward(self, x):
            raise ParameterError("the network fails.")

    with pytest.raises(MediaError, match="the stream is damaged"):
        extract(damaged(), Shrink().eval(), LITE0)
    with pytest.raises(ParameterError, match="the network fails"):
        extract(itertools.cycle(random_frames(1)), Failing().eval(), LITE0)
    assert threading.active_count() == before


def test_features_can_be_used_in_training():
    """Autograd refuses tensors of inference mode."""
    features = extract(random_frames(2), Shrink().eval(), LITE0)
    nn.Linear(features.shape[1], 1)(features).sum().backward()


def test_invalid_arguments_are_refused():
    with pytest.raises(ParameterError, match="0 frames were given"):
        extract([], Shrink().eval(), LITE0)
    with pytest.raises(ParameterError, match="batch is 0, but must be 1 or more"):
        extract(random_frames(1), Shrink().eval(), LITE0, batch=0)
    with pytest.raises(ParameterError, match="the backbone is in training mode"):
        extract(random_frames(1), Shrink().train(), LITE0)
    with pytest.raises(ParameterError, match=r"takes pairs of frames \[2, height, width, 3\], but was given \[40, 50, 3\]"):
        extract(random_frames(1), Shrink().eval(), TWO_STREAM)
    with pytest.raises(ParameterError, match=r"takes single frames \[height, width, 3\], but was given \[2, 40, 50, 3\]"):
        extract(random_frames(2)[None], Shrink().eval(), LITE0)
    with pytest.raises(ParameterError, match=r"no backbone 'resnet51'; known are .*efficientnet-lite0"):
        find_backbone("resnet51")


def test_every_backbone_has_statistics_of_all_channels():
    for name, row in BACKBONES.items():
        assert len(row.mean) == len(row.std) == (5 if row.pairs else 3), name
