"""Imports Lightning Fabric without torchmetrics, of which Fabric only reads the version, and whose import takes longer than its own."""

import sys

_metrics = sys.modules.setdefault("torchmetrics", None)  # None: cannot be imported
import lightning_fabric  # noqa: E402

if _metrics is None:
    del sys.modules["torchmetrics"]

__all__ = ["lightning_fabric"]
