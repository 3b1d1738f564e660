"""`unsilent retake`: regenerate a stretch of a finished sound."""

import json
from pathlib import Path
from typing import Annotated

import typer

from unsilent.choices import MAX_TAKES, AnyPrecision, Layer, VocoderChoice
from unsilent.cli import options
from unsilent.cli.terminal import Bar, Column, print_table

EXAMPLES = options.examples(
    "unsilent retake clip.sound.mp4 --from 3 --to 4.5",
    "unsilent retake clip.sound.mp4 --from 3 --to 4.5 --label dog --takes 3",
    "unsilent retake clip.sound.mp4 --from 3 --to 4.5 --label dog --layer mix",
    "unsilent retake clip.sound.mp4 --keep 0.7 --takes 4",
    "unsilent retake recording.wav --to 14 -o longer.wav",
)


def retake(
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="Result, its sidecar, or any recording.", show_default=False)],
    start: Annotated[
        float | None, typer.Option("--from", metavar="S", help="Start in seconds; a negative value extends the sound at its beginning.")
    ] = None,
    stop: Annotated[
        float | None, typer.Option("--to", metavar="S", help="Stop in seconds; a value after the end extends the sound.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Output file. [default: STEM.retakeN.* beside the result]")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Random seed. [default: previous seed + 1]")] = None,
    takes: Annotated[int, typer.Option(min=1, max=MAX_TAKES, help="Number of candidates to write, the best first.")] = 1,
    candidates: Annotated[int, typer.Option(min=1, max=MAX_TAKES, help="Number of candidates to sample.")] = 8,
    label: Annotated[str | None, typer.Option(help="Class name of the new sound. [default: as in the result]")] = None,
    layer: Annotated[Layer, typer.Option(help="Replace the old sound, or mix the new one with it.")] = "replace",
    keep: Annotated[float, typer.Option(metavar="SHARE", help="Fraction of the codes to keep, for variations of the old sound.")] = 0.0,
    video: Annotated[Path | None, typer.Option(help="The video, if it was moved, or if the result is a recording.")] = None,
    wav: Annotated[bool, typer.Option("--wav", help="Also write the sound as WAV.")] = False,
    model: Annotated[str | None, typer.Option("--model", help="Name or folder of a model. [default: as in the result]")] = None,
    device: options.Device = "auto",
    precision: Annotated[AnyPrecision | None, typer.Option(help="Numeric precision. [default: as in the result]")] = None,
    vocoder: Annotated[VocoderChoice | None, typer.Option(help="Method from mel to waveform. [default: as in the result]")] = None,
    overwrite: options.Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per take instead of a table.")] = False,
) -> None:
    """Regenerate a stretch of a sound, extend the sound at either end, or fill a gap. All samples outside the stretch are kept."""
    from unsilent import outputs
    from unsilent.checkpoints.folders import find_bundle
    from unsilent.errors import ParameterError
    from unsilent.files import require_path
    from unsilent.generation.sidecar import find_sidecar

    if start is None and stop is None and not keep:
        raise ParameterError("no stretch was given; give --from or --to in seconds, or --keep for a variation of the whole sound.")
    for path in (result, video):
        if path is not None:
            require_path(path)
    found = find_sidecar(result)
    made = None if found is None else found.sidecar
    name = model or (made.model.name if made else "everyday")
    find_bundle(name)
    target = result if made is None else found.resolve(made.output)
    has_video = video is not None or (made is not None and made.video is not None)
    with Bar(1) as bar:
        from unsilent.editing.opening import open_result  # imports torch, so only after the bar is shown
        from unsilent.editing.retake import Retake, retake
        from unsilent.editing.saving import save
        from unsilent.loading import load
        from unsilent.media.probe import has_pictures

        asked = Retake(start, stop, seed, takes, max(candidates, takes), label, layer, keep)
        job = outputs.retake_job(target, out, has_video or (made is None and has_pictures(result)))
        outputs.check_retake(job, takes, wav=wav, overwrite=overwrite)
        chosen = precision or (made.model.precision if made else "auto"), vocoder or (made.model.vocoder if made else "neural")
        pipeline = load(name, device, *chosen)
        opened = open_result(pipeline, result, found, video, label)
        report = bar.watch(result.name)
        results = retake(pipeline, opened, asked, lambda share: report("sampling", share))
        records = [save(pipeline, opened, one, path, wav=wav) for one, path in zip(results, job.outputs(takes), strict=True)]
    if as_json:
        for record in records:
            typer.echo(json.dumps(record))
        return
    columns = [Column("sound", overflow="fold"), *(Column(name, justify="right") for name in ("from", "to", "seed", "candidate", "score"))]
    rows = [
        (record["out"], f"{record['start']:.2f} s", f"{record['stop']:.2f} s", str(record["seed"]), str(record["take"]),
         "" if record["score"] is None else f"{record['score']:.2f}")
        for record in records
    ]  # fmt: skip
    print_table(columns, rows)
