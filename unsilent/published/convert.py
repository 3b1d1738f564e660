"""Converts the authors' state dicts to our networks. Every published weight is used, or dropped for a stated reason.

`released_names` in each network's file maps weight names. For each kind of network, this file has the prefixes of names in published files
and the names to drop, and infers sizes from shapes. Unknown or missing weights and wrong shapes are errors that name the weight.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unsilent import presets
from unsilent.checkpoints import catalog
from unsilent.checkpoints.store import KINDS, blank
from unsilent.config import Config
from unsilent.errors import CheckpointError, ParameterError
from unsilent.models import codebook, discriminators, melgan, perceptual, sampler
from unsilent.models.band_statistics import BandStatistics
from unsilent.models.code_order import to_sequence
from unsilent.models.configs import CodebookConfig, ConditionConfig, MelGANConfig, SamplerConfig, TransformerConfig
from unsilent.models.discriminators import MelGANDiscriminatorConfig, PatchDiscriminatorConfig
from unsilent.models.melception import MelceptionConfig
from unsilent.models.perceptual import PerceptualConfig
from unsilent.models.vggishish import VGGishishConfig

Weights = dict[str, Tensor]
_UNREADABLE = (
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    ZeroDivisionError,
)  # raised if a weight that determines a size is missing or has a wrong shape
HEAD_WIDTH = 64  # width of a head in the paper's transformers; shapes do not determine the number of heads


@dataclass(frozen=True)
class Converter:
    """How to convert one kind of published network.

    Attributes:
        mark: a weight name that only this kind has.
        sizes: infers the network's configuration from names and shapes.
        names: maps released weight names to those of our network.
        prefixes: prefixes of its names in the files that contain it.
        dropped: patterns of full names that are not used, each with the reason.
        papers: published configurations, with which a damaged file is compared to name the damaged weight.
        squeeze: whether published shapes may have extra axes of length 1.
    """

    mark: str
    sizes: Callable[[Weights], Config]
    names: Callable[[nn.Module], dict[str, str]] = lambda module: {name: name for name in module.state_dict()}
    prefixes: tuple[str, ...] = ("",)
    dropped: tuple[tuple[str, str], ...] = ()
    papers: tuple[Config, ...] = ()
    squeeze: bool = False


def _count(weights: Weights, pattern: str) -> int:
    """Number of distinct values of the group in `pattern` among the matching names."""
    return len({match.group(1) for match in map(re.compile(pattern).match, weights) if match})


def _sampler_sizes(weights: Weights) -> SamplerConfig:
    codes, width = weights["tok_emb.weight"].shape
    transformer = TransformerConfig(layers=_count(weights, r"blocks\.(\d+)\."), heads=max(1, width // HEAD_WIDTH), width=width)
    bare = SamplerConfig(codes=codes, transformer=transformer, condition=ConditionConfig(kind="coordinates"))
    n_condition = weights["pos_emb"].shape[1] - bare.clip.n_codes
    features = weights.get("feat_embedder.weight", weights.get("embedder.weight"))
    classes = weights.get("cls_embedder.weight")
    if features is None:
        return bare
    if classes is not None:
        fields = {"kind": "features+class", "n_features": n_condition - 1, "feature_dim": features.shape[1], "n_classes": len(classes)}
    elif "embedder.bias" in weights:
        fields = {"kind": "features", "n_features": n_condition, "feature_dim": features.shape[1]}
    else:
        fields = {"kind": "class", "n_classes": len(features)}
    return bare.model_copy(update={"condition": ConditionConfig(**fields)})


def _codebook_sizes(weights: Weights) -> CodebookConfig:
    channels = len(weights["encoder.conv_in.weight"])
    levels = range(_count(weights, r"encoder\.down\.(\d+)\."))
    return CodebookConfig(
        n_codes=len(weights["quantize.embedding.weight"]),
        dim=len(weights["post_quant_conv.weight"]),
        channels=channels,
        multipliers=tuple(len(weights[f"encoder.down.{level}.block.0.conv1.weight"]) // channels for level in levels),
        n_blocks=_count(weights, r"encoder\.down\.0\.block\.(\d+)\."),
    )


def _perceptual_sizes(weights: Weights) -> PerceptualConfig:
    width = len(weights["net.slice1.0.weight"])
    if "scaling_layer.shift" not in weights:
        return PerceptualConfig(width=width)
    shift, scale = (weights[f"scaling_layer.{name}"].flatten().double() for name in ("shift", "scale"))
    if not (shift.isfinite().all() and scale.isfinite().all() and scale.min() > 0):
        raise CheckpointError("scaling_layer.shift and .scale are not statistics: they must be finite, and the scale positive")
    return PerceptualConfig(bands=BandStatistics(mean=tuple(((shift + 1) / 2).tolist()), std=tuple((scale / 2).tolist())), width=width)


def _melgan_sizes(weights: Weights) -> MelGANConfig:
    widest, mels, _ = weights["model.1.weight_v"].shape
    return MelGANConfig(mels=mels, width=widest // 2 ** len(MelGANConfig().ratios))


_LOSSES = (r"loss\..*", "losses of the codebook's training, networks of their own")
_ORDER = (r"first_stage_permuter\.(forward|backward)_shuffle_idx", "the code order, which is built in and was compared")
_MASK = (r"(transformer\.)?blocks\.\d+\.attn\.mask", "the causal mask, which is built in and was compared")
_FIRST_STAGE = (r"first_stage_model\..*", "the codebook, a network of its own")
_TRANSFORMER = (r"transformer\..*|first_stage_permuter\..*", "the sampler published with this codebook")
_CODEBOOK = (r"(encoder|decoder|quantize|quant_conv|post_quant_conv)\..*", "the codebook trained with this network")
_SCALING = (r"(loss\.)?(perceptual_loss\.)?scaling_layer\.(shift|scale)", "band statistics, which are part of the configuration")
_DISCRIMINATOR = (r"(loss\.)?discriminator\..*", "the discriminator, a network of its own")
_DISTANCE = (r"(loss\.)?perceptual_loss\..*", "the perceptual distance, a network of its own")
_IMAGENET = (r"(fc|last_linear)\..*", "the ImageNet classifier, which is not used")

# In the order of `recognise`: a kind whose files contain other kinds precedes them.
CONVERTERS: dict[str, Converter] = {
    "sampler": Converter(
        "tok_emb.weight", _sampler_sizes, sampler.released_names, ("transformer.", ""), (_FIRST_STAGE, _ORDER, _MASK),
        tuple(dict.fromkeys(presets.get(name).sampler for name in presets.names() if name in catalog.names())), squeeze=True,
    ),
    "codebook": Converter(
        "quantize.embedding.weight", _codebook_sizes, codebook.released_names, ("first_stage_model.", ""), (_LOSSES, _TRANSFORMER),
        (CodebookConfig(),)
    ),
    "perceptual": Converter(
        "net.slice1.0.weight", _perceptual_sizes, perceptual.released_names, ("loss.perceptual_loss.", "perceptual_loss.", ""),
        (_SCALING, _CODEBOOK, _DISCRIMINATOR), (PerceptualConfig(),),
    ),
    "discriminator": Converter(
        "main.11.weight", lambda weights: PatchDiscriminatorConfig(width=len(weights["main.0.weight"])),
        prefixes=("loss.discriminator.", "discriminator.", ""), dropped=(_CODEBOOK, _DISTANCE), papers=(PatchDiscriminatorConfig(),),
    ),
    "melgan": Converter("model.1.weight_v", _melgan_sizes, melgan.released_names, papers=(MelGANConfig(),)),
    "melgan_discriminator": Converter(
        "model.disc_0.model.layer_0.1.weight_v", lambda weights: MelGANDiscriminatorConfig(scales=_count(weights, r"model\.disc_(\d+)\.")),
        discriminators.released_names, papers=(MelGANDiscriminatorConfig(),),
    ),
    "vggishish": Converter(
        "features.0.weight", lambda weights: VGGishishConfig(labels=len(weights["classifier.4.weight"])), papers=(VGGishishConfig(),)
    ),
    "melception": Converter(
        "Conv2d_1a_3x3.conv.weight", lambda weights: MelceptionConfig(labels=len(weights["fc.weight"])), papers=(MelceptionConfig(),)
    ),
    "resnet50": Converter("layer1.0.conv1.weight", lambda _: Config(), dropped=(_IMAGENET,)),
    "bninception": Converter("conv1_7x7_s2.weight", lambda _: Config(), dropped=(_IMAGENET,), squeeze=True),
}  # fmt: skip


def convert(kind: str, state_dict: Mapping[str, Any], config: Config | None = None) -> nn.Module:
    """Make a network with the weights of a published state dict, in evaluation mode.

    Args:
        kind: kind of the network to take, a key of `CONVERTERS`.
        state_dict: published state dict with one or several networks (a sampler and its codebook, a codebook and its losses). Tensors are
            used without a copy; NumPy arrays are accepted.
        config: configuration of the network; None infers it from names and shapes.

    Raises:
        ParameterError: for an unknown kind.
        CheckpointError: if a weight is missing, unknown or of another shape, or the code order is not ours; the message names the weight.
    """
    row, state_dict = _find(kind), _plain(state_dict)
    prefix = _prefix(row, state_dict)
    kept = [name for name in state_dict if not why_dropped(kind, name)]
    own = {name.removeprefix(prefix): state_dict[name] for name in kept if name.startswith(prefix)}
    unknown_names = [f"{name[:80]} is not known" for name in kept if not name.startswith(prefix)]
    tried: list[tuple[list[str], nn.Module, Config]] = []
    for size in [config] if config else _likely_configs(row, {name.removeprefix(prefix): value for name, value in state_dict.items()}):
        module = blank(KINDS[kind][1], size)
        tried.append((unknown_names + _problems(row, module, own, prefix), module, size))
        if not tried[-1][0]:
            break
    problems, module, config = min(tried, key=lambda one: len(one[0]))
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        looks = _looks_like(kind, state_dict)
        raise CheckpointError(f"these weights are not a published {kind}: {problems[0]}{more}{looks}.")
    if isinstance(config, SamplerConfig):
        _check_order(state_dict, config)
    released = {ours: theirs for theirs, ours in row.names(module).items()}
    weights = {ours: _reshaped(own, released[ours], value) for ours, value in module.state_dict().items()}
    module.load_state_dict(weights, assign=True)
    return module.eval().requires_grad_(False)


def why_dropped(kind: str, name: str) -> str:
    """Why a network of this kind does not use a published weight; empty if the weight is used or its name is unknown."""
    return next((reason for pattern, reason in _find(kind).dropped if re.fullmatch(pattern, name)), "")


def recognise(state_dict: Mapping[str, Any]) -> str:
    """Kind of a published file; for a file with several networks, the kind that it was published as.

    Raises:
        CheckpointError: if the weights are not of a published kind.
    """
    plain = _plain(state_dict)
    for kind, row in CONVERTERS.items():
        if any(prefix + row.mark in plain for prefix in row.prefixes):
            return kind
    some = ", ".join(repr(name[:80]) for name in list(plain)[:3])
    raise CheckpointError(f"these weights are of no published kind ({', '.join(CONVERTERS)}); their first names are {some}.")


def _find(kind: str) -> Converter:
    if kind not in CONVERTERS:
        raise ParameterError(f"there is no published kind {kind!r}; choose one of {', '.join(CONVERTERS)}.")
    return CONVERTERS[kind]


def _plain(state_dict: Mapping[str, Any]) -> Weights:
    """Names and tensors, without the prefix `module.` of training on several devices."""
    for name, value in state_dict.items():
        if not isinstance(value, Tensor | np.ndarray):
            what = f"{name!r} is a {type(value).__name__} where a weight is expected"
            raise CheckpointError(f"{what}; `containers.read_weights` unwraps files.")
    extra = "module." if all(name.startswith("module.") for name in state_dict) else ""
    return {name.removeprefix(extra): torch.as_tensor(value) for name, value in state_dict.items()}


def _looks_like(kind: str, state_dict: Weights) -> str:
    """Clause of an error that names the kind of the file, if it is another published kind."""
    try:
        other = recognise(state_dict)
    except CheckpointError:
        return ""
    return "" if other == kind else f"; they are those of a {other}"


def _prefix(row: Converter, state_dict: Weights) -> str:
    """Prefix of the network's names: that of the mark, or, if the mark is missing, the first prefix of any name."""
    for prefix in row.prefixes:
        if prefix + row.mark in state_dict:
            return prefix
    return next((prefix for prefix in row.prefixes if any(name.startswith(prefix) for name in state_dict)), "")


