"""Speed of the paper's model in unsilent, compared step by step with the released algorithm and with the hardware's limits.

    python benchmarks/speed.py [--folder FOLDER] [--features 5] [--takes 1 4] [--columns 53] [--runs 5] [--released 8] [--json]

FOLDER (by default a temporary one) gets 1.6 GB of pseudo-random weights, and 1.2 GB for each further number of features. Each precision
runs in its own process. It generates the sound of one clip (or of `--columns`) from given features five times, after one warm-up run, whose
time is also printed. Several numbers of takes are measured alternately, because memory bandwidth varies over time (on a GPU one after
another). Sounds more than an eighth longer than a clip are mostly decoded and vocoded concurrently with sampling; `in_turn` is the
time without concurrency.

The released algorithm, reimplemented here, runs the transformer in float32 over the whole sequence for every code, with zeros in place of
future codes and without fused attention. `--released 8` times every eighth code and extrapolates, `--released 1` times all codes, and 0
skips it. Floors are lower bounds: for codes, bytes of weights and cache over the measured memory bandwidth; for convolutions, their
operations over the measured rate of matrix products.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from parity import filled, published_shapes, sampler_shapes
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unsilent import presets
from unsilent.checkpoints.bundle import load_sampler
from unsilent.checkpoints.store import load_checkpoint, network_config, save_checkpoint
from unsilent.clip import Clip
from unsilent.codec.codec import Codec
from unsilent.codec.stitching import decoded_windows
from unsilent.generation.progress import Clock
from unsilent.generation.rendering import Rendering
from unsilent.generation.sampling import sample_codes
from unsilent.generation.windows import plan_windows
from unsilent.models.code_order import to_grid
from unsilent.models.sampler import Sampler
from unsilent.published.convert import convert
from unsilent.request import Request
from unsilent.signal.mel import to_mel01
from unsilent.speed.choice import convolution_dtype
from unsilent.speed.cpu_convolutions import can_quantise, prepare_convolutions
from unsilent.speed.memory import retain_memory, trim_memory
from unsilent.speed.prepare import sampling_mode

PRECISIONS = ("float32", "bfloat16", "int8")


def make(folder: Path, n_features: int) -> Path:
    """Write the parts of a model with `n_features` features and pseudo-random weights, unless they exist. Returns the sampler's folder."""
    row = presets.get(f"vggsound-{n_features}-resnet50")
    out = folder / f"sampler-{n_features}"
    kinds = {"codebook": (folder / "codebook", row.codebook), "melgan": (folder / "vocoder", row.vocoder), "sampler": (out, row.sampler)}
    for kind, (place, config) in kinds.items():
        if not (place / "config.json").exists():
            shapes = sampler_shapes(n_features, 0) if kind == "sampler" else published_shapes(kind)
            weights = {name: value for name, value in filled(shapes).items() if not name.endswith("mask")}
            save_checkpoint(place, kind, row.name, config, convert(kind, weights, config).state_dict(), {})
    return out


