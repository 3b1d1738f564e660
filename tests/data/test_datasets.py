"""Crops: reproducible, of the requested length, augmented within their ranges."""

import numpy as np
import pytest
import torch

from unsilent.clip import Clip
from unsilent.data.augmentation import Augmentation
from unsilent.data.datasets import LabelledCrops, MelCrops, WaveformCrops, at_speed, generators, mel01_of, open_crops
from unsilent.data.rows import ItemRow
from unsilent.data.shards import Shard, write_shard
from unsilent.errors import DataError, ParameterError
from unsilent.signal.mel import log_mel01

CLIP = Clip(frames=160)  # ten columns


def test_batch_depends_only_on_the_generators(shards):
    crops = WaveformCrops(shards, "train", 8192)
    assert torch.equal(crops.batch(generators(3, 0, range(4))).sound, crops.batch(generators(3, 0, range(4))).sound)
    assert not torch.equal(crops.batch(generators(3, 0, range(4))).sound, crops.batch(generators(4, 0, range(4))).sound)


def test_crops_longer_than_every_sound_have_the_requested_length(shards):
    crops = WaveformCrops(shards, "train", 100_000, augmentation=Augmentation(gain_db=(-6.0, 6.0)))
    batch = crops.batch(generators(0, 0, range(8))).sound
    assert batch.shape == (8, 100_000)
    assert batch.abs().max() <= 1
    assert (batch.abs().amax(1) > 0).all()


@pytest.fixture
def tones(tmp_path):
    """Sounds of one label at 1000 and 3000 Hz, and one of another label at 6000 Hz, a second each."""
    time = np.arange(22050) / 22050
    rows = [
        ((np.sin(2 * np.pi * hz * time) * 12000).astype(np.int16), ItemRow(str(hz), "sound", label, "train", 22050))
        for hz, label in ((1000, "low"), (3000, "low"), (6000, "high"))
    ]
    write_shard(tmp_path / "tones", "waveforms", rows, {})
    return tmp_path / "tones"


def loudest_hz(crop, n=1):
    """Frequencies of the `n` highest peaks at least 50 bins apart."""
    spectrum, found = np.abs(np.fft.rfft(crop * np.hanning(len(crop)))), []
    for _ in range(n):
        top = int(spectrum.argmax())
        found.append(top * 22050 / len(crop))
        spectrum[max(0, top - 50) : top + 50] = 0
    return found


def test_speed_scales_pitch_within_its_range(tones):
    crops = WaveformCrops(tones, "train", 8192, augmentation=Augmentation(speed=(0.8, 1.25)))
    found = [loudest_hz(crops.crop(0, rng))[0] for rng in generators(0, 0, range(20))]
    assert 790 < min(found) < 900
    assert 1100 < max(found) < 1260
    plain = WaveformCrops(tones, "train", 8192).crop(0, np.random.default_rng(0))
    moved = crops.crop(0, np.random.default_rng(0))
    assert moved.shape == plain.shape
    assert np.abs(moved).std() == pytest.approx(np.abs(plain).std(), rel=0.05)


def test_mixing_adds_only_sounds_of_the_same_label(tones):
    crops = WaveformCrops(tones, "train", 8192, augmentation=Augmentation(mix_share=1.0))
    found = {round(hz / 1000) for rng in generators(0, 0, range(20)) for hz in loudest_hz(crops.crop(0, rng), 2)}
    assert {1, 3} <= found
    assert 6 not in found


def test_loud_crops_are_scaled_down_not_clipped(tones):
    crop = WaveformCrops(tones, "train", 8192, augmentation=Augmentation(gain_db=(12.0, 12.0))).crop(0, np.random.default_rng(0))
    assert np.abs(crop).max() == 1.0
    spectrum = np.abs(np.fft.rfft(crop * np.hanning(8192)))
    assert spectrum[3 * 372 - 20 : 3 * 372 + 20].max() < 1e-3 * spectrum.max()  # clipping would add the third harmonic


def test_recordings_below_the_minimum_rate_are_left_out(shards):
    crops = WaveformCrops(shards, "train", 4096, min_sample_rate=22050)
    assert {crops.shard.entries[i].row.label for i in crops.items} == {"a"}


def test_a_split_without_sounds_is_an_error(shards):
    with pytest.raises(DataError, match="no 'test' sound"):
        WaveformCrops(shards, "test", 4096)


def test_labels_are_drawn_by_a_power_of_their_counts(tmp_path):
    """Sixteen loud sounds of one label and one quiet sound of another: drawn 16 : 1 at 1, 4 : 1 at 0.5, 1 : 1 at 0."""
    loud, quiet = (np.full(100, value, np.int16) for value in (16384, 1024))
    often, rare = ((sound, ItemRow("", "sound", label, "train", 22050)) for sound, label in ((loud, "b"), (quiet, "a")))
    write_shard(tmp_path, "waveforms", [often] * 16 + [rare], {})
    for balance, share in ((1.0, 16 / 17), (0.5, 0.8), (0.0, 0.5)):
        waveforms, labels, _ = LabelledCrops(tmp_path, "train", 50, balance=balance).batch(generators(0, 0, range(2000)))
        assert labels.float().mean() == pytest.approx(share, abs=0.04)
        assert torch.equal(labels == 1, waveforms[:, 0] == 0.5)


