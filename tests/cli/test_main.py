"""Commands and errors: exit codes, one line for each error, files on disk."""

import json
import os
import pickle
import re
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import soundfile

from unsilent.checkpoints.bundle import load_parts
from unsilent.cli import terminal
from unsilent.cli.main import run
from unsilent.data.shards import Shard
from unsilent.media.probe import probe
from unsilent.published.about import entries
from unsilent.request import Request


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def video_packets(path):
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.video[0]) if packet.size]


def sound_seconds(path):
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return sum(frame.samples for frame in container.decode(stream)) / stream.rate


class TestGenerate:
    """Options reach the pipeline, and files are written."""

    def test_generate_writes_the_video_with_sound(self, unsilent, make_clip, tmp_path):
        video = make_clip("a.mp4", n_frames=50)
        code, out, err = unsilent("generate", "a.mp4")
        assert (code, err) == (0, [])
        assert names(tmp_path) == ["a.mp4", "a.sound.mp4", "a.sound.mp4.unsilent.json"]
        assert re.search(r"a\.mp4 +a\.sound\.mp4 +2\.00 s +\d+\.\d\d s +\d+\.\d\d", out)
        assert video_packets(tmp_path / "a.sound.mp4") == video_packets(video)
        assert sound_seconds(tmp_path / "a.sound.mp4") == pytest.approx(2, abs=1024 / 22050)

    def test_generate_passes_all_options_to_the_pipeline(self, unsilent, make_clip, tmp_path, recorder):
        make_clip("a.mp4", sound=np.zeros((1, 22050)))
        chosen = ["--seed", "3", "--top-k", "8", "--temperature", "0.9", "--guidance", "1.5", "--no-motion"]
        asked = [*chosen, "--takes", "2", "--wav", "--picture", "--original", "duck"]
        code, _, err = unsilent("generate", "a.mp4", "-o", "new/x.mkv", *asked)
        assert (code, err) == (0, [])
        wanted = {"seed": 3, "takes": 2, "top_k": 8, "temperature": 0.9, "guidance": 1.5, "motion": False, "original": "duck"}
        assert recorder.requests == [Request(**wanted)]
        kinds = ("mkv", "mkv.unsilent.json", "png", "wav")
        assert names(tmp_path / "new") == [f"x.seed3.take{take}.{kind}" for take in (1, 2) for kind in kinds]
        assert soundfile.info(tmp_path / "new" / "x.seed3.take1.wav").frames == round(0.8 * 22050)

    def test_generate_names_a_failed_file_and_keeps_the_others(self, unsilent, make_clip, tmp_path):
        (tmp_path / "in").mkdir()
        for name in ("a", "c"):
            make_clip(f"in/{name}.mp4", n_frames=10)
        (tmp_path / "in" / "b.mp4").write_bytes(b"")
        code, out, err = unsilent("generate", "in", "-o", "out")
        assert code == 3
        assert err == ["unsilent: in/b.mp4 is empty (0 bytes)."]
        assert names(tmp_path / "out") == ["a.mp4", "a.mp4.unsilent.json", "c.mp4", "c.mp4.unsilent.json"]
        assert re.search(r"in/b\.mp4 +failed", out)
        code, out, err = unsilent("generate", "in", "-o", "out")
        assert (code, len(err), len(re.findall("kept", out))) == (3, 1, 2)

    def test_generate_json_prints_one_object_per_result(self, unsilent, make_clip, tmp_path):
        for name in ("a", "b"):
            make_clip(f"{name}.mp4", n_frames=10)
        (tmp_path / "c.mp4").write_text("no video")
        code, out, err = unsilent("generate", ".", "-o", "out", "--takes", "2", "--json")
        records = [json.loads(line) for line in out.splitlines()]
        assert (code, len(err)) == (3, 1)
        assert [(record["video"], record["take"], record["status"]) for record in records] == [
            ("a.mp4", 0, "made"), ("a.mp4", 1, "made"), ("b.mp4", 0, "made"), ("b.mp4", 1, "made"), ("c.mp4", None, "failed"),
        ]  # fmt: skip
        assert all(record["model"] == "everyday" and record["seed"] == 0 for record in records)
        assert {record["out"] for record in records[:2]} == {"out/a.take1.mp4", "out/a.take2.mp4"}

    def test_generate_prints_names_without_markup(self, unsilent, make_clip, tmp_path):
        make_clip("a.mp4", n_frames=10).rename(tmp_path / "[red]x :smile: $a$.mp4")
        code, out, _ = unsilent("generate", "[red]x :smile: $a$.mp4", "--picture")
        assert code == 0
        assert "[red]x :smile: $a$.sound.mp4" in out

    def test_generate_loads_a_bundle_by_path(self, unsilent, make_clip, tiny_bundle, recorder):
        make_clip("a.mp4", n_frames=10)
        assert unsilent("generate", "a.mp4", model=str(tiny_bundle))[0] == 0
        assert recorder.models == [str(tiny_bundle)]
        assert recorder.pipelines[0].parts.fingerprint == load_parts(tiny_bundle).fingerprint

    def test_generate_passes_device_precision_and_vocoder_to_load(self, unsilent, make_clip, recorder):
        make_clip("a.mp4", n_frames=10)
        assert unsilent("generate", "a.mp4", "--device", "cpu", "--precision", "bfloat16", "--vocoder", "griffin-lim")[0] == 0
        (pipeline,) = recorder.pipelines
        assert (pipeline.device.type, pipeline.precision, pipeline.vocoder) == ("cpu", "bfloat16", "griffin-lim")
        assert pipeline.codec.vocoder is None


