"""Output paths, and checks before a model is loaded."""

from pathlib import Path

import pytest
from PIL import Image

from unsilent.errors import MediaError, ParameterError
from unsilent.outputs import Job, check, passed_over, plan


@pytest.fixture
def tree(tmp_path):
    """`tree("a.mp4", "x/b.mp4")` makes empty files, because `plan` uses only names."""

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
    """The output of every input."""

    def test_plan_writes_one_video_to_a_file(self, tree):
        root = tree("a.mp4")
        assert plan([root / "a.mp4"], root / "new" / "b.mkv") == [Job(root / "a.mp4", root / "new" / "b.mkv")]

    def test_plan_writes_into_an_existing_folder(self, tree):
        root = tree("a.mp4", "out.mp4/keep")
        assert plan([root / "a.mp4"], root / "out.mp4") == [Job(root / "a.mp4", root / "out.mp4" / "a.mp4")]

    def test_plan_takes_an_output_without_suffix_for_a_folder(self, tree):
        root = tree("a.mp4")
        assert plan([root / "a.mp4"], root / "out") == [Job(root / "a.mp4", root / "out" / "a.mp4")]

    def test_plan_writes_beside_the_video_without_an_output(self, tree):
        root = tree("a.mp4", "deep/b.avi")
        assert targets(plan([root], None), root) == {"a.mp4": "a.sound.mp4", "deep/b.avi": "deep/b.sound.mkv"}

    def test_plan_keeps_stems_and_subfolders(self, tree):
        root = tree("in/a.mp4", "in/x/a.MOV", "in/x/y/c.webm", "in/notes.txt", "in/.hidden.mp4")
        jobs = plan([root / "in"], root / "out")
        assert targets(jobs, root) == {"in/a.mp4": "out/a.mp4", "in/x/a.MOV": "out/x/a.MOV", "in/x/y/c.webm": "out/x/y/c.webm"}

    def test_plan_takes_animated_pictures_for_videos(self, tree):
        root, images = tree("in/a.mp4"), [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
        images[0].save(root / "in/still.webp")
        images[0].save(root / "in/moving.webp", save_all=True, append_images=images[1:], duration=100)
        jobs = plan([root / "in"], root / "out")
        assert targets(jobs, root) == {"in/a.mp4": "out/a.mp4", "in/moving.webp": "out/moving.mkv"}
        assert passed_over([root / "in"], jobs, root / "out") == [root / "in/still.webp"]

    def test_plan_accepts_files_and_folders_together(self, tree):
        root = tree("in/a.mp4", "b.mp4")
        assert {job.out.name for job in plan([root / "in", root / "b.mp4"], root / "out")} == {"a.mp4", "b.mp4"}

    def test_plan_accepts_a_file_of_any_suffix(self, tree):
        root = tree("clip.dat")
        assert plan([root / "clip.dat"], None)[0].out.name == "clip.sound.mkv"

    def test_plan_drops_repeated_inputs(self, tree):
        root = tree("a.mp4")
        assert len(plan([root, root / "a.mp4", root], None)) == 1

    def test_plan_skips_outputs_of_earlier_calls(self, tree):
        """A second call on a folder finds the same videos as the first."""
        root = tree("a.mp4", "a.sound.mp4", "a.sound.take2.mp4", "out/a.mp4", "my.soundtrack.mp4")
        assert sorted(targets(plan([root], root / "out"), root)) == ["a.mp4", "my.soundtrack.mp4"]

    def test_outputs_of_several_takes_are_numbered(self):
        assert [path.name for path in Job(Path("a.mp4"), Path("o/b.mp4")).outputs(2)] == ["b.take1.mp4", "b.take2.mp4"]
        assert Job(Path("a.mp4"), Path("o/b.mp4")).outputs(1) == [Path("o/b.mp4")]

    def test_plan_handles_many_files(self, tree):
        root = tree(*(f"{index}.mp4" for index in range(2000)))
        assert len(plan([root], root / "out")) == 2000

    @pytest.mark.parametrize(
        ("inputs", "out", "message"),
        [
            (["x/a.mp4", "y/a.mp4"], "out", r"x/a\.mp4 and .*y/a\.mp4 would both become .*out/a\.mp4\.mp4; give them different folders"),
            (["x/a.mp4"], "x/a.mp4", r"the output .*x/a\.mp4 would overwrite an input; choose another with -o"),
            (["y"], "y", "would overwrite an input"),
            (["empty"], "out", r"no videos in .*empty"),
            (["x/a.mp4"], "b.wav", r"b\.wav is a sound file, but -o names a video; add --wav"),
            (["x/a.mp4"], "b.txt", r"cannot write .*b\.txt: choose one of \.mp4, \.m4v, \.mov, \.mkv, \.webm, or name a folder"),
            (["x/a.mp4", "y/a.mp4"], "b.mp4", r"the output .*b\.mp4 is a file; name a folder"),
            (["x"], "b.mp4", r"the output .*b\.mp4 is a file; name a folder"),
            (["x"], "x/notes.txt", r"the output .*notes\.txt is a file; name a folder"),
        ],
    )
    def test_plan_refuses_impossible_outputs(self, tree, inputs, out, message):
        root = tree("x/a.mp4", "x/a.avi", "x/a.flv", "x/notes.txt", "y/a.mp4", "empty/notes.txt")
        with pytest.raises(ParameterError, match=message):
            plan([root / name for name in inputs], None if out is None else root / out)

    def test_plan_names_suffixes_where_stems_are_equal(self, tree):
        root = tree("a.avi", "a.flv", "b.avi")
        assert targets(plan([root], None), root) == {"a.avi": "a.avi.sound.mkv", "a.flv": "a.flv.sound.mkv", "b.avi": "b.sound.mkv"}

    def test_names_contain_the_seed(self, tree):
        root = tree("in/a.mp4")
        assert plan([root / "in"], root / "out", seed=7)[0].out == root / "out" / "a.seed7.mp4"
        assert plan([root / "in" / "a.mp4"], None, seed=7)[0].outputs(2)[1] == root / "in" / "a.sound.seed7.take2.mp4"
        assert plan([root / "in" / "a.mp4"], root / "x.mp4", seed=7)[0].outputs(1) == [root / "x.mp4"]
        assert plan([root / "in" / "a.mp4"], root / "x.mp4", seed=7)[0].outputs(2)[0] == root / "x.seed7.take1.mp4"
        assert not plan([root / "in" / "a.mp4"], root / "x.mp4")[0].tag

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            ("x.mp4", r"x\.mp4 is a link to x\.mp4, which cannot be written"),
            ("none/y.mp4", r"x\.mp4 is a link to none/y\.mp4, which cannot be written"),
            ("/dev/null", r"x\.mp4 cannot be written: it is a device"),
        ],
    )
    def test_check_refuses_links_that_lead_nowhere(self, tree, target, message):
        root = tree("in/a.mp4")
        (root / "x.mp4").symlink_to(target)
        with pytest.raises(MediaError, match=message):
            check(plan([root / "in" / "a.mp4"], root / "x.mp4"))

    def test_plan_follows_a_linked_folder_once(self, tree):
        root = tree("store/a.mp4", "in/b.mp4")
        (root / "in" / "link").symlink_to(root / "store")
        (root / "store" / "loop").symlink_to(root / "store")
        assert targets(plan([root / "in"], root / "out"), root) == {"in/b.mp4": "out/b.mp4", "in/link/a.mp4": "out/link/a.mp4"}

    def test_passed_over_names_what_is_no_video(self, tree):
        root = tree("in/a.mp4", "in/b.txt", "in/.hidden", "in/a.sound.wav", "in/out/a.mp4", "in/c.gif")
        jobs = plan([root / "in"], root / "in" / "out")
        assert [job.video.name for job in jobs] == ["a.mp4", "c.gif"]
        assert passed_over([root / "in"], jobs, root / "in" / "out") == [root / "in" / "b.txt"]

    def test_plan_refuses_inputs_of_which_none_exists(self, tree):
        root = tree("a.mp4")
        with pytest.raises(MediaError, match=r"^.*gone\.mp4 does not exist\.$"):
            plan([root / "gone.mp4", root / "lost.mp4"], root / "out")
        assert len(plan([root / "gone.mp4", root / "a.mp4"], root / "out")) == 2

    def test_plan_refuses_a_web_address(self):
        with pytest.raises(MediaError, match=r"^https://example\.com/a\.mp4 is an address; download the file first\.$"):
            plan([Path("https://example.com/a.mp4")], None)

    def test_plan_refuses_no_inputs(self):
        with pytest.raises(ParameterError, match="no videos in an empty request"):
            plan([], None)

    def test_plan_does_not_overwrite_an_input_through_a_link(self, tree):
        root = tree("in/a.mp4", "out/keep")
        (root / "out" / "a.mp4").symlink_to(root / "in" / "a.mp4")
        with pytest.raises(ParameterError, match="would overwrite an input"):
            plan([root / "in" / "a.mp4"], root / "out")


