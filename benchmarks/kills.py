"""Kill commands at random times and run them again: the results must have identical bytes, and no file may be left over.

Each trial runs a command uninterrupted in one folder. In another folder, it kills the command one to four times (SIGKILL to all of its
processes) and then runs it to the end. Both folders must hold the same files with the same bytes, except for recorded times. `fetch`
downloads from a server on loopback, with the digest of the test file in the catalog.
"""

import argparse
import hashlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

VERBS = ("generate", "sample", "evaluate", "extract", "train", "fetch", "convert")
_TIMES = re.compile(rb'"?(spent_seconds|real_time_factor)"?:? *[\d.]+|\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?')
_NOT_COMPARED = re.compile(r"(^|/)log/|\.lock$")  # TensorBoard's file names contain times; lock files are not removed
BYTES_PER_SECOND = 8_000_000  # rate at which the server sends
_FETCH = """import dataclasses, sys
from unsilent.checkpoints import catalog
row = dataclasses.replace(catalog.find("melgan"), md5=sys.argv.pop(1))
catalog._ROWS["melgan"] = row
from unsilent.cli.main import main
main()"""
_RUN = """kind = "vocoder"
preset = "everyday"
shards = "{shards}"
out = "out"
steps = 3
batch = 2
learning_rate = 1e-4
save_every = 1
log_every = 1
show_every = 0
"""


def make_material(folder: Path) -> None:
    """Write clips, a manifest, shards, sounds, a run file and a published file."""
    import numpy as np
    import torch

    sys.path.insert(0, str(Path(__file__).parent))
    from fuzz import write_clip

    from unsilent.media.sounds import write_sound
    from unsilent.models.configs import MelGANConfig
    from unsilent.models.melgan import MelGAN, released_names

    for number in range(2):
        write_clip(folder / "clips" / "dog" / f"{number}.mp4", number)
        noise = np.random.default_rng(number).standard_normal(22050).astype(np.float32) * 0.1
        for name in ("real", "made"):
            (folder / name).mkdir(exist_ok=True)
            write_sound(folder / name / f"{number}.wav", noise * (1 if name == "real" else 0.5), 22050)
    run(folder, ["data", "manifest", "clips", "-o", "m.parquet", "--valid", "0.5"])
    run(folder, ["data", "extract", "m.parquet", "-o", "shards"])
    (folder / "run.toml").write_text(_RUN.format(shards=folder / "shards"))
    vocoder = MelGAN(MelGANConfig())
    weights = vocoder.state_dict()
    torch.save({released: weights[name] for released, name in released_names(vocoder).items()}, folder / "vocoder.pt")


