"""Installs published models: downloads files, and converts them into the folder of installed models."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unsilent import presets
from unsilent.checkpoints import catalog
from unsilent.checkpoints.bundle import write_about
from unsilent.checkpoints.catalog import Published
from unsilent.checkpoints.folders import SHIPPED, is_here, models_folder, read_config
from unsilent.checkpoints.store import load_checkpoint, save_checkpoint
from unsilent.config import Config
from unsilent.errors import CheckpointError, ParameterError
from unsilent.files import try_lock
from unsilent.models.configs import AnySamplerConfig, MelGANConfig, SamplerConfig
from unsilent.presets import Preset
from unsilent.published.containers import Container, read_container
from unsilent.published.convert import convert, recognise
from unsilent.published.fetch import fetch, lock

Progress = Callable[[str, float], None]  # current step, and its finished share in [0, 1]
_VOCODER_SIZES = {"mels": "n_mel_channels", "width": "ngf", "residual_blocks": "n_residual_layers"}  # our names → those of args.yml
_MARK = ".unsilent-part"  # suffix of unfinished folders
DEFAULT = "everyday"  # the shipped model, whose vocoder is used if no published one is installed


def install(
    row: Published,
    mirror: str | None = None,
    dtype: torch.dtype = torch.float32,
    progress: Progress = lambda step, share: None,
    wanted: Sequence[Published] = (),
) -> Path:
    """Fetch a published file, convert it into the folder of installed models, and remove the download.

    Args:
        row: one of `fetch.needed`; install in their order, because a sampler uses the installed vocoder.
        mirror: URL of a folder that replaces the authors' server.
        dtype: dtype of the weights on disk; `torch.float16` halves their size.
        progress: called with the current step and its finished share.
        wanted: all files of the same request, which error messages list.

    Returns:
        The folder of the model or network.

    Raises:
        CheckpointError: if the file cannot be downloaded, is damaged, or the disk is full.
        ParameterError: if the mirror is not a URL.
    """
    folder = models_folder() / row.name

    def report(done: int, total: int | None) -> None:
        expected = total or row.size or row.approximate_size or 0
        of_all = f" of {expected / 1e6:.0f}" if expected else ""
        progress(f"downloading {done / 1e6:.0f}{of_all} MB", done / expected if expected else 0.0)

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock(folder, lambda done, total: progress("waiting for another process", 0.0)):
            if is_here(row.name):  # another process has installed it
                return folder
            path = fetch(row, mirror=mirror, progress=report, wanted=wanted)
            progress("converting", 1.0)
            convert_file(path, folder, kind=row.kind, preset=row.name if row.kind == "sampler" else None, dtype=dtype)
            path.unlink()
    except OSError as error:
        raise CheckpointError(f"cannot write {folder}: {error.strerror or error}; set UNSILENT_CACHE to another folder.") from None
    return folder


def convert_file(
    path: Path,
    out: Path,
    *,
    kind: str | None = None,
    preset: str | None = None,
    vocoder: Path | None = None,
    dtype: torch.dtype = torch.float32,
) -> str:
    """Convert a published file to our format: a sampler with its codebook to a bundle, any other network to a checkpoint.

    Args:
        path: archive, checkpoint, or unpacked folder.
        out: folder to make, atomically.
        kind: kind of the network to take from a file with several; None takes the kind that it was published as.
        preset: row of `unsilent.presets` for a sampler; None infers it from the file's name, its settings or its sizes.
        vocoder: published vocoder for the bundle; None takes the installed one, or else that of the default model.
        dtype: dtype of the weights on disk; `torch.float16` halves their size.

    Returns:
        A sentence that describes the result.

    Raises:
        CheckpointError: if the file cannot be read or has another kind, or `out` exists or cannot be written.
        ParameterError: for an unknown kind or preset, or a sampler that matches several presets.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists already; choose a new folder, or remove it first.")
    with _atomic_folder(out) as (part, scratch):
        container = read_container(path, scratch)
        return _convert(container, part, kind, preset, vocoder, dtype)


def _convert(container: Container, part: Path, kind: str | None, preset: str | None, vocoder: Path | None, dtype: torch.dtype) -> str:
    if kind is None:
        with _name_file(container):
            kind = recognise(container.weights)
    is_model = kind == "sampler" and any(name.startswith("first_stage_model.") for name in container.weights)
    if vocoder and not is_model:
        raise ParameterError(f"a vocoder is for a sampler with its codebook, but this is a {kind} alone.")
    if kind != "sampler":
        if preset:
            raise ParameterError(f"the preset {preset!r} was given, but a {kind} has none.")
        sizes = _vocoder_sizes(container) if kind == "melgan" else None
        return _save(part, kind, "", _network(container, kind, sizes), container.stem, dtype)
    row = presets.get(preset or _find_preset(container))
    sampler = _network(container, kind, row.sampler)
    if not is_model:
        return f"{_save(part, kind, row.name, sampler, container.stem, dtype)} for {row.name}, without a codebook"
    codebook = _network(container, "codebook", row.codebook)
    summary = _save(part / "sampler", kind, row.name, sampler, container.stem, dtype)
    _save(part / "codebook", "codebook", row.name, codebook, container.stem, dtype)
    _save_vocoder(part / "vocoder", row.name, vocoder, dtype)
    write_about(part, row.name, {"summary": row.summary, "classes": row.classes, "licences": _licences(row)})
    return f"{summary}, with its codebook and a vocoder: the model {row.name}"


def _network(container: Container, kind: str, config: Config | None = None) -> nn.Module:
    with _name_file(container):
        return convert(kind, container.weights, config)


