"""unsilent gives a silent video its sound.

    import unsilent
    pipeline = unsilent.load("everyday")
    pipeline.generate("clip.mp4", seed=7).save_video("clip.sound.mp4")

Names are loaded when first used, so that importing the package costs nothing.
"""

from typing import TYPE_CHECKING, Any

from unsilent.version import __version__

if TYPE_CHECKING:
    from unsilent.clip import Clip
    from unsilent.generation.result import Generation
    from unsilent.pipeline import Pipeline, load

__all__ = ["Clip", "Generation", "Pipeline", "__version__", "load"]

_HOMES = {"Clip": "clip", "Generation": "generation.result", "Pipeline": "pipeline", "load": "pipeline"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unsilent' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"unsilent.{_HOMES[name]}"), name)
