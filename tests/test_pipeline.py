"""The pipeline with a tiny model: what codes depend on, lengths, values out of range."""

import dataclasses
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unsilent
from unsilent.checkpoints import bundle
from unsilent.errors import CheckpointError, MediaError, ParameterError
from unsilent.jobs.sample import sample_mels
from unsilent.models.condition import pick_rows
from unsilent.models.configs import ConditionConfig
from unsilent.models.sampler import Sampler
from unsilent.pipeline import Pipeline
from unsilent.request import Request
from unsilent.speed import cpu_transformer
from unsilent.speed.threads import limit_threads, one_thread
from unsilent.vision.scene import Scene

FPS = 25
in_c = pytest.mark.skipif(not cpu_transformer.is_built(), reason="installed without a C compiler")


def changing(index):
    """Frames that are all different."""
    return np.random.default_rng(index).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@pytest.fixture
def video(make_clip):
    """Four seconds."""
    return make_clip("four.mp4", n_frames=4 * FPS)


@pytest.fixture
def long_video(make_clip):
    """Twenty seconds, all frames different."""
    return make_clip("twenty.mp4", n_frames=20 * FPS, images=lambda index: np.full((48, 64, 3), index % 256, np.uint8))


def test_same_seed_same_bytes(pipeline, video):
    once, again = (pipeline.generate(video, seed=5) for _ in range(2))
    assert np.array_equal(once.codes, again.codes)
    assert np.array_equal(once.waveform, again.waveform)


def test_codes_ignore_the_global_random_state(pipeline, video):
    torch.manual_seed(1)
    once = pipeline.generate(video).codes
    torch.manual_seed(2)
    assert np.array_equal(once, pipeline.generate(video).codes)


def test_another_seed_gives_another_sound(pipeline, video):
    assert not np.array_equal(pipeline.generate(video, seed=0).codes, pipeline.generate(video, seed=1).codes)


def test_seeds_have_no_upper_limit(pipeline, video):
    """Generators of torch have seeds of 64 bits; seeds of a request have no limit."""
    assert pipeline.generate(video, seed=10**30).seed == 10**30


def test_another_video_gives_another_sound(pipeline, make_clip):
    dark, bright = (make_clip(f"{grey}.mp4", images=lambda _, grey=grey: np.full((48, 64, 3), grey, np.uint8)) for grey in (20, 230))
    assert not np.array_equal(pipeline.generate(dark).codes, pipeline.generate(bright).codes)


def test_codes_ignore_the_file_name(pipeline, video):
    copy = video.rename(video.with_name("other.mp4"))
    codes = pipeline.generate(copy).codes
    assert np.array_equal(codes, pipeline.generate(copy.rename(video)).codes)


def test_take_does_not_depend_on_the_number_of_takes(pipeline, video):
    alone, three = pipeline.generate(video, seed=3), pipeline.takes(video, 3, seed=3)
    assert np.array_equal(alone.codes, three[0].codes)
    assert [one.take for one in three] == [0, 1, 2]
    assert not np.array_equal(three[0].codes, three[1].codes)
    assert np.array_equal(three[1].codes, pipeline.takes(video, 2, seed=3)[1].codes)


def test_generations_are_independent(pipeline, video, make_clip):
    before = pipeline.generate(video).codes
    pipeline.generate(make_clip("between.mp4", n_frames=30))
    assert np.array_equal(before, pipeline.generate(video).codes)


def made_with_threads(parts, video, count, **fields):
    with limit_threads(count):
        return Pipeline(parts, torch.device("cpu")).generate(video, **fields)


def test_bytes_of_a_small_model_do_not_depend_on_the_thread_count(parts, video):
    one, *others = (made_with_threads(parts, video, count) for count in (1, 2, 3))
    for other in others:
        assert np.array_equal(one.features, other.features)
        assert np.array_equal(one.codes, other.codes)
        assert np.array_equal(one.waveform, other.waveform)


def assert_concurrent_equals_sequential(pipeline, make_clip):
    """Nine videos in eight threads."""
    videos = [make_clip(f"{number}.mp4", n_frames=FPS, images=lambda i, n=number: changing(100 * n + i)) for number in range(9)]
    expected = [pipeline.generate(video) for video in videos]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(pipeline.generate, videos))
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 2
    for one, other in zip(expected, found, strict=True):
        assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("features", "codes", "mel", "waveform"))


