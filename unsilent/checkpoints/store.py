"""Our own checkpoint format: a folder with `config.json` (what it is) and `model.safetensors` (its weights).

Nothing is ever unpickled here.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from unsilent.config import Config
from unsilent.errors import CheckpointError, ParameterError
from unsilent.models.backbones.bninception import BNInception
from unsilent.models.backbones.resnet50 import ResNet50
from unsilent.models.codebook import Codebook, CodebookConfig
from unsilent.models.discriminators import MelGANDiscriminator, MelGANDiscriminatorConfig, PatchDiscriminator, PatchDiscriminatorConfig
from unsilent.models.melception import Melception, MelceptionConfig
from unsilent.models.melgan import MelGAN, MelGANConfig
from unsilent.models.perceptual import Perceptual, PerceptualConfig
from unsilent.models.sampler import Sampler, SamplerConfig
from unsilent.models.vggishish import VGGishish, VGGishishConfig
from unsilent.models.vocos import Vocos, VocosConfig
from unsilent.version import __version__

# What describes a network, and what builds it from that; picture networks come in one size.
KINDS: dict[str, tuple[type[Config], Callable[[Any], nn.Module]]] = {
    "codebook": (CodebookConfig, Codebook),
    "sampler": (SamplerConfig, Sampler),
    "melgan": (MelGANConfig, MelGAN),
    "vocos": (VocosConfig, Vocos),
    "vggishish": (VGGishishConfig, VGGishish),
    "melception": (MelceptionConfig, Melception),
    "perceptual": (PerceptualConfig, Perceptual),
    "discriminator": (PatchDiscriminatorConfig, PatchDiscriminator),
    "melgan_discriminator": (MelGANDiscriminatorConfig, MelGANDiscriminator),
    "resnet50": (Config, lambda _: ResNet50()),
    "bninception": (Config, lambda _: BNInception()),
}


def save_checkpoint(
    folder: Path,
    kind: str,
    preset: str,
    config: Config,
    weights: dict[str, Tensor],
    record: dict[str, Any],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write a checkpoint folder, each file beside its old version first and renamed when whole.

    Args:
        folder: made if absent.
        kind: a key of `KINDS`.
        preset: row of `unsilent.presets` that it serves; empty for a network that serves several or none.
        config: of the network.
        weights: its state dict.
        record: how it was made: settings, data, licences, losses. Any JSON.
        dtype: of floating-point weights on disk; `torch.float16` halves the size.

    Raises:
        CheckpointError: if the folder cannot be written, or a weight is not finite, or would not be in `dtype`.
    """
    about = {"kind": kind, "preset": preset, "config": config.model_dump(mode="json"), "version": __version__, "record": record}
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in weights.items():
        value = (value.to(dtype) if value.is_floating_point() else value).contiguous()
        if value.is_floating_point() and not value.isfinite().all():
            raise CheckpointError(
                f"the weight {name} of the {kind} is not finite as {str(dtype).removeprefix('torch.')}; nothing was written."
            )
        tensors[name] = value.clone() if value.data_ptr() in seen else value  # the format knows no two names for one place
        seen.add(value.data_ptr())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "model.safetensors.part")
        os.replace(folder / "model.safetensors.part", folder / "model.safetensors")
        (folder / "config.json.part").write_text(json.dumps(about, indent=2) + "\n")
        os.replace(folder / "config.json.part", folder / "config.json")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write the checkpoint {folder}: {error}.") from None


def weights_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint folder's weights.

    Raises:
        CheckpointError: if they are not there.
    """
    try:
        with (folder / "model.safetensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read the weights in {folder}: {error.strerror}.") from None


def load_checkpoint(
    folder: Path, kind: str, dtype: torch.dtype = torch.float32, finish: Callable[[nn.Module], nn.Module] | None = None
) -> nn.Module:
    """Build the network a checkpoint folder describes and fill it, in evaluation mode.

    Memory holds the filled network and little more (measured by benchmarks/loading.py).

    Args:
        folder: as `save_checkpoint` writes it.
        kind: what is expected to be in it.
        dtype: in memory of matrices, which are nearly all of a transformer; all other weights are float32.
        finish: given each numbered part of the network, such as a transformer's block, as soon as it is filled; gives what takes its place.

    Raises:
        CheckpointError: if files are missing or damaged, the kind is another, or a weight is missing, extra, or of another shape.
    """
    module = blank(KINDS[kind][1], network_config(folder, kind)).eval()
    path = folder / "model.safetensors"
    try:
        with safe_open(path, "pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        problem = _mismatch({name: tuple(value.shape) for name, value in module.state_dict().items()}, found)
        if problem:
            raise CheckpointError(f"{folder} does not fit its own config: {problem}.")
        for part, names in groupby(sorted(found, key=lambda name: (_part(name), name)), _part):
            module.load_state_dict(_read_weights(path, names, dtype), strict=False, assign=True)
            module.requires_grad_(False)
            if finish and part:
                module.set_submodule(part, finish(module.get_submodule(part)))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} has no model.safetensors; copy the whole folder.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from None
    return module


def network_config(folder: Path, kind: str) -> Config:
    """What network a checkpoint folder describes; no weights are read.

    Raises:
        CheckpointError: if that is missing or damaged, of another kind, or nothing that can be built.
    """
    about = read_config(folder)
    if about["kind"] != kind:
        raise CheckpointError(f"{folder} holds a {about['kind']}, a {kind} is wanted here.")
    try:
        return KINDS[kind][0](**about["config"])
    except (ParameterError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} describes no {kind} that this version can build: {error}") from None


def blank(build: Callable[..., nn.Module], *config: Config) -> nn.Module:
    """A network without weights, in no time and no memory; fill it by `load_state_dict(..., assign=True)`."""
    with torch.device("meta"), _Uninitialised():
        return build(*config)


def _part(name: str) -> str:
    """The first numbered part of a network that a weight belongs to, such as `transformer.blocks.7`; empty for the rest."""
    found = re.match(r".*?\.\d+(?=\.)", name)
    return found[0] if found else ""


def _read_weights(path: Path, names: Iterable[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of some weights. The file is mapped for them alone: what was read leaves memory with its map."""
    weights: dict[str, Tensor] = {}
    with safe_open(path, "pt") as file:
        for name in names:
            value = file.get_tensor(name)
            kept = value.dtype if not value.is_floating_point() else dtype if value.ndim == 2 else torch.float32
            weights[name] = value.to(kept, copy=True)
            del value
    return weights


class _Uninitialised(TorchFunctionMode):
    """Leaves out all of `torch.nn.init`, whose random numbers without memory would make torch import its compiler, which takes seconds."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _mismatch(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    """The first shape that does not fit, in words; empty if all fit."""
    for name in sorted(wanted.keys() ^ found.keys()):
        return f"weight {name} is {'missing' if name in wanted else 'not expected'}"
    for name, shape in wanted.items():
        if shape != found[name]:
            return f"weight {name} has shape {list(found[name])}, {list(shape)} is wanted"
    return ""


def read_config(folder: Path) -> dict[str, Any]:
    """What a checkpoint folder says of itself.

    Raises:
        CheckpointError: if `config.json` is missing, not JSON, or of an unknown kind.
    """
    about = read_json(folder / "config.json")
    missing = {"kind", "preset", "config", "record"} - about.keys()
    if missing or str(about["kind"]) not in KINDS:
        raise CheckpointError(f"{folder / 'config.json'} is not a checkpoint of this project (kind {about.get('kind')!r}).")
    return about


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: if the file cannot be read or holds anything else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} does not hold a JSON object.")
    return value
