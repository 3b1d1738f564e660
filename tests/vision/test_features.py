"""Frames to features: against Pillow, whatever the batch, and the authors' choice of rows."""

import itertools
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from unsilent.clip import Clip
from unsilent.errors import MediaError, ParameterError
from unsilent.models.backbones.efficientnet_lite import EfficientNetLite0
from unsilent.models.condition import ConditionConfig
from unsilent.vision.features import (
    BACKBONES,
    condition_rows,
    extract,
    find_backbone,
    fit_released,
    needed,
    pick,
    pick_rows,
    preprocess,
    tile,
    tile_rows,
    views,
)

LITE0 = find_backbone("efficientnet-lite0")
TWO_STREAM = find_backbone("bninception")


class Shrink(nn.Module):
    """A backbone small enough to count with: the pictures at 8 x 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return (nn.functional.adaptive_avg_pool2d(images, 8) * self.scale).flatten(1)


def pictures(n: int, height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def by_pillow(frame: np.ndarray) -> np.ndarray:
    height, width, _ = frame.shape
    image = Image.fromarray(frame).resize(
        (256 * width // min(height, width), 256 * height // min(height, width)), Image.Resampling.BILINEAR
    )
    left, top = round((image.width - 224) / 2), round((image.height - 224) / 2)
    return np.asarray(image.crop((left, top, left + 224, top + 224))).transpose(2, 0, 1)


@pytest.mark.parametrize(("height", "width"), [(360, 641), (641, 360), (64, 64), (256, 340), (255, 255), (1080, 300)])
def test_preprocess_equals_pillow(height, width):
    frame = pictures(1, height, width)[0]
    ours = preprocess(frame[None], LITE0)[0] * 0.5 + 0.5
    np.testing.assert_allclose(ours.numpy() * 255, by_pillow(frame), atol=1.01)  # one grey level: the two round differently


def test_preprocess_for_resnet_equals_pillow_and_torchvisions_numbers():
    frame = pictures(1, 360, 641)[0]
    expected = (by_pillow(frame) / 255 - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) / np.reshape([0.229, 0.224, 0.225], (3, 1, 1))
    ours = preprocess(frame[None], find_backbone("resnet50"))[0]
    np.testing.assert_allclose(ours.numpy(), expected, atol=1.01 / 255 / 0.224)  # one grey level of the narrowest channel


def test_pairs_are_pressed_into_a_square():
    """As Pillow does, not cut; in grey levels, blue first, less their middle; no motion is 0."""
    flow = pytest.importorskip("unsilent.vision.flow")
    pytest.importorskip("cv2", reason="optical flow needs the extra unsilent[flow]")
    frame = np.repeat(np.repeat(pictures(1, 9, 16)[0], 40, axis=0), 40, axis=1)
    ours = preprocess(np.stack([frame, frame])[None], TWO_STREAM)
    assert ours.shape == (1, 5, 224, 224)
    whole = Image.fromarray(np.ascontiguousarray(flow.look(np.stack([frame, frame]))[..., :3]))
    expected = np.asarray(whole.resize((224, 224), Image.Resampling.BILINEAR)).transpose(2, 0, 1) - np.reshape([104, 117, 128], (3, 1, 1))
    np.testing.assert_allclose(ours[0, :3].numpy(), expected, atol=1.01)
    np.testing.assert_allclose(ours[0, 3:].numpy(), 0, atol=1e-4)


def test_features_of_pairs():
    pytest.importorskip("cv2", reason="optical flow needs the extra unsilent[flow]")
    frames = np.repeat(pictures(1), 3, axis=0)
    pairs = (view for _, view in views(enumerate(frames), [0, 1], TWO_STREAM))
    assert extract(pairs, Shrink().eval(), TWO_STREAM).shape == (2, 5 * 8 * 8)


def test_pictures_needed():
    assert needed([9, 3, 4], LITE0) == [3, 4, 9]
    assert needed([9, 3, 4], TWO_STREAM) == [3, 4, 5, 9, 10]
    assert needed(range(3, 12, 4), TWO_STREAM) == [3, 4, 7, 8, 11, 12]


def seen(numbers, rows, backbone=TWO_STREAM):
    """Which features come of the pictures `numbers`, and of which pictures each is made."""
    stream = ((number, np.full((2, 2, 3), number, np.uint8)) for number in numbers)
    return {number: np.unique(view).tolist() for number, view in views(stream, rows, backbone)}


def test_views_of_single_pictures_are_the_pictures():
    assert seen([3, 9], [3, 9], LITE0) == {3: [3], 9: [9]}


def test_views_of_pairs_hold_the_next_picture():
    assert seen([3, 4, 5, 9, 10], [3, 4, 9]) == {3: [3, 4], 4: [4, 5], 9: [9, 10]}


def test_incomplete_pairs_are_left_out():
    """Whether the video ends or is damaged: pictures that do not follow each other must not become a jump."""
    assert seen([3, 4, 9], [3, 9]) == {3: [3, 4]}
    assert seen([3, 5, 9, 10], [3, 9]) == {9: [9, 10]}


def test_a_video_of_one_picture_stands_still():
    assert seen([0], [0]) == {0: [0]}
    assert seen([0, 7], [0, 7]) == {7: [7]}


def test_pairs_survive_a_decoder_that_reuses_its_frame():
    frame = np.empty((2, 2, 3), np.uint8)

    def decoder():
        for number in range(3):
            frame[:] = number
            yield number, frame

    assert [np.unique(view).tolist() for _, view in views(decoder(), [0, 1], TWO_STREAM)] == [[0, 1], [1, 2]]


def test_white_is_one_and_black_is_minus_one():
    grey = preprocess(np.stack([np.zeros((30, 20, 3), np.uint8), np.full((30, 20, 3), 255, np.uint8)]), LITE0)
    torch.testing.assert_close(grey, torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 224, 224))


def test_colours_stay_in_order():
    red = np.zeros((20, 20, 3), np.uint8)
    red[..., 0] = 255
    assert preprocess(red[None], LITE0).mean(dim=(0, 2, 3)).tolist() == pytest.approx([1, -1, -1])


def test_frames_that_may_not_be_written_are_read():
    """Views of a decoder's memory are read-only, which torch announces with a warning."""
    frames = pictures(1)
    frames.flags.writeable = False
    preprocess(frames, LITE0)


