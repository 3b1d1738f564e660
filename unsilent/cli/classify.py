"""`unsilent classify`: print the likeliest classes of sounds."""

import json
from pathlib import Path
from typing import Annotated

import typer

from unsilent.cli import options
from unsilent.cli.terminal import Bar, Column, print_table, say

EXAMPLES = options.examples("unsilent classify recording.wav clip.sound.mp4", "unsilent classify clip.mp4 --classifier melception --json")


def classify(
    inputs: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Sound files, or videos with sound.", show_default=False)],
    classifier: Annotated[
        str, typer.Option(metavar="NAME|PATH", help="VGGish-ish or Melception classifier, or a model that contains one.")
    ] = "everyday",
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Number of classes to print.")] = 10,
    picture: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Also draw the probabilities as a bar chart.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per file instead of a table.")] = False,
    device: options.Device = "auto",
) -> int:
    """Print the likeliest classes of sounds, whether recorded, reconstructed or generated."""
    from unsilent.errors import MediaError, require_matplotlib
    from unsilent.files import require_path
    from unsilent.outputs import check_suffix

    if picture is not None:
        require_matplotlib()
        check_suffix(picture, ".png", "figure")
    for path in inputs:
        require_path(path)
    heard = {}
    with Bar(len(inputs)) as bar:
        from unsilent.evaluation.classifier import load_classifier  # imports torch, so only after the bar is shown

        loaded = load_classifier(classifier, device)
        for n_done, path in enumerate(inputs, start=1):
            try:
                heard[path] = loaded.likeliest(path, top)
            except MediaError as error:
                say(str(error))
            bar.finish(n_done)
    for path, classes in heard.items() if as_json else ():
        typer.echo(json.dumps({"file": str(path), "classes": [{"class": name, "probability": value} for name, value in classes]}))
    if heard and not as_json:
        rows = [(str(path) if number == 0 else "", *one) for path, classes in heard.items() for number, one in enumerate(_shown(classes))]
        print_table([Column("file", overflow="fold"), Column("heard as"), Column("probability", justify="right")], rows)
    if heard and picture is not None:
        from unsilent.evaluation.plots import draw_likeliest

        draw_likeliest({str(path): classes for path, classes in heard.items()}, picture)
    return 0 if len(heard) == len(inputs) else 3 if len(inputs) > 1 else 2


def _shown(classes: list[tuple[str, float]]) -> list[tuple[str, str]]:
    return [(name, f"{value:.1%}") for name, value in classes]
