"""Descriptions of the server: its models, health and metrics."""

import resource
import sys
from collections import Counter
from functools import cache
from typing import Any

from unsilent import presets
from unsilent.checkpoints.folders import find_bundle, models_folder, present, read_bundle, read_defaults
from unsilent.server.service import Service
from unsilent.server.settings import Settings
from unsilent.version import __version__

# Abilities and limits of a model, shown on the page before the first sound.
_KNOWS = {
    "everyday": "Generates 234 classes of everyday sound and recognises 134 of them in videos: animals, weather, machines, household, "
    "steps. Other videos get soft wind or a similar sound; a label helps. Knows little speech and music. Its timing does not "
    "reliably follow visible impacts. Mono, 22 kHz. For research only, because of the licences of its training data."
}


@cache
def describe_models(settings: Settings) -> list[dict[str, Any]]:
    """Installed models, the server's default first: defaults, classes, and whether a model has sight."""
    described, own = [], sorted(path.parent.name for path in models_folder().glob("*/bundle.json"))
    for name in dict.fromkeys((settings.model_name, *present(), *own)):
        folder = find_bundle(settings.model_of(name))
        about = read_bundle(folder)
        defaults, preset = read_defaults(folder), presets.get(about["preset"])
        summary = str(about.get("summary", preset.summary))
        described.append({
            "name": name, "summary": summary, "knows": _KNOWS.get(name, f"{summary}."), "n_codes": defaults.n_codes,
            "top_k": min(defaults.top_k, defaults.n_codes), "temperature": defaults.temperature, "guidance": defaults.guidance,
            "candidates": defaults.candidates, "classes": defaults.classes, "sees": defaults.sees,
            "clip_seconds": round(preset.clip.seconds, 3),
        })  # fmt: skip
    return described


def health_of(service: Service) -> dict[str, Any]:
    """Return the version and whether the model is loaded."""
    return {"status": "ok", "version": __version__, "is_warm": service.is_warm}


def peak_memory_bytes() -> int:
    """Return the peak resident memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def metrics_of(service: Service, answers: Counter[int]) -> str:
    """Format counters and gauges in the text format of Prometheus."""
    rows = [("unsilent_jobs_total", "counter", "Finished jobs.", [(f'state="{name}"', n) for name, n in sorted(service.counts.items())])]
    rows += [
        ("unsilent_answers_total", "counter", "HTTP responses.", [(f'code="{code}"', n) for code, n in sorted(answers.items())]),
        ("unsilent_jobs_waiting", "gauge", "Waiting jobs.", [("", len(service.queue))]),
        ("unsilent_wait_seconds", "gauge", "Expected wait of a new job in seconds.", [("", round(service.wait_seconds(), 3))]),
        ("unsilent_work_seconds_total", "counter", "Processing time of jobs in seconds.", [("", round(service.spent, 3))]),
        ("unsilent_stored_bytes", "gauge", "Size of uploads and results in bytes.", [("", service.store.n_bytes())]),
        ("unsilent_peak_memory_bytes", "gauge", "Peak resident memory in bytes.", [("", peak_memory_bytes())]),
    ]
    lines = []
    for name, kind, text, values in rows:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{f'{{{labels}}}' if labels else ''} {value}" for labels, value in values]
    return "\n".join(lines) + "\n"
