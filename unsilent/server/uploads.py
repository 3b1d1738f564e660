"""Uploads: streamed to disk within limits, then checked by the media readers before anything else uses them."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from unsilent.errors import MediaError, ResourceError
from unsilent.outputs import is_codes
from unsilent.server.settings import Settings
from unsilent.server.store import Input, Store, safe_name

MIN_BYTES_A_SECOND = 8_000  # minimum mean rate of an upload after its first read_seconds
_CHECK_BYTES = 64 << 20  # bytes received between two checks whether the store is full
_CHECK_RATE = 8000  # Hz; sounds are decoded at this rate to count their samples


class TooLargeError(ResourceError):
    """An upload exceeds a limit of the server."""


class TooSlowError(ResourceError):
    """An upload pauses for too long or is too slow."""


async def receive(parts: AsyncIterator[bytes], length: int | None, name: str, client: str, store: Store, settings: Settings) -> Input:
    """Stream an upload to disk, check it and add it to the store. If it fails, all its files are removed.

    Args:
        parts: parts of the request body.
        length: announced length in bytes; None if unknown.
        name: file name on the client's machine.
        client: digest of the owner's token.
        store: store that gets the upload.
        settings: settings of the server, with its limits.

    Raises:
        TooLargeError: for too many bytes, seconds, frames or pixels, or a full store.
        TooSlowError: for an upload that pauses for too long or is too slow.
        MediaError: if it is not a media file.
    """
    await asyncio.to_thread(require_room, length or 0, store, settings)
    name, folder = safe_name(name), store.new_folder("inputs")
    try:
        await _write(parts, folder / name, store, settings)
        kind, facts = await asyncio.to_thread(check, folder / name, settings)
        return store.add_input(folder, client, name, kind, facts)
    except BaseException:  # also if the client disconnects
        shutil.rmtree(folder, ignore_errors=True)
        raise


def take_over(source: Path, client: str, store: Store, settings: Settings, facts: dict[str, Any] | None = None) -> Input:
    """Copy a file on the server, such as the example, to a new upload of a client. Errors as in `receive`."""
    require_room(source.stat().st_size, store, settings)
    name, folder = safe_name(source.name), store.new_folder("inputs")
    try:
        shutil.copyfile(source, folder / name)
        kind, found = check(folder / name, settings)
        return store.add_input(folder, client, name, kind, {**found, **(facts or {})})
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def require_room(length: int, store: Store, settings: Settings) -> None:
    """Check that an upload fits into the store.

    Args:
        length: length of the upload in bytes.
        store: store of uploads and results.
        settings: settings of the server, with its limits.

    Raises:
        TooLargeError: if the upload exceeds the limit of one upload.
        ResourceError: if the store or the disk is full.
    """
    if length > settings.max_bytes:
        raise TooLargeError(f"the file has {length} bytes, but the limit of this server is {settings.max_bytes}.")
    if store.n_bytes() + length > settings.max_stored or shutil.disk_usage(store.folder).free < 2 * length + (64 << 20):
        raise ResourceError("the store of the server is full; delete results, or try again when some have expired.")


async def _write(parts: AsyncIterator[bytes], out: Path, store: Store, settings: Settings) -> None:
    loop, n_bytes, checked = asyncio.get_running_loop(), 0, 0
    started, waiting = loop.time(), aiter(parts)
    with out.open("xb") as file:
        while True:
            try:
                part = await asyncio.wait_for(anext(waiting), settings.read_seconds)
            except StopAsyncIteration:
                break
            except TimeoutError:
                raise TooSlowError(f"the upload paused for {settings.read_seconds:g} s; send it again.") from None
            n_bytes += len(part)
            if n_bytes > settings.max_bytes:
                raise TooLargeError(f"the file has more than {settings.max_bytes} bytes, which is the limit of this server.")
            spent = loop.time() - started
            if spent > settings.read_seconds and n_bytes < MIN_BYTES_A_SECOND * spent:
                raise TooSlowError(f"the upload is slower than {MIN_BYTES_A_SECOND} bytes per second; use a faster connection.")
            file.write(part)
            if n_bytes > checked + _CHECK_BYTES:  # other uploads may have filled the store
                checked = n_bytes
                await asyncio.to_thread(require_room, 0, store, settings)
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())


def check(path: Path, settings: Settings) -> tuple[str, dict[str, Any]]:
    """Return the kind of an upload, `video`, `sound` or `codes`, and its facts, see `store.Input`.

    Raises:
        MediaError: if the file has none of these kinds.
        TooLargeError: if a limit of the server is exceeded.
    """
    if is_codes(path):
        return "codes", {"seconds": 0.0, "has_sound": True}
    from unsilent.media.probe import probe  # imports PyAV, so not at the start of the server

    try:
        info = probe(path)
    except MediaError as no_video:
        try:
            seconds = _sound_seconds(path, settings)
        except MediaError:
            raise no_video from None
        return "sound", {"seconds": round(seconds, 3), "has_sound": True}
    for what, found, most in (
        ("seconds", info.seconds, settings.max_seconds),
        ("frames", info.n_video_frames, settings.max_pictures),
        ("pixels in a frame", info.width * info.height, settings.max_pixels),
    ):
        if found > most:
            raise TooLargeError(f"the video has {found:g} {what}, but the limit of this server is {most:g}.")
    if info.has_audio:
        _sound_seconds(path, settings)  # the audio track may be longer than the video
    facts = {"seconds": round(info.seconds, 3), "has_sound": info.has_audio, "width": info.width, "height": info.height}
    return "video", facts | {"fps": round(info.fps, 3)}


def _sound_seconds(path: Path, settings: Settings) -> float:
    from unsilent.media.audio import decode_blocks

    n_samples = 0
    for block in decode_blocks(path, _CHECK_RATE, "mono"):
        n_samples += block.shape[1]
        if n_samples > settings.max_seconds * _CHECK_RATE:
            raise TooLargeError(f"the sound is longer than {settings.max_seconds:g} seconds, which is the limit of this server.")
    if not n_samples:
        raise MediaError(f"{path.name} has no sound that can be decoded.")
    return n_samples / _CHECK_RATE
