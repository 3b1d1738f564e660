"""Write held-out sounds and their reconstructions from codes, for comparison by an independent classifier.

    python benchmarks/remade.py work/shards OUT --sounds 300 --codebook work/everyday/residual-codebook/checkpoint

OUT gets folders of WAV files with the same names: `original`, `vocoder` (from the original mel), `levels-N` (from N levels of codes) and
`linear-N`, a linear baseline with as many codes: PCA of whole mel columns to 256 dimensions and residual k-means, fitted here to the
training sounds. Without `--codebook`, the codebook of `everyday` is used. Fitting takes ten minutes on one core.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch

from unsilent.codec.codec import Codec
from unsilent.data.datasets import generators, open_crops
from unsilent.data.shards import Shard
from unsilent.models.configs import ResidualCodebookConfig
from unsilent.models.residual_codebook import ResidualCodebook
from unsilent.signal.mel import from_mel01, log_mel01
from unsilent.train.residual_codes import columns_of, fit

LEVELS = (5, 12, 16)
LONGEST = 10.0  # maximum seconds of each sound


def main() -> None:
    """Write all folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--codebook", default="everyday", help="model, or checkpoint folder of a codebook")
    parser.add_argument("--sounds", type=int, default=300, help="held-out recordings; clips are always written")
    parser.add_argument("--no-linear", action="store_true", help="leave out the linear baseline")
    options = parser.parse_args()
    codec = Codec.load(options.codebook, precision="float32")
    linear = None if options.no_linear else linear_codebook(options.shards, codec)
    shard = Shard(options.shards, "waveforms")
    rows = [(number, entry.row) for number, entry in enumerate(shard.entries) if entry.row.split == "valid"]
    sounds = [item for item in rows if item[1].kind == "sound"]
    chosen = np.random.default_rng(0).permutation(len(sounds))[: options.sounds]
    rate = codec.clip.sample_rate
    for number, row in [item for item in rows if item[1].kind == "clip"] + [sounds[i] for i in sorted(chosen)]:
        waveform = shard[number][: round(LONGEST * rate)].astype(np.float32) / 32768
        for folder, sound in versions(waveform, codec, linear).items():
            path = options.out / folder / f"{row.clip_id.replace('/', '-')}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, np.clip(sound, -1, 1), rate)
        sys.stdout.write(f"{row.clip_id}\n")


@torch.inference_mode()
def versions(waveform: np.ndarray, codec: Codec, linear: ResidualCodebook | None) -> dict[str, np.ndarray]:
    """Return the sound and its reconstructions by folder name."""
    clip, length = codec.clip, len(waveform)
    padded = np.pad(waveform, (0, clip.columns_for(length) * clip.column_samples - length))
    mel = from_mel01(log_mel01(torch.from_numpy(padded)[None], clip))
    grid = codec.encode(waveform)
    mels = {"vocoder": mel[0], **{f"levels-{n}": codec.decode(grid[:n]) for n in LEVELS}}
    if linear is not None:
        for n in LEVELS:
            mels[f"linear-{n}"] = linear.decoder.parts(linear.quantize.lookup(linear.encode(mel, n)))[0][0]
    return {"original": waveform, **{name: codec.vocode(one).numpy()[:length] for name, one in mels.items()}}


def linear_codebook(shards: Path, codec: Codec) -> ResidualCodebook:
    """Fit the linear baseline: PCA of whole columns and residual k-means. Its decoder is the inverse PCA, without texture."""
    clip = codec.clip
    config = ResidualCodebookConfig(clip=clip, levels=max(LEVELS), dim=256, groups=0, textures=0, patch=1)
    crops = open_crops(shards, "train", 12 * clip.column_samples)
    batches = (crops.batch(generators(0, number, range(64))).sound for number in range(100))
    linear = ResidualCodebook(config).eval()
    columns = torch.cat([columns_of(from_mel01(log_mel01(sound, clip)), config) for sound in batches])
    for level, left in enumerate(fit(linear, columns)):
        sys.stdout.write(f"linear, level {level + 1}: {left:.4f} of the variance remain\n")
    return linear


if __name__ == "__main__":
    main()
