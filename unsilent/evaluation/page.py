"""Writes the report of an evaluation: an HTML page that loads no files except sounds, and the same results as JSON and CSV."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from urllib.parse import quote

from unsilent.errors import DataError, require_matplotlib
from unsilent.evaluation.plots import classes_plot, sweep_plot, thumbnail
from unsilent.evaluation.results import Evaluation, Sample, System, sweeps
from unsilent.evaluation.scores import Estimate
from unsilent.evaluation.tables import METHODS, STYLES, as_csv, as_json, format_value, preprocessing, relative
from unsilent.files import atomic_write
from unsilent.version import __version__

CLIPS_SHOWN, TAKES_SHOWN, NAMES_SHOWN = 24, 3, 50

# The first column is at least 8rem wide, because names may break anywhere, and a phone would otherwise break them after every letter.
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1b1b1b; background: #fff }
h1 { font-size: 1.5rem; overflow-wrap: anywhere } h2 { font-size: 1.15rem; margin-top: 2.2rem } code { overflow-wrap: anywhere }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .7rem; text-align: right; vertical-align: top; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere; min-width: 8rem }
small { display: block; color: #666; font-size: .76rem } sup { color: #b3261e }
.wide { overflow-x: auto } .notes { font-size: .85rem } .bad { color: #b3261e }
.scores th, .scores small { white-space: nowrap }
.sounds th, .sounds td { text-align: left; min-width: 15rem } .sounds th:first-child, .sounds td:first-child { min-width: 8rem }
audio { width: 240px; height: 32px; display: block } img { display: block; width: 240px; height: 60px }
svg { max-width: 100%; min-width: 40rem; height: auto }
"""


def write_report(evaluation: Evaluation, out: Path, command: str, date: datetime, per_class: int | None = None) -> Path:
    """Write `report.html`, `report.json` and `report.csv`, each atomically.

    Args:
        evaluation: results.
        out: folder, created if missing. The page has relative links to sounds, so move both together.
        command: command that repeats the evaluation, for the page.
        date: date of the evaluation, for the page.
        per_class: number of clips of each class on the page; None shows 24 clips of all classes.

    Returns:
        Path of the page.

    Raises:
        DataError: if the folder cannot be created.
        MediaError: if a file cannot be written, or a sound on the page no longer exists.
        ParameterError: if matplotlib is not installed.
    """
    require_matplotlib()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {out}: {error.strerror}.") from None
    texts = {
        "report.json": json.dumps(as_json(evaluation), indent=2) + "\n",
        "report.csv": as_csv(evaluation, out),
        "report.html": _page(evaluation, out, command, date, per_class),
    }
    for name, text in texts.items():
        with atomic_write(out / name) as temporary:
            temporary.write_bytes(text.encode("utf-8", "backslashreplace"))  # file names need not be valid text
    return out / "report.html"


def _page(evaluation: Evaluation, out: Path, command: str, date: datetime, per_class: int | None) -> str:
    classifier, real, systems = evaluation.classifier, evaluation.real, evaluation.systems
    title = (
        f"Evaluation of {', '.join(system.name for system in systems)}" if systems else f"Report of a sound classifier: {classifier.kind}"
    )
    facts = (
        f"Classifier: a {classifier.kind} of {len(classifier.classes)} classes, digest <code>{classifier.digest}</code>, with "
        f"{classifier.feature_dim} features. {escape(preprocessing(evaluation))} Seed of intervals: {evaluation.seed}."
    )
    made = f"<time>{date:%Y-%m-%d %H:%M}</time>, unsilent {__version__}: <code>{escape(command)}</code>"
    parts = [f"<h1>{escape(title)}</h1><p class=notes>{made}</p><p>{facts}</p>", "<h2>Metrics</h2>", _scores(evaluation)]
    for setting, lines in sweeps(systems).items():
        parts.append(f"<h2>By {escape(setting.replace('_', '-'))}</h2><div class=wide>{sweep_plot(setting, lines)}</div>")
    if any(row.scores for system in evaluation.folders for row in system.classes):
        parts.append(f"<h2>By class</h2><div class=wide>{classes_plot(real, systems)}</div>")
    parts += [f"<h2>Sounds</h2>{_sounds(evaluation, out, per_class)}", "<h2>Files</h2>", *map(_files, evaluation.folders)]
    methods = "".join(
        f"<dt>{escape(STYLES[name].heading if name in STYLES else name)}</dt><dd>{escape(text)}</dd>" for name, text in METHODS.items()
    )
    parts.append(f"<h2>How metrics are computed</h2><dl class=notes>{methods}</dl>")
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    return f"{head}<title>{escape(title)}</title><style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</html>\n"


def _scores(evaluation: Evaluation) -> str:
    """Table with a row for each folder, the reference first; warnings are numbered notes below it."""
    rows = [(system.name, system.scores, system.warnings) for system in evaluation.folders]
    if evaluation.systems and evaluation.halves:
        rows.insert(1, ("reference, one half against the other", evaluation.halves, []))
    names = [name for name in STYLES if any(name in scores for _, scores, _ in rows)]
    notes: dict[str, int] = {}

    def marks(warnings: Sequence[str]) -> str:
        numbers = [str(notes.setdefault(warning, len(notes) + 1)) for warning in warnings]
        return f"<sup>{','.join(numbers)}</sup>" if numbers else ""

    head = "".join(f"<th>{escape(STYLES[name].heading)} {STYLES[name].arrow}</th>" for name in names)
    body = "".join(
        f"<tr><td>{escape(name)}{marks(warnings)}</td>"
        + "".join(f"<td>{_score(one, scores[one], marks)}</td>" if one in scores else "<td>–</td>" for one in names)
        + "</tr>"
        for name, scores, warnings in rows
    )
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    table = f"<div class=wide><table class=scores><tr><th></th>{head}</tr>{body}</table></div>"
    return f"{table}<p class=notes>In brackets: 95 % intervals. n: sounds (of clips, against real sounds).</p><ol class=notes>{items}</ol>"


