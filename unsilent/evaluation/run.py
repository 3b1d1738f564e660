"""A whole evaluation in one call."""

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

    Results do not depend on the order of files or the number of workers, because files are classified one by one and every draw has a
    seed. Classifier results are kept in `out/heard`; an interrupted evaluation resumes.

    Args:
        reference: folder of real sounds, or videos with sound; the name of a clip is its path without suffix.
        generated: a folder for each system, with sounds named like the real ones (`CLIP`, `CLIP_N`, `CLIP.takeN`, `CLIP/N`). None at all
            tests the classifier with the labels.
        out: folder of `report.html`, `report.json` and `report.csv`; made if absent.
        classifier: a VGGish-ish or Melception: checkpoint folder, published name, or a model that has one; see `load_classifier`.
        labels: of the real sounds, for accuracy: a CSV file (path, label), `folders` or `vggsounder`; see `read_labels`.
        manifest: instead of `labels`, of `unsilent data manifest`.
        split: of the manifest; real sounds of other splits are left out.
        seed: of the resamples behind intervals.
        device: for the classifier.
        parallel: where to run.
        progress: called with the current step, and the share done in [0, 1].
        per_class: clips of each class that the page shows, class by class; None shows 24 of all.
        keep_silent: classify silent sounds too, as the paper does; otherwise they are left out and named.

    Raises:
        ParameterError: if there is nothing to evaluate, options exclude each other, no classifier is named, or matplotlib is missing.
        CheckpointError: if the classifier is missing or damaged.
        DataError: if labels cannot be read, no sound of a folder can be classified, or `out` cannot be written.
        MediaError: if a report file cannot be written. Sounds that cannot be read are left out and named in `System.failed`.
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
    """Refuse to replace files that no evaluation has made: reports lie beside the results of their classifier."""
    for name in ("report.html", "report.json", "report.csv"):
        if (out / name).exists() and not (out / "heard").is_dir():
            raise DataError(f"{out / name} exists and is not a report of unsilent; choose another folder.")
