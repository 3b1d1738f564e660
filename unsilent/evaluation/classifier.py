"""A classifier that sounds are judged by: how it is found, what of a sound it is shown, and what it says.

What it is shown is the middle of a sound, as many mel frames as it was trained on; a shorter sound is repeated until it fills them. A
classifier trained here hears sounds as it did in training: their silent ends cut (unless less than 0.19 s would be left) and brought to
-23 LUFS; a published one hears them as they are. Mels in place of sounds are cut or repeated likewise, at the level they have.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unsilent import labels, presets
from unsilent.checkpoints import catalog
from unsilent.checkpoints.bundle import SHIPPED, models_folder
from unsilent.checkpoints.store import load_checkpoint, read_config, weights_digest
from unsilent.clip import Clip
from unsilent.errors import CheckpointError, MediaError, ParameterError
from unsilent.evaluation.sounds import Sound
from unsilent.media.audio import read_audio
from unsilent.models.melception import Melception
from unsilent.models.vggishish import VGGishish
from unsilent.signal.loudness import normalise_loudness
from unsilent.signal.mel import log_mel01, to_mel01
from unsilent.signal.silence import SILENT_PEAK, trim_silent_ends

KINDS = ("vggishish", "melception")


@dataclass(frozen=True)
class Classifier:
    """A loaded classifier and what a report says of it.

    Attributes:
        folder: of its checkpoint.
        kind: `vggishish` or `melception`.
        module: on the device it computes on.
        classes: names in the order of their numbers.
        clip: the grid of mels.
        frames: mel frames that it is shown.
        prepares: whether silent ends are cut and loudness is set, as in its training.
        digest: 16 hexadecimal digits that stand for its weights and configuration.
    """

    folder: Path
    kind: str
    module: Melception | VGGishish
    classes: tuple[str, ...]
    clip: Clip
    frames: int
    prepares: bool
    digest: str

    @property
    def last(self) -> nn.Linear:
        """The layer that makes logits of features."""
        return self.module.fc if isinstance(self.module, Melception) else self.module.classifier[-1]

    @property
    def dim(self) -> int:
        """Numbers in one feature vector: 2048 in the paper's Melception, or the width of VGGish-ish's last hidden layer."""
        return self.last.in_features

    def read(self, sound: Sound) -> Float[Tensor, "mels frames"]:
        """The mel in [0, 1] that the classifier is shown of a sound.

        Raises:
            MediaError: if the file cannot be read, is silent, or shorter than one code column (0.19 s).
        """
        mel01 = self._read_mel(sound.path) if sound.is_mel else self._read_sound(sound.path)
        start = max(0, mel01.shape[1] - self.frames) // 2
        return mel01[:, (torch.arange(self.frames) + start) % mel01.shape[1]]

    def _read_sound(self, path: Path) -> Tensor:
        waveform = read_audio(path, self.clip.sample_rate)
        if not np.abs(waveform).max(initial=0) > SILENT_PEAK:
            raise MediaError(f"{path} is silent.")
        if len(waveform) < self.clip.column_samples:
            raise MediaError(
                f"{path} has {len(waveform) / self.clip.sample_rate:.2f} s of sound, {self.clip.column_seconds:.2f} s are needed."
            )
        if self.prepares:
            trimmed = trim_silent_ends(waveform)
            # a single click, repeated, would be a tone
            waveform = normalise_loudness(trimmed if len(trimmed) >= self.clip.column_samples else waveform, self.clip.sample_rate)
        if len(waveform) < self.frames * self.clip.hop:
            waveform = np.resize(waveform, self.frames * self.clip.hop)
        return log_mel01(torch.from_numpy(waveform)[None], self.clip)[0]

    def _read_mel(self, path: Path) -> Tensor:
        try:
            mel = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise MediaError(f"{path} is no array that can be read: {' '.join(str(error).split()) or 'damaged'}.") from None
        wanted = f"a mel has shape [{self.clip.mels}, frames], {self.clip.downsampling} frames or more, of floats"
        if mel.ndim != 2 or len(mel) != self.clip.mels or mel.shape[1] < self.clip.downsampling or mel.dtype.kind != "f":
            raise MediaError(f"{path} holds {mel.dtype} of shape {list(mel.shape)}; {wanted}.")
        if not np.isfinite(mel).all():
            raise MediaError(f"{path} holds NaN or infinity.")
        mel01 = to_mel01(torch.from_numpy(mel.astype(np.float32)))
        if not mel01.any():
            raise MediaError(f"{path} is silent.")
        return mel01

    @torch.inference_mode()
    def classify(self, mel01: Float[Tensor, "mels frames"]) -> tuple[Float[np.ndarray, "dim"], Float[np.ndarray, "labels"]]:
        """Features and logits of what `read` gives: one sound at a time in full precision, since sums in other shapes round differently."""
        with _exact():
            batch = mel01[None].to(self.last.weight.device)
            features = self.module.features(batch) if isinstance(self.module, Melception) else self.module.embed(batch)
            logits = self.last(features)
        return features[0].cpu().numpy(), logits[0].cpu().numpy()

    def unbiased(self, logits: Float[np.ndarray, "samples labels"]) -> Float[np.ndarray, "samples labels"]:
        """Logits without the last layer's bias, as the inception score wants them."""
        return logits - self.last.bias.detach().cpu().numpy()

    def truth(self, names: list[frozenset[str]]) -> np.ndarray:
        """Bool `[samples, labels]`: which classes are true of each sound; labels that the classifier does not know are left out."""
        return np.array([[name in one for name in self.classes] for one in names], dtype=bool).reshape(len(names), len(self.classes))


