"""`unsilent models`: list, describe, fetch and convert models."""

import shutil
import sys
from pathlib import Path
from typing import Literal

import typer

from unsilent.cli.terminal import Bar, Column, print_table, say

MIN_DESCRIPTION = 30  # characters; with less room, descriptions are left out


class _ListByDefault(typer.core.TyperGroup):
    """Make `unsilent models` a synonym of `unsilent models list`."""

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, args or ["list"])


app = typer.Typer(help="List, describe, fetch and convert models.", cls=_ListByDefault)
WeightDtype = Literal["float32", "float16"]
NUMBERS = typer.Option("float32", "--numbers", help="Dtype of the stored weights: float32 as published, or float16 at half the size.")


@app.command("list")
def list_models() -> None:
    """List the models and the single networks."""
    from unsilent.published.about import entries

    rows = entries()
    scores = [Column(name, no_wrap=True, justify="right") for name in ("FID", "MKL")]
    columns = [Column("model", no_wrap=True), *scores, Column("weights", no_wrap=True)]
    cells = [(row.name, row.fid, row.mkl, row.weights) for row in rows]
    used = sum(max(map(len, column)) + 2 for column in zip(*cells, strict=True))
    room = shutil.get_terminal_size().columns - used if sys.stdout.isatty() else max(len(row.summary) for row in rows)
    if room >= MIN_DESCRIPTION:  # names and scores are never cut; descriptions repeat the names
        columns.append(Column("description", no_wrap=True))
        summaries = [row.summary if len(row.summary) <= room else f"{row.summary[: room - 1]}…" for row in rows]
        cells = [(*cell, summary) for cell, summary in zip(cells, summaries, strict=True)]
    print_table(columns, cells)
    typer.echo("FID, MKL: from the paper, lower is better. Install: unsilent models fetch NAME")


@app.command()
def show(name: str = typer.Argument(..., metavar="NAME|PATH", show_default=False)) -> None:
    """Describe a model or a network.

    The description lists sizes, scores, licences, classes and the folder of the weights.
    """
    from unsilent.published.about import describe

    typer.echo(describe(name))


@app.command()
def fetch(
    name: str = typer.Argument(..., help="A name from `unsilent models`.", show_default=False),
    mirror: str | None = typer.Option(None, metavar="URL", help="Address of a folder to download from instead; digests are still checked."),
    numbers: WeightDtype = NUMBERS,
) -> None:
    """Download and convert a published model.

    All networks that the model needs are also downloaded and verified. An interrupted download resumes.
    """
    from unsilent.checkpoints.folders import models_folder
    from unsilent.published.fetch import needed

    rows = needed(name)
    with Bar(max(1, len(rows))) as bar:
        import torch

        from unsilent.published.install import install

        for done, row in enumerate(rows):
            install(row, mirror, getattr(torch, numbers), bar.watch(row.name), rows[done:])
            bar.finish(done + 1)
    typer.echo(f"{name}: {models_folder() / name}" + ("" if rows else " (already installed)"))


def _part(what: str) -> typer.models.OptionInfo:
    return typer.Option(..., metavar="PATH|MODEL", help=f"{what}: a checkpoint folder, or a model that contains one.", show_default=False)


@app.command()
def assemble(
    out: Path = typer.Option(..., "-o", "--out", metavar="DIR", help="Folder of the new model.", show_default=False),
    codebook: str = _part("Codebook"),
    sampler: str = _part("Sampler that was trained on codes of this codebook"),
    vocoder: str = _part("Vocoder"),
    classifier: str | None = typer.Option(None, metavar="PATH|MODEL", help="Classifier for evaluation; a listener also ranks candidates."),
    exemplars: str | None = typer.Option(
        None, metavar="PATH|MODEL", help="Exemplar sounds of each class, which generated sounds continue."
    ),
    preset: str | None = typer.Option(None, help="Preset of the model, for its image network and defaults. [default: the sampler's]"),
    top_k: int | None = typer.Option(None, min=1, help="Default of --top-k in the new model."),
    temperature: float | None = typer.Option(None, min=0.0, help="Default of --temperature in the new model."),
    guidance: float | None = typer.Option(None, min=0.0, help="Default of --guidance in the new model."),
    about: Path | None = typer.Option(None, metavar="FILE.json", help="Summary and licences for bundle.json."),
    numbers: WeightDtype = typer.Option("float16", "--numbers", help="Dtype of the stored weights."),
) -> None:
    """Assemble a model from trained parts.

    The parts are first checked for compatibility. The class names are those of the sampler's training data.
    """
    from unsilent.files import require_path

    if about:
        require_path(about)
    with Bar(1):
        import torch  # slow, so only after the bar is shown

        from unsilent.checkpoints.assemble import assemble as assemble_parts

        parts = {"codebook": codebook, "sampler": sampler, "vocoder": vocoder, "classifier": classifier, "exemplars": exemplars}
        sources = {role: source for role, source in parts.items() if source}
        defaults = {"top_k": top_k, "temperature": temperature, "guidance": guidance}
        parts = assemble_parts(out, sources, preset, defaults, about, getattr(torch, numbers))
    columns = [Column("part", no_wrap=True), Column("kind", no_wrap=True), Column("parameters", justify="right"), Column("from")]
    print_table(columns, [(part.role, part.kind, f"{part.n_parameters:,}", str(part.folder)) for part in parts])
    typer.echo(str(out))


@app.command()
def convert(
    file: Path = typer.Argument(..., help="Published archive, checkpoint or unpacked folder.", show_default=False),
    out: Path = typer.Option(..., "-o", "--out", metavar="DIR", help="Folder to create.", show_default=False),
    kind: str | None = typer.Option(None, help="Network to convert, if the file has several. [default: the one that it was published as]"),
    preset: str | None = typer.Option(None, help="Preset of a sampler. [default: found from its file name, settings or sizes]"),
    vocoder: Path | None = typer.Option(
        None, help="Published MelGAN for the model. [default: the installed one, else that of the default model]"
    ),
    numbers: WeightDtype = NUMBERS,
) -> None:
    """Convert a published file to the format of unsilent.

    A sampler with its codebook becomes a model, and any other file becomes one network.
    """
    from unsilent.files import require_path

    require_path(file)
    import torch

    from unsilent.published.install import convert_file

    say(convert_file(file, out, kind=kind, preset=preset, vocoder=vocoder, dtype=getattr(torch, numbers)))
    typer.echo(str(out))
