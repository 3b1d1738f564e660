"""The routes: from upload to result, with the tiny model."""

import base64
import io
import json
import zipfile
from functools import cache

import numpy as np
import pytest
import soundfile

from unsilent.generation.sidecar import find_sidecar, video_of
from unsilent.loading import load
from unsilent.media.probe import read_comment
from unsilent.request import Request

TONE = 0.3 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)[None]


def wav_of(client, job, number=0):
    name = job["sounds"][number]["wav"]
    answer = client.get(f"/api/jobs/{job['id']}/files/{name}")
    assert answer.status_code == 200
    return answer.content


def flicker(number):
    return np.full((48, 64, 3), 250 if number % 10 == 0 else 9, np.uint8)


def test_the_whole_way(start, helpers, make_clip, tmp_path):
    client, clip = start(), make_clip("clip.mp4")
    source = helpers.upload(client, clip)
    assert {"name": "clip.mp4", "kind": "video", "seconds": 0.8, "has_sound": False}.items() <= source.items()
    events = helpers.follow(client, helpers.ask(client, source["id"], takes=2, seed=5))
    names = [name for name, _ in events]
    assert names[-1] == "end"
    assert names.count("sound") == 2
    mel = next(event for name, event in events if name == "mel")
    assert len(base64.b64decode(mel["mel"])) % 80 == 0
    shares = [event["share"] for name, event in events if name == "progress"]
    assert shares == sorted(shares)
    job = events[-1][1]
    assert job["state"] == "done"
    for sound in job["sounds"]:
        files = {key: client.get(f"/api/jobs/{job['id']}/files/{sound[key]}").content for key in ("video", "wav", "mel", "outline")}
        assert len(files["mel"]) == sound["bands"] * sound["frames"]
        assert files["video"][4:8] == b"ftyp"
        assert len(sound["heard"]) == 10
    made = load("tiny", "cpu").takes(clip, 2, seed=5)
    for number, take in enumerate(made):
        take.save_wav(tmp_path / "same.wav")
        assert wav_of(client, job, number) == (tmp_path / "same.wav").read_bytes()


def test_results_are_listed_and_deleted(start, helpers, make_clip):
    client = start()
    job = helpers.finish(client, helpers.ask(client, helpers.upload(client, make_clip("clip.mp4"))["id"]))
    assert [one["id"] for one in client.get("/api/jobs").json()] == [job["id"]]
    assert client.delete(f"/api/jobs/{job['id']}").status_code == 204
    assert client.get("/api/jobs").json() == []
    assert client.get(f"/api/jobs/{job['id']}/files/take1.wav").status_code == 404
    assert list((client.service.store.folder / "jobs").iterdir()) == []


@pytest.fixture(scope="module")
def controlled(client, helpers, write_clip, tmp_path_factory):
    """`controlled(model)`: the sound of a job without controls, and a function that gives the sound of one with them."""

    @cache
    def begin(model):
        shown = {"sound": TONE} if model == "tiny" else {"n_frames": 50, "images": flicker}
        source = helpers.upload(client, write_clip(tmp_path_factory.mktemp(model) / "clip.mp4", **shown))["id"]

        def make(**fields):
            job = helpers.finish(client, helpers.ask(client, source, model, **fields))
            assert job["state"] == "done", job["why"]
            return wav_of(client, job)

        return make(), make

    return begin


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1}, {"temperature": 3.0}, {"top_k": 1}, {"guidance": 9.0}, {"seconds": 0.4}, {"prime": "own", "prime_seconds": 0.3},
        {"prime": "own", "prime_seconds": 0.3, "prime_keep": "samples"},
        {"cues": [{"seconds": 0.3}]}, {"mute": [{"start": 0.1, "stop": 0.5}]}, {"rate": 48000}, {"bits": "24"}, {"stereo": True},
        {"lufs": -30.0}, {"true_peak": -20.0}, {"fade_in": 0.3}, {"fade_out": 0.3},
    ],
    ids=str,
)  # fmt: skip
def test_each_control_changes_the_sound(controlled, change):
    plain, make = controlled("tiny")
    assert make(**change) != plain


@pytest.mark.parametrize(
    "change",
    [{"label": "dog"}, {"candidates": 1}, {"motion": False}, {"prompt_track": [{"start": 0.4, "stop": 1.2, "label": "rain"}]}],
    ids=str,
)
def test_each_control_of_the_default_model_changes_the_sound(controlled, change):
    plain, make = controlled("everyday")
    assert make(**change) != plain


def test_cuts_change_the_sound(client, helpers, make_clip):
    clip = make_clip("both.mp4", n_frames=100, images=lambda number: np.full((48, 64, 3), 240 if number >= 50 else 10, np.uint8))
    source = helpers.upload(client, clip)["id"]
    apart, whole = (helpers.finish(client, helpers.ask(client, source, "everyday", candidates=1, scenes=scenes))
                   for scenes in ("auto", "off"))  # fmt: skip
    assert whole["state"] == "done", whole["why"]
    assert wav_of(client, apart) != wav_of(client, whole)


