"""Run files: overrides, errors, descriptions of settings."""

from pathlib import Path
from typing import get_args

import pytest

from unsilent import presets
from unsilent.choices import TrainingKind
from unsilent.errors import ParameterError
from unsilent.train.config import explain, read_run

RUNS = sorted((Path(__file__).parents[2] / "runs").rglob("*.toml"))
MINIMAL = 'kind = "vocoder"\npreset = "everyday"\nshards = "s"\nout = "o"\nsteps = 10\nbatch = 2\nlearning_rate = 1e-3\n'


@pytest.fixture
def minimal(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(MINIMAL)
    return path


@pytest.mark.parametrize("path", RUNS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shipped_runs_are_valid(path):
    assert presets.get(read_run(path, []).preset)


def test_overrides(minimal):
    run = read_run(minimal, ["steps=20", "out=elsewhere/here", "gain_db=[-1.0, 2.0]"])
    assert (run.steps, run.out, run.gain_db) == (20, Path("elsewhere/here"), (-1.0, 2.0))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["stepz=3"], r"there is no field 'stepz'; did you mean steps\?$"),
        (["stepz="], r"--set stepz= cannot remove the setting: a vocoder training does not have it; did you mean steps\?$"),
        (["steps="], r"^steps is missing\.$"),
        (["steps=0"], r"^steps is 0, but must be above 0\.$"),
        (["steps"], "--set is 'steps', but must be key=value"),
        (["patience=2"], "patience is 2, but valid_every is 0"),
        (["gain_db=[3.0, -3.0]"], r"gain_db is \[3.0, -3.0\], but must be a range, the lower value first"),
        (["speed=[0.1, 1.0]"], r"speed is \[0.1, 1.0\], but must be a range within 0.5 to 2"),
        (["kind=codebook"], "--set cannot change the kind of .*, which is vocoder; give another run file"),
    ],
)
def test_wrong_overrides_are_named(minimal, overrides, words):
    with pytest.raises(ParameterError, match=words):
        read_run(minimal, overrides)


def test_an_empty_value_removes_a_setting(tmp_path, minimal):
    minimal.write_text(MINIMAL.replace("vocoder", "sampler") + 'codebook = "c"\n')
    run = read_run(minimal, ["codebook=", "initial=i", "seed="])
    assert (run.codebook, run.initial, run.seed) == (None, Path("i"), 0)
    with pytest.raises(ParameterError, match="codebook has no effect on a training that starts from initial; leave one out"):
        read_run(minimal, ["initial=i"])


@pytest.mark.parametrize("kind", get_args(TrainingKind))
def test_explain_describes_every_setting(kind):
    rows = {name: others for name, *others in explain(kind)}
    assert all(meaning for _, _, meaning in rows.values())
    assert rows["steps"] == ["required", "> 0", "optimizer steps"]
    assert rows["precision"][:2] == ["32-true", "32-true | bf16-mixed"]
    assert "kind" not in rows


def test_unusable_files_are_named(tmp_path, minimal):
    with pytest.raises(ParameterError, match="cannot be read"):
        read_run(tmp_path / "none.toml", [])
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(ParameterError, match="is not TOML"):
        read_run(tmp_path / "bad.toml", [])
    minimal.write_text(MINIMAL.replace("vocoder", "wings"))
    with pytest.raises(ParameterError, match="has kind 'wings'; known kinds are codebook, vocoder, sampler, classifier"):
        read_run(minimal, [])
