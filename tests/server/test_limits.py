"""What the server refuses, in one sentence and without its folders, and whom it serves nothing."""

import pytest

from unsilent.server.service import without_folders
from unsilent.server.store import safe_name


def refused(answer, status, text):
    assert answer.status_code == status, answer.text
    assert text in answer.json()["error"]
    assert "/" not in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "status", "text"),
    [
        (b"", 415, "is empty"),
        (b"hello, I am text", 415, "is not a media file"),
        (b"#EXTM3U\n/etc/passwd\n", 415, "is not a media file"),
        (b"\0" * 100_001, 413, "more than 100000 bytes"),
    ],
    ids=["empty", "text", "playlist", "large"],
)
def test_wrong_files(start, helpers, content, status, text):
    client = start(helpers.Idle(), max_bytes=100_000)
    refused(client.put("/api/inputs?name=../../x.mp4", content=iter([content])), status, text)
    assert list((client.service.store.folder / "inputs").iterdir()) == []


def test_what_the_framework_refuses_has_the_same_form(start, helpers):
    client = start(helpers.Idle())
    refused(client.post("/api/jobs", content=b"{\xff", headers={"Content-Type": "application/json"}), 400, "error parsing the body.")
    refused(client.post("/api/jobs", content=b"{", headers={"Content-Type": "application/json"}), 422, "JSON")
    refused(client.get("/api/nothing"), 404, "not found.")
    refused(client.post("/api/models"), 405, "method not allowed.")


def test_announced_size_is_refused_before_it_is_sent(start, helpers):
    client = start(helpers.Idle(), max_bytes=10)
    refused(client.put("/api/inputs", content=b"eleven byte"), 413, "the limit of this server is 10")


@pytest.mark.parametrize(
    ("limit", "text"), [({"max_seconds": 0.5}, "seconds"), ({"max_pictures": 10}, "frames"), ({"max_pixels": 1000}, "pixels")], ids=str
)
def test_videos_beyond_the_limits(start, helpers, make_clip, limit, text):
    client = start(helpers.Idle(), **limit)
    refused(client.put("/api/inputs?name=a.mp4", content=make_clip("a.mp4").read_bytes()), 413, text)


def test_a_full_store(start, helpers, make_clip):
    refused(start(helpers.Idle(), max_stored=1000).put("/api/inputs", content=make_clip("a.mp4").read_bytes()), 503, "server is full")


@pytest.mark.parametrize(
    ("job", "status", "text"),
    [
        ({"request": {"takes": 300}}, 422, "takes times candidates is 300"),
        ({"request": {"takes": 2, "candidates": 3}}, 422, "does not rank"),
        ({"request": {"seconds": 4e4}}, 422, "seconds is 40000"),
        ({"request": {"seed": -1}}, 422, "seed is -1"),
        ({"request": {"sead": 1}}, 422, "did you mean seed"),
        ({"request": {"label": "dog"}}, 422, "has no classes"),
        ({"request": {"prime": "own"}}, 422, "the video has no sound"),
        ({"kind": "reconstruct"}, 422, "needs a video with sound or sound"),
        ({"kind": "decode"}, 422, "needs codes"),
        ({"model": "nosuch"}, 422, "no model"),
        ({"model": "../tiny"}, 422, "not a path"),
        ({"vocoder": "x"}, 422, "vocoder is 'x'"),
        ({"surprise": 1}, 422, "there is no field"),
    ],
    ids=str,
)
def test_wrong_jobs(start, helpers, make_clip, job, status, text):
    client = start(helpers.Idle())
    source = helpers.upload(client, make_clip("a.mp4"))["id"]
    refused(client.post("/api/jobs", json={"input": source, "model": "tiny", **job}), status, text)
    assert client.get("/api/jobs").json() == []


def test_a_sound_that_needs_too_much_memory(start, helpers, make_clip):
    client = start(helpers.Idle(), max_memory=2 << 30)
    source = helpers.upload(client, make_clip("a.mp4"))["id"]
    ask = {"input": source, "model": "tiny", "request": {"seconds": 1800.0}}
    refused(client.post("/api/jobs", json=ask), 422, "GB of memory, but the limit is 2.1 GB")
    assert client.post("/api/jobs", json={**ask, "request": {"seconds": 600.0}}).status_code == 202


def test_jobs_are_refused_while_the_store_is_full(start, helpers, make_clip):
    client = start(helpers.Idle(), max_stored=100_000)
    source = helpers.upload(client, make_clip("a.mp4"))["id"]
    (client.service.store.folder / "jobs" / "large").write_bytes(bytes(100_000))
    refused(client.post("/api/jobs", json={"input": source, "model": "tiny"}), 503, "server is full")


