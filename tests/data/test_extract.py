"""Material to shards: what is damaged or silent is left out and named, the rest has one loudness and a feature per picture."""

from contextlib import suppress

import numpy as np
import pytest
import torch

from unsilent.checkpoints import bundle
from unsilent.checkpoints.store import save_checkpoint
from unsilent.clip import Clip
from unsilent.data.extract import PSEUDO_FRAMES, Codes, Features, Motion, Sounds, files, stored
from unsilent.data.manifest import Row
from unsilent.data.shards import Shard, as_mel01, fine, write_shard
from unsilent.errors import MediaError
from unsilent.models.codebook import Codebook, CodebookConfig
from unsilent.signal.loudness import loudness_lufs
from unsilent.signal.mel import log_mel01
from unsilent.signal.silence import trim_silent_ends
from unsilent.vision.features import Backbone

CLIP = Clip(frames=64)


def entries(extractor, items):
    """Of all items that can be read."""
    work, found = extractor(), []
    for item in items:
        with suppress(MediaError):
            found += work(item).entries
    return found


def row(path, kind="sound", start=0.0, seconds=1.0, name=None):
    return Row(name or path.partition(".")[0], path, kind, "", "train", "", start, seconds, 22050, "")


@pytest.fixture
def sounds():
    names = [*(f"{label}{i}.wav" for label in ("low", "high") for i in range(3)), "damaged.wav", "silent.wav"]
    return files([row(name) for name in names], "sound", "clip")


@pytest.fixture
def waveforms(material, sounds, tmp_path):
    write_shard(tmp_path / "shards", "waveforms", entries(Sounds(material, CLIP), sounds), {})
    return tmp_path / "shards"


def test_good_sounds_come_through_at_one_loudness(waveforms):
    shard = Shard(waveforms, "waveforms")
    assert [entry.about["clip_id"] for entry in shard.entries] == ["low0", "low1", "low2", "high0", "high1", "high2"]
    for i in range(len(shard)):
        assert loudness_lufs(shard[i] / np.float32(32768), 22050) == pytest.approx(-23, abs=0.1)


def test_silence_is_left_out(material, sounds):
    silent = next(file for file in sounds if str(file) == "silent.wav")
    assert Sounds(material, CLIP)()(silent) == ([], [("silent", "silent.wav is silent or shorter than 0.19 s.")])


def test_mels_are_those_of_the_waveforms(material, sounds, waveforms):
    """Both are rounded: the mel to half a step of 0.39 dB, the waveform to what shows only where it is nearly silent."""
    mels, shard = entries(Sounds(material, CLIP, "mels"), sounds), Shard(waveforms, "waveforms")
    assert [about for _, about in mels] == [entry.about for entry in shard.entries]
    for i, (mel, _) in enumerate(mels):
        assert mel.dtype == np.uint8
        expected = log_mel01(torch.from_numpy(shard[i].astype(np.float32) / 32767)[None], CLIP)[0].T.numpy()
        np.testing.assert_allclose(as_mel01(mel)[expected > 0.3], expected[expected > 0.3], atol=0.6 / 255)
        assert np.abs(as_mel01(mel) - expected).mean() < 0.4 / 255


