"""The pipeline from a video to its sound (figure 2 of the paper): frames, features, conditions, codes, mel, waveform.

Each stage is a public method; its result is the input of the next stage.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.checkpoints.bundle import Parts
from unsilent.choices import Precision, VocoderChoice
from unsilent.codec.codec import Codec
from unsilent.errors import ParameterError
from unsilent.generation.attention import AttentionRecord
from unsilent.generation.causal import CausalObserver, sees_in_time
from unsilent.generation.conditions import Conditions, Plan, make_conditions, seen_classes
from unsilent.generation.leads import Known, continue_shots, known_codes, lead_columns
from unsilent.generation.priming import GivenSounds, load_given
from unsilent.generation.progress import Clock, Progress, Report, quiet, stage
from unsilent.generation.ranking import Judge
from unsilent.generation.rendering import Rendering
from unsilent.generation.result import Generation
from unsilent.generation.sampling import Feed, feed_all, sample_codes
from unsilent.generation.shaping import shaper, with_seen_cues
from unsilent.generation.shots import plan_shots
from unsilent.generation.streaming import LIVE, Stream, made_of
from unsilent.models.code_order import to_grid
from unsilent.models.transformer import Look
from unsilent.request import Request
from unsilent.speed.choice import convolution_dtype
from unsilent.speed.memory import trim_memory
from unsilent.speed.prepare import sampling_mode
from unsilent.speed.threads import EXCLUSIVE, codec_threads, count_threads, limit_threads, one_thread
from unsilent.vision.scene import Observation, Scene, observe


class Pipeline:
    """A loaded model. It is thread-safe; generations of several threads run one after another.

    The same seed, video, model and machine give the same bytes. Small models such as `everyday` do so with any thread count of torch. Large
    models decode with torch's thread count at construction. With another count, codes are equal where the C kernels run, mels differ by
    rounding, and waveforms may differ in phase.

    Args:
        parts: the model's networks; they are moved to `device`.
        device: device that computes.
        precision: `float32`; `bfloat16` for matrix products and convolutions; `int8` only if the parts were loaded with int8 weights.
        vocoder: `neural` for the model's vocoder, `griffin-lim` for phase estimation without a network.
    """

    def __init__(self, parts: Parts, device: torch.device, precision: Precision = "float32", vocoder: VocoderChoice = "neural") -> None:
        self.name, self.parts, self.device, self.precision, self.vocoder = parts.name, parts, device, precision, vocoder
        parts.to(device)
        self.threads, network = count_threads(), parts.vocoder if vocoder == "neural" else None
        self.codec = Codec(parts.codebook, network, device, convolution_dtype(precision), codec_threads(parts.sampler.config))
        self.clip, self.bitrate_kbps = self.codec.clip, self.codec.bitrate_kbps

    def generate(self, video: str | Path, request: Request | None = None, **fields: Any) -> Generation:
        """Make one sound for a video of any length.

        Args:
            video: input file.
            request: parameters; None takes defaults.
            fields: fields of `Request`, which override those of `request`: `generate("a.mp4", seed=7, top_k=64)`.

        Raises:
            MediaError: if the video cannot be read.
            ParameterError: for a value out of range, or a label that the model does not have.
        """
        return self.takes(video, 1, request, **fields)[0]

    @torch.inference_mode()
    def takes(
        self, video: str | Path, n_takes: int | None = None, request: Request | None = None, *, progress: Report = quiet,
        watch: Feed = quiet, attention: Look | None = None, **fields: Any,
    ) -> list[Generation]:  # fmt: skip
        """Make several different sounds for one video, the best first if they are ranked; if not, take 0 is the sound of `generate`.

        Arguments and errors are those of `generate`, and further: `n_takes` is the number of takes; None takes the request's.
        `progress` is called with the name of a stage and the share of all work done, 0 to 1. `watch` is called after each column with the
        codes of all candidates so far. An exception in either ends the generation.
        `attention` says whose attention weights the sounds carry.
        """
        request = self.resolve(request, **fields, **({} if n_takes is None else {"takes": n_takes}))
        clock, record = Clock(), attention and AttentionRecord(attention)
        if request.stream and attention is not None:
            raise ParameterError("the attention of a stream is not recorded; leave out attention, or stream.")
        if request.stream:
            return [made_of(self.stream(video, request), Path(video), self.name, clock)]
        with EXCLUSIVE, limit_threads(self.threads):
            scene, reading = Scene.of_video(Path(video)), stage(progress, "reading")
            n_samples = request.n_samples(scene.seconds, self.clip.sample_rate)
            clock.lap("probe")
            given = load_given(scene, request, self.codec, self.parts.ranker, self.parts.loudness_lufs)
            plan, observation, request = self.plan_and_observe(scene, self.clip.columns_for(n_samples), request, reading)
            clock.lap("features")
            conditions, known = self.conditions(plan, observation, request), known_codes(self.parts, plan, observation, request, given)
            judge = self.judge(plan, observation, request, given)
            with Rendering(self.codec, plan.n_columns) as rendering:
                feed = rendering.feed if request.n_sampled == request.takes else quiet  # candidates are ranked before decoding
                on_column = feed_all((watch, feed), stage(progress, "sampling"), plan.n_columns * self.clip.rows)
                hooks = {"audition": judge.audition, "attention": record, "on_column": on_column}
                grids = self.sample(plan, conditions, request, known, **hooks)
                ranked = judge.rank(grids)
                best, shape = {one.take: grids[one.take] for one in ranked}, shaper(request, self.clip, given.prime, plan.breaks)
                finished = rendering.finish(best, n_samples, clock, stage(progress, "decoding"), shape)
            common = {
                "video": scene.path, "sample_rate": self.clip.sample_rate, "clip": self.clip, "request": request, "model": self.name,
                "features": None if observation is None else observation.features.cpu().numpy(), "timings": clock.per_take(request.takes),
                "seen": judge.expected, "precision": self.precision, "breaks": plan.breaks,
            }  # fmt: skip
        looked = {one.take: record and record.of(one.take) for one in ranked}
        made = zip(ranked, finished, strict=True)
        return [Generation(**common, **one._asdict(), **arrays._asdict(), attention=looked[one.take]) for one, arrays in made]

    def plan_and_observe(
        self, scene: Scene, n_columns: int, request: Request, progress: Progress = quiet, cuts: Sequence[int] = ()
    ) -> tuple[Plan, Observation | None, Request]:
        """Plan windows, read the scene, and fill in cues "auto". If cuts are found, plan and read once more, shot by shot."""
        plan = self.plan(scene, n_columns, cuts, lead=lead_columns(request, self.clip, self.parts.exemplars))
        observation = self.observe(scene, plan, request, progress)
        if observation is not None and observation.cuts and not cuts:
            return self.plan_and_observe(scene, n_columns, request, progress, observation.cuts)
        plan = continue_shots(self.parts, plan, observation, request)
        return plan, observation, with_seen_cues(request, scene, observation, self.clip)

    def plan(self, scene: Scene, n_columns: int, cuts: Sequence[int] = (), *, start: int = 0, lead: int = 0, alone: bool = False) -> Plan:
        """Split code columns into windows, each within one shot, and choose the frames that condition each; see `plan_shots`."""
        condition, expects = self.parts.sampler.config.condition, self.parts.backbone_row
        return plan_shots(scene, cuts, n_columns, self.clip, condition, expects, start=start, lead=lead, alone=alone)

    def stream(self, video: str | Path, request: Request | None = None, **fields: Any) -> Stream:
        """Make one sound while the video is read. The iterator yields each stretch when it is ready; see `generation.streaming`.

        The stretches together equal the sound of `generate` with `stream=True` bit by bit. Arguments and errors are the same.
        """
        request, scene = self.resolve(request, **fields, stream=True), Scene.of_video(Path(video))
        n_samples = request.n_samples(scene.seconds, self.clip.sample_rate)
        if sees_in_time(self.parts):
            condition = CausalObserver.of_video(scene, self.parts)
        else:
            plan = self.plan(scene, self.clip.columns_for(n_samples))
            condition = self.conditions(plan, self.observe(scene, plan, request), request)
        return Stream(self.parts, self.codec, self.precision, request, condition, n_samples)

    def live(self, source: str, *, raw: tuple[int, int, float] | None = None, **fields: Any) -> Stream:
        """Like `stream`, for frames that arrive in real time, until they end. Arguments and errors: see `CausalObserver.live`."""
        request = self.resolve(**fields, stream=True)
        return Stream(self.parts, self.codec, self.precision, request, CausalObserver.live(source, self.parts, raw), pace=LIVE)

    @torch.inference_mode()
    def observe(self, scene: Scene, plan: Plan, request: Request, progress: Progress = quiet) -> Observation | None:
        """Decode the frames once: features, cuts, and motion if requested. None for a model without features."""
        if self.parts.backbone is None:
            return None
        embedded, measured = plan.embedded(), plan.measured() if request.motion else set()
        watched = plan.watched(scene, self.clip) if request.scenes == "auto" else ()
        with self.codec.autocast(), one_thread():  # features must not depend on the thread count; another thread decodes frames
            return observe(scene, self.clip, self.parts.backbone, self.parts.backbone_row, embedded, measured, progress, watched)

    @torch.inference_mode()
    def conditions(self, plan: Plan, observation: Observation | None, request: Request) -> Conditions:
        """Embed the condition of each window."""
        with sampling_mode(self.parts.sampler, self.precision):
            return make_conditions(self.parts.sampler, plan, observation, request, self.parts.classes)

    @torch.inference_mode()
    def sample(
        self, plan: Plan, conditions: Conditions, request: Request, known: Known = Known(), **hooks: Any
    ) -> Int[Tensor, "candidates rows columns"]:
        """Sample the codes of all candidates of all takes, after known ones; hooks are the callbacks of `sample_codes`."""
        with sampling_mode(self.parts.sampler, self.precision):
            sequences = sample_codes(self.parts.sampler, plan.windows, conditions, request, **known._asdict(), **hooks)
        trim_memory()  # frees the KV cache before the decoder allocates
        return to_grid(sequences, self.clip.rows)

    def judge(self, plan: Plan, observation: Observation | None, request: Request, given: GivenSounds = GivenSounds()) -> Judge:
        """What chooses among candidates: cues, a reference, or else the classes that are seen or named."""
        seen = seen_classes(self.parts.sampler, plan, observation, request, self.parts.classes)
        return Judge(self.codec, self.parts.ranker, seen, request, given.reference and given.reference.features)

    def reconstruct(self, waveform: np.ndarray) -> Float[np.ndarray, "samples"]:
        """Encode a sound to codes and decode them again; see `Codec.reconstruct`."""
        return self.codec.reconstruct(waveform)

    def resolve(self, request: Request | None = None, **fields: Any) -> Request:
        """A request whose None values are replaced by the model's defaults. Errors: see `Request.resolve`."""
        return Request(**{**({} if request is None else request.model_dump()), **fields}).resolve(self.parts.defaults)