def _score(name: str, score: Estimate, marks: Callable[[Sequence[str]], str]) -> str:
    spread = "" if score.spread is None else f" ± {format_value(name, score.spread)}"
    interval = "" if score.interval is None else f"[{', '.join(format_value(name, end) for end in score.interval)}]"
    real = f", real {score.real}" if score.real else ""
    clips = "" if score.clips == score.samples else f" of {score.clips}"
    value = f"{format_value(name, score.value)}{spread}{marks(score.warnings)}"
    return f"{value}<small>{interval}</small><small>n {score.samples}{clips}{real}</small>"


def _sounds(evaluation: Evaluation, out: Path, per_class: int | None) -> str:
    """Table of clips, evenly spaced by name, with samples of each system and predicted classes; or one collapsed table per class."""
    by_clip = [_samples_by_clip(system) for system in evaluation.folders]
    covered = {clip for found in by_clip[1:] for clip in found} if evaluation.systems else set(by_clip[0])
    clips = sorted(covered & set(by_clip[0]))
    head = "".join(f"<th>{escape(system.name)}</th>" for system in evaluation.folders)

    def table(chosen: list[str]) -> str:
        rows = "".join(row(clip) for clip in chosen)
        return f"<div class=wide><table class=sounds><tr><th></th>{head}</tr>{rows}</table></div>"

    def row(clip: str) -> str:
        labels = f"<small>{escape(', '.join(sorted(evaluation.labels.get(clip, ()))))}</small>"
        cells = ("".join(_sound(sample, evaluation, out) for sample in found.get(clip, [])[:TAKES_SHOWN]) for found in by_clip)
        return f"<tr><td>{escape(clip)}{labels}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"

    if per_class is None:
        chosen = _spaced(clips, CLIPS_SHOWN)
        note = f"{len(chosen)} of {len(clips)} clips, evenly spaced by name; at most {TAKES_SHOWN} samples of each."
        return f"<p class=notes>{note}</p>{table(chosen)}"
    of_class: dict[str, list[str]] = {}
    for clip in clips:
        for label in evaluation.labels.get(clip, ("without a label",)):
            of_class.setdefault(label, []).append(clip)
    parts = [f"<p class=notes>At most {per_class} clips of each class, and {TAKES_SHOWN} samples of each clip.</p>"]
    for label, all_of_it in sorted(of_class.items()):
        chosen = _spaced(all_of_it, per_class)
        parts.append(f"<details><summary>{escape(label)}: {len(chosen)} of {len(all_of_it)} clips</summary>{table(chosen)}</details>")
    return "".join(parts)


def _spaced(clips: list[str], most: int) -> list[str]:
    return clips[:: -(-len(clips) // most)] if clips else []


def _samples_by_clip(system: System) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in system.samples:
        if sample.clip is not None and not sample.why:
            found.setdefault(sample.clip, []).append(sample)
    return found


def _sound(sample: Sample, evaluation: Evaluation, out: Path) -> str:
    image = thumbnail(evaluation.classifier.read_mel01(sample.sound).numpy())
    player = ""
    if sample.sound.playable is not None:
        link = quote(relative(sample.sound.playable, out).encode("utf-8", "surrogateescape"))
        player = f'<audio controls preload="none" src="./{link}"></audio>'
    mkl = "" if sample.mkl is None else f", MKL {sample.mkl:.2f}"
    prediction = f"<small>classified as {escape(sample.predicted)}, {sample.probability:.0%}{mkl}</small>"
    return f'<img src="{image}" alt="mel of {escape(sample.sound.name)}">{player}{prediction}'


def _files(system: System) -> str:
    """Counts, and the names of files that could not be classified or are unpaired."""
    counts = [f"{len(system.samples) - len(system.failed)} of {len(system.samples)} files classified"]
    lists = [
        ("unpaired sounds, which count for all metrics except MKL and accuracy", system.unpaired),
        ("clips of the reference without a sample", system.missing),
    ]
    counts += [f"{len(names)} {what}" for what, names in lists if names]
    parts = [f"<h3>{escape(system.name)}</h3><p>{'; '.join(counts)}.</p>"]
    if system.failed:
        rows = "".join(f"<tr><td>{escape(sample.sound.name)}</td><td class=bad>{escape(sample.why)}</td></tr>" for sample in system.failed)
        parts.append(f"<div class=wide><table><tr><th>left out</th><th>why</th></tr>{rows}</table></div>")
    for what, names in lists:
        if names:
            more = f" and {len(names) - NAMES_SHOWN} more, see report.json" if len(names) > NAMES_SHOWN else ""
            text = escape(", ".join(names[:NAMES_SHOWN]) + more)
            parts.append(f"<details><summary>{len(names)} {what}</summary><p class=notes>{text}</p></details>")
    return "".join(parts)
