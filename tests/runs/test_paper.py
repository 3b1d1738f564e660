"""The scripts of the paper's tables: their commands parse, and small tables pair images with sounds and conditions of their label."""

import importlib
import shlex
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from unsilent import presets
from unsilent.cli.main import app
from unsilent.data.manifest import Row, read_manifest, write_manifest

SCRIPTS = Path(__file__).parents[2] / "runs/paper"
WHICH = ["1", "2", "3", "4", "5", "16", "17", "18"]


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
@pytest.mark.parametrize(
    "scale", [[], ["--everyday", "material", "--classifier", "one", "--classifier", "other", "--workers", "2"]], ids=["full", "small"]
)
def test_commands_parse(printed, which, scale):
    commands = printed(which, *scale)
    assert commands
    for program, *words in commands:
        if program == "unsilent":
            parse(words)
        elif program == "python":
            assert Path(words[0]).is_file()


def test_table_3_samples_all_models_of_the_paper(printed):
    commands = printed("3")
    sampled = [parse(words[1:]) for words in commands if words[1] == "sample"]
    models = [parameters["model"] for parameters in sampled]
    paper = [name for name in presets.names() if name.startswith(("vggsound", "vas")) and "class" not in name]
    assert sorted(models) == sorted(paper)
    assert {(parameters["split"], parameters["samples"]) for parameters in sampled} == {("test", 10), ("valid", 100)}
    evaluated = [folder.name for words in commands if words[1] == "evaluate" for folder in parse(words[1:])["generated"]]
    assert evaluated == models


def test_small_table_2_requires_two_classifiers(scripts, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["table.py", "2", "--everyday", "material", "--classifier", "judge"])
    with pytest.raises(SystemExit):
        scripts("table").main()
    assert "evaluates by another: give --classifier twice" in capsys.readouterr().err


def test_small_tables_pair_conditions_and_sounds_by_label(scripts, tmp_path):
    small, rows = scripts("small"), []
    for label, n_pictures in (("cat", 6), ("dog", 2), ("unknown", 2)):
        for i in range(n_pictures):
            Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(tmp_path / f"{label}{i}.png")
            rows.append(Row(f"{label}{i}", f"{label}{i}.png", "image", label, "valid", "", 0.0, 0.0, 0, ""))
        for split in ("train", "valid"):
            rows.append(Row(f"{label} {split}", f"{label} {split}.wav", "sound", label, split, "", 0.0, 1.0, 22050, ""))
    write_manifest(tmp_path, rows, tmp_path / "m.parquet")
    small.prepare(tmp_path / "m.parquet", tmp_path / "out", ("cat", "dog"), n_clips=5)
    tables = {name: read_manifest(tmp_path / f"out/{name}.parquet")[1] for name in small.CONDITIONS}
    for table in tables.values():
        assert [row.clip_id for row in table] == ["cat/cat0", "dog/dog0"]  # there is one real sound of each
    conditions = {name: [Path(row.path).stem for row in table] for name, table in tables.items()}
    own = ["cat0", "dog0"]
    assert conditions == {"nothing": ["grey", "grey"], "another-label": own[::-1], "1-picture": own, "5-pictures": own}
    assert [row.kind for row in tables["5-pictures"]] == ["clip", "clip"]
    assert (tmp_path / "out/reference/cat/cat0.wav").readlink().name == "cat valid.wav"
    assert (tmp_path / "out/training-sound/dog/dog0.wav").readlink().name == "dog train.wav"
