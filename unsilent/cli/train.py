"""`unsilent train`: one training, described by a TOML file."""

import logging
from pathlib import Path

import typer

from unsilent.cli import options
from unsilent.cli.terminal import Bar

EXAMPLES = options.examples(
    "unsilent train run.toml",
    "unsilent train run.toml --set steps=1000 --set batch=8",
    "unsilent train run.toml --resume",
)


def train(
    run: Path = typer.Argument(..., metavar="RUN.toml", show_default=False),
    overrides: list[str] = typer.Option([], "--set", metavar="KEY=VALUE", help="Change one setting; may be repeated."),
    resume: bool = typer.Option(False, "--resume", help="Go on from the last checkpoint in the run's folder."),
) -> None:
    """Train a network as RUN.toml says."""
    from unsilent.files import require_path
    from unsilent.train.config import read_run

    require_path(run)
    settings = read_run(run, overrides)
    with Bar(1):
        from unsilent.train.run import train as train_run  # with torch, after the bar is on the screen

    logging.getLogger("unsilent").setLevel(logging.INFO)
    folder = train_run(settings, resume)
    if folder is not None:
        typer.echo(str(folder))