@torch.inference_mode()
def measure(folder: Path, sampler_folder: Path, precision: str, options: argparse.Namespace) -> list[dict]:
    """Return for each number of takes the median seconds of each step, the seconds of the first run, and the peak memory."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    started = time.perf_counter()
    codebook, vocoder = load_checkpoint(folder / "codebook", "codebook"), load_checkpoint(folder / "vocoder", "melgan")
    vocoder.remove_weight_norm()
    prepare_convolutions(codebook, precision, device)
    prepare_convolutions(vocoder, precision, device)
    sampler = load_sampler(sampler_folder, precision, device)
    for network in (codebook, vocoder, sampler):
        network.to(device)
    loaded, peak_of_loading = time.perf_counter() - started, _peak_mb(device)
    config = sampler.config
    features = torch.rand(1, config.condition.n_features, config.condition.feature_dim, generator=torch.Generator().manual_seed(0))
    features = features.to(device)
    codec, n_columns = Codec(codebook, vocoder, device, convolution_dtype(precision)), options.columns or config.clip.columns
    is_long = len(decoded_windows(n_columns, config.clip)) > 1
    laps, in_turn, peaks = defaultdict(list), defaultdict(list), defaultdict(list)
    order = options.takes * (options.runs + 1)
    for takes in sorted(order) if device.type == "cuda" else order:  # on a GPU, each change of takes would capture graphs again
        _forget_peak(device)
        laps[takes].append(_generate(sampler, codec, features, precision, n_columns, takes, True))
        peaks[takes].append(_peak_mb(device))
        if len(laps[takes]) > 1 and is_long:
            in_turn[takes].append(_generate(sampler, codec, features, precision, n_columns, takes, False))
    return [
        {
            "load": loaded,
            **_summary(laps[takes], in_turn[takes], n_columns, takes, config.clip),
            "peak_mb": max(peak_of_loading, *peaks[takes]),
        }
        for takes in options.takes
    ]


def _summary(laps: list[dict[str, float]], in_turn: list[dict[str, float]], n_columns: int, takes: int, clip: Clip) -> dict[str, float]:
    first, *others = laps
    whole, compared = (median(sum(lap.values()) for lap in some) if some else None for some in (others, in_turn))
    return {
        "first": sum(first.values()),
        **{name: median(lap[name] for lap in others) for name in first},
        "whole": whole,
        **({"in_turn": compared, "in_turn_to_whole": compared / whole} if in_turn else {}),
        "real_time_factor": whole / (n_columns * clip.column_seconds),
        "clips_a_second": takes * n_columns / clip.columns / whole,
    }


def _generate(
    sampler: Sampler, codec: Codec, features: Tensor, precision: str, n_columns: int, takes: int, is_beside: bool
) -> dict[str, float]:
    """Return the seconds of each step. Those of codes include concurrent decoding and vocoding."""
    clock, device = Clock(), codec.device
    with Rendering(codec, n_columns) as rendering:
        feed = rendering.feed if is_beside else lambda known: None
        windows = plan_windows(n_columns, codec.clip.columns, codec.clip.hop_columns)
        request = Request(takes=takes, top_k=sampler.config.codes, temperature=1.0, guidance=1.0)
        with sampling_mode(sampler, precision):
            condition = sampler.condition(features)
            _lap(clock, "condition", device)
            codes = sample_codes(sampler, windows, [condition] * len(windows), request, on_column=feed)
        trim_memory()
        rendering.wait()
        _lap(clock, "codes", device)
        with retain_memory():
            for take, grid in enumerate(to_grid(codes, codec.clip.rows)):
                rendering.decode(take, grid)
                _lap(clock, "decode", device)
                rendering.vocode(take)
                _lap(clock, "vocode", device)
    return clock.laps


def _lap(clock: Clock, name: str, device: torch.device) -> None:
    """Record the time of a step. GPU kernels run asynchronously, so they are waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    clock.lap(name)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5)


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


@torch.inference_mode()
def released(folder: Path, sampler_folder: Path, options: argparse.Namespace) -> dict:
    """Return the seconds of the released algorithm for one clip: float32, no cache, the whole sequence for every code."""
    torch.set_num_threads(options.threads)
    device, stride = torch.device(options.device), options.released
    sampler, codebook = load_checkpoint(sampler_folder, "sampler"), load_checkpoint(folder / "codebook", "codebook")
    vocoder = load_checkpoint(folder / "vocoder", "melgan")
    for network in (codebook, vocoder, sampler):
        network.to(device)
    config = sampler.config
    features = torch.rand(1, config.condition.n_features, config.condition.feature_dim, device=device)
    codes = torch.zeros(1, config.clip.n_codes, dtype=torch.long, device=device)
    with patch("torch.nn.functional.scaled_dot_product_attention", _attend):
        sampler.logits(codes, sampler.condition(features))
        started, timed = time.perf_counter(), 0
        for _ in range(0, config.clip.n_codes, stride):
            sampler.logits(codes, sampler.condition(features)).cpu()
            timed += 1
    seconds = {"codes": (time.perf_counter() - started) * config.clip.n_codes / timed}
    clock = Clock()
    mel = codebook.decode_codes(to_grid(codes, config.clip.rows))
    _lap(clock, "decode", device)
    vocoder(to_mel01(mel))
    _lap(clock, "vocode", device)
    seconds |= clock.laps
    return {**seconds, "whole": sum(seconds.values())}


def _attend(q: Tensor, k: Tensor, v: Tensor, **_: bool) -> Tensor:
    """Compute attention with separate operations, as the released transformer does: scores, mask, softmax, weighted sum."""
    scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    unseen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
    return scores.masked_fill(unseen, -torch.inf).softmax(-1) @ v


