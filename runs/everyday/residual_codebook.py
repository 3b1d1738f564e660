"""Fit the residual codebook of `everyday`: PCA of columns, and residual codes from k-means, in the metric of a listener.

    python runs/everyday/residual_codebook.py work/shards work/everyday/listener/checkpoint work/everyday/codebook

The shards must have `waveforms` from `unsilent data extract`. The output is a folder with `checkpoint/`, for `unsilent reconstruct
--model`. Takes seven minutes on one core. The codes are fitted twice: the listener also hears sounds with the errors of the first (LOG.md).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unsilent.checkpoints.store import load_checkpoint, save_checkpoint, weights_digest
from unsilent.data.augmentation import Augmentation
from unsilent.data.datasets import open_crops
from unsilent.models.configs import ResidualCodebookConfig
from unsilent.models.residual_codebook import ResidualCodebook
from unsilent.signal.mel import from_mel01, log_mel01
from unsilent.train.residual_codes import columns_of, fit, sensitivity

BATCH = 64
CROP_COLUMNS = 12
HEARD_BATCHES, HEARD_BATCH = 40, 32


def main() -> None:
    """Fit and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("listener", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=110_000, help="number of columns for the fit")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    config = ResidualCodebookConfig()
    augmentation = Augmentation(gain_db=(-6.0, 4.0), speed=(0.85, 1.18), mix_share=0.15)
    crops = open_crops(options.shards, "train", CROP_COLUMNS * config.clip.column_samples, augmentation)

    def mels(batch: int, size: int) -> Float[Tensor, "batch mels frames"]:
        rngs = [np.random.default_rng((options.seed, 0, batch, item)) for item in range(size)]
        return from_mel01(log_mel01(crops.batch(rngs).sound, config.clip))

    codebook, n_batches = ResidualCodebook(config), -(-options.columns // (BATCH * CROP_COLUMNS))
    columns = torch.cat([columns_of(mels(batch, BATCH), config) for batch in range(n_batches)])
    for level, _ in enumerate(fit(codebook, columns), start=1):
        sys.stdout.write(f"first fit, level {level} of {config.levels}\n")
    listener = load_checkpoint(options.listener, "listener")
    heard = sensitivity(listener, codebook, (mels(n_batches + number, HEARD_BATCH) for number in range(HEARD_BATCHES)))
    left = 1.0
    for level, left in enumerate(fit(codebook, columns, heard), start=1):
        sys.stdout.write(f"level {level}: {left:.4f} of the variance remain\n")
    record = {"columns": options.columns, "seed": options.seed, "variance_left": left, "shards": crops.shard.digest}
    record["listener"] = weights_digest(options.listener)
    save_checkpoint(options.out / "checkpoint", "residual_codebook", "everyday", config, codebook.state_dict(), record, torch.float16)


if __name__ == "__main__":
    main()
