"""Extractors: loudness, features, motion and codes; silent and damaged sounds are left out."""

from contextlib import suppress

import numpy as np
import pytest
import torch

from unsilent.checkpoints import bundle
from unsilent.checkpoints.store import save_checkpoint
from unsilent.clip import Clip
from unsilent.data.extract import (
    PSEUDO_FRAMES,
    CodeExtractor,
    FeatureExtractor,
    MotionExtractor,
    SoundExtractor,
    group_by_file,
    stored_sounds,
)
from unsilent.data.manifest import Row
from unsilent.data.rows import ItemRow
from unsilent.data.shards import Shard, dequantise, mel01_from_stored, write_shard
from unsilent.errors import MediaError
from unsilent.models.codebook import Codebook
from unsilent.models.configs import CodebookConfig, ResidualCodebookConfig
from unsilent.models.residual_codebook import ResidualCodebook
from unsilent.signal.loudness import LOUDNESS, loudness_lufs
from unsilent.signal.mel import log_mel01
from unsilent.signal.silence import trim_silent_ends
from unsilent.vision.features import Backbone

CLIP = Clip(frames=64)


def extracted(extractor, materials):
    """Items of all readable materials."""
    work, found = extractor(), []
    for material in materials:
        with suppress(MediaError):
            found += work(material).items
    return found


def row(path, kind="sound", start=0.0, seconds=1.0, name=None):
    return Row(name or path.partition(".")[0], path, kind, "", "train", "", start, seconds, 22050, "")


@pytest.fixture
def sounds():
    names = [*(f"{label}{i}.wav" for label in ("low", "high") for i in range(3)), "damaged.wav", "silent.wav"]
    return group_by_file([row(name) for name in names], "sound", "clip")


@pytest.fixture
def waveforms(material, sounds, tmp_path):
    write_shard(tmp_path / "shards", "waveforms", extracted(SoundExtractor(material, CLIP), sounds), {})
    return tmp_path / "shards"


def test_sounds_have_one_loudness(waveforms):
    shard = Shard(waveforms, "waveforms")
    assert [entry.row.clip_id for entry in shard.entries] == ["low0", "low1", "low2", "high0", "high1", "high2"]
    for i in range(len(shard)):
        assert loudness_lufs(shard[i] / np.float32(32768), 22050) == pytest.approx(-23, abs=0.1)


def test_silent_sounds_are_left_out(material, sounds):
    silent = next(file for file in sounds if str(file) == "silent.wav")
    assert SoundExtractor(material, CLIP)()(silent) == ([], [("silent", "silent.wav is silent or shorter than 0.19 s.")])


def test_mels_equal_mels_of_the_waveforms(material, sounds, waveforms):
    """Up to rounding: of mels to half a step of 0.39 dB, of waveforms to 16 bits, which changes quiet mels only."""
    mels, shard = extracted(SoundExtractor(material, CLIP, "mels"), sounds), Shard(waveforms, "waveforms")
    assert [row for _, row in mels] == [entry.row for entry in shard.entries]
    for i, (mel, _) in enumerate(mels):
        assert mel.dtype == np.uint8
        expected = log_mel01(torch.from_numpy(shard[i].astype(np.float32) / 32767)[None], CLIP)[0].T.numpy()
        np.testing.assert_allclose(mel01_from_stored(mel)[expected > 0.3], expected[expected > 0.3], atol=0.6 / 255)
        assert np.abs(mel01_from_stored(mel) - expected).mean() < 0.4 / 255


