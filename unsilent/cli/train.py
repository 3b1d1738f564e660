"""`unsilent train`: one training, described by a TOML file."""

import logging
from pathlib import Path

import typer


def train(
    run: Path = typer.Argument(..., metavar="RUN.toml", show_default=False),
    overrides: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Change one setting; may be repeated."),
    resume: bool = typer.Option(False, "--resume", help="Go on from the last checkpoint in the run's folder."),
) -> None:
    """Train a network as RUN.toml says."""
    from unsilent.train.config import read_run
    from unsilent.train.run import train as train_run

    logging.getLogger("unsilent").setLevel(logging.INFO)
    folder = train_run(read_run(run, overrides), resume)
    if folder is not None:
        typer.echo(str(folder))