def test_stretches_of_one_file_are_read_at_their_places(make_clip, tmp_path):
    """A tone that rises every second, with numbered pictures, cut into stretches of a clip."""
    rate, seconds = CLIP.sample_rate, 2.5
    hz = 200 * (1 + np.arange(int(seconds * rate)) // rate)
    make_clip("long.mp4", n_frames=round(seconds * 25), sound=0.3 * np.sin(2 * np.pi * np.cumsum(hz) / rate)[None])
    starts = [number * CLIP.seconds for number in range(3)]
    rows = [row("long.mp4", "clip", start, CLIP.seconds, f"long@{number}") for number, start in enumerate(starts)]
    items = files(rows, "clip")
    assert len(items) == 1
    whole = files([row("long.mp4", "clip", 0.0, 3 * CLIP.seconds)], "clip")
    mels, (all_mels,) = entries(Sounds(tmp_path, CLIP, "mels"), items), entries(Sounds(tmp_path, CLIP, "mels"), whole)
    loudest = [mel.astype(int).sum(0).argmax() for mel, _ in mels]
    assert loudest[0] < loudest[2]
    assert [about["clip_id"] for _, about in mels] == ["long@0", "long@1", "long@2"]
    assert [len(mel) for mel, _ in mels] == [64, 64, 64]
    np.testing.assert_allclose(mels[1][0][4:60], all_mels[0][68:124], atol=30)  # but for the loudness of the rest


def test_silent_ends_are_trimmed():
    sound = np.sin(np.arange(1000) / 5)
    padded = np.concatenate([np.zeros(300), sound, np.zeros(500)])
    assert 990 <= len(trim_silent_ends(padded)) <= 1000
    assert len(trim_silent_ends(np.zeros(10))) == 0


class MeanColour(torch.nn.Module):
    """A picture network whose feature is the mean colour, so that a test can predict it."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, images):
        return images.mean((2, 3)) * self.scale


@pytest.fixture
def mean_colour(monkeypatch):
    expects = Backbone(dim=3, size=32, short_side=36, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    monkeypatch.setattr(bundle, "load_backbone", lambda name: (MeanColour().eval(), expects))


def test_each_picture_gives_a_few_views(material, mean_colour):
    pictures = [row(f"{label}{i}.png", "image") for label in ("low", "high") for i in range(3)]
    found = entries(Features(material, CLIP, "efficientnet-lite0", 0), files(pictures, "image", "clip"))
    assert len(found) == 6
    assert {features.shape for features, _ in found} == {(PSEUDO_FRAMES, 3)}
    assert found[0][0].max() < 0.3  # the dark label
    assert found[5][0].min() > 0.8  # the bright one


def test_coarse_features_are_the_fine_ones(material, mean_colour):
    pictures = files([row(f"{label}{i}.png", "image") for label in ("low", "high") for i in range(3)], "image")
    exact, small = (entries(Features(material, CLIP, "efficientnet-lite0", 0, dtype=dtype), pictures) for dtype in ("float16", "uint8"))
    for (one, _), (two, about) in zip(exact, small, strict=True):
        assert two.dtype == np.uint8
        np.testing.assert_allclose(fine(two, about), one, atol=1e-3 + about["step"] / 2)


@pytest.mark.parametrize("per_column", [1, 4])
def test_stretches_see_the_pictures_of_their_time(make_clip, tmp_path, mean_colour, per_column):
    """A video that gets brighter: features of the second stretch go on where those of the first end, as those of the whole do."""
    make_clip("long.mp4", n_frames=50, pictures=lambda i: np.full((48, 64, 3), 4 * i, np.uint8))
    features = Features(tmp_path, CLIP, "efficientnet-lite0", 0, per_column)
    rows = [row("long.mp4", "clip", n * CLIP.seconds, CLIP.seconds) for n in range(2)]
    (first, _), (second, _) = entries(features, files(rows, "clip"))
    ((whole, _),) = entries(features, files([row("long.mp4", "clip", 0.0, 2 * CLIP.seconds)], "clip"))
    assert len(first) == len(second) == CLIP.columns * per_column
    np.testing.assert_allclose(np.concatenate([first, second]), whole, atol=0.02)  # half a picture, to which a stretch is rounded
    assert (np.diff(whole[:, 0].astype(float)) > 0).all()


def test_motion_of_stretches_is_that_of_their_time(make_clip, tmp_path):
    """A video that flashes once in its second stretch: at the picture that does, and at the next, which is dark again."""
    flash = round(1.1 * 25)
    make_clip("long.mp4", n_frames=50, pictures=lambda i: np.full((48, 64, 3), 250 if i == flash else 50, np.uint8))
    rows = [row("long.mp4", "clip", n * CLIP.seconds, CLIP.seconds) for n in range(3)]
    found = entries(Motion(tmp_path, CLIP), files(rows, "clip"))
    assert [(levels.shape, levels.dtype) for levels, _ in found] == [((4, 8), np.float16)] * 3
    (first, about), (second, _), (third, _) = found
    assert about["clip_id"] == "long"
    assert first.max() < 1 > third.max()
    levels = second.reshape(-1, 2).astype(float)
    moment = flash / 25 * CLIP.feature_fps - round(CLIP.seconds * CLIP.feature_fps)
    assert abs(levels[:, 0].argmax() - moment) <= 1
    assert levels.max() == pytest.approx(np.log1p(200 / 0.5), rel=0.05)


@pytest.fixture
def codebook(tmp_path):
    torch.manual_seed(0)
    module = Codebook(CodebookConfig(clip=CLIP, n_codes=16, dim=8, channels=8, multipliers=(1, 1, 1, 1, 2), n_blocks=1)).eval()
    save_checkpoint(tmp_path / "codebook", "codebook", "everyday", module.config, module.state_dict(), {})
    return module


def test_codes_are_those_of_the_codebook(waveforms, codebook, tmp_path):
    found, sounds = entries(Codes(waveforms, tmp_path / "codebook", 0), stored(waveforms)), Shard(waveforms, "waveforms")
    first = [(grid, about) for grid, about in found if about["item"] == 0 and about["variant"] == 0]
    assert sum(len(grid) for grid, _ in first) == CLIP.columns_for(len(sounds[0]))
    assert [about["start_column"] for _, about in first] == [0, 4]
    shifts = {(about["variant"], 0 < about["shift_samples"] < CLIP.column_samples) for _, about in found}
    assert shifts == {(0, False), (1, True)}
    assert {grid.shape[1] for grid, _ in found} == {CLIP.rows}
    assert max(grid.max() for grid, _ in found) < 16


def test_variants_of_a_sound_are_played_at_other_speeds(waveforms, codebook, tmp_path):
    """Real clips, whose pictures would not keep pace, are not."""
    extractor, sounds = Codes(waveforms, tmp_path / "codebook", 0, variants=4), Shard(waveforms, "waveforms")
    found = entries(extractor, stored(waveforms))
    lengths, speeds = {}, {}
    for grid, about in found:
        key = about["item"], about["variant"]
        lengths[key] = lengths.get(key, 0) + len(grid)
        speeds[key] = about["speed"], about["shift_samples"]
    assert len(speeds) == 4 * len(sounds)
    for (item, variant), (speed, shift) in speeds.items():
        assert (speed == 1) == (variant == 0 or sounds.entries[item].about["kind"] == "clip")
        assert 0.85 <= speed <= 1.18
        assert lengths[item, variant] == CLIP.columns_for(round(len(sounds[item]) / speed) - shift)
    assert extractor.recipe() != Codes(waveforms, tmp_path / "codebook", 0).recipe()


@pytest.mark.parametrize("dtype", [np.float16, np.uint8])
def test_codes_of_mels_are_those_of_the_codebook(tmp_path, codebook, dtype):
    """Each clip has one encoding; one that is longer than a clip, and no whole number of columns, several entries."""
    mel01 = np.random.default_rng(0).random((100, 80))
    mel = mel01.astype(dtype) if dtype == np.float16 else np.round(255 * mel01).astype(dtype)
    about = {"clip_id": "a", "kind": "clip", "label": "", "split": "train", "sample_rate": 22050}
    write_shard(tmp_path, "mels", [(mel, about)], {})
    (first, about), (last, about_last) = entries(Codes(tmp_path, tmp_path / "codebook", 0), stored(tmp_path))
    expected = codebook.encode(2 * torch.from_numpy(as_mel01(mel)[:64]).T[None] - 1)[0].T
    assert np.array_equal(first, expected)
    assert (len(last), about["clip_id"], about["start_column"], about_last["start_column"]) == (3, "a", 0, 4)
