"""Published files become models of ours: fetched or given, converted, and put where they are found by name."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unsilent import presets
from unsilent.checkpoints import catalog
from unsilent.checkpoints.bundle import SHIPPED, class_names, is_here, models_folder, write_about
from unsilent.checkpoints.catalog import Published
from unsilent.checkpoints.store import load_checkpoint, read_config, save_checkpoint
from unsilent.config import Config
from unsilent.errors import CheckpointError, ParameterError
from unsilent.models.melgan import MelGANConfig
from unsilent.models.sampler import SamplerConfig
from unsilent.presets import Preset
from unsilent.published.containers import Container, read_container
from unsilent.published.convert import convert, recognise
from unsilent.published.fetch import alone, fetch

Progress = Callable[[str, float], None]  # what is being done, share of it that is done in [0, 1]
_VOCODER_SIZES = {"mels": "n_mel_channels", "width": "ngf", "residual_blocks": "n_residual_layers"}  # our names, those of args.yml
DEFAULT = "everyday"  # the shipped model, whose vocoder serves where no other is at hand


def needed(name: str) -> list[Published]:
    """The published files that a model or network still lacks here, in the order in which they are wanted.

    Raises:
        ParameterError: if nothing of that name was published; names near ones.
    """
    if name in presets.names() and name not in catalog.names():
        why = "comes with the package" if (SHIPPED / name).exists() else "was never published"
        raise ParameterError(f"there is nothing to fetch: {name!r} {why}.")
    row = catalog.find(name)
    parts = ["melgan", presets.get(name).backbone] if row.kind == "sampler" else []
    return [one for one in (*(catalog.find(part) for part in parts if part), row) if not is_here(one.name)]


def install(
    row: Published, mirror: str | None = None, dtype: torch.dtype = torch.float32, progress: Progress = lambda what, share: None
) -> Path:
    """Fetch a published file, convert it, and put it where models are found by name; the download is then removed.

    Args:
        row: one of `needed`, in whose order a sampler finds its vocoder.
        mirror: URL of a folder to ask instead of the authors' server.
        dtype: of the weights on disk; `torch.float16` halves them.
        progress: told how far the download is, then that it is being converted.

    Returns:
        The folder.

    Raises:
        CheckpointError: if the file cannot be had, is damaged, or there is no room.
        ParameterError: if the mirror is no URL.
    """
    folder = models_folder() / row.name

    def say(done: int, total: int | None) -> None:
        expected = total or row.size or row.about_bytes or 0
        of_all = f" of {expected / 1e6:.0f}" if expected else ""
        progress(f"downloading {done / 1e6:.0f}{of_all} MB", done / expected if expected else 0.0)

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder, lambda done, total: progress("waiting for another process", 0.0)):
            if is_here(row.name):  # the other process has brought it
                return folder
            for left in folder.parent.glob(f".{row.name}.*"):
                shutil.rmtree(left)  # of a conversion that was killed
            path = fetch(row, mirror=mirror, progress=say)
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
    """Convert a published file to our format.

    A sampler with its codebook becomes a whole model, a bundle folder; any other network a checkpoint folder.

    Args:
        path: archive, checkpoint, or unpacked folder.
        out: folder to make; it appears whole or not at all.
        kind: which network to take from a file that holds several; None takes the one it was published as.
        preset: row of `unsilent.presets` that a sampler was trained as; None asks its name, then its settings.
        vocoder: published vocoder of the bundle; None takes the fetched one, or, if there is none, that of the default model.
        dtype: of the weights on disk; `torch.float16` halves them.

    Returns:
        What was written, in words.

    Raises:
        CheckpointError: if the file cannot be read or holds something else, or `out` is there already or cannot be written.
        ParameterError: for an unknown kind or preset, or a sampler that could be several of them.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists already; name a new folder, or remove it first.")
    with _whole_or_nothing(out) as (part, scratch):
        container = read_container(path, scratch)
        return _convert(container, part, kind, preset, vocoder, dtype)


