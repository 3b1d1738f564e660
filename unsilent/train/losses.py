"""Loss functions."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from unsilent.clip import Clip
from unsilent.models.codebook import Reconstruction
from unsilent.signal.mel import log_mel01

RESOLUTIONS = ((512, 128), (1024, 256), (2048, 512))  # FFT size and hop in samples


def codebook_loss(
    mel: Float[Tensor, "batch mels frames"], result: Reconstruction, beta: float = 0.25, beta_on_codebook: bool = False
) -> dict[str, Float[Tensor, ""]]:
    """Reconstruction, codebook and commitment losses.

    Args:
        mel: input of the codebook in [-1, 1].
        result: output of the codebook.
        beta: weight of the commitment loss, which moves latents to codes.
        beta_on_codebook: apply `beta` to the codebook loss instead, which moves codes to latents.

    Returns:
        `reconstruction` (mean absolute difference), `codebook` and `commitment`, weighted. Their sum is the loss.

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
) -> dict[str, Float[Tensor, ""]]:
    """Loss of the codebook with a perceptual distance and a discriminator: paper equation 3.

    Args:
        mel: input of the codebook in [-1, 1].
        result: its output.
        distance: perceptual distance between input and output; None without one.
        fake: the discriminator's logits of `result.mel`.
        adversarial_weight: 0.8 in the released runs; multiply it by `adaptive_weight` to balance gradients.
        perceptual_weight: weight of the distance.
        beta: as in `codebook_loss`.
        beta_on_codebook: as in `codebook_loss`.

    Returns:
        The losses of `codebook_loss`, `perceptual` if there is a distance, and `adversarial`, weighted. Their sum is the loss.

    Source:
        Released VQLPAPSWithDiscriminator, with `beta_on_codebook`. Like it, hinge losses replace the logarithms of equation 3.
    """
    losses = codebook_loss(mel, result, beta, beta_on_codebook)
    if distance is not None:
        losses["perceptual"] = perceptual_weight * distance.mean()
    return losses | {"adversarial": adversarial_weight * hinge_generator_loss(fake)}


def adaptive_weight(
    nll_grad: Float[Tensor, "*weight"], g_grad: Float[Tensor, "*weight"], minimum: float = 0.0, maximum: float = 1e4
) -> Float[Tensor, ""]:
    """Factor that scales the adversarial gradient to the norm of the others: ‖nll_grad‖ / (‖g_grad‖ + 1e-4), clamped.

    Args:
        nll_grad: gradient of reconstruction plus perceptual losses at the decoder's last weight.
        g_grad: gradient of `hinge_generator_loss` at the same weight.
        minimum: lower limit of the factor.
        maximum: upper limit of the factor. Both limits are 1 in the released runs, which disables the factor.

    Returns:
        A scalar without gradient.

    Source:
        VQGAN (arXiv 2012.09841) equation 7.
    """
    return (nll_grad.norm() / (g_grad.norm() + 1e-4)).clamp(minimum, maximum).detach()


def hinge_discriminator_loss(real: Float[Tensor, "*scores"], fake: Float[Tensor, "*others"]) -> Float[Tensor, ""]:
    """Hinge loss of the discriminator: ½ (mean relu(1 − real) + mean relu(1 + fake)).

    `fake` must be computed from the generator's detached output, because otherwise the generator gets gradients too.
    """
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def hinge_generator_loss(fake: Float[Tensor, "*scores"]) -> Float[Tensor, ""]:
    """Hinge loss of the generator: −mean fake."""
    return -fake.mean()


def melgan_discriminator_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Float[Tensor, ""]:
    """Sum over scales of twice the hinge loss.

    Args:
        real: feature maps and logits of `MelGANDiscriminator` for real sounds, by scale and layer.
        fake: the same for the vocoder's sounds, detached.

    Source:
        MelGAN (arXiv 1910.06711) equation 1.
    """
    return torch.stack([2 * hinge_discriminator_loss(one[-1], two[-1]) for one, two in zip(real, fake, strict=True)]).sum()


def melgan_generator_loss(
    real: list[list[Tensor]], fake: list[list[Tensor]], matching_weight: float = 10.0
) -> dict[str, Float[Tensor, ""]]:
    """Adversarial and feature matching losses of the vocoder.

    Args:
        real: feature maps and logits of `MelGANDiscriminator` for the real sounds, by scale and layer.
        fake: the same for the vocoder's sounds.
        matching_weight: weight of feature matching.

    Returns:
        `adversarial` (sum over scales) and `feature_matching` (weighted mean absolute difference of all feature maps, summed over layers
        and averaged over scales). Their sum is the loss.

    Source:
        MelGAN equations 2 to 4, with the released train.py's factor of 4 / (strided convolutions + 1) on the sum over layers.
    """
    adversarial = torch.stack([hinge_generator_loss(maps[-1]) for maps in fake]).sum()
    distances = [
        F.l1_loss(made, wanted.detach())
        for one, two in zip(real, fake, strict=True)
        for wanted, made in zip(one[:-1], two[:-1], strict=True)
    ]
    n_strided = len(real[0]) - 3  # all layers except the first, the last but one, and the logits
    share = 4 / (n_strided + 1) / len(real)
    return {"adversarial": adversarial, "feature_matching": matching_weight * share * torch.stack(distances).sum()}


def stft_loss(waveform: Float[Tensor, "batch samples"], target: Float[Tensor, "batch samples"]) -> dict[str, Float[Tensor, ""]]:
    """Multi-resolution STFT loss.

    Returns:
        `spectral_convergence`: Frobenius norm of the difference over that of the target. `log_magnitude`: mean absolute difference of
        natural logarithms, with a floor of 1e-3. Both are averaged over sounds and resolutions.

    Source:
        Parallel WaveGAN (arXiv 1910.11480) section 2.2. Differs: the floor, because silence has no finite logarithm; norms per sound, so
        that the loss of a batch is the mean of its parts.
    """
    convergence, log_magnitude = [], []
    for n_fft, hop in RESOLUTIONS:
        window = torch.hann_window(n_fft, device=waveform.device)
        made, wanted = (torch.stft(x, n_fft, hop, window=window, return_complex=True).abs() for x in (waveform, target))
        norms = [magnitude.flatten(1).norm(dim=1) for magnitude in (wanted - made, wanted)]
        convergence.append((norms[0] / norms[1].clamp(min=1e-2)).mean())
        log_magnitude.append((_log(wanted) - _log(made)).abs().mean())
    return {"spectral_convergence": torch.stack(convergence).mean(), "log_magnitude": torch.stack(log_magnitude).mean()}


def _log(magnitude: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return torch.log(magnitude.clamp(min=1e-3))


def mel_loss(waveform: Float[Tensor, "batch samples"], mel01: Float[Tensor, "batch mels frames"], clip: Clip) -> Float[Tensor, ""]:
    """Mean absolute difference between the mel of a waveform and a target mel, both in [0, 1]."""
    return (log_mel01(waveform, clip) - mel01).abs().mean()


def next_code_loss(logits: Float[Tensor, "batch sequence codes"], codes: Int64[Tensor, "batch sequence"]) -> Float[Tensor, ""]:
    """Cross-entropy in nats per code."""
    return F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())
