"""`unsilent train`: run a training that a TOML file describes."""

import logging
from pathlib import Path

import typer

from unsilent.choices import TrainingKind
from unsilent.cli import options
from unsilent.cli.terminal import Bar, Column, print_table

EXAMPLES = options.examples(
    "unsilent train run.toml",
    "unsilent train run.toml --set steps=1000 --set batch=8",
    "unsilent train run.toml --resume",
    "unsilent train --explain sampler",
)


def train(
    run: Path | None = typer.Argument(None, metavar="RUN.toml", show_default=False),
    overrides: list[str] = typer.Option(
        [], "--set", metavar="KEY=VALUE", help="Change a setting; KEY= removes it from the run file. May be repeated."
    ),
    resume: bool = typer.Option(False, "--resume", help="Resume from the last training state in the run's folder."),
    explain: TrainingKind | None = typer.Option(None, "--explain", help="Print all settings of a kind of training and exit."),
) -> None:
    """Train a network with the settings of RUN.toml."""
    from unsilent.errors import ParameterError
    from unsilent.files import require_path
    from unsilent.train import config

    if explain:
        columns = [Column(name, no_wrap=True) for name in ("setting", "default", "allowed")]
        print_table([*columns, Column("meaning")], list(config.explain(explain)))
        return
    if run is None:
        raise ParameterError("give a run file, or --explain KIND for the settings of a kind of training.")
    require_path(run)
    settings = config.read_run(run, overrides)
    with Bar(1):
        from unsilent.train.run import train as train_run  # imports torch, so only after the bar is shown

    logging.getLogger("unsilent").setLevel(logging.INFO)
    folder = train_run(settings, resume)
    if folder is not None:
        typer.echo(str(folder))
