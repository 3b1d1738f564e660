"""`unsilent data`: turn a folder of sounds, images and videos into training shards."""

import logging
from pathlib import Path

import typer

from unsilent.choices import FeatureDtype, Loudness, SoundShard
from unsilent.cli.terminal import say

app = typer.Typer(help="Prepare training data.")

LISTS = typer.Option([], "--list", metavar="SPLIT=FILE", help="File with the clip names of a split, one per line; may be repeated.")
WORKERS = typer.Option(None, "--workers", min=1, metavar="N", help="Number of worker processes, or of actors with --ray.")
RAY = typer.Option(None, "--ray", metavar="ADDRESS", help="Run on a Ray cluster: HOST:PORT, auto, or local to start one.")


@app.command()
def manifest(
    folder: Path = typer.Argument(
        ..., help="Folder with one subfolder per class, vggsound.csv, or any of sounds.csv, images.csv, clips.csv.", show_default=False
    ),
    out: Path = typer.Option(..., "-o", "--out", metavar="M.parquet", show_default=False),
    preset: str = typer.Option("everyday", help="Preset whose clip length is used to cut videos."),
    lists: list[str] = LISTS,
    valid: float = typer.Option(0.125, min=0, max=1, help="Fraction of the sources without a split that go to validation."),
    test: float = typer.Option(0.0, min=0, max=1, help="Fraction of the sources without a split that go to the test split."),
    keep_silent: bool = typer.Option(False, "--keep-silent", help="Keep silent clips, as the paper does."),
    workers: int | None = WORKERS,
    ray: str | None = RAY,
) -> int:
    """Write a manifest: a table of the sounds, images and videos in a folder.

    Files that are unreadable, silent or duplicate are left out and listed. Long videos are cut into clips. All clips of a source are in one
    split.
    """
    from unsilent.data.checks import summarise
    from unsilent.jobs.manifest import make_manifest
    from unsilent.jobs.parallel import Parallel

    shares, parallel = {"valid": valid, "test": test}, Parallel(workers, ray)
    rows, left_out = make_manifest(folder, out, preset, _split_lists(lists), shares, keep_silent, parallel)
    for name, why in left_out:
        say(f"left out {name}: {why}")
    typer.echo(f"{summarise(rows, left_out)}\n{out}: {len(rows)} rows")
    return 3 if left_out else 0


def _split_lists(lists: list[str]) -> dict[str, Path]:
    from unsilent.errors import ParameterError

    splits = {}
    for one in lists:
        name, _, path = one.partition("=")
        if not path:
            raise ParameterError(f"--list is {one!r}, but must be SPLIT=FILE.")
        splits[name] = Path(path)
    return splits


@app.command()
def extract(
    table: Path | None = typer.Argument(None, metavar="[M.parquet]", help="Manifest; not with --codebook.", show_default=False),
    out: Path = typer.Option(..., "-o", "--out", metavar="SHARDS", show_default=False),
    codebook: str | None = typer.Option(
        None, metavar="PATH|MODEL", help="Codebook to encode the sounds in SHARDS with: a checkpoint folder, or a model that contains one."
    ),
    preset: str | None = typer.Option(None, help="Preset that sets clip and image network; not with --codebook. [default: everyday]"),
    sound: SoundShard | None = typer.Option(
        None, help="How to store sounds. Mels take a sixth of the space but cannot train vocoders. [default: waveforms]"
    ),
    loudness: Loudness | None = typer.Option(
        None, help="Normalise sounds to -23 LUFS, or keep the recorded level and silent sounds, as the paper does. [default: normalise]"
    ),
    features: FeatureDtype | None = typer.Option(None, help="Dtype of the stored features; uint8 takes half the space. [default: float16]"),
    variants: int | None = typer.Option(
        None, min=1, help="Encodings per waveform: the first is unchanged, the others vary gain, speed or start. [default: 2]"
    ),
    seed: int = typer.Option(0, min=0, help="Random seed of image crops and variants."),
    workers: int | None = WORKERS,
    ray: str | None = RAY,
    redo: bool = typer.Option(False, "--redo", help="Replace shards of a different manifest or different settings."),
) -> int:
    """Extract waveforms, visual features and motion for the rows of a manifest. With --codebook, encode the sounds in SHARDS.

    An interrupted extraction resumes, and finished shards are kept. Files that cannot be read are left out and listed.
    """
    from unsilent import presets
    from unsilent.checkpoints.folders import find_part
    from unsilent.files import require_path

    if codebook in presets.names():
        find_part("codebook", codebook)  # raises if its weights are not installed
    elif given := codebook or table:
        require_path(Path(given))
    from unsilent.jobs.extract import extract_shards
    from unsilent.jobs.parallel import Parallel

    logging.getLogger("unsilent").setLevel(logging.INFO)
    shards = extract_shards(
        table,
        out,
        Path(codebook) if codebook else None,
        preset_name=preset,
        sound=sound,
        loudness=loudness,
        dtype=features,
        variants=variants,
        seed=seed,
        parallel=Parallel(workers, ray),
        redo=redo,
    )
    for shard in shards:
        for clip_id, why in shard.left_out:
            say(f"{shard.name}: left out {clip_id}: {why}")
    typer.echo(f"{out}: " + ", ".join(f"{len(shard)} {shard.name}" for shard in shards))
    return 3 if any(shard.left_out for shard in shards) else 0


@app.command("import")
def import_released(
    folder: Path = typer.Argument(
        ..., help="Unpacked features of VAS or VGGSound, as published by the paper's authors.", show_default=False
    ),
    out: Path = typer.Option(..., "-o", "--out", metavar="SHARDS", show_default=False),
    backbone: str = typer.Option("resnet50", help="Image network of the features: resnet50 or bninception."),
    lists: list[str] = LISTS,
    labels: Path | None = typer.Option(None, metavar="vggsound.csv", help="Table of VGGSound, for the labels of the clips."),
) -> None:
    """Convert the published feature files to shards, without executing pickles."""
    from unsilent.clip import Clip
    from unsilent.data.released import ReleasedFolder, write_shards

    counts = write_shards(ReleasedFolder(folder, _split_lists(lists), labels), out, backbone, Clip())
    typer.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