def test_clips_of_one_file_start_at_their_times(make_clip, tmp_path):
    """A tone that rises every second, cut into three clips."""
    rate, seconds = CLIP.sample_rate, 2.5
    hz = 200 * (1 + np.arange(int(seconds * rate)) // rate)
    make_clip("long.mp4", n_frames=round(seconds * 25), sound=0.3 * np.sin(2 * np.pi * np.cumsum(hz) / rate)[None])
    starts = [number * CLIP.seconds for number in range(3)]
    rows = [row("long.mp4", "clip", start, CLIP.seconds, f"long@{number}") for number, start in enumerate(starts)]
    items = group_by_file(rows, "clip")
    assert len(items) == 1
    whole = group_by_file([row("long.mp4", "clip", 0.0, 3 * CLIP.seconds)], "clip")
    mels, (all_mels,) = extracted(SoundExtractor(tmp_path, CLIP, "mels"), items), extracted(SoundExtractor(tmp_path, CLIP, "mels"), whole)
    loudest = [mel.astype(int).sum(0).argmax() for mel, _ in mels]
    assert loudest[0] < loudest[2]
    assert [row.clip_id for _, row in mels] == ["long@0", "long@1", "long@2"]
    assert [len(mel) for mel, _ in mels] == [64, 64, 64]
    np.testing.assert_allclose(mels[1][0][4:60], all_mels[0][68:124], atol=30)  # tolerance for the loudness of the whole


def test_silent_ends_are_trimmed():
    sound = np.sin(np.arange(1000) / 5)
    padded = np.concatenate([np.zeros(300), sound, np.zeros(500)])
    assert 990 <= len(trim_silent_ends(padded)) <= 1000
    assert len(trim_silent_ends(np.zeros(10))) == 0


class MeanColour(torch.nn.Module):
    """An image network whose feature is the mean colour."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        return images.mean((2, 3)) * self.scale


@pytest.fixture
def mean_colour(monkeypatch):
    expects = Backbone(dim=3, size=32, short_side=36, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    monkeypatch.setattr(bundle, "load_backbone", lambda name: (MeanColour().eval(), expects))


def test_each_image_gives_random_crops(material, mean_colour):
    pictures = [row(f"{label}{i}.png", "image") for label in ("low", "high") for i in range(3)]
    found = extracted(FeatureExtractor(material, CLIP, "efficientnet-lite0", 0), group_by_file(pictures, "image", "clip"))
    assert len(found) == 6
    assert {features.shape for features, _ in found} == {(PSEUDO_FRAMES, 3)}
    assert found[0][0].max() < 0.3  # the dark label
    assert found[5][0].min() > 0.8  # the bright one


def test_uint8_features_are_within_half_a_step(material, mean_colour):
    pictures = group_by_file([row(f"{label}{i}.png", "image") for label in ("low", "high") for i in range(3)], "image")
    extractors = (FeatureExtractor(material, CLIP, "efficientnet-lite0", 0, dtype=dtype) for dtype in ("float16", "uint8"))
    exact, small = (extracted(extractor, pictures) for extractor in extractors)
    for (one, _), (two, quantised_row) in zip(exact, small, strict=True):
        assert two.dtype == np.uint8
        np.testing.assert_allclose(dequantise(two, quantised_row), one, atol=1e-3 + quantised_row.step / 2)


@pytest.mark.parametrize("per_column", [1, 4])
def test_features_of_clips_are_at_their_times(make_clip, tmp_path, mean_colour, per_column):
    """A video that gets brighter: features of two clips, concatenated, equal those of the whole."""
    make_clip("long.mp4", n_frames=50, images=lambda i: np.full((48, 64, 3), 4 * i, np.uint8))
    features = FeatureExtractor(tmp_path, CLIP, "efficientnet-lite0", 0, per_column)
    rows = [row("long.mp4", "clip", n * CLIP.seconds, CLIP.seconds) for n in range(2)]
    (first, _), (second, _) = extracted(features, group_by_file(rows, "clip"))
    ((whole, _),) = extracted(features, group_by_file([row("long.mp4", "clip", 0.0, 2 * CLIP.seconds)], "clip"))
    assert len(first) == len(second) == CLIP.columns * per_column
    np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=0.02)  # the start of a clip is rounded to a frame
    assert (np.diff(whole[:, 0].astype(float)) > 0).all()


def test_motion_of_clips_is_at_their_times(make_clip, tmp_path):
    """A bar comes down and stops in the second clip, which alone has a level there."""
    blow = round(1.1 * 25)

    def image(i):
        frame, top = np.full((48, 64, 3), 50, np.uint8), {-2: 5, -1: 14}.get(i - blow, 2 if i < blow else 28)
        frame[top : top + 14, 36:52] = 200
        return frame

    make_clip("long.mp4", n_frames=50, images=image)
    rows = [row("long.mp4", "clip", n * CLIP.seconds, CLIP.seconds) for n in range(3)]
    found = extracted(MotionExtractor(tmp_path, CLIP), group_by_file(rows, "clip"))
    assert [(levels.shape, levels.dtype) for levels, _ in found] == [((4, 8), np.float16)] * 3
    (first, clip_row), (second, _), (third, _) = found
    assert clip_row.clip_id == "long"
    levels = second.reshape(-1, 2).astype(float)
    moment = blow / 25 * CLIP.feature_fps - round(CLIP.seconds * CLIP.feature_fps)
    assert abs(levels[:, 1].argmax() - moment) <= 2
    assert max(first.max(), third.max()) < 0.5 * levels.max()


@pytest.fixture
def codebook(tmp_path):
    torch.manual_seed(0)
    module = Codebook(CodebookConfig(clip=CLIP, n_codes=16, dim=8, channels=8, multipliers=(1, 1, 1, 1, 2), n_blocks=1)).eval()
    save_checkpoint(tmp_path / "codebook", "codebook", "everyday", module.config, module.state_dict(), {})
    return module


def test_codes_have_the_columns_and_codes_of_the_codebook(waveforms, codebook, tmp_path):
    found, sounds = extracted(CodeExtractor(waveforms, tmp_path / "codebook", 0), stored_sounds(waveforms)), Shard(waveforms, "waveforms")
    first = [(grid, row) for grid, row in found if row.item == 0 and row.variant == 0]
    assert sum(len(grid) for grid, _ in first) == CLIP.columns_for(len(sounds[0]))
    assert [row.start_column for _, row in first] == [0, 4]
    shifts = {(row.variant, 0 < -row.shift_samples < CLIP.column_samples) for _, row in found}
    assert shifts == {(0, False), (1, True)}  # negative: a short sound is moved later, so that it keeps its attack
    assert {grid.shape[1] for grid, _ in found} == {CLIP.rows}
    assert max(grid.max() for grid, _ in found) < 16


def test_variants_of_a_sound_have_other_speeds(waveforms, codebook, tmp_path):
    """Those of a clip do not, because it must stay in time with its video."""
    extractor, sounds = CodeExtractor(waveforms, tmp_path / "codebook", 0, variants=4), Shard(waveforms, "waveforms")
    found = extracted(extractor, stored_sounds(waveforms))
    lengths, speeds = {}, {}
    for grid, row in found:
        key = row.item, row.variant
        lengths[key] = lengths.get(key, 0) + len(grid)
        speeds[key] = row.speed, row.shift_samples
    assert len(speeds) == 4 * len(sounds)
    for (item, variant), (speed, shift) in speeds.items():
        assert (speed == 1) == (variant == 0 or sounds.entries[item].row.kind == "clip")
        assert 0.85 <= speed <= 1.18
        assert lengths[item, variant] == CLIP.columns_for(round(len(sounds[item]) / speed) - shift)
    assert extractor.settings() != CodeExtractor(waveforms, tmp_path / "codebook", 0).settings()


def test_residual_codes_have_the_levels_of_the_clip(waveforms, tmp_path):
    torch.manual_seed(0)
    clip = CLIP.model_copy(update={"levels": 2})
    config = ResidualCodebookConfig(clip=clip, levels=3, n_codes=16, dim=8)
    save_checkpoint(tmp_path / "codebook", "residual_codebook", "everyday", config, ResidualCodebook(config).state_dict(), {})
    found = extracted(CodeExtractor(waveforms, tmp_path / "codebook", 0), stored_sounds(waveforms))
    assert {grid.shape[1] for grid, _ in found} == {2}
    assert max(grid.max() for grid, _ in found) < 16


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
def test_mels_are_encoded_once(tmp_path, codebook, dtype):
    """A sound longer than a clip gives several items."""
    mel01 = np.random.default_rng(0).random((100, 80))
    mel = mel01.astype(dtype) if dtype == np.float16 else np.round(255 * mel01).astype(dtype)
    write_shard(tmp_path, "mels", [(mel, ItemRow("a", "clip", "", "train", 22050))], {})
    (first, first_row), (last, last_row) = extracted(CodeExtractor(tmp_path, tmp_path / "codebook", 0), stored_sounds(tmp_path))
    expected = codebook.encode(2 * torch.from_numpy(mel01_from_stored(mel)[:64]).T[None] - 1)[0].T
    assert np.array_equal(first, expected)
    assert (len(last), first_row.clip_id, first_row.start_column, last_row.start_column) == (3, "a", 0, 4)


def test_sounds_at_their_own_loudness_are_not_changed(material, sounds):
    """Silent ones and silent ends stay; the default extractor of the same sounds gives other values."""
    files = [file for file in sounds if str(file) in ("low0.wav", "silent.wav")]
    (low, _), (silent, _) = extracted(SoundExtractor(material, CLIP, loudness="keep"), files)
    np.testing.assert_allclose(low / 32767, 0.1 * np.sin(2 * np.pi * 200 / 22050 * np.arange(22050)), atol=1e-4)
    assert silent.shape == (22050,)
    assert not silent.any()
    assert SoundExtractor(material, CLIP, loudness="keep").settings()[LOUDNESS] is None
    assert SoundExtractor(material, CLIP).settings()[LOUDNESS] == -23
