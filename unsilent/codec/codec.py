"""The codec: encodes sound of any length to codes and decodes them, without a sampler."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unsilent.checkpoints.bundle import load_codec_networks, load_sampler
from unsilent.checkpoints.folders import find_bundle, find_codebook, find_part, read_config, sampler_config, trained_loudness
from unsilent.checkpoints.store import weights_digest
from unsilent.choices import AnyPrecision, Device, VocoderChoice, check_choice
from unsilent.codec.coders import BlockCoder, PlainCoder, SamplerCoder
from unsilent.codec.stitching import decode_grid, vocode
from unsilent.codec.streaming import stream_decoded, stream_mels, stream_vocoded, windows_around
from unsilent.errors import ParameterError
from unsilent.models.residual_codebook import AnyCodebook
from unsilent.signal.griffin_lim import vocode as griffin_lim_vocode
from unsilent.signal.loudness import level
from unsilent.signal.mel import to_mel01
from unsilent.speed.choice import choose_device, choose_precision, convolution_dtype
from unsilent.speed.threads import EXCLUSIVE, codec_threads, limit_threads


class Codec:
    """A codebook and a vocoder on one device.

    Args:
        codebook: in evaluation mode.
        vocoder: mel in [0, 1] to waveform; None estimates phases by Griffin-Lim.
        device: device of both.
        dtype: dtype of convolutions: float32, or bfloat16 by autocast.
        threads: torch threads for computing; None takes the current count.
        loudness_lufs: loudness of the codebook's training sounds; None if they were not normalised.
        digest: first 16 bytes of the SHA-256 of the codebook's weights; empty if unknown.
        sampler: checkpoint folder of the model's sampler, which entropy coding loads; None without one.
    """

    def __init__(
        self,
        codebook: AnyCodebook,
        vocoder: nn.Module | None,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        threads: int | None = None,
        loudness_lufs: float | None = None,
        digest: bytes = b"",
        sampler: Path | None = None,
    ) -> None:
        self.loudness_lufs, self.digest, self._sampler_folder = loudness_lufs, digest, sampler
        self.codebook, self.vocoder, self.device, self.dtype, self.clip = codebook, vocoder, device, dtype, codebook.config.clip
        self.threads = threads or torch.get_num_threads()

    @classmethod
    def load(
        cls, name: str = "everyday", device: Device = "auto", precision: AnyPrecision = "auto", vocoder: VocoderChoice = "neural"
    ) -> "Codec":
        """Load codebook and vocoder of a model. Arguments and errors: see `unsilent.load`.

        `name` may also be a codebook without a sampler, from the package or a checkpoint folder; it gets the default model's vocoder.
        """
        check_choice("vocoder", vocoder, VocoderChoice)
        chosen, alone = choose_device(device), find_codebook(name)
        folder = find_bundle("everyday" if alone else name)
        config = sampler_config(folder)
        settled = choose_precision(precision, chosen, config)
        codebook, network = load_codec_networks(folder, settled, chosen, alone)
        networks = codebook.to(chosen), network.to(chosen) if vocoder == "neural" else None
        checkpoint = alone or find_part("codebook", name)
        about = (
            trained_loudness(read_config(checkpoint)["record"]),
            _short_digest(checkpoint),
            None if alone else find_part("sampler", name),
        )
        return cls(*networks, chosen, convolution_dtype(settled), codec_threads(config), *about)

    @property
    def bitrate_kbps(self) -> float:
        """Bit rate in kilobits per second without entropy coding: codes per second times bits per code."""
        return self.codebook.rows * math.log2(self.codebook.config.n_codes) / self.clip.column_seconds / 1000

    def autocast(self) -> torch.autocast:
        """Autocast to the codec's dtype."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Context that sets dtype and thread count of the networks."""
        with self.autocast(), limit_threads(self.threads):
            yield

    @torch.inference_mode()
    def encode(self, waveform: np.ndarray) -> Int[Tensor, "rows columns"]:
        """Codes of a sound of any length, encoded clip by clip.

        Args:
            waveform: `[samples]`, mono in [-1, 1] at the clip's sample rate, floating point and finite; padded with zeros to whole columns.

        Raises:
            ParameterError: for another shape or dtype, or for NaN or infinite samples.
        """
        check_waveform(waveform)
        return torch.cat(list(self.encode_blocks([waveform])), dim=1)

    @torch.inference_mode()
    def encode_blocks(self, blocks: Iterable[np.ndarray]) -> Iterator[Int[Tensor, "rows columns"]]:
        """Codes, clip by clip, of a sound that arrives in blocks of any length; memory does not grow with the length.

        Args:
            blocks: consecutive waveforms as in `encode`.

        Raises:
            ParameterError: as in `encode`.
        """
        mels = stream_mels(self.checked(blocks), self.clip)
        while True:
            with EXCLUSIVE, limit_threads(self.threads):
                if (mel := next(mels, None)) is None:
                    return
                with self.autocast():
                    codes = self.codebook.encode(mel[None].to(self.device))[0]
            yield codes

    def checked(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the blocks of a sound after checking each; raises `ParameterError` like `encode`, also for a sound without samples."""
        is_empty = True
        for block in blocks:
            check_waveform(block)
            is_empty = False
            yield block
        if is_empty:
            raise ParameterError("a sound without samples was given.")

    def coder(self, entropy: bool) -> BlockCoder:
        """The coder for blocks of codes: plain, or a range coder with the probabilities of the model's sampler, which it loads.

        Raises:
            ParameterError: for a codebook without a sampler, or a sampler that entropy coding does not support.
        """
        plain = PlainCoder(self.codebook.rows, max(1, (self.codebook.config.n_codes - 1).bit_length()))
        if not entropy:
            return plain
        if self._sampler_folder is None:
            raise ParameterError("entropy coding needs a sampler, but this codebook has none; choose a model.")
        return SamplerCoder(load_sampler(self._sampler_folder, None, torch.device("cpu")), plain, _short_digest(self._sampler_folder))

    def decode(self, grid: Int[Tensor, "rows columns"], first_column: int = 0) -> Float[Tensor, "mels frames"]:
        """Decode codes of any length to a mel around [-1, 1], not clipped; `first_column` is their position in a longer sound."""
        with EXCLUSIVE, self.computing():
            return decode_grid(self.codebook, grid, first_column)

    def vocode(self, mel: Float[Tensor, "mels frames"]) -> Float[Tensor, "samples"]:
        """Waveform of a mel around [-1, 1] of any length."""
        with EXCLUSIVE, limit_threads(self.threads):
            if self.vocoder is None:  # float32, because autocast would round the product with the inverse mel filters
                return griffin_lim_vocode(to_mel01(mel)[None], self.clip)[0]
            with self.autocast():
                return vocode(self.vocode_chunk, mel, self.vocoder.context_frames, self.clip.hop)

    def vocode_chunk(self, mel: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch samples"]:
        """Output of the vocoder network for a batch of short mels around [-1, 1]."""
        return self.vocoder(to_mel01(mel))

    def stream(self, grid: Int[Tensor, "rows columns"], wanted: range | None = None) -> Iterator[Float[Tensor, "samples"]]:
        """Waveform of codes of any length, in pieces; memory for sound does not grow with the length.

        Args:
            grid: all codes.
            wanted: columns whose samples are yielded; None is all. Codes far from them are not read. Samples equal those of the whole up to
                rounding, except with Griffin-Lim, which estimates phases from the part alone.
        """
        n_columns, around = grid.shape[1], 0 if self.vocoder is None else -(-self.vocoder.context_frames // self.clip.downsampling)
        wanted = range(n_columns) if wanted is None else wanted
        seen = range(max(0, wanted.start - around), min(n_columns, wanted.stop + around))
        windows = windows_around(seen, n_columns, self.clip)
        skipped, left = ((edge - windows[0].start) * self.clip.column_samples for edge in (wanted.start, wanted.stop))
        for piece in self._stream(grid, windows):
            yield piece[max(0, skipped) : max(0, left)]
            skipped, left = skipped - len(piece), left - len(piece)

    def _stream(self, grid: Int[Tensor, "rows columns"], windows: Sequence[range]) -> Iterator[Float[Tensor, "samples"]]:

        def decode(columns: Int[Tensor, "rows columns"], start: int) -> Float[Tensor, "mels frames"]:
            with EXCLUSIVE, self.computing():
                return self.codebook.decode_codes(columns[None], start)[0]

        mels = stream_decoded(decode, grid, self.clip, windows)
        if self.vocoder is None:  # Griffin-Lim needs the whole mel
            yield self.vocode(torch.cat(list(mels), dim=1))
            return

        def vocode_chunk(mel: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch samples"]:
            with EXCLUSIVE, self.computing():
                return self.vocode_chunk(mel)

        yield from stream_vocoded(vocode_chunk, mels, self.vocoder.context_frames, self.clip.hop)

    @torch.inference_mode()
    def sound(self, mel: Float[np.ndarray, "mels frames"]) -> Float[np.ndarray, "samples"]:
        """Waveform of a mel around [-1, 1]: mono in [-1, 1] at -23 LUFS."""
        return level(self.vocode(torch.from_numpy(mel).to(self.device)).cpu().numpy(), self.clip.sample_rate)

    @torch.inference_mode()
    def reconstruct(self, waveform: np.ndarray) -> Float[np.ndarray, "samples"]:
        """Encode and decode a sound. The result is the upper limit of quality with these codes.

        Args:
            waveform: as in `encode`.

        Returns:
            The same number of samples, at the level of the input.

        Raises:
            ParameterError: as in `encode`.
        """
        with EXCLUSIVE:
            return self.vocode(self.decode(self.encode(waveform)))[: len(waveform)].cpu().numpy()


def _short_digest(checkpoint: Path) -> bytes:
    return bytes.fromhex(weights_digest(checkpoint))[:16]


def check_waveform(waveform: np.ndarray) -> None:
    """Check that an array is a mono sound.

    Raises:
        ParameterError: unless it is a one-dimensional floating-point array of finite samples, at least one.
    """
    if not isinstance(waveform, np.ndarray) or waveform.ndim != 1 or not len(waveform):
        shape = getattr(waveform, "shape", type(waveform).__name__)
        raise ParameterError(f"a waveform of shape {shape} was given; give one channel of samples, a NumPy array [samples].")
    if not np.issubdtype(waveform.dtype, np.floating):
        raise ParameterError(f"a waveform of {waveform.dtype} was given; give floating-point samples in [-1, 1].")
    if not np.isfinite(waveform).all():
        raise ParameterError("a waveform with NaN or infinite samples was given; give finite samples in [-1, 1].")
