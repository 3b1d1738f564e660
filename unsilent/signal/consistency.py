"""Sound that agrees with a mel: magnitudes are brought to its bands, and phases to each other, in rounds of going to sound and back.

Spectra here are `[batch, frames, bins]`, as transforms of single frames want them.
"""

from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from unsilent.clip import Clip
from unsilent.signal.mel import FLOOR_DB, RANGE_DB, mel_filters

_SILENCE = 1e-5  # magnitude that a band at the floor is brought to: 20 dB below it
_LEAST = 1e-8  # magnitude that is told from none
_MOST_GAIN = 1e3  # that magnitudes are brought nearer to a mel by at once
_MOMENTUM = 0.9  # of the rounds; higher ones swing


class Agreement:
    """What a mel asks of a spectrum and of its sound. Differentiable.

    Args:
        mel01: wanted, in [0, 1]; 0, which is the floor or quieter, is taken as silence. Frame `t` is centred on sample `t * clip.hop`, and
            the last one on the very end.
        clip: the time and frequency grid.
    """

    def __init__(self, mel01: Float[Tensor, "batch mels frames"], clip: Clip) -> None:
        self._clip = clip
        wanted = torch.where(mel01 > 0, 10 ** ((mel01 * RANGE_DB + FLOOR_DB) / 20), _SILENCE)
        self._wanted = wanted.transpose(1, 2).contiguous()
        filters = mel_filters(clip)
        heard = torch.nonzero(filters.sum(0))
        self._first, self._stop = int(heard.min()), int(heard.max()) + 1  # bins that some band hears
        heard_by = filters[:, self._first : self._stop].to(wanted)
        # for each sound by itself: one product of all would round a sound otherwise beside others
        self._filters, self._shares = (matrix.expand(len(wanted), -1, -1) for matrix in (heard_by.T, heard_by / heard_by.sum(0)))
        self._window = torch.hann_window(clip.n_fft, device=mel01.device)

    def sound(self, spectrum: Complex[Tensor, "batch frames bins"]) -> Float[Tensor, "batch samples"]:
        """The sound, `(frames - 1) * hop` samples, of a spectrum whose magnitudes are brought nearer to the mel.

        Each bin is multiplied by what the bands that hear it lack, in the shares in which they hear it; by 1 where none does.

        Source:
            The multiplicative update of Lee and Seung, "Algorithms for non-negative matrix factorization" (2001), normalised by the
            filters.
        """
        heard = torch.view_as_real(spectrum[..., self._first : self._stop])
        # by hand, since torch's own takes several times as long
        magnitude = heard[..., 0].square().addcmul(heard[..., 1], heard[..., 1]).clamp(min=_LEAST**2).sqrt()
        lack = self._wanted / (magnitude @ self._filters).clamp(min=_LEAST)
        gains = (lack @ self._shares).clamp(max=_MOST_GAIN)
        gains = F.pad(gains, (self._first, spectrum.shape[-1] - self._stop), value=1.0)
        frames = torch.fft.irfft(spectrum * gains, n=self._clip.n_fft) * self._window
        return self._overlapped(frames) / self._overlap

    def settle(self, waveform: Float[Tensor, "batch samples"], rounds: int) -> Float[Tensor, "batch samples"]:
        """The sound after some rounds, in each of which it is taken apart and put together again as the mel wants it.

        Source:
            Fast Griffin and Lim (Perraudin, Balazs and Sondergaard 2013), but for a mel in the place of magnitudes, and with its momentum
            on the sound instead of the spectrum, which is the same, as one is linear in the other, and a quarter of the numbers.
        """
        before = waveform
        for _ in range(rounds):
            ahead = torch.lerp(before, waveform, 1 + _MOMENTUM)
            before, waveform = waveform, self.sound(self._apart(ahead))
        return waveform

    def _apart(self, waveform: Float[Tensor, "batch samples"]) -> Complex[Tensor, "batch frames bins"]:
        """As `signal.mel.stft`, frames first."""
        n_fft, hop = self._clip.n_fft, self._clip.hop
        frames = F.pad(waveform, (n_fft // 2, n_fft // 2), mode="reflect").unfold(-1, n_fft, hop)
        return torch.fft.rfft(frames * self._window)

    def _overlapped(self, frames: Float[Tensor, "batch frames n_fft"]) -> Float[Tensor, "batch samples"]:
        """The sum of frames a hop apart, from the middle of the first to the middle of the last."""
        n_fft, hop = self._clip.n_fft, self._clip.hop
        n_hops = -(-n_fft // hop)
        total = frames.new_zeros(len(frames), frames.shape[1] - 1 + n_hops, hop)
        for i, part in enumerate(frames.split(hop, dim=-1)):
            total[:, i : i + frames.shape[1], : part.shape[-1]] += part
        return total.flatten(1)[:, n_fft // 2 : n_fft // 2 + (frames.shape[1] - 1) * hop]

    @cached_property
    def _overlap(self) -> Float[Tensor, "1 samples"]:
        """What windows, which frames went through twice, add up to at each sample."""
        return self._overlapped(self._window.square().expand(1, self._wanted.shape[1], -1))
