"""Retakes: what stays, what is ranked, extensions, bridges, variations, both kinds of grids, and saving."""

import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch

from unsilent.batch import run
from unsilent.editing.opening import open_result
from unsilent.editing.retake import Retake, retake
from unsilent.editing.saving import save
from unsilent.errors import MediaError, ParameterError
from unsilent.generation.ranking import likelihood_after
from unsilent.generation.sidecar import find_sidecar
from unsilent.generation.windows import plan_range
from unsilent.media.audio import read_audio
from unsilent.media.probe import probe
from unsilent.models.code_order import to_sequence
from unsilent.outputs import plan, retake_job, sidecar_of
from unsilent.request import Request

RATE, EACH = 22050, 4096


@pytest.fixture(scope="module")
def result(pipeline, tmp_path_factory, write_clip):
    """The result for a video of five seconds."""
    folder = tmp_path_factory.mktemp("result")
    video = write_clip(folder / "a.mp4", n_frames=50, fps=10)
    (made,) = run(pipeline, plan([video], None), Request(seed=3), sidecar=True)
    return made.out


@pytest.fixture(scope="module")
def opened(pipeline, result):
    return open_result(pipeline, result, find_sidecar(result))


@pytest.fixture
def recording(pipeline, tmp_path):
    """Three seconds of decaying knocks, without a sidecar."""
    times = np.arange(3 * RATE) / RATE
    sound = 0.3 * np.sin(2 * np.pi * 500 * times) * np.exp(-6 * (times % 0.5)) + 0.001 * np.random.default_rng(0).standard_normal(3 * RATE)
    soundfile.write(tmp_path / "knock.wav", sound, RATE, subtype="PCM_16")
    return open_result(pipeline, tmp_path / "knock.wav", None)


def test_reopening_gives_the_very_samples(pipeline, opened):
    made = pipeline.generate(opened.scene.path, opened.request)
    assert np.array_equal(opened.waveform, made.waveform)
    assert np.array_equal(opened.codes, made.codes)


