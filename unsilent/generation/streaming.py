"""Streaming: a sound can be played while its video is being read and its later codes are being sampled.

    observe   read frames up to a moment after the column, and compute its condition from them
    sample    sample the column, given the columns before
    render    2 columns, then 4, 8, and 16 at a time, with context for the vocoder on both sides
    limit     limit peaks; the loudness is not normalised

Every stage depends only on the past and a fixed look-ahead, never on the time at which a chunk is fetched. So the chunks of a stream are
deterministic. Models whose condition or decoder needs a whole clip can stream too, with a delay of one clip.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.checkpoints.bundle import Parts
from unsilent.choices import Precision
from unsilent.codec.codec import Codec
from unsilent.codec.stitching import StreamingMel, StreamingWaveform, decoded_windows
from unsilent.generation.causal import CausalObserver
from unsilent.generation.progress import Clock
from unsilent.generation.result import Generation
from unsilent.generation.sampling import NextCode, guided_rows, uniform_stream
from unsilent.generation.windows import Window, successive_windows
from unsilent.models.code_order import to_sequence
from unsilent.models.residual_codebook import ResidualCodebook
from unsilent.request import Request
from unsilent.signal.loudness import PeakLimiter
from unsilent.speed.prepare import sampling_mode
from unsilent.speed.threads import EXCLUSIVE, one_thread

FIRST_CHUNK, LARGEST_CHUNK = 2, 16  # code columns
VOCODER_FRAMES = 32  # mel frames vocoded on each side of a chunk
_CEILING = 10 ** (-1 / 20)  # -1 dB


@dataclass(frozen=True)
class Pace:
    """Look-ahead and chunk sizes of a stream.

    Attributes:
        lookahead_frames: video frames, at the clip's feature rate, that are read beyond a column before it is sampled.
        vocoder_frames: mel frames of context that are vocoded on each side of a chunk.
        first_chunk, largest_chunk: columns; chunks double in size from the first to the largest.
    """

    lookahead_frames: int
    vocoder_frames: int = VOCODER_FRAMES
    first_chunk: int = FIRST_CHUNK
    largest_chunk: int = LARGEST_CHUNK

    def chunks(self, n_columns: int | None) -> Iterator[range]:
        """Columns of each chunk; infinitely many if the length is unknown."""
        start, size = 0, self.first_chunk
        while n_columns is None or start < n_columns:
            stop = start + size if n_columns is None else min(start + size, n_columns)
            yield range(start, stop)
            start, size = stop, min(2 * size, self.largest_chunk)


FILE = Pace(lookahead_frames=16)  # four columns: motion depends on five later frames, and the condition mixes two columns
LIVE = Pace(lookahead_frames=2, vocoder_frames=8, first_chunk=1, largest_chunk=1)


class Streamed(NamedTuple):
    """A stretch of a stream.

    Attributes:
        waveform: mono in [-1, 1].
        mel: log mel, around [-1, 1].
        codes: the grid of codes.
    """

    waveform: Float[np.ndarray, "samples"]
    mel: Float[np.ndarray, "mels frames"]
    codes: Int[np.ndarray, "rows columns"]


def join(stretches: list[Streamed]) -> Streamed:
    """Concatenate stretches."""
    waveforms, mels, codes = zip(*stretches, strict=True)
    return Streamed(np.concatenate(waveforms), np.concatenate(mels, 1), np.concatenate(codes, 1))


class _Columns:
    """Buffer of the latest code columns, addressed by column number.

    Attributes:
        n: number of all columns so far, including forgotten ones.
    """

    def __init__(self) -> None:
        self.n, self._kept = 0, list[Int[Tensor, "rows"]]()

    def append(self, column: Int[Tensor, "rows"]) -> None:
        """Add the next column."""
        self._kept.append(column)
        self.n += 1

    def since(self, first: int) -> Int[Tensor, "rows columns"]:
        """All columns from number `first` on, none of which may have been dropped by `forget`."""
        return torch.stack(self._kept[first - self.n :], 1)

    def forget(self, first: int) -> None:
        """Drop the columns before number `first`."""
        self._kept = self._kept[-max(1, self.n - first) :]


class Stream:
    """Iterator over the stretches of one sound.

    Args:
        parts: the model.
        codec: the model's codec.
        precision: precision of the computation.
        request: resolved; one take, without prime and ranking.
        condition: observer of the video; for models that need a whole clip before they can sample, the conditions of all windows.
        n_samples: length of the sound; None streams until the frames end.
        pace: look-ahead and chunk sizes.
    """

    def __init__(
        self,
        parts: Parts,
        codec: Codec,
        precision: Precision,
        request: Request,
        condition: CausalObserver | list[Float[Tensor, "sides condition width"]],
        n_samples: int | None = None,
        pace: Pace = FILE,
    ) -> None:
        self._parts, self.codec, self.precision, self.request = parts, codec, precision, request
        self._observer = condition if isinstance(condition, CausalObserver) else None
        self._condition, self._pace, self._n_samples = condition, pace, n_samples
        self._n_columns = None if n_samples is None else codec.clip.columns_for(n_samples)
        self._columns, self._codes = self._sample(), _Columns()

    def __iter__(self) -> Iterator[Streamed]:
        renderer, limiter = Renderer(self.codec, self._n_columns, self._pace), PeakLimiter(self.codec.clip.sample_rate, _CEILING)
        left = self._n_samples
        for chunk in renderer.chunks():
            n_known = self._extend(renderer.needs(chunk))
            if n_known <= chunk.start:
                break
            is_last = self._n_columns is None and n_known < renderer.needs(chunk)
            chunk, first = range(chunk.start, min(chunk.stop, n_known)), renderer.begins(chunk)
            known = self._codes.since(first)
            waveform, mel = renderer.render(chunk, known, first)
            limited = limiter.push(waveform)
            if is_last or chunk.stop == self._n_columns:
                limited = np.concatenate([limited, limiter.finish()])
            limited = limited[:left]
            left = None if left is None else left - len(limited)
            yield Streamed(limited, mel, known[:, chunk.start - first : chunk.stop - first].cpu().numpy())
            if is_last and chunk.stop >= n_known:
                break
            if renderer.is_local:
                self._codes.forget(chunk.stop - self.codec.clip.columns - LARGEST_CHUNK)

    @torch.inference_mode()
    def _extend(self, n_columns: int) -> int:
        """Sample until `n_columns` are known or the frames end; returns the number of known columns."""
        with sampling_mode(self._parts.sampler, self.precision):
            while self._codes.n < n_columns and next(self._columns, None) is not None:
                pass
        return self._codes.n

    def _sample(self) -> Iterator[bool]:
        """Sample column by column; each window continues the codes of the one before."""
        sampler, clip, request = self._parts.sampler, self.codec.clip, self.request
        choose, uniforms = NextCode.of(request), uniform_stream(request.seed, 0)
        lead = 0 if self._observer is None else self._observer.lead
        for number, window in enumerate(successive_windows(Window(-lead, lead, clip.columns, lead), clip.hop_columns, lead)):
            if self._n_columns is not None and window.new >= self._n_columns:
                return
            if not self._read(window.new):
                return
            known = self._known(window)[: choose.n_rows].to(sampler.pos_emb.device)
            logits, state = sampler.start(known, self._guided(choose, number, window))
            for column in range(window.new, window.stop):
                if column > window.new and (column == self._n_columns or not self._read(column)):
                    return
                drawn, codes = torch.from_numpy(uniforms.random(clip.rows)).to(known.device), list[Tensor]()
                for row in range(clip.rows):
                    is_last = row + 1 == clip.rows
                    if is_last and column + 1 == window.stop:
                        codes.append(choose(logits, drawn[row : row + 1]))
                        continue
                    if is_last and self._observer is not None and self._read(column + 1):
                        sampler.recondition(state, self._guided(choose, number, window))
                    code, logits = sampler.advance(choose, logits, drawn[row : row + 1], state)
                    codes.append(code.clone())
                self._codes.append(torch.cat(codes))
                yield True

    def _known(self, window: Window) -> Int[Tensor, "2 known"]:
        """Codes that the conditional and the unconditional row of a window continue: an exemplar or silence, then those sampled before."""
        rows = self.codec.clip.rows
        lead = self._observer.exemplar(window, self.request) if window.led else torch.zeros(2, rows, 0, dtype=torch.long)
        codes = self._codes.since(window.own)[None].cpu() if window.own < window.new else torch.zeros(1, rows, 0, dtype=torch.long)
        return to_sequence(torch.cat([lead, codes.expand(2, -1, -1)], 2))

    def _read(self, column: int) -> bool:
        """Read the frames that a column needs; False if the length is unknown and the frames end before the column."""
        if self._observer is None:
            return True
        clip = self.codec.clip
        first, end = (int(place * clip.column_seconds * clip.feature_fps) for place in (column, column + 1))
        with self.codec.autocast(), one_thread():
            self._observer.read(end + self._pace.lookahead_frames)
        return self._n_columns is not None or self._observer.last >= first

    def _guided(self, choose: NextCode, number: int, window: Window) -> Float[Tensor, "sides condition width"]:
        """The condition of a window, with the negative condition if guidance needs it."""
        condition = self._condition[number] if self._observer is None else self._observer.condition(window, self.request)
        return guided_rows(condition, choose.n_rows)


class Renderer:
    """Decodes codes to sound in chunks, with a fixed number of context columns.

    A decoder with attention over a clip decodes whole windows instead, see `StreamingMel`.

    Args:
        codec: decodes and vocodes.
        n_columns: code columns of the whole sound; None if unknown, which a decoder with attention does not support.
        pace: chunk sizes and context.
    """

    def __init__(self, codec: Codec, n_columns: int | None, pace: Pace) -> None:
        self._codec, self._n_columns, self._pace, self._clip = codec, n_columns, pace, codec.clip
        self.is_local = isinstance(codec.codebook, ResidualCodebook) and codec.vocoder is not None
        self._around = -(-pace.vocoder_frames // codec.clip.downsampling)  # columns of context; each column is decoded independently
        if not self.is_local:
            self._whole = _Windows(codec, n_columns)

    def chunks(self) -> Iterator[range]:
        """Columns of each chunk."""
        return self._pace.chunks(self._n_columns) if self.is_local else self._whole.chunks()

    def needs(self, chunk: range) -> int:
        """End of the columns that must be known to render a chunk."""
        if not self.is_local:
            return chunk.stop
        needed = chunk.stop + self._around
        return needed if self._n_columns is None else min(needed, self._n_columns)

    def begins(self, chunk: range) -> int:
        """First column that must be known to render a chunk."""
        return max(0, chunk.start - self._around) if self.is_local else 0

    @torch.inference_mode()
    def render(
        self, chunk: range, known: Int[Tensor, "rows known"], first: int
    ) -> tuple[Float[np.ndarray, "samples"], Float[np.ndarray, "mels frames"]]:
        """Samples and mel of a chunk, given the codes from column `first` on; `first` is the result of `begins`."""
        if not self.is_local:
            return self._whole.render(known)
        each, context = self._clip.downsampling, self._pace.vocoder_frames
        wanted = known[:, : self.needs(chunk) - first].to(self._codec.device)
        with EXCLUSIVE, self._codec.computing():
            mel = self._codec.codebook.decode_codes(wanted[None], first)[0]
            start, stop = ((column - first) * each for column in (chunk.start, chunk.stop))
            begin, end = max(0, start - context), min(mel.shape[1], stop + context)
            sound = self._codec.vocode_chunk(mel[None, :, begin:end])[0]
        samples = sound[(start - begin) * self._clip.hop : (stop - begin) * self._clip.hop]
        return samples.float().cpu().numpy(), mel[:, start:stop].float().cpu().numpy()


class _Windows:
    """Renders in windows as long as in the decoder's training; a chunk is the part that becomes final with each window."""

    def __init__(self, codec: Codec, n_columns: int) -> None:
        self._codec, self._n_columns = codec, n_columns
        self._mel, self._place = StreamingMel(codec.codebook, n_columns, codec.device), 0
        context = 0 if codec.vocoder is None else codec.vocoder.context_frames
        self._waveform = StreamingWaveform(codec.vocode_chunk, n_columns * codec.clip.downsampling, context, codec.clip.hop, codec.device)

    def chunks(self) -> Iterator[range]:
        """Columns that are new with each window."""
        start = 0
        for window in decoded_windows(self._n_columns, self._codec.clip):
            yield range(start, window.stop)
            start = window.stop

    def render(self, known: Int[Tensor, "rows known"]) -> tuple[Float[np.ndarray, "samples"], Float[np.ndarray, "mels frames"]]:
        """The samples and mel frames that have become final."""
        before = self._mel.done
        with EXCLUSIVE, self._codec.computing():
            self._mel.feed(known)
            if self._codec.vocoder is not None:
                self._waveform.feed(self._mel.mel, self._mel.done)
                stop, sound = self._waveform.done, self._waveform.waveform
            elif self._mel.done == self._mel.mel.shape[1]:
                sound = self._codec.vocode(self._mel.mel)
                stop = len(sound)
            else:
                stop, sound = 0, self._waveform.waveform
        new = sound[self._place : stop].float().cpu().numpy()
        self._place = stop
        return new, self._mel.mel[:, before : self._mel.done].float().cpu().numpy()


def made_of(stream: Stream, video: Path, model: str, clock: Clock) -> Generation:
    """Collect all of a stream in a `Generation`. Its computing time is added to `clock`."""
    whole = join(list(stream))
    clock.lap("codes")
    made_by = {"request": stream.request, "model": model, "precision": stream.precision, "timings": clock.laps, "clip": stream.codec.clip}
    return Generation(video, sample_rate=stream.codec.clip.sample_rate, features=None, take=0, **made_by, **whole._asdict())


def render_codes(codec: Codec, codes: Int[np.ndarray, "rows columns"], n_samples: int, pace: Pace = FILE) -> Float[np.ndarray, "samples"]:
    """Decode the codes of a whole stream to exactly the samples that it yielded."""
    renderer, limiter = Renderer(codec, codes.shape[1], pace), PeakLimiter(codec.clip.sample_rate, _CEILING)
    grid = torch.from_numpy(codes).to(codec.device)
    parts = [
        limiter.push(renderer.render(chunk, grid[:, (first := renderer.begins(chunk)) : renderer.needs(chunk)], first)[0])
        for chunk in renderer.chunks()
    ]
    return np.concatenate([*parts, limiter.finish()])[:n_samples]
