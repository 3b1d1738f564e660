"""Put the three trained parts of `everyday`, and the classifier that judges it, into the bundle that comes with the package.

python runs/everyday/assemble.py work/everyday unsilent/weights/everyday
"""

import sys
from pathlib import Path

import torch

from unsilent.checkpoints.bundle import save_bundle
from unsilent.checkpoints.folders import read_config
from unsilent.checkpoints.store import load_checkpoint, save_checkpoint

SUMMARY = "Small default model, version 3. See MODEL_CARD.md beside this file."
LAST_STAGES = {"codebook": "codebook-gan", "sampler": "sampler", "vocoder": "vocoder-gan"}  # folder of the training that a part is from
LICENCES = {
    "sounds": ["ESC-10 (CC BY 3.0)", "Animal-Sound-Dataset (none stated)", "baby_cry_detection (none stated)", "jt-uiowa foley (MIT)"],
    "pictures": ["Caltech-101 (CC BY 4.0)", "Tiny-ImageNet and ImageNet samples (ImageNet terms, research)"],
    "clips": ["excerpts shown on the pages of published papers (research use)"],
    "backbone": ["EfficientNet-lite0 weights (Apache 2.0), installed as a package of their own"],
}

if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    parts = {role: source / stage / "checkpoint" for role, stage in LAST_STAGES.items()}
    save_bundle(target, "everyday", parts, {"summary": SUMMARY, "licences": LICENCES})
    classifier, about = source / "melception" / "checkpoint", read_config(source / "melception" / "checkpoint")
    judge = load_checkpoint(classifier, about["kind"])
    save_checkpoint(target / "classifier", about["kind"], "everyday", judge.config, judge.state_dict(), about["record"], torch.float16)
    size = sum(path.stat().st_size for path in target.rglob("*.safetensors"))
    sys.stdout.write(f"{target}: {size / 1e6:.1f} MB\n")
