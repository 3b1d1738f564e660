"""The codec: sound to codes and codes to sound, of any length, without a sampler."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from unsilent.checkpoints.bundle import load_codec_networks
from unsilent.checkpoints.folders import find_bundle, find_codebook, find_part, read_config, sampler_config, trained_loudness
from unsilent.checkpoints.store import weights_digest
from unsilent.choices import AnyPrecision, Device, VocoderChoice, check_choice
from unsilent.codec.stitching import decode_grid, vocode
from unsilent.errors import ParameterError
from unsilent.models.residual_codebook import AnyCodebook
from unsilent.signal.griffin_lim import vocode as griffin_lim_vocode
from unsilent.signal.loudness import level
from unsilent.signal.mel import from_mel01, log_mel01, to_mel01
from unsilent.speed.choice import choose_device, choose_precision, convolution_dtype
from unsilent.speed.threads import EXCLUSIVE, codec_threads, limit_threads


class Codec:
    """A codebook and a vocoder on one device.

    Args:
        codebook: in evaluation mode.
        vocoder: mel in [0, 1] to waveform; None estimates phases by Griffin-Lim.
        device: that both are on.
        dtype: that their convolutions compute in: float32, or bfloat16 by autocast.
        threads: of torch, to compute with; None is the current count.
        loudness_lufs: of the sounds that the codebook was trained on; None for sounds as recorded.
        digest: first 16 bytes of the SHA-256 of the codebook's weights; empty where unknown.
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
    ) -> None:
        self.loudness_lufs, self.digest = loudness_lufs, digest
        self.codebook, self.vocoder, self.device, self.dtype, self.clip = codebook, vocoder, device, dtype, codebook.config.clip
        self.threads = threads or torch.get_num_threads()

    @classmethod
    def load(
        cls, name: str = "everyday", device: Device = "auto", precision: AnyPrecision = "auto", vocoder: VocoderChoice = "neural"
    ) -> "Codec":
        """Load codebook and vocoder of a model; arguments and errors as of `unsilent.load`.

        `name` may also be a codebook without a sampler, shipped or in a checkpoint folder; it gets the default model's vocoder.
        """
        check_choice("vocoder", vocoder, VocoderChoice)
        chosen, alone = choose_device(device), find_codebook(name)
        folder = find_bundle("everyday" if alone else name)
        config = sampler_config(folder)
        settled = choose_precision(precision, chosen, config)
        codebook, network = load_codec_networks(folder, settled, chosen, alone)
        networks = codebook.to(chosen), network.to(chosen) if vocoder == "neural" else None
        checkpoint = alone or find_part("codebook", name)
        about = trained_loudness(read_config(checkpoint)["record"]), bytes.fromhex(weights_digest(checkpoint))[:16]
        return cls(*networks, chosen, convolution_dtype(settled), codec_threads(config), *about)

    @property
    def bitrate_kbps(self) -> float:
        """Kilobits of codes for one second of sound, without entropy coding: codes a second times bits a code."""
        return self.codebook.rows * math.log2(self.codebook.config.n_codes) / self.clip.column_seconds / 1000

    def autocast(self) -> torch.autocast:
        """Autocast to the codec's dtype."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Context in which the networks compute: dtype and thread count."""
        with self.autocast(), limit_threads(self.threads):
            yield

    @torch.inference_mode()
    def encode(self, waveform: np.ndarray) -> Int[Tensor, "rows columns"]:
        """Codes of a sound of any length, encoded clip by clip.

        Args:
            waveform: `[samples]`, mono in [-1, 1] at the clip's sample rate, floating point and finite; zeros fill its last column.

        Raises:
            ParameterError: for another shape or dtype, or NaN and infinite samples.
        """
        check_waveform(waveform)
        clip = self.clip
        missing = clip.columns_for(len(waveform)) * clip.column_samples - len(waveform)
        padded = torch.from_numpy(np.pad(waveform.astype(np.float32), (0, missing))).to(self.device)
        with EXCLUSIVE, self.computing():
            # one mel of the whole sound, so that the borders of clips do not change it
            mel = from_mel01(log_mel01(padded[None], clip))[0]
            return torch.cat([self.codebook.encode(piece[None])[0] for piece in mel.split(clip.frames, dim=1)], dim=1)

    def decode(self, grid: Int[Tensor, "rows columns"]) -> Float[Tensor, "mels frames"]:
        """Mel, unbounded around [-1, 1], of codes of any length."""
        with EXCLUSIVE, self.computing():
            return decode_grid(self.codebook, grid)

    def vocode(self, mel: Float[Tensor, "mels frames"]) -> Float[Tensor, "samples"]:
        """Waveform of a mel around [-1, 1] of any length."""
        with EXCLUSIVE, limit_threads(self.threads):
            if self.vocoder is None:  # in float32, because autocast would round the product with the inverse mel filters
                return griffin_lim_vocode(to_mel01(mel)[None], self.clip)[0]
            with self.autocast():
                return vocode(self.vocode_chunk, mel, self.vocoder.context_frames, self.clip.hop)

    def vocode_chunk(self, mel: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch samples"]:
        """Output of the vocoder network for short mels around [-1, 1]."""
        return self.vocoder(to_mel01(mel))

    @torch.inference_mode()
    def sound(self, mel: Float[np.ndarray, "mels frames"]) -> Float[np.ndarray, "samples"]:
        """Waveform of a mel around [-1, 1]: mono in [-1, 1] at -23 LUFS."""
        return level(self.vocode(torch.from_numpy(mel).to(self.device)).cpu().numpy(), self.clip.sample_rate)

    @torch.inference_mode()
    def reconstruct(self, waveform: np.ndarray) -> Float[np.ndarray, "samples"]:
        """Encode and decode a sound: the upper limit of quality with these codes.

        Args:
            waveform: as of `encode`.

        Returns:
            As many samples, at the level they came in.

        Raises:
            ParameterError: as of `encode`.
        """
        with EXCLUSIVE:
            return self.vocode(self.decode(self.encode(waveform)))[: len(waveform)].cpu().numpy()


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
