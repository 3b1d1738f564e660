"""Assembles a bundle from trained parts: finds them, checks their configurations against each other, and copies them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unsilent import presets
from unsilent.checkpoints.bundle import misfit, misfit_of_exemplars, save_bundle
from unsilent.checkpoints.folders import OPTIONAL_ROLES, ROLES, find_part, read_config, read_json
from unsilent.checkpoints.store import KINDS, count_parameters, load_checkpoint, network_config, save_checkpoint
from unsilent.errors import CheckpointError
from unsilent.presets import Preset
from unsilent.request import Defaults, Request
from unsilent.vision.features import find_backbone

_CLASSIFIERS = ("vggishish", "melception", "listener")
_KINDS = {
    "codebook": ("codebook",),
    "sampler": ("sampler",),
    "vocoder": ("vocos", "melgan"),
    "classifier": _CLASSIFIERS,
    "exemplars": ("exemplars",),
}  # possible suffixes of the kind of each role


@dataclass(frozen=True)
class Part:
    """One network of an assembled bundle.

    Attributes:
        role: one of `ROLES` or `OPTIONAL_ROLES`.
        kind: a key of `checkpoints.store.KINDS`.
        folder: checkpoint from which it was copied.
        n_parameters: number of learnt parameters.
    """

    role: str
    kind: str
    folder: Path
    n_parameters: int


def assemble(
    out: Path,
    sources: Mapping[str, str],
    preset_name: str | None = None,
    defaults: Mapping[str, float | int | None] | None = None,
    about: Path | None = None,
    dtype: torch.dtype = torch.float16,
) -> list[Part]:
    """Make a bundle from trained parts.

    Args:
        out: folder that must not contain a bundle yet.
        sources: source of each role: a checkpoint folder, or an installed model or bundle folder that has the part. Classifier and
            exemplars are optional.
        preset_name: the model's preset; None takes that of the sampler's checkpoint. It determines the image network and the defaults that
            are not given.
        defaults: `top_k`, `temperature` and `guidance` of the model.
        about: JSON file with further entries of `bundle.json`: `summary`, and `licences` (lists of texts by subject).
        dtype: dtype of the weights on disk.

    Returns:
        The parts, in the order of the roles.

    Raises:
        CheckpointError: if a part is missing, damaged, of the wrong kind, or does not fit the others; if `out` is a bundle or cannot be
            written. Then nothing is written.
        ParameterError: for an unknown preset, or defaults out of range.
    """
    if (out / "bundle.json").exists():
        raise CheckpointError(f"{out} is a bundle already; choose another folder.")
    folders = {role: find_part(role, source) for role, source in sources.items()}
    described = {role: read_config(folder) for role, folder in folders.items()}
    for role, description in described.items():
        if not description["kind"].endswith(_KINDS[role]):
            raise CheckpointError(f"{folders[role]} holds a {description['kind']}, which cannot be the {role} of a model.")
    preset = presets.get(preset_name or described["sampler"]["preset"])
    configs = {role: network_config(folders[role], described[role]["kind"]) for role in ROLES}
    classes = _classes(described["sampler"], preset)
    backbone = find_backbone(preset.backbone) if preset.backbone else None
    if problem := misfit(*(configs[role] for role in ROLES), backbone, classes):
        raise CheckpointError(f"the parts do not fit together: {problem}.")
    if "exemplars" in folders and (problem := misfit_of_exemplars(network_config(folders["exemplars"], "exemplars"), configs["sampler"])):
        raise CheckpointError(f"the parts do not fit together: {problem}.")
    chosen = {name: value for name, value in (defaults or {}).items() if value is not None}
    _check_defaults(chosen, preset, configs["codebook"].n_codes, classes)
    more = {} if about is None else read_json(about)
    entries = {**({"classes": list(classes)} if classes else {}), **({"defaults": chosen} if chosen else {}), **more}
    save_bundle(out, preset.name, {role: folders[role] for role in ROLES}, entries, dtype)
    for role in OPTIONAL_ROLES:
        if role in folders:
            _copy(folders[role], described[role], out / role, dtype)
    return [Part(role, one["kind"], folders[role], count_parameters(one["kind"], one["config"])) for role, one in described.items()]


def _classes(description: Mapping[str, Any], preset: Preset) -> tuple[str, ...]:
    """Names by class number, from the sampler's training or, for a converted sampler, from its data set."""
    if "classes" in description["record"]:
        return tuple(description["record"]["classes"])
    return preset.classes if description["config"]["condition"]["n_classes"] else ()


def _check_defaults(chosen: Mapping[str, float | int], preset: Preset, n_codes: int, classes: tuple[str, ...]) -> None:
    own = Defaults(preset.name, n_codes, preset.top_k, preset.temperature, preset.guidance, classes)
    Request(**chosen, label=classes[0] if classes else None).resolve(own)


def _copy(folder: Path, description: Mapping[str, Any], out: Path, dtype: torch.dtype) -> None:
    kind = description["kind"]
    module, config = load_checkpoint(folder, kind), KINDS[kind][0](**description["config"])
    save_checkpoint(out, kind, description["preset"], config, module.state_dict(), description["record"], dtype)