class TestOddVideos:
    """The sound of unusual videos is as long as their frames."""

    @pytest.mark.parametrize(
        ("name", "options", "seconds"),
        [
            ("one.mp4", {"n_frames": 1}, 0.04),
            ("ten_bit.mp4", {"pix_fmt": "yuv420p10le"}, 0.8),
            ("rotated.mp4", {"rotation": 90}, 0.8),
            ("odd.mkv", {"size": (65, 49), "pix_fmt": "yuv444p"}, 0.8),
            ("variable.mp4", {"times": [0, 3, 4, 10, 30, 31, 32, 50]}, None),
            ("slow.mp4", {"fps": Fraction(1), "n_frames": 3}, 3.0),
            ("late.mp4", {"first": 50}, 0.8),
        ],
    )
    def test_generate_accepts_unusual_videos(self, unsilent, make_clip, tmp_path, name, options, seconds):
        video = make_clip(name, **options)
        code, _, err = unsilent("generate", name, "-o", "out", "--picture")
        assert (code, err) == (0, [])
        assert video_packets(tmp_path / "out" / name) == video_packets(video)
        wanted = probe(video).seconds if seconds is None else seconds
        assert sound_seconds(tmp_path / "out" / name) == pytest.approx(wanted, abs=1024 / 22050)

    def test_generate_uses_what_is_left_of_a_cut_off_video(self, unsilent, make_clip, tmp_path):
        make_clip("a.mp4", n_frames=100, images=noise)
        with av.open("a.mp4") as source, av.open("first.mp4", "w", options={"movflags": "faststart"}) as target:
            copy = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = copy
                    target.mux(packet)
        whole = (tmp_path / "first.mp4").read_bytes()
        (tmp_path / "cut.mp4").write_bytes(whole[: int(0.6 * len(whole))])
        code, _, err = unsilent("generate", "cut.mp4", "-o", "out.mp4")
        assert (code, err) == (0, [])
        seconds = probe(tmp_path / "cut.mp4").seconds
        assert 1.5 < seconds < 3.5
        assert sound_seconds(tmp_path / "out.mp4") == pytest.approx(seconds, abs=1024 / 22050)


def noise(index):
    return np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8)


