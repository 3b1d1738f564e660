"""The classifier for FID, MKL and accuracy: loads it, computes its input, its features and its logits.

The input is the middle of a sound, with as many mel frames as in training; a shorter sound is repeated. A classifier that was trained on
normalised sounds gets sounds with trimmed silent ends (unless less than 0.19 s would remain), normalised to -23 LUFS. Other classifiers,
including the published ones, get unchanged sounds. Given mels are cut or repeated in the same way, at their own level; for a classifier of
unchanged sounds, they are not clipped to [0, 1], as in the released evaluation.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unsilent import labels, presets
from unsilent.checkpoints.folders import read_config, trained_loudness
from unsilent.checkpoints.store import load_checkpoint, weights_digest
from unsilent.choices import Device
from unsilent.clip import Clip
from unsilent.errors import CheckpointError, MediaError
from unsilent.evaluation.inputs import find_classifier
from unsilent.evaluation.sounds import Sound
from unsilent.media.audio import read_audio
from unsilent.models.listener import Listener
from unsilent.models.melception import Melception
from unsilent.models.vggishish import VGGishish
from unsilent.signal.loudness import normalise_loudness
from unsilent.signal.mel import log_mel01
from unsilent.signal.silence import SILENT_PEAK, without_silent_ends
from unsilent.speed.choice import choose_device
from unsilent.speed.threads import one_thread

Result = tuple[np.ndarray, np.ndarray]  # features [dim] and logits [labels] of one sound


@dataclass(frozen=True)
class Classifier:
    """A loaded classifier.

    Attributes:
        folder: checkpoint folder.
        kind: `vggishish`, `melception` or `listener`.
        module: the network, on its device.
        classes: names by class number.
        clip: grid of the input mels.
        frames: number of mel frames of the input.
        preprocesses: whether silent ends are trimmed and loudness is normalised, as in training.
        keeps_silence: whether silent sounds are classified, as in the paper, instead of refused.
        digest: 16 hexadecimal digits that identify weights and configuration.
    """

    folder: Path
    kind: str
    module: Melception | VGGishish | Listener
    classes: tuple[str, ...]
    clip: Clip
    frames: int
    preprocesses: bool
    keeps_silence: bool
    digest: str

    @property
    def output_layer(self) -> nn.Linear:
        """The last layer, from features to logits."""
        return self.module.classifier[-1] if isinstance(self.module, VGGishish) else self.module.fc

    @property
    def feature_dim(self) -> int:
        """Width of the features: 2048 in the paper's Melception, 512 in a listener, else the width of VGGish-ish's last hidden layer."""
        return self.output_layer.in_features

    def read_mel01(self, sound: Sound) -> Float[Tensor, "mels frames"]:
        """The classifier's input for a sound, a mel in [0, 1].

        Raises:
            MediaError: if the file cannot be read, is silent (unless `keeps_silence`), or is shorter than one code column (0.19 s).
        """
        return self.fit(self._mel01_of_array(sound.path) if sound.is_mel else self._mel01_of_audio(sound.path))

    def fit(self, mel01: Float[Tensor, "mels length"]) -> Float[Tensor, "mels frames"]:
        """The middle `frames` of a mel; a shorter one is repeated."""
        start = max(0, mel01.shape[1] - self.frames) // 2
        return mel01[:, (torch.arange(self.frames) + start) % mel01.shape[1]]

    def _mel01_of_audio(self, path: Path) -> Tensor:
        waveform = read_audio(path, self.clip.sample_rate)
        if not self.keeps_silence and not np.abs(waveform).max(initial=0) > SILENT_PEAK:
            raise MediaError(f"{path} is silent.")
        if len(waveform) < self.clip.column_samples:
            raise MediaError(
                f"{path} has {len(waveform) / self.clip.sample_rate:.2f} s of sound, but {self.clip.column_seconds:.2f} s are needed."
            )
        if self.preprocesses:
            waveform = normalise_loudness(without_silent_ends(waveform, self.clip.column_samples), self.clip.sample_rate)
        if len(waveform) < self.frames * self.clip.hop:
            waveform = np.resize(waveform, self.frames * self.clip.hop)
        return log_mel01(torch.from_numpy(waveform)[None], self.clip)[0]

    def _mel01_of_array(self, path: Path) -> Tensor:
        try:
            mel = np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise MediaError(f"{path} cannot be read as an array: {' '.join(str(error).split()) or 'it is damaged'}.") from None
        wanted = f"a mel must be floating point of shape [{self.clip.mels}, frames], with {self.clip.downsampling} frames or more"
        if mel.ndim != 2 or len(mel) != self.clip.mels or mel.shape[1] < self.clip.downsampling or mel.dtype.kind != "f":
            raise MediaError(f"{path} is {mel.dtype} of shape {list(mel.shape)}; {wanted}.")
        if not np.isfinite(mel).all():
            raise MediaError(f"{path} contains NaN or infinity.")
        mel01 = (torch.from_numpy(mel.astype(np.float32)) + 1) / 2
        if not self.keeps_silence and not (mel01 > 0).any():
            raise MediaError(f"{path} is silent.")
        return mel01.clamp(0, 1) if self.preprocesses else mel01

    @torch.inference_mode()
    def classify(self, mel01: Float[Tensor, "mels frames"]) -> tuple[Float[np.ndarray, "dim"], Float[np.ndarray, "labels"]]:
        """Features and logits of one input from `read_mel01`.

        Inputs are classified one at a time, on one thread and without TF32, because batching, threads and precision change rounding.
        """
        with one_thread(), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            batch = mel01[None].to(self.output_layer.weight.device)
            features = self.module.embed(batch) if isinstance(self.module, VGGishish) else self.module.features(batch)
            logits = self.output_layer(features)
        return features[0].cpu().numpy(), logits[0].cpu().numpy()

    def likeliest(self, path: Path, n: int = 10) -> list[tuple[str, float]]:
        """The most probable classes of a sound, a video with sound, or a mel, with probabilities.

        Args:
            path: file.
            n: largest number of classes.

        Raises:
            MediaError: as in `read_mel01`.
        """
        _, logits = self.classify(self.read_mel01(Sound(path.stem, path, None)))
        probabilities = torch.from_numpy(logits).double().softmax(0)
        best = probabilities.topk(min(n, len(self.classes)))
        return [(self.classes[index], value) for index, value in zip(best.indices.tolist(), best.values.tolist(), strict=True)]

    def without_bias(self, logits: Float[np.ndarray, "samples labels"]) -> Float[np.ndarray, "samples labels"]:
        """Logits minus the output layer's bias, for the inception score."""
        return logits - self.output_layer.bias.detach().cpu().numpy()

    def targets(self, labels: list[frozenset[str]]) -> Bool[np.ndarray, "samples labels"]:
        """Multi-hot targets from the labels of each sound; labels that are not classes are ignored."""
        return np.array([[name in one for name in self.classes] for one in labels], dtype=bool).reshape(len(labels), len(self.classes))


