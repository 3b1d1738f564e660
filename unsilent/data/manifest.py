"""The table of training material: one row for each sound, picture, or video with sound, with its label and split."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from unsilent.errors import DataError

Kind = Literal["sound", "image", "clip"]


@dataclass(frozen=True)
class Row:
    """One piece of material.

    Attributes:
        clip_id: unique name: the path without its suffix, and, where a video is cut into several clips, `@` and the first millisecond.
        path: file, relative to the folder of the table.
        kind: `sound`, `image`, or `clip` (a video with its own sound).
        label: class name; empty where unknown.
        split: `train`, `valid` or `test`.
        licence: as its source states it.
        start_seconds: where it begins in its file, 0 for all but later stretches of a long video.
        duration_seconds: 0 for pictures.
        sample_rate: of the recording in Hz, 0 for pictures; a low one means that high frequencies are missing.
        checksum: SHA-256 of the file's content.
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


def write_manifest(root: Path, rows: list[Row], path: Path) -> None:
    """Write rows and the folder their paths start from to a Parquet file, replacing it in one step."""
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    table = pyarrow.Table.from_pylist([asdict(row) for row in rows]).replace_schema_metadata({"root": str(root.resolve())})
    pyarrow.parquet.write_table(table, temporary)
    temporary.replace(path)


def read_manifest(path: Path) -> tuple[Path, list[Row]]:
    """Read the folder that paths start from, and the rows.

    Raises:
        DataError: if the file is missing, not Parquet, or lacks a column.
    """
    import pyarrow
    import pyarrow.parquet

    if not path.exists():
        raise DataError(f"there is no manifest {path}; make one with `unsilent data manifest FOLDER -o {path}`.")
    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is not a Parquet file: {str(error).splitlines()[0]}") from None
    records = table.to_pylist()
    missing = {field.name for field in fields(Row)} - set(table.column_names)
    if missing:
        raise DataError(f"the manifest {path} lacks the columns {', '.join(sorted(missing))}.")
    root = (table.schema.metadata or {}).get(b"root")
    if root is None:
        raise DataError(f"the manifest {path} does not say which folder its paths start from; make it again.")
    rows = [Row(**{field.name: record[field.name] for field in fields(Row)}) for record in records]
    return Path(root.decode()), rows