def test_bodies_that_are_kept_in_memory_are_small(start, helpers):
    client = start(helpers.Idle())
    refused(client.post("/api/jobs", content=bytes(2 << 20)), 413, "limit of requests other than uploads")
    refused(client.post("/api/jobs", content=iter([b"{}"])), 411, "must have a Content-Length")


def test_a_client_with_too_many_jobs(start, helpers, make_clip):
    client = start(helpers.Idle(), max_waiting_each=2)
    source = helpers.upload(client, make_clip("a.mp4"))["id"]
    answers = [client.post("/api/jobs", json={"input": source, "model": "tiny"}) for _ in range(4)]
    assert [answer.status_code for answer in answers] in ([202, 202, 202, 429], [202, 202, 429, 429])
    assert int(answers[-1].headers["Retry-After"]) >= 1


def test_nobody_is_served_what_is_anothers(start, helpers, make_clip):
    client = start()
    source = helpers.upload(client, make_clip("a.mp4"))["id"]
    job = helpers.finish(client, helpers.ask(client, source))
    routes = [("GET", f"/api/inputs/{source}"), ("GET", f"/api/inputs/{source}/file"), ("DELETE", f"/api/inputs/{source}")]
    routes += [(how, f"/api/jobs/{job['id']}{rest}") for how, rest in (("GET", ""), ("GET", "/events"), ("GET", "/files/take1.wav"),
                                                                     ("POST", "/stop"), ("DELETE", ""))]  # fmt: skip
    for how, route in routes:
        assert client.request(how, route, headers=helpers.OTHER).status_code == 404, route
    assert client.post("/api/jobs", json={"input": source, "model": "tiny"}, headers=helpers.OTHER).status_code == 404
    assert client.get("/api/jobs", headers=helpers.OTHER).json() == []
    assert client.get(f"/api/jobs/{job['id']}/files/take1.wav").status_code == 200


@pytest.mark.parametrize(
    "name", ["..%2f..%2fserver.sqlite", "%2e%2e", "%2e%2e%2fserver.sqlite", ".hidden", "stop%2f..%2ftake1.wav", "nosuch"]
)
def test_only_files_of_the_job_are_served(start, helpers, make_clip, name):
    client = start()
    job = helpers.finish(client, helpers.ask(client, helpers.upload(client, make_clip("a.mp4"))["id"]))
    assert client.get(f"/api/jobs/{job['id']}/files/{name}").status_code in (404, 405)


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("a b.MP4", "a_b.mp4"), ("../../etc/passwd", "passwd.bin"), ("C:\\videos\\x.mov", "x.mov"), ("", "upload.bin"), (".mp4", "mp4.bin"),
        ("a\0\n\x1b[31m.mp4", "a_31m.mp4"), ("ü" * 300 + ".mp4", "ü" * 60 + ".mp4"), ("x.mp4;rm -rf", "x.mp4rm"),
        ("日本.webm", "日本.webm"), ("-o.mp4", "-o.mp4"), ("<img src=x>.mp4", "img_src_x.mp4"),
    ],
)  # fmt: skip
def test_names_are_made_safe(name, kept):
    assert safe_name(name) == kept


def test_a_token_is_needed_where_it_is_set(start, helpers):
    client = start(helpers.Idle(), token="a long secret")
    for route in ("/", "/api/jobs", "/metrics", "/api/openapi.json"):
        refused(client.get(route), 401, "needs a token")
        assert client.get(route, headers={"Authorization": "Bearer a long secret"}).status_code == 200
        assert client.get(route, headers={"Authorization": "Bearer a wrong secret"}).status_code == 401
    assert client.get("/api/health").status_code == 200
    assert client.get("/?token=a long secret").status_code == 200
    assert client.get("/api/jobs").status_code == 200  # by the cookie of the page


def test_pages_of_other_origins_are_refused(start, helpers):
    client = start(helpers.Idle())
    refused(client.post("/api/inputs/example", headers={"Origin": "http://evil.example"}), 403, "another origin")
    refused(client.post("/api/inputs/example", headers={"Origin": "null"}), 403, "another origin")
    refused(client.get("/api/jobs", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}), 403, "another origin")
    refused(client.get("/", headers={"Host": "evil.example"}), 421, "names of this machine")
    assert client.get("/", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}).status_code == 200


def test_every_answer_has_its_rules(start, helpers):
    answer = start(helpers.Idle()).get("/")
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_new_client_gets_a_cookie_that_scripts_cannot_read(start, helpers):
    client = start(helpers.Idle())
    cookie = client.get("/", headers={"Unsilent-Client": ""}).headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie


def test_folders_are_left_out_of_sentences():
    assert without_folders("/root/a b/c/inputs/xyz/cat.mp4 has no audio.").endswith("cat.mp4 has no audio.")
    assert "/" not in without_folders("/srv/x/inputs/1/cat.mp4 is damaged, not /srv/y/dog.mp4.")
    assert without_folders("1 kbit/s and 3/4") == "1 kbit/s and 3/4"
