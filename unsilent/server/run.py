"""Starts a server: checks its settings, locks its folder and listens."""

import logging
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable

import uvicorn

from unsilent.errors import DataError, ParameterError
from unsilent.files import locked, require_file
from unsilent.server.app import guarded, make_app
from unsilent.server.engines import Here, OnRay
from unsilent.server.service import Service
from unsilent.server.settings import Settings
from unsilent.server.store import Store

LOCK = "server.lock"
_KEEP_ALIVE_SECONDS, _CLOSING_SECONDS = 30, 5
_CONNECTIONS = 512  # simultaneous connections, including event streams


def serve(settings: Settings, tell: Callable[[str], object], open_page: bool = False) -> None:
    """Run a server until it is interrupted.

    Args:
        settings: settings of the server. If it is not local and has no token, a random one is set.
        tell: called with one line that has the address of the page.
        open_page: whether to open the page in a browser.

    Raises:
        DataError: if the folder cannot be written, or another server uses it.
        ParameterError: if the address is in use or not of this machine, if the manifest is no file or the reports no
            folder, or if the Ray cluster cannot be used.
    """
    if settings.token is None and not settings.is_local:
        settings = settings.model_copy(update={"token": secrets.token_urlsafe(18)})
    _require_folders(settings)
    with _listen(settings) as listener, locked(settings.folder / LOCK, DataError):
        engine = OnRay(settings) if settings.ray else Here(settings, is_alone=True)
        service = Service(settings, Store(settings.folder), engine)
        app = guarded(make_app(service), service)
        host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"
        page = f"{address}?token={settings.token}" if settings.token else address
        tell(f"unsilent listens at {page}")
        if open_page:
            threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()
        limits = {
            "limit_concurrency": _CONNECTIONS,
            "timeout_keep_alive": _KEEP_ALIVE_SECONDS,
            "timeout_graceful_shutdown": _CLOSING_SECONDS,
        }
        config = uvicorn.Config(app, log_level="warning", server_header=False, **limits)
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        uvicorn.Server(config).run(sockets=[listener])


def _require_folders(settings: Settings) -> None:
    for what, path in (("manifest", settings.manifest), ("folder of reports", settings.reports)):
        if path is not None and not path.exists():
            raise ParameterError(f"the {what} {path} does not exist.")
    if settings.manifest is not None:
        require_file(settings.manifest, ParameterError)
    if settings.reports is not None and not settings.reports.is_dir():
        raise ParameterError(f"{settings.reports} is not a folder; name the folder of the reports.")


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(256)  # before the address is printed, so that clients can connect
    except OSError as why:
        listener.close()
        raise ParameterError(f"cannot listen on {settings.host}:{settings.port}: {why.strerror or why}; choose another --port.") from None
    return listener
