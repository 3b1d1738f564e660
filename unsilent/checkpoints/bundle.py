"""Bundles: folders with the checkpoints of one model, and the networks loaded from them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unsilent import presets
from unsilent.checkpoints.folders import (
    ROLES,
    is_here,
    models_folder,
    read_bundle,
    read_config,
    read_defaults,
    trained_loudness,
)
from unsilent.checkpoints.imagenet import load_efficientnet_lite0
from unsilent.checkpoints.store import KINDS, load_checkpoint, load_codebook, network_config, save_checkpoint
from unsilent.choices import Precision
from unsilent.errors import CheckpointError
from unsilent.files import atomic_write
from unsilent.models.backbones.bninception import BNInception, TwoStream, flow_weights
from unsilent.models.configs import AnySamplerConfig, CodebookConfig, MelGANConfig, ResidualCodebookConfig, VocosConfig
from unsilent.models.exemplars import Exemplars, ExemplarsConfig
from unsilent.models.listener import Ranker
from unsilent.models.melgan import MelGAN
from unsilent.models.residual_codebook import AnyCodebook
from unsilent.models.sampler import AnySampler
from unsilent.models.vocos import Vocos
from unsilent.request import Defaults
from unsilent.speed.choice import can_pack, convolution_dtype
from unsilent.speed.cpu_convolutions import can_fuse, fuse, prepare_convolutions
from unsilent.speed.prepare import accelerate, prepare_block
from unsilent.vision.features import Backbone, find_backbone

SEEING = ("features", "features+class", "columns", "sight")  # kinds of conditions with visual features
_STRETCH_BYTES, _STRETCHES = (
    1 << 20,
    32,
)  # a fingerprint reads parts of large files, which suffice because two trainings differ in every weight


@dataclass(frozen=True)
class Parts:
    """The networks of one model.

    Attributes:
        name: name of the preset.
        codebook, sampler, vocoder: networks with their weights, in evaluation mode.
        backbone: image network of the condition; None for a model without visual features.
        backbone_row: preprocessing of the image network's input; None like `backbone`.
        classes: names by class number; empty for a model without classes.
        ranker: listener that ranks sounds; None for a model that does not rank.
        exemplars: table of exemplars that sounds continue; None for a model without exemplars.
        top_k, temperature, guidance, candidates: defaults of sampling; see `request.Request`.
        fingerprint: short digest of the weights, which distinguishes two bundles of one preset.
        loudness_lufs: loudness of the codebook's training sounds; None if they were not normalised.
        folder: folder of the bundle.
    """

    name: str
    codebook: AnyCodebook
    sampler: AnySampler
    vocoder: Vocos | MelGAN
    backbone: nn.Module | None
    backbone_row: Backbone | None
    classes: tuple[str, ...]
    ranker: Ranker | None
    exemplars: Exemplars | None
    top_k: int
    temperature: float
    guidance: float
    candidates: int
    fingerprint: str
    loudness_lufs: float | None
    folder: Path

    @property
    def defaults(self) -> Defaults:
        """The model's defaults for requests."""
        values, sees = (self.top_k, self.temperature, self.guidance), self.sampler.config.condition.kind == "sight"
        return Defaults(self.name, self.codebook.config.n_codes, *values, self.classes, self.candidates, sees)

    def to(self, device: torch.device) -> None:
        """Move all networks."""
        for network in (self.codebook, self.sampler, self.vocoder, self.backbone, self.ranker and self.ranker.listener):
            if network is not None:
                network.to(device)


def load_parts(folder: Path, precision: Precision | None = None, device: torch.device = torch.device("cpu")) -> Parts:
    """Load all networks of a bundle.

    Args:
        folder: folder of the bundle.
        precision: precision for which the networks are prepared; None leaves them as trained. The sampler is prepared block by block,
            which limits the float32 weights in memory.
        device: device that will run the networks; they are returned on the CPU.

    Raises:
        CheckpointError: if the bundle or a part is missing or damaged, or the parts do not fit together.
    """
    about = read_bundle(folder)
    preset = presets.get(about["preset"])
    codebook, vocoder = load_codec_networks(folder, precision, device)
    sampler = load_sampler(folder / about["parts"]["sampler"], precision, device)
    sees = preset.backbone and sampler.config.condition.kind in SEEING
    backbone, backbone_row = load_backbone(preset.backbone) if sees else (None, None)
    classes = tuple(about.get("classes", ()))
    chosen = read_defaults(folder)
    defaults = (chosen.top_k, chosen.temperature, chosen.guidance, chosen.candidates)
    loudness = trained_loudness(read_config(folder / about["parts"]["codebook"])["record"])
    networks = (codebook, sampler, vocoder, backbone, backbone_row)
    ranker = load_ranker(folder / "classifier") if chosen.candidates else None
    if precision and can_fuse(device, dtype := convolution_dtype(precision)):
        for network in filter(None, (backbone, ranker and ranker.listener)):
            fuse(network, dtype)
    exemplars = load_exemplars(folder, sampler.config)
    parts = Parts(preset.name, *networks, classes, ranker, exemplars, *defaults, fingerprint(folder, about), loudness, folder)
    if problem := misfit(codebook.config, sampler.config, vocoder.config, backbone_row, classes):
        raise CheckpointError(f"the parts of {folder} do not fit together: {problem}.")
    return parts


