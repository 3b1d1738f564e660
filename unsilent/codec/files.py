"""Sounds as files of codes (`.uns`): any length, without a sampler; see `bitstream` for the format."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from unsilent.codec.bitstream import Header, pack, unpack
from unsilent.codec.codec import Codec
from unsilent.errors import DataError, ParameterError
from unsilent.files import atomic_write
from unsilent.signal.loudness import normalise_loudness


@dataclass(frozen=True)
class Decoded:
    """A sound from a file of codes.

    Attributes:
        waveform: mono at the codec's sample rate, at the level that it was encoded at; silent where blocks were lost.
        lost: start and stop in seconds of every lost block.
    """

    waveform: Float[np.ndarray, "samples"]
    lost: list[tuple[float, float]]


def encode_file(codec: Codec, waveform: Float[np.ndarray, "samples"], out: Path) -> int:
    """Write a sound as a file of codes, one block for each clip of the codec.

    The sound is normalised to the loudness that the codebook was trained with. The file has the gain, so that decoding restores the level.

    Returns:
        Bytes of the file.

    Raises:
        ParameterError: for a waveform that `Codec.encode` refuses.
        DataError: if the file cannot be written.
    """
    levelled, gain_db = waveform, 0.0
    if codec.loudness_lufs is not None and len(waveform) and np.abs(waveform).max() > 0:
        levelled = normalise_loudness(waveform, codec.clip.sample_rate, codec.loudness_lufs)
        loudest = int(np.abs(waveform).argmax())
        gain_db = float(20 * np.log10(np.abs(levelled[loudest]) / np.abs(waveform[loudest])))
    grid = codec.encode(levelled).cpu().numpy()
    with atomic_write(out, DataError) as temporary, temporary.open("wb") as file:
        for part in pack(header_of(codec, gain_db), grid, len(waveform)):
            file.write(part)
    return out.stat().st_size


def header_of(codec: Codec, gain_db: float = 0.0) -> Header:
    """The header of a codec's files."""
    clip = codec.clip
    sizes = codec.codebook.rows, codec.codebook.config.n_codes, clip.sample_rate, clip.column_samples, clip.columns
    return Header(*sizes, gain_db, codec.digest)


@torch.inference_mode()
def decode_file(codec: Codec, path: Path) -> Decoded:
    """Read a sound from a file of codes.

    Raises:
        DataError: if the file cannot be read or holds no block that can be.
        ParameterError: if it was written with another codebook.
    """
    try:
        found = unpack(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if found.header != header_of(codec, found.header.gain_db):
        raise ParameterError(f"{path} was written with another codebook than this one; name its model.")
    grid = torch.from_numpy(found.grid.clip(min=0)).to(codec.device)
    waveform = codec.vocode(codec.decode(grid))[: found.n_samples].cpu().numpy() * np.float32(10 ** (-found.header.gain_db / 20))
    each, rate, lost = found.header.block_columns * found.header.column_samples, found.header.sample_rate, []
    for number in found.lost:
        waveform[number * each : (number + 1) * each] = 0
        lost.append((number * each / rate, min((number + 1) * each, len(waveform)) / rate))
    return Decoded(waveform, lost)
