"""An evaluation as plain values: `report.json`, and `report.csv` with a row for each file."""

import csv
import io
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unsilent.evaluation import scores as figures
from unsilent.evaluation.evaluate import Evaluation, System
from unsilent.metrics import resampling
from unsilent.version import __version__

NAMES = {  # of figures, in the order of tables: heading, whether lower is better, digits after the point, factor
    "fid": ("FID", "↓", 2, 1),
    "mkl": ("MKL", "↓", 3, 1),
    "kid": ("KID", "↓", 4, 1),
    "inception_score": ("inception score", "↑", 2, 1),
    "top1": ("top-1 %", "↑", 1, 100),
    "top5": ("top-5 %", "↑", 1, 100),
    "map": ("mAP %", "↑", 1, 100),
    "mauc": ("mAUC %", "↑", 1, 100),
}
METHODS = {
    "fid": "Fréchet distance of features, of all sounds. It falls with the number of rows: only figures of equal counts compare.",
    "mkl": "mean over paired sounds of Σ p(real) (log p(real) − log(p(generated) + 1e-6)), in nats.",
    "kid": "squared maximum mean discrepancy with a cubic kernel, mean ± deviation over 100 subsets of at most "
    f"{figures.KID_SUBSET} rows, seed 2020.",
    "inception_score": f"mean ± deviation over {figures.PARTS} parts of the sounds shuffled by seed 2020, of logits without bias.",
    "top1": "share of sounds whose likeliest class is a label of their clip.",
    "top5": "share of sounds with a label of their clip among the five likeliest classes.",
    "map": "mean over labels of the average precision of its probability.",
    "mauc": "mean over labels of the area under the ROC curve of its probability.",
    "intervals": f"95 %. MKL, top-1, top-5: percentiles over {resampling.MEAN_RESAMPLES} resamples of clips. Inception score: from the "
    f"deviation over its parts. The others: value ± 1.96 deviations over {resampling.SET_RESAMPLES} random halves of the clips, real and "
    "generated drawn apart; they do not heal the bias of FID in small sets.",
}
_COLUMNS = ("system", "clip", "sample", "file", "judged as", "why not", "labels", "heard as", "probability", "mkl", "top1", "top5")


def preparation(evaluation: Evaluation) -> str:
    """What the classifier is shown of a sound, in words."""
    judge = evaluation.judge
    seconds = judge.frames * judge.clip.hop / judge.clip.sample_rate
    level = "cut of silent ends and brought to -23 LUFS (mels as they are)" if judge.prepares else "as it is"
    shown = f"the middle {judge.frames} mel frames ({seconds:.2f} s)"
    return f"Of every sound, {level}, it is shown {shown}; a shorter one is repeated until it fills them."


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """All facts and figures as plain values, in a fixed order."""
    judge = evaluation.judge
    return {
        "version": __version__,
        "classifier": {
            "kind": judge.kind,
            "digest": judge.digest,
            "classes": len(judge.classes),
            "feature_dim": judge.dim,
            "frames": judge.frames,
            "preparation": preparation(evaluation),
        },
        "seed": evaluation.seed,
        "methods": METHODS,
        "reference": _system(evaluation.real),
        "reference_halves": {name: asdict(figure) for name, figure in evaluation.halves.items()},
        "systems": [_system(system) for system in evaluation.systems],
    }


def shown(name: str, value: float) -> str:
    """A figure as people read it: fewer digits after the point where there are more before it."""
    _, _, digits, factor = NAMES[name]
    value *= factor
    before = len(str(int(abs(value)))) - 1
    return f"{value:.{max(0, digits - before) if before > 1 else digits}f}"


def cells(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a short table: the figures that any folder has, and how many sounds were judged."""
    systems = [evaluation.real, *evaluation.systems]
    names = [name for name in NAMES if any(name in system.figures for system in systems)]
    rows = []
    for system in systems:
        judged = str(len(system.samples) - len(system.bad))
        told = [shown(name, system.figures[name].value) if name in system.figures else "" for name in names]
        rows.append([system.name, judged, *told])
    return ["sounds", *(NAMES[name][0] for name in names)], rows


def _system(system: System) -> dict[str, Any]:
    mels = sum(sample.sound.is_mel and not sample.why for sample in system.samples)
    return {
        "name": system.name,
        "settings": system.settings,
        "counts": {
            "files": len(system.samples),
            "judged": len(system.samples) - len(system.bad),
            "judged_by_mel": mels,
            "unpaired": len(system.unpaired),
            "clips_without_sample": len(system.missing),
        },
        "figures": {name: asdict(system.figures[name]) for name in NAMES if name in system.figures},
        "classes": {row.label: {name: asdict(figure) for name, figure in row.figures.items()} for row in system.classes},
        "warnings": system.warnings,
        "bad": {sample.sound.name: sample.why for sample in system.bad},
        "unpaired": system.unpaired,
        "clips_without_sample": system.missing,
    }


def as_csv(evaluation: Evaluation, relative_to: Path) -> str:
    """A row for each file, those of the reference first; paths are relative to a folder."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for system in (evaluation.real, *evaluation.systems):
        for sample in system.samples:
            labels = "; ".join(sorted(evaluation.truth.get(sample.clip or "", ())))
            told = (sample.heard_as, sample.probability, sample.mkl, sample.top1, sample.top5)
            kind = "mel" if sample.sound.is_mel else "sound"
            path = relative(sample.sound.path, relative_to)
            numbers = (
                f"{one:.6g}" if isinstance(one, float) else "" if one is None else int(one) if isinstance(one, bool) else one
                for one in told
            )
            table.writerow((system.name, sample.clip or "", sample.sound.name, path, kind, sample.why, labels, *numbers))
    return text.getvalue()


def relative(path: Path, folder: Path) -> str:
    """A path as it is reached from a folder, with `/`."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