@contextmanager
def _exact() -> Iterator[None]:
    """One thread on a CPU, no shortened numbers on a GPU: the same result whatever else is going on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(before)


def load_classifier(name: str | None, device: str = "auto") -> Classifier:
    """Load a classifier.

    Args:
        name: checkpoint folder of a VGGish-ish or Melception, name of a published one that was fetched, or a model, shipped, fetched or by
            path, whose bundle has a folder `classifier`.
        device: `cpu`, `cuda`, or `auto`, which takes a GPU if there is one.

    Raises:
        CheckpointError: if there is no such classifier here, it is damaged, or it does not tell its classes.
        ParameterError: if none is named, or for a device that is not there.
    """
    if name is None:
        raise ParameterError(
            "sounds are judged by a classifier, and none is named: give --classifier with the checkpoint folder of a VGGish-ish or "
            "Melception that was trained on such sounds, or melception, the published one for VGGSound."
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device cuda was asked for, but no CUDA device is here; use cpu or auto.")
    chosen = "cuda" if torch.cuda.is_available() and device != "cpu" else "cpu"
    folder = _find(name)
    about = read_config(folder)
    if about["kind"] not in KINDS:
        raise CheckpointError(f"{folder} holds a {about['kind']}; sounds are judged by a {' or a '.join(KINDS)}.")
    module, record = load_checkpoint(folder, about["kind"]), about["record"]
    classes = tuple(record.get("classes", ()) or (labels.classes("vggsound") if "converted_from" in record else ()))
    if len(classes) != module.config.labels:
        raise CheckpointError(f"{folder} has {module.config.labels} classes and names {len(classes)} of them; a judge must name all.")
    clip = presets.get(about["preset"]).clip if about["preset"] else Clip()
    if module.config.bands.mels != clip.mels:
        raise CheckpointError(f"{folder} reads {module.config.bands.mels} mel bands, its preset {about['preset']} has {clip.mels}.")
    run = record.get("run", {})
    frames = run.get("crop_frames") or clip.frames
    facts = [about["config"], clip.model_dump(), frames, bool(run), weights_digest(folder)]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return Classifier(folder, about["kind"], module.to(chosen), classes, clip, frames, bool(run), digest)


def _find(name: str) -> Path:
    for place in (SHIPPED / name, models_folder() / name, Path(name)):
        for folder in (place, place / "classifier"):
            if os.path.exists(folder / "config.json"):
                return folder
        if os.path.exists(place / "bundle.json"):
            raise CheckpointError(f"the model {name!r} has no classifier of its own; name a checkpoint of a {' or a '.join(KINDS)}.")
    if name in catalog.names() and catalog.find(name).kind in KINDS:
        raise CheckpointError(f"the classifier {name!r} is not here; fetch it with: unsilent models fetch {name}.")
    raise CheckpointError(f"there is no classifier {name!r}: neither a checkpoint folder nor the name of a published {' or '.join(KINDS)}.")