def _likely_configs(row: Converter, weights: Weights) -> list[Config]:
    """The configuration inferred from the shapes, and the published ones, which help to name a damaged weight."""
    try:
        return [row.sizes(weights), *row.papers]
    except _UNREADABLE:
        return list(row.papers)


def _problems(row: Converter, module: nn.Module, own: Weights, prefix: str) -> list[str]:
    """Differences between published weights and the network's, with published names."""
    ours = module.state_dict()
    wanted = {theirs: ours[name] for theirs, name in row.names(module).items()}
    missing = [name for name in wanted if name not in own and not _is_count(name)]
    unknown = [name[:80] for name in own if name not in wanted]
    if len(missing) == len(unknown) == 1:
        problems = [f"{prefix}{unknown[0]} is not known and {prefix}{missing[0]} is missing"]
    else:
        problems = [f"{prefix}{name} is not known" for name in unknown] + [f"{prefix}{name} is missing" for name in missing]
    for name in (name for name in wanted if name in own):
        found, expected = list(own[name].shape), list(wanted[name].shape)
        if found != expected and not (row.squeeze and [n for n in found if n != 1] == [n for n in expected if n != 1]):
            problems.append(f"{prefix}{name} has shape {found} instead of {expected}")
        elif wanted[name].is_floating_point() != own[name].is_floating_point() and not _is_count(name):
            problems.append(f"{prefix}{name} has the dtype {str(own[name].dtype).removeprefix('torch.')}")
    return problems


