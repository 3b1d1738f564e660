"""The manifest of a folder: every file looked into, spread over processes or machines."""

from collections.abc import Mapping
from pathlib import Path

from unsilent import presets
from unsilent.data.checks import Check, as_rows
from unsilent.data.layouts import survey
from unsilent.data.manifest import Row, write_manifest
from unsilent.errors import DataError, ParameterError
from unsilent.jobs.run import Failure, Spread, run


def make_manifest(
    folder: Path,
    out: Path,
    preset_name: str = "everyday",
    lists: Mapping[str, Path] | None = None,
    shares: Mapping[str, float] | None = None,
    spread: Spread = Spread(),
) -> tuple[list[Row], list[tuple[str, str]]]:
    """Write the manifest of a folder, in any layout of `data.layouts.survey`.

    Args:
        folder: to look through.
        out: Parquet file.
        preset_name: to whose clip videos are cut.
        lists: split → file that names its clips.
        shares: split → share of the sources that nothing else puts into a split; the rest is `train`.
        spread: over what.

    Returns:
        The rows, and names of what is left out, with reasons.

    Raises:
        DataError: if there is nothing, or all of it is bad.
        ParameterError: for an unknown preset or shares beyond 1.
    """
    shares = dict(shares or {})
    if min(shares.values(), default=0) < 0 or sum(shares.values()) > 1:
        raise ParameterError(f"shares of splits are from 0 to 1 together, found {', '.join(f'{k} {v:g}' for k, v in shares.items())}.")
    found, left_out = survey(folder, lists)
    good = []
    for candidate, checked in run(Check(folder, presets.get(preset_name).clip), found, spread):
        if isinstance(checked, Failure):
            left_out.append((candidate.path, checked.why.replace(f"{folder}/", "")))
        else:
            good.append((candidate, checked))
    rows, more = as_rows(good, shares)
    left_out += more
    if not rows:
        raise DataError(f"nothing in {folder} can be used; the first of {len(left_out)} reasons: {left_out[0][1]}")
    write_manifest(folder, rows, out)
    return rows, left_out
