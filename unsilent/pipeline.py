"""A video goes in, sound comes out: the walk through all networks on one page, as in figure 2 of the paper.

Frames → features → condition → codes → mel → waveform. Each step is a call into a lower room; nothing is computed here.
"""

import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.checkpoints.bundle import Parts, find_bundle, load_parts, sampler_config
from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.generation.rendering import Renderer, Rendering
from unsilent.generation.result import Generation
from unsilent.generation.sampling import Window, plan_windows, sample_codes
from unsilent.labels import find_label
from unsilent.media.probe import probe
from unsilent.models.code_order import to_grid
from unsilent.signal.loudness import level
from unsilent.signal.mel import from_mel01, log_mel01
from unsilent.speed.choice import Device, Precision, choose_device, choose_precision, convolution_dtype
from unsilent.speed.memory import retain_memory, trim_memory
from unsilent.speed.prepare import sampling_mode
from unsilent.speed.threads import SMALL_WEIGHTS, all_but_one_thread, one_thread
from unsilent.vision.features import told_rows
from unsilent.vision.scene import Scene, Seen, look

Progress = Callable[[str, float], None]  # what is being done, share of the whole work that is done in [0, 1]
VocoderChoice = Literal["neural", "griffin-lim"]

SHARE_LOOKING, SHARE_SAMPLING = 0.4, 0.5  # of the work, about, for the progress that is shown


def load(
    name: str = "everyday", device: Device = "auto", precision: Literal["auto"] | Precision = "auto", vocoder: VocoderChoice = "neural"
) -> "Pipeline":
    """Load a model.

    Args:
        name: of a model whose weights are here, or the path of a bundle folder.
        device: `auto` takes a GPU if there is one.
        precision: `auto` is the fastest that keeps the quality, see `speed.choice.choose_precision`; `Pipeline.precision` says which.
        vocoder: `neural`, or `griffin-lim` for phase estimation without a network.

    Raises:
        CheckpointError: if weights are missing, damaged, or do not fit.
        ParameterError: for a device that is not there, or a precision that it cannot compute.
    """
    folder, chosen = find_bundle(name), choose_device(device)
    config = sampler_config(folder)
    precision = choose_precision(precision, chosen, config)
    with one_thread(config.transformer.n_weights < SMALL_WEIGHTS):  # thousands of small tensors are copied
        parts = load_parts(folder, precision, chosen)
    return Pipeline(parts, chosen, precision, vocoder)