def _is_count(name: str) -> bool:
    """Whether a weight is the batch counter of a norm, which is not used and missing in old files."""
    return name.endswith("num_batches_tracked")


def _reshaped(own: Weights, name: str, wanted: Tensor) -> Tensor:
    if name not in own:
        return torch.zeros(wanted.shape, dtype=wanted.dtype)
    return own[name].reshape(wanted.shape).to(wanted.dtype)


def _check_order(state_dict: Weights, config: SamplerConfig) -> None:
    """Compare the code order and the mask of a published sampler with the built-in ones."""
    ours = to_sequence(torch.arange(config.clip.n_codes).reshape(1, config.clip.rows, config.clip.columns))[0]
    for name, value in state_dict.items():
        if name.endswith("permuter.forward_shuffle_idx"):
            is_order = torch.equal(value.sort().values, ours.sort().values)
            if is_order and not torch.equal(value, ours):
                raise CheckpointError(f"{name} is not the code order column by column, low to high, which is supported.")
        if re.fullmatch(_MASK[0], name):
            mask = value.reshape(value.shape[-2:])
            is_mask = ((mask == 0) | (mask == 1)).all() and mask.any()
            if is_mask and not torch.equal(mask, torch.ones_like(mask).tril()):
                raise CheckpointError(f"{name} attends to later positions; only causal samplers are supported.")
