"""Digests of the results of fixed requests, to check whether two versions of the code give identical bytes on one machine.

    python benchmarks/digests.py OUT.json [--compare OTHER.json] [--bundles DIR] [--threads 2] [--only TEXT]

Only the command line and `unsilent.load` are used, so that the script runs with both versions. Give the second run the DIR of the first,
which holds the inputs and the models. The models have pseudo-random weights that depend only on the weights' names. They are tiny, except a
codebook, a vocoder and image networks of the paper's sizes. OUT.json has a SHA-256 for each part of each result: samples, codes, mel,
features, packets, and text without paths, versions and times. The exit code is 1 if anything differs from OTHER.json. A run takes nine
minutes on two CPU cores; `--only` runs the requests whose names contain TEXT.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parents[1]
CAT = ROOT / "demo/cat.mp4"
RATE = 22050  # Hz
COMMAND = "import sys; from unsilent.cli.main import run; sys.exit(run(sys.argv[1:]))"
CHANGING = ("spent_seconds", "real_time_factor", "version")  # keys whose values differ between runs or versions

Parts = dict[str, str]  # digests by part of a result

# The preset of each model, and what differs from the preset `small`: number of codes, mel frames of a clip, width of the transformer,
# condition, classes; `paper` gives codebook and vocoder the paper's sizes. If the width is not a multiple of 64, torch computes the
# sampler.
MODELS: dict[str, dict[str, Any]] = {
    "none": {
        "preset": "vggsound-nofeats", "codes": 1024, "paper": True, "width": 128,
        "condition": {"kind": "none", "n_features": 1, "feature_dim": 2048},
    },
    "class": {"preset": "vas-class", "codes": 128, "condition": {"kind": "class", "n_classes": 3}, "classes": ["dog", "drum", "rain"]},
    "features": {"preset": "vggsound-5-resnet50", "condition": {"kind": "features", "n_features": 5, "feature_dim": 2048}},
    "features-narrow": {
        "preset": "small", "codes": 96, "frames": 192, "width": 96,
        "condition": {"kind": "features", "n_features": 12, "feature_dim": 1280},
    },
    "features-class": {
        "preset": "vas-212-bninception-class", "codes": 128, "frames": 192, "classes": ["dog", "drum"],
        "condition": {"kind": "features+class", "n_features": 3, "feature_dim": 2048, "n_classes": 2},
    },
    "coordinates": {"preset": "vggsound-nofeats", "condition": {"kind": "coordinates"}},
    "columns": {
        "preset": "smoke", "codes": 64, "frames": 192,
        "condition": {"kind": "columns", "n_features": 6, "feature_dim": 1280, "motion": 8},
    },
    "columns-unmoved": {"preset": "small", "condition": {"kind": "columns", "n_features": 27, "feature_dim": 1280}},
}  # fmt: skip
LABELS = {"class": "drum", "features-class": "dog"}


# ---- models and inputs, written once ----


def fill(name: str, shape: list[int]) -> np.ndarray:
    """Fill a weight from its name and shape alone, with a variance that roughly preserves the variance of activations."""
    normal = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return 0.1 * normal + (name.rsplit(".")[-1] in ("weight", "scale"))
    if name == "pos_emb":
        return 0.3 * normal
    return normal * np.float32((3 if name == "head.weight" and shape[1] < 320 else 1) / np.sqrt(np.prod(shape[1:])))


def published(network: str, folder: Path) -> None:
    """Convert a network with the published weight names and shapes, filled as in `parity.py`."""
    import torch
    from parity import filled, published_shapes

    with tempfile.TemporaryDirectory() as scratch:
        torch.save(filled(published_shapes(network)), Path(scratch) / f"{network}.pt")
        run_command("models", "convert", Path(scratch) / f"{network}.pt", "-o", folder, "--kind", network, "--numbers", "float16")


def small_shapes(role: str) -> tuple[dict[str, Any], dict[str, list[int]]]:
    """Return the config.json of a network of the preset `small`, and the shapes of its weights."""
    import torch

    from unsilent import presets
    from unsilent.models.codebook import Codebook
    from unsilent.models.sampler import Sampler
    from unsilent.models.vocos import Vocos

    kind, network = {"codebook": ("codebook", Codebook), "sampler": ("sampler", Sampler), "vocoder": ("vocos", Vocos)}[role]
    config = getattr(presets.get("small"), role)
    with torch.device("meta"):
        shapes = {name: list(value.shape) for name, value in network(config).state_dict().items()}
    return {"kind": kind, "config": config.model_dump(mode="json")}, shapes


def sampler_shapes(shapes: dict[str, list[int]], model: dict[str, Any], width: int, codes: int, columns: int) -> dict[str, list[int]]:
    """Adapt the shapes of the small sampler to other sizes, two blocks and another condition."""
    condition, other = model["condition"], {256: width, 1024: 4 * width, 512: codes}
    kind, n_codes = condition["kind"], 5 * columns
    n_positions = {"coordinates": n_codes, "columns": 1}.get(kind, condition.get("n_features", 0) + ("n_classes" in condition))
    kept = [name for name in shapes if not re.match(r"embedder|pos_emb|transformer\.blocks\.([2-9])", name)]
    sized = {name: [other.get(n, n) for n in shapes[name]] for name in kept} | {"pos_emb": [1, n_positions + n_codes, width]}
    if condition.get("n_features"):
        sized |= {"embedder.feature_embedder.weight": [width, condition["feature_dim"]], "embedder.feature_embedder.bias": [width]}
    if "n_classes" in condition:
        sized["embedder.class_embedder.weight"] = [condition["n_classes"], width]
    if kind == "columns":
        beside = [name for name in shapes if name.startswith("embedder.columns") and ("motion" not in name or "motion" in condition)]
        sized |= {name: [other.get(n, n) for n in shapes[name]] for name in beside}
    return sized


def write_network(folder: Path, about: dict[str, Any], preset: str, shapes: dict[str, list[int]]) -> None:
    """Write a checkpoint folder, with weights from `fill`."""
    folder.mkdir(parents=True)
    save_file({name: fill(name, shape) for name, shape in shapes.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(about | {"preset": preset, "record": {"filled": "by rule"}}))


def make_model(folder: Path, networks: Path, name: str) -> None:
    """Write a bundle."""
    model = MODELS[name]
    codes, frames, width = model.get("codes", 512), model.get("frames", 848), model.get("width", 64)
    for role in ("codebook", "sampler", "vocoder"):
        if model.get("paper") and role != "sampler":
            shutil.copytree(networks / {"codebook": "codebook", "vocoder": "melgan"}[role], folder / role)
            continue
        about, shapes = small_shapes(role)
        config = about["config"]
        config["clip"]["frames"] = frames
        if role == "codebook":
            config["n_codes"], shapes["quantize.embedding.weight"][0] = codes, codes
        if role == "sampler":
            config["transformer"] |= {"layers": 2, "heads": 4, "width": width}
            config |= {"codes": codes, "condition": model["condition"]}
            shapes = sampler_shapes(shapes, model, width, codes, frames // 16)
        write_network(folder / role, about, model["preset"], shapes)
    parts = {role: role for role in ("codebook", "sampler", "vocoder")}
    (folder / "bundle.json").write_text(json.dumps({"preset": model["preset"], "parts": parts, "classes": model.get("classes", [])}))


def cut(out: Path, seconds: float, repeats: int = 1, sound: np.ndarray | None = None) -> None:
    """Write the first seconds of the demo clip, repeated, with its video packets unchanged and optionally with a sound."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(CAT)) as source, av.open(str(out), "w") as container:
        given = source.streams.video[0]
        pictures = container.add_stream_from_template(given)
        if sound is not None:
            heard = container.add_stream("aac", rate=RATE, layout="mono")
        limit = round(seconds / given.time_base)
        originals = [packet for packet in source.demux(given) if packet.size and packet.pts < limit]
        for turn in range(repeats):
            for original in originals:
                packet = av.Packet(bytes(original))
                packet.stream, packet.time_base = pictures, given.time_base
                packet.duration, packet.is_keyframe = original.duration, original.is_keyframe
                packet.pts, packet.dts = original.pts + turn * limit, original.dts + turn * limit
                container.mux(packet)
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = RATE, 0
            container.mux([*heard.encode(frame), *heard.encode(None)])


