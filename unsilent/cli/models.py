"""`unsilent models`: what there is to load, and how it gets here."""

from enum import StrEnum
from pathlib import Path

import typer
from rich.table import Column

from unsilent.cli.terminal import Bar, print_table, say


class _ListUnlessTold(typer.core.TyperGroup):
    """`unsilent models` alone is `unsilent models list`."""

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, args or ["list"])


class Numbers(StrEnum):
    """How weights are kept on disk."""

    float32 = "float32"
    float16 = "float16"


app = typer.Typer(help="List the models, show one, fetch one, convert published files.", cls=_ListUnlessTold)
NUMBERS = typer.Option(Numbers.float32, "--numbers", help="Of the weights on disk: float32 as published, or float16, half the size.")


@app.command("list")
def list_models() -> None:
    """List the models and the networks published beside them."""
    from unsilent.published.about import entries

    columns = [
        Column("model", no_wrap=True),
        Column("what it is", no_wrap=True, overflow="ellipsis"),
        Column("FID", justify="right"),
        Column("MKL", justify="right"),
    ]
    print_table([*columns, Column("weights", no_wrap=True)], entries())
    typer.echo("FID, MKL: the paper's; lower is better. To get one: unsilent models fetch NAME")


@app.command()
def show(name: str = typer.Argument(..., metavar="NAME|PATH", show_default=False)) -> None:
    """Say what a model or network is: sizes, scores, licences, classes, where its weights are."""
    from unsilent.published.about import describe

    typer.echo(describe(name))


@app.command()
def fetch(
    name: str = typer.Argument(..., help="From `unsilent models`.", show_default=False),
    mirror: str | None = typer.Option(None, metavar="URL", help="Folder to ask instead of the authors' servers; checksums stay the same."),
    numbers: Numbers = NUMBERS,
) -> None:
    """Fetch published weights with all that they need, check them, and convert them to our format. An interrupted download goes on."""
    import torch

    from unsilent.checkpoints.bundle import models_folder
    from unsilent.published.install import install, needed

    rows = needed(name)
    with Bar(max(1, len(rows))) as bar:
        for done, row in enumerate(rows):
            install(row, mirror, getattr(torch, numbers.value), bar.watch(row.name))
            bar.finish(done + 1)
    typer.echo(f"{name}: {models_folder() / name}" + ("" if rows else " (was here already)"))


@app.command()
def convert(
    file: Path = typer.Argument(..., help="Archive, checkpoint or unpacked folder, as its authors published it.", show_default=False),
    out: Path = typer.Option(..., "-o", "--out", metavar="DIR", help="Folder to make.", show_default=False),
    kind: str | None = typer.Option(None, help="Which network to take from a file with several. [default: the one it was published as]"),
    preset: str | None = typer.Option(None, help="What a sampler was trained as. [default: what its name or its settings say]"),
    vocoder: Path | None = typer.Option(None, help="Published MelGAN for the model. [default: the fetched one, else the default model's]"),
    numbers: Numbers = NUMBERS,
) -> None:
    """Convert a published file to our format: a sampler with its codebook to a whole model, anything else to one network."""
    import torch

    from unsilent.published.install import convert_file

    said = convert_file(file, out, kind=kind, preset=preset, vocoder=vocoder, dtype=getattr(torch, numbers.value))
    say(said)
    typer.echo(str(out))
