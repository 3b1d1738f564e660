"""Many videos: which outputs are kept, and that one failure does not affect the other videos."""

import dataclasses
import os
import re
from pathlib import Path

import av
import pytest
from PIL import Image

from unsilent.batch import Result, as_record, run
from unsilent.errors import MediaError, ParameterError
from unsilent.generation.result import Generation
from unsilent.generation.sidecar import find_sidecar
from unsilent.media.probe import probe, read_comment
from unsilent.outputs import plan
from unsilent.request import Request


@pytest.fixture
def do(pipeline):
    """Run jobs to the end: `do(jobs, seed=3, wav=True)`."""

    def to_the_end(jobs, wav=False, picture=False, **fields):
        return list(run(pipeline, jobs, Request(**fields), wav=wav, picture=picture))

    return to_the_end


@pytest.fixture
def folder(make_clip, tmp_path):
    """Two videos and, between them, a text file with the suffix of a video."""
    for name in ("a", "c"):
        make_clip(f"{name}.mp4", n_frames=10)
    (tmp_path / "b.mp4").write_text("not a video")
    return tmp_path


def statuses(results):
    return [result.status for result in results]


class TestRun:
    """Failures, and resuming."""

    def test_run_reports_a_failure_and_continues(self, do, folder):
        results = do(plan([folder], folder / "out"))
        assert statuses(results) == ["made", "failed", "made"]
        assert re.search(r"b\.mp4 is not a media file", results[1].why)
        assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.mp4", "c.mp4"]
        assert probe(folder / "out" / "c.mp4").has_audio

    def test_run_keeps_outputs_of_the_same_request(self, do, folder):
        jobs = plan([folder], folder / "out")
        do(jobs)
        before = (folder / "out" / "a.mp4").stat().st_mtime_ns
        assert statuses(do(jobs)) == ["kept", "failed", "kept"]
        assert (folder / "out" / "a.mp4").stat().st_mtime_ns == before

    @pytest.mark.parametrize(
        "change",
        [{"seed": 1}, {"temperature": 0.5}, {"guidance": 2.0}, {"top_k": 3}, {"original": "keep"}, {"takes": 2}, {"wav": True}],
        ids=str,
    )
    def test_run_remakes_outputs_of_another_request(self, do, folder, change):
        jobs = plan([folder], folder / "out")
        do(jobs)
        assert set(statuses(do(jobs, **change))) == {"made", "failed"}

    def test_run_remakes_the_output_of_a_changed_video(self, do, folder, make_clip):
        jobs = plan([folder], folder / "out")
        do(jobs)
        os.utime(make_clip("c.mp4", n_frames=20), (4e9, 4e9))
        assert statuses(do(jobs)) == ["kept", "failed", "made"]

    def test_run_remakes_outputs_of_another_model(self, do, folder, pipeline, monkeypatch):
        jobs = plan([folder], folder / "out")
        do(jobs)
        monkeypatch.setattr(pipeline, "name", "another")
        assert statuses(do(jobs)) == ["made", "failed", "made"]

    @pytest.mark.parametrize("change", [{"guidance": 2.5}, {"temperature": 0.5}, {"top_k": 3}], ids=str)
    def test_run_remakes_outputs_of_other_model_defaults(self, do, folder, pipeline, monkeypatch, change):
        """Regression: the recipe had None for the model's defaults, so outputs with other defaults were kept."""
        jobs = plan([folder], folder / "out")
        do(jobs)
        assert statuses(do(jobs)) == ["kept", "failed", "kept"]
        monkeypatch.setattr(pipeline, "parts", dataclasses.replace(pipeline.parts, **change))
        assert statuses(do(jobs)) == ["made", "failed", "made"]

    def test_run_remakes_a_damaged_output(self, do, folder):
        jobs = plan([folder], folder / "out")
        do(jobs)
        (folder / "out" / "a.mp4").write_bytes(b"")
        assert statuses(do(jobs)) == ["made", "failed", "kept"]

    def test_run_always_makes_a_single_job(self, do, folder):
        jobs = plan([folder / "a.mp4"], None)
        assert statuses(do(jobs) + do(jobs)) == ["made", "made"]

    def test_run_writes_takes_sounds_and_figures(self, do, folder):
        results = do(plan([folder / "a.mp4"], folder / "out" / "x.mp4"), takes=2, wav=True, picture=True)
        assert [result.take for result in results] == [0, 1]
        names = [f"x.take{take}.{kind}" for take in (1, 2) for kind in ("mp4", "png", "wav")]
        assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(names)

    def test_recipe_holds_source_and_request(self, do, folder):
        do(plan([folder / "a.mp4"], folder / "x.mp4"), seed=7)
        assert re.search(r"model=everyday .*source=a\.mp4 bytes=\d+ seed=7 top_k=32 temperature=", read_comment(folder / "x.mp4"))

    def test_run_accepts_a_name_that_is_not_utf8(self, do, folder):
        """File names on Unix are bytes; comments in videos are text."""
        odd = Path(os.fsdecode(os.fsencode(folder) + b"/\xff.mp4"))
        (folder / "a.mp4").rename(odd)
        assert statuses(do(plan([odd], None), picture=True)) == ["made"]

    def test_run_refuses_a_wrong_label_before_any_work(self, do, folder):
        with pytest.raises(ParameterError, match="has no classes"):
            do(plan([folder], folder / "out"), label="dog")
        assert not (folder / "out").exists()

    def test_run_refuses_sounds_that_would_become_one_file(self, do, make_clip, tmp_path):
        jobs = plan([make_clip("a.mp4"), make_clip("a.mkv")], tmp_path / "out")
        with pytest.raises(ParameterError, match=r"the sounds or pictures of .*a\.mp4 and .*a\.mkv would have the same path"):
            do(jobs, wav=True)
        assert statuses(do(jobs)) == ["made", "made"]

    def test_run_refuses_figures_without_matplotlib_before_any_work(self, do, folder, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ParameterError, match=r"drawing needs matplotlib; run in .*: pip install '\.\[plot\]'"):
            do(plan([folder], folder / "out"), picture=True)
        assert not (folder / "out").exists()

    def test_run_refuses_an_output_below_a_file_before_any_work(self, do, folder, pipeline, monkeypatch):
        monkeypatch.setattr(pipeline, "takes", None)
        results = do(plan([folder / "a.mp4"], folder / "c.mp4" / "deep" / "x.mp4"))
        assert re.search(r"deep/x\.mp4 cannot be written: .*c\.mp4 is a file, not a folder", results[0].why)

    def test_run_refuses_a_read_only_folder_before_any_work(self, do, folder, pipeline, monkeypatch):
        monkeypatch.setattr(pipeline, "takes", None)
        monkeypatch.setattr(os, "access", lambda *_: False)
        results = do(plan([folder / "a.mp4"], folder / "x.mp4"))
        assert re.search(r"x\.mp4 cannot be written: no permission to write into ", results[0].why)

    def test_run_leaves_no_partial_file_on_a_full_disk(self, do, folder, monkeypatch):
        def full(self, *_args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("unsilent.media.mux.interleave", full)
        results = do(plan([folder], folder / "out"))
        assert statuses(results) == ["failed"] * 3
        assert re.search(r"out/a\.mp4 cannot be written: No space left on device", results[0].why)
        assert list((folder / "out").iterdir()) == []

    def test_run_continues_after_a_system_error(self, do, folder, monkeypatch):
        def broken(*_args, **_named):
            raise PermissionError(13, "Permission denied", "somewhere")

        monkeypatch.setattr(Generation, "save_video", broken)
        assert [result.why for result in do(plan([folder], folder / "out"))][::2] == ["somewhere: Permission denied."] * 2

    def test_run_logs_a_defect_and_continues(self, do, folder, pipeline, monkeypatch, caplog):
        takes = pipeline.takes
        monkeypatch.setattr(pipeline, "takes", lambda video, *rest, **named: takes(video, *rest, **named) if video.stem == "c" else 1 / 0)
        results = do(plan([folder], folder / "out"))
        assert statuses(results) == ["failed", "failed", "made"]
        assert results[0].why.endswith("a.mp4: ZeroDivisionError: division by zero")
        assert "please report it" in caplog.text

    def test_run_raises_the_defect_of_a_single_job(self, do, folder, pipeline, monkeypatch):
        monkeypatch.setattr(pipeline, "takes", lambda *_args, **_named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            do(plan([folder / "a.mp4"], None))

    @pytest.mark.parametrize("place", ["unsilent.pipeline.sample_codes", "unsilent.media.mux.interleave"])
    def test_run_leaves_no_partial_file_when_interrupted(self, do, folder, monkeypatch, place):
        def interrupt(*_args, **_named):
            raise KeyboardInterrupt

        jobs = plan([folder], folder / "out")
        do(jobs[:1])
        with monkeypatch.context() as patched:
            patched.setattr(place, interrupt)
            with pytest.raises(KeyboardInterrupt):
                do(jobs)
        assert [path.name for path in (folder / "out").iterdir()] == ["a.mp4"]
        assert statuses(do(jobs)) == ["kept", "failed", "made"]

    def test_run_keeps_the_old_output_until_the_new_one_is_complete(self, do, folder, monkeypatch):
        jobs = plan([folder / "a.mp4"], folder / "x.mp4")
        do(jobs)
        before = (folder / "x.mp4").read_bytes()

        def fail(*_args):
            raise MediaError("no.")

        monkeypatch.setattr("unsilent.media.mux.interleave", fail)
        assert statuses(do(jobs, seed=1)) == ["failed"]
        assert (folder / "x.mp4").read_bytes() == before


def test_as_record_gives_plain_values(do, folder, pipeline):
    request = Request(seed=4)
    made, failed, _ = (as_record(result, request, pipeline) for result in do(plan([folder], folder / "out"), seed=4))
    assert made["out"] == str(folder / "out" / "a.mp4")
    assert (made["status"], made["seed"], made["take"], made["model"], made["seconds"]) == ("made", 4, 0, "everyday", 0.4)
    assert made["real_time_factor"] == pytest.approx(made["spent_seconds"] / 0.4, abs=0.01)
    assert (failed["status"], failed["out"], failed["seconds"]) == ("failed", None, None)
    assert "b.mp4 is not a media file" in failed["why"]
    kept = as_record(Result(Path("a.mp4"), Path("b.mp4"), "kept"), request, pipeline)
    assert (kept["status"], kept["out"], kept["why"], kept["take"]) == ("kept", "b.mp4", None, None)


class TestTakes:
    """Several takes in one video, and as one picture."""

    def test_takes_are_tracks_of_one_video(self, pipeline, make_clip, tmp_path):
        """In the order of rank; the first is what players play; each take can be reopened."""
        job = plan([make_clip("a.mp4", n_frames=20)], tmp_path / "out" / "x.mkv")
        made = list(run(pipeline, job, Request(takes=3), tracks=True, sidecar=True))
        assert {result.out.name for result in made} == {"x.mkv"}
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
            "x.mkv",
            *(f"x.take{take}.mkv.unsilent.json" for take in (1, 2, 3)),
        ]
        with av.open(str(tmp_path / "out" / "x.mkv")) as container:
            tracks = container.streams.audio
            assert [track.metadata.get("title") for track in tracks] == [None, "take 2, seed 0", "take 3, seed 0"]
            assert [bool(track.disposition & av.stream.Disposition.default) for track in tracks] == [True, False, False]
            samples = {track.index: 0 for track in tracks}
            for packet in container.demux(*tracks):
                samples[packet.stream.index] += sum(frame.samples for frame in packet.decode())
        assert set(samples.values()) == {round(0.8 * 22050 / 1024 + 0.5) * 1024} or len(set(samples.values())) == 1
        assert find_sidecar(tmp_path / "out" / "x.mkv").sidecar.take == 0
        assert read_comment(tmp_path / "out" / "x.mkv").endswith("sidecar=x.take1.mkv.unsilent.json")

    def test_tracks_are_kept_in_a_batch(self, pipeline, make_clip, tmp_path):
        jobs = plan([make_clip(f"{name}.mp4", n_frames=5) for name in "ab"], tmp_path / "out")
        statuses = [[one.status for one in run(pipeline, jobs, Request(takes=2), tracks=True)] for _ in range(2)]
        assert statuses == [["made"] * 4, ["kept"] * 4]

    def test_a_sheet_shows_all_takes(self, pipeline, make_clip, tmp_path):
        list(run(pipeline, plan([make_clip("a.mp4", n_frames=20)], None, 2), Request(takes=2, seed=2), sheet=True))
        with Image.open(tmp_path / "a.sound.seed2.sheet.png") as image:
            assert image.info["Comment"].startswith("sound by unsilent")
            assert image.height > 300
