"""STFT and mel consistency: refine a waveform until its mel spectrogram equals a given one.

Shapes have time before frequency here, the layout of a batch of FFTs:

    S  complex spectrum  [batch, frames, bins]     bins = n_fft / 2 + 1
    M  wanted mel        [batch, frames, mels]     linear magnitudes
    W  mel filters       [mels, bins]
    x  waveform          [batch, samples]          samples = (frames - 1) * hop
"""

from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from unsilent.clip import Clip
from unsilent.signal.mel import FLOOR_DB, RANGE_DB, mel_filters

_SILENCE = 1e-5  # wanted magnitude of bands at the mel's floor, 20 dB below the floor
_MIN_MAGNITUDE = 1e-8  # floor that avoids division by zero
_MAX_GAIN = 1e3  # limit of one multiplicative update
_MOMENTUM = 0.9  # momentum of the refinement; larger values oscillate


class ConsistencyRefiner:
    """Inverts spectra and refines waveforms so that they match a mel spectrogram. Differentiable.

    Args:
        mel01: wanted mel in [0, 1]; 0 is silence. Frame `t` is centred on sample `t * clip.hop`, so the last frame is centred on the end.
        clip: the time and frequency grid.
    """

    def __init__(self, mel01: Float[Tensor, "batch mels frames"], clip: Clip) -> None:
        self._clip = clip
        wanted = torch.where(mel01 > 0, 10 ** ((mel01 * RANGE_DB + FLOOR_DB) / 20), _SILENCE)
        self._wanted: Float[Tensor, "batch frames mels"] = wanted.transpose(1, 2).contiguous()
        filters = mel_filters(clip)
        covered = torch.nonzero(filters.sum(0))
        self._first, self._stop = int(covered.min()), int(covered.max()) + 1  # bins inside the mel range
        filters = filters[:, self._first : self._stop].to(wanted)
        # one matrix product per item, because the rounding of a single large product would depend on the batch size
        self._filters, self._shares = (matrix.expand(len(wanted), -1, -1) for matrix in (filters.T, filters / filters.sum(0)))
        self._window: Float[Tensor, "n_fft"] = torch.hann_window(clip.n_fft, device=mel01.device)

    def invert(self, spectrum: Complex[Tensor, "batch frames bins"]) -> Float[Tensor, "batch samples"]:
        """Inverse STFT of a spectrum after one multiplicative update of its magnitudes towards the mel.

            x = iSTFT(S ⊙ G),    G[t,k] = Σ_m (M / |S| Wᵀ)[t,m] W[m,k] / Σ_m W[m,k]

        `G` is at most 1000, and 1 at bins that no filter covers.

        Returns:
            `(frames - 1) * hop` samples.

        Source:
            The multiplicative update of Lee and Seung, "Algorithms for non-negative matrix factorization" (2001), normalised by the
            filters.
        """
        parts = torch.view_as_real(spectrum[..., self._first : self._stop])
        # explicit, because torch.abs of complex tensors is several times slower
        magnitude = parts[..., 0].square().addcmul(parts[..., 1], parts[..., 1]).clamp(min=_MIN_MAGNITUDE**2).sqrt()
        ratio = self._wanted / (magnitude @ self._filters).clamp(min=_MIN_MAGNITUDE)
        gains = (ratio @ self._shares).clamp(max=_MAX_GAIN)
        gains = F.pad(gains, (self._first, spectrum.shape[-1] - self._stop), value=1.0)
        frames = torch.fft.irfft(spectrum * gains, n=self._clip.n_fft) * self._window
        return self._overlap_add(frames) / self._window_power

    def refine(self, waveform: Float[Tensor, "batch samples"], iterations: int) -> Float[Tensor, "batch samples"]:
        """Fast Griffin-Lim towards the mel, from `x_0 = x_{-1} = waveform`:

            x_{n+1} = invert(STFT(x_n + 0.9 (x_n - x_{n-1})))

        Args:
            waveform: `(frames - 1) * hop` samples.
            iterations: each costs two transforms. With 0, or a waveform of at most `n_fft / 2` samples, which is too short for reflection
                padding, the waveform is returned unchanged.

        Source:
            Perraudin, Balazs and Sondergaard, "A fast Griffin-Lim algorithm" (2013). Differs: a mel instead of magnitudes. Momentum is
            applied to the waveform, which has a quarter of the data of the spectrum; the result is equal because the STFT is linear.
        """
        previous = waveform
        for _ in range(iterations if waveform.shape[-1] > self._clip.n_fft // 2 else 0):
            extrapolated = torch.lerp(previous, waveform, 1 + _MOMENTUM)
            previous, waveform = waveform, self.invert(self._stft(extrapolated))
        return waveform

    def _stft(self, waveform: Float[Tensor, "batch samples"]) -> Complex[Tensor, "batch frames bins"]:
        """The STFT of `signal.mel.stft` with frames before bins."""
        n_fft, hop = self._clip.n_fft, self._clip.hop
        frames = F.pad(waveform, (n_fft // 2, n_fft // 2), mode="reflect").unfold(-1, n_fft, hop)
        return torch.fft.rfft(frames * self._window)

    def _overlap_add(self, frames: Float[Tensor, "batch frames n_fft"]) -> Float[Tensor, "batch samples"]:
        """Sum of frames one hop apart, from the middle of the first to the middle of the last."""
        n_fft, hop = self._clip.n_fft, self._clip.hop
        n_hops = -(-n_fft // hop)
        total = frames.new_zeros(len(frames), frames.shape[1] - 1 + n_hops, hop)
        for i, part in enumerate(frames.split(hop, dim=-1)):
            total[:, i : i + frames.shape[1], : part.shape[-1]] += part
        return total.flatten(1)[:, n_fft // 2 : n_fft // 2 + (frames.shape[1] - 1) * hop]

    @cached_property
    def _window_power(self) -> Float[Tensor, "1 samples"]:
        """Overlap-add of the squared window (analysis times synthesis)."""
        return self._overlap_add(self._window.square().expand(1, self._wanted.shape[1], -1))