def test_concurrent_generations_equal_sequential_ones(parts, make_clip):
    """Regression: thread counts set by one generation leaked into others, which then rounded differently."""
    with limit_threads(2):
        assert_concurrent_equals_sequential(Pipeline(parts, torch.device("cpu")), make_clip)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", pytest.param("int8", marks=in_c)])
def test_concurrent_generations_of_the_everyday_model_equal_sequential_ones(precision, make_clip):
    with limit_threads(2):
        assert_concurrent_equals_sequential(unsilent.load("everyday", device="cpu", precision=precision), make_clip)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16", pytest.param("int8", marks=in_c)])
def test_bytes_of_the_everyday_model_do_not_depend_on_the_thread_count(precision, video):
    made = []
    for count in (1, 2, 3):
        with limit_threads(count):
            made.append(unsilent.load("everyday", device="cpu", precision=precision).generate(video))
    for other in made[1:]:
        assert all(np.array_equal(getattr(made[0], name), getattr(other, name)) for name in ("features", "codes", "mel", "waveform"))


def test_pipeline_waits_for_another_computation(parts):
    """Otherwise its thread would keep the single-thread setting of that computation."""
    with limit_threads(2), ThreadPoolExecutor(1) as pool:
        with one_thread():
            made = pool.submit(Pipeline, parts, torch.device("cpu"))
            with pytest.raises(TimeoutError):
                made.result(timeout=0.2)
        assert made.result().threads == 2