class TestBadInput:
    """Each error prints one line, exits with 2 and leaves no file."""

    @pytest.fixture
    def bad(self, make_clip, tmp_path):
        (tmp_path / "empty.mp4").write_bytes(b"")
        (tmp_path / "text.mp4").write_text("Dear diary, today nothing happened.\n" * 50)
        (tmp_path / "folder.mp4").mkdir()
        soundfile.write(tmp_path / "song.wav", np.zeros(22050), 22050)
        (tmp_path / "song.wav").rename(tmp_path / "song.mp4")
        whole = make_clip("whole.mp4", n_frames=100, images=noise)
        (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: int(0.6 * whole.stat().st_size)])
        whole.unlink()
        return tmp_path

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("empty.mp4", r"empty\.mp4 is empty \(0 bytes\)"),
            ("text.mp4", r"text\.mp4 is not a media file"),
            ("song.mp4", r"song\.mp4 has audio but no video"),
            ("cut.mp4", r"cut\.mp4 is truncated or damaged"),
            ("missing.mp4", r"missing\.mp4 does not exist"),
            ("http://127.0.0.1:9/x.mp4", r"http://127\.0\.0\.1:9/x\.mp4 is an address; download the file first"),
            ("folder.mp4", r"no videos in folder\.mp4"),
        ],
    )
    def test_generate_names_a_bad_input(self, refused, unsilent, bad, name, message):
        before = names(bad)
        refused(unsilent("generate", name, "-o", "out.mp4"), message)
        assert names(bad) == before

    def test_generate_prints_a_name_with_line_breaks_in_one_line(self, refused, unsilent):
        refused(unsilent("generate", "two\nlines.mp4"), r"two lines\.mp4 does not exist")

    @pytest.mark.parametrize(
        ("out", "message"),
        [
            ("a.mp4", "would overwrite an input"),
            ("a.mp4/x.mp4", r"a\.mp4/x\.mp4 cannot be written: .*a\.mp4 is a file, not a folder"),
            ("a.mp4/deep/x.mp4", "is a file, not a folder"),
            ("-", "-o - is standard output, which holds a stream of sound only; add --stream"),
            ("x.gif", r"cannot write x\.gif: choose one of \.mp4"),
            ("x.wav", r"x\.wav is a sound file, but -o names a video; add --wav"),
        ],
    )
    def test_generate_refuses_an_impossible_output(self, refused, unsilent, make_clip, tmp_path, out, message):
        make_clip("a.mp4")
        refused(unsilent("generate", "a.mp4", "-o", out), message)
        assert names(tmp_path) == ["a.mp4"]

    @pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that even root cannot write into")
    def test_generate_refuses_a_read_only_folder(self, refused, unsilent, make_clip):
        make_clip("a.mp4")
        refused(unsilent("generate", "a.mp4", "-o", "/proc/x.mp4"), r"/proc/x\.mp4 cannot be written")

    def test_generate_says_how_pictures_are_encoded(self, unsilent, make_clip):
        make_clip("a.mp4")
        code, out, _ = unsilent("generate", "a.mp4", "-o", "x.webm")
        assert (code, "x.webm: frames encoded as lossless VP9" in out) == (0, True)

    def test_generate_leaves_nothing_on_a_full_disk(self, refused, unsilent, make_clip, tmp_path, monkeypatch):
        def full(*_args):
            raise OSError(28, "No space left on device")

        make_clip("a.mp4")
        monkeypatch.setattr("unsilent.media.mux.interleave", full)
        refused(unsilent("generate", "a.mp4"), r"a\.sound\.mp4 cannot be written: No space left on device")
        assert names(tmp_path) == ["a.mp4"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], r"VIDEO\|FOLDER\.\.\. is missing; `unsilent generate --help` shows the usage"),
            (["a.mp4", "--seed", "-1"], "--seed is -1, but must be 0 or more"),
            (["a.mp4", "--seed", "one"], "--seed is one, but must be a whole number"),
            (["a.mp4", "--seed", "1.5"], r"--seed is 1\.5, but must be a whole number"),
            (["a.mp4", "--seed", ""], "--seed is empty, but must be a whole number"),
            (["a.mp4", "--takes", "0"], "--takes is 0, but must be 1 or more"),
            (["a.mp4", "--takes", "1001"], "--takes is 1001, but must be 1000 or less"),
            (["a.mp4", "--takes", "1e30"], "--takes is 1e30, but must be a whole number"),
            (["a.mp4", "--candidates", "1001"], "--candidates is 1001, but must be 1000 or less"),
            (["a.mp4", "--top-k", "0"], "--top-k is 0, but must be 1 or more"),
            (["a.mp4", "--temperature", "-1"], "--temperature is -1, but must be 0 or more"),
            (["a.mp4", "--temperature", "warm"], "--temperature is warm, but must be a number"),
            (["a.mp4", "--temperature", "nan"], "--temperature is nan, but must be 0 or more"),
            (["a.mp4", "--guidance", "inf"], "guidance is inf, but must be a finite number"),
            (["a.mp4", "--seconds", "1e308"], r"seconds is 1e\+308, but must be 43200 or less"),
            (["a.mp4", "--mute", "0-1e308"], r"stop is 1e\+308, but must be 43200 or less"),
            (["a.mp4", "--prime", "own", "--prime-seconds", "1e308"], r"prime_seconds is 1e\+308, but must be 43200 or less"),
            (["a.mp4", "--top-k", "99"], "top_k 99 was given; the model 'everyday' has 32 codes, choose 1 to 32"),
            (["a.mp4", "--device", "abacus"], "--device is 'abacus', but must be 'auto', 'cpu' or 'cuda'"),
            (["a.mp4", "--precision", "int3"], "--precision is 'int3', but must be 'auto', 'float32', 'bfloat16' or 'int8'"),
            (["a.mp4", "--vocoder", "parrot"], "--vocoder is 'parrot', but must be 'neural' or 'griffin-lim'"),
            (["a.mp4", "--original", "louder"], "--original is 'louder', but must be 'drop', 'keep' or 'duck'"),
            (["a.mp4", "--label", "dog"], "the model 'everyday' has no classes, so it takes no label 'dog'"),
            (["a.mp4", "--wav=x"], "--wav does not take a value"),
            (["a.mp4", "--attention"], "--attention is drawn into the picture; add --picture"),
            (["a.mp4", "--attention", "--picture", "--stream"], "--attention is not recorded with --stream"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_generate_refuses_wrong_values(self, refused, unsilent, make_clip, tmp_path, arguments, message):
        make_clip("a.mp4")
        refused(unsilent("generate", *arguments), message)
        assert names(tmp_path) == ["a.mp4"]

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            ("everdya", "there is no model 'everdya'; did you mean everyday"),
            ("vggsound-class", "the weights of 'vggsound-class' are not installed; fetch them with: unsilent models fetch vggsound-class"),
            ("./nothing", r"'\./nothing' is not a bundle folder"),
            ("a.mp4", r"'a\.mp4' is not a bundle folder"),
        ],
    )
    def test_generate_refuses_models_that_are_not_here(self, refused, unsilent, make_clip, model, message):
        make_clip("a.mp4")
        refused(unsilent("generate", "a.mp4", model=model), message)

    def test_generate_exits_with_3_when_several_inputs_fail(self, unsilent, bad):
        code, _, err = unsilent("generate", "empty.mp4", "text.mp4", "-o", "out")
        assert (code, len(err)) == (3, 2)

    @pytest.mark.parametrize("verb", [["sing"], ["models", "sing"], ["data"], ["--loud"]], ids=" ".join)
    def test_unknown_commands_are_refused(self, refused, unsilent, verb):
        refused(unsilent(*verb), "there is no command|the name of a command is missing|there is no option")


