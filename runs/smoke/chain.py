"""Try the whole training chain: made-up clips, every training by its command, a bundle, and sound for a clip.

python runs/smoke/chain.py [--folder work/smoke]

Takes about a minute on two CPU cores. Every training must improve its own loss, a sampler must learn four clips by heart, and the
bundle must generate; what fails is said in one sentence.
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
COMMAND = Path(sys.executable).with_name("unsilent")  # of the same installation
FEWEST_RIGHT = 0.95  # share of codes that the sampler of four clips must get right
EDGE = 5  # logged steps that are compared at either end

# Training → what of its log must fall. Terms that begin late, or pull against each other, need not.
LOSSES = {
    "vggishish": ("cross_entropy",),
    "codebook": ("reconstruction", "perceptual"),
    "sampler": ("next_code",),
    "overfit": ("next_code",),
    "vocoder": ("mel", "log_magnitude"),
    "melception": ("cross_entropy",),
}
# Training → terms that must be in its log, as they show that a discriminator took part.
JUDGED = {"codebook": ("adversarial", "discriminator"), "vocoder": ("adversarial", "feature_matching", "discriminator")}


class Failure(Exception):
    """Something that does not work, in one sentence."""


def unsilent(*arguments: object) -> None:
    """Run one command of the program, quietly unless it fails."""
    said = [str(argument) for argument in arguments]
    began = time.monotonic()
    done = subprocess.run([COMMAND, *said], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        lines = (done.stderr.strip() or "nothing was said").splitlines()
        raise Failure(f"`unsilent {' '.join(said)}` failed with code {done.returncode}: {lines[-1]}")
    tell(f"unsilent {' '.join(said[:2])}", began)


def tell(what: str, began: float) -> None:
    """One line for a part that is done."""
    sys.stdout.write(f"{time.monotonic() - began:6.1f} s  {what}\n")
    sys.stdout.flush()


def train(folder: Path, name: str, *settings: str, shards: str = "shards") -> None:
    """Run one training of this folder by its command, and hold it to its log."""
    paths = (f"shards={folder / shards}", f"out={folder / name}")
    unsilent("train", RUNS / f"{name}.toml", *(part for setting in (*paths, *settings) for part in ("--set", setting)))
    hold_to_log(name, folder / name / "log")


def hold_to_log(name: str, log: Path) -> None:
    """See whether a training improved.

    Raises:
        Failure: if one of its losses is missing or ended no lower than it began.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(log)).Reload()
    logged = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    missing = [tag for tag in (*LOSSES[name], *JUDGED.get(name, ())) if tag not in logged]
    if missing:
        raise Failure(f"the training {name} logged no {', '.join(missing)}, but {', '.join(logged) or 'nothing'}.")
    for tag in LOSSES[name]:
        values = logged[tag]
        n = min(EDGE, len(values) // 3)
        first, last = (sum(part) / max(1, n) for part in (values[:n], values[len(values) - n :]))
        if not last < first:
            raise Failure(f"the training {name} did not improve: the mean {tag} was {first:.4f} at first and {last:.4f} at last.")
        sys.stdout.write(f"          {name}: {tag} {first:.4f} -> {last:.4f}\n")


def take_four(shards: Path, four: Path) -> list[str]:
    """Copy codes, features and motion of one training clip of each kind to shards of their own; returns the names of the clips."""
    from unsilent.data.shards import Shard, write_shard

    features = Shard(shards, "features")
    chosen = {entry.row.label: entry.row.clip_id for entry in features.entries if entry.row.split == "train"}
    names = sorted(chosen.values())
    for name in ("codes", "features", "motion"):
        shard = Shard(shards, name)
        kept = [(shard[i], entry.row) for i, entry in enumerate(shard.entries) if entry.row.clip_id in names]
        write_shard(four, name, kept, shard.extractor)
    return names


def share_right(four: Path, checkpoint: Path) -> float:
    """How many codes of all clips of the shards a sampler names as the likeliest, given the true ones before."""
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
        raise Failure(f"four clips of different kinds have only {len(pairs.codes.unique())} different codes: the codebook has collapsed.")
    return (guessed == pairs.codes).float().mean().item()


def assemble(folder: Path) -> Path:
    """Put codebook, sampler and vocoder into a bundle."""
    from unsilent.checkpoints.bundle import save_bundle
    from unsilent.checkpoints.folders import ROLES

    parts = {role: folder / role / "checkpoint" for role in ROLES}
    save_bundle(folder / "bundle", "smoke", parts, {"summary": "Trained by runs/smoke on made-up clips.", "licences": {}})
    return folder / "bundle"


def hold_to_sound(video: Path, seconds: float) -> None:
    """See whether a video has got a sound.

    Raises:
        Failure: if it has none, or one that is silent, not finite, or of another length.
    """
    import numpy as np

    from unsilent.media.audio import read_audio

    waveform = read_audio(video, 22050)
    found = len(waveform) / 22050
    if abs(found - seconds) > 0.1:
        raise Failure(f"{video.name} has {found:.2f} s of sound, its pictures last {seconds:.2f} s.")
    if not np.isfinite(waveform).all() or np.sqrt(np.mean(waveform**2)) < 1e-3:
        raise Failure(f"the sound of {video.name} is silent or not finite.")


def run_chain(folder: Path) -> None:
    """Everything, in two strands that do not wait for each other where they need not."""
    from clips import SECONDS, write_clips

    began = time.monotonic()
    material, shards, four = folder / "material", folder / "shards", folder / "four"
    video = write_clips(material)
    tell("clips", began)
    unsilent("data", "manifest", material, "-o", folder / "manifest.parquet")
    unsilent("data", "extract", folder / "manifest.parquet", "-o", shards, "--preset", "smoke")

    def overfit() -> None:
        take_four(shards, four)
        train(folder, "overfit", shards="four")
        right = share_right(four, folder / "overfit/checkpoint")
        if right <= FEWEST_RIGHT:
            raise Failure(f"the sampler that learnt four clips by heart gets {right:.1%} of their codes right, not {FEWEST_RIGHT:.0%}.")
        sys.stdout.write(f"          overfit: {right:.1%} of the codes of four clips right\n")

    with ThreadPoolExecutor(2) as strands:
        apart = [strands.submit(lambda: [train(folder, name) for name in ("vocoder", "melception")])]
        train(folder, "vggishish")
        train(folder, "codebook", f"perceptual={folder / 'vggishish/checkpoint'}")
        unsilent("data", "extract", "--codebook", folder / "codebook/checkpoint", "-o", shards)
        apart.append(strands.submit(overfit))
        train(folder, "sampler")
        for strand in apart:
            strand.result()
    unsilent("generate", video, "--model", assemble(folder), "-o", folder / "made.mp4")
    hold_to_sound(folder / "made.mp4", SECONDS)
    tell("the whole chain", began)


def main() -> int:
    """Read the command line; 0 if the chain holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="keep everything here; it must not hold a chain yet [default: a temporary folder]")
    folder = parser.parse_args().folder
    try:
        if folder is None:
            with tempfile.TemporaryDirectory() as temporary:
                run_chain(Path(temporary))
        else:
            run_chain(folder.absolute())
    except Failure as failure:
        sys.stderr.write(f"smoke: {failure}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
