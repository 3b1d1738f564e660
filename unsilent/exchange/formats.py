"""Chooses the reader of cues, and the writer of projects and tables, by the suffix of a file."""

import importlib.util
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

from unsilent.cues import Cue
from unsilent.errors import DataError, ParameterError, how_to_install
from unsilent.exchange.edl import edl_text, read_edl
from unsilent.exchange.midi import midi_bytes, read_midi
from unsilent.exchange.otio import read_otio, write_otio
from unsilent.exchange.reaper import read_reaper, reaper_text
from unsilent.exchange.tables import read_cue_table, write_cue_table
from unsilent.exchange.timeline import Timeline
from unsilent.files import atomic_write, require_path
from unsilent.media.suffixes import PROJECT_SUFFIXES

TABLES, MIDI = (".csv", ".tsv", ".txt"), (".mid", ".midi")
WRITTEN = (".csv", *PROJECT_SUFFIXES)
_LIBRARIES = {".otio": "opentimelineio", ".otioz": "opentimelineio", ".mid": "mido"}
MAX_BYTES = 64 << 20  # largest file of cues that is read
MAX_CUES = 100_000


def read_cues(path: Path, rate: Fraction) -> list[Cue]:
    """Cues from a table, MIDI notes, or the markers of a cut list, an OpenTimelineIO timeline or a Reaper project.

    Args:
        path: file; its suffix determines the format.
        rate: frames per second of the video, which cut lists do not contain.

    Raises:
        MediaError: if the file does not exist.
        DataError: if it cannot be read, or has no cues.
        ParameterError: for another suffix, or if an extra is not installed.
    """
    require_path(path)
    suffix = path.suffix.lower()
    readers: dict[str, Callable[[Path], list[Cue]]] = {
        ".edl": lambda one: read_edl(one, rate), ".rpp": read_reaper, ".otio": read_otio, ".otioz": read_otio,
        **dict.fromkeys(TABLES, read_cue_table), **dict.fromkeys(MIDI, read_midi),
    }  # fmt: skip
    if suffix not in readers:
        raise ParameterError(f"{path} is not a file of cues: known suffixes are {', '.join(readers)}.")
    if not path.is_file():
        raise DataError(f"{path} is not a file; name a file of cues.")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} has {path.stat().st_size >> 20} MB, which is too large for a file of cues.")
    cues = readers[suffix](path)
    if not cues:
        raise DataError(f"{path} has no cues; give a row for each.")
    if len(cues) > MAX_CUES:
        raise DataError(f"{path} has {len(cues)} cues, but at most {MAX_CUES} are possible.")
    return sorted(cues, key=lambda cue: cue.seconds)


def write_export(out: Path, timeline: Timeline, tracks: Sequence[tuple[str, Sequence[Cue]]] = ()) -> None:
    """Write a project, a cut list, MIDI or a table; the suffix determines the format.

    Args:
        out: file with a suffix of `WRITTEN`, written atomically.
        timeline: content of the file.
        tracks: name and notes of each MIDI track; by default one track of the cues.

    Raises:
        ParameterError: for another suffix, or if an extra is not installed.
        MediaError: if the file cannot be written.
    """
    suffix = out.suffix.lower()
    check_suffix(out)
    with atomic_write(out) as temporary:
        if suffix in (".otio", ".otioz"):
            temporary.unlink()  # the library does not replace existing bundles
            write_otio(timeline, temporary, out)
        elif suffix == ".mid":
            temporary.write_bytes(midi_bytes(tracks or [("cues", timeline.cues)]))
        else:
            texts = {".csv": lambda: write_cue_table(timeline.cues), ".edl": lambda: edl_text(timeline)}
            text = texts.get(suffix, lambda: reaper_text(timeline, out.parent))()
            temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")  # names on Unix may be any bytes


def check_suffix(out: Path) -> None:
    """Refuse an output that cannot be written.

    Raises:
        ParameterError: for another suffix, or if an extra is not installed.
    """
    library = _LIBRARIES.get(out.suffix.lower())
    if library and importlib.util.find_spec(library) is None:
        raise ParameterError(f"{out} needs {library}; {how_to_install('projects')}.")
    if out.suffix.lower() not in WRITTEN:
        raise ParameterError(f"{out} cannot be written: choose one of {', '.join(WRITTEN)}.")
