"""Time and peak memory to load the paper's model of 379 M weights, from the published format and from unsilent's format.

    python benchmarks/loading.py [--folder FOLDER] [--json]

FOLDER (by default a temporary one) gets about 4 GB of random weights. Each way of loading runs five times in a new process, with the files
in the page cache. Every weight is read once, so that memory-mapped files are loaded completely. Memory is the peak resident size minus
that after the imports, also in units of the weights as float32. A permanent FOLDER holds whole models, which can be run:

    unsilent generate demo/cat.mp4 --model FOLDER/ours-float32
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from parity import filled, published_shapes, sampler_shapes

from unsilent import presets
from unsilent.checkpoints.bundle import write_about
from unsilent.checkpoints.store import load_checkpoint, save_checkpoint
from unsilent.published.containers import read_weights
from unsilent.published.convert import convert

PRESET = "vggsound-nofeats"  # the one model of the paper that needs no image network
WAYS = {
    "published checkpoint": ("published", "float32"),
    "ours, float32 on disk": ("ours-float32", "float32"),
    "ours, float16 on disk, float32 in memory": ("ours-float16", "float32"),
    "ours, float16 on disk, float16 matrices in memory": ("ours-float16", "float16"),
}
RUNS = 5


def make(folder: Path) -> None:
    """Write the same random weights in all formats."""
    weights = {f"transformer.{name}": value for name, value in filled(sampler_shapes(1, 0)).items() if not name.endswith("mask")}
    weights |= {f"first_stage_model.{name}": value for name, value in filled(published_shapes("codebook")).items()}
    torch.save({"state_dict": weights}, folder / "published.ckpt")
    row, vocoder = presets.get(PRESET), filled(published_shapes("melgan"))
    parts = {
        "sampler": ("sampler", convert("sampler", weights, row.sampler)),
        "codebook": ("codebook", convert("codebook", weights, row.codebook)),
        "vocoder": ("melgan", convert("melgan", vocoder)),
    }
    for dtype in (torch.float32, torch.float16):
        out = folder / f"ours-{str(dtype).split('.')[1]}"
        for role, (kind, module) in parts.items():
            save_checkpoint(out / role, kind, PRESET, module.config, module.state_dict(), {}, dtype)
        write_about(out, PRESET, {"summary": "random weights"})


def load(folder: Path, source: str, dtype: str) -> dict[str, float]:
    """Load the weights in this process. Returns the seconds, the additional peak memory and the size of the weights as float32."""
    before = _memory("VmRSS")
    start = time.perf_counter()
    if source == "published":
        published = read_weights(folder / "published.ckpt")
        modules = [convert(kind, published) for kind in ("sampler", "codebook")]
    else:
        modules = [load_checkpoint(folder / source / kind, kind, getattr(torch, dtype)) for kind in ("sampler", "codebook")]
    weights = [value for module in modules for value in module.parameters()]
    for value in weights:
        value.sum()  # reads every weight
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "bytes": _memory("VmHWM") - before, "float32_bytes": 4 * sum(map(torch.numel, weights))}


def _memory(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)  # what a child process loads
    options = parser.parse_args()
    if options.one:
        print(json.dumps(load(options.folder, *options.one)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "ours-float16").exists():
            make(folder)
        found = {}
        for way, (source, dtype) in WAYS.items():
            command = [sys.executable, __file__, "--folder", str(folder), "--one", source, dtype]
            runs = [json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout) for _ in range(RUNS)]
            found[way] = {key: median(run[key] for run in runs) for key in runs[0]}
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'':44} {'seconds':>8} {'peak MB':>8} {'of float32':>11}")
    for way, row in found.items():
        print(f"{way:44} {row['seconds']:8.2f} {row['bytes'] / 1e6:8.0f} {row['bytes'] / row['float32_bytes']:11.2f}")


if __name__ == "__main__":
    main()
