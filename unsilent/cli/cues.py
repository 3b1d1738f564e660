"""`unsilent cues`: the times of visible impacts in a video."""

from pathlib import Path
from typing import Annotated

import typer

from unsilent.cli import options
from unsilent.cli.terminal import Column, print_table

EXAMPLES = options.examples(
    "unsilent cues clip.mp4", "unsilent cues clip.mp4 -o cues.csv", "unsilent cues clip.mp4 --read markers.edl -o hits.mid"
)


def cues(
    video: Annotated[Path, typer.Argument(metavar="VIDEO", show_default=False)],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", metavar="FILE", help="File to write: .csv, .mid, .edl, .otio, .otioz or .rpp.")
    ] = None,
    read: Annotated[
        Path | None, typer.Option("--read", metavar="FILE", help="Read the cues from this file instead, to convert it.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """List the visible impacts in a video, for `unsilent generate --cues`."""
    from unsilent.errors import ParameterError
    from unsilent.exchange.formats import check_suffix, read_cues, write_export
    from unsilent.exchange.timecode import frame_rate
    from unsilent.exchange.timeline import Timeline
    from unsilent.media.probe import probe

    if out is not None:
        check_suffix(out)
        if out.exists() and not overwrite:
            raise ParameterError(f"{out} exists; choose another name, or replace it with --overwrite.")
    probe(video)
    if read is not None:
        found = read_cues(read, frame_rate(video))
    else:
        from unsilent.vision.cues import see_cues

        found = see_cues(video)
    if out is not None:
        write_export(out, Timeline.of(video, [], found))
        typer.echo(f"{out}: {len(found)} cues")
        return
    columns = [Column(name, justify="right", no_wrap=True) for name in ("seconds", "strength", "length")] + [Column("label")]
    rows = [
        (f"{cue.seconds:.3f}", f"{cue.strength:.2f}", "" if cue.length is None else f"{cue.length:.3f}", cue.label or "") for cue in found
    ]
    print_table(columns, rows)