def run(folder: Path, arguments: list[str], kill_after: float | None = None) -> bool:
    """Run one command, and kill it after a time if one is given. Returns whether it ended by itself."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "UNSILENT_CACHE": str(folder / "cache")}
    program = ["-c", _FETCH] if arguments[-1].startswith("http") else ["-m", "unsilent"]
    process = subprocess.Popen(
        [sys.executable, *program, *arguments], cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output = process.communicate(timeout=kill_after)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    is_finished = process.returncode == 2 and b"exists already" in output  # `convert`, killed after its result was complete
    if process.returncode not in (0, 3) and not is_finished:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {process.returncode}\n{output.decode(errors='replace')}")
    return True


def serve(content: bytes) -> str:
    """Serve one file slowly on loopback, with range requests. Returns the URL of its folder."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            first = int((re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) or ("", "0"))[1])
            self.send_response(206 if first else 200)
            self.send_header("ETag", '"1"')
            self.send_header("Content-Length", str(len(content) - first))
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            with suppress(OSError):
                for start in range(first, len(content), BYTES_PER_SECOND // 20):
                    self.wfile.write(content[start : start + BYTES_PER_SECOND // 20])
                    time.sleep(0.05)

        def log_message(self, format: str, *values: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def command(verb: str, material: Path, mirror: str) -> list[str]:
    """Return the arguments of a command, which writes to the folder `out` in the current folder."""
    return {
        "generate": ["generate", str(material / "clips"), "-o", "out", "--takes", "2", "--candidates", "1", "--wav"],
        "sample": ["sample", str(material / "m.parquet"), "-o", "out", "--samples", "1", "--split", "all"],
        "evaluate": ["evaluate", "--reference", str(material / "real"), "--generated", str(material / "made"), "-o", "out",
                     "--classifier", "everyday"],
        "extract": ["data", "extract", str(material / "m.parquet"), "-o", "out"],
        "train": ["train", "run.toml", "--resume"],
        "fetch": [hashlib.md5((material / "vocoder.pt").read_bytes()).hexdigest(), "models", "fetch", "melgan", "--mirror", mirror],
        "convert": ["models", "convert", str(material / "vocoder.pt"), "-o", "out/melgan", "--kind", "melgan"],
    }[verb]  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    """Return the digest of each compared file, without recorded times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not _NOT_COMPARED.search(name):
            content = _state(path) if path.name == "last.pt" else path.read_bytes()
            found[name] = hashlib.sha256(_TIMES.sub(b"", content)).hexdigest()
        elif path.is_dir():
            found[name] = "folder"
    return found


def _state(path: Path) -> bytes:
    """Serialise all values of a training state, because pickles of equal strings can differ after a resume."""
    import torch

    def leaves(value: object) -> str:
        if isinstance(value, dict):
            return str([(name, leaves(one)) for name, one in value.items()])
        if isinstance(value, list | tuple):
            return str([leaves(one) for one in value])
        return hashlib.sha256(value.numpy().tobytes()).hexdigest() if isinstance(value, torch.Tensor) else repr(value)

    return leaves(torch.load(path, weights_only=True)).encode()


def main() -> None:
    """Parse the command line, and print the trials. The exit code is 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=VERBS)
    parser.add_argument("--seconds", type=float, default=1800, help="no trial starts after this time")
    arguments = parser.parse_args()
    rng, until, kills, faults = random.Random(arguments.seed), time.monotonic() + arguments.seconds, Counter(), []
    with tempfile.TemporaryDirectory() as place:
        material = Path(place) / "material"
        material.mkdir()
        make_material(material)
        mirror = serve((material / "vocoder.pt").read_bytes())
        expected, lengths, trials = {}, {}, Counter()
        while sum(kills.values()) < arguments.kills and time.monotonic() < until:
            verb = arguments.verbs[sum(trials.values()) % len(arguments.verbs)]
            words = command(verb, material, mirror)
            if verb not in expected:
                whole = _folder(Path(place) / f"whole-{verb}", material)
                began = time.monotonic()
                run(whole, words)
                lengths[verb], expected[verb] = time.monotonic() - began, contents(whole)
            folder = _folder(Path(place) / "trial", material)
            has_ended = False
            for _ in range(rng.randint(1, 4)):
                has_ended = run(folder, words, rng.uniform(0, lengths[verb]))
                kills[verb] += not has_ended
                if has_ended:
                    break  # `convert` would refuse to replace its result
            began = time.monotonic()
            if not has_ended:
                run(folder, words)
            trials[verb] += 1
            found = contents(folder)
            differing = sorted(name for name in found.keys() | expected[verb].keys() if found.get(name) != expected[verb].get(name))
            print(f"{verb}: {kills[verb]} kills; {lengths[verb]:.1f} s whole, {time.monotonic() - began:.1f} s afterwards", flush=True)
            if differing:
                faults.append((verb, differing[:5]))
                print(f"{verb}: differs in {differing[:5]}", flush=True)
                shutil.copytree(folder, Path("build/kills") / f"{verb}-{trials[verb]}", dirs_exist_ok=True)
            shutil.rmtree(folder)
    print(json.dumps({"seed": arguments.seed, "trials": trials, "kills": kills, "differing": len(faults)}))
    sys.exit(bool(faults))


def _folder(path: Path, material: Path) -> Path:
    path.mkdir()
    shutil.copy(material / "run.toml", path)
    return path


if __name__ == "__main__":
    main()
