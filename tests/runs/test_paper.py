"""The scripts of the paper's tables: their commands parse, and small tables pair images with sounds and conditions of their label."""

import importlib
import json
import re
import shlex
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import typer
from PIL import Image

from unsilent import presets
from unsilent.cli.main import app
from unsilent.clip import Clip
from unsilent.data.manifest import Row, read_manifest, write_manifest
from unsilent.models.configs import CodebookConfig
from unsilent.signal.mel import log_mel01
from unsilent.train.config import read_run

SCRIPTS = Path(__file__).parents[2] / "runs/paper"
WHICH = ["1", "2", "3", "4", "5", *(f"fig{n}" for n in range(4, 10)), *map(str, range(10, 21))]


@pytest.fixture
def scripts(monkeypatch):
    """`scripts("table")` is the module."""
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


@pytest.fixture
def printed(scripts, monkeypatch, capsys):
    """The commands of a table, as words."""
    table = scripts("table")

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["table.py", *arguments, "--print"])
        assert table.main() == 0
        return [shlex.split(line) for line in capsys.readouterr().out.splitlines()]

    return call


def parse(words):
    """Parameters of a command, which is not run."""
    command, words = typer.main.get_command(app), list(words)
    while hasattr(command, "commands"):
        command = command.commands[name := words.pop(0)]
    return command.make_context(name, words).params


@pytest.mark.parametrize("which", WHICH)
@pytest.mark.parametrize("scale", [[], ["--everyday", "material", "--workers", "2"]], ids=["full", "small"])
def test_commands_parse(printed, which, scale):
    commands = printed(which, *scale)
    assert commands
    for program, *words in commands:
        if program == "unsilent":
            parse(words)
        elif program == "python":
            assert Path(words[0]).is_file()


def test_make_paper_small_runs_the_small_commands_of_every_table_and_figure(printed, scripts):
    """Some figures differ at full size only, and have one command in small; so the list of the Makefile is shorter."""
    assert (*WHICH, "prepare") == scripts("table").WHICH
    listed = re.search(r"^PAPER = (.*)$", (SCRIPTS.parents[1] / "Makefile").read_text(), re.M)[1].split()
    made = {tuple(words) for which in listed for words in printed(which, "--everyday", "material")}
    for which in WHICH:
        assert {tuple(words) for words in printed(which, "--everyday", "material")} <= made, which


def test_the_readme_of_the_paper_has_a_row_for_every_table_and_figure():
    cells = re.findall(r"^\| (?:table|figures?) [^|]*\| ([^|]*)\|", (SCRIPTS / "README.md").read_text(), re.M)
    shown = [which for cell in cells for which in re.findall(r"`(\w+)`", cell)]
    assert sorted(shown) == sorted(WHICH)


def test_table_3_samples_all_models_of_the_paper(printed):
    commands = printed("3")
    sampled = [parse(words[1:]) for words in commands if words[1] == "sample"]
    models = [parameters["model"] for parameters in sampled]
    paper = [name for name in presets.names() if name.startswith(("vggsound", "vas")) and "class" not in name and "coord" not in name]
    assert sorted(models) == sorted(paper)
    assert {(parameters["split"], parameters["samples"]) for parameters in sampled} == {("test", 10), ("valid", 100)}
    evaluated = [folder.name for words in commands if words[1] == "evaluate" for folder in parse(words[1:])["generated"]]
    assert evaluated == models


@pytest.mark.parametrize("which", ["3", "4", "16", "17", "18"])
def test_full_tables_are_sampled_in_float32_and_count_silent_clips(printed, which):
    commands = [(words[1], parse(words[1:])) for words in printed(which) if words[1] in ("sample", "evaluate", "data")]
    assert {asked["precision"] for verb, asked in commands if verb == "sample"} == {"float32"}
    assert all(asked["keep_silent"] for verb, asked in commands if verb != "sample")


def test_full_table_2_needs_no_image_network(printed):
    """Its trainings read mels only, so nothing is extracted that a network would be fetched for."""
    commands = printed("2")
    assert not [words for words in commands if words[1:3] == ["data", "extract"]]
    fetched = [words[3] for words in commands if words[1:3] == ["models", "fetch"]]
    assert fetched == ["melception"]


def test_runs_of_one_folder_of_shards_read_one_source():
    """Imported shards have the authors' mels and features; those of videos would replace or precede them."""
    runs = {path.stem: tomllib.loads(path.read_text()) for path in SCRIPTS.glob("*.toml")}
    assert {name for name, run in runs.items() if run["shards"].endswith("/recorded")} == {"melgan"}  # which needs waveforms
    assert {Path(run["shards"]).name for name, run in runs.items() if name != "melgan"} == {"released"}


@pytest.mark.parametrize("name", ["vggsound-codebook", "vas-codebook", "vggishish", "melception"])
def test_runs_on_released_mels_take_whole_clips(name):
    run = read_run(SCRIPTS / f"{name}.toml", [])
    assert (Clip().frames, Clip().columns) == (848, 53)
    assert run.crop_columns == 53 if run.kind == "codebook" else run.crop_frames == 848