def _convert(container: Container, part: Path, kind: str | None, preset: str | None, vocoder: Path | None, dtype: torch.dtype) -> str:
    if kind is None:
        with _naming(container):
            kind = recognise(container.weights)
    is_model = kind == "sampler" and any(name.startswith("first_stage_model.") for name in container.weights)
    if vocoder and not is_model:
        raise ParameterError(f"a vocoder belongs to a sampler with its codebook, but this is a {kind} alone.")
    if kind != "sampler":
        if preset:
            raise ParameterError(f"the preset {preset!r} was given, but this is a {kind} and serves several.")
        sizes = _vocoder_sizes(container) if kind == "melgan" else None
        return _save(part, kind, "", _network(container, kind, sizes), container.stem, dtype)
    row = presets.get(preset or _find_preset(container))
    sampler = _network(container, kind, row.sampler)
    if not is_model:
        return f"{_save(part, kind, row.name, sampler, container.stem, dtype)} for {row.name}, without a codebook"
    codebook = _network(container, "codebook", row.codebook)
    said = _save(part / "sampler", kind, row.name, sampler, container.stem, dtype)
    _save(part / "codebook", "codebook", row.name, codebook, container.stem, dtype)
    _save_vocoder(part / "vocoder", row.name, vocoder, dtype)
    write_about(part, row.name, {"summary": row.summary, "classes": class_names(row), "licences": _licences(row)})
    return f"{said}, with its codebook and a vocoder: the model {row.name}"


def _network(container: Container, kind: str, config: Config | None = None) -> nn.Module:
    with _naming(container):
        return convert(kind, container.weights, config)


@contextmanager
def _naming(container: Container) -> Iterator[None]:
    """Put the file in front of what is wrong with its weights."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{container.path}: {error}") from None


def _save(folder: Path, kind: str, preset: str, module: nn.Module, stem: str, dtype: torch.dtype) -> str:
    config = getattr(module, "config", Config())  # picture networks come in one size
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
    """What the vocoder's `args.yml` says, which its weights do not tell whole; None where it does not lie beside them."""
    said = {ours: container.settings.get(theirs) for ours, theirs in _VOCODER_SIZES.items()}
    return MelGANConfig(**said) if all(isinstance(value, int) for value in said.values()) else None


def _licences(row: Preset) -> dict[str, list[str]]:
    return {"weights": [f"{part.name}: {part.licence}" for part in map(catalog.find, catalog.names()) if row.name in part.presets]}


def _find_preset(container: Container) -> str:
    """Which row of the table a sampler is: its file's name says so, or its settings, or its sizes leave only one."""
    listed = catalog.find_by_stem(container.stem)
    if listed:
        return listed.name
    told = preset_of(container.settings)
    if told in presets.names():
        return told
    sizes = _network(container, "sampler").config
    fits = [name for name in presets.names() if _could_be(presets.get(name).sampler, sizes)]
    if len(fits) == 1:
        return fits[0]
    if not fits:
        raise CheckpointError(f"{container.path}: its sizes are those of no published sampler.")
    raise ParameterError(f"{container.stem} could be any of {', '.join(fits)}; say which with --preset.")


def _could_be(published: SamplerConfig, found: SamplerConfig) -> bool:
    """Same shapes; one random vector in the place of a feature cannot be told from a feature."""
    theirs, ours = (config.condition.model_copy(update={"kind": "features"}) for config in (published, found))
    return theirs == ours and (published.codes, published.transformer) == (found.codes, found.transformer)


def preset_of(settings: dict[str, Any]) -> str:
    """The name of the preset that a released project's YAML describes; empty if it does not say enough.

    Source:
        Released configs/vggsound_transformer.yaml and vas_transformer.yaml, with the changes that the README names for each row.
    """
    data, model = (_params(settings.get(part)) for part in ("data", "model"))
    corpus = next((name for name in ("vggsound", "vas") if f"/{name}/" in _text(data.get("spec_dir_path"))), "")
    codes = _params(model.get("first_stage_config")).get("n_embed")
    told = model.get("cond_stage_key")
    told = told if isinstance(told, list) else [told]
    pictures = "resnet50" if "resnet50" in _text(data.get("rgb_feats_dir_path")) else "bninception"
    n_features = _params(data.get("feat_sampler_cfg")).get("feat_sample_size", data.get("feat_crop_len"))
    parts = [corpus]
    if data.get("replace_feats_with_random"):
        parts.append("nofeats")
    elif "feature" in told:
        parts += [str(n_features) if isinstance(n_features, int) else "", pictures]
    if "target" in told:
        parts.append("class")
    if corpus == "vas" and codes == presets.VGGSOUND_CODEBOOK.n_codes:
        parts.append("vggsound-codebook")
    return "-".join(parts)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""  # anything else may be made to be endless as text


def _params(section: Any) -> dict[str, Any]:
    params = section.get("params") if isinstance(section, dict) else None
    return params if isinstance(params, dict) else {}


@contextmanager
def _whole_or_nothing(out: Path) -> Iterator[tuple[Path, Path]]:
    """A folder that becomes `out` if all goes well, and one for what is unpacked on the way; nothing is left of them otherwise."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
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


def _cannot_write(out: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"cannot write {out}: {error.strerror or error}.")
