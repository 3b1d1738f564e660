"""Runs a whole evaluation in one call."""

import shlex
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

from unsilent.choices import Device
from unsilent.errors import DataError, require_matplotlib
from unsilent.evaluation.cache import ResultCache
from unsilent.evaluation.classifier import load_classifier
from unsilent.evaluation.classify import classify_all
from unsilent.evaluation.inputs import Inputs, find_inputs
from unsilent.evaluation.page import write_report
from unsilent.evaluation.results import Evaluation, compute_metrics
from unsilent.files import locked
from unsilent.jobs.parallel import Parallel


def evaluate(
    reference: Path | str,
    generated: Sequence[Path | str],
    out: Path | str,
    classifier: str | None = None,
    labels: str | None = None,
    manifest: Path | None = None,
    split: str | None = None,
    seed: int = 0,
    device: Device = "auto",
    parallel: Parallel = Parallel(),
    progress: Callable[[str, float], None] = lambda step, share: None,
    keep_silent: bool = False,
    per_class: int | None = None,
) -> Evaluation:
    """Evaluate generated sounds against real ones, and write the report.

        evaluate("real", ["ours", "theirs"], "report", classifier="melception", labels="folders")

    Results do not depend on the order of files or the number of workers, because files are classified one by one and every random draw is
    seeded. Classifier results are cached in `out/heard`, so an interrupted evaluation resumes.

    Args:
        reference: folder of real sounds, or of videos with sound; the name of a clip is its path without suffix.
        generated: a folder for each system, with sounds named like the real ones (`CLIP`, `CLIP_N`, `CLIP.takeN`, `CLIP/N`). An empty list
            tests the classifier on the labels.
        out: folder for `report.html`, `report.json` and `report.csv`; created if missing.
        classifier: a VGGish-ish or Melception: checkpoint folder, published name, or a model that has one; see `load_classifier`.
        labels: labels of the real sounds, for accuracy: a CSV file (path, label), `folders` or `vggsounder`; see `read_labels`.
        manifest: manifest from `unsilent data manifest`, which replaces `labels`.
        split: split of the manifest; real sounds of other splits are left out.
        seed: seed of the resamples for intervals.
        device: device of the classifier.
        parallel: where the job runs.
        progress: called with the current step, and the finished share in [0, 1].
        per_class: number of clips of each class on the page; None shows 24 clips of all classes.
        keep_silent: classify silent sounds too, as in the paper; otherwise they are left out and listed.

    Raises:
        ParameterError: if there is nothing to evaluate, options exclude each other, no classifier is given, or matplotlib is missing.
        CheckpointError: if the classifier is missing or damaged.
        DataError: if labels cannot be read, no sound of a folder can be classified, or `out` cannot be written.
        MediaError: if a report file cannot be written. Sounds that cannot be read are left out and listed in `System.failed`.
    """
    require_matplotlib()
    out = Path(out)
    _refuse_other_reports(out)
    inputs = find_inputs(Path(reference), [Path(folder) for folder in generated], labels, manifest, split)
    options = {"classifier": classifier, "labels": labels, "manifest": manifest, "split": split, "seed": seed or None, "out": out}
    words = ["unsilent", "evaluate", "--reference", str(reference)]
    words += [word for folder in generated for word in ("--generated", str(folder))]
    words += [*(["--keep-silent"] if keep_silent else []), *(["--per-class", str(per_class)] if per_class else [])]
    words += [word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))]
    with locked(out / "heard" / ".lock", DataError):
        evaluation = _measure(
            inputs, ResultCache(out / "heard", load_classifier(classifier, device, keep_silent)), seed, parallel, progress
        )
        write_report(evaluation, out, shlex.join(words), datetime.now(), per_class)
    return evaluation


def _measure(inputs: Inputs, cache: ResultCache, seed: int, parallel: Parallel, progress: Callable[[str, float], None]) -> Evaluation:
    n_waiting = len(cache.missing(inputs.keys))
    n_steps = n_waiting + len(inputs.folders)
    failures = classify_all(cache, inputs.keys, parallel, lambda done, total, sound: progress(f"classified {sound.name}", done / n_steps))
    return compute_metrics(inputs, cache, failures, seed, lambda done, name: progress(f"metrics of {name}", (n_waiting + done) / n_steps))


def _refuse_other_reports(out: Path) -> None:
    """Refuse to replace files that are not reports of unsilent, which always have the folder of cached results beside them."""
    for name in ("report.html", "report.json", "report.csv"):
        if (out / name).exists() and not (out / "heard").is_dir():
            raise DataError(f"{out / name} exists and is not a report of unsilent; choose another folder.")
