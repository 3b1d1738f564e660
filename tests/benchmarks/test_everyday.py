"""Tables of the everyday benchmark: pairs, signal measures, impacts, and a small run of all."""

import json
import sys
from collections import Counter
from pathlib import Path

import everyday
import numpy as np
import pytest
import signals
import soundfile
import timing
import torch
from PIL import Image

from unsilent.clip import Clip
from unsilent.data.manifest import Row, write_manifest
from unsilent.signal.mel import log_mel01
from unsilent.signal.onsets import find_onsets

CLIP = Clip()
RATE = CLIP.sample_rate


def row(name, kind="sound", split="valid", label="dog", seconds=1.0):
    return Row(name, f"{name}.wav", kind, label, split, "", 0.0, seconds, RATE, "")


def noise(seconds, level=0.1, seed=0):
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def hits(seconds, length, level=0.5):
    waveform = noise(length, 0.001)
    for second in seconds:
        start = round(second * RATE)
        waveform[start : start + 2000] += noise(2000 / RATE, level, 1) * np.exp(-np.arange(2000) / 300).astype(np.float32)
    return waveform


class TestMaterial:
    def test_choose_takes_labels_with_all_material_and_nothing_of_a_training(self):
        train = "train"
        rows = [
            *(row("dog1"), row("dog2", split="test"), row("dog3", split=train), row("dogs", "image"), row("dogs2", "image", train)),
            *(row("cat1", label="cat"), row("cats", "image", label="cat")),  # no training sound
            *(row("cow1", label="cow"), row("cow2", split=train, label="cow"), row("cows", "image", train, "cow")),  # no held-out picture
            *(row("rat1", split=train, label="rat"), row("rats", "clip", label="rat")),  # no held-out sound
        ]
        material = everyday.choose(Path(), rows, None, 0)
        assert list(material.seen) == list(material.real) == ["dog"]
        assert {one.clip_id for one in material.real["dog"]} == {"dog1", "dog2"}
        assert [one.clip_id for one in everyday.flat(material.seen)] == ["dogs"]
        assert [one.clip_id for one in material.train] == ["dog3"]

    def test_choose_with_a_limit_takes_the_first(self):
        rows = [row(f"{kind}{i}", kind) for kind in ("sound", "image") for i in range(9)] + [row("t", split="train")]
        few, all_of_them = (everyday.choose(Path(), rows, most, 3) for most in (2, None))
        assert few.seen["dog"] == all_of_them.seen["dog"][:2]
        assert few.real["dog"] == all_of_them.real["dog"][:2]


class TestPairs:
    @pytest.fixture(params=[(3, 5), (5, 3), (1, 4), (4, 1)], ids=str)
    def found(self, request):
        n_real, n_seen = request.param
        real, seen = ([row(f"{kind}{i}", kind) for i in range(n)] for kind, n in (("sound", n_real), ("image", n_seen)))
        material = everyday.Material(Path("root"), {"dog": seen}, {"dog": real}, [row("t1"), row("t2", label="cat")])
        return n_real, n_seen, list(everyday.evaluated(material, Path("made"), Path("codebook"), 2, 0))

    def test_evaluated_has_every_sample_once_with_a_unique_name(self, found):
        _, n_seen, rows = found
        generated = [(name, path) for system, name, path in rows if system == "generated"]
        assert {path for _, path in generated} == {Path(f"made/image{i}/{take}.wav") for i in range(n_seen) for take in range(2)}
        assert len({name for name, _ in generated}) == len(generated) == 2 * n_seen

    def test_evaluated_pairs_samples_of_an_image_with_one_sound(self, found):
        partners = {(path.parent, name.rpartition("/")[0]) for system, name, path in found[2] if system == "generated"}
        assert len(partners) == found[1]

    def test_evaluated_has_one_sound_of_other_systems_for_each_real_one(self, found):
        n_real, _, rows = found
        counts = Counter(system for system, _, _ in rows)
        assert [counts[system] for system in ("real", "codebook", "another", "floor", "one each")] == [n_real] * 5
        assert {path for system, _, path in rows if system == "another"} == {Path("root/t1.wav")}


class TestSignals:
    def test_measure_of_a_tone(self):
        tone = (0.5 * np.sin(2 * np.pi * 997 * np.arange(2 * RATE) / RATE)).astype(np.float32)
        found = signals.measure(tone + np.float32(0.01), CLIP)
        assert found.rms_db == pytest.approx(-9.03, abs=0.02)
        assert found.peak_db == pytest.approx(-5.85, abs=0.02)
        assert found.offset == pytest.approx(0.01, abs=1e-4)
        assert (found.clipped, found.onsets) == (0, 0)
        assert signals.measure(np.clip(4 * tone, -1, 1), CLIP).clipped > 0.5

    def test_compare_measures_a_level_difference(self):
        sides = [[signals.measure(noise(2, level, seed), CLIP) for seed in range(3)] for level in (0.1, 0.1 * 10**0.5)]
        means = signals.compare(*sides)
        assert means["spectrum_db"] == pytest.approx(10, abs=0.1)
        assert means["lufs_real"] - means["lufs_made"] == pytest.approx(10, abs=0.1)

    def test_faults_counts_silent_and_clipped_sounds(self):
        results = signals.faults(
            [signals.measure(waveform, CLIP) for waveform in (noise(1), np.zeros(RATE, np.float32), noise(1, 3).clip(-1, 1))]
        )
        assert results["silent_sounds"] == pytest.approx(1 / 3)
        assert results["clipped_sounds"] == pytest.approx(1 / 3)
        assert results["lufs_furthest"] > 15