def load_codec_networks(
    folder: Path, precision: Precision | None = None, device: torch.device = torch.device("cpu"), codebook_folder: Path | None = None
) -> tuple[AnyCodebook, Vocos | MelGAN]:
    """Load codebook and vocoder of a bundle. `codebook_folder` replaces the codebook. Other arguments and errors: see `load_parts`."""
    parts = read_bundle(folder)["parts"]
    codebook_folder = codebook_folder or folder / parts["codebook"]
    codebook = load_codebook(codebook_folder)
    vocoder_folder = folder / parts["vocoder"]
    vocoder = load_checkpoint(vocoder_folder, "vocos" if read_config(vocoder_folder)["kind"] == "vocos" else "melgan")
    if isinstance(vocoder, MelGAN):
        vocoder.remove_weight_norm()
    if precision:
        prepare_convolutions(codebook, precision, device)
        prepare_convolutions(vocoder, precision, device)
    return codebook, vocoder


def load_ranker(checkpoint: Path) -> Ranker:
    """Load a listener and its classes. Errors: see `load_parts`."""
    return Ranker(load_checkpoint(checkpoint, "listener"), tuple(read_config(checkpoint)["record"]["classes"]))


def load_exemplars(folder: Path, sampler: AnySamplerConfig) -> Exemplars | None:
    """Load the exemplars of a bundle for its sampler; None if it has none. Errors: see `load_parts`."""
    if not (folder / "exemplars/config.json").is_file():
        return None
    exemplars = load_checkpoint(folder / "exemplars", "exemplars")
    if problem := misfit_of_exemplars(exemplars.config, sampler):
        raise CheckpointError(f"the parts of {folder} do not fit together: {problem}.")
    largest = max(int(exemplars.codes.max()), int(exemplars.silence.max()))
    if min(int(exemplars.codes.min()), int(exemplars.silence.min())) < 0 or largest >= sampler.codes:
        raise CheckpointError(f"the exemplars of {folder} are damaged: codes must be 0 to {sampler.codes - 1}.")
    return exemplars


def load_sampler(folder: Path, precision: Precision | None, device: torch.device) -> AnySampler:
    """Load a sampler's checkpoint and prepare it. Arguments and errors: see `load_parts`."""
    kind = "residual_sampler" if read_config(folder)["kind"] == "residual_sampler" else "sampler"
    if precision is None:
        return load_checkpoint(folder, kind)
    packs = can_pack(network_config(folder, kind), device)
    # bfloat16 in memory, because autocast would convert the matrices at every step
    dtype = torch.bfloat16 if precision == "bfloat16" and not packs else torch.float32
    sampler = load_checkpoint(folder, kind, dtype, partial(prepare_block, precision=precision, packs=packs))
    accelerate(sampler, precision, device)
    return sampler


def misfit(
    codebook: CodebookConfig | ResidualCodebookConfig,
    sampler: AnySamplerConfig,
    vocoder: VocosConfig | MelGANConfig,
    backbone: Backbone | None,
    classes: Sequence[str],
) -> str:
    """Description of the first mismatch between the configurations of a model's parts; empty if they fit.

    Args:
        codebook: sizes of the codebook, of either kind.
        sampler: sizes of the sampler.
        vocoder: sizes of the vocoder.
        backbone: image network of the preset; None for a preset without one.
        classes: names of the sampler's classes.
    """
    sees = sampler.condition.kind in SEEING
    if sees and backbone is None:
        return f"the sampler has {sampler.condition.n_features} features, but the preset has no image network"
    # a condition of kind `none` has a random vector in place of features
    feature_dim = backbone.dim if sees else sampler.condition.feature_dim
    for what, sampler_has, other, other_has in (
        ("codes", sampler.codes, "codebook", codebook.n_codes),
        ("code rows in a clip", sampler.clip.rows, "codebook", codebook.clip.rows),
        ("code columns in a clip", sampler.clip.columns, "codebook", codebook.clip.columns),
        ("samples in a code column", sampler.clip.column_samples, "codebook", codebook.clip.column_samples),
        ("samples in a second", sampler.clip.sample_rate, "codebook", codebook.clip.sample_rate),
        ("feature dimensions", sampler.condition.feature_dim, "image network", feature_dim),
        ("classes", sampler.condition.n_classes, "bundle", len(classes)),
    ):
        if sampler_has != other_has:
            return f"the sampler has {sampler_has} {what}, the {other} {other_has}"
    bands, hop = (vocoder.clip.mels, vocoder.clip.hop) if isinstance(vocoder, VocosConfig) else (vocoder.mels, prod(vocoder.ratios))
    if (bands, hop) != (codebook.clip.mels, codebook.clip.hop):
        return f"the vocoder has {bands} bands and a hop of {hop}, the codebook {codebook.clip.mels} and {codebook.clip.hop}"
    return ""


