"""Makes the manifest of a folder: inspects every file, in one or several processes."""

from collections.abc import Mapping
from pathlib import Path

from unsilent import presets
from unsilent.data.checks import Check, as_rows
from unsilent.data.layouts import survey
from unsilent.data.manifest import Row, write_manifest
from unsilent.errors import DataError, ParameterError
from unsilent.jobs.parallel import Failed, Parallel, map_ordered


def make_manifest(
    folder: Path,
    out: Path,
    preset_name: str = "everyday",
    lists: Mapping[str, Path] | None = None,
    shares: Mapping[str, float] | None = None,
    keep_silent: bool = False,
    parallel: Parallel = Parallel(),
) -> tuple[list[Row], list[tuple[str, str]]]:
    """Write the manifest of a folder in any layout of `data.layouts.survey`.

    Args:
        folder: folder of the material.
        out: Parquet file to write.
        preset_name: preset whose clip length videos are cut into.
        lists: file of each split with the names of its clips.
        shares: share of each split, 0 to 1, among the sources without a given split; the rest is `train`.
        keep_silent: include silent clips.
        parallel: where the job runs.

    Returns:
        The rows, and the names of omitted files or clips with reasons.

    Raises:
        DataError: if no file can be used.
        ParameterError: for an unknown preset, or shares that are negative or add up to more than 1.
    """
    shares = dict(shares or {})
    if min(shares.values(), default=0) < 0 or sum(shares.values()) > 1:
        raise ParameterError(f"shares of splits are {', '.join(f'{k} {v:g}' for k, v in shares.items())}, but must add up to 1 or less.")
    if out.suffix.lower() != ".parquet":
        raise ParameterError(f"{out} cannot be written: the manifest is written as Parquet, so name it with .parquet.")
    candidates, left_out = survey(folder, lists)
    usable = []
    for candidate, content in map_ordered(Check(folder, presets.get(preset_name).clip, keep_silent), candidates, parallel):
        if isinstance(content, Failed):
            left_out.append((candidate.path, content.reason.replace(f"{folder}/", "")))
        else:
            usable.append((candidate, content))
    rows, more = as_rows(usable, shares)
    left_out += more
    if not rows:
        raise DataError(f"nothing in {folder} can be used; the first of {len(left_out)} reasons: {left_out[0][1]}")
    write_manifest(folder, rows, out)
    return rows, left_out
