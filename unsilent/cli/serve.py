"""`unsilent serve` starts the server; `unsilent web` also opens its page in a browser."""

from pathlib import Path
from typing import Annotated

import typer

from unsilent.cli import options
from unsilent.cli.terminal import say

SERVE_EXAMPLES = options.examples("unsilent serve", "unsilent serve --host 0.0.0.0 --port 8080", "unsilent serve --ray local --replicas 2")
WEB_EXAMPLES = options.examples("unsilent web", "unsilent web --manifest manifest.parquet --reports out")

_MOST = 1e9  # of any limit, which refuses infinite ones

Host = Annotated[str, typer.Option(help="Address to listen on; unless it is loopback, requests need a token.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")]
Folder = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for uploads and results. [default: in the cache folder]")]
Manifest = Annotated[Path | None, typer.Option(metavar="FILE", help="Manifest from `unsilent data manifest`, to browse its clips.")]
Reports = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of reports from `unsilent evaluate`, to show them with their sounds.")
]


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    folder: Folder = None,
    token: Annotated[str | None, typer.Option(envvar="UNSILENT_TOKEN", help="Secret token that every request must carry.")] = None,
    model: options.Model = "everyday",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Run jobs on a Ray cluster: its address, auto, or local.")] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Number of replicas on the cluster.")] = 1,
    manifest: Manifest = None,
    reports: Reports = None,
    max_mb: Annotated[float, typer.Option(min=0, max=_MOST, help="Maximum size of an upload in MB.")] = 2048,
    max_seconds: Annotated[float, typer.Option(help="Maximum length of an upload and of a sound in seconds.")] = 1800,
    max_takes: Annotated[int, typer.Option(min=1, help="Maximum of takes times candidates in a job.")] = 200,
    max_waiting: Annotated[int, typer.Option(min=1, help="Maximum number of waiting jobs of all clients.")] = 64,
    max_stored_gb: Annotated[float, typer.Option(min=0, max=_MOST, help="Maximum size of all uploads and results in GB.")] = 20,
    max_memory_gb: Annotated[float, typer.Option(min=0, max=_MOST, help="Maximum memory in GB of a process that computes on the CPU.")] = 4,
    keep_hours: Annotated[float, typer.Option(help="Uploads and results are deleted after this many hours.")] = 72,
) -> None:
    """Serve an HTTP API for uploads, jobs, progress and results, and the web page."""
    limits = {"max_bytes": round(max_mb * 1e6), "max_seconds": max_seconds, "max_takes": max_takes, "max_waiting": max_waiting}
    limits |= {"max_stored": round(max_stored_gb * 1e9), "max_memory": round(max_memory_gb * 1e9), "keep_hours": keep_hours}
    place = {"host": host, "port": port, "folder": folder, "token": token, "manifest": manifest, "reports": reports}
    _start(**place, model=model, device=device, precision=precision, ray=ray, replicas=replicas, **limits)


def web(
    port: Port = 8000,
    folder: Folder = None,
    model: options.Model = "everyday",
    manifest: Manifest = None,
    reports: Reports = None,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Show the page in a browser.")] = True,
) -> None:
    """Serve the web page to this machine only, and open it."""
    _start(open_page=open_page, port=port, folder=folder, model=model, manifest=manifest, reports=reports)


def _start(*, open_page: bool = False, folder: Path | None, **settings: object) -> None:
    import importlib.util

    from unsilent.checkpoints.folders import find_bundle
    from unsilent.errors import ParameterError, how_to_install
    from unsilent.files import cache_folder

    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        raise ParameterError(f"the server needs fastapi and uvicorn; {how_to_install('serve')}.")
    from unsilent.server import run
    from unsilent.server.settings import Settings

    find_bundle(str(settings["model"]))
    run.serve(Settings(folder=folder or cache_folder() / "server", **settings), say, open_page)
