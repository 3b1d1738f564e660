"""The checkpoint format of this project: a folder with `config.json` and `model.safetensors`. Nothing is unpickled."""

import hashlib
import json
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

from unsilent.checkpoints.folders import read_config, read_network_config
from unsilent.config import Config
from unsilent.errors import CheckpointError
from unsilent.files import atomic_write
from unsilent.models.backbones.bninception import BNInception
from unsilent.models.backbones.resnet50 import ResNet50
from unsilent.models.codebook import Codebook
from unsilent.models.condition import Sight
from unsilent.models.configs import (
    CodebookConfig,
    MelGANConfig,
    ResidualCodebookConfig,
    ResidualSamplerConfig,
    SamplerConfig,
    SightConfig,
    VocosConfig,
)
from unsilent.models.discriminators import MelGANDiscriminator, MelGANDiscriminatorConfig, PatchDiscriminator, PatchDiscriminatorConfig
from unsilent.models.exemplars import Exemplars, ExemplarsConfig
from unsilent.models.listener import Listener, ListenerConfig
from unsilent.models.melception import Melception, MelceptionConfig
from unsilent.models.melgan import MelGAN
from unsilent.models.perceptual import Perceptual, PerceptualConfig
from unsilent.models.residual_codebook import AnyCodebook, ResidualCodebook
from unsilent.models.residual_sampler import ResidualSampler
from unsilent.models.sampler import Sampler
from unsilent.models.vggishish import VGGishish, VGGishishConfig
from unsilent.models.vocos import Vocos
from unsilent.version import __version__

