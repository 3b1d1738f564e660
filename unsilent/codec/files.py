"""Writes and reads sounds as files of codes (`.uns`), of any length in bounded memory. `bitstream` has the format."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32

from unsilent.codec.bitstream import Header, Unpacked, pack, read_header, unpack
from unsilent.codec.codec import Codec
from unsilent.errors import DataError, ParameterError
from unsilent.files import atomic_write
from unsilent.signal.loudness import LoudnessMeter, normalising_gain_db

_MOST_COLUMNS = 1 << 40  # past the end of any sound
Blocks = Callable[[], Iterable[Float[np.ndarray, "_"]]]  # reads a sound from its start, in blocks of any length


@dataclass(frozen=True)
class Decoded:
    """A sound from a file of codes.

    Attributes:
        n_samples: length of the sound, or of the part.
        blocks: mono at the codec's sample rate and the level of the encoded sound; 0 in lost blocks of codes. Blocks are decoded while the
            iterator is read, which is possible once.
        lost: start and stop, in seconds, of every lost block of codes.
        disagreed: whether blocks were lost because the decoded codes differ from the encoded ones.
    """

    n_samples: int
    blocks: Iterator[Float32[np.ndarray, "samples"]]
    lost: list[tuple[float, float]]
    disagreed: bool

    @cached_property
    def waveform(self) -> Float32[np.ndarray, "samples"]:
        """The whole sound; consumes `blocks`."""
        return np.concatenate([np.zeros(0, np.float32), *self.blocks])


@dataclass(frozen=True)
class Encoded:
    """Sizes of a written file: its bytes, and the samples of the sound."""

    n_bytes: int
    n_samples: int


def encode_file(codec: Codec, sound: Float[np.ndarray, "samples"] | Blocks, out: Path, entropy: bool = False) -> Encoded:
    """Write a sound as a file of codes, one block for each clip of the codec.

    The sound is normalised to the loudness of the codebook's training. The file stores the gain, so decoding restores the level.

    Args:
        codec: encodes the sound.
        sound: waveform, or a function that reads it in blocks. The function is called twice: to measure loudness and to encode.
        out: file to write.
        entropy: whether codes are range-coded with the probabilities of the model's sampler, which makes the file smaller.

    Raises:
        ParameterError: for a waveform that `Codec.encode` refuses, or a codec without a sampler for `entropy`.
        DataError: if the file cannot be written.
    """
    read = sound if callable(sound) else lambda: [sound]
    meter, coder = LoudnessMeter(codec.clip.sample_rate), codec.coder(entropy)
    if codec.loudness_lufs is not None:
        for block in codec.checked(read()):
            meter.add(block)
    gain_db = normalising_gain_db(meter.lufs(), meter.peak, codec.loudness_lufs) if meter.peak else 0.0
    count = [0]

    def levelled() -> Iterator[Float[np.ndarray, "samples"]]:
        for block in read():
            count[0] += len(block)
            yield block * block.dtype.type(10 ** (gain_db / 20))

    with atomic_write(out, DataError) as temporary, temporary.open("wb") as file:
        grids = (grid.cpu().numpy() for grid in codec.encode_blocks(levelled()))
        for part in pack(header_of(codec, gain_db), grids, lambda: count[0], coder):
            file.write(part)
    return Encoded(out.stat().st_size, count[0])


def header_of(codec: Codec, gain_db: float = 0.0) -> Header:
    """The header of a codec's files."""
    clip = codec.clip
    sizes = codec.codebook.rows, codec.codebook.config.n_codes, clip.sample_rate, clip.column_samples, clip.columns
    return Header(*sizes, gain_db, codec.digest)


def decode_file(codec: Codec, path: Path, start: float = 0.0, stop: float | None = None) -> Decoded:
    """Read a sound from a file of codes, or a part of it. A part equals the whole up to rounding, and only the blocks around it are read.

    Args:
        codec: codec that wrote the file.
        path: the file.
        start: start of the part, in seconds.
        stop: end of the part, in seconds; None is the end of the sound.

    Raises:
        DataError: if the file or all of its blocks cannot be read.
        ParameterError: if it was written with another codebook, or entropy-coded with another sampler; or for a part without samples.
    """
    clip = codec.clip
    if not math.isfinite((start + (stop or 0)) * clip.sample_rate):
        raise ParameterError(f"{start:g} to {'the end' if stop is None else f'{stop:g} s'} is no part of a sound; choose a part inside.")
    first, end = round(start * clip.sample_rate), None if stop is None else round(stop * clip.sample_rate)
    wanted = None
    if first or end is not None:
        around = 2 * clip.columns  # more than the windows of the decoder reach
        last_column = _MOST_COLUMNS if end is None else -(-end // clip.column_samples) + around
        wanted = range(max(0, first // clip.column_samples - around), last_column)
    try:
        data = path.read_bytes()
        header = read_header(data)
        if header_of(codec, header.gain_db) != replace(header, coder=0, coder_digest=bytes(16)):
            raise ParameterError(f"{path} was written with another codebook; choose its model.")
        coder = codec.coder(header.coder != header.plain.name)
        if coder.digest != header.coder_digest:
            raise ParameterError(f"{path} was written with another sampler; choose its model.")
        found = unpack(data, coder, wanted)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    each, rate = header.block_columns * header.column_samples, header.sample_rate
    part = range(first, found.n_samples if end is None else min(end, found.n_samples))
    if not part:
        raise ParameterError(f"{path} is {found.n_samples / rate:.2f} s long; choose a part inside.")
    damaged = (range(number * each, min((number + 1) * each, found.n_samples)) for number in found.lost)
    lost = [(one.start / rate, one.stop / rate) for one in damaged if one.start < part.stop and part.start < one.stop]
    return Decoded(len(part), _sound(codec, found, each, part), lost, found.disagreed)


@torch.inference_mode()
def _sound(codec: Codec, found: Unpacked, each: int, part: range) -> Iterator[Float32[np.ndarray, "samples"]]:
    grid, samples = torch.from_numpy(found.grid).to(codec.device), found.header.column_samples
    if found.lost:  # lost blocks become silence, the context of the other blocks
        silence = codec.encode(np.zeros(codec.clip.n_samples, np.float32))
        grid = torch.where(grid < 0, silence[:, silence.shape[1] // 2, None], grid)
    grid = grid.clamp(min=0)  # codes far from a part, which are not read
    columns = range(part.start // samples, -(-part.stop // samples))
    gain, position, lost = np.float32(10 ** (-found.header.gain_db / 20)), columns.start * samples, set(found.lost)
    for piece in codec.stream(grid, columns):
        block = piece.cpu().numpy()[: max(0, part.stop - position)] * gain
        is_lost = np.isin((position + np.arange(len(block))) // each, list(lost))
        block[is_lost] = 0
        yield block[max(0, part.start - position) :]
        position += len(block)
