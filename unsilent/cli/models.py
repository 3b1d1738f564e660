"""`unsilent models`: what there is to load."""

import typer
from rich.table import Column

from unsilent.cli.terminal import print_table


class _ListUnlessTold(typer.core.TyperGroup):
    """`unsilent models` alone is `unsilent models list`."""

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, args or ["list"])


app = typer.Typer(help="List the models, or show one.", cls=_ListUnlessTold)


@app.command("list")
def list_models() -> None:
    """List the models."""
    from unsilent import presets
    from unsilent.checkpoints.bundle import shipped

    here = shipped()
    rows = []
    for name in presets.names():
        row = presets.get(name)
        scores = ("", "") if row.fid is None else (str(row.fid), str(row.mkl))
        rows.append((name, row.summary, *scores, "yes" if name in here else "no"))
    columns = [
        Column("model", no_wrap=True),
        Column("what it is", no_wrap=True, overflow="ellipsis"),
        Column("FID", justify="right"),
        Column("MKL", justify="right"),
    ]
    print_table([*columns, Column("weights")], rows)
    typer.echo("FID and MKL as the paper reports them, lower is better.")


@app.command()
def show(name: str = typer.Argument(..., metavar="NAME|PATH", show_default=False)) -> None:
    """Say what a model is: sizes, scores, licences, where its weights are."""
    from unsilent.checkpoints.bundle import describe

    typer.echo(describe(name))
