"""Writes retakes: a video or a sound file, each with a sidecar for the next retake."""

from pathlib import Path
from typing import Any

from unsilent.editing.opening import Opened
from unsilent.editing.retake import Retaken
from unsilent.generation.sidecar import Made, pointer_to, sidecar_for
from unsilent.media.sounds import write_sound
from unsilent.media.suffixes import OWN_COMMENT
from unsilent.outputs import samples_beside
from unsilent.pipeline import Pipeline
from unsilent.version import __version__


def save(pipeline: Pipeline, opened: Opened, retaken: Retaken, out: Path, *, wav: bool = False) -> dict[str, Any]:
    """Write a retake and its sidecar.

    A sound is written as 32-bit floating-point WAV, which has the exact samples. A video holds lossy audio, so the exact samples are
    written to a WAV file beside it.

    Args:
        pipeline: the model that made the retake.
        opened: the sound that was retaken.
        retaken: the take.
        out: video, or `.wav`.
        wav: also write the sound of a video as 16-bit WAV.

    Returns:
        A record of the written take, for JSON.

    Raises:
        MediaError: if a file cannot be written.
    """
    made, edit = retaken
    history = (*opened.history, edit)
    out.parent.mkdir(parents=True, exist_ok=True)
    is_video = opened.scene is not None and out.suffix.lower() != ".wav"
    samples, model = samples_beside(out) if is_video else out, Made.of(pipeline.parts, pipeline.precision, pipeline.vocoder)
    if is_video:
        comment = f"{OWN_COMMENT} {__version__}: retake {len(history)} of {opened.path.name} seed={edit.seed} take={edit.take}"
        made.save_video(out, comment=comment.encode("utf-8", "backslashreplace").decode() + pointer_to(out))
    write_sound(samples, made.waveform, made.sample_rate, "32f")
    sidecar_for(made, out, model, samples=samples, history=history, has_video=opened.scene is not None).write(out)
    if wav and is_video:
        made.save_wav(out.with_suffix(".wav"))
    return {"out": str(out), "from": str(opened.path), **edit.model_dump(), "seconds": made.seconds, "spent_seconds": made.spent_seconds}