@pytest.mark.parametrize("seconds", ["0.2", "0.5", "9.845", "12", "25"])
def test_sound_length_equals_video_length_to_the_sample(pipeline, make_clip, seconds):
    """For lengths below, at and above the model's clip."""
    fps = Fraction(max(10, Fraction(seconds).denominator))  # so that whole pictures make up this length
    n_frames = int(Fraction(seconds) * fps)
    made = pipeline.generate(make_clip("video.mp4", n_frames=n_frames, fps=fps, options={"preset": "ultrafast"}))
    assert len(made.waveform) == round(float(seconds) * 22050)
    assert made.codes.shape == (5, -(-len(made.waveform) // 4096))
    assert made.mel.shape == (80, 16 * made.codes.shape[1])
    assert made.seconds == pytest.approx(float(seconds), abs=1 / 22050)


@pytest.mark.parametrize("fps", [Fraction(1), Fraction(24000, 1001), Fraction(60)])
def test_any_frame_rate_is_accepted(pipeline, make_clip, fps):
    made = pipeline.generate(make_clip("video.mp4", n_frames=round(3 * fps), fps=fps))
    assert len(made.waveform) == round(float(round(3 * fps) / fps) * 22050)


def test_sounds_are_audible_and_do_not_clip(pipeline, video):
    waveform = pipeline.generate(video).waveform
    assert waveform.dtype == np.float32
    assert np.sqrt(np.mean(waveform**2)) > 0.001
    assert np.abs(waveform).max() <= 10 ** (-1 / 20)


def test_each_window_is_conditioned_on_its_own_frames(pipeline, long_video, make_clip):
    """Windows begin at columns 0, 26, 52, 78 and have 53 columns each, so frames after 10 s first condition the window at 26."""
    other = make_clip(
        "other.mp4", n_frames=20 * FPS, images=lambda index: np.full((48, 64, 3), (index if index < 250 else 3 * index) % 256, np.uint8)
    )
    one, two = (pipeline.generate(video, scenes="off") for video in (long_video, other))
    differ = np.flatnonzero((one.codes != two.codes).any(axis=0))
    assert len(differ)
    assert differ.min() >= pipeline.clip.columns
    assert differ.min() < pipeline.clip.columns + pipeline.clip.hop_columns


def test_last_frames_condition_the_last_codes(pipeline, long_video, make_clip):
    other = make_clip(
        "other.mp4", n_frames=20 * FPS, images=lambda index: np.full((48, 64, 3), (index if index < 475 else 255 - index) % 256, np.uint8)
    )
    assert not np.array_equal(pipeline.generate(long_video).codes[:, -5:], pipeline.generate(other).codes[:, -5:])


def test_a_longer_video_with_the_same_first_windows_begins_with_the_same_codes(pipeline, make_clip):
    still = {seconds: make_clip(f"{seconds}.mp4", n_frames=seconds * 5, fps=5, images=lambda _: changing(0)) for seconds in (12, 20)}
    short, long = (pipeline.generate(video).codes for video in still.values())
    assert np.array_equal(short, long[:, : short.shape[1]])


def test_frames_shared_by_windows_are_embedded_once(pipeline, long_video):
    made = pipeline.generate(long_video, scenes="off")
    assert made.features.shape[1] == 1280
    assert 2 * 53 < len(made.features) < 3 * 53  # four windows that overlap by half


def test_frames_stay_aligned_with_the_sound_for_an_hour(pipeline):
    """Regression: a column lasts 3.994 features; counting 4 shifted frames against the sound by 5.6 s in an hour."""
    scene = Scene(Path("long.mp4"), 3600.0)
    clip = pipeline.clip
    for start in (0, 1000, 19000):
        picked = scene.frame_numbers(start, clip, pick_rows(53, 212))
        seen = (picked[0] + picked[-1]) / 2 / clip.feature_fps
        heard = (start + clip.columns / 2) * clip.column_seconds
        assert seen == pytest.approx(heard, abs=0.2)


def test_progress_is_monotonic_through_all_stages(pipeline, video):
    seen = []
    pipeline.takes(video, 2, progress=lambda step, share: seen.append((step, share)))
    shares = [share for _, share in seen]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert [step for index, (step, _) in enumerate(seen) if not index or step != seen[index - 1][0]] == ["reading", "sampling", "decoding"]


def test_timings_name_every_stage(pipeline, video):
    made = pipeline.generate(video)
    assert list(made.timings) == ["probe", "features", "codes", "decode", "vocode", "loudness"]
    assert made.real_time_factor == pytest.approx(sum(made.timings.values()) / 4, rel=1e-3)


def test_temperature_zero_ignores_the_seed(pipeline, video):
    assert np.array_equal(pipeline.generate(video, seed=1, temperature=0.0).codes, pipeline.generate(video, seed=2, temperature=0.0).codes)


def test_top_k_one_equals_temperature_zero(pipeline, video):
    assert np.array_equal(pipeline.generate(video, top_k=1).codes, pipeline.generate(video, temperature=0.0).codes)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"seed": -1}, r"^seed is -1, but must be 0 or more\.$"),
        ({"seed": 1.5}, r"^seed is 1\.5, but must be a whole number\.$"),
        ({"top_k": 0}, r"^top_k is 0, but must be 1 or more\.$"),
        ({"top_k": 33}, "top_k 33 was given; the model 'everyday' has 32 codes, choose 1 to 32"),
        ({"temperature": -0.5}, r"^temperature is -0\.5, but must be 0 or more\.$"),
        ({"temperature": float("nan")}, r"^temperature is nan, but must be a finite number\.$"),
        ({"guidance": -2.0}, r"^guidance is -2\.0, but must be 0 or more\.$"),
        ({"guidance": float("inf")}, r"^guidance is inf, but must be a finite number\.$"),
        ({"original": "mix"}, r"^original is 'mix', but must be 'drop', 'keep' or 'duck'\.$"),
        ({"sed": 3}, r"^there is no field 'sed'; did you mean seed or seconds\?$"),
        ({"label": "dog"}, "the model 'everyday' has no classes, so it takes no label 'dog'"),
    ],
)
def test_values_out_of_range_are_refused(pipeline, video, asked, message):
    with pytest.raises(ParameterError, match=message):
        pipeline.generate(video, **asked)


def test_open_fields_take_the_model_defaults(parts, pipeline, video):
    chosen = {"top_k": 5, "temperature": 3.0, "guidance": 0.5}
    own = Pipeline(dataclasses.replace(parts, **chosen), torch.device("cpu")).generate(video).codes
    assert np.array_equal(own, pipeline.generate(video, **chosen).codes)
    for more in ({"top_k": 6}, {"temperature": 2.0}, {"guidance": 1.0}):
        assert not np.array_equal(own, pipeline.generate(video, **chosen | more).codes)


def test_zero_takes_are_refused(pipeline, video):
    with pytest.raises(ParameterError, match="takes is 0, but must be 1 or more"):
        pipeline.takes(video, 0)


def test_a_missing_video_is_named(pipeline, tmp_path):
    with pytest.raises(MediaError, match=r"gone\.mp4 does not exist"):
        pipeline.generate(tmp_path / "gone.mp4")


