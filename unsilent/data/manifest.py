"""The manifest: a table of training material with one row for each sound, image, or video with sound."""

import math
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from unsilent.errors import DataError
from unsilent.files import atomic_write

Kind = Literal["sound", "image", "clip"]


@dataclass(frozen=True)
class Row:
    """One item of the material. The `repr` is part of the digest of the material that shards store (`jobs.extract`).

    Attributes:
        clip_id: unique name: the path without its suffix, followed by `@` and the start in milliseconds if a video has several clips.
        path: file, relative to the folder of the material.
        kind: `sound`, `image`, or `clip` (a video with its own sound).
        label: class name; empty if unknown.
        split: `train`, `valid` or `test`.
        licence: licence stated by the source.
        start_seconds: start in the file; above 0 only for later clips of a long video.
        duration_seconds: length of the clip; 0 for images.
        sample_rate: sample rate of the recording in Hz; 0 for images. Recordings below 22050 Hz lack high frequencies.
        checksum: SHA-256 of the file.
        visible_impacts: whether impacts are visible in a clip; None if unknown. Not in the `repr`, because no shard depends on it.
    """

    clip_id: str
    path: str
    kind: Kind
    label: str
    split: str
    licence: str
    start_seconds: float
    duration_seconds: float
    sample_rate: int
    checksum: str
    visible_impacts: bool | None = field(default=None, repr=False)


_OPTIONAL = "visible_impacts"
_KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("clip_id", "path", "kind", "label", "split", "licence", "checksum"), (str,)),
    **dict.fromkeys(("start_seconds", "duration_seconds"), (int, float)),
    "sample_rate": (int,),
}


def write_manifest(root: Path, rows: list[Row], path: Path) -> None:
    """Write a Parquet file with rows, and with the folder to which their paths are relative.

    The column `visible_impacts` is written if it is known for any row.

    Raises:
        DataError: if the file cannot be written, or would replace one that is not a manifest.
    """
    import pyarrow
    import pyarrow.parquet

    if path.exists() and path.stat().st_size and not _is_manifest(path):
        raise DataError(f"{path} exists and is not a manifest of unsilent; choose another name for it.")
    path.parent.mkdir(parents=True, exist_ok=True)
    unknown = {_OPTIONAL} if all(row.visible_impacts is None for row in rows) else set()
    records = [{name: value for name, value in asdict(row).items() if name not in unknown} for row in rows]
    table = pyarrow.Table.from_pylist(records).replace_schema_metadata({"root": os.fsencode(root.resolve())})
    with atomic_write(path, DataError) as temporary:
        pyarrow.parquet.write_table(table, temporary)


def read_manifest(path: Path) -> tuple[Path, list[Row]]:
    """Read a manifest.

    Returns:
        The folder to which paths are relative, and the rows.

    Raises:
        DataError: if the file is missing, not Parquet, or lacks a column or the folder.
    """
    import pyarrow
    import pyarrow.parquet

    if not path.exists():
        raise DataError(f"there is no manifest {path}; make one with `unsilent data manifest FOLDER -o {path}`.")
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is not a Parquet file, or damaged: {str(error).splitlines()[0]}") from None
    columns = {field.name for field in fields(Row)}
    if missing := columns - set(table.column_names) - {_OPTIONAL}:
        raise DataError(f"the manifest {path} lacks the columns {', '.join(sorted(missing))}; make it again.")
    root = (table.schema.metadata or {}).get(b"root")
    if root is None:
        raise DataError(f"the manifest {path} does not name the folder of its paths; make it again.")
    try:
        records = table.select(sorted(columns & set(table.column_names))).to_pylist()
    except (pyarrow.ArrowException, ValueError) as error:
        raise DataError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    return Path(os.fsdecode(root)), [_row(record, path) for record in records]


def _row(record: dict[str, Any], path: Path) -> Row:
    """Make a row, after checking the types of its values and that path and name are possible file names."""
    for name, kinds in _KINDS.items():
        value = record[name]
        if not isinstance(value, kinds) or (isinstance(value, str) and "\0" in value):
            raise DataError(f"the manifest {path} is damaged: it has {name} {str(value)[:40]!r} in a row; make it again.")
    if not record["clip_id"] or not record["path"] or record["kind"] not in get_args(Kind):
        raise DataError(f"the manifest {path} is damaged: a row has no name, no path, or the kind {record['kind'][:20]!r}; make it again.")
    if not (math.isfinite(record["start_seconds"]) and math.isfinite(record["duration_seconds"])):
        raise DataError(f"the manifest {path} is damaged: {record['clip_id'][:40]!r} has no finite start and length; make it again.")
    return Row(**record)


def _is_manifest(path: Path) -> bool:
    try:
        read_manifest(path)
    except DataError:
        return False
    return True