class TestCheck:
    """Checks before a model is loaded."""

    def test_check_accepts_a_video(self, make_clip, tmp_path):
        check(plan([make_clip("a.mp4")], tmp_path / "b.mp4"), wav=True, picture=True)

    def test_check_opens_a_single_video(self, tree):
        root = tree("a.mp4")
        with pytest.raises(MediaError, match=r"a\.mp4 is empty \(0 bytes\)"):
            check(plan([root / "a.mp4"], None))

    def test_check_opens_none_of_several_videos(self, tree):
        root = tree("a.mp4", "b.mp4")
        check(plan([root], None))

    def test_check_refuses_an_image(self, tmp_path):
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        with pytest.raises(MediaError, match=r"a\.png is an image; give a video\.$"):
            check(plan([tmp_path / "a.png"], None))

    def test_check_refuses_an_output_below_a_file(self, make_clip, tmp_path):
        make_clip("a.mp4")
        with pytest.raises(MediaError, match=r"x\.mp4 cannot be written: .*a\.mp4 is a file, not a folder"):
            check(plan([tmp_path / "a.mp4"], tmp_path / "a.mp4" / "x.mp4"))

    def test_check_refuses_sounds_that_would_become_one_file(self, tree):
        jobs = plan([tree("a.mp4", "a.mov")], None)
        check(jobs)
        with pytest.raises(ParameterError, match=r"a\.mov and .*a\.mp4 would have the same path"):
            check(jobs, wav=True)

    @pytest.mark.parametrize("name", ["a.sound.mp4", "a.sound.wav", "a.sound.png"])
    def test_check_refuses_to_replace_what_is_not_its_own(self, make_clip, tmp_path, name):
        """Whole files and damaged ones; an empty one is nobody's."""
        jobs = plan([make_clip("a.mp4")], None)
        for content in ((tmp_path / "a.mp4").read_bytes(), b"notes"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ParameterError, match=rf"{name} exists and was not made by unsilent; .*--overwrite"):
                check(jobs, wav=True, picture=True)
            check(jobs, wav=True, picture=True, overwrite=True)
        (tmp_path / name).write_bytes(b"")
        check(jobs, wav=True, picture=True)

    def test_check_refuses_a_name_that_is_too_long(self, make_clip, tmp_path):
        with pytest.raises(MediaError, match="the name has 260 bytes, but at most 255 are possible"):
            check(plan([make_clip(f"{'x' * 250}.mp4")], None))