class TestOtherConditions:
    """Models conditioned on a class, on nothing, or on frames and motion of each column."""

    @pytest.fixture
    def with_condition(self, parts):
        def build(classes=(), **condition):
            torch.manual_seed(0)
            config = parts.sampler.config.model_copy(update={"condition": ConditionConfig(**condition)})
            sampler = Sampler(config).eval()
            torch.nn.init.normal_(sampler.head.weight)
            if sampler.embedder.columns is not None:
                torch.nn.init.normal_(sampler.embedder.columns.out.weight)
            blind = {} if condition["kind"].startswith(("features", "columns")) else {"backbone": None, "backbone_row": None}
            return Pipeline(dataclasses.replace(parts, sampler=sampler, classes=classes, **blind), torch.device("cpu"))

        return build

    def test_a_class_changes_the_sound(self, with_condition, video):
        pipeline = with_condition(("cat", "dog"), kind="class", n_classes=2)
        cat, dog = (pipeline.generate(video, label=label) for label in ("cat", "dog"))
        assert cat.features is None
        assert not np.array_equal(cat.codes, dog.codes)

    @pytest.mark.parametrize(
        ("label", "words"), [(None, "needs one of its 2 classes as label, such as 'cat', 'dog'"), ("cow", "no class is named 'cow'")]
    )
    def test_label_is_required_and_must_be_known(self, with_condition, video, label, words):
        pipeline = with_condition(("cat", "dog"), kind="class", n_classes=2)
        with pytest.raises(ParameterError, match=words):
            pipeline.generate(video, label=label)

    def test_features_and_a_class(self, with_condition, video):
        pipeline = with_condition(("cat", "dog"), kind="features+class", n_classes=2, n_features=5, feature_dim=1280)
        assert pipeline.generate(video, label="dog").codes.shape == (5, 22)

    @pytest.fixture
    def moved(self, with_condition):
        return with_condition(kind="columns", n_features=27, feature_dim=1280, motion=8)

    @pytest.fixture
    def struck(self, make_clip):
        """Twenty seconds of grey with a blow of a bar at `at` seconds, which ends before the next embedded frame."""

        def make(at):
            def image(i):
                frame, since = np.full((48, 64, 3), 60, np.uint8), i - round(at * FPS)
                top = {-2: 2, -1: 12, 0: 28, 1: 28, 2: 28}.get(since)
                if top is not None:
                    frame[top : top + 14, 36:52] = 200
                return frame

            return make_clip(f"{at}.mp4", n_frames=20 * FPS, images=image)

        return make

    def test_motion_changes_codes_from_its_time_on(self, moved, struck):
        """A blow between embedded frames changes codes from two columns before it on, and none earlier."""
        clip, scene = moved.clip, Scene(Path("a.mp4"), 20.0)
        picked, at = {number / clip.feature_fps for number in moved.plan(scene, clip.columns).frames[0].embedded}, 6.0
        while min(abs(at - time) for time in picked) < 3 / FPS:
            at += 1 / FPS
        still, hit = (moved.generate(struck(moment), guidance=1.0).codes for moment in (30.0, at))  # the first never comes
        column = int(at / clip.column_seconds)
        differ = np.flatnonzero((still != hit).any(0))
        assert column - 2 <= differ[0] <= column + 1

    def test_windows_half_a_clip_apart_share_frames(self, moved):
        """The second window of a ten-second scene has one new column and no new frame."""
        picked = [set(frames.embedded) for frames in moved.plan(Scene(Path("a.mp4"), 10.0), 54).frames]
        assert len(picked[0]) == 27
        assert len(picked[1] - picked[0]) <= 1

    def test_no_motion_ignores_motion(self, moved, struck):
        still, hit = (moved.generate(struck(moment), guidance=1.0, motion=False).codes for moment in (30.0, 6.0))
        assert np.array_equal(still[:, :25], hit[:, :25])
        assert not np.array_equal(hit, moved.generate(struck(6.0), guidance=1.0).codes)

    def test_each_window_is_conditioned_on_its_own_motion(self, moved, struck):
        clip, scene = moved.clip, Scene(struck(12.0), 20.0)
        plan = moved.plan(scene, 52 + clip.columns)
        windows, seen = plan.windows, moved.observe(scene, plan, Request())
        strongest = [seen.motion_of(frames.measured, clip)[:, 1::2] for frames in plan.frames]
        assert strongest[0].max() < 0.5
        for window, motion in zip(windows[1:], strongest[1:], strict=True):
            at = window.start + np.unravel_index(motion.argmax(), motion.shape)[0]
            assert abs(at - 12.0 / clip.column_seconds) < 1.5
        assert motion.max() > 1

    def test_still_image_has_no_motion(self, moved, tmp_path):
        Image.new("RGB", (64, 48), (200, 0, 0)).save(tmp_path / "a.png")
        scene = Scene(tmp_path / "a.png", 0.0)
        plan = moved.plan(scene, moved.clip.columns)
        seen = moved.observe(scene, plan, Request())
        assert not seen.motion_of(plan.frames[0].measured, moved.clip).any()
        assert len(sample_mels(moved, scene, Request(takes=2))) == 2

    def test_damaged_tail_has_no_motion(self, moved, make_clip):
        path = make_clip("a.mkv", n_frames=4 * FPS, images=changing)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        scene = Scene(path, 4.0)
        plan = moved.plan(scene, 22)
        motion = moved.observe(scene, plan, Request()).motion_of(plan.frames[0].measured, moved.clip)
        assert motion[2:10].any()
        assert not motion[18:21].any()

    def test_model_without_features_depends_on_the_seed_only(self, with_condition, video, make_clip):
        pipeline = with_condition(kind="none", n_features=1, feature_dim=1280)
        other = make_clip("other.mp4", n_frames=4 * FPS, images=changing)
        assert np.array_equal(pipeline.generate(video, seed=1).codes, pipeline.generate(other, seed=1).codes)
        assert not np.array_equal(pipeline.generate(video, seed=1).codes, pipeline.generate(video, seed=2).codes)


