"""A folder of samples: its files, independence of workers and interruptions, clips without samples."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unsilent.checkpoints import bundle
from unsilent.cli.main import run
from unsilent.data.manifest import Row, write_manifest
from unsilent.errors import CheckpointError, DataError, ParameterError
from unsilent.evaluation.inputs import find_inputs
from unsilent.jobs.parallel import Parallel
from unsilent.jobs.sample import Recipe, Sampling, sample_mels, seed_of
from unsilent.loading import load
from unsilent.models.configs import ConditionConfig
from unsilent.presets import EVERYDAY
from unsilent.request import Request
from unsilent.speed import cpu_transformer
from unsilent.speed.choice import choose_device, choose_precision
from unsilent.vision.scene import Scene

# Kills itself by SIGKILL while it writes the third clip.
KILLED = """
import os, signal
from unsilent.jobs import sample
write = sample.Sampling._write
def killed(job, row, sounds):
    if len(list(job.out.glob("clip*"))) == 2:
        (job.out / ".part").mkdir()
        (job.out / ".part/0.mel.npy").write_bytes(b"torn")
        os.kill(os.getpid(), signal.SIGKILL)
    write(job, row, sounds)
sample.Sampling._write = killed
from unsilent.cli.main import main
if __name__ == "__main__":
    main()
