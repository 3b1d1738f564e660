"""MIDI: cues and onsets as notes. Read and written with mido, an optional extra."""

import io
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from unsilent.cues import Cue
from unsilent.errors import DataError, ParameterError, how_to_install
from unsilent.media.suffixes import OWN_COMMENT

NOTE, DRUMS = 38, 9  # acoustic snare on the drum channel
_TICKS, _TEMPO = 960, 500_000  # ticks per beat; microseconds per beat
_NOTE_SECONDS = 0.1


def read_midi(path: Path) -> list[Cue]:
    """Cues at the notes of all tracks; simultaneous notes are one cue. Velocity 127 is strength 1.

    Raises:
        DataError: if the file is not a MIDI file, or has no notes.
        ParameterError: if mido is not installed.
    """
    mido = _mido()
    try:
        content = io.BytesIO(path.read_bytes())
        file = mido.MidiFile(file=content)
        seconds, strongest = 0.0, dict[float, int]()
        for message in file:  # mido merges tracks and converts times to seconds
            seconds += message.time
            if message.type == "note_on" and message.velocity:
                at = round(seconds, 4)
                strongest[at] = max(strongest.get(at, 0), message.velocity)
    except OSError as error:
        raise DataError(f"{path} cannot be read as MIDI: {error.strerror or error or 'it ends early'}.") from None
    except (ValueError, EOFError, KeyError, TypeError, IndexError, OverflowError):
        raise DataError(f"{path} is not a MIDI file, or a damaged one.") from None
    if not strongest:
        raise DataError(f"{path} has no notes, so it has no cues.")
    return [Cue(seconds=at, strength=round(velocity / 127, 3)) for at, velocity in sorted(strongest.items())]


def midi_bytes(tracks: Sequence[tuple[str, Sequence[Cue]]]) -> bytes:
    """A MIDI file with a track of drum notes for each name.

    Raises:
        ParameterError: if mido is not installed.
    """
    mido = _mido()
    file = mido.MidiFile(ticks_per_beat=_TICKS)
    file.tracks.append(mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=_TEMPO), mido.MetaMessage("text", text=OWN_COMMENT)]))
    for name, cues in tracks:
        events = []
        ordered = sorted(cues, key=lambda cue: cue.seconds)
        for cue, following in zip(ordered, [*ordered[1:], None], strict=False):
            velocity = max(1, min(127, round(127 * cue.strength)))
            length = min(cue.length or _NOTE_SECONDS, following.seconds - cue.seconds if following else 3600.0)
            events += [(_ticks(cue.seconds), 1, velocity), (_ticks(cue.seconds + length), 0, 0)]
        track, last = mido.MidiTrack([mido.MetaMessage("track_name", name=name.encode("latin-1", "replace").decode("latin-1"))]), 0
        for tick, is_on, velocity in sorted(events):
            kind = "note_on" if is_on else "note_off"
            track.append(mido.Message(kind, channel=DRUMS, note=NOTE, velocity=velocity, time=tick - last))
            last = tick
        file.tracks.append(track)
    written = io.BytesIO()
    file.save(file=written)
    return written.getvalue()


def _ticks(seconds: float) -> int:
    return round(seconds * 1e6 / _TEMPO * _TICKS)


def _mido() -> ModuleType:
    try:
        import mido
    except ImportError:
        raise ParameterError(f"MIDI files need mido; {how_to_install('projects')}.") from None
    return mido
