"""The HTTP routes of the server, and the conversion of errors to responses."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import Depends, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from unsilent.config import explain
from unsilent.errors import CheckpointError, MediaError, ParameterError, UnsilentError
from unsilent.server import research, uploads
from unsilent.server.about import describe_models, health_of, metrics_of
from unsilent.server.asked import Ask
from unsilent.server.bundle import zipped
from unsilent.server.guard import Guard
from unsilent.server.queue import BusyError
from unsilent.server.service import Service, without_folders
from unsilent.server.settings import EXAMPLE, PAGE, Settings
from unsilent.server.store import Job, NotFoundError
from unsilent.version import __version__

_STATUS: dict[type[Exception], int] = {
    NotFoundError: 404, BusyError: 429, uploads.TooLargeError: 413, uploads.TooSlowError: 408, MediaError: 415, ParameterError: 422,
    CheckpointError: 422, ClientDisconnect: 400,
}  # fmt: skip


def client_of(request: Request) -> str:
    """Return the digest of the requesting client's token."""
    return request.state.client


Client = Annotated[str, Depends(client_of)]


def make_app(service: Service) -> FastAPI:
    """Create the application of a service. The service starts and stops with the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start(asyncio.get_running_loop())
        yield
        service.close()

    app = FastAPI(title="unsilent", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url="/api/openapi.json",
                  summary="Gives silent videos their sound.")  # fmt: skip
    app.add_exception_handler(UnsilentError, _refuse)
    app.add_exception_handler(ClientDisconnect, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_form)
    app.add_exception_handler(HTTPException, _refuse_request)
    _add_inputs(app, service)
    _add_jobs(app, service)
    _add_about(app, service)
    research.add_routes(app, service, client_of)
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return app


def guarded(app: FastAPI, service: Service) -> Guard:
    """Wrap an application in its `Guard`."""
    guard = Guard(app, service.settings)
    app.state.answers = guard.answers
    return guard


async def _refuse(request: Request, error: Exception) -> JSONResponse:
    status = next((code for kind, code in _STATUS.items() if isinstance(error, kind)), 503)
    wait = {"Retry-After": str(max(1, round(error.wait_seconds)))} if isinstance(error, BusyError) else {}
    return JSONResponse({"error": without_folders(str(error)) or "the client closed the connection."}, status, wait)


async def _refuse_form(request: Request, error: RequestValidationError) -> JSONResponse:
    found = error.errors()[0]
    names = [str(part) for part in found["loc"][1:] if isinstance(part, str)]
    inner = found["msg"].startswith("Value error, ")  # from a validator of unsilent, whose message already names the field
    sentence = found["msg"].removeprefix("Value error, ") if inner else explain(found, ".".join(names) or "the body")
    return JSONResponse({"error": sentence}, 422)


async def _refuse_request(request: Request, error: HTTPException) -> JSONResponse:
    """Respond to errors of the framework: unknown paths and methods, and bodies that are not JSON in UTF-8."""
    return JSONResponse({"error": f"{error.detail.lower().rstrip('.')}."}, error.status_code, error.headers)


def _add_inputs(app: FastAPI, service: Service) -> None:
    store, settings = service.store, service.settings
    slots = asyncio.Semaphore(settings.max_uploads)

    @app.put("/api/inputs", status_code=201, tags=["uploads"])
    async def upload(
        request: Request, client: Client, name: str = "upload", content_length: Annotated[int | None, Header()] = None
    ) -> dict[str, Any]:
        """Upload a video, a sound or a file of codes as the request body; `name` is its file name."""
        if slots.locked():
            raise BusyError(f"{settings.max_uploads} uploads are in progress, which is the limit; try again in 10 s.", 10)
        async with slots:
            return research.view_input(await uploads.receive(request.stream(), content_length, name, client, store, settings))

    @app.post("/api/inputs/example", status_code=201, tags=["uploads"])
    def take_example(client: Client) -> dict[str, Any]:
        """Copy the example video to a new upload."""
        return research.view_input(uploads.take_over(EXAMPLE, client, store, settings))

    @app.get("/api/inputs/{id}", tags=["uploads"])
    def get_input(id: str, client: Client) -> dict[str, Any]:
        """Return the metadata of an upload."""
        return research.view_input(store.input(client, id))

    @app.get("/api/inputs/{id}/file", tags=["uploads"], response_class=FileResponse)
    def get_input_file(id: str, client: Client) -> FileResponse:
        """Return the uploaded file."""
        found = store.input(client, id)
        return FileResponse(store.path_of(found), filename=found.name, content_disposition_type="inline")

    @app.delete("/api/inputs/{id}", status_code=204, tags=["uploads"])
    def delete_input(id: str, client: Client) -> Response:
        """Delete an upload, unless a job still needs it."""
        if any(id in (job.ask.input, *job.ask.request.files().values()) for job in store.unfinished()):
            raise BusyError("a job needs this upload; stop the job first.", 10)
        store.delete("inputs", store.input(client, id).id)
        return Response(status_code=204)


def _add_jobs(app: FastAPI, service: Service) -> None:
    store = service.store

    @app.post("/api/jobs", status_code=202, tags=["jobs"])
    def submit(ask: Ask, client: Client) -> dict[str, Any]:
        """Submit a job. The response has its position in the queue and its expected wait."""
        return service.view(service.submit(client, ask))

    @app.get("/api/jobs", tags=["jobs"])
    def list_jobs(client: Client) -> list[dict[str, Any]]:
        """List the client's jobs, newest first."""
        return [service.view(job) for job in store.jobs(client)]

    @app.get("/api/jobs/{id}", tags=["jobs"])
    def get_job(id: str, client: Client) -> dict[str, Any]:
        """Return a job, with the names of its files."""
        return service.view(store.job(client, id))

    @app.get("/api/jobs/{id}/events", tags=["jobs"])
    async def follow(id: str, client: Client) -> StreamingResponse:
        """Stream a job's events: `progress`, `mel` (new columns of the draft), `sound` (a finished sound) and `end`."""
        job = store.job(client, id)
        return StreamingResponse(_as_events(service, job), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.post("/api/jobs/{id}/stop", status_code=202, tags=["jobs"])
    def stop(id: str, client: Client) -> dict[str, Any]:
        """Stop a job; the part that has been sampled is kept."""
        service.stop(store.job(client, id))
        return service.view(store.job(client, id))

    @app.delete("/api/jobs/{id}", status_code=204, tags=["jobs"])
    def forget(id: str, client: Client) -> Response:
        """Delete a job and its results."""
        service.forget(store.job(client, id))
        return Response(status_code=204)

    @app.get("/api/jobs/{id}/all.zip", tags=["jobs"])
    def get_all(id: str, client: Client) -> StreamingResponse:
        """Download all files of a job as ZIP: video, sounds, stems and projects, with paths relative to the ZIP."""
        job = store.job(client, id)
        try:
            source = store.path_of(store.input(client, job.ask.input))
        except NotFoundError:
            source = None
        saved = _download_name(service.view(job)["name"], job, "zip")
        headers = {"Content-Disposition": f"attachment; filename*=utf-8''{quote(saved)}"}
        return StreamingResponse(zipped(store.folder_of(job), source), media_type="application/zip", headers=headers)

    @app.get("/api/jobs/{id}/files/{name}", tags=["jobs"], response_class=FileResponse)
    def get_file(id: str, name: str, client: Client, download: bool = False) -> FileResponse:
        """Return a file of a job; with `download`, it is saved under a name that begins with the video's name."""
        job = store.job(client, id)
        path = store.folder_of(job) / name
        if path.name != name or name.startswith(".") or not path.is_file():
            raise NotFoundError("the job has no such file.")
        saved = _download_name(service.view(job)["name"], job, name)
        how = "attachment" if download else "inline"
        return FileResponse(path, filename=saved, content_disposition_type=how, headers={"Cache-Control": "private, max-age=3600"})


def _download_name(source: str, job: Job, name: str) -> str:
    stem, seed = source.rpartition(".")[0] or "unsilent", job.ask.request.seed
    return f"{stem}{f'.seed{seed}' if seed else ''}.{name}" if job.ask.kind == "generate" else f"{stem}.{name}"


async def _as_events(service: Service, job: Job) -> AsyncIterator[str]:
    async for event in service.events(job):
        name = event.pop("event")
        yield f": {name}\n\n" if name == "still" else f"event: {name}\ndata: {json.dumps(event)}\n\n"


def _add_about(app: FastAPI, service: Service) -> None:
    @app.get("/api/models", tags=["server"])
    def models() -> list[dict[str, Any]]:
        """List the installed models, with their defaults and classes."""
        return describe_models(service.settings)

    @app.get("/api/limits", tags=["server"])
    def limits() -> dict[str, Any]:
        """Return the limits of the server and the expected wait of a new job."""
        names = [name for name in Settings.model_fields if name.startswith(("max_", "keep_"))]
        rest = {
            "wait_seconds": round(service.wait_seconds(), 1),
            "is_warm": service.is_warm,
            "research": research.is_here(service.settings),
        }
        return service.settings.model_dump(include=set(names)) | rest

    @app.get("/api/health", tags=["server"])
    def health() -> dict[str, Any]:
        """Return whether the server runs and has loaded its model; needs no token."""
        return health_of(service)

    @app.get("/metrics", tags=["server"])
    def metrics() -> Response:
        """Return counters and gauges in the text format of Prometheus."""
        return Response(metrics_of(service, app.state.answers), media_type="text/plain; version=0.0.4")
