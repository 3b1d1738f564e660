"""The authors' numbers, for the networks that must agree with them."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

REFERENCE = Path(__file__).parents[3] / "shared/reference"
CLIP = "-Qowmc0P9ic_34000_44000"


@pytest.fixture(scope="session")
def reference() -> SimpleNamespace:
    """`keys(name)`, `expected(name)`, `mel01()` of the clip behind all numbers, and `fill(module, names, prefix)`; skips without them."""
    if not REFERENCE.exists():
        pytest.skip("the authors' numbers (shared/reference) live outside this project and are not here")
    spec = importlib.util.spec_from_file_location("fill", REFERENCE / "fill.py")
    rule = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rule)

    def fill(module: nn.Module, names: Mapping[str, str] | None = None, prefix: str = "") -> Any:
        """Give every weight the value that the rule makes of its released name; `names` maps those to ours."""
        weights = module.state_dict()
        for theirs, ours in (names or {name: name for name in weights}).items():
            value = weights[ours]
            weights[ours] = torch.from_numpy(rule.fill(prefix + theirs, tuple(value.shape))) if value.is_floating_point() else value
        module.load_state_dict(weights)
        return module.eval()

    def mel01() -> Tensor:
        return torch.from_numpy(np.load(REFERENCE / f"original_features/{CLIP}_mel.npy")[None, :, 6:854].astype(np.float32))

    def keys(name: str) -> dict[str, tuple[int, ...]]:
        """Shapes by name; the lists hold shape and type in either order."""
        table = json.loads((REFERENCE / f"keys/{name}.json").read_text())
        return {key: tuple(next(part for part in row if isinstance(part, list))) for key, row in table.items()}

    return SimpleNamespace(fill=fill, mel01=mel01, keys=keys, expected=lambda name: np.load(REFERENCE / f"expected/{name}.npz"))
