"""`unsilent sample`: sounds of a model for all clips and pictures of a manifest, to be listened to or evaluated."""

from enum import StrEnum
from pathlib import Path

import typer

from unsilent.cli.data import RAY, WORKERS
from unsilent.cli.generate import Precision
from unsilent.cli.terminal import Bar, say


class Keep(StrEnum):
    """What of a sample is written."""

    mel = "mel"
    wav = "wav"


def sample(
    table: Path = typer.Argument(..., metavar="M.parquet", help="From `unsilent data manifest`.", show_default=False),
    out: Path = typer.Option(..., "-o", "--out", metavar="DIR", help="DIR/CLIP/NUMBER for each sample.", show_default=False),
    model: str = typer.Option("everyday", help="A name from `unsilent models`, or a bundle folder."),
    samples: int = typer.Option(10, min=1, metavar="N", help="Different sounds for each clip or picture."),
    split: str = typer.Option("valid", help="Of the manifest, or `all`."),
    seed: int = typer.Option(0, min=0, help="Same seed, clip, model and kind of machine: same sounds."),
    top_k: int | None = typer.Option(None, min=1, help="Choose among the k likeliest codes. [default: the model's own]"),
    temperature: float | None = typer.Option(
        None, min=0.0, help="Above 1 more surprising, below 1 more repetitive, 0 the likeliest. [default: the model's own]"
    ),
    guidance: float | None = typer.Option(
        None, min=0.0, help="Above 1 follows what is seen more closely, with less variety. [default: the model's own]"
    ),
    motion: bool = typer.Option(True, "--motion/--no-motion", help="Whether sounds begin when something moves, for models that can."),
    precision: Precision = typer.Option(Precision.auto, help="Of all samples; auto is settled where the job begins."),
    keep: Keep = typer.Option(Keep.mel, help="Mels as they are decoded, 136 kB each at the paper's size, or sounds, 434 kB."),
    workers: int | None = WORKERS,
    ray: str | None = RAY,
) -> int:
    """Make sounds for all clips and pictures of a split, each as long as one clip of the model.

    What was stopped goes on where it was; what is there already is kept. What cannot be looked at is left out and named.
    """
    from unsilent.jobs.parallel import Parallel
    from unsilent.jobs.sample import Recipe, Sampling

    recipe = Recipe(model, samples, seed, top_k, temperature, guidance, motion, precision.value, keep.value)
    n_failed = 0
    with Sampling(table, out, recipe, None if split == "all" else split) as job, Bar(len(job.waiting)) as bar:
        for n_done, (row, why) in enumerate(job.run(Parallel(workers, ray)), start=1):
            bar.finish(n_done)
            for coming in job.waiting[n_done : n_done + 1]:  # they are done in order
                bar.watch(coming.clip_id)("sampling", 0.0)
            if why:
                n_failed += 1
                say(f"left out {row.clip_id}: {why}")
        n_there = len(job.rows) - n_failed
        kept = f", {len(job.rows) - len(job.waiting)} of them made before" if len(job.waiting) < len(job.rows) else ""
    typer.echo(f"{out}: {samples} samples of each of {n_there} clips{kept}")
    return 3 if n_failed else 0
