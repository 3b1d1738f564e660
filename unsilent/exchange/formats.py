"""Which file means what, by its suffix: cues that are read, and what is written beside videos."""

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
MAX_BYTES = 64 << 20  # of a file with cues; larger ones are something else
MAX_CUES = 100_000


def read_cues(path: Path, rate: Fraction) -> list[Cue]:
    """Cues of a file: a table, notes of MIDI, or markers of a cut list, an OpenTimelineIO timeline or a Reaper project.

    Args:
        path: file; its suffix tells what it is.
        rate: frames per second of the video, which cut lists do not say.

    Raises:
        MediaError: if it does not exist.
        DataError: if it cannot be read, or gives no cues.
        ParameterError: for another suffix, or an extra that is not installed.
    """
    require_path(path)
    suffix = path.suffix.lower()
    readers: dict[str, Callable[[Path], list[Cue]]] = {
        ".edl": lambda one: read_edl(one, rate), ".rpp": read_reaper, ".otio": read_otio, ".otioz": read_otio,
        **dict.fromkeys(TABLES, read_cue_table), **dict.fromkeys(MIDI, read_midi),
    }  # fmt: skip
    if suffix not in readers:
        raise ParameterError(f"{path} gives no cues: known are {', '.join(readers)}.")
    if not path.is_file():
        raise DataError(f"{path} is not a file; name a file of cues.")
    if path.stat().st_size > MAX_BYTES:
        raise DataError(f"{path} has {path.stat().st_size >> 20} MB, which no list of cues has.")
    cues = readers[suffix](path)
    if not cues:
        raise DataError(f"{path} has no cues; give a row for each.")
    if len(cues) > MAX_CUES:
        raise DataError(f"{path} has {len(cues)} cues, {MAX_CUES} are possible.")
    return sorted(cues, key=lambda cue: cue.seconds)


def write_export(out: Path, timeline: Timeline, tracks: Sequence[tuple[str, Sequence[Cue]]] = ()) -> None:
    """Write a project, a cut list, notes or a table, by the suffix.

    Args:
        out: file with a suffix of `WRITTEN`, written atomically.
        timeline: what it shows.
        tracks: names and hits of tracks of MIDI; by default one, of the cues.

    Raises:
        ParameterError: for another suffix, or an extra that is not installed.
        MediaError: if it cannot be written.
    """
    suffix = out.suffix.lower()
    check_suffix(out)
    with atomic_write(out) as temporary:
        if suffix in (".otio", ".otioz"):
            temporary.unlink()  # because the library does not replace bundles
            write_otio(timeline, temporary, out)
        elif suffix == ".mid":
            temporary.write_bytes(midi_bytes(tracks or [("cues", timeline.cues)]))
        else:
            texts = {".csv": lambda: write_cue_table(timeline.cues), ".edl": lambda: edl_text(timeline)}
            text = texts.get(suffix, lambda: reaper_text(timeline, out.parent))()
            temporary.write_text(text, encoding="utf-8", newline="")


def check_suffix(out: Path) -> None:
    """Refuse a file that is not written.

    Raises:
        ParameterError: names the known suffixes, or the extra that is not installed.
    """
    library = _LIBRARIES.get(out.suffix.lower())
    if library and importlib.util.find_spec(library) is None:
        raise ParameterError(f"{out} needs {library}; {how_to_install('projects')}.")
    if out.suffix.lower() not in WRITTEN:
        raise ParameterError(f"{out} cannot be written: choose one of {', '.join(WRITTEN)}.")
