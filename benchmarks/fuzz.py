"""Fuzz all readers with damaged files: `make fuzz`, or `python benchmarks/fuzz.py --videos 3000 --seed 1`.

Every input is a small valid file with random changes; the random seed is the number of the case. `--only KIND:NUMBER` repeats a case. An
input may give a result or an error of the package. Failures are written to a folder: other exceptions, crashes of the process, more than
20 s, more than 1.5 GB, an unreadable output, a file left over, or a changed input.
"""

import argparse
import atexit
import copy
import hashlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from contextlib import suppress
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi.testclient import TestClient

KINDS = ("videos", "sounds", "checkpoints", "shards", "uploads")
HANG_SECONDS, MAX_BYTES = 20, 1_500_000_000
_VIDEOS = (
    ("mp4", "libx264", "yuv420p"), ("mp4", "libx265", "yuv420p10le"), ("mp4", "libsvtav1", "yuv420p"), ("mov", "prores_ks", "yuv422p10le"),
    ("mov", "mjpeg", "yuvj420p"), ("mov", "png", "rgb24"), ("mkv", "libx264", "yuv420p"), ("mkv", "ffv1", "yuv420p"),
    ("mkv", "rawvideo", "yuv420p"), ("webm", "libvpx", "yuv420p"), ("webm", "libvpx-vp9", "yuva420p"), ("avi", "mpeg4", "yuv420p"),
    ("avi", "huffyuv", "yuv422p"), ("avi", "rawvideo", "bgr24"), ("ts", "libx264", "yuv420p"), ("mpg", "mpeg2video", "yuv420p"),
    ("flv", "flv", "yuv420p"), ("wmv", "wmv2", "yuv420p"), ("3gp", "mpeg4", "yuv420p"), ("gif", "gif", "rgb8"),
    ("mxf", "mpeg2video", "yuv420p"),
)  # fmt: skip
_SOUNDS = (
    ("wav", "pcm_s16le"), ("wav", "pcm_f32le"), ("flac", "flac"), ("ogg", "flac"), ("opus", "libopus"), ("mp3", "libmp3lame"),
    ("m4a", "aac"), ("aac", "aac"), ("mka", "flac"), ("webm", "libopus"), ("aiff", "pcm_s16be"), ("caf", "pcm_s16le"), ("au", "pcm_s16be"),
)  # fmt: skip
_ODD = (None, True, -1, 0, 1e300, float("inf"), float("nan"), 10**9, 2**63, 10**40, "", "\0", "../x", "é", [], {}, [[]], "x" * 5000)


def make_seeds(folder: Path) -> None:
    """Write one small valid file of each media format and of each format that unsilent writes."""
    os.environ["SVT_LOG"] = "0"
    import av
    import numpy as np

    sound = np.sin(np.arange(11025) / 10).astype(np.float32)[None] * 0.1
    for number, (suffix, codec, pix_fmt) in enumerate(_VIDEOS):
        (folder / "videos").mkdir(exist_ok=True)
        with av.open(str(folder / "videos" / f"{number:02}.{suffix}"), "w") as target:
            video = target.add_stream(codec, rate=25, options={"x265-params": "log-level=none"} if codec == "libx265" else {})
            video.pix_fmt = pix_fmt
            video.width, video.height = {"mxf": (720, 576), "3gp": (176, 144)}.get(suffix, (64, 48))
            with_sound = suffix in ("mp4", "mov", "mkv") and codec in ("libx264", "prores_ks")
            audio = target.add_stream("aac", rate=22050) if with_sound else None
            if audio is not None:
                audio.layout = "mono"
            for index in range(12):
                image = np.full((video.height, video.width, 3), 20 * index, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, 25)
                target.mux(video.encode(frame))
            target.mux(video.encode(None))
            if audio is not None:
                target.mux([*audio.encode(_audio_frame(av, sound)), *audio.encode(None)])
    for number, (suffix, codec) in enumerate(_SOUNDS):
        (folder / "sounds").mkdir(exist_ok=True)
        with av.open(str(folder / "sounds" / f"{number:02}.{suffix}"), "w") as target:
            audio = target.add_stream(codec, rate=48000 if "opus" in codec else 22050)
            audio.layout = "mono"
            target.mux([*audio.encode(_audio_frame(av, sound)), *audio.encode(None)])
    shutil.copytree(folder / "videos", folder / "uploads")
    shutil.copytree(folder / "sounds", folder / "uploads", dirs_exist_ok=True)
    _make_checkpoint_seeds(folder / "checkpoints")
    _make_shard_seeds(folder / "shards")


