"""Generates sound for silent videos.

    import unsilent

    pipeline = unsilent.load("everyday")
    generation = pipeline.generate("clip.mp4", seed=7)
    generation.save_video("clip.sound.mp4")
    generation.waveform, generation.sample_rate  # float32 in [-1, 1]; Hz

    for take in pipeline.takes("clip.mp4", 4, temperature=0.9):
        take.save_wav(f"clip.{take.take}.wav")

`Request` has the parameters of a generation. `Codec.load("everyday").reconstruct(waveform)` needs no video. `Clip` is the grid of mels,
codes and features. `Client` talks to a server started by `unsilent serve`. Names are imported at first use, because importing torch takes a
second.
"""

import importlib
from typing import TYPE_CHECKING, Any

from unsilent.version import __version__

if TYPE_CHECKING:
    from unsilent.client import Client
    from unsilent.clip import Clip
    from unsilent.codec.codec import Codec
    from unsilent.generation.result import Generation
    from unsilent.loading import load
    from unsilent.models.transformer import Look
    from unsilent.pipeline import Pipeline
    from unsilent.request import Request

__all__ = ["Client", "Clip", "Codec", "Generation", "Look", "Pipeline", "Request", "__version__", "load"]

_MODULES = {
    "Client": "client", "Clip": "clip", "Codec": "codec.codec", "Generation": "generation.result",
    "Look": "models.transformer", "Pipeline": "pipeline", "Request": "request", "load": "loading",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'unsilent' has no attribute {name!r}")
    return getattr(importlib.import_module(f"unsilent.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
