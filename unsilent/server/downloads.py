"""Downloads besides videos and WAV files: other sound formats, stems, and projects for other programs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from unsilent.batch import write_projects
from unsilent.errors import ParameterError
from unsilent.exchange.formats import check_suffix
from unsilent.exchange.timeline import Timeline
from unsilent.generation.result import Generation
from unsilent.generation.stems import stem_labels
from unsilent.media.suffixes import PROJECT_SUFFIXES
from unsilent.server.bundle import FILM


def write_sounds(take: Generation, out: Path) -> dict[str, Any]:
    """Write a take as FLAC and Opus, and its stems if the request has labels over time. Returns the file names."""
    names: dict[str, Any] = {}
    for suffix in (".flac", ".opus"):
        if (suffix, take.request.bits) != (".flac", "32f"):  # FLAC cannot store floating point
            take.save_sound(out.with_suffix(suffix))
            names[suffix[1:]] = out.with_suffix(suffix).name
    if stem_labels(take.request):
        names["stems"] = {label: path.name for label, path in take.save_stems(out.with_suffix(".wav")).items()}
    return names


def write_all_projects(folder: Path, source: Path, takes: Sequence[Generation]) -> list[str]:
    """Write projects of a job's takes for other programs, for each format whose library is installed. Returns the file names.

    Paths in the projects are those in the ZIP, because a client must not see folders of the server.
    """
    sounds = [folder / f"take{number}.wav" for number in range(1, len(takes) + 1)]
    timeline = replace(Timeline.of(source, sounds, takes[0].request.cues or ()), video=folder / FILM / source.name)
    suffixes = [suffix for suffix in PROJECT_SUFFIXES if suffix != ".otioz" and _is_writable(suffix)]
    return [path.name for path in write_projects(folder / "project", suffixes, timeline, takes)]


def _is_writable(suffix: str) -> bool:
    try:
        check_suffix(Path(f"project{suffix}"))
    except ParameterError:
        return False
    return True