def load_classifier(name: str | None, device: Device = "auto", keeps_silence: bool = False) -> Classifier:
    """Load a classifier.

    Args:
        name: checkpoint folder of a classifier, name of an installed one, or a model (name or bundle folder) that has one.
        device: `auto` is a GPU if there is one.
        keeps_silence: see `Classifier`.

    Raises:
        CheckpointError: if the classifier is missing or damaged, or has no class names.
        ParameterError: if `name` is None, or the device is missing.
    """
    chosen, folder = choose_device(device), find_classifier(name)
    about = read_config(folder)
    module, record = load_checkpoint(folder, about["kind"]), about["record"]
    classes = tuple(record.get("classes", ()) or (labels.classes("vggsound") if "converted_from" in record else ()))
    if len(classes) != module.config.labels:
        raise CheckpointError(f"{folder} has {module.config.labels} classes, but {len(classes)} class names; it must name all.")
    clip = presets.get(about["preset"]).clip if about["preset"] else Clip()
    mels = module.config.mels if isinstance(module, Listener) else module.config.bands.mels
    if mels != clip.mels:
        raise CheckpointError(f"{folder} takes {mels} mel bands, but its preset {about['preset']} has {clip.mels}.")
    run = record.get("run", {})
    frames = run.get("crop_frames") or clip.frames
    preprocesses = trained_loudness(record) is not None
    facts = [about["config"], clip.model_dump(), frames, preprocesses, weights_digest(folder), *(["silence"] if keeps_silence else [])]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return Classifier(folder, about["kind"], module.to(chosen), classes, clip, frames, preprocesses, keeps_silence, digest)
