"""Bundles: folders of checkpoints that make one whole model, and the networks loaded from them."""

import hashlib
import json
import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unsilent import labels, presets
from unsilent.checkpoints import catalog
from unsilent.checkpoints.imagenet import load_efficientnet_lite0
from unsilent.checkpoints.store import KINDS, load_checkpoint, network_config, read_config, read_json, save_checkpoint
from unsilent.choices import Precision
from unsilent.errors import CheckpointError
from unsilent.files import cache_folder
from unsilent.models.backbones.bninception import BNInception, TwoStream, flow_weights
from unsilent.models.codebook import Codebook
from unsilent.models.melgan import MelGAN
from unsilent.models.sampler import Sampler, SamplerConfig
from unsilent.models.vocos import Vocos
from unsilent.presets import Preset
from unsilent.request import Defaults
from unsilent.speed.choice import can_pack, convolution_dtype
from unsilent.speed.cpu_convolutions import can_fuse, fuse, prepare_convolutions
from unsilent.speed.prepare import accelerate, prepare_block
from unsilent.vision.features import Backbone, find_backbone

SHIPPED = Path(__file__).parents[1] / "weights"  # bundles that come with the package, one folder each
_STRETCH_BYTES, _STRETCHES = 1 << 20, 32  # what a fingerprint reads of a file: trainings differ everywhere
ROLES = ("codebook", "sampler", "vocoder")


@dataclass(frozen=True)
class Parts:
    """The networks of one model.

    Attributes:
        name: of the preset.
        codebook, sampler, vocoder: filled, in evaluation mode.
        backbone: image network that gives the condition, and `backbone_row` what it expects; None for a model that sees nothing.
        classes: names in the order of the sampler's class numbers; empty for a model without classes.
        top_k, temperature, guidance: how to sample by default; see `sampling.sample_codes`.
        fingerprint: short digest of the weights, which tells two bundles of one preset apart.
    """

    name: str
    codebook: Codebook
    sampler: Sampler
    vocoder: Vocos | MelGAN
    backbone: nn.Module | None
    backbone_row: Backbone | None
    classes: tuple[str, ...]
    top_k: int
    temperature: float
    guidance: float
    fingerprint: str

    @property
    def defaults(self) -> Defaults:
        """What the model brings to a request."""
        return Defaults(self.name, self.codebook.config.n_codes, self.top_k, self.temperature, self.guidance, self.classes)

    def modules(self) -> list[nn.Module]:
        """All networks."""
        return [self.codebook, self.sampler, self.vocoder, *([self.backbone] if self.backbone is not None else [])]


def find_bundle(name: str) -> Path:
    """The folder of a model: a shipped one by name, or any by path.

    Raises:
        CheckpointError: if its weights are not here, or the path is no bundle.
        ParameterError: if there is no model of that name; names near ones.
    """
    for folder in (SHIPPED / name, models_folder() / name, Path(name)):
        if os.path.exists(folder / "bundle.json"):
            return folder
    if name in catalog.names() and name not in presets.names():
        raise CheckpointError(
            f"{name!r} is no whole model, but a part: {catalog.WHAT[catalog.find(name).kind]}; `unsilent models` lists both."
        )
    if os.path.exists(name) or Path(name).name != name:
        raise CheckpointError(f"{name!r} is not a bundle folder: there is no bundle.json in it.")
    presets.get(name)
    if name in catalog.names():
        raise CheckpointError(f"the weights of {name!r} are not here; fetch them with: unsilent models fetch {name}.")
    raise CheckpointError(f"the weights of {name!r} were never published; models with weights here: {', '.join(present()) or 'none'}.")


def models_folder() -> Path:
    """Where fetched and converted models and networks lie, one folder each."""
    return cache_folder() / "models"


def is_here(name: str) -> bool:
    """Whether the weights of a model, or of a network that was published beside them, can be loaded by that name."""
    said = "bundle.json" if name in presets.names() else "config.json"
    return any(os.path.exists(root / name / said) for root in (SHIPPED, models_folder()))  # false too where we may not look


def present() -> list[str]:
    """Names of the models whose weights are here: those that come with the package, and fetched ones."""
    return [name for name in presets.names() if is_here(name)]