def test_reconstruct_repeats_a_short_sound_and_keeps_its_level(scripts, write_part, tmp_path):
    config = CodebookConfig(clip=Clip(frames=64), n_codes=8, dim=8, channels=8, multipliers=(1, 1, 1, 1, 2), n_blocks=1)
    write_part(tmp_path / "codebook", "codebook", config)
    about = json.loads((tmp_path / "codebook/config.json").read_text())
    about["record"]["loudness_lufs"] = None
    (tmp_path / "codebook/config.json").write_text(json.dumps(about))
    tone = np.round(300 * np.sin(2 * np.pi * 1000 / 22050 * np.arange(6000))) / 32768
    soundfile.write(tmp_path / "a.wav", tone, 22050, subtype="FLOAT")
    row = Row("a", "a.wav", "sound", "", "test", "", 0.0, 6000 / 22050, 22050, "")
    real, made = scripts("reconstruct").Reconstruct(tmp_path, tmp_path / "codebook")()(row)
    assert real.shape == made.shape == (80, 64)
    whole = log_mel01(torch.from_numpy(np.resize(tone, 64 * 256).astype(np.float32))[None], config.clip)[0].numpy()
    np.testing.assert_allclose((real.astype(np.float32) + 1) / 2, whole, atol=2e-3)


def test_several_tables_run_what_they_share_once(scripts, monkeypatch, tmp_path):
    """And end with 3 where a command left something out."""
    table, ran = scripts("table"), []

    class Ended:
        def __init__(self, words):
            ran.append(tuple(words[1:]))
            self.returncode = 3 if "sample" in words else 0

    monkeypatch.setattr(table.subprocess, "run", Ended)
    arguments = ["table.py", "4", "18", "fig4", "--everyday", "material", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", arguments)
    assert table.main() == 3
    assert len(ran) == len(set(ran))
    made = [words[-1] for words in ran if "--model" in words]
    assert made == [f"{tmp_path}/trained/{condition}-model" for condition in table.SMALL_CONDITIONS]


def test_a_sheet_has_the_clips_that_all_folders_have(scripts, tmp_path, monkeypatch):
    """Two folders of sounds: the real ones, and two samples of each clip as `unsilent sample` writes them."""
    for name in ("real/dog/a", "real/dog/b", "real/cat/c", "made/dog/a/0", "made/dog/a/1", "made/cat/c/0", "made/cat/c/1"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / f"{name}.wav", 0.1 * np.sin(np.arange(9000) / 9), 22050)
    (tmp_path / "made/samples.json").write_text("{}")
    sheet, folders = scripts("figures"), [tmp_path / "real", tmp_path / "made"]
    rows, clips = sheet.choose(folders, ["real", "made"], 2, None)
    assert ([heading for heading, _ in rows], clips) == (["real", "made 1", "made 2"], ["cat/c", "dog/a"])
    assert rows[2][1]["dog/a"].path.name == "1.wav"
    assert sheet.choose(folders, ["real", "made"], 1, "dog")[1] == ["dog/a"]
    monkeypatch.setattr("sys.argv", ["figures.py", *map(str, folders), "-o", str(tmp_path / "out/figure.png"), "--takes", "2"])
    sheet.main()
    page = (tmp_path / "out/figure.html").read_text()
    assert page.count("<audio") == 6
    assert 'src="../made/dog/a/1.wav"' in page
    with Image.open(tmp_path / "out/figure.png") as figure:
        assert figure.size[0] > 500


def test_small_tables_pair_conditions_and_sounds_by_label(scripts, tmp_path):
    small, rows = scripts("small"), []
    for label, n_pictures in (("cat", 6), ("dog", 2), ("unknown", 2)):
        for i in range(n_pictures):
            Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(tmp_path / f"{label}{i}.png")
            rows.append(Row(f"{label}{i}", f"{label}{i}.png", "image", label, "valid", "", 0.0, 0.0, 0, ""))
        for split in ("train", "valid"):
            rows.append(Row(f"{label} {split}", f"{label} {split}.wav", "sound", label, split, "", 0.0, 1.0, 22050, ""))
    rows += [Row(name, "film.mp4", "clip", "", "valid", "", start, 9.8, 22050, "") for name, start in (("film", 0.0), ("film@9800", 9.8))]
    write_manifest(tmp_path, rows, tmp_path / "m.parquet")
    small.prepare(tmp_path / "m.parquet", tmp_path / "out", ("cat", "dog"), n_clips=5)
    tables = {name: read_manifest(tmp_path / f"out/{name}.parquet")[1] for name in small.CONDITIONS}
    for table in tables.values():
        assert [row.clip_id for row in table] == ["cat/cat0", "dog/dog0"]  # there is one real sound of each
    conditions = {name: [Path(row.path).stem for row in table] for name, table in tables.items()}
    assert {row.label for table in tables.values() for row in table} == {""}  # or models would be told what they are to see
    assert [row.label for row in read_manifest(tmp_path / "out/labelled.parquet")[1]] == ["cat", "dog"]
    own = ["cat0", "dog0"]
    assert conditions == {"nothing": ["grey", "grey"], "another-label": own[::-1], "1-picture": own, "5-pictures": own}
    assert [row.clip_id for row in read_manifest(tmp_path / "out/clips.parquet")[1]] == ["film"]
    assert (tmp_path / "out/films/film.mp4").readlink().name == "film.mp4"
    assert [row.kind for row in tables["5-pictures"]] == ["clip", "clip"]
    assert (tmp_path / "out/reference/cat/cat0.wav").readlink().name == "cat valid.wav"
    assert (tmp_path / "out/training-sound/dog/dog0.wav").readlink().name == "dog train.wav"