# configuration and constructor of each kind of network; image networks have no configuration
KINDS: dict[str, tuple[type[Config], Callable[[Any], nn.Module]]] = {
    "codebook": (CodebookConfig, Codebook),
    "residual_codebook": (ResidualCodebookConfig, ResidualCodebook),
    "sampler": (SamplerConfig, Sampler),
    "residual_sampler": (ResidualSamplerConfig, ResidualSampler),
    "sight": (SightConfig, Sight),
    "listener": (ListenerConfig, Listener),
    "exemplars": (ExemplarsConfig, Exemplars),
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
    """Write a checkpoint folder, each file atomically.

    Args:
        folder: created if missing.
        kind: a key of `KINDS`.
        preset: row of `unsilent.presets`; empty for a network that belongs to several presets or to none.
        config: configuration of the network.
        weights: state dict of the network.
        record: provenance as JSON: settings, data, licences, losses.
        dtype: dtype of floating-point weights on disk; `torch.float16` halves the size.

    Raises:
        CheckpointError: if the folder cannot be written, or a weight is not finite in `dtype`.
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
        tensors[name] = value.clone() if value.data_ptr() in seen else value  # safetensors refuses shared memory
        seen.add(value.data_ptr())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "model.safetensors", CheckpointError, durable=True) as temporary:
            save_file(tensors, temporary)
        with atomic_write(folder / "config.json", CheckpointError, durable=True) as temporary:
            temporary.write_text(json.dumps(about, indent=2) + "\n")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot write the checkpoint {folder}: {error}.") from None


def count_parameters(kind: str, config: dict[str, Any]) -> int:
    """Number of learnt parameters of a network, without allocating its weights."""
    build, make = KINDS[kind]
    with torch.device("meta"), _Uninitialised():
        return sum(parameter.numel() for parameter in make(build(**config)).parameters())


def weights_digest(folder: Path) -> str:
    """SHA-256 of a checkpoint folder's weights.

    Raises:
        CheckpointError: if they cannot be read.
    """
    try:
        with (folder / "model.safetensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read the weights in {folder}: {error.strerror}.") from None


def load_checkpoint(
    folder: Path, kind: str, dtype: torch.dtype = torch.float32, finish: Callable[[nn.Module], nn.Module] | None = None
) -> nn.Module:
    """Load the network of a checkpoint folder, in evaluation mode.

    Peak memory is little more than that of the network (measured by benchmarks/loading.py).

    Args:
        folder: checkpoint folder.
        kind: expected kind.
        dtype: dtype of matrices in memory, which are nearly all weights of a transformer; other weights are float32.
        finish: called with each numbered part of the network, such as a transformer block, when its weights are loaded; returns a
            replacement.

    Raises:
        CheckpointError: if files are missing or damaged, the kind differs, or a weight is missing, unexpected, of another shape, NaN or
            infinite.
    """
    path, config = folder / "model.safetensors", network_config(folder, kind)
    try:
        module = blank(KINDS[kind][1], config).eval()
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"{folder / 'config.json'} has sizes that no network can have: {str(error).splitlines()[0]}") from None
    try:
        with safe_open(path, "pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            found = {name: tuple(value.get_shape()) for name, value in slices.items()}
            dtypes = {name: value.get_dtype() for name, value in slices.items()}
        problem = _other_dtype(module.state_dict(), dtypes) or _mismatch(
            {name: tuple(value.shape) for name, value in module.state_dict().items()}, found
        )
        if problem:
            raise CheckpointError(f"{folder} does not match its own config: {problem}.")
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


def load_codebook(folder: Path) -> AnyCodebook:
    """Load a codebook of either kind; errors as in `load_checkpoint`."""
    return load_checkpoint(folder, "residual_codebook" if read_config(folder)["kind"] == "residual_codebook" else "codebook")


def network_config(folder: Path, kind: str) -> Config:
    """Configuration of the network in a checkpoint folder, without its weights; errors as in `read_network_config`."""
    return read_network_config(folder, kind, KINDS[kind][0])


def blank(build: Callable[..., nn.Module], *config: Config) -> nn.Module:
    """A network on the meta device, without weights; load them with `load_state_dict(..., assign=True)`."""
    with torch.device("meta"), _Uninitialised():
        return build(*config)


def _part(name: str) -> str:
    """First numbered part in a weight's name, such as `transformer.blocks.7`; empty without one."""
    found = re.match(r".*?\.\d+(?=\.)", name)
    return found[0] if found else ""


def _read_weights(path: Path, names: Iterable[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies of some weights. The file is mapped for each call, because pages stay in memory until it is unmapped."""
    weights: dict[str, Tensor] = {}
    with safe_open(path, "pt") as file:
        for name in names:
            value = file.get_tensor(name)
            target = value.dtype if not value.is_floating_point() else dtype if value.ndim == 2 else torch.float32
            weights[name] = value.to(target, copy=True)
            del value
    if name := _not_finite(weights):
        raise CheckpointError(f"{path} is damaged: the weight {name} has values that are NaN or infinite.")
    return weights


def _not_finite(weights: dict[str, Tensor]) -> str:
    """The name of the first weight with NaN or infinite elements; empty if there is none.

    Sums are tested first, because this is several times faster, and a finite sum has only finite terms.
    """
    sums = [value.sum(dtype=torch.float32) for value in weights.values() if value.is_floating_point()]
    if not sums or torch.stack(sums).isfinite().all():
        return ""
    return next((name for name, value in weights.items() if not value.isfinite().all()), "")


class _Uninitialised(TorchFunctionMode):
    """Skips `torch.nn.init`, because random numbers on the meta device make torch import its compiler, which takes seconds."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


def _other_dtype(wanted: dict[str, Tensor], found: dict[str, str]) -> str:
    """The first weight that is integer instead of floating point, or the reverse; empty if there is none."""
    for name, value in wanted.items():
        if name in found and value.is_floating_point() != found[name].startswith(("F", "BF")):
            return f"weight {name} has the dtype {found[name]}"
    return ""


def _mismatch(wanted: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> str:
    """The first name or shape that differs; empty if there is none."""
    for name in sorted(wanted.keys() ^ found.keys()):
        return f"weight {name} is {'missing' if name in wanted else 'not expected'}"
    for name, shape in wanted.items():
        if shape != found[name]:
            return f"weight {name} has shape {list(found[name])} instead of {list(shape)}"
    return ""