def misfit_of_exemplars(exemplars: ExemplarsConfig, sampler: AnySamplerConfig) -> str:
    """Like `misfit`, for exemplars and the sampler that continues them."""
    if sampler.condition.kind != "sight":
        return f"exemplars are for a condition of kind sight, the sampler has {sampler.condition.kind}"
    for what, has, needs in (
        ("classes", exemplars.classes, sampler.condition.n_classes),
        ("code rows", exemplars.rows, sampler.clip.rows),
    ):
        if has != needs:
            return f"the exemplars have {has} {what}, the sampler {needs}"
    return ""


def fingerprint(folder: Path, about: dict[str, Any]) -> str:
    """Digest of a bundle's weights, twelve hexadecimal digits; of large files, only evenly spaced parts are read."""
    digest = hashlib.sha256()
    paths = [folder / about["parts"][role] / "model.safetensors" for role in ROLES]
    for path in [*paths, *(path for path in [folder / "exemplars/model.safetensors"] if path.exists())]:
        size = path.stat().st_size
        digest.update(str(size).encode())
        with path.open("rb") as file:
            for start in range(0, size, max(_STRETCH_BYTES, size // _STRETCHES)):
                file.seek(start)
                digest.update(file.read(_STRETCH_BYTES))
    return digest.hexdigest()[:12]


def load_backbone(name: str) -> tuple[nn.Module, Backbone]:
    """An image network prepared for inference, and its preprocessing.

    Raises:
        CheckpointError: if its weights are not installed.
    """
    row = find_backbone(name)
    if name == "efficientnet-lite0":
        module = load_efficientnet_lite0()
    elif is_here(name):
        module = load_checkpoint(models_folder() / name, name)
    else:
        raise CheckpointError(f"the image network {name!r} is not installed; fetch it with: unsilent models fetch {name}.")
    if isinstance(module, BNInception):
        module = _two_streams(module.state_dict())
    module.fuse()
    return module, row


def _two_streams(weights: dict[str, Tensor]) -> TwoStream:
    """The two-stream network of the published features; both streams have the weights of the RGB network."""
    module = TwoStream()
    module.rgb.load_state_dict(weights)
    module.flow.load_state_dict(flow_weights(weights))
    return module.eval().requires_grad_(False)


def save_bundle(folder: Path, preset: str, parts: dict[str, Path], about: dict[str, Any], dtype: torch.dtype = torch.float16) -> None:
    """Copy matching checkpoint folders into one bundle.

    Args:
        folder: folder of the bundle, created if missing.
        preset: name of the model's preset.
        parts: checkpoint folder of each of `ROLES`.
        about: further entries of `bundle.json` (summary, licences).
        dtype: dtype of the weights on disk.

    Raises:
        CheckpointError: if a part cannot be read or the folder cannot be written.
    """
    for role in ROLES:
        described = read_config(parts[role])
        module = load_checkpoint(parts[role], described["kind"])
        config = KINDS[described["kind"]][0](**described["config"])
        save_checkpoint(folder / role, described["kind"], preset, config, module.state_dict(), described["record"], dtype)
    write_about(folder, preset, about)


def write_about(folder: Path, preset: str, about: dict[str, Any]) -> None:
    """Write `bundle.json` into a folder that has a checkpoint for each of `ROLES`. Arguments and errors: see `save_bundle`."""
    text = json.dumps({"preset": preset, "parts": {role: role for role in ROLES}, **about}, indent=2)
    with atomic_write(folder / "bundle.json", CheckpointError) as temporary:
        temporary.write_text(text + "\n")