def draw(out: Path, n_frames: int, fps: int, codec: str, moves: bool) -> None:
    """Write a video with a still or moving bright square on noise."""
    out.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 120, (72, 128, 3), dtype=np.uint8)
    with av.open(str(out), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 128, 72, "yuv420p"
        stream.thread_count = 1
        for number in range(n_frames):
            picture = noise.copy()
            left = 4 * number % 100 if moves else 50
            picture[20:44, left : left + 24] = 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))


def tone(hz: float, seconds: float) -> np.ndarray:
    """Return a falling tone with two decaying strokes per second and slight noise."""
    times = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(int(hz)).standard_normal(len(times))
    return 0.3 * np.exp(-6 * (times % 0.5)) * np.sin(2 * np.pi * hz * (1 - 0.02 * times) * times) + 0.003 * noise


def make(folder: Path) -> None:
    """Write all models and inputs, unless they exist."""
    if (folder / "complete").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.environ["UNSILENT_CACHE"] = str(folder / "cache")
    networks, inputs = folder / "networks", folder / "inputs"
    for network in ("codebook", "melgan"):
        published(network, networks / network)
    for network in ("resnet50", "bninception"):
        published(network, folder / "cache/models" / network)
    for name in MODELS:
        make_model(folder / name, networks, name)
    cut(inputs / "cat.mp4", 4)
    cut(inputs / "long.mp4", 10, repeats=3)
    cut(inputs / "heard.mp4", 5, sound=tone(500, 5))
    draw(inputs / "still.mp4", 60, 15, "libx264", moves=False)
    draw(inputs / "single.mp4", 1, 25, "libx264", moves=False)
    draw(inputs / "old.avi", 30, 12, "mpeg4", moves=True)
    draw(inputs / "batch/first.mp4", 40, 20, "libx264", moves=True)
    draw(inputs / "batch/below/second.mkv", 24, 10, "libx264", moves=True)
    (inputs / "batch/broken.mp4").write_bytes(b"no video at all")
    soundfile.write(inputs / "tone.wav", tone(900, 12.5), RATE)
    for label, hz in (("high", 2000), ("low", 250)):
        cut(inputs / f"material/{label}/{label}.mp4", 3, sound=tone(hz, 3))
        soundfile.write(inputs / f"material/{label}/{label}-alone.wav", tone(1.1 * hz, 4), RATE)
        picture = np.random.default_rng(hz).integers(0, 255, (90, 120, 3), dtype=np.uint8)
        Image.fromarray(picture).save(inputs / f"material/{label}/{label}.png")
    (folder / "complete").touch()


