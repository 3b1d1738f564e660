"""The command line in this process, with the tiny model."""

import re
from types import SimpleNamespace

import pytest

from unsilent.checkpoints import bundle, folders
from unsilent.cli.main import run
from unsilent.loading import load
from unsilent.pipeline import Pipeline


@pytest.fixture
def unsilent(tiny_bundle, parts, monkeypatch, capsys, tmp_path):
    """`unsilent("generate", "a.mp4")` in a folder of its own gives exit code, stdout and the lines of stderr."""
    monkeypatch.setattr(bundle, "load_backbone", lambda name: (parts.backbone, parts.backbone_row))
    monkeypatch.setattr(folders, "SHIPPED", tiny_bundle.parent)
    monkeypatch.chdir(tmp_path)

    def call(verb, *arguments, model="tiny"):
        chosen = ["--model", model] if verb in ("generate", "reconstruct") else []
        code = run([verb, *map(str, arguments), *chosen])
        out, err = capsys.readouterr()
        return code, out, err.splitlines()

    return call


@pytest.fixture
def recorder(monkeypatch):
    """`models` and `pipelines` of all calls of `load`, and the `requests` of all calls of `Pipeline.takes`."""
    record, takes = SimpleNamespace(models=[], pipelines=[], requests=[]), Pipeline.takes

    def recording_load(name, *rest):
        record.models.append(name)
        record.pipelines.append(load(name, *rest))
        return record.pipelines[-1]

    def recording_takes(self, video, n_takes=None, request=None, **named):
        record.requests.append(request)
        return takes(self, video, n_takes, request, **named)

    monkeypatch.setattr("unsilent.loading.load", recording_load)
    monkeypatch.setattr(Pipeline, "takes", recording_takes)
    return record


@pytest.fixture(scope="session")
def refused():
    """`refused(unsilent(...), pattern)`: exit code 2, nothing on stdout, and one line on stderr that matches all patterns."""

    def check(result, *patterns):
        code, out, err = result
        assert (code, out, len(err)) == (2, "", 1), result
        assert err[0].startswith("unsilent: ")
        for pattern in patterns:
            assert re.search(pattern, err[0]), err[0]

    return check
