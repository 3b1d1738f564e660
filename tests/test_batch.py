"""Many videos: which file becomes which, what is kept, and that one failure costs nothing but itself."""

import dataclasses
import os
import re
from pathlib import Path

import pytest

from unsilent.batch import Job, Result, as_record, plan, run
from unsilent.errors import MediaError, ParameterError
from unsilent.generation.result import Generation
from unsilent.media.probe import probe, read_comment
from unsilent.request import Request


@pytest.fixture
def tree(tmp_path):
    """Names only; planning looks at nothing else."""

    def build(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
        return tmp_path

    return build


def targets(jobs, root):
    return {str(job.video.relative_to(root)): str(job.out.relative_to(root)) for job in jobs}


class TestPlan:
    """Inputs and outputs."""

    def test_one_video_into_one_file(self, tree):
        root = tree("a.mp4")
        assert plan([root / "a.mp4"], root / "new" / "b.mkv") == [Job(root / "a.mp4", root / "new" / "b.mkv")]

    def test_one_video_into_a_folder_that_exists(self, tree):
        root = tree("a.mp4", "out.mp4/keep")
        assert plan([root / "a.mp4"], root / "out.mp4") == [Job(root / "a.mp4", root / "out.mp4" / "a.mp4")]

    def test_one_video_into_a_folder_that_does_not_exist(self, tree):
        root = tree("a.mp4")
        assert plan([root / "a.mp4"], root / "out") == [Job(root / "a.mp4", root / "out" / "a.mp4")]

    def test_without_an_output_the_sound_lies_beside(self, tree):
        root = tree("a.mp4", "deep/b.avi")
        assert targets(plan([root], None), root) == {"a.mp4": "a.sound.mp4", "deep/b.avi": "deep/b.sound.mkv"}

    def test_a_folder_keeps_its_stems_and_sub_folders(self, tree):
        root = tree("in/a.mp4", "in/x/a.MOV", "in/x/y/c.webm", "in/notes.txt", "in/.hidden.mp4")
        jobs = plan([root / "in"], root / "out")
        assert targets(jobs, root) == {"in/a.mp4": "out/a.mp4", "in/x/a.MOV": "out/x/a.MOV", "in/x/y/c.webm": "out/x/y/c.webm"}

    def test_files_and_folders_together(self, tree):
        root = tree("in/a.mp4", "b.mp4")
        assert {job.out.name for job in plan([root / "in", root / "b.mp4"], root / "out")} == {"a.mp4", "b.mp4"}

    def test_a_file_is_taken_whatever_its_suffix(self, tree):
        root = tree("clip.dat")
        assert plan([root / "clip.dat"], None)[0].out.name == "clip.sound.mkv"

    def test_an_input_given_twice_is_done_once(self, tree):
        root = tree("a.mp4")
        assert len(plan([root, root / "a.mp4", root], None)) == 1

    def test_what_earlier_calls_have_made_is_no_input(self, tree):
        """The second call on a folder must find the videos that the first has found."""
        root = tree("a.mp4", "a.sound.mp4", "a.sound.take2.mp4", "out/a.mp4", "my.soundtrack.mp4")
        assert sorted(targets(plan([root], root / "out"), root)) == ["a.mp4", "my.soundtrack.mp4"]

    def test_takes_have_numbers(self):
        assert [path.name for path in Job(Path("a.mp4"), Path("o/b.mp4")).outputs(2)] == ["b.take1.mp4", "b.take2.mp4"]
        assert Job(Path("a.mp4"), Path("o/b.mp4")).outputs(1) == [Path("o/b.mp4")]

    def test_many_files_are_planned_at_once(self, tree):
        root = tree(*(f"{index}.mp4" for index in range(2000)))
        assert len(plan([root], root / "out")) == 2000

    @pytest.mark.parametrize(
        ("inputs", "out", "message"),
        [
            (["x/a.mp4", "y/a.mp4"], "out", r"x/a\.mp4 and .*y/a\.mp4 would both become .*out/a\.mp4; give them different folders"),
            (["x/a.avi", "x/a.flv"], None, r"would both become .*a\.sound\.mkv"),
            (["x/a.mp4"], "x/a.mp4", r"the output .*x/a\.mp4 would overwrite an input; choose another with -o"),
            (["y"], "y", "would overwrite an input"),
            (["empty"], "out", r"no videos in .*empty"),
            (["x/a.mp4"], "b.txt", r"cannot write .*b\.txt: choose one of \.mp4, \.m4v, \.mov, \.mkv, \.webm, or name a folder"),
            (["x/a.mp4", "y/a.mp4"], "b.mp4", r"the output .*b\.mp4 is a file; name a folder"),
            (["x"], "b.mp4", r"the output .*b\.mp4 is a file; name a folder"),
            (["x"], "x/notes.txt", r"the output .*notes\.txt is a file; name a folder"),
        ],
    )
    def test_what_cannot_be_is_refused(self, tree, inputs, out, message):
        root = tree("x/a.mp4", "x/a.avi", "x/a.flv", "x/notes.txt", "y/a.mp4", "empty/notes.txt")
        with pytest.raises(ParameterError, match=message):
            plan([root / name for name in inputs], None if out is None else root / out)

    def test_nothing_asked_for(self):
        with pytest.raises(ParameterError, match="no videos in an empty request"):
            plan([], None)

    def test_a_link_to_an_input_is_not_overwritten(self, tree):
        root = tree("in/a.mp4", "out/keep")
        (root / "out" / "a.mp4").symlink_to(root / "in" / "a.mp4")
        with pytest.raises(ParameterError, match="would overwrite an input"):
            plan([root / "in" / "a.mp4"], root / "out")


@pytest.fixture
def do(pipeline):
    """Run jobs to the end: `do(jobs, seed=3, wav=True)`."""

    def to_the_end(jobs, wav=False, picture=False, **fields):
        return list(run(pipeline, jobs, Request(**fields), wav=wav, picture=picture))

    return to_the_end


@pytest.fixture
def folder(make_clip, tmp_path):
    """Two good videos and, between them, one that is none."""
    for name in ("a", "c"):
        make_clip(f"{name}.mp4", n_frames=10)
    (tmp_path / "b.mp4").write_text("not a video")
    return tmp_path


def statuses(results):
    return [result.status for result in results]


class TestRun:
    """Failures, and going on."""

    def test_one_failure_is_named_and_the_others_are_done(self, do, folder):
        results = do(plan([folder], folder / "out"))
        assert statuses(results) == ["made", "failed", "made"]
        assert re.search(r"b\.mp4 is not a media file", results[1].why)
        assert sorted(path.name for path in (folder / "out").iterdir()) == ["a.mp4", "c.mp4"]
        assert probe(folder / "out" / "c.mp4").has_audio

    def test_what_is_done_is_kept(self, do, folder):
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
    def test_whatever_changes_the_result_has_it_made_again(self, do, folder, change):
        jobs = plan([folder], folder / "out")
        do(jobs)
        assert set(statuses(do(jobs, **change))) == {"made", "failed"}

    def test_a_changed_video_has_its_sound_made_again(self, do, folder, make_clip):
        jobs = plan([folder], folder / "out")
        do(jobs)
        os.utime(make_clip("c.mp4", n_frames=20), (4e9, 4e9))
        assert statuses(do(jobs)) == ["kept", "failed", "made"]

    def test_another_model_has_it_made_again(self, do, folder, pipeline, monkeypatch):
        jobs = plan([folder], folder / "out")
        do(jobs)
        monkeypatch.setattr(pipeline, "name", "another")
        assert statuses(do(jobs)) == ["made", "failed", "made"]

    @pytest.mark.parametrize("change", [{"guidance": 2.5}, {"temperature": 0.5}, {"top_k": 3}], ids=str)
    def test_another_default_of_the_model_has_it_made_again(self, do, folder, pipeline, monkeypatch, change):
        """Regression: the recipe held None for what the model decides, so outputs of other defaults were kept."""
        jobs = plan([folder], folder / "out")
        do(jobs)
        assert statuses(do(jobs)) == ["kept", "failed", "kept"]
        monkeypatch.setattr(pipeline, "parts", dataclasses.replace(pipeline.parts, **change))
        assert statuses(do(jobs)) == ["made", "failed", "made"]

    def test_a_damaged_output_is_made_again(self, do, folder):
        jobs = plan([folder], folder / "out")
        do(jobs)
        (folder / "out" / "a.mp4").write_bytes(b"")
        assert statuses(do(jobs)) == ["made", "failed", "kept"]

    def test_a_single_job_is_always_made(self, do, folder):
        jobs = plan([folder / "a.mp4"], None)
        assert statuses(do(jobs) + do(jobs)) == ["made", "made"]

    def test_takes_sounds_and_pictures(self, do, folder):
        results = do(plan([folder / "a.mp4"], folder / "out" / "x.mp4"), takes=2, wav=True, picture=True)
        assert [result.take for result in results] == [0, 1]
        names = [f"x.take{take}.{kind}" for take in (1, 2) for kind in ("mp4", "png", "wav")]
        assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(names)

    def test_the_comment_says_how_to_make_it_again(self, do, folder):
        do(plan([folder / "a.mp4"], folder / "x.mp4"), seed=7)
        assert re.search(r"model=everyday .*source=a\.mp4 bytes=\d+ seed=7 top_k=32 temperature=", read_comment(folder / "x.mp4"))

    def test_names_that_are_not_text(self, do, folder):
        """File names on Unix are bytes; comments in videos are text."""
        odd = Path(os.fsdecode(os.fsencode(folder) + b"/\xff.mp4"))
        (folder / "a.mp4").rename(odd)
        assert statuses(do(plan([odd], None), picture=True)) == ["made"]

    def test_a_wrong_label_is_refused_before_any_work(self, do, folder):
        with pytest.raises(ParameterError, match="has no classes"):
            do(plan([folder], folder / "out"), label="dog")
        assert not (folder / "out").exists()

    def test_sounds_that_would_become_one_file_are_refused(self, do, make_clip, tmp_path):
        jobs = plan([make_clip("a.mp4"), make_clip("a.mkv")], tmp_path / "out")
        with pytest.raises(ParameterError, match=r"the sounds or pictures of .*a\.mp4 and .*a\.mkv would become one file"):
            do(jobs, wav=True)
        assert statuses(do(jobs)) == ["made", "made"]

    def test_pictures_without_matplotlib_are_refused_before_any_work(self, do, folder, monkeypatch):
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ParameterError, match=r"drawing needs matplotlib; run in .*: pip install '\.\[plot\]'"):
            do(plan([folder], folder / "out"), picture=True)
        assert not (folder / "out").exists()

    def test_an_output_under_a_file_fails_before_any_work(self, do, folder, pipeline, monkeypatch):
        monkeypatch.setattr(pipeline, "takes", None)
        results = do(plan([folder / "a.mp4"], folder / "c.mp4" / "deep" / "x.mp4"))
        assert re.search(r"deep/x\.mp4 cannot be written: .*c\.mp4 is a file, not a folder", results[0].why)

    def test_a_folder_without_permission_fails_before_any_work(self, do, folder, pipeline, monkeypatch):
        monkeypatch.setattr(pipeline, "takes", None)
        monkeypatch.setattr(os, "access", lambda *_: False)
        results = do(plan([folder / "a.mp4"], folder / "x.mp4"))
        assert re.search(r"x\.mp4 cannot be written: no permission to write into ", results[0].why)

    def test_a_full_disk_fails_one_video_and_leaves_nothing_half_written(self, do, folder, monkeypatch):
        def full(self, *_args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("unsilent.media.mux.interleave", full)
        results = do(plan([folder], folder / "out"))
        assert statuses(results) == ["failed"] * 3
        assert re.search(r"out/a\.mp4 cannot be written: No space left on device", results[0].why)
        assert list((folder / "out").iterdir()) == []

    def test_a_system_error_fails_one_video_only(self, do, folder, monkeypatch):
        def broken(*_args, **_named):
            raise PermissionError(13, "Permission denied", "somewhere")

        monkeypatch.setattr(Generation, "save_video", broken)
        assert [result.why for result in do(plan([folder], folder / "out"))][::2] == ["somewhere: Permission denied."] * 2

    def test_a_defect_is_shown_and_costs_one_video_only(self, do, folder, pipeline, monkeypatch, caplog):
        takes = pipeline.takes
        monkeypatch.setattr(pipeline, "takes", lambda video, *rest, **named: takes(video, *rest, **named) if video.stem == "c" else 1 / 0)
        results = do(plan([folder], folder / "out"))
        assert statuses(results) == ["failed", "failed", "made"]
        assert results[0].why.endswith("a.mp4: ZeroDivisionError: division by zero")
        assert "please report it" in caplog.text

    def test_a_defect_in_a_single_job_is_not_hidden(self, do, folder, pipeline, monkeypatch):
        monkeypatch.setattr(pipeline, "takes", lambda *_args, **_named: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            do(plan([folder / "a.mp4"], None))

    @pytest.mark.parametrize("place", ["unsilent.pipeline.sample_codes", "unsilent.media.mux.interleave"])
    def test_an_interrupted_run_leaves_no_half_written_file(self, do, folder, monkeypatch, place):
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

    def test_the_old_result_stays_until_the_new_one_is_whole(self, do, folder, monkeypatch):
        jobs = plan([folder / "a.mp4"], folder / "x.mp4")
        do(jobs)
        before = (folder / "x.mp4").read_bytes()

        def fail(*_args):
            raise MediaError("no.")

        monkeypatch.setattr("unsilent.media.mux.interleave", fail)
        assert statuses(do(jobs, seed=1)) == ["failed"]
        assert (folder / "x.mp4").read_bytes() == before


def test_records_are_plain(do, folder, pipeline):
    request = Request(seed=4)
    made, failed, _ = (as_record(result, request, pipeline) for result in do(plan([folder], folder / "out"), seed=4))
    assert made["out"] == str(folder / "out" / "a.mp4")
    assert (made["status"], made["seed"], made["take"], made["model"], made["seconds"]) == ("made", 4, 0, "everyday", 0.4)
    assert made["real_time_factor"] == pytest.approx(made["spent_seconds"] / 0.4, abs=0.01)
    assert (failed["status"], failed["out"], failed["seconds"]) == ("failed", None, None)
    assert "b.mp4 is not a media file" in failed["why"]
    kept = as_record(Result(Path("a.mp4"), Path("b.mp4"), "kept"), request, pipeline)
    assert (kept["status"], kept["out"], kept["why"], kept["take"]) == ("kept", "b.mp4", None, None)
