"""An evaluation as one page that needs nothing but the sounds beside it, written with the same figures as JSON and CSV."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from unsilent.errors import DataError
from unsilent.evaluation.evaluate import Evaluation, Sample, System, sweeps
from unsilent.evaluation.plots import classes_plot, sweep_plot, thumbnail
from unsilent.evaluation.scores import Figure
from unsilent.evaluation.tables import METHODS, NAMES, as_csv, as_json, preparation, relative, shown
from unsilent.files import atomic_write
from unsilent.generation.figure import require_matplotlib

CLIPS_SHOWN, TAKES_SHOWN, NAMES_SHOWN = 24, 3, 50

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #1b1b1b; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .7rem; text-align: right; vertical-align: top; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere }
small { display: block; color: #666; font-size: .76rem } sup { color: #b3261e }
.wide { overflow-x: auto } .notes { font-size: .85rem } .bad { color: #b3261e }
.figures th, .figures small { white-space: nowrap }
.sounds th, .sounds td { text-align: left; min-width: 15rem } .sounds td:first-child { min-width: 8rem }
audio { width: 240px; height: 32px; display: block } img { display: block; width: 240px; height: 60px }
svg { max-width: 100%; height: auto }
"""


def write_report(evaluation: Evaluation, out: Path) -> Path:
    """Write `report.html`, `report.json` and `report.csv`, each beside its old version first and renamed when whole.

    Args:
        evaluation: what to tell.
        out: folder, made if absent. The page finds the sounds from there, so the two move together or not at all.

    Returns:
        The page.

    Raises:
        DataError: if the folder cannot be made.
        MediaError: if a file cannot be written, or a sound that is shown is no longer there.
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
        "report.html": page(evaluation, out),
    }
    for name, text in texts.items():
        with atomic_write(out / name) as temporary:
            temporary.write_bytes(text.encode("utf-8", "backslashreplace"))  # names of files need not be valid text
    return out / "report.html"


def page(evaluation: Evaluation, out: Path) -> str:
    """The whole page as text.

    Args:
        evaluation: what to tell.
        out: folder that links to sounds start from.
    """
    judge, real, systems = evaluation.judge, evaluation.real, evaluation.systems
    title = "Evaluation of generated sounds" if systems else "Report of a sound classifier"
    facts = (
        f"Judged by a {judge.kind} of {len(judge.classes)} classes, digest <code>{judge.digest}</code>, features of {judge.dim} numbers. "
        f"{escape(preparation(evaluation))} Seed of intervals: {evaluation.seed}."
    )
    parts = [f"<h1>{title}</h1><p>{facts}</p>", "<h2>Figures</h2>", _figures(evaluation)]
    for setting, lines in sweeps(systems).items():
        parts.append(f"<h2>By {escape(setting.replace('_', '-'))}</h2>{sweep_plot(setting, lines)}")
    if any(row.figures for system in (real, *systems) for row in system.classes):
        parts.append(f"<h2>By class</h2>{classes_plot(real, systems)}")
    parts += [f"<h2>Sounds</h2>{_sounds(evaluation, out)}", "<h2>Files</h2>", *(_files(system) for system in (real, *systems))]
    methods = "".join(
        f"<dt>{escape(NAMES[name][0] if name in NAMES else name)}</dt><dd>{escape(text)}</dd>" for name, text in METHODS.items()
    )
    parts.append(f"<h2>How figures are counted</h2><dl class=notes>{methods}</dl>")
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    return f"{head}<style>{_STYLE}</style>\n" + "\n".join(parts) + "\n</html>\n"


def _figures(evaluation: Evaluation) -> str:
    """A row for each system, the reference on top; what speaks against a figure is a note with a number."""
    rows = [(system.name, system.figures, system.warnings) for system in (evaluation.real, *evaluation.systems)]
    if evaluation.systems and evaluation.halves:
        rows.insert(1, ("reference, one half against the other", evaluation.halves, []))
    names = [name for name in NAMES if any(name in figures for _, figures, _ in rows)]
    notes: dict[str, int] = {}

    def marks(warnings: Sequence[str]) -> str:
        numbers = [str(notes.setdefault(warning, len(notes) + 1)) for warning in warnings]
        return f"<sup>{','.join(numbers)}</sup>" if numbers else ""

    head = "".join(f"<th>{escape(NAMES[name][0])} {NAMES[name][1]}</th>" for name in names)
    body = "".join(
        f"<tr><td>{escape(name)}{marks(warnings)}</td>"
        + "".join(f"<td>{_figure(one, figures[one], marks)}</td>" if one in figures else "<td>–</td>" for one in names)
        + "</tr>"
        for name, figures, warnings in rows
    )
    said = "".join(f"<li>{escape(note)}</li>" for note in notes)
    table = f"<div class=wide><table class=figures><tr><th></th>{head}</tr>{body}</table></div>"
    return f"{table}<p class=notes>In brackets: 95 % intervals. n: sounds (of clips, against real sounds).</p><ol class=notes>{said}</ol>"


def _figure(name: str, figure: Figure, marks) -> str:
    spread = "" if figure.spread is None else f" ± {shown(name, figure.spread)}"
    interval = "" if figure.interval is None else f"[{', '.join(shown(name, end) for end in figure.interval)}]"
    real = f", real {figure.real}" if figure.real else ""
    clips = "" if figure.clips == figure.samples else f" of {figure.clips}"
    value = f"{shown(name, figure.value)}{spread}{marks(figure.warnings)}"
    return f"{value}<small>{interval}</small><small>n {figure.samples}{clips}{real}</small>"


def _sounds(evaluation: Evaluation, out: Path) -> str:
    """Clips evenly spaced by name, what was made for each, and what the classifier hears in it."""
    columns = [evaluation.real, *evaluation.systems]
    by_clip = [_samples_by_clip(system) for system in columns]
    made = {clip for found in by_clip[1:] for clip in found} if evaluation.systems else set(by_clip[0])
    clips = sorted(made & set(by_clip[0]))
    chosen = clips[:: -(-len(clips) // CLIPS_SHOWN)] if clips else []
    head = "".join(f"<th>{escape(system.name)}</th>" for system in columns)
    rows = []
    for clip in chosen:
        label = f"<small>{escape(', '.join(sorted(evaluation.truth.get(clip, ()))))}</small>"
        cells = ("".join(_sound(sample, evaluation, out) for sample in found.get(clip, [])[:TAKES_SHOWN]) for found in by_clip)
        rows.append(f"<tr><td>{escape(clip)}{label}</td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    said = f"<p class=notes>{len(chosen)} of {len(clips)} clips, evenly spaced by name; at most {TAKES_SHOWN} samples of each.</p>"
    return f"{said}<div class=wide><table class=sounds><tr><th></th>{head}</tr>{''.join(rows)}</table></div>"


def _samples_by_clip(system: System) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for sample in system.samples:
        if sample.clip is not None and not sample.why:
            found.setdefault(sample.clip, []).append(sample)
    return found


def _sound(sample: Sample, evaluation: Evaluation, out: Path) -> str:
    picture = thumbnail(evaluation.judge.read(sample.sound).numpy())
    sound = ""
    if sample.sound.heard is not None:
        link = quote(relative(sample.sound.heard, out).encode("utf-8", "surrogateescape"))
        sound = f'<audio controls preload="none" src="./{link}"></audio>'
    apart = "" if sample.mkl is None else f", MKL {sample.mkl:.2f}"
    said = f"<small>heard as {escape(sample.heard_as)}, {sample.probability:.0%}{apart}</small>"
    return f'<img src="{picture}" alt="mel of {escape(sample.sound.name)}">{sound}{said}'


def _files(system: System) -> str:
    """Counts, and the names of what could not be judged or has no pair."""
    judged = len(system.samples) - len(system.bad)
    counts = [f"{judged} of {len(system.samples)} files judged"]
    lists = [
        ("unpaired sounds, in all figures but MKL and accuracy", system.unpaired),
        ("clips of the reference without a sample", system.missing),
    ]
    counts += [f"{len(names)} {what}" for what, names in lists if names]
    parts = [f"<h3>{escape(system.name)}</h3><p>{'; '.join(counts)}.</p>"]
    if system.bad:
        rows = "".join(f"<tr><td>{escape(sample.sound.name)}</td><td class=bad>{escape(sample.why)}</td></tr>" for sample in system.bad)
        parts.append(f"<div class=wide><table><tr><th>left out</th><th>why</th></tr>{rows}</table></div>")
    for what, names in lists:
        if names:
            more = f" and {len(names) - NAMES_SHOWN} more, see report.json" if len(names) > NAMES_SHOWN else ""
            said = escape(", ".join(names[:NAMES_SHOWN]) + more)
            parts.append(f"<details><summary>{len(names)} {what}</summary><p class=notes>{said}</p></details>")
    return "".join(parts)
