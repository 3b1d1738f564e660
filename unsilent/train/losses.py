"""Loss terms as pure functions; each trainer adds the ones it wants. No networks are kept here."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unsilent.clip import Clip
from unsilent.models.codebook import Reconstruction
from unsilent.signal.mel import log_mel01

RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))  # FFT size and hop in samples


def codebook_loss(
    mel: Float[Tensor, "batch mels frames"], result: Reconstruction, beta: float = 0.25, beta_on_codebook: bool = False
) -> dict[str, Tensor]:
    """Reconstruction and codebook terms of paper equation 2.

    Args:
        mel: what went in, in [-1, 1].
        result: what the codebook made of it.
        beta: weight of the term that pulls the encoder to the codes (the commitment of VQ-VAE).
        beta_on_codebook: let `beta` weigh the term that pulls the codes to the encoder instead, as the authors do.

    Returns:
        `reconstruction` (mean absolute difference), `codebook`, `commitment` (already weighted). Their sum is the loss.

    Source:
        Paper equation 2. Differs by default: beta weighs the commitment as in VQ-VAE (arXiv 1711.00937), not the codebook term as printed
        and released.
    """
    on_codebook, on_commitment = (beta, 1.0) if beta_on_codebook else (1.0, beta)
    return {
        "reconstruction": (mel - result.mel).abs().mean(),
        "codebook": on_codebook * result.quantized.codebook,
        "commitment": on_commitment * result.quantized.commitment,
    }


def vqgan_loss(
    mel: Float[Tensor, "batch mels frames"],
    result: Reconstruction,
    distance: Float[Tensor, "batch"] | None,
    fake: Float[Tensor, "batch rows columns"],
    adversarial_weight: float | Float[Tensor, ""],
    perceptual_weight: float = 1.0,
    beta: float = 0.25,
    beta_on_codebook: bool = False,
) -> dict[str, Tensor]:
    """All that trains the codebook's networks when a distance and a discriminator judge them: paper equation 3.

    Args:
        mel: what went in, in [-1, 1].
        result: what the codebook made of it.
        distance: perceptual distance of the two; None trains without.
        fake: the discriminator's scores of `result.mel`.
        adversarial_weight: 0 until the discriminator joins; then 0.8 in the released runs, times `adaptive_weight` where that is wanted.
        perceptual_weight: of the distance.
        beta: as in `codebook_loss`.
        beta_on_codebook: as in `codebook_loss`.

    Returns:
        The terms of `codebook_loss`, `perceptual` where there is a distance, and `adversarial`, all weighted. Their sum is the loss.

    Source:
        Released VQLPAPSWithDiscriminator, with `beta_on_codebook`: hinge losses, not equation 3's logarithms.
    """
    losses = codebook_loss(mel, result, beta, beta_on_codebook)
    if distance is not None:
        losses["perceptual"] = perceptual_weight * distance.mean()
    return losses | {"adversarial": adversarial_weight * hinge_generator_loss(fake)}


def adaptive_weight(nll_grad: Tensor, g_grad: Tensor, minimum: float = 0.0, maximum: float = 1e4) -> Float[Tensor, ""]:
    """Weight at which the discriminator pulls the decoder as hard as reconstruction and perceptual distance do.

    Args:
        nll_grad: gradient of reconstruction plus perceptual terms at the decoder's last weight.
        g_grad: gradient of `hinge_generator_loss` there.
        minimum: of the result.
        maximum: of the result; the released runs have both at 1, which turns it off.

    Returns:
        A number without gradient.

    Source:
        VQGAN (arXiv 2012.09841) equation 7.
    """
    return (nll_grad.norm() / (g_grad.norm() + 1e-4)).clamp(minimum, maximum).detach()


def hinge_discriminator_loss(real: Float[Tensor, "*scores"], fake: Float[Tensor, "*others"]) -> Float[Tensor, ""]:
    """What scores of real things lack to 1 and those of made ones to -1, halved: 0 if all are told apart, 1 if all scores are 0.

    The made things must come without gradient, or the generator gets one too.
    """
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake: Float[Tensor, "*scores"]) -> Float[Tensor, ""]:
    """The lower, the more real the discriminator finds what was made."""
    return -fake.mean()


def melgan_discriminator_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Float[Tensor, ""]:
    """Sum over scales of twice the hinge loss.

    Args:
        real: what `MelGANDiscriminator` says of real sounds.
        fake: the same of made ones, which must come without gradient.

    Source:
        MelGAN (arXiv 1910.06711) equation 1.
    """
    return torch.stack([2 * hinge_discriminator_loss(one[-1], two[-1]) for one, two in zip(real, fake, strict=True)]).sum()


def melgan_generator_loss(real: list[list[Tensor]], fake: list[list[Tensor]], matching_weight: float = 10.0) -> dict[str, Tensor]:
    """What trains the vocoder: to be found real, at every scale, by what every layer of the discriminator sees.

    Args:
        real: what `MelGANDiscriminator` says of the sounds that the mels come from.
        fake: the same of what the vocoder made of the mels.
        matching_weight: of the feature matching.

    Returns:
        `adversarial` (sum over scales) and `feature_matching` (weighted mean absolute difference of all maps but the scores, summed over
        layers and averaged over scales). Their sum is the loss.

    Source:
        MelGAN equations 2 to 4, with the released train.py's factor of 4 / (strided convolutions + 1) on the sum over layers.
    """
    adversarial = torch.stack([hinge_generator_loss(maps[-1]) for maps in fake]).sum()
    distances = [
        F.l1_loss(made, wanted.detach())
        for one, two in zip(real, fake, strict=True)
        for wanted, made in zip(one[:-1], two[:-1], strict=True)
    ]
    n_strided = len(real[0]) - 3  # all but the first, the last but one, and the scores
    share = 4 / (n_strided + 1) / len(real)
    return {"adversarial": adversarial, "feature_matching": matching_weight * share * torch.stack(distances).sum()}


def stft_loss(waveform: Float[Tensor, "batch samples"], target: Float[Tensor, "batch samples"]) -> dict[str, Tensor]:
    """Multi-resolution STFT distance: how differently two sounds look in three spectrograms.

    Returns:
        `spectral_convergence` (Frobenius norm of the difference over that of the target) and `log_magnitude` (mean absolute difference
        of natural logarithms, floored at 1e-3), averaged over sounds and resolutions.

    Source:
        Parallel WaveGAN (arXiv 1910.11480) section 2.2; the floor is ours, since silence has no useful logarithm, and so is
        the norm of each sound by itself, with which the loss of a batch is that of its parts.
    """
    convergence, log_magnitude = [], []
    for n_fft, hop in RESOLUTIONS:
        window = torch.hann_window(n_fft, device=waveform.device)
        made, wanted = (torch.stft(x, n_fft, hop, window=window, return_complex=True).abs() for x in (waveform, target))
        norms = [magnitude.flatten(1).norm(dim=1) for magnitude in (wanted - made, wanted)]
        convergence.append((norms[0] / norms[1].clamp(min=1e-2)).mean())
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
