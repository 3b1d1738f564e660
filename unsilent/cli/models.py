"""`unsilent models`: what there is to load."""

import typer
from rich.table import Column

from unsilent.cli.terminal import print_table

app = typer.Typer(help="List the models, or show one.", invoke_without_command=True)


@app.callback()
def list_models(context: typer.Context) -> None:
    """List the models, or show one."""
    if context.invoked_subcommand:
        return
    from unsilent import presets
    from unsilent.checkpoints.bundle import shipped

    here = shipped()
    rows = []
    for name in presets.names():
        row = presets.get(name)
        scores = ("", "") if row.fid is None else (str(row.fid), str(row.mkl))
        rows.append((name, row.summary, *scores, "yes" if name in here else "no"))
    columns = [Column("model", no_wrap=True), Column("what it is"), Column("FID", justify="right"), Column("MKL", justify="right")]
    print_table([*columns, Column("weights")], rows)
    typer.echo("FID and MKL as the paper reports them, lower is better.")


@app.command()
def show(name: str = typer.Argument(..., metavar="NAME|PATH", show_default=False)) -> None:
    """Say what a model is: sizes, scores, licences, where its weights are."""
    from unsilent.checkpoints.bundle import describe

    typer.echo(describe(name))
