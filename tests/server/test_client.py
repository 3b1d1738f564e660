"""`unsilent.Client` against a server that listens."""

import pytest

import unsilent
from unsilent.errors import MediaError, ParameterError, UnsilentError


@pytest.fixture
def address(listen):
    return listen()


def test_a_video_gets_its_sounds(address, make_clip, tmp_path):
    client, stages = unsilent.Client(address), []
    made = client.generate(
        make_clip("my clip.mp4"), tmp_path / "out", model="tiny", takes=2, seed=3, progress=lambda stage, share: stages.append(stage)
    )
    assert [path.name for path in made] == ["my_clip.seed3.take1.mp4", "my_clip.seed3.take2.mp4"]
    assert all(path.stat().st_size for path in made)
    assert stages
    job = client.jobs()[0]
    assert client.job(job["id"]) == job
    assert unsilent.Client(address).jobs() == []
    assert {model["name"] for model in client.models()} >= {"everyday"}


def test_mistakes_are_those_of_the_package(address, make_clip, tmp_path):
    client = unsilent.Client(address)
    with pytest.raises(MediaError, match=r"nosuch.mp4 does not exist"):
        client.upload(tmp_path / "nosuch.mp4")
    (tmp_path / "text.mp4").write_text("no media")
    with pytest.raises(ParameterError, match="is not a media file"):
        client.upload(tmp_path / "text.mp4")
    source = client.upload(make_clip("a.mp4"))
    with pytest.raises(ParameterError, match="did you mean"):
        client.submit(source, model="everyda")
    with pytest.raises(ParameterError, match="no such file"):
        client.fetch(client.wait(client.submit(source, model="tiny")), "nosuch", tmp_path)


def test_no_server():
    with pytest.raises(UnsilentError, match="no server answers at"):
        unsilent.Client("http://127.0.0.1:9").models()
    with pytest.raises(ParameterError, match="is not the address of a server"):
        unsilent.Client("ftp://127.0.0.1")