def test_in_order_gives_the_middle_of_every_sound_once(shards):
    ordered = list(LabelledCrops(shards, "train", 32000).in_order(3))
    assert [len(labels) for _, labels, _ in ordered] == [3, 1]
    assert torch.cat([labels for _, labels, _ in ordered]).tolist() == [0, 0, 1, 1]
    short, long = WaveformCrops(shards, "train", 1).shard[0], WaveformCrops(shards, "train", 1).shard[1]
    assert np.array_equal(ordered[0][0][0] * 32768, np.concatenate([short, short[:2000]]))
    assert np.array_equal(ordered[0][0][1] * 32768, long[3500:35500])


def test_labels_outside_the_classes_are_left_out(shards):
    assert len(LabelledCrops(shards, "train", 4096, ["a", "z"])) == 2
    with pytest.raises(DataError, match=r"no sound of the split 'train' .* has one of the 2 labels of the training"):
        LabelledCrops(shards, "train", 4096, ["y", "z"])


@pytest.fixture
def mel_shards(shards, tmp_path):
    """Mels of the waveforms of `shards`, without the waveforms."""
    waveforms, clip = Shard(shards, "waveforms"), Clip()
    mels = [log_mel01(torch.from_numpy(waveforms[i] / np.float32(32768))[None], clip)[0].T.numpy() for i in range(len(waveforms))]
    items = [(np.round(255 * mel).astype(np.uint8), entry.row) for mel, entry in zip(mels, waveforms.entries, strict=True)]
    write_shard(tmp_path / "mels", "mels", items, {"clip": clip.model_dump()})
    return tmp_path / "mels"


def test_crops_of_mels_equal_mels_of_crops(shards, mel_shards):
    """Up to the rounding of stored mels and the frames at both ends."""
    clip, samples = Clip(), 8192
    of_waves, of_mels = (next(LabelledCrops(folder, "train", samples).in_order(4)) for folder in (shards, mel_shards))
    assert (of_waves.names, of_waves.labels.tolist()) == (of_mels.names, of_mels.labels.tolist())
    assert of_mels.sound.shape == (4, 80, 32)
    assert (mel01_of(of_mels.sound, clip) - mel01_of(of_waves.sound, clip))[..., 3:-3].abs().mean() < 0.03


def test_gain_of_mels_equals_gain_of_waveforms(shards, mel_shards):
    for folder in (shards, mel_shards):
        crops = [open_crops(folder, "train", 8192, Augmentation((gain, gain))).batch(generators(1, 0, range(6))) for gain in (0.0, -20.0)]
        loud, quiet = (mel01_of(crop.sound, Clip()) for crop in crops)
        assert (loud - quiet).median() == pytest.approx(0.2, abs=1e-3)
        assert quiet.min() >= 0


def test_short_mels_are_repeated_or_padded(mel_shards):
    crops = MelCrops(mel_shards, "train", 100_000)
    batch = crops.batch(generators(0, 0, range(16))).sound
    assert batch.shape == (16, 80, 390)
    assert {bool((mel == 0).all(0).any()) for mel in batch} == {True, False}


def test_open_crops_prefers_waveforms_and_names_missing_shards(shards, mel_shards, tmp_path):
    assert open_crops(shards, "train", 8192).kind == "waveforms"
    assert open_crops(mel_shards, "train", 8192).kind == "mels"
    with pytest.raises(DataError, match="no shard 'waveforms'"):
        open_crops(tmp_path, "train", 8192)


def test_speed_of_mels_is_refused(mel_shards):
    with pytest.raises(ParameterError, match=r"speed and mix_share need waveforms, .* has only mels"):
        open_crops(mel_shards, "train", 8192, Augmentation(speed=(0.9, 1.1)))


@pytest.mark.parametrize("speed", [0.85, 1.0371, 1.18])
def test_at_speed_keeps_events_in_time(speed):
    click = np.zeros(5 * 22050 + 13, np.float32)
    click[4 * 22050] = 1.0
    played = at_speed(click, speed)
    assert len(played) == round(len(click) / speed)
    assert abs(int(np.abs(played).argmax()) - 4 * 22050 / speed) < 2


def test_short_clips_are_repeated_and_short_recordings_sometimes_padded(tmp_path):
    """As in the paper, whose clips all last ten seconds; a recording may end in silence."""
    for kind, share in (("clip", 0.0), ("sound", 0.5)):
        write_shard(tmp_path / kind, "waveforms", [(np.full(600, 9000, np.int16), ItemRow("a", kind, "", "train", 22050))], {})
        crops = WaveformCrops(tmp_path / kind, "train", 1000).batch(generators(0, 0, range(200))).sound
        assert (crops == 0).any(1).float().mean() == pytest.approx(share, abs=0.1)


def test_a_classifier_hears_normalised_clips_without_silent_ends(tmp_path):
    """As the sounds that it judges; clips as recorded are left alone, as the paper's are."""
    clip = Clip()
    padded = np.pad(np.full(2 * clip.column_samples, 9000, np.int16), (5000, 7000))
    for loudness, is_trimmed in ((-23.0, True), (None, False)):
        items = [(padded, ItemRow(label, "clip", label, "train", 22050)) for label in ("a", "b")]
        write_shard(tmp_path / str(loudness), "waveforms", items, {"clip": clip.model_dump(), "loudness_lufs": loudness})
        crops = LabelledCrops(tmp_path / str(loudness), "train", 2 * clip.column_samples)
        assert bool((next(crops.in_order(2)).sound > 0).all()) == is_trimmed
        batch = crops.batch(generators(0, 0, range(20))).sound
        assert bool((batch > 0).all()) == is_trimmed
        assert (
            WaveformCrops(tmp_path / str(loudness), "train", 2 * clip.column_samples).batch(generators(0, 0, range(20))).sound == 0
        ).any()
