"""Descriptions of models and networks: sizes, scores, licences, and the state of their weights."""

from pathlib import Path
from typing import Any, NamedTuple

from unsilent import presets
from unsilent.checkpoints import catalog
from unsilent.checkpoints.catalog import Published
from unsilent.checkpoints.folders import ROLES, SHIPPED, find_bundle, is_here, models_folder, present, read_bundle, read_config
from unsilent.errors import ParameterError, did_you_mean
from unsilent.models.configs import MelGANConfig
from unsilent.presets import Preset

_SCORES = {  # published by the authors, for the test set of VGGSound
    "vggishish": "paper table 5: top-1 34.70 %, top-5 63.71 %, mAP 36.63, mAUC 95.70",
    "melception": "paper table 5: top-1 44.49 %, top-5 73.79 %, mAP 47.58, mAUC 96.66",
}


class Entry(NamedTuple):
    """Row of the list; FID and MKL are empty if the paper has none."""

    name: str
    summary: str
    fid: str
    mkl: str
    weights: str


def entries() -> list[Entry]:
    """All models, the default first, then single networks."""
    models = [presets.get(name) for name in presets.names()]
    parts = [row for row in map(catalog.find, catalog.names()) if row.kind != "sampler"]
    return [
        *(Entry(row.name, row.summary, _score(row.fid), _score(row.mkl), _where(row.name)) for row in models),
        *(Entry(row.name, catalog.DESCRIPTIONS[row.kind], "", "", _where(row.name)) for row in parts),
    ]


def _score(value: float | None) -> str:
    return "" if value is None else str(value)


def _where(name: str) -> str:
    if is_here(name):
        return "shipped" if (SHIPPED / name).exists() else "fetched"
    return "to fetch" if name in catalog.names() else "never published"


def describe(name: str) -> str:
    """Description of a model or network as text: sizes, scores, source, licences, classes, and the folder of its weights.

    Args:
        name: name in the list, or path of a bundle or checkpoint folder.

    Raises:
        ParameterError: for another name; the message suggests similar names.
        CheckpointError: if the folder is damaged.
    """
    if (Path(name) / "bundle.json").exists():
        return "\n".join(_model(presets.get(read_bundle(Path(name))["preset"]), Path(name)))
    if (Path(name) / "config.json").exists():
        return "\n".join(_checkpoint(Path(name)))
    if name in catalog.names() and name not in presets.names():
        return "\n".join(_network(catalog.find(name)))
    if name not in presets.names():
        similar = did_you_mean(name, [entry.name for entry in entries()])
        raise ParameterError(f"there is no model {name!r}; {similar}`unsilent models` lists all.")
    row = presets.get(name)
    return "\n".join(_model(row, find_bundle(name) if name in present() else None))


def _model(row: Preset, folder: Path | None) -> list[str]:
    lines = [f"{row.name}: {row.summary}", f"source: {row.source}"]
    if row.fid is not None:
        lines.append(f"paper: FID {row.fid}, MKL {row.mkl}")
    about: dict[str, Any] = read_bundle(folder) if folder else {}
    sizes = {role: getattr(row, role).model_dump(mode="json") for role in ROLES}
    kinds = {"codebook": "codebook", "sampler": "sampler", "vocoder": "melgan" if isinstance(row.vocoder, MelGANConfig) else "vocos"}
    for role, part in about.get("parts", {}).items():
        found = read_config(folder / part)
        kinds[role], sizes[role] = found["kind"], found["config"]
    lines += [f"{role}: { {key: value for key, value in size.items() if key != 'clip'} }" for role, size in sizes.items()]
    lines += [f"clip: {sizes['codebook']['clip']}", f"parameters: {_parameters(kinds, sizes)}"]
    if row.backbone:
        lines.append(f"image network: {row.backbone}")
    classes = about.get("classes") or row.classes
    if classes:
        lines.append(f"classes: {'; '.join(classes)}")
    if row.name in catalog.names():
        lines += _published(catalog.find(row.name))
    lines.append(f"weights: {folder or _where(row.name)}")
    return lines + [f"licence of {what}: {'; '.join(rows)}" for what, rows in about.get("licences", {}).items()]


def _parameters(kinds: dict[str, str], sizes: dict[str, dict[str, Any]]) -> str:
    """Parameters of each part, and of codebook and sampler together, as the paper's table 4 counts them."""
    from unsilent.checkpoints.store import count_parameters  # imports torch

    counts = {role: count_parameters(kind, sizes[role]) for role, kind in kinds.items()}
    both = counts["codebook"] + counts["sampler"]
    return ", ".join(f"{role} {count:,}" for role, count in counts.items()) + f"; codebook and sampler together {both:,}"


def _network(row: Published) -> list[str]:
    lines = [f"{row.name}: {catalog.DESCRIPTIONS[row.kind]}", *([_SCORES[row.name]] if row.name in _SCORES else []), *_published(row)]
    if row.presets:
        lines.append(f"used by: {', '.join(row.presets)}")
    return [*lines, f"weights: {models_folder() / row.name if is_here(row.name) else _where(row.name)}"]


def _checkpoint(folder: Path) -> list[str]:
    about = read_config(folder)
    made = ", ".join(f"{what} {value}" for what, value in about["record"].items() if isinstance(value, str | int | float))
    return [f"{folder}: {about['kind']}", f"sizes: {about['config']}", *([f"made: {made}"] if made else [])]


def _published(row: Published) -> list[str]:
    size = row.size or row.approximate_size
    digest = f"MD5 {row.md5}" if row.md5 else f"SHA-256 {row.sha256}"
    return [
        f"file: {row.url}" + (f" ({size / 1e6:.0f} MB)" if size else ""),
        f"digest: {digest}",
        f"source of these facts: {row.source}",
        f"licence: {row.licence}",
    ]
