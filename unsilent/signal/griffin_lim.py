"""Griffin-Lim: waveforms from magnitudes by iterative phase estimation. It needs no trained vocoder, and sounds slightly hollow."""

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.signal.mel import magnitude_from_mel01, stft


def griffin_lim(
    magnitude: Float[Tensor, "batch bins frames"], clip: Clip = Clip(), iterations: int = 32, momentum: float = 0.99, seed: int = 0
) -> Float[Tensor, "batch samples"]:
    """Estimate a waveform from STFT magnitudes `A`. With random initial phases `P_0` and `C_0 = 0`:

        C_n = STFT(iSTFT(A ⊙ P_{n-1})),    P_n = phase(C_n - a C_{n-1}),    a = momentum / (1 + momentum)

    Args:
        magnitude: non-negative, `clip.n_fft // 2 + 1` bins, frame `t` centred on sample `t * clip.hop` as in `signal.mel`.
        clip: the time and frequency grid.
        iterations: 1 or more; 32 suffice. Each costs two transforms.
        momentum: 0 gives the plain algorithm, values near 1 the fast one.
        seed: seed of the initial phases. All items of a batch share them, so that no item depends on the others.

    Returns:
        Exactly `frames * clip.hop` samples; beyond full scale if the magnitudes are.

    Raises:
        ParameterError: if there are too few frames or iterations, or the bins do not match the FFT; the message has both numbers.

    Source:
        Griffin and Lim (1984); Perraudin, Balazs and Sondergaard, "A fast Griffin-Lim algorithm" (2013), with librosa's damping
        momentum / (1 + momentum).
    """
    _, bins, frames = magnitude.shape
    _check(bins, frames, iterations, clip)
    start = torch.rand(bins, frames, generator=torch.Generator().manual_seed(seed)).to(magnitude)
    phases = torch.polar(torch.ones_like(start), 2 * torch.pi * start)
    previous = torch.zeros((), dtype=phases.dtype, device=phases.device)
    for _ in range(iterations):
        consistent = stft(_istft(magnitude * phases, clip), clip)[..., :frames]
        extrapolated = consistent - momentum / (1 + momentum) * previous
        phases = torch.polar(torch.ones_like(magnitude), extrapolated.angle())
        previous = consistent
    return _istft(magnitude * phases, clip)


def vocode(
    mel01: Float[Tensor, "batch mels frames"], clip: Clip = Clip(), iterations: int = 32, seed: int = 0
) -> Float[Tensor, "batch samples"]:
    """Waveform of a mel spectrogram in [0, 1] without a neural vocoder; arguments and errors as in `griffin_lim`."""
    return griffin_lim(magnitude_from_mel01(mel01, clip), clip, iterations, seed=seed)


def _istft(spectrum: Complex[Tensor, "batch bins frames"], clip: Clip) -> Float[Tensor, "batch samples"]:
    window = torch.hann_window(clip.n_fft, dtype=spectrum.real.dtype, device=spectrum.device)
    return torch.istft(spectrum, clip.n_fft, clip.hop, window=window, center=True, length=spectrum.shape[-1] * clip.hop)


def _check(bins: int, frames: int, iterations: int, clip: Clip) -> None:
    if bins != clip.n_fft // 2 + 1:
        raise ParameterError(f"{bins} frequency bins do not fit an FFT of {clip.n_fft} samples, which has {clip.n_fft // 2 + 1}.")
    least = clip.n_fft // 2 // clip.hop + 1  # reflection padding must be shorter than the waveform
    if frames < least:
        raise ParameterError(f"{frames} frames are too few for Griffin-Lim, which needs {least} or more.")
    if iterations < 1:
        raise ParameterError(f"iterations is {iterations}, but must be 1 or more.")
