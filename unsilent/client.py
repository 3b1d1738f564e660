"""Client of a server started by `unsilent serve`: uploads videos, waits, downloads results. Needs neither torch nor FFmpeg."""

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request as HTTPRequest
from urllib.request import urlopen

from unsilent.errors import ParameterError, ResourceError, UnsilentError
from unsilent.files import atomic_write, require_path
from unsilent.request import Request

_OF_REQUEST = (400, 404, 408, 413, 415, 422)  # HTTP status codes of a wrong request


class Client:
    """A client of one server.

    Args:
        address: URL that the server prints at start; it may include the token.
        token: the server's token, if the URL does not include it.
        name: secret that identifies this client, 16 characters or more; uploads and results belong to it. None draws a random one.
    """

    def __init__(self, address: str = "http://127.0.0.1:8000/", token: str | None = None, name: str | None = None) -> None:
        base, _, given = address.partition("?token=")
        self.address, self.name, self._token = base.rstrip("/"), name or secrets.token_urlsafe(24), token or given or None
        if not self.address.startswith(("http://", "https://")):
            raise ParameterError(f"{address!r} is not the address of a server; it begins with http:// or https://.")

    def generate(
        self, video: str | Path, folder: str | Path, request: Request | None = None, *, model: str = "everyday",
        progress: Callable[[str, float], None] = lambda stage, share: None, **fields: Any,
    ) -> list[Path]:  # fmt: skip
        """Make sounds for a video on the server, and download them.

        Args:
            video: file on this machine.
            folder: folder for the videos with sound, created if missing.
            request: parameters; None takes defaults. Its files are on this machine, and are uploaded.
            model: name of one of `models`.
            progress: called with the name of a stage and the share of the work that is done.
            fields: fields of `Request`, which override those of `request`.

        Returns:
            Paths of the videos, the best first.

        Raises:
            ParameterError: if the server refuses the request; the message says why.
            UnsilentError: if the job fails, or the server does not answer.
        """
        request = Request(**{**({} if request is None else request.model_dump()), **fields})
        request = request.model_copy(update={name: self.upload(path) for name, path in request.files().items()})
        job = self.wait(self.submit(self.upload(video), request, model=model), progress)
        return [self.fetch(job, sound["video"], folder) for sound in job["sounds"]]

    def upload(self, path: str | Path) -> str:
        """Upload a file; returns its id.

        Raises:
            MediaError: if it does not exist.
            UnsilentError: if the server refuses it.
        """
        require_path(Path(path))
        with Path(path).open("rb") as file:
            length = {"Content-Length": str(Path(path).stat().st_size)}
            return self._json("PUT", f"/api/inputs?{urlencode({'name': Path(path).name})}", file, length)["id"]

    def submit(
        self, input: str, request: Request = Request(), *, kind: str = "generate", model: str = "everyday", **fields: Any
    ) -> dict[str, Any]:
        """Submit a job; returns it, with its `id` and expected `wait_seconds`. The server's API page lists the other fields."""
        asked = {"input": input, "kind": kind, "model": model, "request": request.model_dump(exclude_none=True), **fields}
        return self._json("POST", "/api/jobs", json.dumps(asked).encode(), {"Content-Type": "application/json"})

    def wait(self, job: dict[str, Any], progress: Callable[[str, float], None] = lambda stage, share: None) -> dict[str, Any]:
        """Follow a job until it has ended; returns it with its results.

        Raises:
            UnsilentError: if it failed.
        """
        for name, event in self.events(job):
            if name == "progress":
                progress(event["stage"], event["share"])
        ended = self.job(job["id"])
        if ended["state"] == "failed":
            raise UnsilentError(ended["why"])
        return ended

    def events(self, job: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (name, data) of a job's events until it ends. Names are `progress`, `mel`, `sound` and `end`."""
        with self._open("GET", f"/api/jobs/{job['id']}/events") as answer:
            name = ""
            for line in answer:
                text = line.decode().rstrip("\n")
                if text.startswith("event: "):
                    name = text.removeprefix("event: ")
                elif text.startswith("data: "):
                    yield name, json.loads(text.removeprefix("data: "))

    def job(self, id: str) -> dict[str, Any]:
        """The current state of a job."""
        return self._json("GET", f"/api/jobs/{id}")

    def jobs(self) -> list[dict[str, Any]]:
        """All jobs of this client, the newest first."""
        return self._json("GET", "/api/jobs")

    def stop(self, job: dict[str, Any]) -> None:
        """Stop a job; what it has sampled so far is kept."""
        self._json("POST", f"/api/jobs/{job['id']}/stop")

    def models(self) -> list[dict[str, Any]]:
        """Models that the server offers, with defaults and classes."""
        return self._json("GET", "/api/models")

    def fetch(self, job: dict[str, Any], name: str, folder: str | Path) -> Path:
        """Download a result file of a job into a folder; returns its path. The name derives from the video's.

        Raises:
            MediaError: if it cannot be written.
            UnsilentError: if the job has no such file.
        """
        with self._open("GET", f"/api/jobs/{job['id']}/files/{quote(name)}?download=true") as answer:
            out = Path(folder) / Path(answer.headers.get_filename(name)).name
            out.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(out) as temporary, temporary.open("wb") as file:
                shutil.copyfileobj(answer, file)
        return out

    def _json(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        with self._open(method, path, body, headers) as answer:
            return json.load(answer)

    def _open(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Any:
        own = {"Unsilent-Client": self.name, **({"Authorization": f"Bearer {self._token}"} if self._token else {})}
        try:
            return urlopen(HTTPRequest(self.address + path, body, {**own, **(headers or {})}, method=method))
        except HTTPError as error:
            with error:
                raise _as_error(error) from None
        except URLError as error:
            raise UnsilentError(f"no server answers at {self.address}: {error.reason}; start one with: unsilent serve.") from None


def _as_error(error: HTTPError) -> UnsilentError:
    try:
        sentence = json.load(error)["error"]
    except (ValueError, KeyError, TypeError):
        sentence = f"the server answered {error.code} {error.reason}."
    return (ParameterError if error.code in _OF_REQUEST else ResourceError if error.code in (429, 503) else UnsilentError)(sentence)