@pytest.mark.parametrize(("start", "stop"), [(1, 2.5), (0, 1), (3.3, 5), (2.0, 2.06), (1.234, 1.9), (0, 5)], ids=str)
def test_samples_outside_stay_to_the_bit(pipeline, opened, start, stop):
    (one,) = retake(pipeline, opened, Retake(start, stop, candidates=2))
    first, last = round(start * RATE), round(stop * RATE)
    assert len(one.made.waveform) == len(opened.waveform)
    assert one.made.waveform[:first].tobytes() == opened.waveform[:first].tobytes()
    assert one.made.waveform[last:].tobytes() == opened.waveform[last:].tobytes()
    assert not np.array_equal(one.made.waveform[first:last], opened.waveform[first:last])
    outside = [column for column in range(opened.codes.shape[1]) if not first // EACH <= column < -(-last // EACH)]
    assert np.array_equal(one.made.codes[:, outside], opened.codes[:, outside])
    assert np.abs(one.made.waveform).max() <= max(np.abs(opened.waveform).max(), 0.892)


def test_residual_codes_are_retaken_too(seeing, write_clip, tmp_path):
    """A sampler over columns whose codebook has more levels than it samples; a label; a stream as its source."""
    video = write_clip(tmp_path / "a.mp4", n_frames=40, fps=10)
    for request in (Request(), Request(stream=True)):
        (made,) = run(seeing, plan([video], tmp_path / "x.mp4"), request, sidecar=True)
        opened = open_result(seeing, made.out, find_sidecar(made.out))
        assert np.array_equal(opened.waveform, seeing.generate(video, request).waveform)
        (one,) = retake(seeing, opened, Retake(1.1, 2.3, label="drum", candidates=3))
        first, last = round(1.1 * RATE), round(2.3 * RATE)
        outside = np.delete(one.made.waveform, slice(first, last)), np.delete(opened.waveform, slice(first, last))
        assert outside[0].tobytes() == outside[1].tobytes()
        assert one.edit.label == "drum"
        assert one.edit.score < 0


def test_takes_are_ranked_and_repeatable(pipeline, opened):
    """The score is the likelihood of the columns after the stretch; more takes of the same candidates begin with the same."""
    asked = Retake(1, 2, seed=9, takes=3, candidates=4)
    takes = retake(pipeline, opened, asked)
    scores = [one.edit.score for one in takes]
    assert scores == sorted(scores, reverse=True)
    assert len({one.edit.take for one in takes}) == 3
    again = retake(pipeline, opened, Retake(1, 2, seed=9, takes=1, candidates=4))
    assert np.array_equal(again[0].made.waveform, takes[0].made.waveform)
    other = retake(pipeline, opened, Retake(1, 2, seed=10, candidates=4))
    assert not np.array_equal(other[0].made.waveform, takes[0].made.waveform)


def test_likelihood_after_is_that_of_teacher_forcing(pipeline, opened):
    sampler, rows = pipeline.parts.sampler, pipeline.clip.rows
    sequence = to_sequence(torch.from_numpy(opened.codes)[None])
    condition = pipeline.conditions(
        scene_plan := pipeline.plan(opened.scene, opened.codes.shape[1]),
        pipeline.observe(opened.scene, scene_plan, opened.request),
        opened.request,
    )[0]
    with torch.inference_mode():
        each = sampler.logits(sequence, condition).log_softmax(2).gather(2, sequence[..., None])[0, :, 0]
        known = 5 * rows
        found = likelihood_after(sampler, sequence[:, :known], sequence[0, known : known + 2 * rows], condition)
    assert float(found) == pytest.approx(float(each[known : known + 2 * rows].mean()), abs=1e-4)


def test_a_retake_continues_what_is_before_it(pipeline, opened):
    """Candidates depend on the codes before the stretch."""
    changed = opened.codes.copy()
    changed[:, 3] = (changed[:, 3] + 7) % 32
    other = type(opened)(**{**vars(opened), "codes": changed})
    one, two = (retake(pipeline, each, Retake(1, 3, seed=5, candidates=1))[0].made.codes[:, 5:16] for each in (opened, other))
    assert not np.array_equal(one, two)


def test_behind_a_cut_nothing_depends_on_the_scene_before(pipeline, write_clip, tmp_path):
    """Candidates do not continue it, and what comes behind a cut does not rank those before it."""
    textures = [np.random.default_rng(seed).integers(low, low + 60, (48, 64, 3)).astype(np.uint8) for seed, low in ((1, 0), (2, 180))]
    video = write_clip(tmp_path / "a.mp4", images=lambda number: textures[number >= 50], n_frames=100, options={"g": "1"})
    (made,) = run(pipeline, plan([video], tmp_path / "x.mp4"), Request(), sidecar=True)
    opened, cut = open_result(pipeline, made.out, find_sidecar(made.out)), round(2.0 * RATE / EACH)
    for scenes, depends in (("auto", False), ("off", True)):
        request, codes = opened.request.model_copy(update={"scenes": scenes}), opened.codes.copy()
        codes[:, cut - 4 : cut] = (codes[:, cut - 4 : cut] + 7) % 32
        both = [type(opened)(**{**vars(opened), "request": request, "codes": one}) for one in (opened.codes, codes)]
        one, two = (retake(pipeline, each, Retake(2.3, 3.3, seed=5, candidates=1))[0].made.codes[:, cut:] for each in both)
        assert np.array_equal(one, two) != depends
        before = retake(pipeline, both[0], Retake(1.0, cut * EACH / RATE, candidates=1))[0]
        assert (before.edit.score is not None) == depends


def test_retakes_have_events_at_cues_and_silence(seeing, write_clip, tmp_path, monkeypatch):
    """The decoded stretch begins before the retake, so times are counted from there."""
    from unsilent.generation import shaping

    landed = []
    monkeypatch.setattr(shaping, "land", lambda waveform, cues, clip: landed.append((len(waveform), cues)) or waveform)
    request = Request(cues=({"seconds": 0.5}, {"seconds": 2.5}), mute=({"start": 2.7, "stop": 3.1},), label="cat")
    video = write_clip(tmp_path / "a.mp4", n_frames=60, fps=10)
    (made,) = run(seeing, plan([video], tmp_path / "x.mp4"), request, sidecar=True)
    opened, whole = open_result(seeing, made.out, find_sidecar(made.out)), len(landed)
    (one,) = retake(seeing, opened, Retake(2.3, 3.3, candidates=1))
    n_samples, (cue,) = landed[-1]
    begin = (int(2.3 * RATE) // EACH - 8) * EACH
    assert (len(landed) > whole, n_samples < len(opened.waveform)) == (True, True)
    assert cue.seconds == pytest.approx(2.5 - begin / RATE, abs=1e-6)
    assert not one.made.waveform[round(2.72 * RATE) : round(3.08 * RATE)].any()


def test_mixing_adds_to_what_is_there(pipeline, opened):
    (one,) = retake(pipeline, opened, Retake(1, 3, layer="mix", candidates=1, seed=2))
    added = one.made.waveform - opened.waveform
    assert not added[:RATE].any() and not added[3 * RATE :].any()  # noqa: PT018
    assert np.abs(added[RATE : 3 * RATE]).max() > 0.01
    assert np.abs(one.made.waveform).max() <= max(np.abs(opened.waveform).max(), 10 ** (-1 / 20)) + 1e-6
    assert one.edit.layer == "mix"


def test_a_variation_keeps_a_share_of_the_codes(pipeline, opened):
    (one,) = retake(pipeline, opened, Retake(keep=0.75, candidates=1, seed=1))
    same = (one.made.codes == opened.codes).all(0).mean()
    assert 0.5 < same < 0.95
    assert len(one.made.waveform) == len(opened.waveform)


def test_a_sound_becomes_longer_at_its_end(pipeline, opened):
    (one,) = retake(pipeline, opened, Retake(stop=7, candidates=1))
    kept = len(opened.waveform) - round(0.25 * RATE)  # where the join begins
    assert one.made.seconds == 7
    assert np.array_equal(one.made.waveform[:kept], opened.waveform[:kept])
    assert np.abs(one.made.waveform[-RATE:]).max() > 0.001
    assert one.made.request.seconds == 7


def test_a_recording_becomes_longer_at_both_ends(pipeline, recording):
    longer = retake(pipeline, recording, Retake(stop=4, candidates=1))[0].made
    assert np.array_equal(longer.waveform[: 2 * RATE], recording.waveform[: 2 * RATE])
    before = retake(pipeline, recording, Retake(start=-1, candidates=2))[0].made
    assert len(before.waveform) == 4 * RATE
    kept = round(0.25 * RATE)
    assert np.array_equal(before.waveform[RATE + kept :], recording.waveform[kept:])
    assert np.abs(before.waveform[:RATE]).max() > 0.001
    assert before.codes.shape[1] == pipeline.clip.columns_for(4 * RATE)


def test_a_gap_in_a_recording_is_bridged(pipeline, recording):
    recording.waveform[RATE : 2 * RATE] = 0
    (one,) = retake(pipeline, recording, Retake(1, 2, candidates=2))
    assert np.array_equal(one.made.waveform[:RATE], recording.waveform[:RATE])
    assert np.square(one.made.waveform[RATE : 2 * RATE]).mean() > 1e-5


def test_retakes_work_behind_the_first_window(pipeline, write_clip, tmp_path):
    """A stretch in the second window of a sound, and one that is longer than a window. Its pictures, one a second, are no scenes."""
    (made,) = run(pipeline, plan([write_clip(tmp_path / "long.mp4", n_frames=32, fps=1)], None), Request(scenes="off"), sidecar=True)
    opened = open_result(pipeline, made.out, find_sidecar(made.out))
    for start, stop in ((20, 21), (2, 28)):
        (one,) = retake(pipeline, opened, Retake(start, stop, candidates=1))
        assert np.array_equal(one.made.waveform[stop * RATE :], opened.waveform[stop * RATE :])
        assert one.edit.score is not None


@pytest.mark.parametrize(
    ("start", "stop", "n"), [(0, 5, 1), (10, 20, 1), (60, 70, 1), (100, 106, 1), (3, 120, 4), (0, 53, 1), (0, 54, 2), (52, 53, 1)]
)
def test_windows_cover_a_range_once(start, stop, n):
    windows = plan_range(start, stop, 53, 26)
    assert [column for window in windows for column in range(window.new, window.stop)] == list(range(start, stop))
    assert all(window.start >= 0 and 0 <= window.primed < window.columns <= 53 for window in windows)
    assert len(windows) == n
    led = plan_range(start, stop, 53, 26, lead=16)
    assert [replace(window, led=0) for window in led] == windows
    assert [window.led for window in led] == [16 if window.start >= start and window.primed else 0 for window in windows]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"start": 6, "stop": 7}, "has 0 to 5.00 s"),
        ({"start": 2, "stop": 2.01}, "lasts 0.05 s or more"),
        ({"start": 3, "stop": 2}, "lasts 0.05 s or more"),
        ({"start": -1, "stop": 2}, "the sound of a video cannot begin before the video"),
        ({"label": "dog", "start": 1, "stop": 2}, "has no classes"),
    ],
    ids=str,
)
def test_wrong_stretches_are_refused(pipeline, opened, fields, sentence):
    with pytest.raises(ParameterError, match=sentence):
        retake(pipeline, opened, Retake(**fields))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"keep": 1.0}, "below 1"),
        ({"takes": 9}, "takes is 9 and candidates is 8"),
        ({"layer": "mix", "keep": 0.5}, "so it cannot be mixed"),
    ],
    ids=str,
)
def test_wrong_wishes_are_refused(fields, sentence):
    with pytest.raises(ParameterError, match=sentence):
        Retake(**fields)


