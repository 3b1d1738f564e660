"""Run files: what they may say, and how their mistakes are said."""

from pathlib import Path

import pytest

from unsilent import presets
from unsilent.errors import ParameterError
from unsilent.train.config import read_run

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
        (["steps=0"], r"^steps is 0, but must be above 0\.$"),
        (["steps"], "--set takes key=value, found 'steps'"),
        (["patience=2"], "patience 2 counts validations, but valid_every is 0"),
        (["gain_db=[3.0, -3.0]"], r"gain_db is a range, the lower first, found \[3.0, -3.0\]"),
        (["speed=[0.1, 1.0]"], r"speed is a range within 0.5 to 2, the lower first, found \[0.1, 1.0\]"),
        (["kind=wings"], "has kind 'wings'; known kinds are codebook, vocoder, sampler, classifier"),
    ],
)
def test_mistakes_are_named(minimal, overrides, words):
    with pytest.raises(ParameterError, match=words):
        read_run(minimal, overrides)


def test_a_missing_file_and_bad_toml(tmp_path):
    with pytest.raises(ParameterError, match="cannot read the run"):
        read_run(tmp_path / "none.toml", [])
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(ParameterError, match="is not TOML"):
        read_run(tmp_path / "bad.toml", [])
