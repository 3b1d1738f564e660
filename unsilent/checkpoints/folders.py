"""Folders of bundles and checkpoints: finds and reads them. Does not import torch, so that errors appear at once."""

import json
import os
from pathlib import Path
from typing import Any

from unsilent import presets
from unsilent.checkpoints import catalog
from unsilent.config import Config
from unsilent.errors import CheckpointError, ParameterError
from unsilent.files import cache_folder
from unsilent.models.configs import AnySamplerConfig, ResidualSamplerConfig, SamplerConfig
from unsilent.request import Defaults, Request
from unsilent.signal.loudness import LOUDNESS, TARGET_LUFS

_LARGEST_JSON = 1 << 24  # bytes
SHIPPED = Path(__file__).parents[1] / "weights"  # bundles in the package, one folder each
ROLES = ("codebook", "sampler", "vocoder")
_DEFAULTS = ("top_k", "temperature", "guidance")  # defaults of a request that a bundle may set
OPTIONAL_ROLES = ("classifier", "exemplars")  # folders of the same names
# kinds of networks, see `store.KINDS`
KIND_NAMES = (
    "codebook", "residual_codebook", "sampler", "residual_sampler", "sight", "listener", "exemplars", "melgan", "vocos", "vggishish",
    "melception", "perceptual", "discriminator", "melgan_discriminator", "resnet50", "bninception",
)  # fmt: skip


def find_bundle(name: str) -> Path:
    """Folder of a model, by name or path.

    Raises:
        CheckpointError: if its weights are not installed, or the path is not a bundle.
        ParameterError: if there is no model of that name; the message suggests similar names.
    """
    for folder in (SHIPPED / name, models_folder() / name, Path(name)):
        if os.path.exists(folder / "bundle.json"):
            return folder
    if name in catalog.names() and name not in presets.names():
        raise CheckpointError(
            f"{name!r} is not a model but one network: {catalog.DESCRIPTIONS[catalog.find(name).kind]}; `unsilent models` lists both."
        )
    if os.path.exists(name) or Path(name).name != name:
        raise CheckpointError(f"{name!r} is not a bundle folder: it has no bundle.json.")
    presets.get(name)
    if name in catalog.names():
        raise CheckpointError(f"the weights of {name!r} are not installed; fetch them with: unsilent models fetch {name}.")
    raise CheckpointError(f"the weights of {name!r} were never published; installed models: {', '.join(present()) or 'none'}.")


def find_codebook(name: str) -> Path | None:
    """Checkpoint folder of a single codebook, given the name of a shipped one or a path; None for anything else."""
    for folder in (SHIPPED / name, Path(name)):
        if (folder / "config.json").is_file() and read_config(folder)["kind"] in ("codebook", "residual_codebook"):
            return folder
    return None


def find_part(role: str, source: str | Path) -> Path:
    """Checkpoint folder of a part.

    Args:
        role: one of `ROLES` or `OPTIONAL_ROLES`.
        source: a checkpoint folder, or the name or bundle folder of a model that has the part.

    Raises:
        CheckpointError: if the weights are not installed, or the model has no such part.
        ParameterError: if there is no model of that name.
    """
    for place in (SHIPPED / source, models_folder() / source, Path(source)):
        if (place / "config.json").is_file():
            return place
    bundle = find_bundle(str(source))
    folder = bundle / (read_bundle(bundle)["parts"][role] if role in ROLES else role)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"the model {str(source)!r} has no {role}; give a checkpoint folder instead.")
    return folder


def models_folder() -> Path:
    """Folder of installed models and networks, one folder each."""
    return cache_folder() / "models"


def is_here(name: str) -> bool:
    """Whether the weights of a model or a single network are installed."""
    marker = "bundle.json" if name in presets.names() else "config.json"
    return any(os.path.exists(root / name / marker) for root in (SHIPPED, models_folder()))  # false also for unreadable folders


def present() -> list[str]:
    """Names of the models whose weights are installed, shipped or fetched."""
    return [name for name in presets.names() if is_here(name)]


def sampler_config(folder: Path) -> AnySamplerConfig:
    """Configuration of a bundle's sampler, without loading it.

    Raises:
        CheckpointError: if the bundle or its sampler is missing or damaged.
    """
    part = folder / read_bundle(folder)["parts"]["sampler"]
    is_residual = read_config(part)["kind"] == "residual_sampler"
    return read_network_config(part, *(("residual_sampler", ResidualSamplerConfig) if is_residual else ("sampler", SamplerConfig)))


