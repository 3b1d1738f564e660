"""Wishes: what is to be avoided, and a sound that takes should be like."""

import json

import numpy as np
import pytest
import soundfile
import torch

from unsilent.cues import Cue
from unsilent.errors import MediaError, ParameterError
from unsilent.generation import sampling
from unsilent.generation.priming import load_reference
from unsilent.generation.sampling import NextCode, guided_rows
from unsilent.generation.sidecar import Made, find_sidecar, sidecar_for
from unsilent.generation.windows import plan_windows
from unsilent.request import Defaults, Request
from unsilent.vision.scene import Scene

RANKS = Defaults("m", 8, 8, 1.0, 2.0, ("cat", "dog", "piano", "wind", "wind_chimes"), candidates=4, sees=True)


@pytest.fixture
def video(make_clip):
    """Three seconds."""
    return make_clip("three.mp4", n_frames=75)


@pytest.fixture
def knock(tmp_path):
    """Two seconds: silence, then a decaying tone."""
    times = np.arange(22050) / 22050
    sound = np.concatenate([np.zeros(22050), 0.3 * np.sin(2 * np.pi * 700 * times) * np.exp(-4 * times)])
    soundfile.write(tmp_path / "knock.wav", sound, 22050, subtype="FLOAT")
    return tmp_path / "knock.wav"


def test_many_words_are_refused():
    """Comparing each with all classes would take minutes."""
    words = [f"cat{number}" for number in range(201)]
    for asked in ({"avoid": words}, {"cues": [Cue(seconds=1, label=word) for word in words]}):
        with pytest.raises(ParameterError, match="201 different labels were given; at most 200 may be words other than class names"):
            Request(**asked).resolve(RANKS)


def test_what_is_avoided_has_the_models_spelling_and_resolves_once():
    resolved = Request(avoid=("Dog", "music", "wind")).resolve(RANKS)
    assert resolved.avoid == ("dog", "piano", "wind")
    assert resolved.resolve(RANKS) == resolved
    assert resolved.describe()["avoid"] == list(resolved.avoid)
    assert "avoid" not in Request().resolve(RANKS).describe()


def test_what_is_named_is_spared_by_a_word_for_several_classes():
    assert Request(label="cat", avoid=("animals",)).resolve(RANKS).avoid == ("dog",)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"avoid": ("cat",), "label": "cat"}, "'cat' is both wanted and avoided"),
        ({"avoid": ("wind",), "label": "wind"}, "'wind' is both wanted and avoided"),
        ({"avoid": ("cat",), "prompt_track": [{"start": 0, "stop": 1, "label": "Cat"}]}, "'cat' is both wanted and avoided"),
        ({"avoid": ("cat", "dog", "wind", "wind chimes", "music")}, "all classes of the model are avoided"),
        ({"avoid": ("qwertz",)}, "no class is named 'qwertz'"),
        ({"avoid": ()}, "avoid"),
        ({"like": "a.wav", "prime": "b.wav"}, "prime and like both say how the sound begins"),
        ({"like": "a.wav", "stream": True}, "leave out takes, candidates, prime, like"),
    ],
)
def test_wishes_that_contradict_are_refused(fields, words):
    with pytest.raises(ParameterError, match=words):
        Request(**fields).resolve(RANKS)


@pytest.mark.parametrize("fields", [{"avoid": ("cat",)}, {"like": "a.wav"}])
def test_models_without_a_listener_refuse(fields):
    with pytest.raises(ParameterError, match=f"'m' has no listener, so {next(iter(fields))} has no effect"):
        Request(label="cat", **fields).resolve(Defaults("m", 8, 8, 1.0, 1.0, ("cat", "dog")))


def test_the_sounds_that_are_sampled_at_once_are_limited():
    assert Request(takes=1000).resolve(RANKS).n_sampled == 4000
    with pytest.raises(ParameterError, match="takes times candidates is 4005, but must be 4000 or less"):
        Request(takes=801, candidates=5).resolve(RANKS)


def test_what_is_avoided_is_not_seen_and_changes_codes(seeing, video):
    plain = seeing.generate(video)
    likeliest = next(iter(plain.seen))
    other = seeing.generate(video, avoid=(likeliest,))
    assert likeliest not in other.seen
    assert sum(other.seen.values()) == pytest.approx(1, abs=0.05)
    assert not np.array_equal(plain.codes, other.codes)


def test_guidance_leads_away_from_what_is_avoided(seeing, video):
    """Where the class is named, it is guidance alone; without guidance nothing changes."""
    named = {"label": "cat", "candidates": 1}
    assert not np.array_equal(seeing.generate(video, **named).codes, seeing.generate(video, avoid=("dog",), **named).codes)
    alone = {**named, "guidance": 1.0}
    assert np.array_equal(seeing.generate(video, **alone).codes, seeing.generate(video, avoid=("dog",), **alone).codes)


def test_the_unconditional_row_is_zero_or_what_is_avoided():
    condition, away = torch.ones(1, 2, 3), torch.full((1, 2, 3), 5.0)
    assert guided_rows(condition, 1).tolist() == condition.tolist()
    assert guided_rows(condition, 2)[1].unique().tolist() == [0]
    assert guided_rows(torch.cat([condition, away]), 2)[1].unique().tolist() == [5]
    assert guided_rows(torch.cat([condition, away]), 1).tolist() == condition.tolist()