def sampler_config(folder: Path) -> SamplerConfig:
    """What a bundle's sampler is, without loading it.

    Raises:
        CheckpointError: if the bundle or its sampler is missing or damaged.
    """
    return network_config(folder / read_bundle(folder)["parts"]["sampler"], "sampler")


def read_defaults(folder: Path) -> Defaults:
    """What a bundle brings to a request, without loading it.

    Raises:
        CheckpointError: if the bundle or its sampler is missing or damaged.
    """
    about = read_bundle(folder)
    preset = presets.get(about["preset"])
    n_codes = sampler_config(folder).codes
    return Defaults(preset.name, n_codes, preset.top_k, preset.temperature, preset.guidance, tuple(about.get("classes", ())))


def load_parts(folder: Path, precision: Precision | None = None, device: torch.device = torch.device("cpu")) -> Parts:
    """Load all networks of a bundle.

    Args:
        folder: of the bundle.
        precision: to make them ready for, one after another and the sampler block by block, so that little is in memory as float32 at a
            time; None leaves them as trained.
        device: that they will be on, which settles how; they are still on the CPU.

    Raises:
        CheckpointError: if the bundle or one of its parts is missing, damaged, or does not fit the others.
    """
    about = read_bundle(folder)
    preset = presets.get(about["preset"])
    codebook, vocoder = load_codec_networks(folder, precision, device)
    sampler = load_sampler(folder / about["parts"]["sampler"], precision, device)
    backbone, backbone_row = load_backbone(preset.backbone) if preset.backbone else (None, None)
    if precision and backbone is not None and can_fuse(device):
        fuse(backbone, convolution_dtype(precision))
    classes = tuple(about.get("classes", ()))
    chosen = (preset.top_k, preset.temperature, preset.guidance)
    parts = Parts(preset.name, codebook, sampler, vocoder, backbone, backbone_row, classes, *chosen, fingerprint(folder, about))
    problem = _misfit(parts)
    if problem:
        raise CheckpointError(f"the parts of {folder} do not fit each other: {problem}.")
    return parts


def load_codec_networks(
    folder: Path, precision: Precision | None = None, device: torch.device = torch.device("cpu")
) -> tuple[Codebook, Vocos | MelGAN]:
    """Load codebook and vocoder of a bundle; arguments and errors as of `load_parts`."""
    parts = read_bundle(folder)["parts"]
    codebook = load_checkpoint(folder / parts["codebook"], "codebook")
    vocoder_folder = folder / parts["vocoder"]
    vocoder = load_checkpoint(vocoder_folder, "vocos" if read_config(vocoder_folder)["kind"] == "vocos" else "melgan")
    if isinstance(vocoder, MelGAN):
        vocoder.remove_weight_norm()
    if precision:
        prepare_convolutions(codebook, precision, device)
        prepare_convolutions(vocoder, precision, device)
    return codebook, vocoder


def load_sampler(folder: Path, precision: Precision | None, device: torch.device) -> Sampler:
    """Load a sampler's checkpoint and make it ready; arguments and errors as of `load_parts`."""
    if precision is None:
        return load_checkpoint(folder, "sampler")
    packs = can_pack(network_config(folder, "sampler"), device)
    # autocast would round the matrices anew at every step
    dtype = torch.bfloat16 if precision == "bfloat16" and not packs else torch.float32
    sampler = load_checkpoint(folder, "sampler", dtype, partial(prepare_block, precision=precision, packs=packs))
    accelerate(sampler, precision, device)
    return sampler


def _misfit(parts: Parts) -> str:
    """The first thing in which parts disagree, in words; empty if they fit."""
    codebook, sampler = parts.codebook.config, parts.sampler.config
    # a sampler of kind `none` has a random vector in the place of what nobody sees
    seen = parts.backbone_row.dim if parts.backbone_row else sampler.condition.feature_dim
    for what, sampler_has, other, other_has in (
        ("codes", sampler.codes, "codebook", codebook.n_codes),
        ("code rows in a clip", sampler.clip.rows, "codebook", codebook.clip.rows),
        ("code columns in a clip", sampler.clip.columns, "codebook", codebook.clip.columns),
        ("samples in a code column", sampler.clip.column_samples, "codebook", codebook.clip.column_samples),
        ("samples in a second", sampler.clip.sample_rate, "codebook", codebook.clip.sample_rate),
        ("numbers in a feature", sampler.condition.feature_dim, "picture network", seen),
        ("classes", sampler.condition.n_classes, "bundle", len(parts.classes)),
    ):
        if sampler_has != other_has:
            return f"the sampler has {sampler_has} {what}, the {other} {other_has}"
    bands, hop = (getattr(parts.vocoder.config, "clip", parts.vocoder.config).mels, parts.vocoder.hop)
    if (bands, hop) != (codebook.clip.mels, codebook.clip.hop):
        return f"the vocoder has {bands} bands and a hop of {hop}, the codebook {codebook.clip.mels} and {codebook.clip.hop}"
    return ""