def read_defaults(folder: Path) -> Defaults:
    """Defaults of a bundle's model for requests, without loading it.

    Raises:
        CheckpointError: if the bundle or its sampler is missing or damaged.
    """
    about = read_bundle(folder)
    preset = presets.get(about["preset"])
    values = {"top_k": preset.top_k, "temperature": preset.temperature, "guidance": preset.guidance} | about.get("defaults", {})
    sampler, classes = sampler_config(folder), tuple(about.get("classes", ()))
    sees = sampler.condition.kind == "sight"
    return Defaults(
        preset.name,
        sampler.codes,
        **values,
        classes=classes,
        candidates=preset.candidates if sees and has_listener(folder) else 0,
        sees=sees,
    )


def trained_loudness(record: dict[str, Any]) -> float | None:
    """Loudness in LUFS of the training sounds of a codebook or classifier, from its record; None if they were not normalised.

    Records without this entry: the authors' networks were trained without normalisation, our older ones at -23 LUFS.
    """
    return record.get(LOUDNESS, None if "converted_from" in record else TARGET_LUFS)


def has_listener(folder: Path) -> bool:
    """Whether a bundle's classifier is a listener, which can rank sounds."""
    classifier = folder / "classifier"
    return (classifier / "config.json").is_file() and read_config(classifier)["kind"] == "listener"


def read_bundle(folder: Path) -> dict[str, Any]:
    """Content of `bundle.json`: `preset`, `parts` (subfolder of each role), `classes` of a model with classes, and optional entries.

    Raises:
        CheckpointError: if the file cannot be read, or lacks the preset or the parts.
    """
    about = read_json(folder / "bundle.json")
    parts, classes, licences = about.get("parts"), about.get("classes", []), about.get("licences", {})
    if not isinstance(about.get("preset"), str) or about["preset"] not in presets.all_names() or not _has_texts(parts, set(ROLES)):
        raise CheckpointError(
            f"{folder / 'bundle.json'} is not a bundle of this project: it must name a known preset and {', '.join(ROLES)}."
        )
    if not _is_texts(classes) or not isinstance(licences, dict) or not all(map(_is_texts, licences.values())):
        raise CheckpointError(f"{folder / 'bundle.json'} is damaged: its classes or licences are not lists of texts.")
    defaults = about.get("defaults", {})
    if not isinstance(defaults, dict) or not defaults.keys() <= set(_DEFAULTS) or None in defaults.values():
        raise CheckpointError(f"{folder / 'bundle.json'} is damaged: its defaults are not values of {', '.join(_DEFAULTS)}.")
    try:
        Request(**defaults)
    except ParameterError as error:
        raise CheckpointError(f"{folder / 'bundle.json'} is damaged: {error}") from None
    return about


def _has_texts(value: Any, keys: set[str]) -> bool:
    return isinstance(value, dict) and value.keys() == keys and all(isinstance(one, str) for one in value.values())


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def read_config(folder: Path) -> dict[str, Any]:
    """Content of a checkpoint folder's `config.json`.

    Raises:
        CheckpointError: if the file is missing, not JSON, or of an unknown kind.
    """
    about = read_json(folder / "config.json")
    missing = {"kind", "preset", "config", "record"} - about.keys()
    if missing or about["kind"] not in KIND_NAMES or not isinstance(about["record"], dict):
        raise CheckpointError(f"{folder / 'config.json'} is not a checkpoint of this project (kind {about.get('kind')!r}).")
    return about


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        CheckpointError: if the file cannot be read or holds anything else.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_JSON + 1)
        value = json.loads(text) if len(text) <= _LARGEST_JSON else None
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object.")
    return value


def read_network_config(folder: Path, kind: str, build: type[Config]) -> Config:
    """Configuration of the network in a checkpoint folder.

    Raises:
        CheckpointError: if `config.json` is missing or damaged, of another kind, or does not fit `build`.
    """
    about = read_config(folder)
    if about["kind"] != kind:
        raise CheckpointError(f"{folder} holds a {about['kind']} instead of a {kind}.")
    try:
        return build(**about["config"])
    except (ParameterError, TypeError) as error:
        raise CheckpointError(f"{folder / 'config.json'} does not describe a {kind} of this version: {error}") from None