# ---- running requests, and digests of their results ----


def digest(content: bytes | str) -> str:
    """Return the SHA-256 of bytes or text."""
    return hashlib.sha256(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content).hexdigest()


def of_array(values: np.ndarray) -> str:
    """Return the digest of an array's dtype, shape and values."""
    return digest(f"{values.dtype}{values.shape}".encode() + np.ascontiguousarray(values).tobytes())


def run_command(*arguments: object) -> subprocess.CompletedProcess:
    """Run one command in its own process."""
    said = [str(argument) for argument in arguments]
    return subprocess.run([sys.executable, "-c", COMMAND, *said], capture_output=True, text=True, errors="backslashreplace")


class Runner:
    """Runs requests and computes digests of their results.

    Args:
        bundles: folder of models and inputs.
        scratch: folder for the outputs.
    """

    def __init__(self, bundles: Path, scratch: Path) -> None:
        self.bundles, self.inputs, self.scratch, self._n = bundles, bundles / "inputs", scratch, 0
        self._pipelines: dict[tuple[str, ...], Any] = {}

    def folder(self) -> Path:
        """Create a new folder for the outputs of a request."""
        self._n += 1
        folder = self.scratch / str(self._n)
        folder.mkdir()
        return folder

    def text(self, said: str) -> str:
        """Remove paths, versions, times and progress from a text."""
        import unsilent

        for path, name in ((self.bundles, "BUNDLES"), (self.scratch, "SCRATCH"), (ROOT, "ROOT")):
            said = said.replace(str(path), name)
        said = re.sub(r"SCRATCH/\d+", "SCRATCH", said).replace(unsilent.__version__, "VERSION")
        lines = [line for line in said.splitlines() if not re.search(r", about -?\d+:\d+ left", line)]
        return "\n".join(re.sub(r" +", " ", line).rstrip() for line in lines)

    def record(self, value: Any) -> Any:
        """Remove everything that changes between runs from a JSON value."""
        if isinstance(value, dict):
            return {name: self.record(one) for name, one in value.items() if name not in CHANGING}
        if isinstance(value, list):
            return [self.record(one) for one in value]
        return self.text(value) if isinstance(value, str) else value

    def said(self, done: subprocess.CompletedProcess) -> Parts:
        """Return digests of a command's exit code and output, without everything that changes between runs."""
        lines = []
        for line in done.stdout.splitlines():
            lines.append(json.dumps(self.record(json.loads(line))) if line.startswith("{") else self.text(line))
        return {"code": str(done.returncode), "out": digest("\n".join(lines)), "err": digest(self.text(done.stderr))}

    def file(self, path: Path) -> Parts:
        """Return digests of the parts of a file, by its format."""
        match path.suffix:
            case ".mp4" | ".mkv" | ".mov" | ".avi":
                return self.video(path)
            case ".wav":
                return {"samples": of_array(soundfile.read(path, dtype="int16")[0])}
            case ".png":
                return {"pixels": of_array(np.asarray(Image.open(path)))}
            case ".npy":
                return {"mel": of_array(np.load(path))}
            case ".json":
                return {"record": digest(json.dumps(self.record(json.loads(path.read_text()))))}
            case ".parquet":
                return self.table(path)
            case ".html" | ".csv":
                return {"text": digest(self.text(path.read_text()))}
        return {"bytes": digest(path.read_bytes())}

    def video(self, path: Path) -> Parts:
        """Return digests of video and audio packets with their times, and of the comment."""
        found = {}
        with av.open(str(path)) as container:
            for stream in container.streams:
                packets = hashlib.sha256(bytes(stream.codec_context.extradata or b""))
                for packet in container.demux(stream):
                    if packet.size:
                        packets.update(f"{float(packet.pts * packet.time_base):.4f} {packet.is_keyframe} ".encode() + bytes(packet))
                found[f"{stream.type} packets"] = packets.hexdigest()
                container.seek(0)
            tags = {name.lower(): value for name, value in container.metadata.items()}
        return {**found, "comment": digest(self.text(tags.get("comment", "")))}

    def table(self, path: Path) -> Parts:
        """Return the digest of a manifest's rows."""
        import pyarrow.parquet

        return {"rows": digest(json.dumps(self.record(pyarrow.parquet.read_table(path).to_pylist())))}

    def files(self, folder: Path) -> Parts:
        """Return digests of all files in a folder and its subfolders."""
        found = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                name = self.text(str(path.relative_to(folder)))  # reports name the version
                found |= {f"{name} {part}": value for part, value in self.file(path).items()}
        return found

    def command(self, *arguments: object, before: tuple[tuple[object, ...], ...] = ()) -> Parts:
        """Run a command in a new folder, which replaces `OUT` in arguments, after the commands in `before`. Returns digests of its
        output and of the folder's files."""
        out = self.folder()
        for one in (*before, arguments):
            done = run_command(*(str(argument).replace("OUT", str(out)) for argument in one))
        return {**self.said(done), **self.files(out)}

    def pipeline(self, model: str, precision: str = "auto", vocoder: str = "neural") -> Any:
        """Load a model, or return it if it was loaded last."""
        import unsilent

        chosen = (model, precision, vocoder)
        if chosen not in self._pipelines:
            self._pipelines.clear()
            self._pipelines[chosen] = unsilent.load(model, device="cpu", precision=precision, vocoder=vocoder)
        return self._pipelines[chosen]

    def generation(self, model: str, video: str, precision: str = "auto", vocoder: str = "neural", **options: Any) -> Parts:
        """Generate sound for a video, and return digests of all arrays and attributes of the result."""
        made = self.pipeline(model, precision, vocoder).generate(self.inputs / video, **options)
        numbers = {name: getattr(made, name) for name in ("waveform", "mel", "codes", "features")}
        about = {"rate": made.sample_rate, "seconds": made.seconds, "clip": made.clip.model_dump(), "model": made.model}
        about |= {"seed": made.seed, "take": made.take, "precision": made.precision}
        return {**{name: of_array(value) for name, value in numbers.items() if value is not None}, "about": digest(json.dumps(about))}

    def takes(self, model: str, video: str, n: int, **options: Any) -> Parts:
        """Generate several takes, and return digests of their waveforms and codes."""
        made = self.pipeline(model).takes(self.inputs / video, n, **options)
        return {f"{name} {one.take}": of_array(getattr(one, name)) for one in made for name in ("codes", "waveform")}

    def reconstruction(self, model: str, precision: str = "auto", vocoder: str = "neural") -> Parts:
        """Return the digest of a reconstructed sound."""
        sound = soundfile.read(self.inputs / "tone.wav", dtype="float32")[0]
        return {"waveform": of_array(self.pipeline(model, precision, vocoder).reconstruct(sound))}


