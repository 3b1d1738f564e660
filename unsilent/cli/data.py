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
    table: Path = typer.Argument(..., metavar="M.parquet", show_default=False),
    out: Path = typer.Option(..., "-o", "--out", metavar="SHARDS", show_default=False),
    codebook: Path | None = typer.Option(None, help="Checkpoint folder; writes codes (needs the waveforms extracted before)."),
    preset: str = typer.Option("everyday", help="Whose clip and backbone to extract for."),
    seed: int = typer.Option(0, min=0, help="For the random views and shifts."),
) -> None:
    """Turn listed material into waveforms and visual features, or, with --codebook, into codes."""
    from unsilent.data.extract import extract_all, extract_codes_with

    logging.getLogger("unsilent").setLevel(logging.INFO)
    counts = extract_codes_with(codebook, out, seed) if codebook else extract_all(table, out, preset, seed)
    typer.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