def test_another_model_gives_another_sound(client, helpers, make_clip):
    source = helpers.upload(client, make_clip("clip.mp4"))["id"]
    first, second = (helpers.finish(client, helpers.ask(client, source, model, attention=True)) for model in ("tiny", "everyday"))
    assert second["state"] == "done", second["why"]
    shown = [job["sounds"][0]["attention"] for job in (first, second)]
    assert [one["of"] for one in shown] == ["position of the condition", "distance to earlier columns"]
    assert 0 < shown[0]["to_condition"] < 1
    assert "to_condition" not in shown[1]  # every column carries its condition
    assert wav_of(client, first) != wav_of(client, second)


def test_controls_of_the_job_change_the_result(client, helpers, make_clip):
    source = helpers.upload(client, make_clip("clip.mp4", sound=TONE))["id"]
    plain, by_phase, looked = (helpers.finish(client, helpers.ask(client, source, **fields))
                               for fields in ({}, {"vocoder": "griffin-lim"}, {"attention": True}))  # fmt: skip
    assert wav_of(client, plain) != wav_of(client, by_phase)
    shown = looked["sounds"][0]["attention"]
    assert len(client.get(f"/api/jobs/{looked['id']}/files/{shown['file']}").content) == shown["rows"] * shown["columns"]
    kept = helpers.finish(client, helpers.ask(client, source, original="keep"))
    videos = [client.get(f"/api/jobs/{job['id']}/files/take1.mp4").content for job in (plain, kept)]
    assert videos[0] != videos[1]


def test_a_prime_may_be_another_upload_of_the_same_client(client, helpers, make_clip, tmp_path):
    soundfile.write(tmp_path / "beginning.wav", TONE[0], 22050)
    clip, sound = (helpers.upload(client, path)["id"] for path in (make_clip("clip.mp4"), tmp_path / "beginning.wav"))
    job = helpers.finish(client, helpers.ask(client, clip, prime=sound, prime_seconds=0.3))
    assert job["state"] == "done", job["why"]
    assert job["recipe"]["prime"] == "beginning.wav"
    theirs = helpers.upload(client, tmp_path / "beginning.wav", headers=helpers.OTHER)["id"]
    for name in ("prime", "like"):
        for id in (theirs, str(tmp_path / "beginning.wav"), "../../server.sqlite"):
            refused = client.post("/api/jobs", json={"input": clip, "model": "tiny", "request": {name: id}})
            assert refused.status_code == 404
    refused = client.post("/api/jobs", json={"input": clip, "model": "tiny", "request": {"like": sound}})
    assert (refused.status_code, "has no listener, so like" in refused.text) == (422, True)


def test_a_sound_goes_through_the_codes_and_back(client, helpers, tmp_path):
    soundfile.write(tmp_path / "tone.wav", TONE[0], 22050)
    source = helpers.upload(client, tmp_path / "tone.wav")
    assert source["kind"] == "sound"
    back = helpers.finish(client, helpers.ask(client, source["id"], kind="reconstruct"))
    assert [sound["name"] for sound in back["sounds"]] == ["own", "reconstruction", "griffin-lim"]
    assert len({wav_of(client, back, number) for number in range(3)}) == 3
    codes = helpers.finish(client, helpers.ask(client, source["id"], kind="encode"))
    (tmp_path / "tone.uns").write_bytes(client.get(f"/api/jobs/{codes['id']}/files/{codes['codes']}").content)
    packed = helpers.upload(client, tmp_path / "tone.uns")
    assert packed["kind"] == "codes"
    decoded = helpers.finish(client, helpers.ask(client, packed["id"], kind="decode"))
    assert decoded["sounds"][0]["seconds"] == 1.0
    assert decoded["lost"] == []


def stop_while_sampling(service):
    """Stop each job after six tenths of its work."""
    tell = service._tell

    def stop_soon(id, event):
        tell(id, event)
        if event.get("stage") == "sampling" and event["share"] > 0.6:
            service.stop(service.store.job(None, id))

    service._tell = stop_soon


