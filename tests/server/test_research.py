"""Material of a manifest by split and class, and reports of evaluations."""

import pytest

pytest.importorskip("pyarrow")

from unsilent.data.manifest import Row, write_manifest


@pytest.fixture
def manifest(make_clip, tmp_path):
    for name in ("dog", "rain"):
        make_clip(f"{name}.mp4")
    rows = [
        Row(name, f"{name}.mp4", "clip", name, split, "", 0.0, 0.8, 22050, "0" * 64) for name, split in (("dog", "test"), ("rain", "train"))
    ]
    rows.append(Row("still", "still.png", "image", "dog", "test", "", 0.0, 0.0, 0, "0" * 64))
    write_manifest(tmp_path, rows, tmp_path / "manifest.parquet")
    return tmp_path / "manifest.parquet"


def test_material_by_split_and_class(start, helpers, manifest):
    client = start(helpers.Idle(), manifest=manifest)
    everything = client.get("/api/material").json()
    assert (everything["splits"], everything["labels"]) == (["test", "train"], ["dog", "rain"])
    assert [row["clip_id"] for row in everything["rows"]] == ["dog", "rain"]
    assert [row["clip_id"] for row in client.get("/api/material?split=test").json()["rows"]] == ["dog"]
    assert client.get("/api/material?split=test&label=rain").json()["n"] == 0
    opened = client.post("/api/material/1/open").json()
    assert (opened["name"], opened["label"], opened["kind"]) == ("rain.mp4", "rain", "video")
    assert helpers.ask(client, opened["id"])["state"] == "queued"
    assert client.post("/api/material/2/open").status_code == 404


def test_reports_open_with_their_sounds_and_nothing_else(start, helpers, tmp_path):
    (tmp_path / "out/run").mkdir(parents=True)
    (tmp_path / "out/run/report.html").write_text("<title>scores</title>")
    (tmp_path / "secret.txt").write_text("not to be served")
    (tmp_path / "out/link").symlink_to(tmp_path / "secret.txt")
    client = start(helpers.Idle(), reports=tmp_path / "out")
    assert client.get("/api/reports").json() == ["run/report.html"]
    answer = client.get("/reports/run/report.html")
    assert "scores" in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    for path in ("../secret.txt", "%2e%2e/secret.txt", "..%2fsecret.txt", "link"):
        assert "not to be served" not in client.get(f"/reports/{path}").text


def test_without_material(start, helpers):
    client = start(helpers.Idle())
    assert client.get("/api/material").json()["rows"] == []
    assert client.get("/api/reports").json() == []
    assert client.get("/api/limits").json()["research"] == {"manifest": False, "reports": False}