@pytest.mark.parametrize("place", ["unsilent.pipeline.sample_codes", "unsilent.media.mux.interleave", "unsilent.loading.load_parts"])
def test_an_interrupted_command_exits_with_130_and_leaves_nothing(unsilent, make_clip, tmp_path, monkeypatch, place):
    def interrupt(*_args, **_named):
        raise KeyboardInterrupt

    make_clip("a.mp4", n_frames=10)
    monkeypatch.setattr(place, interrupt)
    assert unsilent("generate", "a.mp4") == (130, "", ["unsilent: interrupted; finished results are kept."])
    assert names(tmp_path) == ["a.mp4"]


class TestReconstruct:
    """Encoding and decoding of a sound file."""

    def test_reconstruct_keeps_the_length(self, unsilent, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 33_075), 44_100)
        code, out, err = unsilent("reconstruct", "a.wav", "-o", "b.wav")
        assert (code, err) == (0, [])
        assert out == "b.wav: 0.75 s as 0.13 kbit/s of codes\n"
        assert soundfile.info(tmp_path / "b.wav").frames == pytest.approx(0.75 * 22050, abs=2)

    def test_reconstruct_refuses_a_video_without_sound(self, refused, unsilent, make_clip):
        make_clip("a.mp4")
        refused(unsilent("reconstruct", "a.mp4", "-o", "b.wav"), r"a\.mp4 has no audio")

    def test_reconstruct_refuses_a_missing_folder(self, refused, unsilent, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.zeros(22050), 22050)
        refused(unsilent("reconstruct", "a.wav", "-o", "gone/b.wav"), r"gone/b\.wav cannot be written: No such file or directory")

    def test_reconstruct_refuses_wrong_outputs(self, refused, unsilent, tmp_path):
        soundfile.write(tmp_path / "a.wav", np.zeros(22050), 22050)
        refused(unsilent("reconstruct", "a.wav", "-o", "a.wav"), r"a\.wav is the source itself")
        refused(unsilent("reconstruct", "a.wav", "-o", "b.mp4"), "written as WAV, so name it with .wav")
        refused(unsilent("reconstruct", "a.wav"), "-o is missing")