def test_what_is_named_over_time_is_expected_of_candidates(seeing, video):
    """By its share of three seconds; elsewhere what is seen."""
    whole = seeing.generate(video, prompt_track=({"start": 0, "stop": 1, "label": "dog"}, {"start": 1, "stop": 9, "label": "cat"}))
    assert whole.seen == pytest.approx({"cat": 0.67, "dog": 0.33}, abs=0.05)
    part = seeing.generate(video, prompt_track=({"start": 0, "stop": 2.4, "label": "dog"},))
    assert part.seen["dog"] >= 0.75


def test_streams_avoid_too(seeing, video):
    plain, other = (seeing.generate(video, stream=True, guidance=6.0, **fields) for fields in ({}, {"avoid": ("drum",)}))
    assert not np.array_equal(plain.codes, other.codes)


def test_led_windows_begin_before_the_sound_and_cover_it():
    windows = plan_windows(30, 10, 5, lead=4)
    assert [windows[0].start, windows[0].primed, windows[0].led] == [-4, 4, 4]
    assert [column for window in windows for column in range(window.new, window.stop)] == list(range(30))
    assert all(window.columns <= 10 for window in windows)
    assert {(window.primed, window.led) for window in windows[1:]} == {(5, 3)}  # two known columns stay
    assert windows[:3] == plan_windows(17, 10, 5, lead=4)[:3]


def test_a_reference_is_continued_but_not_heard(seeing, video, knock):
    """Its codes are before the sound: three seconds around its loudest ones; those of silence are what guidance leads away from."""
    plain, like = seeing.generate(video, candidates=1), seeing.generate(video, candidates=1, like=str(knock))
    assert like.codes.shape == plain.codes.shape
    assert len(like.waveform) == len(plain.waveform) == 3 * 22050
    assert not np.array_equal(like.codes, plain.codes)
    codes = load_reference(like.request, seeing.codec, seeing.parts.ranker, seeing.parts.loudness_lufs).codes
    assert codes.shape == (2, seeing.clip.rows, int(3 / seeing.clip.column_seconds))
    assert torch.equal(codes[1], seeing.codec.encode(np.zeros(16 * seeing.clip.column_samples, np.float32))[: seeing.clip.rows])
    assert not torch.equal(*codes)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_codes_of_the_reference_are_favoured(guidance, temperature):
    """Half of the codes are drawn from those of the reference, the others as before."""
    choose, logits = NextCode(temperature, 8, guidance), torch.randn(2, 8, generator=torch.manual_seed(0))[: 1 + (guidance != 1)]
    shares, uniforms = torch.tensor([0, 0, 0.25, 0, 0, 0.75, 0, 0]), (torch.arange(4000)[:, None] + 0.5) / 4000
    plain, favoured = (
        torch.cat([choose(one, place) for place in uniforms]).bincount(minlength=8) / 4000
        for one in (logits, choose.favour(logits, shares))
    )
    assert favoured.tolist() == pytest.approx(((plain + shares) / 2).tolist(), abs=2e-3)


def test_all_codes_can_be_those_of_the_reference(seeing, video, knock, monkeypatch):
    monkeypatch.setattr(sampling, "_FAVOUR", 1.0)
    made = seeing.generate(video, candidates=1, like=str(knock))
    shares = load_reference(made.request, seeing.codec, seeing.parts.ranker, seeing.parts.loudness_lufs).shares
    assert shares.sum(1).tolist() == pytest.approx([1] * len(made.codes))
    assert all(shares[row, code] > 0 for row, codes in enumerate(made.codes) for code in codes)


def test_takes_most_like_the_reference_come_first(seeing, video, knock):
    request = seeing.resolve(like=str(knock), takes=2, candidates=3)
    reference = load_reference(request, seeing.codec, seeing.parts.ranker, seeing.parts.loudness_lufs)
    assert float(reference.features.norm()) == pytest.approx(1, abs=1e-5)
    takes = seeing.takes(video, request=request)
    assert takes[0].score >= takes[1].score
    assert all(abs(take.score) <= 1 + 1e-5 for take in takes)


def test_scenes_are_each_led_by_the_reference(seeing, make_clip, knock):
    images = [np.full((48, 64, 3), grey, np.uint8) for grey in (10, 240)]
    both = make_clip("both.mp4", n_frames=150, images=lambda index: images[index >= 75])
    made = seeing.generate(both, candidates=1, like=str(knock), seed=1)
    plan, *_ = seeing.plan_and_observe(Scene(both, 6.0), made.codes.shape[1], made.request)
    assert [window.own == window.new for window in plan.windows] == [True, True]
    assert made.codes.shape[1] == seeing.clip.columns_for(6 * 22050)


def test_references_that_cannot_be_heard_are_refused(seeing, video, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(22050), 22050)
    with pytest.raises(ParameterError, match=r"silent\.wav is silent, so it cannot be a reference"):
        seeing.generate(video, like=str(tmp_path / "silent.wav"))
    with pytest.raises(MediaError, match=r"gone\.wav"):
        seeing.generate(video, like=str(tmp_path / "gone.wav"))


def test_sidecars_name_the_reference_by_a_relative_path(seeing, video, knock, tmp_path):
    made, out = seeing.generate(video, like=str(knock)), tmp_path / "deep" / "out.wav"
    out.parent.mkdir()
    made.save_wav(out)
    sidecar_for(made, out, Made.of(seeing.parts, seeing.precision, seeing.vocoder)).write(out)
    assert find_sidecar(out).sidecar.request.like == "../knock.wav"
    assert json.loads((tmp_path / "deep" / "out.wav.unsilent.json").read_text())["request"]["like"] == "../knock.wav"