@pytest.mark.parametrize("batch", [1, 2, 5, 7, 100])
def test_batches_do_not_change_features(batch):
    frames = pictures(7)
    whole = Shrink()(preprocess(frames, LITE0)).detach()
    torch.testing.assert_close(extract(iter(frames), Shrink().eval(), LITE0, batch), whole, atol=1e-5, rtol=0)


def test_batches_do_not_change_features_of_a_real_network():
    torch.manual_seed(0)
    network, frames = EfficientNetLite0().eval(), pictures(4)
    one, three = (extract(frames, network, LITE0, batch) for batch in (1, 3))
    assert one.shape == (4, LITE0.dim)
    torch.testing.assert_close(one, three, atol=1e-5, rtol=0)


def test_a_decoder_may_reuse_its_frame():
    def decoder():
        frame = np.empty((256, 256, 3), np.uint8)
        for level in (10, 200):
            frame[:] = level
            yield frame

    dark, bright = extract(decoder(), Shrink().eval(), LITE0)
    assert dark.mean() < 0 < bright.mean()


def test_a_long_video_is_never_held_whole():
    """At most three batches are asked of the stream ahead of the features that are done."""
    asked, done = [0], [0]

    def stream():
        for frame in pictures(40):
            asked[0] += 1
            assert asked[0] - done[0] <= 12
            yield frame

    extract(stream(), Shrink().eval(), LITE0, batch=4, on_batch=lambda n: done.__setitem__(0, n))
    assert done == [40]


def test_frames_are_read_while_others_are_looked_at():
    """The network waits for a frame that comes two batches later, which it could not get otherwise."""
    asked = [threading.Event() for _ in range(12)]

    def stream():
        for event, frame in zip(asked, pictures(12), strict=True):
            event.set()
            yield frame

    class Patient(Shrink):
        def forward(self, x):
            assert asked[5].wait(timeout=60)
            return super().forward(x)

    assert len(extract(stream(), Patient().eval(), LITE0, batch=2)) == 12


def test_what_goes_wrong_in_reading_or_looking_is_told_and_ends_both():
    before = threading.active_count()

    def torn():
        yield from pictures(5)
        raise MediaError("the tape is torn.")

    class Blind(Shrink):
        def forward(self, x):
            raise ParameterError("nothing to be seen.")

    with pytest.raises(MediaError, match="the tape is torn"):
        extract(torn(), Shrink().eval(), LITE0)
    with pytest.raises(ParameterError, match="nothing to be seen"):
        extract(itertools.cycle(pictures(1)), Blind().eval(), LITE0)
    assert threading.active_count() == before