def test_results_of_other_weights_are_refused(pipeline, result, tmp_path):
    found = find_sidecar(result)
    changed = found.sidecar.model_copy(update={"model": found.sidecar.model.model_copy(update={"weights": "0" * 12})})
    with pytest.raises(ParameterError, match="Choose the bundle of the result with --model"):
        open_result(pipeline, result, type(found)(changed, found.path))


def test_a_retake_of_a_retake_goes_on_from_its_samples(pipeline, opened, tmp_path):
    """History grows, seeds differ, and what was made first stays to the bit."""
    (first,) = retake(pipeline, opened, Retake(1, 2, candidates=1))
    record = save(pipeline, opened, first, tmp_path / "b.mp4", wav=True)
    assert json.dumps(record)
    again = open_result(pipeline, tmp_path / "b.mp4", find_sidecar(tmp_path / "b.mp4"))
    assert np.array_equal(again.waveform, first.made.waveform)
    assert again.history == (first.edit,)
    (second,) = retake(pipeline, again, Retake(3, 4, candidates=1))
    assert second.edit.seed == first.edit.seed + 1 == opened.request.seed + 2
    assert np.array_equal(second.made.waveform[: 3 * RATE], first.made.waveform[: 3 * RATE])
    assert probe(tmp_path / "b.mp4").has_audio
    assert soundfile.info(tmp_path / "b.wav").subtype == "PCM_16"