class TestOtherWays:
    """Griffin-Lim instead of the vocoder, and lower precision."""

    def test_griffin_lim_keeps_the_codes(self, parts, pipeline, video):
        made = Pipeline(parts, torch.device("cpu"), vocoder="griffin-lim").generate(video)
        neural = pipeline.generate(video)
        assert np.array_equal(made.codes, neural.codes)
        assert len(made.waveform) == len(neural.waveform)
        assert not np.allclose(made.waveform, neural.waveform, atol=1e-3)

    @pytest.mark.parametrize("vocoder", ["neural", "griffin-lim"])
    def test_bfloat16_gives_finite_sound_in_float32(self, parts, video, vocoder):
        lower = Pipeline(parts, torch.device("cpu"), "bfloat16", vocoder)
        made = lower.generate(video)
        assert made.waveform.dtype == np.float32
        assert made.mel.dtype == np.float32
        assert np.isfinite(made.waveform).all()
        again = lower.reconstruct(made.waveform)
        assert len(again) == len(made.waveform)

    def test_bfloat16_changes_the_waveform(self, parts, pipeline, video):
        lower = Pipeline(parts, torch.device("cpu"), "bfloat16").generate(video)
        assert not np.array_equal(lower.waveform, pipeline.generate(video).waveform)


class TestReconstruct:
    """Encoding and decoding of a sound."""

    @pytest.mark.parametrize("n_samples", [1, 300, 4096, 4097, 217_088, 300_001])
    def test_reconstruct_keeps_the_length(self, pipeline, n_samples):
        waveform = np.random.default_rng(0).normal(0, 0.1, n_samples).astype(np.float32)
        assert pipeline.reconstruct(waveform).shape == (n_samples,)

    def test_reconstruct_accepts_any_float_dtype(self, pipeline):
        waveform = np.random.default_rng(0).normal(0, 0.1, 30_000)
        assert np.array_equal(pipeline.reconstruct(waveform), pipeline.reconstruct(waveform.astype(np.float32)))

    @pytest.mark.parametrize(
        ("waveform", "message"),
        [
            (np.zeros(5000, np.int16), "a waveform of int16 was given; give floating-point samples"),
            (np.full(5000, np.nan), "a waveform with NaN or infinite samples was given"),
            (np.zeros((2, 5000)), r"a waveform of shape \(2, 5000\) was given; give one channel"),
        ],
    )
    def test_reconstruct_refuses_what_is_not_a_mono_sound(self, pipeline, waveform, message):
        with pytest.raises(ParameterError, match=message):
            pipeline.reconstruct(waveform)

    def test_reconstruct_depends_on_its_input(self, pipeline):
        noise = np.random.default_rng(0).normal(0, 0.1, 50_000).astype(np.float32)
        tone = (0.5 * np.sin(2 * np.pi * 440 / 22050 * np.arange(50_000))).astype(np.float32)
        assert not np.allclose(pipeline.reconstruct(noise), pipeline.reconstruct(tone), atol=1e-4)

    def test_bitrate_counts_codes_times_bits(self, pipeline):
        assert pipeline.bitrate_kbps == pytest.approx(265 * 5 / 9.845 / 1000, rel=1e-3)


