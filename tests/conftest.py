"""Shared fixtures: a tiny model with random weights, a small image network, small videos with numbered frames."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from unsilent.checkpoints.bundle import Parts, load_parts, save_bundle
from unsilent.checkpoints.folders import ROLES
from unsilent.checkpoints.store import save_checkpoint
from unsilent.clip import Clip
from unsilent.generation.sampling import sample_codes
from unsilent.generation.windows import plan_windows
from unsilent.models.codebook import Codebook
from unsilent.models.configs import (
    CodebookConfig,
    ConditionConfig,
    ResidualCodebookConfig,
    ResidualSamplerConfig,
    SamplerConfig,
    TransformerConfig,
    VocosConfig,
)
from unsilent.models.listener import Listener, ListenerConfig, Ranker
from unsilent.models.residual_codebook import ResidualCodebook
from unsilent.models.residual_sampler import ResidualSampler
from unsilent.models.sampler import Sampler
from unsilent.models.vggishish import VGGishish, VGGishishConfig
from unsilent.models.vocos import Vocos
from unsilent.pipeline import Pipeline
from unsilent.request import Request

torch.set_num_threads(1)  # networks of tests are so small that threads cost more than they save

BITS = 8
CELL = 8  # side of the square of one bit, in pixels


def draw(number: int, height: int = 48, width: int = 64) -> np.ndarray:
    """An RGB image with its number as black and white squares along the top; the rest is red at the left and blue at the right."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[:, : width // 2, 0] = 200
    image[:, width // 2 :, 2] = 200
    for bit in range(BITS):
        image[:CELL, bit * CELL : (bit + 1) * CELL] = 255 if number >> bit & 1 else 0
    return image


def read_number(image: np.ndarray) -> int:
    """The number in an image by `draw`, of the same size."""
    middles = image[CELL // 2, CELL // 2 : BITS * CELL : CELL].mean(axis=1)
    assert np.all((middles < 80) | (middles > 175)), f"not a number: {middles}"
    return int(np.dot(middles > 127, 1 << np.arange(BITS)))


def write_clip(
    path: Path,
    *,
    n_frames: int = 20,
    fps: Fraction | int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    size: tuple[int, int] = (64, 48),
    times: Sequence[int] | None = None,
    time_base: Fraction | None = None,
    first: int = 0,
    options: dict[str, str] | None = None,
    rotation: int | None = None,
    mirrored: bool = False,
    images: Callable[[int], np.ndarray] | None = None,
    sound: np.ndarray | None = None,
    sound_rate: int = 22050,
    sound_codec: str = "aac",
    sound_at: float = 0.0,
) -> Path:
    """Write a clip of numbered frames.

    `times` are time stamps in units of `time_base` (None: evenly spaced); `first` delays the first frame, in frames; `rotation` is in
    counter-clockwise degrees; `sound` is `[channels, samples]` and starts at `sound_at` seconds.
    """
    width, height = size
    time_base = time_base or 1 / Fraction(fps)
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps)
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        video.codec_context.time_base = time_base
        video.options = {"crf": "10", "g": "10"} | (options or {}) if codec == "libx264" else options or {}
        if rotation is not None:
            video.set_display_rotation(rotation, hflip=mirrored)
        if sound is not None:
            audio = container.add_stream(sound_codec, rate=sound_rate)
            audio.layout = "stereo" if len(sound) == 2 else "mono"
        for index in range(n_frames if times is None else len(times)):
            image = images(index) if images else draw(index, height, width)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.time_base = time_base
            frame.pts = first + index if times is None else times[index]
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if sound is not None:
            frame = av.AudioFrame.from_ndarray(sound.astype(np.float32), format="fltp", layout=audio.layout.name)
            frame.sample_rate, frame.time_base, frame.pts = sound_rate, Fraction(1, sound_rate), round(sound_at * sound_rate)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory) -> Iterator[Path]:
    """A cache of the test session's own."""
    cache = tmp_path_factory.getbasetemp() / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSILENT_CACHE", str(cache))
        yield cache


@pytest.fixture
def make_clip(tmp_path: Path) -> Callable[..., Path]:
    """`make_clip("name.mp4", **options of write_clip)` in the test's own folder."""
    return lambda name, **options: write_clip(tmp_path / name, **options)


@pytest.fixture(name="write_clip", scope="session")
def write_clip_fixture() -> Callable[..., Path]:
    return write_clip


@pytest.fixture(name="write_part", scope="session")
def write_part_fixture() -> Callable[..., Path]:
    return write_part


@pytest.fixture(name="draw")
def draw_fixture() -> Callable[..., np.ndarray]:
    return draw


@pytest.fixture(name="read_number")
def read_number_fixture() -> Callable[[np.ndarray], int]:
    return read_number


class TinyBackbone(nn.Module):
    """A small image network: the colours of a coarse grid, randomly projected to 1280 values."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.randn(3 * 8 * 8, 1280, generator=torch.Generator().manual_seed(0)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(images, 8).flatten(1) @ self.mix


def write_part(folder: Path, role: str, config: CodebookConfig | SamplerConfig | VocosConfig, seed: int = 0) -> Path:
    """A checkpoint with random weights, large enough that outputs depend clearly on inputs."""
    kind, network = {"codebook": ("codebook", Codebook), "sampler": ("sampler", Sampler), "vocoder": ("vocos", Vocos)}[role]
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of biases, which keep their default initialisation
        module, generator = network(config), torch.Generator().manual_seed(seed)
    for name, value in module.named_parameters():
        if value.ndim > 1:
            scale = 3.0 if name == "head.weight" else 1.0
            nn.init.normal_(value, std=scale / value[0].numel() ** 0.5, generator=generator)
    save_checkpoint(folder, kind, "everyday", config, module.state_dict(), {"seed": seed})
    return folder


@pytest.fixture(scope="session")
def tiny_configs() -> dict[str, CodebookConfig | SamplerConfig | VocosConfig]:
    """Sizes of the tiny model: the paper's clip, everything else as small as possible."""
    return {
        "codebook": CodebookConfig(n_codes=32, dim=8, channels=8, multipliers=(1, 1, 1, 1, 2), n_blocks=1),
        "sampler": SamplerConfig(
            codes=32,
            transformer=TransformerConfig(layers=1, heads=2, width=64),
            condition=ConditionConfig(kind="features", n_features=53, feature_dim=1280),
        ),
        "vocoder": VocosConfig(width=16, hidden=32, n_blocks=1, rounds=1),
    }


