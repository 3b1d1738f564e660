"""The pipeline from a video to its sound, figure 2 of the paper: frames, features, conditions, codes, mel, waveform.

Each stage is a public method, and its result is the input of the next.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.checkpoints.bundle import Parts, load_parts
from unsilent.checkpoints.folders import find_bundle, sampler_config
from unsilent.choices import AnyPrecision, Device, Precision, VocoderChoice, check_choice
from unsilent.clip import Clip
from unsilent.codec.codec import Codec
from unsilent.generation.attention import WindowAttention, attention_of
from unsilent.generation.conditions import Plan, expected_classes, make_conditions, plan_frames
from unsilent.generation.priming import Prime, load_prime
from unsilent.generation.progress import Clock, Progress, Report, stage
from unsilent.generation.ranking import Chosen, likeliest, rank
from unsilent.generation.rendering import Rendering
from unsilent.generation.result import Generation
from unsilent.generation.sampling import Feed, sample_codes
from unsilent.generation.shaping import rank_by_onsets, shaper, with_seen_cues
from unsilent.generation.steering import Steering
from unsilent.generation.windows import plan_windows
from unsilent.media.probe import probe
from unsilent.models.code_order import to_grid, to_sequence
from unsilent.request import Request
from unsilent.speed.choice import choose_device, choose_precision, convolution_dtype
from unsilent.speed.memory import trim_memory
from unsilent.speed.prepare import sampling_mode
from unsilent.speed.threads import EXCLUSIVE, SMALL_WEIGHTS, codec_threads, count_threads, limit_threads, one_thread
from unsilent.vision.scene import Observation, Scene, observe


def load(
    name: str = "everyday", device: Device = "auto", precision: AnyPrecision = "auto", vocoder: VocoderChoice = "neural"
) -> "Pipeline":
    """Load a model.

    Args:
        name: of a model whose weights are here, or the path of a bundle folder.
        device: `auto` takes a GPU if there is one.
        precision: `auto` is the fastest that keeps the quality; `Pipeline.precision` says which was chosen.
        vocoder: `neural`, or `griffin-lim` for phase estimation without a network.

    Raises:
        CheckpointError: if weights are missing, damaged, or do not fit.
        ParameterError: for another value, a device that is not there, or a precision that it cannot compute.
    """
    check_choice("vocoder", vocoder, VocoderChoice)
    chosen, folder = choose_device(device), find_bundle(name)
    config = sampler_config(folder)
    settled = choose_precision(precision, chosen, config)
    with one_thread(config.transformer.n_weights < SMALL_WEIGHTS):  # because thousands of small tensors are copied
        parts = load_parts(folder, settled, chosen)
    return Pipeline(parts, chosen, settled, vocoder)


class Pipeline:
    """A loaded model. Several Python threads may use it; their generations run one after another.

    The same seed, video, model and machine give the same bytes, for small models such as `everyday` with any thread count of torch.
    Large models decode with the thread count that torch has when the pipeline is made. With another count, codes are equal where the C
    kernels run, mels differ by rounding, and waveforms may differ in phase.

    Args:
        parts: networks, which are moved to `device`.
        device: to compute on.
        precision: `float32`; `bfloat16` for matrix products and convolutions; `int8` for parts that were loaded so.
        vocoder: `neural` for the model's own, `griffin-lim` for phase estimation without a network.
    """

    def __init__(self, parts: Parts, device: torch.device, precision: Precision = "float32", vocoder: VocoderChoice = "neural") -> None:
        self.name, self.parts, self.device, self.precision, self.vocoder = parts.name, parts, device, precision, vocoder
        for module in parts.modules():
            module.to(device)
        self.threads = count_threads()
        network, threads = parts.vocoder if vocoder == "neural" else None, codec_threads(parts.sampler.config)
        self.codec = Codec(parts.codebook, network, device, convolution_dtype(precision), threads)

    @property
    def clip(self) -> Clip:
        """The grid of the model."""
        return self.codec.clip

    @property
    def bitrate_kbps(self) -> float:
        """Kilobits of codes for one second of sound; see `Codec.bitrate_kbps`."""
        return self.codec.bitrate_kbps

    def generate(self, video: str | Path, request: Request | None = None, **fields: Any) -> Generation:
        """Make one sound for a video of any length.

        Args:
            video: file.
            request: what is asked; None takes defaults.
            fields: of `Request`, in its place or to change some of it: `generate("a.mp4", seed=7, top_k=64)`.

        Raises:
            MediaError: if the video cannot be read.
            ParameterError: for a value out of range, or a label that does not fit the model.
        """
        return self.takes(video, 1, request, **fields)[0]

    @torch.inference_mode()
    def takes(
        self,
        video: str | Path,
        n_takes: int | None = None,
        request: Request | None = None,
        *,
        progress: Report = lambda step, share: None,
        watch: Feed = lambda known: None,
        **fields: Any,
    ) -> list[Generation]:
        """Make several different sounds for one video; take 0 equals what `generate` gives. Other arguments and errors as there.

        `n_takes` None takes the request's number. `progress` is called with the name of a stage and the share of all work done, 0 to 1;
        `watch` after each column with the codes of all candidates that are known by then. An exception of either ends the work.
        """
        request = self.resolve(request, **fields, **({} if n_takes is None else {"takes": n_takes}))
        with EXCLUSIVE, limit_threads(self.threads):
            clock = Clock()
            info = probe(Path(video))
            n_samples = max(1, round((request.seconds or info.seconds) * self.clip.sample_rate))
            n_columns = self.clip.columns_for(n_samples)
            clock.lap("probe")
            scene = Scene(info.path, info.seconds)
            prime = self.prime(scene, request)
            plan = self.plan(scene, n_columns)
            observation = self.observe(scene, plan, request, stage(progress, "reading"))
            request = with_seen_cues(request, scene, observation, self.clip)
            clock.lap("features")
            with Rendering(self.codec, n_columns, request.takes) as rendering:
                chosen = self.choose(plan, observation, request, rendering.feed, stage(progress, "sampling"), prime, watch)
                shape = shaper(request, self.clip, prime)
                finished = rendering.finish(chosen.grids, n_samples, clock, stage(progress, "decoding"), shape)
        features = None if observation is None else observation.features.cpu().numpy()
        made_by = {"clip": self.clip, "request": request, "model": self.name, "precision": self.precision}
        common = {"video": info.path, "sample_rate": self.clip.sample_rate, "features": features, "timings": clock.per_take(request.takes)}
        made_by["seen"] = likeliest(chosen.expected, self.parts.classes)
        both = zip(chosen.ranked, finished, strict=True)
        return [Generation(**common, **made_by, **one._asdict(), **arrays._asdict()) for one, arrays in both]

    @torch.inference_mode()
    def attention(self, made: Generation, layer: int | None = None, head: int | None = None) -> list[WindowAttention]:
        """How much each code of a sound looked at the condition and at earlier codes, window by window; see `attention_of`.

        The video is read again. `layer` and `head` choose one; None takes the mean of all.

        Raises:
            MediaError: if the video cannot be read.
            ParameterError: for a layer or head that the sampler does not have.
        """
        with EXCLUSIVE, limit_threads(self.threads):
            scene, sampler = Scene(made.video, probe(made.video).seconds), self.parts.plain_sampler()
            plan = self.plan(scene, made.codes.shape[1])
            conditions = self.conditions(plan, self.observe(scene, plan, made.request), made.request)
            codes, rows = to_sequence(torch.from_numpy(made.codes)[None]), self.clip.rows
            spans = [codes[:, window.start * rows : window.stop * rows] for window in plan.windows]
            each = zip(plan.windows, spans, conditions, strict=True)
            return [attention_of(sampler, window, span, one.float().cpu(), layer, head) for window, span, one in each]

    @torch.inference_mode()
    def sample_mels(self, scene: Scene, request: Request) -> list[Float[np.ndarray, "mels frames"]]:
        """Mels of exactly one clip for each take, around [-1, 1]. Their codes are those that `takes` begins with for this scene."""
        request = self.resolve(request)
        with EXCLUSIVE, limit_threads(self.threads):
            plan = self.plan(scene, self.clip.columns)
            observation = self.observe(scene, plan, request)
            request = with_seen_cues(request, scene, observation, self.clip)
            chosen = self.choose(plan, observation, request, prime=self.prime(scene, request))
            return [self.codec.decode(grid).cpu().numpy() for grid in chosen.grids]

    def reconstruct(self, waveform: np.ndarray) -> Float[np.ndarray, "samples"]:
        """Send a sound through codebook and vocoder; see `Codec.reconstruct`."""
        return self.codec.reconstruct(waveform)

    def resolve(self, request: Request | None = None, **fields: Any) -> Request:
        """A request with every open value filled from the model's defaults; errors as of `Request.resolve`."""
        return Request(**{**({} if request is None else request.model_dump()), **fields}).resolve(self.parts.defaults)

    def plan(self, scene: Scene, n_columns: int) -> Plan:
        """Cut a sound of `n_columns` code columns into windows, and choose the frames that condition each."""
        windows, expects = plan_windows(n_columns, self.clip.columns, self.clip.hop_columns), self.parts.backbone_row
        condition = self.parts.sampler.config.condition
        return Plan(windows, [] if expects is None else plan_frames(scene, windows, self.clip, condition, expects.pairs))

    @torch.inference_mode()
    def observe(self, scene: Scene, plan: Plan, request: Request, progress: Progress = lambda share: None) -> Observation | None:
        """Read the scene once: features, and motion where requested; None for a model without features."""
        if self.parts.backbone is None:
            return None
        embedded, measured = plan.embedded(), plan.measured() if request.motion else set()
        with self.codec.autocast(), one_thread():  # so that features do not depend on the thread count; a second thread decodes frames
            return observe(scene, self.clip, self.parts.backbone, self.parts.backbone_row, embedded, measured, progress)

    def prime(self, scene: Scene, request: Request) -> Prime | None:
        """Codes and samples of the real beginning that is asked for; see `load_prime`."""
        return load_prime(scene, request, self.codec, self.parts.loudness_lufs)

    @torch.inference_mode()
    def conditions(self, plan: Plan, observation: Observation | None, request: Request) -> list[Float[Tensor, "1 condition width"]]:
        """Embed the condition of each window."""
        steering = Steering.of(request, plan.n_columns, self.clip, self.parts.classes)
        with sampling_mode(self.parts.sampler, self.precision):
            return make_conditions(self.parts.sampler, plan, observation, request.seed, self.parts.class_number(request.label), steering)

    @torch.inference_mode()
    def choose(
        self,
        plan: Plan,
        observation: Observation | None,
        request: Request,
        feed: Feed = lambda known: None,
        progress: Progress = lambda share: None,
        prime: Prime | None = None,
        watch: Feed = lambda known: None,
    ) -> Chosen:
        """Sample all candidates and keep the best of each take.

        `feed` gets codes while they are sampled, unless they are ranked later; `watch` gets those of all candidates.
        """
        conditions = self.conditions(plan, observation, request)
        chooses = request.candidates is not None and request.takes * request.candidates > 1

        def on_codes(known: Int[Tensor, "draws known"]) -> None:
            watch(known)
            if not chooses:
                feed(known)

        grids = self.sample(plan, conditions, request, on_codes, progress, prime)
        expected = expected_classes(self.parts.sampler, plan, observation, self.parts.class_number(request.label))
        if request.cues is not None:
            return rank_by_onsets(self.codec, grids, expected, request)
        with sampling_mode(self.parts.sampler, self.precision):
            return rank(self.parts.sampler, grids, conditions[0], expected, request)

    @torch.inference_mode()
    def sample(
        self,
        plan: Plan,
        conditions: Sequence[Float[Tensor, "1 condition width"]],
        request: Request,
        feed: Feed = lambda known: None,
        progress: Progress = lambda share: None,
        prime: Prime | None = None,
    ) -> Int[Tensor, "takes rows columns"]:
        """Sample the codes of all candidates of all takes, after those of a prime; `feed` gets all codes known after each column."""
        request = request.model_copy(update={"takes": request.takes * (request.candidates or 1)})

        def on_column(known: Int[Tensor, "takes known"]) -> None:
            progress(known.shape[1] / (plan.n_columns * self.clip.rows))
            feed(known)

        with sampling_mode(self.parts.sampler, self.precision):
            known = None if prime is None else prime.codes
            sequences = sample_codes(self.parts.sampler, plan.windows, conditions, request, prime=known, on_column=on_column)
        trim_memory()  # of the KV cache, before the decoder needs its own
        return to_grid(sequences, self.clip.rows)