class TestFiles:
    """Files of a generation."""

    def test_video_wav_and_picture(self, pipeline, video, tmp_path):
        made = pipeline.generate(video)
        made.save_video(tmp_path / "out.mp4", comment="made by a test")
        made.save_wav(tmp_path / "out.wav")
        made.save_picture(tmp_path / "out.png")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["four.mp4", "out.mp4", "out.png", "out.wav"]

    def test_save_wav_and_save_picture_refuse_other_suffixes(self, pipeline, video, tmp_path):
        made = pipeline.generate(video)
        with pytest.raises(ParameterError, match=r"x\.mp3 cannot be written: the sound is written as WAV, so name it with \.wav"):
            made.save_wav(tmp_path / "x.mp3")
        with pytest.raises(ParameterError, match=r"x\.jpg cannot be written: the figure is written as PNG, so name it with \.png"):
            made.save_picture(tmp_path / "x.jpg")

    def test_generations_compare_and_hash_by_content(self, pipeline, video):
        once, again, other = (pipeline.generate(video, seed=seed) for seed in (1, 1, 2))
        assert once == again != other
        assert len({once, again, other}) == 2

    def test_the_video_itself_is_never_overwritten(self, pipeline, video):
        before = video.read_bytes()
        with pytest.raises(MediaError, match="is the video itself"):
            pipeline.generate(video).save_video(video)
        assert video.read_bytes() == before


class TestLoad:
    """`unsilent.load` and the names of the package."""

    def test_a_bundle_by_its_path(self, tiny_bundle):
        loaded = unsilent.load(str(tiny_bundle), device="cpu")
        assert (loaded.name, loaded.precision, loaded.vocoder) == (
            "everyday",
            "int8" if cpu_transformer.multiplies_int8() else "float32",
            "neural",
        )

    @pytest.mark.parametrize("precision", ["float32", "bfloat16", pytest.param("int8", marks=in_c)])
    def test_every_precision_makes_sound_and_says_which(self, tiny_bundle, video, parts, monkeypatch, precision):
        monkeypatch.setattr(bundle, "load_backbone", lambda name: (parts.backbone, parts.backbone_row))
        loaded = unsilent.load(str(tiny_bundle), device="cpu", precision=precision)
        made, expected = loaded.generate(video, temperature=0.0), Pipeline(parts, torch.device("cpu")).generate(video, temperature=0.0)
        assert made.precision == loaded.precision == precision
        assert np.isfinite(made.waveform).all()
        assert (made.codes == expected.codes).mean() > 0.5

    def test_an_unknown_name(self):
        with pytest.raises(ParameterError, match="did you mean everyday"):
            unsilent.load("evryday")

    def test_a_path_without_a_bundle(self, tmp_path):
        with pytest.raises(CheckpointError, match="is not a bundle folder"):
            unsilent.load(str(tmp_path))

    def test_load_refuses_values_outside_the_choices(self):
        """In a process of its own, because the type checker of these tests would refuse them first."""
        wrong = [{"device": "mps"}, {"device": "cuda:1"}, {"precision": "fp16"}, {"vocoder": "wavenet"}]
        code = f"""
import unsilent
from unsilent.errors import ParameterError
for named in {wrong}:
    try:
        unsilent.load("everyday", **named)
    except ParameterError as error:
        print(error)
"""
        said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
        assert said == [
            "device is 'mps', but must be 'auto', 'cpu' or 'cuda'.",
            "device is 'cuda:1', but must be 'auto', 'cpu' or 'cuda'.",
            "precision is 'fp16', but must be 'auto', 'float32', 'bfloat16' or 'int8'.",
            "vocoder is 'wavenet', but must be 'neural' or 'griffin-lim'.",
        ]

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
    def test_a_device_that_is_not_there(self):
        with pytest.raises(ParameterError, match="device is cuda, but this machine has no CUDA device; use cpu or auto"):
            unsilent.load("everyday", device="cuda")

    def test_unknown_names_of_the_package(self):
        with pytest.raises(AttributeError, match="has no attribute 'loud'"):
            _ = unsilent.loud
