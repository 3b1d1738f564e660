"""Folders of sounds → classifier features and logits → metrics with intervals → a report."""

from unsilent.evaluation.results import Evaluation
from unsilent.evaluation.run import evaluate

__all__ = ["Evaluation", "evaluate"]