class TestModels:
    """The list and its rows."""

    def test_models_lists_models_and_networks(self, unsilent):
        code, out, err = unsilent("models")
        assert (code, err) == (0, [])
        assert out.splitlines()[1].startswith("everyday")
        assert re.search(r"vggsound-class +7\.8 +5\.0 +to fetch", out)
        assert re.search(r"vas-212-bninception-class .* never published", out)
        assert re.search(r"melception +to fetch +sound classifier", out)

    def test_models_show_describes_one(self, unsilent):
        code, out, _ = unsilent("models", "show", "vggsound-5-resnet50")
        assert code == 0
        assert "FID 11.3, MKL 7.0" in out

    def test_models_show_suggests_near_names(self, refused, unsilent):
        refused(unsilent("models", "show", "vggsound-5-resnet"), "did you mean vggsound-5-resnet50")


class TestReleasedFeatures:
    """The authors' feature files as a data source."""

    def test_import_writes_shards(self, unsilent, tmp_path):
        for folder, name, array in (
            ("melspec_10s_22050hz", "a_mel.npy", np.full((80, 860), 0.5)),
            ("feature_resnet50_dim2048_21.5fps", "a.pkl", np.ones((215, 2048), np.float32)),
        ):
            (tmp_path / "vggsound" / folder).mkdir(parents=True)
            with (tmp_path / "vggsound" / folder / name).open("wb") as file:
                np.save(file, array) if name.endswith("npy") else pickle.dump(array, file, protocol=4)
        (tmp_path / "train.txt").write_text("a\n")
        code, out, err = unsilent("data", "import", "vggsound", "-o", "shards", "--list", "train=train.txt")
        assert (code, out, err) == (0, "shards: 1 features, 1 mels\n", [])
        entry = Shard(tmp_path / "shards", "features").entries[0]
        assert (entry.length, entry.row.split) == (212, "train")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["nothing"], "there is no mel in nothing"),
            (["nothing", "--list", "train=no.txt"], r"there is no list of clips no\.txt"),
            (["nothing", "--list", "train.txt"], "--list is 'train.txt', but must be SPLIT=FILE"),
        ],
    )
    def test_import_names_what_is_missing(self, refused, unsilent, arguments, words):
        refused(unsilent("data", "import", *arguments, "-o", "shards"), words)


class TestExtract:
    """Options that would have no effect are refused."""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "give a manifest to extract, or --codebook"),
            (["m.parquet", "--codebook", "c"], r"with --codebook, codes are made from the sounds in shards; leave out m\.parquet"),
            (["--codebook", "c", "--preset", "everyday"], "; leave out --preset"),
            (["--codebook", "c", "--sound", "mels"], "; leave out --sound"),
            (["--codebook", "c"], "there is no shard 'waveforms' in shards"),
            (["m.parquet", "--preset", "everyday"], r"m\.parquet"),
        ],
    )
    def test_extract_refuses_options_without_effect(self, refused, unsilent, tmp_path, arguments, words):
        (tmp_path / "c").mkdir()
        refused(unsilent("data", "extract", *arguments, "-o", "shards"), words)
        assert not (tmp_path / "shards").exists()


class TestTerminal:
    """Progress and tables."""

    def test_progress_without_a_terminal_is_a_line_with_the_time_left(self, unsilent, make_clip, monkeypatch):
        clock = iter(range(0, 10**6, 4))
        monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
        make_clip("a.mp4")
        code, _, err = unsilent("generate", "a.mp4")
        assert code == 0
        assert len(err) > 3
        assert all(re.fullmatch(r"unsilent: a\.mp4: \w+, \d+%, about \d+:\d\d left", line) for line in err)

    def test_tables_fit_the_terminal(self, monkeypatch, capsys):
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        assert run(["models"]) == 0
        table = re.sub(r"\x1b\[\d*m", "", capsys.readouterr().out).splitlines()
        assert max(map(len, table)) <= 80
        assert len(table) == 1 + len(entries()) + 1

    def test_tables_in_a_file_have_one_line_per_row(self, monkeypatch, capsys):
        monkeypatch.setenv("COLUMNS", "40")
        assert run(["models"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1 + len(entries()) + 1


def test_help_and_version_do_not_import_torch():
    code = "import sys; from unsilent.cli.main import run; run(['generate', '--help']); run(['--version']); print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "VIDEO|FOLDER" in out
    assert out.splitlines()[-1] == "False"


def test_no_arguments_print_the_help(capsys):
    assert run([]) == 0
    assert "generate" in capsys.readouterr().out