class TestTiming:
    @pytest.mark.parametrize(
        ("waveform", "clear"),
        [
            (hits([0.5, 1.2, 2.0, 3.1], 4), True),
            (hits([0.5, 3.1], 4), False),  # too few
            (hits(np.arange(0.2, 3.8, 0.15), 4), False),  # too dense
            (hits([0.5, 1.2, 2.0], 10), False),  # too sparse
            (noise(4), False),
            (hits([0.5, 1.2, 2.0, 3.1], 4, 0.003), False),  # hardly above the noise
        ],
        ids=["clear", "few", "dense", "sparse", "noise", "soft"],
    )
    def test_is_clear_selects_impacts(self, waveform, clear):
        mel01 = log_mel01(torch.from_numpy(waveform)[None], CLIP)[0]
        assert timing.is_clear(find_onsets(mel01, CLIP), mel01, CLIP) is clear

    def test_shifted_keeps_number_and_gaps(self):
        sounds = [np.array([0.5, 1.0, 3.5, 9.0]), np.array([])]
        moved = timing.shifted(sounds, 4.0, np.random.default_rng(0))
        assert [len(one) for one in moved] == [3] * timing.SHIFTS + [0] * timing.SHIFTS
        for one in moved[: timing.SHIFTS]:
            assert np.all((one >= 0) & (one < 4))
            np.testing.assert_allclose(np.sort(np.diff(one) % 4), [0.5, 2.5])

    def test_score_all_ranks_sounds_in_time_above_chance(self, tmp_path):
        times = [[0.5, 1.2, 2.0, 3.1], [0.3, 1.7, 2.4], [0.8, 1.5, 2.9, 3.5], [0.4, 2.2, 3.3]]
        videos = []
        for number, seconds in enumerate(times):
            video = row(f"v{number}", "clip", "train" if number else "valid", seconds=4.0)
            videos.append(timing.Impacts(video, hits(seconds, 4), np.array(seconds)))
            for folder, late in (("good", 0.0), ("late", 0.25)):
                (tmp_path / folder / f"v{number}").mkdir(parents=True)
                soundfile.write(tmp_path / folder / f"v{number}/0.wav", hits([second + late for second in seconds], 9), RATE)
        ways = {"good": tmp_path / "good", "late": tmp_path / "late"}
        results = timing.score_all(videos, ways, lambda waveform: waveform, CLIP, 0)
        rows = results["all"]["rows"]
        assert rows["good"]["f1"] == rows["own sound through the codebook"]["f1"] == 1
        assert rows["late"]["f1"] < 0.2
        assert max(rows["shifted"]["f1"], rows["for other videos"]["f1"]) < 0.6
        assert results["all"]["above_chance"]["interval"][0] > 0.2
        assert (results["held out"]["videos"], results["all"]["videos"]) == (1, 4)


def test_main_writes_all_tables(tmp_path, tiny_bundle, tiny_classifier, tiny_sounds, draw, monkeypatch, capsys):
    rows = []
    for label in ("high", "low"):
        for number in range(4):
            rows.append(Row(f"real/{label}/{label}{number}", f"real/{label}/{label}{number}.wav", "sound", label,
                            "train" if number > 2 else "valid", "", 0.0, 0.5, RATE, ""))  # fmt: skip
        Image.fromarray(draw(len(label))).save(tmp_path / f"{label}.png")
        rows.append(Row(f"seen/{label}", str(tmp_path / f"{label}.png"), "image", label, "valid", "", 0.0, 0.0, 0, ""))
    write_manifest(tiny_sounds, rows, tmp_path / "m.parquet")
    command = [
        "everyday.py",
        str(tmp_path / "m.parquet"),
        "--classifier",
        str(tiny_classifier),
        "--model",
        str(tiny_bundle),
        "--samples",
        "2",
    ]
    monkeypatch.setattr(everyday, "SHEET", 3)
    monkeypatch.setattr(sys, "argv", [*command, "-o", str(tmp_path / "out"), "--parts", "labels", "signal", "sheet"])
    everyday.main()
    results = json.loads((tmp_path / "out/everyday.json").read_text())
    assert {system["name"]: system["counts"]["judged"] for system in results["labels"]["systems"]} == {
        "generated": 4, "one each": 6, "codebook": 6, "another": 6, "floor": 6
    }  # fmt: skip
    assert results["signal"]["faults"]["sounds"] == 4
    assert capsys.readouterr().out.strip() == (tmp_path / "out/everyday.md").read_text().strip()
    assert 5_000 < (tmp_path / "out/everyday.png").stat().st_size < 600_000
