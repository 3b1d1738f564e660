"""`unsilent models` in terminals of several widths."""

import re
import sys

import pytest
from safetensors.torch import load_file

from unsilent.published.about import entries


@pytest.fixture
def terminal(monkeypatch):
    """`terminal(width)` makes stdout a terminal of that width."""

    def call(width):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(width))

    return call


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_models_shows_whole_rows_in_a_terminal(unsilent, terminal, width):
    terminal(width)
    code, out, _ = unsilent("models")
    assert code == 0
    lines = re.sub(r"\x1b\[\d*m", "", out).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].split()[:4] == ["model", "FID", "MKL", "weights"]
    for line, row in zip(lines[1:], entries(), strict=False):
        assert line.startswith(f"{row.name} ")
        assert line[len(row.name) :].split()[: 2 if row.fid else 0] == [value for value in (row.fid, row.mkl) if value]
        assert row.weights in line
    assert ("description" in lines[0]) is (width >= 120)


def test_models_lists_descriptions_in_a_pipe(unsilent):
    _, out, _ = unsilent("models")
    assert all(row.summary in out for row in entries())


def test_fetch_without_network_lists_all_files_with_urls_and_places(unsilent, monkeypatch, own_cache):
    import socket

    def offline(*args, **options):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    code, out, err = unsilent("models", "fetch", "vggsound-class")
    assert (code, out, len(err)) == (2, "", 1)
    folder = "https://a3s.fi/swift/v1/AUTH_a235c0f452d648828f745589cde1219a/specvqgan_public"
    archive = "2021-06-03T00-43-28_vggsound_transformer.tar.gz"
    assert "cannot reach a3s.fi (Name or service not known)" in err[0]
    assert f"download {folder}/melgan_ckpt/netG.pt to {own_cache}/downloads/netG.pt" in err[0]
    assert f"and {folder}/models/{archive} to {own_cache}/downloads/{archive} by hand, or choose a mirror with --mirror." in err[0]


def test_parts_are_assembled_with_the_numbers_that_are_asked_for(unsilent, tiny_parts, tmp_path):
    options = [word for role, folder in tiny_parts.items() for word in (f"--{role}", str(folder))]
    for numbers, dtype in (("float32", "torch.float32"), ("float16", "torch.float16")):
        code, _, err = unsilent("models", "assemble", "-o", str(tmp_path / numbers), "--numbers", numbers, *options)
        assert code == 0, err
        weights = load_file(tmp_path / numbers / "sampler/model.safetensors")
        assert {str(weight.dtype) for weight in weights.values()} == {dtype}
