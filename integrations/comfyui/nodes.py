"""A node that generates sound for images: it takes images and a frame rate, and returns audio of exactly the same length."""

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
    """Load a model once, and return it."""
    return unsilent.load(model)


class UnsilentSound:
    """Generates sound for images."""

    CATEGORY = "audio"
    FUNCTION = "make"
    RETURN_TYPES = ("AUDIO", "STRING")
    RETURN_NAMES = ("audio", "seen")
    DESCRIPTION = "Generates sound for images, offline. The sound is as long as the images at this frame rate."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, tuple]]:
        """Return the names and types of the inputs, in ComfyUI's format."""
        return {
            "required": {
                "images": ("IMAGE",),
                "fps": ("FLOAT", {"default": 24.0, "min": 0.1, "max": 1000.0, "step": 0.001, "tooltip": "Frame rate of the images."}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1, "control_after_generate": True}),
                "takes": ("INT", {"default": 1, "min": 1, "max": 16, "tooltip": "Number of different sounds, as a batch."}),
            },
            "optional": {
                "label": ("STRING", {"default": "", "tooltip": "Class name or free words; if empty, it is recognised in the images."}),
                "cues": ("STRING", {"default": "", "multiline": True, "tooltip": "Times of the sounds in seconds, one per line; or auto."}),
                "rate": (["22050", "44100", "48000"], {"default": "48000"}),
                "stereo": ("BOOLEAN", {"default": False, "tooltip": "Pan the sound to where the motion is."}),
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
        """Generate the sounds.

        Args:
            images: `[frames, height, width, 3]` in 0..1.
            fps: frames per second.
            seed: random seed.
            takes: number of sounds.
            label: class name or free words; if empty, it is recognised in the images.
            cues: times of cues in seconds, or rows of a table of cues; `auto` for visible impacts.
            rate: sample rate in Hz.
            stereo: whether to pan the sound to where the motion is.
            model: name, or folder of a bundle.

        Returns:
            Waveforms `[takes, channels, samples]` with their sample rate, and the likeliest recognised class.
        """
        with tempfile.TemporaryDirectory() as folder:
            video = write_video(Path(folder) / "pictures.nut", images, fps)
            asked = {"label": label.strip() or None, "stereo": stereo, "rate": None if rate == "22050" else int(rate)}
            asked |= {"cues": read_cues(cues, Path(folder)), "seconds": len(images) / fps}
            made = pipeline(model).takes(video, takes, seed=seed, **asked)
            sounds = [one.channels for one in made]  # before the video is deleted, because stereo reads it again
        waveform = torch.stack([torch.from_numpy(sound) for sound, _ in sounds])
        return {"waveform": waveform, "sample_rate": sounds[0][1]}, next(iter(made[0].seen), label)


def write_video(path: Path, images: torch.Tensor, fps: float) -> Path:
    """Write the images as a lossless video with exact frame times."""
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
    """Parse the text field: empty, `auto`, or rows of a table of cues."""
    if not text.strip() or text.strip() == "auto":
        return text.strip() or None
    (folder / "cues.csv").write_text(text, encoding="utf-8")
    return tuple(read_cue_table(folder / "cues.csv"))


NODE_CLASS_MAPPINGS = {"UnsilentSound": UnsilentSound}
NODE_DISPLAY_NAME_MAPPINGS = {"UnsilentSound": "Sound for images (unsilent)"}
