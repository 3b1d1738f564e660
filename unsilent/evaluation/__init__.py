"""Evaluation: folders of sounds → classifier features and logits → metrics with intervals → a report."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unsilent.evaluation.results import Evaluation
    from unsilent.evaluation.run import evaluate

__all__ = ["Evaluation", "evaluate"]


def __getattr__(name: str) -> Any:
    """Import names at first use, because importing torch takes a second."""
    if name not in __all__:
        raise AttributeError(f"module 'unsilent.evaluation' has no attribute {name!r}")
    from unsilent.evaluation import run

    return getattr(run, name)
