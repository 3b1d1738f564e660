"""A node that gives pictures their sound: pictures and frame rate in, audio out, exactly as long as the pictures."""

import tempfile
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import av
import torch

import unsilent
from unsilent.cues import Cue
from unsilent.exchange.tables import read_cue_table


@cache
def pipeline(model: str) -> unsilent.Pipeline:
    """The model, loaded once."""
    return unsilent.load(model)


class UnsilentSound:
    """Sound for pictures."""

    CATEGORY = "audio"
    FUNCTION = "make"
    RETURN_TYPES = ("AUDIO", "STRING")
    RETURN_NAMES = ("audio", "seen")
    DESCRIPTION = "Gives pictures their sound, offline. The sound is as long as the pictures at this frame rate."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple]]:
        """Names and kinds of the inputs, as ComfyUI asks for them."""
        return {
            "required": {
                "images": ("IMAGE",),
                "fps": ("FLOAT", {"default": 24.0, "min": 0.1, "max": 1000.0, "step": 0.001, "tooltip": "Frame rate of the pictures."}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1, "control_after_generate": True}),
                "takes": ("INT", {"default": 1, "min": 1, "max": 16, "tooltip": "Different sounds, as a batch."}),
            },
            "optional": {
                "label": ("STRING", {"default": "", "tooltip": "What sounds, in free words; empty: what is seen."}),
                "cues": ("STRING", {"default": "", "multiline": True, "tooltip": "Seconds at which it sounds, one a line; or auto."}),
                "rate": (["22050", "44100", "48000"], {"default": "48000"}),
                "stereo": ("BOOLEAN", {"default": False, "tooltip": "Panned to the place of motion."}),
                "model": ("STRING", {"default": "everyday"}),
            },
        }

    def make(
        self,
        images: torch.Tensor,
        fps: float,
        seed: int,
        takes: int,
        label: str = "",
        cues: str = "",
        rate: str = "48000",
        stereo: bool = False,
        model: str = "everyday",
    ) -> tuple[dict[str, Any], str]:
        """Make the sounds.

        Args:
            images: `[pictures, height, width, 3]` in 0..1.
            fps: pictures per second.
            seed: source of all randomness.
            takes: number of sounds.
            label: class name, or free words.
            cues: seconds of cues, or rows of a table of cues; `auto` for the impacts that are seen.
            rate: sample rate, in Hz.
            stereo: two channels.
            model: name, or folder of a bundle.

        Returns:
            Waveforms `[takes, channels, samples]` with their sample rate, and the likeliest kind of sound that was seen.
        """
        with tempfile.TemporaryDirectory() as folder:
            video = write_video(Path(folder) / "pictures.nut", images, fps)
            asked = {"label": label.strip() or None, "stereo": stereo, "rate": None if rate == "22050" else int(rate)}
            asked |= {"cues": read_cues(cues, Path(folder)), "seconds": len(images) / fps}
            made = pipeline(model).takes(video, takes, seed=seed, **asked)
            sounds = [one.channels for one in made]  # which read the video again
        waveform = torch.stack([torch.from_numpy(sound) for sound, _ in sounds])
        return {"waveform": waveform, "sample_rate": sounds[0][1]}, next(iter(made[0].seen), label)


def write_video(path: Path, images: torch.Tensor, fps: float) -> Path:
    """Pictures as a video without loss, each at its exact time."""
    rate = Fraction(fps).limit_denominator(100_000)
    with av.open(str(path), "w", format="nut") as container:
        stream = container.add_stream("ffv1", rate=rate)
        stream.height, stream.width, stream.pix_fmt = images.shape[1], images.shape[2], "bgr0"
        stream.codec_context.time_base = 1 / rate
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray((image[..., :3] * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy(), format="rgb24")
            frame.pts, frame.time_base = number, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_cues(text: str, folder: Path) -> tuple[Cue, ...] | str | None:
    """Cues of the text field: nothing, `auto`, or rows of a table."""
    if not text.strip() or text.strip() == "auto":
        return text.strip() or None
    (folder / "cues.csv").write_text(text, encoding="utf-8")
    return tuple(read_cue_table(folder / "cues.csv"))


NODE_CLASS_MAPPINGS = {"UnsilentSound": UnsilentSound}
NODE_DISPLAY_NAME_MAPPINGS = {"UnsilentSound": "Sound for pictures (unsilent)"}
