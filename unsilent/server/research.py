"""Routes for researchers: the rows of a manifest by split and class, and evaluation reports."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.staticfiles import StaticFiles

from unsilent.data.manifest import Row, read_manifest
from unsilent.server import uploads
from unsilent.server.service import Service
from unsilent.server.settings import Settings
from unsilent.server.store import Input, NotFoundError

ROWS_SHOWN = 50
REPORT = "report.html"


def is_here(settings: Settings) -> dict[str, bool]:
    """Return whether the server has a manifest and reports."""
    return {"manifest": settings.manifest is not None, "reports": settings.reports is not None}


def view_input(found: Input) -> dict[str, Any]:
    """Return the metadata of an upload, without private fields."""
    return {"id": found.id, "name": found.name, "kind": found.kind, "bytes": found.bytes, **found.facts}


@lru_cache(maxsize=1)
def _material(manifest: Path) -> tuple[Path, list[Row]]:
    root, rows = read_manifest(manifest)
    return root, [row for row in rows if row.kind != "image"]


def add_routes(app: FastAPI, service: Service, client_of: Callable[..., str]) -> None:
    """Add the routes under `/api/material` and `/reports`."""
    settings = service.settings

    @app.get("/api/material", tags=["research"])
    def list_material(split: str = "", label: str = "", first: int = 0) -> dict[str, Any]:
        """List rows of the manifest by split and class, fifty at a time from number `first`, with the index of each row."""
        rows = _material(settings.manifest)[1] if settings.manifest else []
        chosen = [(number, row) for number, row in enumerate(rows) if split in ("", row.split) and label in ("", row.label)]
        shown = chosen[max(0, first) : max(0, first) + ROWS_SHOWN]
        return {
            "n": len(chosen), "splits": sorted({row.split for row in rows}), "labels": sorted({row.label for row in rows}),
            "rows": [{"number": number, "clip_id": row.clip_id, "kind": row.kind, "label": row.label, "split": row.split,
                      "start_seconds": row.start_seconds, "duration_seconds": row.duration_seconds} for number, row in shown],
        }  # fmt: skip

    @app.post("/api/material/{number}/open", status_code=201, tags=["research"])
    def open_material(number: int, client: Annotated[str, Depends(client_of)]) -> dict[str, Any]:
        """Copy the file of a row to a new upload."""
        root, rows = _material(settings.manifest) if settings.manifest else (Path(), [])
        if not 0 <= number < len(rows):
            raise NotFoundError("the manifest has no such row.")
        facts = {"label": rows[number].label}
        return view_input(uploads.take_over(root / rows[number].path, client, service.store, settings, facts))

    @app.get("/api/reports", tags=["research"])
    def list_reports() -> list[str]:
        """List the paths of the reports below `/reports/`."""
        found = sorted(settings.reports.rglob(REPORT)) if settings.reports else []
        return [path.relative_to(settings.reports).as_posix() for path in found]

    if settings.reports:
        app.mount("/reports", StaticFiles(directory=settings.reports), name="reports")