def write_clip(path: Path, number: int) -> None:
    """Write a clip of one second with a moving square and a tone."""
    import av
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as target:
        video, audio = target.add_stream("libx264", rate=25), target.add_stream("aac", rate=22050)
        video.width, video.height, video.pix_fmt, audio.layout = 64, 48, "yuv420p", "mono"
        for index in range(25):
            image = np.full((48, 64, 3), 40 * number, np.uint8)
            image[10:30, index : index + 20] = 255
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, 25)
            target.mux(video.encode(frame))
        target.mux(video.encode(None))
        tone = 0.2 * np.sin(np.arange(22050) * (number + 1) / 10).astype(np.float32)
        target.mux([*audio.encode(_audio_frame(av, tone[None])), *audio.encode(None)])


def _audio_frame(av, sound):
    frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="mono")
    frame.sample_rate, frame.time_base, frame.pts = 22050, Fraction(1, 22050), 0
    return frame


def _make_checkpoint_seeds(folder: Path) -> None:
    import torch

    from unsilent.checkpoints.store import save_checkpoint
    from unsilent.models.configs import VocosConfig
    from unsilent.models.vocos import Vocos

    config = VocosConfig(width=8, hidden=8, n_blocks=1)
    weights = Vocos(config).state_dict()
    save_checkpoint(folder / "vocos", "vocos", "everyday", config, weights, {"steps": 1})
    (folder / "bundle").mkdir()
    parts = {role: role for role in ("codebook", "sampler", "vocoder")}
    about = {"preset": "everyday", "parts": parts, "classes": [], "licences": {"weights": ["MIT"]}}
    (folder / "bundle" / "bundle.json").write_text(json.dumps(about))
    (folder / "published").mkdir()
    torch.save({"state_dict": weights}, folder / "published" / "vocos.pt")


