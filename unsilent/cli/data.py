"""`unsilent data`: from a folder of material to shards that trainers read."""

import logging
from pathlib import Path

import typer

from unsilent.choices import FeatureDtype, SoundShard
from unsilent.cli.terminal import say

app = typer.Typer(help="Prepare training material.")

LISTS = typer.Option([], "--list", metavar="SPLIT=FILE", help="Names of a split's clips, one a line; may be repeated.")
WORKERS = typer.Option(None, "--workers", min=1, metavar="N", help="Spread the work over N processes, or actors of --ray.")
RAY = typer.Option(None, "--ray", metavar="ADDRESS", help="Spread it over a Ray cluster: HOST:PORT, auto, or local to start one here.")


@app.command()
def manifest(
    folder: Path = typer.Argument(
        ..., help="Holds folders named after classes, vggsound.csv, or any of sounds.csv, images.csv, clips.csv.", show_default=False
    ),
    out: Path = typer.Option(..., "-o", "--out", metavar="M.parquet", show_default=False),
    preset: str = typer.Option("everyday", help="To whose clip videos are cut."),
    lists: list[str] = LISTS,
    valid: float = typer.Option(0.125, min=0, max=1, help="Share of sources for validation, where nothing else tells."),
    test: float = typer.Option(0.0, min=0, max=1, help="Share of sources for tests, where nothing else tells."),
    workers: int | None = WORKERS,
    ray: str | None = RAY,
) -> int:
    """List the material of a folder in one table: what can be read and heard, cut into clips, every source in one split."""
    from unsilent.data.checks import summarise
    from unsilent.jobs.manifest import make_manifest
    from unsilent.jobs.parallel import Parallel

    rows, left_out = make_manifest(folder, out, preset, _split_lists(lists), {"valid": valid, "test": test}, Parallel(workers, ray))
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
            raise ParameterError(f"--list wants SPLIT=FILE, found {one!r}.")
        splits[name] = Path(path)
    return splits


@app.command()
def extract(
    table: Path | None = typer.Argument(None, metavar="[M.parquet]", help="The material; not with --codebook.", show_default=False),
    out: Path = typer.Option(..., "-o", "--out", metavar="SHARDS", show_default=False),
    codebook: Path | None = typer.Option(None, help="Checkpoint folder; writes the codes of the sounds that are in SHARDS already."),
    preset: str | None = typer.Option(None, help="Whose clip and backbone to extract for; not with --codebook. [default: everyday]"),
    sound: SoundShard | None = typer.Option(
        None, help="What to keep; mels take a sixth of the space, but no vocoder learns from them. [default: waveforms]"
    ),
    features: FeatureDtype | None = typer.Option(None, help="How to keep them; uint8 is half as large. [default: float16]"),
    variants: int | None = typer.Option(
        None, min=1, help="Encodings of each waveform: as it is, then louder or softer, faster or slower. [default: 2]"
    ),
    seed: int = typer.Option(0, min=0, help="For the random views and variants."),
    workers: int | None = WORKERS,
    ray: str | None = RAY,
    redo: bool = typer.Option(False, "--redo", help="Replace shards that were made of other material or otherwise."),
) -> int:
    """Turn listed material into waveforms and visual features, or, with --codebook, the sounds in SHARDS into codes.

    What was stopped goes on where it was; what is there already is kept. What cannot be read is left out and named.
    """
    from unsilent.files import require_path

    if table and not codebook:
        require_path(table)
    from unsilent.jobs.extract import extract_shards
    from unsilent.jobs.parallel import Parallel

    logging.getLogger("unsilent").setLevel(logging.INFO)
    shards = extract_shards(
        table,
        out,
        codebook,
        preset_name=preset,
        sound=sound,
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
        ..., help="Unpacked features of VAS or VGGSound, as the paper's authors published them.", show_default=False
    ),
    out: Path = typer.Option(..., "-o", "--out", metavar="SHARDS", show_default=False),
    backbone: str = typer.Option("resnet50", help="resnet50 or bninception."),
    lists: list[str] = LISTS,
) -> None:
    """Turn the authors' own feature files into shards, without executing what they hold."""
    from unsilent.clip import Clip
    from unsilent.data.released import ReleasedFolder, write_shards

    counts = write_shards(ReleasedFolder(folder, _split_lists(lists)), out, backbone, Clip())
    typer.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