def fingerprint(folder: Path, about: dict[str, Any]) -> str:
    """Twelve hexadecimal digits that stand for the weights of a bundle, from evenly spaced stretches of large files."""
    digest = hashlib.sha256()
    for role in ROLES:
        path = folder / about["parts"][role] / "model.safetensors"
        size = path.stat().st_size
        digest.update(str(size).encode())
        with path.open("rb") as file:
            for start in range(0, size, max(_STRETCH_BYTES, size // _STRETCHES)):
                file.seek(start)
                digest.update(file.read(_STRETCH_BYTES))
    return digest.hexdigest()[:12]


def load_backbone(name: str) -> tuple[nn.Module, Backbone]:
    """A picture network, ready for inference, and what it expects of its pictures.

    Raises:
        CheckpointError: if its weights are not here.
    """
    row = find_backbone(name)
    if name == "efficientnet-lite0":
        module = load_efficientnet_lite0()
    elif is_here(name):
        module = load_checkpoint(models_folder() / name, name)
    else:
        raise CheckpointError(f"the picture network {name!r} is not here; fetch it with: unsilent models fetch {name}.")
    if isinstance(module, BNInception):
        module = _two_streams(module.state_dict())
    module.fuse()
    return module, row


def _two_streams(pictures: dict[str, Tensor]) -> TwoStream:
    """The published features' networks for pictures and for flow, both from the one that knows pictures."""
    module = TwoStream()
    module.rgb.load_state_dict(pictures)
    module.flow.load_state_dict(flow_weights(pictures))
    return module.eval().requires_grad_(False)


def read_bundle(folder: Path) -> dict[str, Any]:
    """What a bundle folder says of itself: `preset`, `parts` (role to sub-folder), `classes` of a model that has them, and more.

    Raises:
        CheckpointError: if there is no readable bundle, or it does not say what it consists of.
    """
    about = read_json(folder / "bundle.json")
    parts = about.get("parts")
    if about.get("preset") not in presets.all_names() or not isinstance(parts, dict) or parts.keys() != set(ROLES):
        raise CheckpointError(
            f"{folder / 'bundle.json'} is not a bundle of this project: it must name a known preset and {', '.join(ROLES)}."
        )
    return about


def save_bundle(folder: Path, preset: str, parts: dict[str, Path], about: dict[str, Any]) -> None:
    """Copy checkpoint folders into one bundle, weights as float16.

    Args:
        folder: made if absent.
        preset: that they serve.
        parts: each of `ROLES` to a checkpoint folder.
        about: more to say in `bundle.json` (summary, licences).

    Raises:
        CheckpointError: if a part cannot be read or the folder cannot be written.
    """
    for role in ROLES:
        described = read_config(parts[role])
        module = load_checkpoint(parts[role], described["kind"])
        config = KINDS[described["kind"]][0](**described["config"])
        save_checkpoint(folder / role, described["kind"], preset, config, module.state_dict(), described["record"], torch.float16)
    write_about(folder, preset, about)


def class_names(row: Preset) -> tuple[str, ...]:
    """Names of the classes that a model of the paper's knows, in the order of their numbers; none for one without."""
    return labels.classes(row.name.split("-")[0]) if row.sampler.condition.n_classes else ()


def write_about(folder: Path, preset: str, about: dict[str, Any]) -> None:
    """Say what a folder with a checkpoint for each of `ROLES` is, which makes it a bundle; arguments and errors as of `save_bundle`."""
    text = json.dumps({"preset": preset, "parts": {role: role for role in ROLES}, **about}, indent=2)
    try:
        (folder / "bundle.json.part").write_text(text + "\n")
        os.replace(folder / "bundle.json.part", folder / "bundle.json")
    except OSError as error:
        raise CheckpointError(f"cannot write the bundle {folder}: {error.strerror}.") from None