class Pipeline:
    """A loaded model, ready to give videos their sound.

    Args:
        parts: its networks; they are moved to `device`.
        device: where they are.
        precision: `float32`; `bfloat16` for matrix products and convolutions; `int8` for parts that were loaded so.
        vocoder: `neural` for the model's own, `griffin-lim` for phase estimation without a network.
    """

    def __init__(self, parts: Parts, device: torch.device, precision: Precision = "float32", vocoder: VocoderChoice = "neural") -> None:
        self.name = parts.name
        self.parts, self.device, self.precision, self.vocoder = parts, device, precision, vocoder
        for module in parts.modules():
            module.to(device)
        halves = convolution_dtype(precision) is torch.bfloat16
        self._sampling = threading.RLock()  # what a sampler reads of a window is kept in one place
        self.renderer = Renderer(parts.codebook, parts.vocoder if vocoder == "neural" else None, device, halves)

    @property
    def clip(self) -> Clip:
        """The grid of the model."""
        return self.renderer.clip

    @property
    def bitrate_kbps(self) -> float:
        """What the codes of one second of sound weigh, in kilobits: codes a second times bits a code, without entropy coding."""
        return self.clip.n_codes * math.log2(self.parts.codebook.config.n_codes) / self.clip.seconds / 1000

    def generate(
        self,
        video: str | Path,
        *,
        seed: int = 0,
        top_k: int | None = None,
        temperature: float | None = None,
        guidance: float | None = None,
        motion: bool = True,
        label: str | None = None,
    ) -> Generation:
        """Make sound for a video of any length.

        Args:
            video: file to look at.
            seed: the same seed, video, model and machine give the same bytes.
            top_k: sample among the k likeliest codes only (the paper's top-X); None takes the model's own.
            temperature: above 1 more surprising, below 1 more repetitive, 0 always the likeliest; None takes the model's own.
            guidance: above 1 it follows what is seen more closely, with less variety, in more time; None takes the model's own.
            motion: whether a model that can be told how much moves is told; a shaking camera is a reason not to.
            label: class name, for models that want one.

        Raises:
            MediaError: if the video cannot be read.
            ParameterError: for a value out of range, or a label for a model without classes.
        """
        return self.takes(video, 1, seed=seed, top_k=top_k, temperature=temperature, guidance=guidance, motion=motion, label=label)[0]

    @torch.inference_mode()
    def takes(
        self,
        video: str | Path,
        n_takes: int,
        *,
        seed: int = 0,
        top_k: int | None = None,
        temperature: float | None = None,
        guidance: float | None = None,
        motion: bool = True,
        label: str | None = None,
        progress: Progress = lambda step, share: None,
    ) -> list[Generation]:
        """Make several different sounds for one video; take 0 equals what `generate` gives (see `sample_codes`).

        Arguments and errors as there.
        """
        if n_takes < 1:
            raise ParameterError(f"{n_takes} takes asked for; at least 1 can be made.")
        clock = Clock()
        info = probe(Path(video))
        n_samples = max(1, round(info.seconds * self.clip.sample_rate))
        clock.lap("probe")
        scene, n_columns = Scene(info.path, info.seconds), self.clip.columns_for(n_samples)
        choice, made = Choice(top_k, temperature, guidance, motion), []
        with Rendering(self.renderer, n_columns, n_takes) as rendering:
            grids, seen = self._sample(scene, n_columns, n_takes, seed, choice, label, clock, progress, rendering)
            with retain_memory():
                for take, grid in enumerate(grids):
                    mel = rendering.decode(take, grid)
                    clock.lap("decode")
                    waveform = rendering.vocode(take)[:n_samples].cpu().numpy()
                    clock.lap("vocode")
                    waveform = level(waveform, self.clip.sample_rate)
                    clock.lap("loudness")
                    made.append((waveform, mel.cpu().numpy(), grid.cpu().numpy()))
                    progress("decoding", SHARE_LOOKING + SHARE_SAMPLING + (1 - SHARE_LOOKING - SHARE_SAMPLING) * len(made) / n_takes)
        timings = {step: seconds / n_takes for step, seconds in clock.laps.items()}
        return [
            Generation(
                info.path, waveform, self.clip.sample_rate, mel, grid, seen, self.clip, seed, take, self.name, self.precision, timings
            )
            for take, (waveform, mel, grid) in enumerate(made)
        ]

    @torch.inference_mode()
    def sample_mels(
        self,
        scene: Scene,
        n_takes: int,
        *,
        seed: int = 0,
        top_k: int | None = None,
        temperature: float | None = None,
        guidance: float | None = None,
        motion: bool = True,
        label: str | None = None,
    ) -> list[Float[np.ndarray, "mels frames"]]:
        """Make the mels of exactly one clip, whose pictures repeat where the scene is shorter.

        Its codes are those that `takes` begins with for a video of this scene.

        Args:
            scene: to look at; what comes after a clip's length is not seen.
            n_takes: how many.
            seed: of all randomness, as of `generate`.
            top_k: how many codes to choose among.
            temperature: how daring.
            guidance: how obedient.
            motion: whether to follow it.
            label: class name.

        Returns:
            Mels around [-1, 1].

        Raises:
            MediaError: if the pictures cannot be read.
            ParameterError: for a value out of range, or a label for a model without classes.
        """
        n_columns, choice = self.clip.columns, Choice(top_k, temperature, guidance, motion)
        with Rendering(self.renderer, n_columns, n_takes) as rendering:
            grids, _ = self._sample(scene, n_columns, n_takes, seed, choice, label, Clock(), lambda step, share: None, rendering)
            return [rendering.decode(take, grid).cpu().numpy() for take, grid in enumerate(grids)]

    @torch.inference_mode()
    def sound(self, mel: Float[np.ndarray, "mels frames"]) -> Float[np.ndarray, "samples"]:
        """The waveform of a mel around [-1, 1], mono in [-1, 1] at the usual loudness."""
        waveform = self.renderer.vocode(torch.from_numpy(mel).to(self.device)).cpu().numpy()
        return level(waveform, self.clip.sample_rate)

    @torch.inference_mode()
    def reconstruct(self, waveform: Float[np.ndarray, "samples"]) -> Float[np.ndarray, "samples"]:
        """Send sound through codebook and vocoder and back, a clip at a time: what the codes can express at best.

        Args:
            waveform: mono in [-1, 1] at the clip's sample rate, of any length.

        Returns:
            As many samples, at the level they came in.
        """
        clip = self.clip
        n_columns = clip.columns_for(len(waveform))
        padded = torch.from_numpy(np.pad(waveform.astype(np.float32), (0, n_columns * clip.column_samples - len(waveform)))).to(self.device)
        with self.renderer.autocast():
            # The mel of the whole sound first, so that windows differ only in what the encoder sees of it
            mel = from_mel01(log_mel01(padded[None], clip))[0]
            pieces = [self.parts.codebook.encode(piece[None])[0] for piece in mel.split(clip.frames, dim=1)]
        decoded = self.renderer.decode(torch.cat(pieces, dim=1))
        return self.renderer.vocode(decoded)[: len(waveform)].cpu().numpy()

    @property
    def hop_columns(self) -> int:
        """New columns a window adds to those before it: half a clip, so that the other half is known context."""
        return max(1, self.clip.columns // 2)

    def _sample(
        self,
        scene: Scene,
        n_columns: int,
        n_takes: int,
        seed: int,
        choice: "Choice",
        label: str | None,
        clock: "Clock",
        progress: Progress,
        rendering: Rendering,
    ) -> tuple[Int[Tensor, "takes rows columns"], Float[np.ndarray, "features dim"] | None]:
        """What is sampled for a scene, of which the rendering hears as it comes, and what was seen of it."""
        labels = self.class_number(label)
        windows = plan_windows(n_columns, self.clip.columns, self.hop_columns)
        seen = self._look(scene, windows, choice.motion, lambda share: progress("looking", SHARE_LOOKING * share))
        clock.lap("features")
        parts, sampler = self.parts, self.parts.sampler

        def hear(known: Int[Tensor, "takes known"], total: int) -> None:
            progress("sampling", SHARE_LOOKING + SHARE_SAMPLING * known.shape[1] / total)
            rendering.hear(known)

        with self._sampling, sampling_mode(sampler, self.precision):
            sequences = sample_codes(
                sampler,
                lambda window: self._condition(scene, seen, window, labels, seed),
                n_columns,
                seed=seed,
                takes=n_takes,
                temperature=parts.temperature if choice.temperature is None else choice.temperature,
                top_k=min(parts.top_k, parts.codebook.config.n_codes) if choice.top_k is None else choice.top_k,
                guidance=parts.guidance if choice.guidance is None else choice.guidance,
                hop_columns=self.hop_columns,
                on_column=hear,
            )
        trim_memory()  # what was read of the windows, before the decoder needs its own
        rendering.wait()
        clock.lap("codes")
        return to_grid(sequences, self.clip.rows), None if seen is None else seen.features.cpu().numpy()

    def _look(self, scene: Scene, windows: list[Window], motion: bool, progress: Callable[[float], None]) -> Seen | None:
        """What the windows pick, and watch where the model is to be told of motion; nothing for a model that sees nothing."""
        parts = self.parts
        if parts.backbone is None:
            return None
        picked = [self._picked(scene, window) for window in windows]
        watches = motion and parts.sampler.config.condition.motion
        watched = [scene.watched(window, self.clip) for window in windows] if watches else []
        with self.renderer.autocast(), all_but_one_thread():
            return look(scene, picked, self.clip, parts.backbone, parts.backbone_row, progress, watched)

    def _picked(self, scene: Scene, window: Window) -> list[int]:
        condition = self.parts.sampler.config.condition
        rows = told_rows(condition, self.clip.n_features, self.clip.columns)
        return scene.picked(window, self.clip, rows, self.parts.backbone_row.pairs, repeat=condition.kind != "columns")

    def _condition(self, scene: Scene, seen: Seen | None, window: Window, labels: Tensor | None, seed: int) -> Tensor:
        features = motion = None
        if seen is not None:
            features = seen.picked(self._picked(scene, window))[None].to(self.device)
            if self.parts.sampler.config.condition.motion:
                motion = torch.from_numpy(seen.motion(scene.watched(window, self.clip), self.clip))[None].to(self.device)
        # the vector that stands for nothing, in models that see nothing, is the same in every window
        generator = torch.Generator().manual_seed(seed % 2**63)  # seeds have no upper limit here, generators of torch have
        return self.parts.sampler.condition(features=features, labels=labels, motion=motion, generator=generator)

    def class_number(self, label: str | None) -> Int[Tensor, "1"] | None:
        """The number of a class, as the sampler wants it; None where neither the model nor the request has one.

        Raises:
            ParameterError: for a label that the model does not know, or none where it wants one.
        """
        classes = self.parts.classes
        if label is None and not classes:
            return None
        if not classes:
            raise ParameterError(f"the model {self.name!r} knows no classes, so it takes no label {label!r}.")
        if label is None:
            some = ", ".join(repr(name) for name in classes[:3])
            raise ParameterError(f"the model {self.name!r} wants one of its {len(classes)} classes as label, such as {some}.")
        return torch.tensor([find_label(label, classes)], device=self.device)


class Choice(NamedTuple):
    """What was asked of the sampling; None where the model's own will do."""

    top_k: int | None
    temperature: float | None
    guidance: float | None
    motion: bool


class Clock:
    """Splits the time of a run into named laps."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Book the time since the last lap under `name`, adding to what is there."""
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now