"""


def row(path, kind="clip", split="valid", start=0.0, label="", name=None):
    name = name or path.rpartition(".")[0]
    return Row(name, path, kind, label, split, "", start, 0.0 if kind == "image" else 1.0, 22050, "")


@pytest.fixture(scope="module")
def material(tmp_path_factory, write_clip):
    """Two seconds of video as two clips, another clip, two images in a folder, and one clip for training."""
    root = tmp_path_factory.mktemp("material")
    write_clip(root / "long.mp4", n_frames=50)
    write_clip(root / "other.mp4", n_frames=25, first=0, images=lambda i: np.full((48, 64, 3), 5 * i, np.uint8))
    rng = np.random.default_rng(0)
    (root / "still").mkdir()
    for name in ("a", "b"):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(root / f"still/{name}.png")
    rows = [
        row("long.mp4", name="long-0"),
        row("long.mp4", start=1.0, name="long-1"),
        row("other.mp4"),
        row("still/a.png", "image"),
        row("still/b.png", "image"),
        row("other.mp4", split="train", name="training"),
        row("long.mp4", "sound", name="sound-only"),
    ]
    write_manifest(root, rows, root / "m.parquet")
    return root


@pytest.fixture
def tiny(tiny_bundle, parts, monkeypatch):
    """Name of the tiny model, patched in this process only to have a tiny image network."""
    monkeypatch.setattr(bundle, "load_backbone", lambda name: (parts.backbone, parts.backbone_row))
    return str(tiny_bundle)


@pytest.fixture
def class_model(tmp_path_factory, tiny_parts, tiny_configs, write_part):
    """A model conditioned on a class: without an image network, which worker processes would have to load."""
    folder = tmp_path_factory.mktemp("class-model")
    condition = ConditionConfig(kind="class", n_classes=2)
    sampler = write_part(folder / "sampler", "sampler", tiny_configs["sampler"].model_copy(update={"condition": condition}))
    about = {"summary": "", "licences": {}, "classes": ["cat", "dog"]}
    bundle.save_bundle(folder / "model", "vas-class", {**tiny_parts, "sampler": sampler}, about)
    return str(folder / "model")


def sample(table, out, recipe, parallel=Parallel(), split="valid"):
    with Sampling(table, out, recipe, split) as job:
        return [(row.clip_id, why) for row, why in job.run(parallel)]


def contents(folder):
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_every_clip_has_its_samples_and_seeds_are_recorded(material, tiny, tmp_path, parts):
    names = ["long-0", "long-1", "other", "still/a", "still/b"]
    assert sample(material / "m.parquet", tmp_path, Recipe(tiny, Request(takes=2, seed=3))) == [(name, "") for name in names]
    assert set(contents(tmp_path)) == {"samples.json", *(f"{name}/{i}.mel.npy" for name in names for i in (0, 1))}
    about = json.loads((tmp_path / "samples.json").read_text())
    assert about["clips"] == {name: seed_of(3, name) for name in names}
    recorded = {
        name: about[name] for name in ("model", "seed", "samples", "top_k", "temperature", "guidance", "precision", "keep", "failed")
    }
    precision = choose_precision("auto", choose_device("auto"), parts.sampler.config)
    defaults = {"temperature": EVERYDAY.temperature, "guidance": EVERYDAY.guidance}  # of the model, because the recipe names none
    recipe = {"seed": 3, "samples": 2, "top_k": 32, **defaults, "precision": precision, "keep": "mel"}
    assert recorded == {"model": "everyday", **recipe, "failed": {}}
    mels = [np.load(tmp_path / name / f"{i}.mel.npy") for name in names for i in (0, 1)]
    assert {(mel.shape, str(mel.dtype)) for mel in mels} == {((80, 848), "float16")}
    assert len({mel.tobytes() for mel in mels}) == len(mels)
    found = find_inputs(tmp_path, [tmp_path], labels="folders").folders[1]  # as `unsilent evaluate` sees it
    assert found.settings == {"model": "everyday", "seed": 3, "top_k": 32, "temperature": EVERYDAY.temperature}
    assert [sound.name for sound in found.sounds] == [f"{name}/{i}" for name in names for i in (0, 1)]


def test_sample_equals_generate_with_the_recorded_seed(material, tiny, tmp_path):
    """A video shorter than a clip has the first codes of its sample, so both mels are equal except near the end."""
    sample(material / "m.parquet", tmp_path, Recipe(tiny, Request(takes=2)))
    pipeline = load(tiny)
    seed = json.loads((tmp_path / "samples.json").read_text())["clips"]["other"]
    decoded = []
    codebook = pipeline.parts.codebook
    decode = codebook.decode_codes
    codebook.decode_codes = lambda grids, start: (decoded.append(grids[0].cpu().numpy()), decode(grids, start))[1]
    mels = sample_mels(pipeline, Scene(material / "other.mp4", 1.0), Request(takes=2, seed=seed))
    takes = pipeline.takes(material / "other.mp4", 2, seed=seed)
    for take in (0, 1):
        assert (np.load(tmp_path / f"other/{take}.mel.npy") == mels[take].astype(np.float16)).all()
        columns = takes[take].codes.shape[1]
        assert 0 < columns < 53
        assert (decoded[take][:, :columns] == takes[take].codes).all()


def test_sample_does_not_depend_on_other_clips(material, tiny, tmp_path):
    recipe = Recipe(tiny, Request())
    sample(material / "m.parquet", tmp_path / "all", recipe)
    write_manifest(material, [row("still/b.png", "image"), row("long.mp4", start=1.0, name="long-1")], tmp_path / "few.parquet")
    sample(tmp_path / "few.parquet", tmp_path / "few", recipe)
    for name in ("still/b", "long-1"):
        assert contents(tmp_path / "few" / name) == contents(tmp_path / "all" / name)


in_c = pytest.mark.skipif(choose_device("auto").type != "cpu" or not cpu_transformer.is_built(), reason="GPU present, or no C compiler")
PARALLEL = [
    pytest.param(Parallel(workers=2), "float32", id="processes"),
    pytest.param(Parallel(workers=2), "int8", id="processes-int8", marks=in_c),
    pytest.param(Parallel(workers=2, ray="local"), "float32", id="ray", marks=pytest.mark.cluster),
]


@pytest.mark.parametrize(("parallel", "precision"), PARALLEL)
def test_bytes_do_not_depend_on_the_number_of_workers(material, class_model, tmp_path, parallel, precision):
    rows = [row(f"long-{i}.mp4", label="dog" if i % 2 else "cat") for i in range(3)] + [row("unknown-label.mp4", label="owl")]
    write_manifest(material, rows, tmp_path / "m.parquet")
    recipe = Recipe(class_model, Request(takes=2), precision, "wav")
    plain = sample(tmp_path / "m.parquet", tmp_path / "plain", recipe)
    assert sample(tmp_path / "m.parquet", tmp_path / "parallel", recipe, parallel) == plain
    assert contents(tmp_path / "parallel") == contents(tmp_path / "plain")
    assert [name for name, why in plain if why] == ["unknown-label"]
    assert len(contents(tmp_path / "plain")) == 3 * 2 + 1


@pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")
def test_killed_job_resumes_to_the_same_bytes(material, class_model, tmp_path, capsys):
    rows = [row(f"clip{i}.mp4", label="cat") for i in range(4)]
    write_manifest(material, rows, tmp_path / "m.parquet")

    def arguments(out):
        return ["sample", str(tmp_path / "m.parquet"), "-o", str(tmp_path / out), "--model", class_model, "--samples", "1"]

    assert run(arguments("once")) == 0
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments("killed")], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert set(contents(tmp_path / "killed")) == {"samples.json", ".part/0.mel.npy", "clip0/0.mel.npy", "clip1/0.mel.npy"}
    capsys.readouterr()
    assert run(arguments("killed")) == 0
    assert "1 samples of each of 4 clips, 2 of them from an earlier run" in capsys.readouterr().out
    assert contents(tmp_path / "killed") == contents(tmp_path / "once")


def test_unreadable_clips_are_named_and_others_sampled(material, tiny, tmp_path, capsys):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.png").write_bytes(b"not an image")
    (tmp_path / "good.mp4").write_bytes((material / "other.mp4").read_bytes())
    rows = [row("empty.mp4"), row("noise.png", "image"), row("good.mp4"), row("good.mp4", start=7.0, name="late")]
    write_manifest(tmp_path, rows, tmp_path / "m.parquet")
    assert run(["sample", str(tmp_path / "m.parquet"), "-o", str(tmp_path / "out"), "--model", tiny, "--samples", "1"]) == 3
    out, err = capsys.readouterr()
    assert "1 samples of each of 1 clips" in out
    assert [line.partition(": ")[2] for line in err.splitlines()] == [
        f"left out empty: {tmp_path}/empty.mp4 is empty (0 bytes).",
        f"left out noise: {tmp_path}/noise.png cannot be read as an image: it is not an image, or damaged.",
        f"left out late: {tmp_path}/good.mp4 has no frame at or after 7.00 s.",
    ]
    about = json.loads((tmp_path / "out/samples.json").read_text())
    assert (list(about["clips"]), list(about["failed"])) == (["good"], ["empty", "noise", "late"])


def test_folder_of_another_recipe_is_refused(material, tiny, tmp_path):
    sample(material / "m.parquet", tmp_path, Recipe(tiny, Request(), "float32"))
    with (
        pytest.raises(
            DataError,
            match=r"made with guidance 3\.0, precision float32, seed 0, top_k 32 instead of 1\.5, bfloat16, 1, 4",
        ),
        Sampling(material / "m.parquet", tmp_path, Recipe(tiny, Request(seed=1, top_k=4, guidance=1.5), "bfloat16")),
    ):
        pass
    (tmp_path / "samples.json").write_text("[]")
    with pytest.raises(DataError, match="does not have the settings"), Sampling(material / "m.parquet", tmp_path, Recipe(tiny, Request())):
        pass


def test_two_jobs_in_one_folder_are_refused(material, tiny, tmp_path):
    job = Sampling(material / "m.parquet", tmp_path, Recipe(tiny))
    with job, pytest.raises(DataError, match="another process is writing"), Sampling(material / "m.parquet", tmp_path, Recipe(tiny)):
        pass


@pytest.mark.parametrize(
    ("recipe", "error", "sentence"),
    [
        (Recipe(request=Request(top_k=33)), ParameterError, "top_k 33 was given; the model 'everyday' has 32 codes"),
        (Recipe(model="nowhere/at/all"), CheckpointError, "not a bundle folder"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(material, tiny, tmp_path, recipe, error, sentence):
    recipe = recipe if recipe.model != "everyday" else replace(recipe, model=tiny)
    with pytest.raises(error, match=sentence):
        Sampling(material / "m.parquet", tmp_path / "out", recipe)
    assert not (tmp_path / "out").exists()


def test_split_without_clips_or_images_is_refused(material, tiny, tmp_path):
    with pytest.raises(DataError, match="no clips or images of the split 'test' to make sounds for"):
        Sampling(material / "m.parquet", tmp_path, Recipe(tiny), "test")


@pytest.mark.parametrize("name", ["../out", "/etc/x", ".hidden/x", "a/../../b"])
def test_a_clip_cannot_lie_outside_the_folder(material, tiny, tmp_path, name):
    write_manifest(material, [row("other.mp4", name=name)], tmp_path / "m.parquet")
    with pytest.raises(DataError, match="cannot be a folder below"):
        Sampling(tmp_path / "m.parquet", tmp_path / "out", Recipe(tiny))