def _make_shard_seeds(folder: Path) -> None:
    import numpy as np

    from unsilent.data.manifest import Row, write_manifest
    from unsilent.data.rows import ItemRow
    from unsilent.data.shards import ShardWriter, write_shard

    items = [(np.zeros(100, np.int16), ItemRow(f"clip{number}", "sound", "dog", "train", 22050)) for number in range(5)]
    write_shard(folder / "whole", "waveforms", items, {"version": 1})
    writer = ShardWriter(folder / "part", "waveforms", {"version": 1})
    try:
        with writer:
            writer.add(items[:3])
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    rows = [Row(f"clip{n}", f"clip{n}.wav", "sound", "dog", "train", "", 0.0, 1.0, 22050, "0") for n in range(5)]
    write_manifest(folder, rows, folder / "manifest" / "m.parquet")


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Apply random changes: flip, overwrite, remove or double bytes, write extreme sizes, or cut off the end."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        place = rng.randrange(min(len(data), rng.choice((64, 4096, len(data)))))
        end = min(len(data), place + rng.choice((1, 2, 4, 16, 256)))
        match rng.randrange(7):
            case 0:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                data[place:end] = rng.randbytes(end - place)
            case 2:
                data[place:end] = bytes(end - place)
            case 3:
                del data[place:end]
            case 4:
                data[place:place] = data[place:end]
            case 5:
                data[place : place + 4] = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1)).to_bytes(4, rng.choice(("big", "little")))
            case 6:
                del data[rng.randrange(len(data)) :]
    return bytes(data)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Replace, remove or add a value anywhere in a JSON document; sometimes damage its bytes instead."""
    if rng.random() < 0.2:
        return mutate(data, rng)
    lines = data.splitlines() if data.count(b"\n") > 1 and data.startswith(b"{") and b"\n{" in data else [data]
    chosen = rng.randrange(len(lines))
    document = json.loads(lines[chosen])
    for _ in range(rng.choice((1, 1, 3))):
        place = document
        while isinstance(place, dict | list) and place:
            key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
            if rng.random() < 0.3 or not isinstance(place[key], dict | list) or not place[key]:
                match rng.randrange(3):
                    case 0:
                        place[key] = copy.deepcopy(rng.choice(_ODD))  # a copy, because later rounds may change lists
                    case 1:
                        del place[key]
                    case 2:
                        place[key] = "[" * 100_000 if rng.random() < 0.1 else [place[key]]
                break
            place = place[key]
    lines[chosen] = json.dumps(document).encode()
    return b"\n".join(lines)


def try_video(seed: Path, rng: random.Random, work: Path) -> None:
    """Plan, probe, read and write one damaged video; the written video must be readable."""
    import numpy as np

    from unsilent.media.mux import mux, plan_mux
    from unsilent.media.probe import probe
    from unsilent.media.video import stream_lazy_frames

    video = work / f"in{seed.suffix}"
    video.write_bytes(mutate(seed.read_bytes(), rng))
    out, original = work / "out" / f"out{rng.choice(('.mp4', '.mov', '.mkv', '.mkv', '.webm'))}", rng.choice(("drop", "keep", "duck"))
    out.parent.mkdir()
    plan, info = plan_mux(video, out, original), probe(video)
    for frame in stream_lazy_frames(video, 21.5, wanted=range(30), short_side=32):
        frame.rgb()
        frame.grey()
    plan = mux(video, np.zeros(max(1, round(info.seconds * 22050)), np.float32), 22050, out, original, plan=plan)
    assert _is_readable(out), "unreadable output"


def _is_readable(video: Path) -> bool:
    """Return whether a frame can be decoded. Damaged packets that were copied are skipped, as in players."""
    import av

    with av.open(str(video)) as container:
        for packet in container.demux(video=0):
            with suppress(av.FFmpegError):
                if packet.decode():
                    return True
    return False


def try_sound(seed: Path, rng: random.Random, work: Path) -> None:
    """Read one damaged sound as in evaluation and in training."""
    from unsilent.clip import Clip
    from unsilent.data.checks import Check
    from unsilent.data.layouts import Candidate
    from unsilent.media.audio import read_audio

    path = work / f"in{seed.suffix}"
    path.write_bytes(mutate(seed.read_bytes(), rng))
    read_audio(path, 22050)
    Check(work, Clip()).inspect(Candidate(path.name, "sound", ""))


def try_checkpoint(seed: Path, rng: random.Random, work: Path) -> None:
    """Read a checkpoint, a bundle or a published file in which one file is damaged."""
    from unsilent.checkpoints.folders import read_bundle, read_defaults
    from unsilent.checkpoints.store import load_checkpoint
    from unsilent.published.about import describe
    from unsilent.published.containers import read_container

    folder = work / "in"
    _copy_damaged(seed, folder, rng)
    if seed.name == "vocos":
        load_checkpoint(folder, "vocos")
        describe(str(folder))
    elif seed.name == "bundle":
        read_bundle(folder)
        describe(str(folder))
        read_defaults(folder)
    else:
        (work / "scratch").mkdir()
        read_container(folder / "vocos.pt", work / "scratch")
        shutil.rmtree(work / "scratch")


def try_shard(seed: Path, rng: random.Random, work: Path) -> None:
    """Read a damaged shard or manifest, or resume writing a damaged unfinished shard."""
    import numpy as np

    from unsilent.data.manifest import read_manifest
    from unsilent.data.rows import ItemRow
    from unsilent.data.shards import Shard, ShardWriter

    folder = work / "in"
    _copy_damaged(seed, folder, rng)
    if seed.name == "manifest":
        read_manifest(folder / "m.parquet")
        return
    if seed.name == "part":
        with ShardWriter(folder, "waveforms", {"version": 1}) as writer:
            writer.add([(np.zeros(100, np.int16), ItemRow("more", "sound", "dog", "train", 22050))])
    shard = Shard(folder, "waveforms")
    for number in range(len(shard)):
        shard[number].sum()


class _Idle:
    """An engine whose jobs finish at once."""

    lanes = 1

    def warm(self) -> None: ...

    def run(self, *unused: object) -> dict[str, object]:
        return {"state": "done", "sounds": []}

    def close(self) -> None: ...


@cache
def _server() -> "TestClient":
    """Start a server in this process, and return a client."""
    from fastapi.testclient import TestClient

    from unsilent.server.app import guarded, make_app
    from unsilent.server.service import Service
    from unsilent.server.settings import Settings
    from unsilent.server.store import Store

    folder = Path(tempfile.mkdtemp(prefix="unsilent-fuzz"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    settings = Settings(folder=folder)
    service = Service(settings, Store(folder), _Idle())
    client = TestClient(guarded(make_app(service), service), headers={"Unsilent-Client": "the only client of this test"})
    return client.__enter__()


def try_upload(seed: Path, rng: random.Random, work: Path) -> None:
    """Upload a damaged file, and submit a job with damaged fields. Every response must be a result or an error of one sentence."""
    from unsilent.errors import UnsilentError

    path, client = work / f"in{seed.suffix}", _server()
    path.write_bytes(mutate(seed.read_bytes(), rng))
    name = rng.choice(("clip", "", ".", "..", "../x", "a/b", "\0", "\x1b[31m", "é" * 200, "C:\\x", "-o")) + rng.choice((seed.suffix, ""))
    sent = client.put("/api/inputs", params={"name": name}, content=path.read_bytes())
    id = sent.json().get("id", "none")
    request = {"seed": 1, "takes": 1, "label": "dog", "temperature": 1.0, "seconds": 1.0, "mute": [{"start": 0.1, "stop": 0.2}]}
    ask = {"kind": "generate", "input": id, "model": "everyday", "vocoder": "neural", "request": request}
    asked = client.post("/api/jobs", content=mutate_json(json.dumps(ask).encode(), rng), headers={"Content-Type": "application/json"})
    for answer in (sent, asked):
        assert answer.status_code < 500, f"{answer.status_code}: {answer.text}"
        assert answer.is_success or answer.json().get("error"), answer.text
    if asked.is_success:
        assert client.delete(f"/api/jobs/{asked.json()['id']}").status_code < 500
    if sent.is_success:
        assert client.delete(f"/api/inputs/{id}").status_code < 500
    else:
        raise UnsilentError(sent.json()["error"])


def _copy_damaged(seed: Path, folder: Path, rng: random.Random) -> None:
    shutil.copytree(seed, folder)
    path = rng.choice(sorted(folder.iterdir()))
    change = mutate_json if path.suffix in (".json", ".journal") else mutate
    path.write_bytes(change(path.read_bytes(), rng))


TRIALS = {"videos": try_video, "sounds": try_sound, "checkpoints": try_checkpoint, "shards": try_shard, "uploads": try_upload}
MAY_CHANGE = ("shards",)  # kinds whose inputs may change: an unfinished shard is resumed


def work_on(seeds: Path, kind: str, numbers: list[int], seed: int, pipe) -> None:
    """Try cases in this process, and report before and after each."""
    import warnings

    import torch

    from unsilent.errors import UnsilentError

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for number in numbers:
        rng = random.Random(f"{seed}/{kind}/{number}")
        source = rng.choice(sorted((seeds / kind).iterdir()))
        pipe.send((number, "begun", ""))
        with tempfile.TemporaryDirectory(prefix="unsilent-fuzz") as folder:
            work, outcome, why = Path(folder), "result", ""
            try:
                TRIALS[kind](source, rng, work)
            except UnsilentError as error:
                outcome, why = "error", str(error)
            except BaseException:
                outcome, why = "fault", traceback.format_exc()
            left = [path.name for path in work.rglob("*") if path.is_file() and "unsilent-part" in path.name]
            if kind not in MAY_CHANGE and _digest(work) != _digest_of_input(source, kind, seed, number):
                outcome, why = "fault", "the input was changed"
            if left:
                outcome, why = "fault", f"left over: {left}"
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        pipe.send((number, "memory" if memory > MAX_BYTES else outcome, why or (f"{memory / 1e9:.1f} GB" if memory > MAX_BYTES else "")))
        if memory > MAX_BYTES:
            return  # the peak memory of a process never decreases


def _digest(work: Path) -> str:
    paths = sorted(path for path in work.rglob("*") if path.is_file() and path.relative_to(work).parts[0].startswith("in"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _digest_of_input(source: Path, kind: str, seed: int, number: int) -> str:
    rng = random.Random(f"{seed}/{kind}/{number}")
    rng.choice(sorted(source.parent.iterdir()))
    if source.is_file():
        return hashlib.sha256(mutate(source.read_bytes(), rng)).hexdigest()
    with tempfile.TemporaryDirectory() as folder:
        _copy_damaged(source, Path(folder) / "in", rng)
        return _digest(Path(folder))


def run(seeds: Path, kind: str, count: int, seed: int, until: float, failures: Path, only: int | None) -> Counter:
    """Try many cases of a kind, in a process that is replaced after a crash, a hang or high memory use."""
    context, outcomes = multiprocessing.get_context("spawn"), Counter()
    numbers = list(range(count)) if only is None else [only]
    while numbers and time.monotonic() < until:
        here, there = context.Pipe()
        process = context.Process(target=work_on, args=(seeds, kind, numbers, seed, there), daemon=True)
        process.start()
        there.close()
        current, started = numbers[0], False
        while numbers and time.monotonic() < until:
            patience = HANG_SECONDS if started else 300
            try:
                answer = here.recv() if here.poll(patience) else (current, "hang", f"more than {patience} s")
            except EOFError:
                process.join()
                answer = (current, "crash", f"exit code {process.exitcode}")
            current, outcome, why = answer
            started = True
            if outcome == "begun":
                continue
            outcomes[outcome] += 1
            numbers = numbers[numbers.index(current) + 1 :]
            if outcome not in ("result", "error"):
                failures.mkdir(parents=True, exist_ok=True)
                (failures / f"{kind}-{seed}-{current}.txt").write_text(f"{outcome}\n{why}\n")
                print(f"{kind}:{current} {outcome}: {why.splitlines()[-1] if why else ''}", flush=True)
            if outcome in ("hang", "crash", "memory"):
                break
        process.kill()
        process.join()
    return outcomes


def main() -> None:
    """Parse the command line, and print the outcomes of all cases; the exit code is 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for kind, count in zip(KINDS, (3000, 1500, 600, 600, 600), strict=True):
        parser.add_argument(f"--{kind}", type=int, default=count, help=f"number of damaged {kind}")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1800, help="no case starts after this time")
    parser.add_argument("--only", metavar="KIND:NUMBER", help="repeat one case")
    parser.add_argument("--failures", type=Path, default=Path("build/fuzz"))
    arguments = parser.parse_args()
    until, failed = time.monotonic() + arguments.seconds, 0
    chosen, _, number = (arguments.only or "").partition(":")
    with tempfile.TemporaryDirectory() as folder:
        make_seeds(Path(folder))
        for kind in (chosen,) if chosen else KINDS:
            count, began = getattr(arguments, kind), time.monotonic()
            outcomes = run(Path(folder), kind, count, arguments.seed, until, arguments.failures, int(number) if chosen else None)
            failed += sum(value for name, value in outcomes.items() if name not in ("result", "error"))
            print(f"{kind}: {sum(outcomes.values())} of {count} in {time.monotonic() - began:.0f} s: {dict(outcomes)}", flush=True)
    print(f"seed {arguments.seed}; {failed} failed" + (f", see {arguments.failures}" if failed else ""))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
