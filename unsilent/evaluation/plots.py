"""Plots of an evaluation as SVG, byte-identical for identical results, and thumbnails of mels."""

import base64
import io
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from unsilent.evaluation.results import System
from unsilent.evaluation.scores import Estimate
from unsilent.evaluation.tables import STYLES
from unsilent.files import atomic_write

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f5539", "#000000")  # distinguishable with colour blindness
_REAL = "#8a8a8a"
_LABEL_INCHES, _WIDTH_INCHES = 0.24, 10.0
_THUMBNAIL = (240, 60)  # pixels


def draw_likeliest(heard: Mapping[str, Sequence[tuple[str, float]]], out: Path) -> None:
    """Draw the most probable classes of several sounds as bar charts in a PNG.

    Args:
        heard: classes with probabilities, by the name of the sound.
        out: PNG to write.
    """
    from matplotlib.figure import Figure

    most = max(map(len, heard.values()))
    figure = Figure(figsize=(_WIDTH_INCHES, (0.6 + _LABEL_INCHES * most) * len(heard)), layout="constrained")
    for axis, (name, classes) in zip(figure.subplots(len(heard), 1, squeeze=False)[:, 0], heard.items(), strict=True):
        labels, values = zip(*reversed(classes), strict=True)
        axis.barh(range(len(labels)), values, color=_COLOURS[0])
        axis.set_yticks(range(len(labels)), labels, fontsize=8)
        axis.set(xlim=(0, 1))
        axis.set_title(name.encode("utf-8", "backslashreplace").decode(), fontsize=9, loc="left", parse_math=False)
    with atomic_write(out) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def classes_plot(real: System, systems: Sequence[System]) -> str:
    """MKL and accuracy by label, with the number of clips; labels are sorted by the first system's results. Paper figure 18."""
    rows = [row for system in (*systems, real) for row in system.classes if row.scores]
    shown = [name for name in ("mkl", "top1") if any(name in row.scores for row in rows)]
    sign = 1 if shown[0] == "mkl" else -1  # higher accuracy is better, higher divergence is worse
    first, clips = {}, {}
    for row in rows:
        first.setdefault(row.label, sign * row.scores[shown[0]].value if shown[0] in row.scores else np.inf)
        clips[row.label] = max(clips.get(row.label, 0), *(score.clips for score in row.scores.values()))
    labels = sorted(first, key=lambda label: (first[label], label))
    height = 1.1 + _LABEL_INCHES * len(labels) + 0.2 * len(systems)
    with _figure(1, len(shown), (_WIDTH_INCHES, height), sharey=True) as (drawn, axes):
        coloured = [(real, _REAL), *zip(systems, _cycle(len(systems)), strict=True)]
        for axis, name in zip(axes, shown, strict=True):
            for place, (system, colour) in enumerate(coloured):
                values = {row.label: row.scores[name] for row in system.classes if name in row.scores}
                if values:
                    shift = 0.5 * (place + 0.5) / len(coloured) - 0.25  # offset within the row of a label
                    heights = [labels.index(label) + shift for label in values]
                    _points(axis, list(values.values()), heights, name, colour, system.name, upright=False)
            axis.set_xlabel(_heading(name))
            axis.set_ylim(len(labels) - 0.4, -0.6)
            axis.grid(axis="x", alpha=0.3)
            for stripe in range(0, len(labels), 2):
                axis.axhspan(stripe - 0.5, stripe + 0.5, color="black", alpha=0.04, linewidth=0)
        axes[0].set_yticks(range(len(labels)), [f"{label} ({clips[label]})" for label in labels], parse_math=False, fontsize=8)
        _legend(drawn, axes)
        return _svg(drawn)


def sweep_plot(setting: str, lines: dict[str, list[tuple[float, System]]]) -> str:
    """Metrics over a setting, a line for each model; with several models, also their mean at common values. Paper figure 17."""
    shown = [name for name in ("fid", "mkl", "top1") if any(name in system.scores for points in lines.values() for _, system in points)]
    values = sorted({value for points in lines.values() for value, _ in points})
    with _figure(1, len(shown), (_WIDTH_INCHES, 3.4)) as (drawn, axes):
        for axis, name in zip(axes, shown, strict=True):
            for (line, points), colour in zip(sorted(lines.items()), _cycle(len(lines)), strict=True):
                scored = [(value, system.scores[name]) for value, system in points if name in system.scores]
                _points(axis, [score for _, score in scored], [value for value, _ in scored], name, colour, line, upright=True)
            places, means = mean_line(lines, name)
            if len(lines) > 1 and places:
                axis.plot(places, np.array(means) * STYLES[name].factor, "--", color=_REAL, label="mean of the models")
            if values[0] > 0 and values[-1] >= 8 * values[0]:
                axis.set_xscale("log", base=2)
            axis.minorticks_off()
            axis.set_xticks(values, [f"{value:g}" for value in values])
            axis.set(xlabel=setting.replace("_", "-"), ylabel=_heading(name))
            axis.grid(alpha=0.3)
        _legend(drawn, axes)
        return _svg(drawn)


def mean_line(lines: Mapping[str, Sequence[tuple[float, System]]], name: str) -> tuple[list[float], list[float]]:
    """Values of a setting for which every line has a metric, and the metric's means over the lines."""
    scored = [{value: system.scores[name].value for value, system in points if name in system.scores} for points in lines.values()]
    places = sorted(set.intersection(*map(set, scored)))
    return places, [float(np.mean([line[place] for line in scored])) for place in places]


def thumbnail(mel01: Float[np.ndarray, "mels frames"]) -> str:
    """Thumbnail of a mel as the `src` of an `img`: low bands at the bottom, high levels bright."""
    from matplotlib import colormaps

    colours = (colormaps["magma"](mel01[::-1])[..., :3] * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize(_THUMBNAIL, Image.Resampling.BOX).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _points(axis, scores: list[Estimate], places: list[float], name: str, colour: str, label: str, upright: bool) -> None:
    """Draw values with their intervals, vertical over a setting or horizontal in the row of a label."""
    factor = STYLES[name].factor
    values = np.array([score.value for score in scores]) * factor
    reach = np.array([score.interval or (score.value, score.value) for score in scores]).T * factor
    reach = np.abs(reach - values)
    style = {"color": colour, "label": label, "capsize": 2, "elinewidth": 1, "markersize": 4}
    if upright:
        axis.errorbar(places, values, yerr=reach, fmt="o-", **style)
    else:
        axis.errorbar(values, places, xerr=reach, fmt="o", **style)


def _heading(name: str) -> str:
    return f"{STYLES[name].heading} {STYLES[name].arrow}"


def _cycle(n: int) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(n)]


def _legend(drawn, axes) -> None:
    """One legend for all panels."""
    named = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    legend = drawn.legend(named.values(), named.keys(), loc="outside upper center", ncols=min(4, len(named)), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


@contextmanager
def _figure(rows: int, columns: int, size: tuple[float, float], **options):
    import matplotlib
    from matplotlib.figure import Figure

    settings = {"svg.hashsalt": "unsilent", "svg.fonttype": "path", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # the font draws missing glyphs as boxes
        drawn = Figure(figsize=size, layout="constrained")
        yield drawn, drawn.subplots(rows, columns, squeeze=False, **options)[0]


def _svg(drawn) -> str:
    text = io.StringIO()
    drawn.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue().partition("<svg")[1] + text.getvalue().partition("<svg")[2]
