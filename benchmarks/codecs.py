"""Compare unsilent's codec, Opus at its lowest bit rate, and other codecs whose output is given: bit rates, distances, a figure.

    python benchmarks/codecs.py FOLDER -o OUT [--model everyday]

FOLDER has a folder per example with `original.wav` and one file per other codec, named after the codec. The sounds of each codec are
written to a folder in OUT, and `codecs.png` shows their mels. All sounds are compared at 22 050 Hz and -23 LUFS, after the codec's delay is
removed.

Columns, as means over the examples: bit rate in kbit/s (of files of codes and of Opus packets), mean absolute difference of mels in dB,
multi-resolution STFT loss of the training, and cosine similarity of the features of the model's classifier.
"""

import argparse
import io
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import av
import numpy as np
import torch

from unsilent.clip import Clip
from unsilent.codec.codec import Codec
from unsilent.codec.files import decode_file, encode_file
from unsilent.evaluation.classifier import load_classifier
from unsilent.media.audio import read_audio
from unsilent.media.sounds import write_sound
from unsilent.signal.loudness import normalise_loudness
from unsilent.signal.mel import RANGE_DB, log_mel01
from unsilent.train.losses import stft_loss

CLIP = Clip()
OPUS_BITS, OPUS_RATE = 6000, 48000  # lowest bit rate of Opus in bit/s; its sample rate in Hz
LONGEST_DELAY = 2205  # samples, 0.1 s
FIGURES = Path(__file__).parents[1] / "runs/paper/figures.py"


def main() -> None:
    """Parse the command line, encode and decode all examples, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--model", default="everyday")
    options = parser.parse_args()
    codec, classifier = Codec.load(options.model, "cpu", "float32"), load_classifier(options.model, "cpu")
    measured, methods = defaultdict(list), []
    for example in sorted(path.parent for path in options.folder.glob("*/original.wav")):
        original = normalise_loudness(read_audio(example / "original.wav", CLIP.sample_rate), CLIP.sample_rate)
        made = {options.model: through_codes(codec, original, options.out / f"{example.name}.uns"), "opus": through_opus(original)}
        others = sorted(path for path in example.glob("*.wav") if path.stem != "original")
        made |= {path.stem: (read_audio(path, CLIP.sample_rate), None) for path in others}
        methods = ["original", *made]
        save(options.out / "original" / f"{example.name}.wav", original)
        for name, (waveform, n_bytes) in made.items():
            aligned = align(normalise_loudness(waveform, CLIP.sample_rate), original)
            save(options.out / name / f"{example.name}.wav", aligned)
            rate = np.nan if n_bytes is None else 8 * n_bytes / len(original) * CLIP.sample_rate / 1000
            measured[name].append([rate, *compare(aligned, original, classifier)])
    sys.stdout.write(f"{'':24}{'kbit/s':>10}{'mel dB':>10}{'STFT':>10}{'cosine':>10}\n")
    for name, rows in measured.items():
        sys.stdout.write(f"{name:24}" + "".join(f"{value:10.3f}" for value in np.mean(rows, axis=0)) + "\n")
    folders = [options.out / name for name in methods]
    subprocess.run([sys.executable, FIGURES, *folders, "-o", options.out / "codecs.png", "--clips", str(len(rows))], check=True)


def save(path: Path, waveform: np.ndarray) -> None:
    """Write a sound, and create its folder if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sound(path, waveform, CLIP.sample_rate)


def through_codes(codec: Codec, waveform: np.ndarray, path: Path) -> tuple[np.ndarray, int]:
    """Encode and decode a sound with unsilent's codec. Returns the decoded sound and the size of the file in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    n_bytes = encode_file(codec, waveform, path).n_bytes
    return decode_file(codec, path).waveform, n_bytes


def through_opus(waveform: np.ndarray) -> tuple[np.ndarray, int]:
    """Encode and decode a sound with Opus. Returns the decoded sound and the size of the packets in bytes."""
    buffer, n_bytes = io.BytesIO(), 0
    with av.open(buffer, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=OPUS_RATE, options={"application": "audio", "vbr": "on"})
        stream.layout, stream.bit_rate = "mono", OPUS_BITS
        frame = av.AudioFrame.from_ndarray(waveform[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = CLIP.sample_rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            n_bytes += packet.size
            container.mux(packet)
    buffer.seek(0)
    resampler, pieces = av.AudioResampler("flt", "mono", CLIP.sample_rate), []
    with av.open(buffer) as container:
        for frame in container.decode(audio=0):
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    return np.concatenate(pieces)[: len(waveform)], n_bytes


def align(made: np.ndarray, original: np.ndarray) -> np.ndarray:
    """Remove the delay of a decoded sound, and fit its length to the original."""
    spectra = [np.fft.rfft(np.abs(one) - np.abs(one).mean(), 2 * len(original)) for one in (made, original)]
    likeness = np.fft.irfft(spectra[0] * spectra[1].conj())[: LONGEST_DELAY + 1]
    delay = int(likeness.argmax())  # from the envelopes, because some codecs do not keep the phase
    moved = made[delay : delay + len(original)]
    return np.pad(moved, (0, len(original) - len(moved))).astype(np.float32)


def compare(made: np.ndarray, original: np.ndarray, classifier) -> tuple[float, float, float]:
    """Return the mel distance in dB, the STFT loss, and the cosine similarity of classifier features."""
    one, other = (torch.from_numpy(waveform)[None] for waveform in (made, original))
    mels = [log_mel01(waveform, CLIP) for waveform in (one, other)]
    decibels = RANGE_DB * (mels[0] - mels[1]).abs().mean().item()
    features = [classifier.classify(classifier.fit(mel[0]))[0] for mel in mels]
    cosine = float(features[0] @ features[1] / np.linalg.norm(features[0]) / np.linalg.norm(features[1]))
    return decibels, sum(term.item() for term in stft_loss(one, other).values()), cosine


if __name__ == "__main__":
    main()