@torch.inference_mode()
def floors(folder: Path, sampler_folder: Path, options: argparse.Namespace) -> list[dict]:
    """Return the measured rates of this machine, and lower bounds for the seconds of each step, for each number of takes.

    On a CPU, matrices, keys, values and the decoder's wide convolutions are int8; everything else is bfloat16.
    """
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    large = torch.ones(1 << 28, device=device)
    bytes_a_second = 4 * len(large) / min(_seconds(large.sum, device) for _ in range(5))
    rates = {}
    for dtype in (torch.float32, torch.bfloat16):
        one = torch.ones(8192 if on_gpu else 2048, 8192 if on_gpu else 2048, dtype=dtype, device=device)
        rates[dtype] = 2 * len(one) ** 3 / min(_seconds(lambda one=one: one @ one, device) for _ in range(5))
    fastest = max(rates.values())
    # an instruction multiplies four int8 or two bfloat16 numbers for each float32 number
    in_whole = max(4 * rates[torch.float32], 2 * rates[torch.bfloat16]) if can_quantise(device) else fastest
    config = network_config(sampler_folder, "sampler")
    codebook, vocoder = load_checkpoint(folder / "codebook", "codebook"), load_checkpoint(folder / "vocoder", "melgan")
    shape, clip = config.transformer, config.clip
    number_bytes = 2 if on_gpu else 1
    n_condition = config.condition.n_tokens(clip)
    positions = sum(range(n_condition, n_condition + clip.n_codes))
    cache = 2 * shape.layers * shape.width * number_bytes * positions
    mel, grid = torch.zeros(1, clip.mels, clip.frames), torch.zeros(1, clip.rows, clip.columns, dtype=torch.long)
    decoded = _flops(lambda: codebook.decode_codes(grid))
    whole = sum(flops for name, flops in decoded.items() if name.startswith("Decoder.") and name.endswith((".conv1", ".conv2")))
    decode = (decoded["Global"] - whole) / fastest + whole / in_whole
    vocode = _flops(lambda: vocoder(mel))["Global"] / fastest
    rows = []
    for takes in options.takes:
        read = clip.n_codes * (shape.n_weights * number_bytes + 2 * config.codes * shape.width) + takes * cache
        steps = {"codes": read / bytes_a_second, "decode": takes * decode, "vocode": takes * vocode}
        products = {f"{str(dtype).removeprefix('torch.')}_gflops": rate / 1e9 for dtype, rate in rates.items()}
        rows.append({"read_gb_a_second": bytes_a_second / 1e9, **products, **steps, "whole": sum(steps.values())})
    return rows


def _flops(run: Callable[[], Tensor]) -> dict[str, int]:
    """Count the floating-point operations of each module that runs; `Global` is the total."""
    with FlopCounterMode(display=False) as counter:
        run()
    return {name: sum(flops.values()) for name, flops in counter.get_flop_counts().items()}


def _seconds(run, device: torch.device) -> float:
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--features", type=int, default=5, choices=(1, 5, 212))
    parser.add_argument("--takes", type=int, nargs="+", default=[1], help="takes in parallel; several numbers are measured in turn")
    parser.add_argument("--columns", type=int, default=0, help="code columns to generate; 0 for one clip")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--released", type=int, default=8)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", nargs="*", choices=PRECISIONS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a child process measures
    options = parser.parse_args()
    if options.one:
        sampler_folder = make(options.folder, options.features)
        measures = {"floor": floors, "released": released}
        run = measures.get(options.one) or partial(measure, precision=options.one)
        print(json.dumps(run(options.folder, sampler_folder, options=options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        make(options.folder, options.features)
        table = _table(options)
    if options.json:
        print(json.dumps(table))
        return
    for name, row in table.items():
        print(f"{name:18}", "  ".join(f"{key} {value:.2f}" if value < 100 else f"{key} {value:.0f}" for key, value in row.items()))


def _table(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure each row in its own process, with all numbers of takes in one process."""
    precisions = options.precision or (("bfloat16",) if options.device == "cuda" else PRECISIONS)
    table = {"released": _in_a_process("released", options)} if options.released else {}
    measured = {name: _in_a_process(name, options) for name in ("floor", *precisions)}
    for number, takes in enumerate(options.takes):
        for name, rows in measured.items():
            row = table[name if takes == 1 else f"{name}, {takes} takes"] = rows[number]
            if name == "floor" or options.columns:  # floors and the released algorithm are for one clip
                continue
            row["times_the_floor"] = row["whole"] / measured["floor"][number]["whole"]
            if options.released:
                row["times_faster_than_released"] = takes * table["released"]["whole"] / row["whole"]
    return table


def _in_a_process(name: str, options: argparse.Namespace) -> dict[str, float] | list[dict[str, float]]:
    told = {"--folder": options.folder, "--one": name, "--features": options.features, "--runs": options.runs, "--columns": options.columns}
    told |= {"--threads": options.threads, "--released": options.released, "--device": options.device}
    words = [*(word for pair in told.items() for word in pair), "--takes", *options.takes]
    return json.loads(subprocess.run([sys.executable, __file__, *map(str, words)], stdout=subprocess.PIPE, check=True, text=True).stdout)


if __name__ == "__main__":
    main()
