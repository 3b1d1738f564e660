"""Sounds as files of codes, by the tiny model."""

from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch

from unsilent.codec.codec import Codec
from unsilent.codec.files import decode_file, encode_file
from unsilent.errors import DataError, ParameterError


@pytest.fixture
def codec(tiny_bundle):
    return Codec.load(str(tiny_bundle), "cpu", "float32")


def noise(seconds, level=0.01):
    return (level * np.random.default_rng(0).standard_normal(round(seconds * 22050))).astype(np.float32)


def test_a_decoded_sound_is_that_of_its_codes_at_the_level_of_the_original(codec, tmp_path):
    waveform = noise(12)
    size = encode_file(codec, waveform, tmp_path / "a.uns").n_bytes
    decoded = decode_file(codec, tmp_path / "a.uns")
    assert (decoded.lost, len(decoded.waveform)) == ([], len(waveform))
    assert size * 8 < 12 * codec.bitrate_kbps * 1000 + 8 * 230
    louder = encode_file(codec, 4 * waveform, tmp_path / "b.uns").n_bytes
    assert louder == size
    np.testing.assert_allclose(decode_file(codec, tmp_path / "b.uns").waveform, 4 * decoded.waveform, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(("start", "stop"), [(float("inf"), None), (0.0, 1e308), (float("nan"), 1.0)])
def test_parts_without_end_are_refused(codec, tmp_path, start, stop):
    encode_file(codec, noise(1), tmp_path / "a.uns")
    with pytest.raises(ParameterError, match="is no part of a sound"):
        decode_file(codec, tmp_path / "a.uns", start, stop)


def test_blocks_of_any_length_give_the_same_file(codec, tmp_path):
    """Read twice, to measure and to encode."""
    waveform, rng = noise(25), np.random.default_rng(1)

    def read():
        borders = [0, *sorted(rng.integers(0, len(waveform), 40)), len(waveform)]
        yield from (waveform[start:stop] for start, stop in pairwise(borders) if stop > start)

    encode_file(codec, waveform, tmp_path / "a.uns")
    assert encode_file(codec, read, tmp_path / "b.uns").n_samples == len(waveform)
    assert (tmp_path / "a.uns").read_bytes() == (tmp_path / "b.uns").read_bytes()


def test_pieces_of_a_decoded_sound_are_those_of_the_whole(codec):
    grid = codec.encode(noise(31))
    whole = codec.vocode(codec.decode(grid))
    pieces = list(codec.stream(grid))
    assert len(pieces) > 3
    assert torch.equal(torch.cat(pieces), whole)


@pytest.mark.parametrize(("start", "stop"), [(0.0, 3.2), (9.1, 10.4), (17.3, None), (24.9, 31.0), (0.0, None)])
def test_a_part_is_that_of_the_whole(codec, tmp_path, start, stop):
    encode_file(codec, noise(31), tmp_path / "a.uns")
    whole = decode_file(codec, tmp_path / "a.uns").waveform
    part = decode_file(codec, tmp_path / "a.uns", start, stop)
    expected = whole[round(start * 22050) : None if stop is None else round(stop * 22050)]
    assert part.n_samples == len(part.waveform) == len(expected)
    np.testing.assert_allclose(part.waveform, expected, atol=1e-4 * np.abs(whole).max())


def test_a_part_needs_the_blocks_around_it_only(codec, tmp_path):
    """Damage elsewhere is not seen, and a damaged part is silent."""
    encode_file(codec, noise(60), tmp_path / "a.uns")
    data = bytearray((tmp_path / "a.uns").read_bytes())
    data[data.find(b"\xabUNB") + 20] ^= 255
    (tmp_path / "a.uns").write_bytes(data)
    assert decode_file(codec, tmp_path / "a.uns", 45.0, 46.0).lost == []
    part = decode_file(codec, tmp_path / "a.uns", 2.0, 3.0)
    assert [stop for _, stop in part.lost] == [pytest.approx(9.845, abs=0.01)]
    assert not part.waveform.any()
    assert len(part.waveform) == 22050
    with pytest.raises(ParameterError, match=r"a\.uns is 60\.00 s long; choose a part inside"):
        decode_file(codec, tmp_path / "a.uns", 60.0)
    with pytest.raises(ParameterError, match="choose a part inside"):
        decode_file(codec, tmp_path / "a.uns", 5.0, 4.0)


def test_memory_for_sound_does_not_grow_with_the_length(codec, tmp_path):
    """Blocks of an hour are asked for one by one, each when the codes of those before are written."""
    seen = []

    def read():
        for number in range(40):
            seen.append(number)
            yield noise(9.9)

    grids = codec.encode_blocks(read())
    next(grids)
    assert len(seen) <= 3
    pieces = codec.stream(torch.zeros(codec.codebook.rows, 20_000, dtype=torch.long))
    assert next(pieces).shape[0] < 22 * 22050


def test_sounds_without_samples_are_refused(codec, tmp_path):
    with pytest.raises(ParameterError, match="without samples"):
        encode_file(codec, lambda: iter(()), tmp_path / "a.uns")
    assert not (tmp_path / "a.uns").exists()


def test_lost_blocks_are_silent_and_named(codec, tmp_path):
    encode_file(codec, noise(22), tmp_path / "a.uns")
    data = bytearray((tmp_path / "a.uns").read_bytes())
    data[data.find(b"\xabUNB", data.find(b"\xabUNB") + 1) + 20] ^= 255
    (tmp_path / "a.uns").write_bytes(data)
    given, stream = [], codec.stream
    codec.stream = lambda grid, columns: stream(given.append(grid) or grid, columns)
    decoded = decode_file(codec, tmp_path / "a.uns")
    ((start, stop),) = decoded.lost
    assert (start, stop) == pytest.approx((9.845, 19.69), abs=0.01)
    assert not decoded.waveform[round(start * 22050) : round(stop * 22050)].any()
    assert decoded.waveform[: round(start * 22050)].any()
    silence = codec.encode(np.zeros(codec.clip.n_samples, np.float32))
    assert torch.equal(given[0][:, 53:106], silence[:, 26:27].expand(-1, 53))  # so the blocks beside it end and begin in silence


def test_files_of_another_codebook_are_refused(codec, tiny_parts, tmp_path):
    encode_file(codec, noise(1), tmp_path / "a.uns")
    with pytest.raises(ParameterError, match="entropy coding needs a sampler over columns, as in everyday; leave out --entropy"):
        encode_file(codec, noise(1), tmp_path / "b.uns", entropy=True)
    codec.digest = bytes(16)
    with pytest.raises(ParameterError, match=r"a\.uns was written with another codebook; choose its model"):
        decode_file(codec, tmp_path / "a.uns")
    with pytest.raises(DataError, match=r"cannot read .*missing\.uns: No such file"):
        decode_file(codec, tmp_path / "missing.uns")


def test_encode_and_decode_of_the_command_line(tiny_bundle, tmp_path, capsys):
    from unsilent.cli.main import run

    soundfile.write(tmp_path / "a.wav", noise(2), 22050)
    assert run(["encode", str(tmp_path / "a.wav"), "-o", str(tmp_path / "a.uns"), "--model", str(tiny_bundle)]) == 0
    assert "2.00 s in" in capsys.readouterr().out
    assert run(["decode", str(tmp_path / "a.uns"), "-o", str(tmp_path / "b.wav"), "--model", str(tiny_bundle)]) == 0
    assert soundfile.info(tmp_path / "b.wav").frames == 44100
    assert run(["decode", str(tmp_path / "a.wav"), "-o", str(tmp_path / "c.wav"), "--model", str(tiny_bundle)]) == 2
    assert "is not a file of codes" in capsys.readouterr().err


def test_no_file_of_others_is_replaced(tiny_bundle, tmp_path, capsys):
    from unsilent.cli.main import run

    soundfile.write(tmp_path / "a.wav", noise(1), 22050)
    (tmp_path / "b.uns").write_bytes(b"notes of somebody")
    made = ["encode", str(tmp_path / "a.wav"), "-o", str(tmp_path / "b.uns"), "--model", str(tiny_bundle)]
    assert run(made) == 2
    assert "b.uns exists and was not made by unsilent" in capsys.readouterr().err
    assert run([*made, "--overwrite"]) == run(made) == 0  # the second replaces its own file
    assert run(["decode", str(tmp_path / "b.uns"), "-o", str(tmp_path / "a.wav"), "--model", str(tiny_bundle)]) == 2
    assert "a.wav exists and was not made by unsilent" in capsys.readouterr().err


def test_a_codebook_alone_is_a_model(tmp_path, capsys):
    from unsilent.checkpoints.folders import SHIPPED
    from unsilent.cli.main import run

    soundfile.write(tmp_path / "a.wav", noise(1), 22050)
    for number, model in enumerate(["everyday", str(SHIPPED / "everyday" / "codebook")]):
        assert run(["encode", str(tmp_path / "a.wav"), "-o", str(tmp_path / f"{number}.uns"), "--model", model, "--device", "cpu"]) == 0
    assert (tmp_path / "0.uns").read_bytes() == (tmp_path / "1.uns").read_bytes()