@contextmanager
def _name_file(container: Container) -> Iterator[None]:
    """Prefix errors about weights with the path of the file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{container.path}: {error}") from None


def _save(folder: Path, kind: str, preset: str, module: nn.Module, stem: str, dtype: torch.dtype) -> str:
    config = getattr(module, "config", Config())  # image networks have no configuration
    save_checkpoint(folder, kind, preset, config, module.state_dict(), {"converted_from": stem}, dtype)
    return f"{kind} of {sum(value.numel() for value in module.parameters()) / 1e6:.1f} M parameters"


def _save_vocoder(folder: Path, preset: str, published: Path | None, dtype: torch.dtype) -> None:
    if published:
        with tempfile.TemporaryDirectory() as scratch:
            container = read_container(published, Path(scratch))
            vocoder = _network(container, "melgan", _vocoder_sizes(container))
            _save(folder, "melgan", preset, vocoder, container.stem, dtype)
        return
    source = models_folder() / "melgan" if is_here("melgan") else SHIPPED / DEFAULT / "vocoder"
    about = read_config(source)
    module = load_checkpoint(source, about["kind"])
    save_checkpoint(folder, about["kind"], preset, module.config, module.state_dict(), about["record"], dtype)


def _vocoder_sizes(container: Container) -> MelGANConfig | None:
    """Configuration from the vocoder's `args.yml`, because shapes do not determine all of it; None without that file."""
    sizes = {ours: container.settings.get(theirs) for ours, theirs in _VOCODER_SIZES.items()}
    return MelGANConfig(**sizes) if all(isinstance(value, int) for value in sizes.values()) else None


def _licences(row: Preset) -> dict[str, list[str]]:
    return {"weights": [f"{part.name}: {part.licence}" for part in map(catalog.find, catalog.names()) if row.name in part.presets]}


def _find_preset(container: Container) -> str:
    """Preset of a sampler by its file's name, its settings, or its sizes if they match only one."""
    listed = catalog.find_by_stem(container.stem)
    if listed:
        return listed.name
    described = preset_of(container.settings)
    if described in presets.names():
        return described
    sizes = _network(container, "sampler").config
    fits = [name for name in presets.names() if _could_be(presets.get(name).sampler, sizes)]
    if len(fits) == 1:
        return fits[0]
    if not fits:
        raise CheckpointError(f"{container.path}: no published sampler has these sizes.")
    raise ParameterError(f"{container.stem} could be any of {', '.join(fits)}; choose one with --preset.")


def _could_be(published: AnySamplerConfig, found: SamplerConfig) -> bool:
    """Whether all shapes are equal; shapes do not distinguish a random vector from a feature."""
    if not isinstance(published, SamplerConfig):
        return False
    theirs, ours = (config.condition.model_copy(update={"kind": "features"}) for config in (published, found))
    return theirs == ours and (published.codes, published.transformer) == (found.codes, found.transformer)


def preset_of(settings: dict[str, Any]) -> str:
    """Name of the preset that a released YAML describes; incomplete if entries are missing.

    Source:
        Released configs/vggsound_transformer.yaml and vas_transformer.yaml, with the changes in the README for each row.
    """
    data, model = (_params(settings.get(part)) for part in ("data", "model"))
    corpus = next((name for name in ("vggsound", "vas") if f"/{name}/" in _text(data.get("spec_dir_path"))), "")
    codes = _params(model.get("first_stage_config")).get("n_embed")
    keys = model.get("cond_stage_key")
    keys = keys if isinstance(keys, list) else [keys]
    backbone = "resnet50" if "resnet50" in _text(data.get("rgb_feats_dir_path")) else "bninception"
    n_features = _params(data.get("feat_sampler_cfg")).get("feat_sample_size", data.get("feat_crop_len"))
    parts = [corpus]
    if data.get("replace_feats_with_random"):
        parts.append("nofeats")
    elif "feature" in keys:
        parts += [str(n_features) if isinstance(n_features, int) else "", backbone]
    if "target" in keys:
        parts.append("class")
    if corpus == "vas" and codes == presets.VGGSOUND_CODEBOOK.n_codes:
        parts.append("vggsound-codebook")
    return "-".join(parts)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""  # converting other YAML values to text may take exponential memory


def _params(section: Any) -> dict[str, Any]:
    params = section.get("params") if isinstance(section, dict) else None
    return params if isinstance(params, dict) else {}


@contextmanager
def _atomic_folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a folder that is renamed to `out` at the end of the block, and a folder for extracted files. An error removes both."""
    with ExitStack() as locks:
        yield from _folder_beside(out, locks)


def _folder_beside(out: Path, locks: ExitStack) -> Iterator[tuple[Path, Path]]:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _sweep(out)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=_MARK))
        try_lock(locks.enter_context((temporary / "lock").open("ab")).fileno())
    except OSError as error:
        raise _cannot_write(out, error) from None
    try:
        part, scratch = temporary / "part", temporary / "scratch"
        part.mkdir()
        scratch.mkdir()
        yield part, scratch
        try:
            if out.exists():
                out.rmdir()
            os.rename(part, out)
        except OSError as error:
            raise _cannot_write(out, error) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sweep(out: Path) -> None:
    """Remove folders that killed conversions left beside `out`."""
    for left in out.parent.glob(f".*{_MARK}"):
        with suppress(OSError), (left / "lock").open("rb") as file:
            if try_lock(file.fileno()):
                shutil.rmtree(left, ignore_errors=True)


def _cannot_write(out: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"cannot write {out}: {error.strerror or error}.")
