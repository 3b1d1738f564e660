"""`unsilent evaluate`: compute metrics of generated sounds against real ones, or of a classifier against labels."""

from pathlib import Path

import typer

from unsilent.cli import options
from unsilent.cli.data import RAY, WORKERS
from unsilent.cli.terminal import Bar, Column, print_table, say

EXAMPLES = options.examples(
    "unsilent evaluate --reference real --generated made -o report --classifier vggishish",
    "unsilent evaluate --reference real -o report --classifier vggishish --labels folders",
)


def evaluate(
    reference: Path = typer.Option(..., metavar="DIR", help="Real sounds, or videos with sound.", show_default=False),
    generated: list[Path] = typer.Option(
        [], metavar="DIR", help="Sounds of one system, named after the real ones (STEM, STEM_N, STEM.takeN, STEM/N); may be repeated."
    ),
    out: Path = typer.Option(..., "-o", "--out", metavar="REPORT", help="Folder for the report as HTML, JSON and CSV.", show_default=False),
    classifier: str | None = typer.Option(None, metavar="NAME|PATH", help="VGGish-ish or Melception classifier.", show_default=False),
    labels: str | None = typer.Option(
        None,
        metavar="FILE.csv|folders|vggsounder",
        help="Labels of the real sounds: a table (path, label), the names of their folders, or VGGSounder.",
    ),
    manifest: Path | None = typer.Option(None, metavar="M.parquet", help="Take the labels from a manifest instead of --labels."),
    split: str | None = typer.Option(None, help="Use only the real sounds in this split of the manifest."),
    per_class: int | None = typer.Option(
        None, min=1, metavar="N", help="Show N clips per class in the report. [default: 24 clips in total]"
    ),
    keep_silent: bool = typer.Option(False, "--keep-silent", help="Include silent sounds, as the paper does."),
    seed: int = typer.Option(0, min=0, help="Random seed of the resamples for confidence intervals."),
    workers: int | None = WORKERS,
    ray: str | None = RAY,
    device: options.Device = "auto",
) -> int:
    """Evaluate generated sounds against real ones.

    The report has FID, MKL, KID, inception score and accuracy. Without --generated, the classifier is evaluated on the real sounds.
    """
    from unsilent.errors import require_matplotlib
    from unsilent.evaluation.inputs import find_classifier, find_inputs
    from unsilent.files import require_path

    table = [] if labels in (None, "folders", "vggsounder") else [Path(labels)]
    for path in (reference, *generated, *table, *([manifest] if manifest else [])):
        require_path(path)
    require_matplotlib()
    find_inputs(reference, generated, labels, manifest, split)  # raises for wrong inputs before torch is imported
    find_classifier(classifier)
    with Bar(1) as bar:
        from unsilent.evaluation import run, tables  # imports torch, so only after the bar is shown
        from unsilent.jobs.parallel import Parallel

        progress, parallel = bar.watch("evaluation"), Parallel(workers, ray)
        places = (reference, generated, out, classifier, labels, manifest, split)
        evaluation = run.evaluate(*places, seed, device, parallel, progress, keep_silent, per_class)
    failed = [sample for system in evaluation.folders for sample in system.failed]
    for sample in failed:
        say(sample.why)
    say(f"{sum(len(system.samples) for system in evaluation.folders)} sounds, {evaluation.n_classified} of them newly classified.")
    for system in evaluation.folders if evaluation.labels else ():
        n_labelled = system.scores["top1"].samples if "top1" in system.scores else 0
        n_sounds = len(system.samples) - len(system.failed)
        if n_labelled < n_sounds:
            others = "the others have no label among the classifier's classes"
            say(f"{system.name}: the accuracy covers {n_labelled} of {n_sounds} sounds; {others}.")
    heading, rows = tables.summary_table(evaluation)
    print_table([Column("", overflow="fold"), *(Column(name, justify="right", no_wrap=True) for name in heading)], rows)
    typer.echo(str(out / "report.html"))
    return 3 if failed else 0
