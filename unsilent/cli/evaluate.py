"""`unsilent evaluate`: generated sounds against real ones, in figures and on a page; or a classifier against labels."""

from pathlib import Path

import typer
from rich.table import Column

from unsilent.cli import options
from unsilent.cli.data import RAY, WORKERS
from unsilent.cli.terminal import Bar, print_table, say


def evaluate(
    reference: Path = typer.Option(..., metavar="DIR", help="Real sounds, or videos with sound.", show_default=False),
    generated: list[Path] = typer.Option(
        [], metavar="DIR", help="Sounds of one system, named like the real ones (STEM, STEM_N, STEM.takeN, STEM/N); may be repeated."
    ),
    out: Path = typer.Option(..., "-o", "--out", metavar="REPORT", help="Folder for the page, JSON and CSV.", show_default=False),
    classifier: str | None = typer.Option(None, metavar="NAME|PATH", help="A VGGish-ish or Melception to judge by.", show_default=False),
    labels: str | None = typer.Option(
        None, metavar="FILE.csv|folders|vggsounder", help="What the real sounds are: a table (path, label), their folders, or VGGSounder."
    ),
    manifest: Path | None = typer.Option(None, metavar="M.parquet", help="A manifest instead of --labels."),
    split: str | None = typer.Option(None, help="Take only real sounds of this split of the manifest."),
    seed: int = typer.Option(0, min=0, help="Of the resamples behind intervals."),
    workers: int | None = WORKERS,
    ray: str | None = RAY,
    device: options.Device = "auto",
) -> int:
    """Measure generated sounds against real ones: FID, MKL, KID, inception score, accuracy. Without --generated: test the classifier."""
    from unsilent.evaluation import evaluate as metrics
    from unsilent.evaluation.cache import ResultCache
    from unsilent.evaluation.classifier import load_classifier
    from unsilent.evaluation.classify import classify_all
    from unsilent.evaluation.page import write_report
    from unsilent.evaluation.tables import cells
    from unsilent.generation.figure import require_matplotlib
    from unsilent.jobs.parallel import Parallel

    require_matplotlib()
    judge = load_classifier(classifier, device)
    study = metrics.find(reference, generated, labels, manifest, split)
    hearing = ResultCache(out / "heard", judge)
    n_waiting = len(hearing.missing(study.keys))
    with Bar(n_waiting) as bar:

        def progress(done: int, total: int, sound: "metrics.Sound") -> None:
            bar.watch(sound.name)("judged", 0.0)
            bar.finish(done)

        bad = classify_all(hearing, study.keys, Parallel(workers, ray), progress)
    say(f"{len(study.keys)} sounds judged, {n_waiting} of them now; counting figures.")
    with Bar(len(study.folders)) as bar:

        def count(done: int, name: str) -> None:
            bar.finish(done)
            bar.watch(name)("counting", 0.0)

        evaluation = metrics.evaluate(study, hearing, bad, seed, count)
    page = write_report(evaluation, out)
    failed = [sample for system in (evaluation.real, *evaluation.systems) for sample in system.bad]
    for sample in failed:
        say(sample.why)
    heading, rows = cells(evaluation)
    print_table([Column("", overflow="fold"), *(Column(name, justify="right", no_wrap=True) for name in heading)], rows)
    typer.echo(str(page))
    return 3 if failed else 0