@pytest.fixture(scope="session")
def tiny_parts(tmp_path_factory, tiny_configs) -> dict[str, Path]:
    """Checkpoint folders of the tiny model, in float32."""
    folder = tmp_path_factory.mktemp("parts")
    return {role: write_part(folder / role, role, tiny_configs[role]) for role in ROLES}


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory, tiny_parts) -> Path:
    """The tiny model as a bundle; for `unsilent --model`."""
    folder = tmp_path_factory.mktemp("bundle") / "tiny"
    save_bundle(folder, "everyday", tiny_parts, {"summary": "random weights", "licences": {"weights": ["none needed"]}})
    return folder


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory) -> Path:
    """Checkpoint folder of a classifier of `high`, `low` and `noise` for 64 frames, with random weights."""
    folder = tmp_path_factory.mktemp("classifier")
    config = VGGishishConfig(labels=3, width=2, grid=(2, 2), hidden=12)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = VGGishish(config).state_dict()
    weights["classifier.4.weight"] *= 100  # so that its probabilities differ
    record = {"run": {"crop_frames": 64}, "classes": ["high", "low", "noise"]}
    save_checkpoint(folder, "vggishish", "everyday", config, weights, record)
    return folder


@pytest.fixture(scope="session")
def tiny_sounds(tmp_path_factory) -> Path:
    """`real` with four sounds in each of the folders `high` and `low`; `made` and `worse` with two samples of each, worse ones noisier."""
    root = tmp_path_factory.mktemp("sounds")
    rng, times = np.random.default_rng(0), np.arange(11025) / 22050
    for label, hz in (("low", 300), ("high", 2500)):
        for i in range(4):
            tone = 0.3 * np.sin(2 * np.pi * hz * (1 + i / 10) * times) * np.exp(-i * times)
            for name, noise in ((f"real/{label}/{label}{i}", 0.001), *((f"{kind}/{label}{i}/{n}", amount) for n in range(2)
                                for kind, amount in (("made", 0.01), ("worse", 0.3)))):  # fmt: skip
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(root / f"{name}.wav", tone + noise * rng.standard_normal(len(tone)), 22050)
    return root


@pytest.fixture(scope="session")
def parts(tiny_bundle) -> Parts:
    """The networks of the tiny model, with `TinyBackbone` as image network."""
    return dataclasses.replace(load_parts(tiny_bundle), backbone=TinyBackbone().eval())


@pytest.fixture(scope="session")
def pipeline(parts) -> Pipeline:
    """The tiny model, loaded."""
    return Pipeline(parts, torch.device("cpu"))


@pytest.fixture(scope="session")
def seeing(parts) -> Pipeline:
    """A tiny model of the kind of `everyday`: residual codes, a sampler over columns that sees classes and motion."""
    clip = Clip(levels=2)
    sizes = {"levels": 3, "n_codes": 16, "dim": 8, "beam": 2}
    condition = ConditionConfig(kind="sight", n_features=27, feature_dim=1280, n_classes=3, motion=8)
    transformer = TransformerConfig(layers=1, heads=2, width=32)
    config = ResidualSamplerConfig(clip=clip, codes=16, dim=8, transformer=transformer, inner=16, inner_blocks=1, condition=condition)
    with torch.random.fork_rng():
        torch.manual_seed(2)
        codebook, sampler = ResidualCodebook(ResidualCodebookConfig(clip=clip, **sizes)), ResidualSampler(config)
        listener = Listener(ListenerConfig(block=8, channels=(4, 4, 4, 4), labels=3)).eval()
        nn.init.normal_(listener.to_bands)
        for module in (codebook, sampler):
            for tensor in (*module.parameters(), *module.buffers()):
                nn.init.normal_(tensor, std=2.0 / max(1, tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.1)
        sampler.embedder.sight.std.fill_(20.0)
    named = {"classes": ("cat", "dog", "drum"), "top_k": 16, "temperature": 1.0, "guidance": 2.0, "candidates": 1, "exemplars": None}
    named["ranker"] = Ranker(listener, named["classes"])
    return Pipeline(dataclasses.replace(parts, codebook=codebook.eval(), sampler=sampler.eval(), **named), torch.device("cpu"))


@pytest.fixture
def sample_with():
    """Sample with one condition for all windows: `sample_with(sampler, condition, n_columns, seed=3, takes=2)`."""

    def run(sampler, condition, n_columns, hop_columns=None, attention=None, **fields):
        clip = sampler.config.clip
        windows = plan_windows(n_columns, clip.columns, hop_columns or clip.hop_columns)
        request = Request(**{"temperature": 1.0, "top_k": sampler.config.codes, "guidance": 1.0, **fields})
        return sample_codes(sampler, windows, [condition] * len(windows), request, attention=attention)

    return run