# ---- the requests ----


def requests(runner: Runner) -> dict[str, Callable[[], Parts]]:
    """Return the functions that run the requests, by name."""
    return dict([*commands(runner), *calls(runner)])


def commands(runner: Runner) -> Iterator[tuple[str, Callable[[], Parts]]]:
    """Yield the requests on the command line."""

    def command(name: str, *arguments: object, before: tuple[tuple[object, ...], ...] = ()) -> tuple[str, Callable[[], Parts]]:
        return name, lambda: runner.command(*arguments, before=before)

    def generate(name: str, video: str, *options: object, out: str = "OUT/made.mp4") -> tuple[str, Callable[[], Parts]]:
        return command(f"generate: {name}", "generate", inputs / video, "-o", out, "--wav", "--json", "--device", "cpu", *options)

    inputs, bundles = runner.inputs, runner.bundles
    yield generate("the demo, drawn", CAT, "--picture")
    yield generate("a seed", "cat.mp4", "--seed", 7)
    yield generate("three takes of a large seed", "cat.mp4", "--seed", 2**40, "--takes", 3)
    yield generate("top-k", "cat.mp4", "--top-k", 20)
    yield generate("temperature 0", "cat.mp4", "--temperature", 0)
    yield generate("guidance 1", "cat.mp4", "--guidance", 1)
    yield generate("guidance 5", "cat.mp4", "--guidance", 5)
    yield generate("all choices", "cat.mp4", "--seed", 3, "--top-k", 50, "--temperature", 1.3, "--guidance", 0.5)
    yield generate("no motion", "cat.mp4", "--no-motion")
    yield generate("Griffin-Lim", "cat.mp4", "--vocoder", "griffin-lim")
    yield generate("own sound dropped", "heard.mp4", out="OUT/made.mkv")
    yield generate("own sound kept", "heard.mp4", "--original", "keep", out="OUT/made.mov")
    yield generate("own sound ducked", "heard.mp4", "--original", "duck")
    yield generate("long", "long.mp4", "--seed", 1)
    yield generate("still", "still.mp4")
    yield generate("a single picture", "single.mp4")
    yield generate("AVI to Matroska", "old.avi", out="OUT/made.mkv")
    batch = ("generate", inputs / "batch", inputs / "still.mp4", "-o", "OUT", "--json", "--model", bundles / "columns")
    yield command("generate: a folder with a broken file", *batch)
    yield command("generate: the same folder again", *batch, before=(batch,))
    for precision in ("float32", "bfloat16", "int8"):
        yield generate(precision, "cat.mp4", "--precision", precision)
    for wrong in (("--top-k", 10**6), ("--label", "dog"), ("--model", "everydey"), ("--temperature", -1), ("--takes", 0)):
        yield generate(f"refused {' '.join(map(str, wrong))}", "cat.mp4", *wrong)
    yield generate("refused without a label", "cat.mp4", "--model", bundles / "class")

    yield command("reconstruct: a sound", "reconstruct", inputs / "tone.wav", "-o", "OUT/made.wav")
    yield command("reconstruct: a video", "reconstruct", inputs / "heard.mp4", "-o", "OUT/made.wav", "--precision", "int8")
    yield command("reconstruct: Griffin-Lim", "reconstruct", inputs / "heard.mp4", "-o", "OUT/made.wav", "--vocoder", "griffin-lim")

    manifest = ("data", "manifest", inputs / "material", "-o", "OUT/m.parquet", "--valid", 0.5)
    few = ("sample", "OUT/m.parquet", "-o", "OUT/samples", "--samples", 2, "--split", "all", "--model", bundles / "columns")
    yield command("data: manifest", *manifest)
    yield command("sample: mels", *few, before=(manifest,))
    yield command("sample: sounds, two workers", *few, "--keep", "wav", "--seed", 5, "--workers", 2, before=(manifest,))
    yield command("sample: everyday", "sample", "OUT/m.parquet", "-o", "OUT/samples", "--samples", 1, "--split", "all", before=(manifest,))
    extract = ("data", "extract", "OUT/m.parquet", "-o", "OUT/shards", "--preset", "smoke")
    yield command("data: extract", *extract, before=(manifest,))
    codes = ("data", "extract", "--codebook", bundles / "columns/codebook", "-o", "OUT/shards")
    yield command("data: codes", *codes, before=(manifest, extract))
    sounds, made = ("--reference", inputs / "material", "--generated", "OUT/samples"), (manifest, (*few, "--keep", "wav"))
    judged = ("evaluate", *sounds, "--classifier", "everyday", "--labels", "folders", "-o", "OUT/report")
    yield command("evaluate: samples", *judged, before=made)

    yield command("models: list", "models")
    for name in ("everyday", "vggsound-5-resnet50"):
        yield command(f"models: show {name}", "models", "show", name)
    for verb in ("generate", "reconstruct", "sample", "evaluate", "train", "models convert", "data manifest", "data extract", ""):
        yield command(f"help: {verb or 'all'}", *verb.split(), "--help")


