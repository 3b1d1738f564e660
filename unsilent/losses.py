"""Loss terms as pure functions; each trainer adds the ones it wants. No networks are kept here."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unsilent.clip import Clip
from unsilent.models.codebook import Reconstruction
from unsilent.signal.mel import log_mel01

RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))  # FFT size and hop in samples


def codebook_loss(mel: Float[Tensor, "batch mels frames"], result: Reconstruction, beta: float = 0.25) -> dict[str, Tensor]:
    """Reconstruction and codebook terms of paper equation 2.

    Args:
        mel: what went in, in [-1, 1].
        result: what the codebook made of it.
        beta: weight of the term that pulls the encoder to the codes (the commitment of VQ-VAE).

    Returns:
        `reconstruction` (mean absolute difference), `codebook`, `commitment` (already weighted). Their sum is the loss.

    Source:
        Paper equation 2. Differs: beta weighs the commitment as in VQ-VAE (arXiv 1711.00937), not the codebook term as printed.
    """
    return {
        "reconstruction": (mel - result.mel).abs().mean(),
        "codebook": result.quantized.codebook,
        "commitment": beta * result.quantized.commitment,
    }


def stft_loss(waveform: Float[Tensor, "batch samples"], target: Float[Tensor, "batch samples"]) -> dict[str, Tensor]:
    """Multi-resolution STFT distance: how differently two sounds look in three spectrograms.

    Returns:
        `spectral_convergence` (Frobenius norm of the difference over that of the target) and `log_magnitude` (mean absolute difference
        of natural logarithms, floored at 1e-3), averaged over resolutions.

    Source:
        Parallel WaveGAN (arXiv 1910.11480) section 2.2; the floor is ours, since silence has no useful logarithm.
    """
    convergence, log_magnitude = [], []
    for n_fft, hop in RESOLUTIONS:
        window = torch.hann_window(n_fft, device=waveform.device)
        made, wanted = (torch.stft(x, n_fft, hop, window=window, return_complex=True).abs() for x in (waveform, target))
        convergence.append((wanted - made).norm() / wanted.norm().clamp(min=1e-2))
        log_magnitude.append((_log(wanted) - _log(made)).abs().mean())
    return {"spectral_convergence": torch.stack(convergence).mean(), "log_magnitude": torch.stack(log_magnitude).mean()}


def _log(magnitude: Tensor) -> Tensor:
    return torch.log(magnitude.clamp(min=1e-3))


def mel_loss(waveform: Float[Tensor, "batch samples"], mel01: Float[Tensor, "batch mels frames"], clip: Clip) -> Float[Tensor, ""]:
    """Mean absolute difference between the mel of a sound and the mel it was asked to have, both in [0, 1]."""
    return (log_mel01(waveform, clip) - mel01).abs().mean()


def next_code_loss(logits: Float[Tensor, "batch sequence codes"], codes: Tensor) -> Float[Tensor, ""]:
    """Cross-entropy of every code given those before it, in nats a code."""
    return F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())