def test_wav_of_a_retake_equals_the_first_outside(pipeline, opened, tmp_path):
    """The 16-bit sounds of both, too."""
    pipeline.generate(opened.scene.path, opened.request).save_wav(tmp_path / "first.wav")
    retake(pipeline, opened, Retake(1, 2, candidates=1))[0].made.save_wav(tmp_path / "second.wav")
    first, second = (soundfile.read(tmp_path / f"{name}.wav", dtype="int16")[0] for name in ("first", "second"))
    assert np.array_equal(np.delete(first, slice(RATE, 2 * RATE)), np.delete(second, slice(RATE, 2 * RATE)))


def test_a_recording_is_saved_with_its_very_samples(pipeline, recording, tmp_path):
    (one,) = retake(pipeline, recording, Retake(1, 2, candidates=1))
    job = retake_job(recording.path, None, False)
    assert job.out.name == "knock.retake1.wav"
    save(pipeline, recording, one, job.out)
    saved = read_audio(job.out, RATE)
    assert np.array_equal(np.delete(saved, slice(RATE, 2 * RATE)), np.delete(recording.waveform, slice(RATE, 2 * RATE)))
    assert open_result(pipeline, job.out, find_sidecar(job.out)).scene is None
    assert retake_job(job.out, None, False).out.name == "knock.retake2.wav"
    sidecar_of(job.out).unlink()


def test_lost_samples_are_named(pipeline, opened, tmp_path):
    save(pipeline, opened, retake(pipeline, opened, Retake(1, 2, candidates=1))[0], tmp_path / "b.mp4")
    (tmp_path / "b.mp4.unsilent.wav").unlink()
    with pytest.raises(MediaError, match=r"b\.mp4\.unsilent\.wav does not exist"):
        open_result(pipeline, tmp_path / "b.mp4", find_sidecar(tmp_path / "b.mp4"))
