"""Fit the residual codebook of `everyday`: PCA of columns, and residual codes from k-means.

    python runs/everyday/residual_codebook.py work/shards work/everyday/codebook

The shards must have `waveforms` from `unsilent data extract`. The output is a folder with `checkpoint/`, for `unsilent reconstruct
--model`. Takes three minutes on one core. Nothing is trained with gradients (LOG.md).
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unsilent.checkpoints.store import save_checkpoint
from unsilent.data.augmentation import Augmentation
from unsilent.data.datasets import open_crops
from unsilent.models.configs import ResidualCodebookConfig
from unsilent.models.residual_codebook import ResidualCodebook
from unsilent.signal.mel import from_mel01, log_mel01
from unsilent.train.residual_codes import columns_of, fit

BATCH = 64
CROP_COLUMNS = 12


def main() -> None:
    """Fit and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=110_000, help="number of columns for the fit")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    config = ResidualCodebookConfig()
    augmentation = Augmentation(gain_db=(-6.0, 4.0), speed=(0.85, 1.18), mix_share=0.15)
    crops = open_crops(options.shards, "train", CROP_COLUMNS * config.clip.column_samples, augmentation)

    def columns(batch: int) -> Float[Tensor, "n features"]:
        rngs = [np.random.default_rng((options.seed, 0, batch, item)) for item in range(BATCH)]
        return columns_of(from_mel01(log_mel01(crops.batch(rngs).sound, config.clip)), config)

    codebook, n_batches = ResidualCodebook(config), -(-options.columns // (BATCH * CROP_COLUMNS))
    left = 1.0
    for level, left in enumerate(fit(codebook, torch.cat([columns(batch) for batch in range(n_batches)])), start=1):
        sys.stdout.write(f"level {level}: {left:.4f} of the variance remain\n")
    record = {"columns": options.columns, "seed": options.seed, "variance_left": left, "shards": crops.shard.digest}
    save_checkpoint(options.out / "checkpoint", "residual_codebook", "everyday", config, codebook.state_dict(), record, torch.float16)


if __name__ == "__main__":
    main()
