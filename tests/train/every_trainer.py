"""Trains every network for a few steps, in one process or, under torchrun, in several: `every_trainer.py SHARDS OUT BATCH`."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from unsilent import presets
from unsilent.clip import Clip
from unsilent.models.configs import CodebookConfig, ConditionConfig, SamplerConfig, TransformerConfig, VocosConfig
from unsilent.models.discriminators import MelGANDiscriminatorConfig
from unsilent.train import classifier, vocoder
from unsilent.train.config import ClassifierRun, CodebookRun, SamplerRun, VocoderRun
from unsilent.train.run import train

CLIP = Clip(frames=64)
PRESET = replace(
    presets.get("everyday"),
    codebook=CodebookConfig(clip=CLIP, n_codes=8, dim=8, channels=8, multipliers=(1, 1, 1, 1, 2), n_blocks=1),
    vocoder=VocosConfig(clip=CLIP, width=16, hidden=32, n_blocks=1),
    sampler=SamplerConfig(
        clip=CLIP,
        codes=8,
        transformer=TransformerConfig(layers=1, heads=2, width=16, dropout=0.0),
        condition=ConditionConfig(kind="features+class", n_features=4, feature_dim=6, n_classes=2),
    ),
)
ADVERSARIAL = {"adversarial_weight": 0.1, "adversarial_start": 1, "discriminator_width": 4}
CODEBOOK = {
    "learning_rate": 0.0046,
    "crop_columns": 2,
    "revive_every": 2,
    "adaptive_weight": (0.0, 10.0),
    "perceptual_weight": 1.0,
    **ADVERSARIAL,
}
CLASSIFIER = {"crop_frames": 32, "valid_every": 3}
RUNS = {
    "codebook": (CodebookRun, CODEBOOK),
    "averaged": (CodebookRun, CODEBOOK | {"codes": "average", "initialise": "k-means"}),
    # at twice this rate gradient descent is chaotic: rounding errors grow 200-fold within four steps
    "vocoder": (VocoderRun, {"learning_rate": 0.01, "crop_frames": 16, **ADVERSARIAL}),
    "sampler": (SamplerRun, {"real_share": 0.0, "cut_share": 0.0, "condition_dropout": 0.3}),
    "vggishish": (ClassifierRun, {"network": "vggishish", "width": 4, "grid": (1, 1), "hidden": 16, **CLASSIFIER}),
    "melception": (ClassifierRun, {"network": "melception", "dropout": 0.0, **CLASSIFIER}),
}


class SmallMelception(torch.nn.Module):
    """A small network with what makes Melception hard to train in several processes: running statistics, dropout, two outputs."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.body = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 8, stride=8), torch.nn.BatchNorm2d(4), torch.nn.Dropout(config.dropout))
        self.fc, self.AuxLogits = torch.nn.Linear(4, config.labels), torch.nn.Linear(4, config.labels)

    def forward(self, mel01):
        return self.forward_with_aux(mel01)[0]

    def forward_with_aux(self, mel01):
        x = self.body(mel01.unsqueeze(1)).relu().mean(dim=(2, 3))
        return self.fc(x), self.AuxLogits(x)


def train_all(shards, out, names=tuple(RUNS), **more):
    """Train the named ones of `RUNS`, each in a folder of its name."""
    before = presets.get, classifier.Melception, vocoder.MelGANDiscriminatorConfig, torch.optim.Adam, torch.optim.AdamW
    presets.get, classifier.Melception = lambda name: PRESET, SmallMelception
    vocoder.MelGANDiscriminatorConfig = partial(MelGANDiscriminatorConfig, strides=2)
    # Adam's first steps are the signs of gradients, also of those that are zero up to rounding; SGD keeps gradients as they are
    torch.optim.Adam = torch.optim.AdamW = lambda weights, lr, **_: torch.optim.SGD(weights, lr)
    try:
        for name in names:
            kind, settings = RUNS[name]
            settings = {"learning_rate": 0.05, "steps": 4, "warmup_steps": 0, "save_every": 2, **settings, **more}
            if kind is CodebookRun:
                settings["perceptual"] = shards / "classifier"
            name_of_kind = kind.model_fields["kind"].annotation.__args__[0]
            train(kind(kind=name_of_kind, preset="everyday", shards=shards, out=out / name, **settings), resume=False)
    finally:
        presets.get, classifier.Melception, vocoder.MelGANDiscriminatorConfig, torch.optim.Adam, torch.optim.AdamW = before


if __name__ == "__main__":
    torch.set_num_threads(1)
    train_all(Path(sys.argv[1]), Path(sys.argv[2]), batch=int(sys.argv[3]))
