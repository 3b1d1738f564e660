"""The command line in this process, with the tiny model."""

import pytest

from unsilent.checkpoints import bundle, folders
from unsilent.cli.main import run


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
