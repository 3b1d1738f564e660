"""Sidecars: what a result is described by, reading it back, moved files, and damaged descriptions."""

import json
import shutil

import numpy as np
import pytest

from unsilent.batch import run
from unsilent.errors import MediaError, ParameterError
from unsilent.generation.sidecar import Made, digest, find_sidecar, read_sidecar, samples_of, sidecar_for, video_of
from unsilent.media.probe import read_comment
from unsilent.media.sounds import write_sound
from unsilent.outputs import plan, samples_beside, sidecar_of
from unsilent.request import Request


def made_with(pipeline):
    return Made.of(pipeline.parts, pipeline.precision, pipeline.vocoder)


@pytest.fixture
def result(pipeline, make_clip, tmp_path):
    """A result with its sidecar, below the folder of its video."""
    jobs = plan([make_clip("a.mp4", n_frames=20)], tmp_path / "out" / "x.mp4", 7)
    (made,) = run(pipeline, jobs, Request(seed=7), sidecar=True)
    return made.out


def test_a_sidecar_has_request_model_and_codes(pipeline, result):
    found = find_sidecar(result)
    made = pipeline.generate(video_of(found), found.sidecar.request)
    assert np.array_equal(found.sidecar.grid(), made.codes)
    assert found.sidecar.sound.sha256 == digest(made.waveform)
    assert found.sidecar.model == made_with(pipeline)
    assert found.sidecar.sound.lufs == pytest.approx(-23, abs=1)
    assert samples_of(found) is None


def test_results_and_sidecars_move_together(result, tmp_path):
    """Paths are relative, so a moved folder is found again; the comment points to the sidecar of a renamed result."""
    assert str(tmp_path) not in sidecar_of(result).read_text()
    shutil.copytree(tmp_path, tmp_path.with_name("moved"))
    moved = tmp_path.with_name("moved") / "out" / "x.mp4"
    assert video_of(find_sidecar(moved)).samefile(moved.parents[1] / "a.mp4")
    renamed = moved.rename(moved.with_name("y.mp4"))
    assert find_sidecar(renamed).path == sidecar_of(moved)
    assert read_comment(renamed).endswith(" sidecar=x.mp4.unsilent.json")
    assert find_sidecar(sidecar_of(moved)).sidecar == find_sidecar(renamed).sidecar


def test_files_without_a_sidecar_have_none(make_clip, tmp_path):
    (tmp_path / "b.txt").write_text("no sound")
    assert find_sidecar(make_clip("plain.mp4")) is None
    assert find_sidecar(tmp_path / "b.txt") is None


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": "other"}, "is not a sidecar of unsilent"),
        ({"version": 2}, "has version 2; this program reads version 1"),
        ({"codes": "AAAA"}, "is damaged: this is not a file of codes"),
        ({"codes": "!"}, "is damaged"),
        ({"take": -1}, "is damaged: take is -1"),
        ({"more": 1}, "there is no field 'more'"),
    ],
    ids=str,
)
def test_wrong_sidecars_are_refused(result, change, sentence):
    path = sidecar_of(result)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(MediaError, match=sentence):
        read_sidecar(path)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff"], ids=str)
def test_other_content_is_refused(result, content):
    sidecar_of(result).write_bytes(content)
    with pytest.raises(MediaError, match=r"is not JSON|is not a sidecar"):
        find_sidecar(result)


def test_a_missing_or_another_video_is_refused(result, make_clip, tmp_path):
    found = find_sidecar(result)
    with pytest.raises(ParameterError, match="it is another"):
        video_of(found, make_clip("c.mp4", n_frames=5))
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(MediaError, match="--video"):
        video_of(found)


def test_kept_samples_are_the_very_samples(pipeline, make_clip, tmp_path):
    made = pipeline.generate(make_clip("a.mp4", n_frames=20))
    out = tmp_path / "x.mp4"
    write_sound(samples_beside(out), made.waveform, made.sample_rate, "32f")
    sidecar_for(made, out, made_with(pipeline), samples=samples_beside(out)).write(out)
    found = find_sidecar(sidecar_of(out))
    assert np.array_equal(samples_of(found), made.waveform)
    samples = tmp_path / found.sidecar.sound.file
    samples.write_bytes(samples.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(MediaError, match="other samples"):
        samples_of(found)


def test_a_foreign_sidecar_is_not_replaced(pipeline, make_clip, tmp_path):
    video = make_clip("a.mp4", n_frames=20)
    sidecar_of(tmp_path / "x.mp4").write_text('{"format": "mine"}')
    (failed,) = run(pipeline, plan([video], tmp_path / "x.mp4"), Request(), sidecar=True)
    assert failed.status == "failed"
    assert "was not made by unsilent" in failed.why
    (made,) = run(pipeline, plan([video], tmp_path / "x.mp4"), Request(), sidecar=True, overwrite=True)
    assert made.status == "made"


def test_a_batch_keeps_only_what_has_its_sidecar(pipeline, make_clip, tmp_path):
    jobs = plan([make_clip("a.mp4", n_frames=5), make_clip("b.mp4", n_frames=5)], tmp_path / "out")
    statuses = lambda **beside: [result.status for result in run(pipeline, jobs, Request(), **beside)]  # noqa: E731
    assert statuses() == ["made", "made"]
    assert statuses(sidecar=True) == ["made", "made"]
    assert statuses(sidecar=True) == statuses() == ["kept", "kept"]
