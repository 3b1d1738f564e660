"""`unsilent sample`: generate sounds for all clips and images of a manifest, for evaluation."""

from pathlib import Path
from typing import Annotated

import typer

from unsilent.choices import MAX_TAKES, Keep
from unsilent.cli import options
from unsilent.cli.data import RAY, WORKERS
from unsilent.cli.terminal import Bar, say

EXAMPLES = options.examples(
    "unsilent sample material.parquet -o samples --samples 2",
    "unsilent sample material.parquet -o samples --split test --keep wav --workers 2",
)


def sample(
    table: Annotated[Path, typer.Argument(metavar="M.parquet", help="Manifest from `unsilent data manifest`.", show_default=False)],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="DIR", help="Folder for the samples, as DIR/CLIP/NUMBER.", show_default=False)
    ],
    model: options.Model = "everyday",
    samples: Annotated[int, typer.Option(min=1, max=MAX_TAKES, metavar="N", help="Number of sounds per clip or image.")] = 10,
    split: Annotated[str, typer.Option(help="Split of the manifest to sample, or `all`.")] = "valid",
    seed: options.Seed = 0,
    top_k: options.TopK = None,
    temperature: options.Temperature = None,
    guidance: options.Guidance = None,
    candidates: options.Candidates = None,
    motion: options.Motion = True,
    prime: Annotated[str | None, typer.Option(metavar="own|FILE", help="Continue the sound of the clip itself, or of a file.")] = None,
    prime_seconds: Annotated[float | None, typer.Option(metavar="S", help="Length of the primed beginning. [default: 3]")] = None,
    most: Annotated[int | None, typer.Option(min=1, metavar="N", help="Use only N evenly spaced clips.")] = None,
    precision: options.Precision = "auto",
    keep: Annotated[Keep, typer.Option(help="What to write: mels (136 kB each at the paper's size) or WAV files (434 kB).")] = "mel",
    workers: int | None = WORKERS,
    ray: str | None = RAY,
) -> int:
    """Generate sounds for all clips and images of a split.

    Each sound has the clip length of the model. An interrupted run resumes, and finished samples are kept. Clips and images that cannot
    be read are left out and listed.
    """
    from unsilent.checkpoints.folders import find_bundle
    from unsilent.files import require_path
    from unsilent.request import Request

    require_path(table)
    find_bundle(model)
    asked = {"top_k": top_k, "temperature": temperature, "guidance": guidance, "candidates": candidates, "motion": motion}
    request = Request(seed=seed, takes=samples, **asked, prime=prime, prime_seconds=prime_seconds)
    with Bar(1):
        from unsilent.jobs.parallel import Parallel  # imports torch, so only after the bar is shown
        from unsilent.jobs.sample import Recipe, Sampling

    recipe = Recipe(model, request, precision, keep)
    n_failed = 0
    with Sampling(table, out, recipe, None if split == "all" else split, most) as job, Bar(len(job.waiting)) as bar:
        for n_done, (row, why) in enumerate(job.run(Parallel(workers, ray)), start=1):
            bar.finish(n_done)
            for coming in job.waiting[n_done : n_done + 1]:  # rows are processed in order
                bar.watch(coming.clip_id)("sampling", 0.0)
            if why:
                n_failed += 1
                say(f"left out {row.clip_id}: {why}")
        n_there = len(job.rows) - n_failed
        kept = f", {len(job.rows) - len(job.waiting)} of them from an earlier run" if len(job.waiting) < len(job.rows) else ""
    typer.echo(f"{out}: {samples} samples of each of {n_there} clips{kept}")
    return 3 if n_failed else 0
