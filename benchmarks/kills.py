"""Commands that are killed at random moments, loading included, and given again: equal bytes, and nothing left over.

Each trial runs one command to its end in one folder, and in another one kills it once or several times (SIGKILL to all of its processes)
before it may end. Then both folders must hold the same files with the same bytes, except for what contains times.
"""

import argparse
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

VERBS = ("generate", "sample", "evaluate", "extract", "train", "convert")
_TIMES = re.compile(rb'"?(spent_seconds|real_time_factor)"?:? *[\d.]+|\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?')
_NOT_COMPARED = (".lock", "report.html", "log", "events.out", ".part.json")
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
    """Write clips, a manifest, shards, sounds, a run and a published file."""
    import numpy as np
    import torch

    sys.path.insert(0, str(Path(__file__).parent))
    from fuzz import write_clip

    from unsilent.media.audio import write_wav
    from unsilent.models.configs import MelGANConfig
    from unsilent.models.melgan import MelGAN

    for number in range(3):
        write_clip(folder / "clips" / "dog" / f"{number}.mp4", number)
        noise = np.random.default_rng(number).standard_normal(22050).astype(np.float32) * 0.1
        for name in ("real", "made"):
            (folder / name).mkdir(exist_ok=True)
            write_wav(folder / name / f"{number}.wav", noise * (1 if name == "real" else 0.5), 22050)
    run(folder, ["data", "manifest", "clips", "-o", "m.parquet", "--valid", "0.5"])
    run(folder, ["data", "extract", "m.parquet", "-o", "shards"])
    (folder / "run.toml").write_text(_RUN.format(shards=folder / "shards"))
    torch.save(dict(MelGAN(MelGANConfig()).state_dict()), folder / "vocoder.pt")


def run(folder: Path, arguments: list[str], kill_after: float | None = None) -> bool:
    """Run one command, all of it or until it is killed; whether it ended by itself."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "unsilent", *arguments], cwd=folder, env=environment, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output = process.communicate(timeout=kill_after)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode not in (0, 3):
        raise RuntimeError(f"{' '.join(arguments)}: exit code {process.returncode}\n{output.decode(errors='replace')}")
    return True


def command(verb: str, material: Path) -> list[str]:
    """Arguments of a verb, which writes into the folder `out` below the current one."""
    return {
        "generate": ["generate", str(material / "clips"), "-o", "out", "--takes", "2", "--wav"],
        "sample": ["sample", str(material / "m.parquet"), "-o", "out", "--samples", "1", "--split", "all"],
        "evaluate": ["evaluate", "--reference", str(material / "real"), "--generated", str(material / "made"), "-o", "out",
                     "--classifier", "everyday"],
        "extract": ["data", "extract", str(material / "m.parquet"), "-o", "out"],
        "train": ["train", "run.toml", "--resume"],
        "convert": ["models", "convert", str(material / "vocoder.pt"), "-o", "out/melgan", "--kind", "melgan"],
    }[verb]  # fmt: skip


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file that is compared, without times."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part in path.name for part in _NOT_COMPARED):
            found[str(path.relative_to(folder))] = hashlib.sha256(_TIMES.sub(b"", path.read_bytes())).hexdigest()
    return found


def main() -> None:
    """Parse the command line, and print the trials; the exit code is 1 if one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbs", nargs="+", choices=VERBS, default=VERBS)
    parser.add_argument("--seconds", type=float, default=1800, help="after which no more trials are begun")
    arguments = parser.parse_args()
    rng, until, kills, faults = random.Random(arguments.seed), time.monotonic() + arguments.seconds, Counter(), []
    with tempfile.TemporaryDirectory() as place:
        material = Path(place) / "material"
        material.mkdir()
        make_material(material)
        expected, lengths = {}, {}
        while sum(kills.values()) < arguments.kills and time.monotonic() < until:
            verb = arguments.verbs[sum(kills.values()) % len(arguments.verbs)]
            words = command(verb, material)
            if verb not in expected:
                whole = _folder(Path(place) / f"whole-{verb}", material)
                began = time.monotonic()
                run(whole, words)
                lengths[verb], expected[verb] = time.monotonic() - began, contents(whole)
            folder = _folder(Path(place) / "trial", material)
            for _ in range(rng.choice((1, 1, 2))):
                kills[verb] += not run(folder, words, rng.uniform(0, lengths[verb]))
            run(folder, words)
            found = contents(folder)
            differing = sorted(name for name in found.keys() | expected[verb].keys() if found.get(name) != expected[verb].get(name))
            if differing:
                faults.append((verb, differing[:5]))
                print(f"{verb}: differs in {differing[:5]}", flush=True)
            shutil.rmtree(folder)
    print(json.dumps({"seed": arguments.seed, "kills": dict(kills), "differing": len(faults)}))
    sys.exit(bool(faults))


def _folder(path: Path, material: Path) -> Path:
    path.mkdir()
    shutil.copy(material / "run.toml", path)
    return path


if __name__ == "__main__":
    main()
