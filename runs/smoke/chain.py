"""Test of the whole training chain: synthetic clips, every training by its command, a bundle, and sound for a clip.

python runs/smoke/chain.py [--folder work/smoke]

Takes about a minute on two CPU cores. Every training must lower its loss, a sampler must overfit four clips, and three models must
generate sound: of frames and motion, of a class, of frames and a class. A failure is reported in one sentence.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

RUNS = Path(__file__).parent
COMMAND = Path(sys.executable).with_name("unsilent")  # from the same installation
MIN_ACCURACY = 0.95  # next-code accuracy of the sampler that overfits four clips
EDGE = 5  # logged steps at the start and at the end whose means are compared

# Losses that must fall, by training. Losses that start late or are adversarial need not.
LOSSES = {
    "vggishish": ("cross_entropy",),
    "codebook": ("reconstruction", "perceptual"),
    "sampler": ("next_code",),
    "overfit": ("next_code",),
    "vocoder": ("mel", "log_magnitude"),
    "melception": ("cross_entropy",),
}
# Losses that must be logged, by training; they show that the discriminator was trained.
ADVERSARIAL = {"codebook": ("adversarial", "discriminator"), "vocoder": ("adversarial", "feature_matching", "discriminator")}


class ChainError(Exception):
    """A failure of the chain, in one sentence."""


def unsilent(*arguments: object) -> None:
    """Run one command of unsilent; its output is shown only if it fails."""
    words = [str(argument) for argument in arguments]
    began = time.monotonic()
    done = subprocess.run([COMMAND, *words], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        lines = (done.stderr.strip() or "no message").splitlines()
        raise ChainError(f"`unsilent {' '.join(words)}` failed with code {done.returncode}: {lines[-1]}")
    report(f"unsilent {' '.join(words[:2])}", began)


def report(what: str, began: float) -> None:
    """Print the seconds of a finished part."""
    sys.stdout.write(f"{time.monotonic() - began:6.1f} s  {what}\n")
    sys.stdout.flush()


def train(folder: Path, name: str, *settings: str, shards: str = "shards") -> None:
    """Run one training of this folder with the command, and check its log."""
    paths = (f"shards={folder / shards}", f"out={folder / name}")
    unsilent("train", RUNS / f"{name}.toml", *(part for setting in (*paths, *settings) for part in ("--set", setting)))
    check_log(name, folder / name / "log")


def check_log(name: str, log: Path) -> None:
    """Check that the losses of a training fell.

    Raises:
        ChainError: if a loss is missing or did not fall.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(log)).Reload()
    logged = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    missing = [tag for tag in (*LOSSES[name], *ADVERSARIAL.get(name, ())) if tag not in logged]
    if missing:
        raise ChainError(f"the training {name} logged no {', '.join(missing)}, but {', '.join(logged) or 'nothing'}.")
    for tag in LOSSES[name]:
        values = logged[tag]
        n = min(EDGE, len(values) // 3)
        first, last = (sum(part) / max(1, n) for part in (values[:n], values[len(values) - n :]))
        if not last < first:
            raise ChainError(f"the training {name} did not improve: the mean {tag} was {first:.4f} at first and {last:.4f} at last.")
        sys.stdout.write(f"          {name}: {tag} {first:.4f} -> {last:.4f}\n")


def take_four(shards: Path, four: Path) -> list[str]:
    """Copy codes, features and motion of one training clip per label to new shards. Returns the ids of the clips."""
    from unsilent.data.shards import Shard, write_shard

    features = Shard(shards, "features")
    chosen = {entry.row.label: entry.row.clip_id for entry in features.entries if entry.row.split == "train"}
    names = sorted(chosen.values())
    for name in ("codes", "features", "motion"):
        shard = Shard(shards, name)
        kept = [(shard[i], entry.row) for i, entry in enumerate(shard.entries) if entry.row.clip_id in names]
        write_shard(four, name, kept, shard.extractor)
    return names


def accuracy(four: Path, checkpoint: Path) -> float:
    """Return a sampler's next-code accuracy on the shards, given the true previous codes."""
    import torch

    from unsilent.checkpoints.store import load_checkpoint
    from unsilent.data.datasets import generators
    from unsilent.data.pairs import PairedCodes
    from unsilent.models.condition import pick_rows

    sampler = load_checkpoint(checkpoint, "sampler")
    pairs = PairedCodes(four, "train", sampler.config.clip, real_share=1.0, motion=True).batch(generators(0, 0, range(64)))
    features = pairs.features[:, pick_rows(sampler.config.condition.n_features, pairs.features.shape[1])]
    with torch.inference_mode():
        guessed = sampler(pairs.codes, features, motion=pairs.motion).argmax(-1)
    if len(pairs.codes.unique()) < 8:
        raise ChainError(
            f"four clips of different kinds have only {len(pairs.codes.unique())} different codes: the codebook has collapsed."
        )
    return (guessed == pairs.codes).float().mean().item()


def check_sound(video: Path, seconds: float) -> None:
    """Check the sound of a video.

    Raises:
        ChainError: if it is missing, silent, not finite, or of another length.
    """
    import numpy as np

    from unsilent.media.audio import read_audio

    waveform = read_audio(video, 22050)
    found = len(waveform) / 22050
    if abs(found - seconds) > 0.1:
        raise ChainError(f"{video.name} has {found:.2f} s of sound, but {seconds:.2f} s of video.")
    if not np.isfinite(waveform).all() or np.sqrt(np.mean(waveform**2)) < 1e-3:
        raise ChainError(f"the sound of {video.name} is silent or not finite.")


def assemble_and_generate(folder: Path, sampler: str, video: Path, seconds: float, *asked: object) -> None:
    """Assemble a model from the codebook, the vocoder and a sampler, generate a sound with it and check the sound."""
    parts = {"codebook": "codebook", "sampler": sampler, "vocoder": "vocoder"}
    words = [word for role, name in parts.items() for word in (f"--{role}", folder / name / "checkpoint")]
    model, made = folder / f"model-{sampler}", folder / f"made-{sampler}.mp4"
    unsilent("models", "assemble", "-o", model, *words)
    unsilent("generate", video, "--model", model, "-o", made, *asked)
    check_sound(made, seconds)


def run_chain(folder: Path) -> None:
    """Run the whole chain, with independent trainings in two threads."""
    from clips import SECONDS, write_clips

    began = time.monotonic()
    material, shards, four = folder / "material", folder / "shards", folder / "four"
    video = write_clips(material)
    report("clips", began)
    unsilent("data", "manifest", material, "-o", folder / "manifest.parquet")
    unsilent("data", "extract", folder / "manifest.parquet", "-o", shards, "--preset", "smoke")

    def overfit() -> None:
        take_four(shards, four)
        train(folder, "overfit", shards="four")
        right = accuracy(four, folder / "overfit/checkpoint")
        if right <= MIN_ACCURACY:
            raise ChainError(f"the sampler that overfits four clips has an accuracy of {right:.1%}, but {MIN_ACCURACY:.0%} is required.")
        sys.stdout.write(f"          overfit: {right:.1%} of the codes of four clips right\n")

    with ThreadPoolExecutor(2) as pool:
        background = [pool.submit(lambda: [train(folder, name) for name in ("vocoder", "melception")])]
        train(folder, "vggishish")
        train(folder, "codebook", f"perceptual={folder / 'vggishish/checkpoint'}")
        unsilent("data", "extract", "--codebook", folder / "codebook/checkpoint", "-o", shards)
        background.append(pool.submit(overfit))
        train(folder, "sampler")
        for future in background:
            future.result()
    assemble_and_generate(folder, "sampler", video, SECONDS)
    for kind in ("class", "features+class"):
        settings = (
            f"condition={kind}",
            "steps=30",
            "cut_share=0",
            "motion_dropout=0",
            "real_share=1.0",
            f"shards={shards}",
            f"out={folder / kind}",
        )
        unsilent("train", RUNS / "sampler.toml", *(part for setting in settings for part in ("--set", setting)))
        assemble_and_generate(folder, kind, video, SECONDS, "--label", "chirp")
    report("the whole chain", began)


def main() -> int:
    """Parse the command line and run the chain. Returns 0 if it passes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="new folder for all files [default: a temporary folder]")
    folder = parser.parse_args().folder
    try:
        if folder is None:
            with tempfile.TemporaryDirectory() as temporary:
                run_chain(Path(temporary))
        else:
            run_chain(folder.absolute())
    except ChainError as error:
        sys.stderr.write(f"smoke: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