def calls(runner: Runner) -> Iterator[tuple[str, Callable[[], Parts]]]:
    """Yield the requests from Python."""
    bundles = runner.bundles

    def generation(name: str, *arguments: Any, **options: Any) -> tuple[str, Callable[[], Parts]]:
        return f"call: {name}", lambda: runner.generation(*arguments, **options)

    yield generation("everyday", "everyday", "cat.mp4")
    yield "call: everyday, takes of a long video", lambda: runner.takes("everyday", "long.mp4", 2, guidance=1.0)
    yield generation("everyday int8", "everyday", "heard.mp4", "int8", seed=4)
    yield generation("everyday bfloat16", "everyday", "still.mp4", "bfloat16", seed=4)
    for model in MODELS:
        video = "still.mp4" if model == "none" else "heard.mp4"
        options = {"label": LABELS[model]} if model in LABELS else {}
        yield generation(f"model {model}", str(bundles / model), video, seed=1, **options)
    for precision in ("float32", "bfloat16", "int8"):
        yield generation(f"columns {precision}", str(bundles / "columns"), "heard.mp4", precision)
    yield generation("features-narrow bfloat16", str(bundles / "features-narrow"), "heard.mp4", "bfloat16", seed=1)
    yield generation("columns, Griffin-Lim", str(bundles / "columns"), "heard.mp4", "auto", "griffin-lim", motion=False)
    yield "call: reconstruct everyday", lambda: runner.reconstruction("everyday")
    yield "call: reconstruct everyday bfloat16", lambda: runner.reconstruction("everyday", "bfloat16")
    yield "call: reconstruct with the paper's networks", lambda: runner.reconstruction(str(bundles / "none"))


