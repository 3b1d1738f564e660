"""The table of training material: one row for each sound, picture, or video with sound, with its label and split."""

import csv
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from unsilent.errors import DataError

Kind = Literal["sound", "image", "clip"]
_TABLES: dict[str, Kind] = {"sounds.csv": "sound", "images.csv": "image", "clips.csv": "clip"}


@dataclass(frozen=True)
class Row:
    """One piece of material.

    Attributes:
        clip_id: unique name, the path without its suffix.
        path: file, relative to the folder of the table.
        kind: `sound`, `image`, or `clip` (a video with its own sound).
        label: class name; empty where unknown.
        split: `train`, `valid` or `test`.
        licence: as its source states it.
        start_seconds: where it begins in its file, 0 for all but later stretches of a long video.
        duration_seconds: 0 for pictures.
        sample_rate: of the recording in Hz, 0 for pictures; a low one means that high frequencies are missing.
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


def read_folder(folder: Path) -> list[Row]:
    """Collect the rows of a folder that holds `sounds.csv`, `images.csv` and `clips.csv` (any of them).

    Tables without a split column are split here: an eighth of the scenes is `valid`, chosen by a checksum of the scene's name, so that
    excerpts of one video never stand on both sides.

    Raises:
        DataError: if no table is there, or a table lacks a column; names it.
    """
    rows: list[Row] = []
    for name, kind in _TABLES.items():
        if (folder / name).exists():
            with (folder / name).open(newline="", encoding="utf-8") as file:
                rows += [_row(record, kind, name) for record in csv.DictReader(file)]
    if not rows:
        raise DataError(f"{folder} holds none of {', '.join(_TABLES)}.")
    return rows


def _row(record: dict[str, str], kind: Kind, table: str) -> Row:
    try:
        return Row(
            clip_id=str(Path(record["path"]).with_suffix("")),
            path=record["path"],
            kind=kind,
            label=record["label"],
            split=record["split"] if "split" in record else _split_of_scene(record["path"]),
            licence=record["licence"],
            start_seconds=0.0,
            duration_seconds=float(record.get("seconds") or 0),
            sample_rate=int(record.get("sample_rate") or 0),
        )
    except KeyError as error:
        raise DataError(f"{table} has no column {error}.") from None
    except ValueError as error:
        raise DataError(f"{table} has a row for {record['path']} that cannot be read: {error}.") from None


def _split_of_scene(path: str) -> str:
    """Excerpts of one scene differ in a running number in front and an excerpt number behind; what lies between names the scene."""
    scene = Path(path).stem.partition("-")[2][:28]
    return "valid" if zlib.crc32(scene.encode()) % 8 == 0 else "train"


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
