"""`unsilent evaluate`: metrics of generated sounds against real ones, or of a classifier against labels."""

from pathlib import Path

import typer
from rich.table import Column

from unsilent.cli import options
from unsilent.cli.data import RAY, WORKERS
from unsilent.cli.terminal import Bar, print_table, say

EXAMPLES = options.examples(
    "unsilent evaluate --reference real --generated made -o report --classifier vggishish",
    "unsilent evaluate --reference real -o report --classifier vggishish --labels folders",
)


def evaluate(
    reference: Path = typer.Option(..., metavar="DIR", help="Real sounds, or videos with sound.", show_default=False),
    generated: list[Path] = typer.Option(
        [], metavar="DIR", help="Sounds of one system, named like the real ones (STEM, STEM_N, STEM.takeN, STEM/N); may be repeated."
    ),
    out: Path = typer.Option(..., "-o", "--out", metavar="REPORT", help="Folder for the page, JSON and CSV.", show_default=False),
    classifier: str | None = typer.Option(None, metavar="NAME|PATH", help="A VGGish-ish or Melception.", show_default=False),
    labels: str | None = typer.Option(
        None, metavar="FILE.csv|folders|vggsounder", help="Labels of the real sounds: a table (path, label), their folders, or VGGSounder."
    ),
    manifest: Path | None = typer.Option(None, metavar="M.parquet", help="A manifest instead of --labels."),
    split: str | None = typer.Option(None, help="Take only real sounds of this split of the manifest."),
    seed: int = typer.Option(0, min=0, help="Of the resamples behind intervals."),
    workers: int | None = WORKERS,
    ray: str | None = RAY,
    device: options.Device = "auto",
) -> int:
    """Measure generated sounds against real ones: FID, MKL, KID, inception score, accuracy. Without --generated: test the classifier."""
    from unsilent.evaluation import run, tables
    from unsilent.jobs.parallel import Parallel

    with Bar(1) as bar:
        progress, parallel = bar.watch("evaluation"), Parallel(workers, ray)
        evaluation = run.evaluate(reference, generated, out, classifier, labels, manifest, split, seed, device, parallel, progress)
    failed = [sample for system in evaluation.folders for sample in system.failed]
    for sample in failed:
        say(sample.why)
    say(f"{sum(len(system.samples) for system in evaluation.folders)} sounds, {evaluation.n_classified} of them classified now.")
    heading, rows = tables.summary_table(evaluation)
    print_table([Column("", overflow="fold"), *(Column(name, justify="right", no_wrap=True) for name in heading)], rows)
    typer.echo(str(out / "report.html"))
    return 3 if failed else 0