def test_stopping_keeps_what_is_sampled(start, helpers, make_clip):
    client = start()
    source = helpers.upload(client, make_clip("clip.mp4"))["id"]
    service, job = client.service, None
    whole = helpers.finish(client, helpers.ask(client, source, seconds=20.0))
    stop_while_sampling(service)
    job = helpers.finish(client, helpers.ask(client, source, seconds=20.0))
    assert job["state"] == "stopped"
    a, b = (soundfile.read(io.BytesIO(wav_of(client, one)), dtype="int16")[0] for one in (whole, job))
    assert np.abs(b[: len(b) // 4]).max() > 0
    assert not b[-22050:].any()
    assert a[-22050:].any()
    [sound] = job["sounds"]
    assert 0 < sound["sampled_seconds"] < 20
    assert np.flatnonzero(b).max() / 22050 <= sound["sampled_seconds"] + 0.001  # which is rounded
    assert job["notes"][-1].startswith("Stopped: each take was sampled for")
    assert "sampled=" in read_comment(service.store.folder_of(service.store.job(None, job["id"])) / sound["video"])


def test_stopping_keeps_a_beginning_of_every_take(start, helpers, make_clip):
    client = start(model="everyday")
    source, service = helpers.upload(client, make_clip("clip.mp4"))["id"], client.service
    stop_while_sampling(service)
    job = helpers.finish(client, helpers.ask(client, source, "everyday", seconds=10.0, takes=2, candidates=2))
    assert job["state"] == "stopped"
    assert len({wav_of(client, job, number) for number in range(2)}) == 2
    assert [sound["score"] for sound in job["sounds"]] == [None, None]
    assert "one candidate of each take, not the best of all" in job["notes"][-1]


def test_a_job_stopped_before_sampling_says_so(start, helpers, make_clip):
    client = start()
    service = client.service
    tell = service._tell

    def stop_at_once(id, event):
        tell(id, event)
        service.stop(service.store.job(None, id))

    service._tell = stop_at_once
    job = helpers.finish(client, helpers.ask(client, helpers.upload(client, make_clip("clip.mp4"))["id"]))
    assert (job["state"], job["sounds"], job["why"]) == ("stopped", [], "stopped before any code was sampled.")


def test_files_for_other_programs(start, helpers, make_clip, tmp_path):
    client = start(model="everyday")
    source = helpers.upload(client, make_clip("clip.mp4"))["id"]
    job = helpers.finish(
        client, helpers.ask(client, source, "everyday", seed=3, candidates=1, prompt_track=[{"start": 0, "stop": 0.4, "label": "rain"}])
    )
    assert job["state"] == "done", job["why"]
    [sound] = job["sounds"]
    files = [sound["flac"], sound["opus"], *sound["stems"].values(), *job["projects"]]
    assert len(files) == 4 + len(job["projects"]) >= 6
    for name in files:
        content = client.get(f"/api/jobs/{job['id']}/files/{name}").content
        assert content
        assert str(tmp_path).encode() not in content
    answer = client.get(f"/api/jobs/{job['id']}/all.zip")
    assert "clip.seed3.zip" in answer.headers["Content-Disposition"]
    with zipfile.ZipFile(io.BytesIO(answer.content)) as bundle:
        assert bundle.testzip() is None
        assert {*files, "take1.mp4", "take1.wav", "recipe.json", "video/clip.mp4"} <= set(bundle.namelist())
        assert str(tmp_path).encode() not in b"".join(map(bundle.read, bundle.namelist()))
        bundle.extractall(tmp_path / "unpacked")
    found = find_sidecar(tmp_path / "unpacked" / "take1.mp4")
    assert video_of(found).read_bytes() == make_clip("clip.mp4").read_bytes()
    assert client.get(f"/api/jobs/{job['id']}/all.zip", headers=helpers.OTHER).status_code == 404


def test_own_sound_and_reconstruction_beside_what_is_made(client, helpers, make_clip):
    source = helpers.upload(client, make_clip("clip.mp4", sound=TONE))["id"]
    job = helpers.finish(client, helpers.ask(client, source, takes=2, compare=True))
    assert [sound["name"] for sound in job["sounds"]] == ["take 1", "take 2", "own", "reconstruction"]
    assert len({wav_of(client, job, number) for number in range(4)}) == 4
    silent = helpers.upload(client, make_clip("silent.mp4"))["id"]
    refused = client.post("/api/jobs", json={"input": silent, "model": "tiny", "compare": True})
    assert refused.status_code == 422


def test_memory_that_ends_is_an_answer(start, helpers, make_clip, monkeypatch):
    client = start()
    source = helpers.upload(client, make_clip("clip.mp4"))["id"]

    def too_much(self, task, emit):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    with monkeypatch.context() as patch:
        patch.setattr("unsilent.server.work.Worker._generate", too_much)
        job = helpers.finish(client, helpers.ask(client, source))
    assert job["state"] == "failed"
    assert "not enough memory" in job["why"]
    assert helpers.finish(client, helpers.ask(client, source))["state"] == "done"


def test_a_range_is_made_anew_and_the_rest_stays(client, helpers, make_clip):
    source = helpers.upload(client, make_clip("clip.mp4", n_frames=100))["id"]
    first = helpers.finish(client, helpers.ask(client, source, temperature=3.0))  # the tiny model is too sure of itself
    body = {
        "kind": "retake",
        "input": source,
        "model": "tiny",
        "again": {"job": first["id"], "sound": "take1.mp4", "start": 1.0, "stop": 2.0, "takes": 2},
    }
    again = helpers.finish(client, client.post("/api/jobs", json=body).json())
    assert again["state"] == "done", again["why"]
    before, after = (np.frombuffer(wav_of(client, job)[44 : 44 + 2 * 4 * 22050], np.int16) for job in (first, again))
    changed = np.flatnonzero(before != after)
    assert 22050 <= changed.min() < changed.max() < 2 * 22050
    assert len(again["sounds"]) == 2
    assert client.post("/api/jobs", json={**body, "again": {**body["again"], "sound": "nosuch"}}).status_code == 404
    assert client.post("/api/jobs", json=body, headers=helpers.OTHER).status_code == 404


def test_a_job_that_waits_can_be_stopped(start, helpers, make_clip):
    client = start(helpers.Idle())
    source = helpers.upload(client, make_clip("clip.mp4"))["id"]
    helpers.ask(client, source)
    second = helpers.ask(client, source)
    stopped = client.post(f"/api/jobs/{second['id']}/stop").json()
    assert (stopped["state"], stopped["why"]) == ("stopped", "stopped before it started.")


def test_jobs_survive_a_restart(start, helpers, make_clip):
    killed = start(helpers.Idle())
    source = helpers.upload(killed, make_clip("clip.mp4"))["id"]
    jobs = [helpers.ask(killed, source, seed=seed)["id"] for seed in range(3)]
    killed.service.store.begin(jobs[0])  # as the running one is noted
    killed.service._stop.set()  # and nothing that comes after is, as after kill -9
    again = start()
    for id in jobs:
        assert helpers.finish(again, {"id": id})["state"] == "done"


def test_a_job_that_kills_the_server_is_not_tried_for_ever(start, helpers, make_clip):
    first = start(helpers.Idle())
    job = helpers.ask(first, helpers.upload(first, make_clip("clip.mp4"))["id"])["id"]
    first.service._stop.set()
    for _ in range(3):
        first.service.store.begin(job)
    ended = start().get(f"/api/jobs/{job}").json()
    assert ended["state"] == "failed"
    assert ended["why"].startswith("the server ended")


def test_results_expire_but_not_what_a_job_waits_for(start, helpers, make_clip):
    client = start(helpers.Idle())
    store = client.service.store
    waits, idle = (helpers.upload(client, make_clip(f"{name}.mp4"))["id"] for name in ("waits", "idle"))
    helpers.ask(client, waits)
    assert store.expire(before=1e12) == 1
    assert client.get(f"/api/inputs/{waits}").status_code == 200
    assert client.get(f"/api/inputs/{idle}").status_code == 404


def test_the_wait_is_learnt_and_survives_a_restart(start, helpers, make_clip):
    client = start()
    source = helpers.upload(client, make_clip("clip.mp4"))["id"]
    for seed in range(2):
        helpers.finish(client, helpers.ask(client, source, seed=seed))
    learnt = client.service._speeds["tiny"]
    assert len(learnt) == 2
    again = start(helpers.Idle())
    assert again.service._speeds["tiny"] == pytest.approx(learnt, rel=0.2)
    waits = [helpers.ask(again, source)["wait_seconds"] for _ in range(4)]
    assert waits[3] - waits[2] == pytest.approx(again.service._expected(again.service.queue.order()[0]), abs=0.11)


def test_the_wait_is_stated(start, helpers, make_clip):
    client = start(helpers.Idle())
    source = helpers.upload(client, make_clip("clip.mp4"))["id"]
    helpers.ask(client, source)
    waits = [helpers.ask(client, source)["wait_seconds"] for _ in range(3)]
    assert waits == sorted(waits)
    assert waits[0] < waits[2]
    assert client.get("/api/limits").json()["wait_seconds"] > waits[2]


def test_what_the_server_says_of_itself(start):
    client = start()
    assert client.get("/api/health").json()["status"] == "ok"
    own, everyday = client.get("/api/models").json()[:2]
    assert (own["name"], own["knows"], everyday["name"]) == ("tiny", "random weights.", "everyday")
    assert "dog" in everyday["classes"]
    assert "234 classes" in everyday["knows"]
    assert 'unsilent_answers_total{code="200"}' in client.get("/metrics").text
    paths = client.get("/api/openapi.json").json()["paths"]
    assert paths["/api/jobs"]["post"]["requestBody"]
    assert "<title>" in client.get("/").text


def test_the_schema_of_a_job_has_the_request(start):
    schema = json.dumps(start().get("/api/openapi.json").json())
    assert all(f'"{name}"' in schema for name in Request.model_fields)