def test_features_can_be_trained_on():
    """Features made under inference mode would be refused by autograd."""
    features = extract(pictures(2), Shrink().eval(), LITE0)
    nn.Linear(features.shape[1], 1)(features).sum().backward()


def test_requests_that_make_no_sense_are_refused():
    with pytest.raises(ParameterError, match="0 frames were given"):
        extract([], Shrink().eval(), LITE0)
    with pytest.raises(ParameterError, match="a batch of 0 frames"):
        extract(pictures(1), Shrink().eval(), LITE0, batch=0)
    with pytest.raises(ParameterError, match="evaluation mode"):
        extract(pictures(1), Shrink().train(), LITE0)
    with pytest.raises(ParameterError, match=r"looks at pairs of pictures \[2, height, width, 3\], found \[40, 50, 3\]"):
        extract(pictures(1), Shrink().eval(), TWO_STREAM)
    with pytest.raises(ParameterError, match=r"looks at single pictures \[height, width, 3\], found \[2, 40, 50, 3\]"):
        preprocess(pictures(2)[None], LITE0)
    with pytest.raises(ParameterError, match=r"no backbone 'resnet51'; known are .*efficientnet-lite0"):
        find_backbone("resnet51")


@pytest.mark.parametrize(
    ("n_wanted", "rows"),
    [(1, [106]), (5, [35, 77, 119, 162, 204]), (53, list(range(3, 212, 4))), (212, list(range(212)))],
)
def test_rows_of_the_published_models(n_wanted, rows):
    assert pick_rows(n_wanted, 212) == rows


def test_picked_rows_are_distinct_and_within():
    for n_total in (1, 2, 7, 212):
        for n_wanted in range(1, n_total + 1):
            rows = pick_rows(n_wanted, n_total)
            assert len(set(rows)) == n_wanted
            assert rows == sorted(rows)
            assert 0 <= rows[0] <= rows[-1] < n_total


@pytest.mark.parametrize(("kind", "rows"), [("features", pick_rows(27, 212)), ("columns", list(range(3, 212, 8)))])
def test_features_beside_codes_are_of_their_time(kind, rows):
    """Every second column is told a feature of its own: the last of its four."""
    condition = ConditionConfig(kind=kind, n_features=27, feature_dim=8)
    assert condition_rows(condition, 212, 53) == rows
    if kind == "columns":
        assert condition_rows(condition, 53, 53) == list(range(0, 53, 2))
        assert condition_rows(ConditionConfig(kind=kind, n_features=5, feature_dim=8), 12, 12) == [0, 3, 5, 8, 10]


def test_pick_and_tile_take_rows():
    features = torch.arange(212.0)[:, None]
    assert pick(features, 5).flatten().tolist() == [35, 77, 119, 162, 204]
    assert tile(features[:3], 7).flatten().tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert tile_rows(5, 3) == [0, 1, 2]


@pytest.mark.parametrize(("n_wanted", "n_total"), [(53, 20), (0, 20), (1, 0)])
def test_more_rows_than_there_are_cannot_be_picked(n_wanted, n_total):
    with pytest.raises(ParameterError, match=f"{n_wanted} features were asked of {n_total}"):
        pick_rows(n_wanted, n_total)


@pytest.mark.parametrize(("n_available", "n_wanted"), [(0, 5), (5, 0)])
def test_nothing_cannot_be_tiled(n_available, n_wanted):
    with pytest.raises(ParameterError, match=f"{n_wanted} features were asked of {n_available}; both must be 1 or more"):
        tile_rows(n_available, n_wanted)


def test_rows_of_the_released_files():
    """215 rows, of which the middle 212 belong to the clip; longer files are cut first, shorter ones go on from their start."""
    for n_rows in (215, 216):
        assert fit_released(torch.arange(float(n_rows))[:, None], Clip()).flatten().tolist() == list(range(1, 213))
    assert fit_released(torch.arange(214.0)[:, None], Clip()).flatten().tolist() == list(range(1, 213))
    assert fit_released(torch.arange(100.0)[:, None], Clip()).flatten().tolist() == [*range(1, 100), *range(100), *range(13)]


def test_clips_longer_than_the_released_files_are_refused():
    with pytest.raises(ParameterError, match="a clip of 424 features was asked of the authors' 215"):
        fit_released(torch.zeros(215, 3), Clip(frames=1696))


def test_every_backbone_normalises_the_channels_it_is_shown():
    for name, row in BACKBONES.items():
        assert len(row.mean) == len(row.std) == (5 if row.pairs else 3), name
