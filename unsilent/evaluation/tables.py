"""Converts an evaluation to `report.json`, and to `report.csv` with a row for each file."""

import csv
import io
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from unsilent.evaluation import scores
from unsilent.evaluation.results import Evaluation, System
from unsilent.metrics import resampling
from unsilent.version import __version__


class Style(NamedTuple):
    """Format of a metric: heading, arrow to better values, digits after the decimal point, factor."""

    heading: str
    arrow: str
    digits: int
    factor: int


STYLES = {  # by metric, in the order of tables
    "fid": Style("FID", "↓", 2, 1),
    "mkl": Style("MKL", "↓", 3, 1),
    "kid": Style("KID", "↓", 4, 1),
    "inception_score": Style("inception score", "↑", 2, 1),
    "top1": Style("top-1 %", "↑", 1, 100),
    "top5": Style("top-5 %", "↑", 1, 100),
    "map": Style("mAP %", "↑", 1, 100),
    "mauc": Style("mAUC %", "↑", 1, 100),
}
METHODS = {
    "fid": "Fréchet distance of features, over all sounds. It falls with the number of rows, so compare only equal counts.",
    "mkl": "mean over paired sounds of Σ p(real) (log p(real) − log(p(generated) + 1e-6)), in nats.",
    "kid": "squared maximum mean discrepancy with a cubic kernel, mean ± deviation over 100 subsets of at most "
    f"{scores.KID_SUBSET} rows, seed 2020.",
    "inception_score": f"mean ± deviation over {scores.PARTS} parts of the sounds shuffled with seed 2020, of logits without bias.",
    "top1": "share of sounds whose most probable class is a label of their clip.",
    "top5": "share of sounds with a label of their clip among the five most probable classes.",
    "map": "mean over labels of the average precision of the label's probability.",
    "mauc": "mean over labels of the area under the ROC curve of the label's probability.",
    "intervals": f"95 %. MKL, top-1, top-5: percentiles over {resampling.MEAN_RESAMPLES} resamples of clips. Inception score: from the "
    f"deviation over its parts. The others: value ± 1.96 deviations over {resampling.SET_RESAMPLES} random halves of the clips, real and "
    "generated drawn separately; they do not correct the bias of FID for small sets.",
}
_COLUMNS = ("system", "clip", "sample", "file", "judged as", "why not", "labels", "heard as", "probability", "mkl", "top1", "top5")


def preprocessing(evaluation: Evaluation) -> str:
    """A sentence about the classifier's input."""
    classifier = evaluation.classifier
    seconds = classifier.frames * classifier.clip.hop / classifier.clip.sample_rate
    level = "with silent ends cut and normalised to -23 LUFS (mels unchanged)" if classifier.preprocesses else "unchanged"
    middle = f"the middle {classifier.frames} mel frames ({seconds:.2f} s)"
    silent = "counted" if classifier.keeps_silence else "left out"
    return f"Its input is each sound, {level}: {middle}; a shorter sound is repeated. Silent sounds are {silent}."


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """All facts and metrics as JSON values, in a fixed order."""
    classifier = evaluation.classifier
    return {
        "version": __version__,
        "classifier": {
            "kind": classifier.kind,
            "digest": classifier.digest,
            "classes": len(classifier.classes),
            "feature_dim": classifier.feature_dim,
            "frames": classifier.frames,
            "preparation": preprocessing(evaluation),
        },
        "seed": evaluation.seed,
        "methods": METHODS,
        "reference": _system(evaluation.real),
        "reference_halves": {name: asdict(score) for name, score in evaluation.halves.items()},
        "systems": [_system(system) for system in evaluation.systems],
    }


def format_value(name: str, value: float) -> str:
    """A metric's value as text; large values have fewer digits after the decimal point."""
    style = STYLES[name]
    value *= style.factor
    before = len(str(int(abs(value)))) - 1
    return f"{value:.{max(0, style.digits - before) if before > 1 else style.digits}f}"


def summary_table(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a short table with the number of sounds and the metrics of each folder."""
    names = [name for name in STYLES if any(name in system.scores for system in evaluation.folders)]
    rows = []
    for system in evaluation.folders:
        values = [format_value(name, system.scores[name].value) if name in system.scores else "" for name in names]
        rows.append([system.name, str(len(system.samples) - len(system.failed)), *values])
    return ["sounds", *(STYLES[name].heading for name in names)], rows


def _system(system: System) -> dict[str, Any]:
    mels = sum(sample.sound.is_mel and not sample.why for sample in system.samples)
    return {
        "name": system.name,
        "settings": system.settings,
        "counts": {
            "files": len(system.samples),
            "judged": len(system.samples) - len(system.failed),
            "judged_by_mel": mels,
            "unpaired": len(system.unpaired),
            "clips_without_sample": len(system.missing),
        },
        "figures": {name: asdict(system.scores[name]) for name in STYLES if name in system.scores},
        "classes": {row.label: {name: asdict(score) for name, score in row.scores.items()} for row in system.classes},
        "warnings": system.warnings,
        "bad": {sample.sound.name: sample.why for sample in system.failed},
        "unpaired": system.unpaired,
        "clips_without_sample": system.missing,
    }


def as_csv(evaluation: Evaluation, relative_to: Path) -> str:
    """CSV with a row for each file, the reference first; paths are relative to a folder."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for system in evaluation.folders:
        for sample in system.samples:
            labels = "; ".join(sorted(evaluation.labels.get(sample.clip or "", ())))
            kind = "mel" if sample.sound.is_mel else "sound"
            path = relative(sample.sound.path, relative_to)
            values = (_cell(value) for value in (sample.predicted, sample.probability, sample.mkl, sample.top1, sample.top5))
            table.writerow((system.name, sample.clip or "", sample.sound.name, path, kind, sample.why, labels, *values))
    return text.getvalue()


def _cell(value: str | float | bool | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(int(value)) if isinstance(value, bool) else value


def relative(path: Path, folder: Path) -> str:
    """A path relative to a folder, with `/`."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
