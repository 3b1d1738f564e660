"""Tables of cues and prompt tracks: CSV with named columns, label tracks of Audacity, and marker lists of Reaper."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from unsilent.cues import Cue, Stretch
from unsilent.errors import DataError, ParameterError
from unsilent.files import read_csv, read_text

COLUMNS = ("seconds", "strength", "label", "length")
_STRETCH_COLUMNS = ("start", "stop", "label")
_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.I)
_CLOCK = re.compile(r"\s*(?:(\d+):)?(\d+):(\d+(?:\.\d*)?)\s*")  # 1:02:03.5, 2:03.5


def read_cue_table(path: Path) -> list[Cue]:
    """Read cues from a table.

    Columns are `seconds` and optionally `strength`, `label` and `length`, named in the first row or in this order. Label tracks of Audacity
    (start, end, label) and marker lists of Reaper (#, Name, Start, End, Length) are read, too. Times are in seconds, or as m:s or h:m:s.

    Raises:
        DataError: if the file cannot be read, or a row is wrong; the message names the line.
    """
    if path.suffix.lower() == ".txt" and (tracks := _audacity_rows(path)):
        return [_cue(path, line, {"seconds": a, "length": _length(a, b), "label": label}) for line, (a, b, label) in tracks]
    rows = read_csv(path, DataError)
    names = [name.strip().lower() for name in rows[0]] if rows else []
    if names[:3] == ["#", "name", "start"]:
        keys = {"name": "label", "start": "seconds", "length": "length"}
        named = [dict(zip(names, row, strict=False)) for row in rows[1:]]
        return [_cue(path, line, {keys[k]: v for k, v in row.items() if k in keys}) for line, row in enumerate(named, 2)]
    names, rows, first = _with_names(path, rows, names, COLUMNS, "seconds")
    return [_cue(path, line, dict(zip(names, row, strict=False))) for line, row in enumerate(rows, first)]


def read_prompt_track(path: Path) -> list[Stretch]:
    """Read stretches from a table with the columns `start`, `stop` and `label`, or from a label track of Audacity.

    Raises:
        DataError: if the file cannot be read, or a row is wrong; the message names the line.
    """
    tracks = _audacity_rows(path) if path.suffix.lower() == ".txt" else []
    if not tracks:
        rows = read_csv(path, DataError)
        names, rows, first = _with_names(path, rows, [one.strip().lower() for one in rows[0]] if rows else [], _STRETCH_COLUMNS, "start")
        both = [dict(zip(names, row, strict=False)) for row in rows]
        tracks = [(line, (row.get("start", ""), row.get("stop", ""), row.get("label", ""))) for line, row in enumerate(both, first)]
    stretches = []
    for line, (start, stop, label) in tracks:
        if not label.strip():
            raise DataError(f"line {line} of {path} has no label; name the class of the sound from {start} to {stop}.")
        try:
            stretches.append(Stretch(start=_seconds(start), stop=_seconds(stop), label=label.strip()))
        except (ValueError, ParameterError) as error:
            raise DataError(f"line {line} of {path}: {str(error).rstrip('.')}.") from None
    return stretches


def write_cue_table(cues: Sequence[Cue]) -> str:
    """CSV text of cues, with only the columns in which a cue has a value other than the default."""
    used = [name for name in COLUMNS if name == "seconds" or any(getattr(cue, name) not in (None, 1.0) for cue in cues)]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(used)
    table.writerows(["" if (value := getattr(cue, name)) is None else value for name in used] for cue in cues)
    return text.getvalue()


def _audacity_rows(path: Path) -> list[tuple[int, tuple[str, str, str]]]:
    """Lines of `start<tab>end<tab>label`, with their line numbers; empty if any line has another form."""
    rows = []
    for line, text in enumerate(read_text(path, DataError).splitlines(), 1):
        cells = text.split("\t")
        if text.startswith("\\") or not text.strip():  # a backslash begins a frequency range
            continue
        if len(cells) not in (2, 3) or not all(map(_NUMBER.fullmatch, cells[:2])):
            return []
        rows.append((line, (cells[0], cells[1], cells[2] if len(cells) == 3 else "")))
    return rows


def _with_names(
    path: Path, rows: list[list[str]], names: list[str], known: Sequence[str], needed: str
) -> tuple[Sequence[str], list[list[str]], int]:
    """Names of the columns, the rows without them, and the line number of the first row."""
    if not rows:
        raise DataError(f"{path} is empty; give a row for each time, with the columns {', '.join(known)}.")
    if needed in names:
        if unknown := [name for name in names if name not in known]:
            raise DataError(f"{path} has a column {unknown[0]!r}; known are {', '.join(known)}.")
        return names, rows[1:], 2
    if not _is_time(rows[0][0]):
        raise DataError(f"{path} has no column {needed!r}; its columns are {', '.join(known)}; the first is required.")
    if len(rows[0]) > len(known):
        raise DataError(f"{path} has {len(rows[0])} columns without names; {len(known)} are known: {', '.join(known)}.")
    return known, rows, 1


def _is_time(text: str) -> bool:
    return bool(_NUMBER.fullmatch(text) or _CLOCK.fullmatch(text))


def _cue(path: Path, line: int, row: dict[str, str | None]) -> Cue:
    try:
        values = {name: text.strip() for name, text in row.items() if text is not None and text.strip()}
        fields = {name: text if name == "label" else _seconds(text) for name, text in values.items()}
        if fields.get("length") == 0:
            del fields["length"]
        if "seconds" not in fields:
            raise ValueError("it has no time")
        return Cue(**fields)
    except (ValueError, ParameterError) as error:
        raise DataError(f"line {line} of {path}: {str(error).rstrip('.')}.") from None


def _length(start: str, end: str) -> str:
    return str(max(0.0, float(end) - float(start)))


def _seconds(text: str) -> float:
    if match := _CLOCK.fullmatch(text):
        return 3600 * int(match[1] or 0) + 60 * int(match[2]) + float(match[3])
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a number of seconds")
    return float(text)
