"""`unsilent data`: from a folder of material to shards that trainers read."""

import logging
from pathlib import Path

import typer

app = typer.Typer(help="Prepare training material.")


@app.command()
def manifest(
    folder: Path = typer.Argument(..., help="Holds sounds.csv, images.csv, clips.csv (any of them).", show_default=False),
    out: Path = typer.Option(..., "-o", "--out", metavar="M.parquet", show_default=False),
) -> None:
    """List the material of a folder in one table."""
    from unsilent.data.manifest import read_folder, write_manifest

    rows = read_folder(folder)
    write_manifest(folder, rows, out)
    typer.echo(f"{out}: {len(rows)} rows")


@app.command()
def extract(
    table: Path | None = typer.Argument(None, metavar="[M.parquet]", help="The material; not with --codebook.", show_default=False),
    out: Path = typer.Option(..., "-o", "--out", metavar="SHARDS", show_default=False),
    codebook: Path | None = typer.Option(None, help="Checkpoint folder; writes the codes of the sounds that are in SHARDS already."),
    preset: str | None = typer.Option(None, help="Whose clip and backbone to extract for; not with --codebook. [default: everyday]"),
    seed: int = typer.Option(0, min=0, help="For the random views and shifts."),
) -> None:
    """Turn listed material into waveforms and visual features, or, with --codebook, the sounds in SHARDS into codes."""
    from unsilent.data.extract import extract_all, extract_codes_with
    from unsilent.errors import ParameterError

    logging.getLogger("unsilent").setLevel(logging.INFO)
    if codebook:
        if table or preset:
            raise ParameterError(f"codes are made of the sounds in {out} by the codebook; leave out {table or '--preset'}.")
        counts = extract_codes_with(codebook, out, seed)
    elif table is None:
        raise ParameterError("the material to extract is not named; give a manifest, or --codebook for codes of sounds extracted before.")
    else:
        counts = extract_all(table, out, preset or "everyday", seed)
    typer.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


@app.command("import")
def import_released(
    folder: Path = typer.Argument(
        ..., help="Unpacked features of VAS or VGGSound, as the paper's authors published them.", show_default=False
    ),
    out: Path = typer.Option(..., "-o", "--out", metavar="SHARDS", show_default=False),
    backbone: str = typer.Option("resnet50", help="resnet50 or bninception."),
    lists: list[str] = typer.Option([], "--list", metavar="SPLIT=FILE", help="Names of a split's clips, one a line; may be repeated."),
) -> None:
    """Turn the authors' own feature files into shards, without executing what they hold."""
    from unsilent.clip import Clip
    from unsilent.data.released import ReleasedFolder, write_shards
    from unsilent.errors import ParameterError

    splits = {}
    for one in lists:
        name, _, path = one.partition("=")
        if not path:
            raise ParameterError(f"--list wants SPLIT=FILE, found {one!r}.")
        splits[name] = Path(path)
    counts = write_shards(ReleasedFolder(folder, splits), out, backbone, Clip())
    typer.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