def about(threads: int) -> dict[str, Any]:
    """Return the properties of the environment that results depend on."""
    import torch

    return {"torch": torch.__version__, "numpy": np.__version__, "cpu": torch.backends.cpu.get_cpu_capability(), "threads": threads}


def compare(found: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """List the differences between two runs, over the requests that both have."""
    then = other["about"]
    lines = [f"{name}: {then.get(name)} before, {value} now" for name, value in found["about"].items() if then.get(name) != value]
    for name in found["digests"].keys() & other["digests"].keys():
        one, two = found["digests"][name], other["digests"][name]
        if differing := sorted(part for part in one.keys() | two.keys() if one.get(part) != two.get(part)):
            lines.append(f"{name}: {', '.join(differing)}")
    return sorted(lines)


def main() -> int:
    """Run all requests. Returns 1 if a digest differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--compare", type=Path, help="OUT.json of another version")
    parser.add_argument("--bundles", type=Path, help="folder of models and inputs, created if needed [default: a temporary one]")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="run only requests whose names contain this")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "COLUMNS": "120", "TERM": "dumb", "NO_COLOR": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        bundles = (options.bundles or Path(scratch) / "bundles").resolve()
        make(bundles)
        os.environ["UNSILENT_CACHE"] = str(bundles / "cache")
        work = Path(scratch).resolve() / "work"
        work.mkdir()
        found: dict[str, Any] = {"about": about(options.threads), "digests": {}}
        for name, request in requests(Runner(bundles, work)).items():
            if options.only in name:
                found["digests"][name] = request()
                print(f"{name}: {len(found['digests'][name])} digests", flush=True)
                options.out.write_text(json.dumps(found, indent=1) + "\n")
    if not options.compare:
        return 0
    other = json.loads(options.compare.read_text())
    differing = compare(found, other)
    print("\n".join(differing) or f"all {len(found['digests'].keys() & other['digests'].keys())} requests give identical results")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
