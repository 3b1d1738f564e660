"""Optical flow of pairs of pictures, as the paper's two-stream features see it. The only room with OpenCV, an extra of this package."""

from types import ModuleType

import numpy as np
from jaxtyping import Float, UInt8

from unsilent.errors import ParameterError, how_to_install

WIDTH, HEIGHT = 340, 256  # pixels that every picture is pressed into, whatever its shape
BOUND = 20.0  # pixels between two pictures; faster motion counts as this fast


def look(pair: UInt8[np.ndarray, "2 height width 3"]) -> UInt8[np.ndarray, "256 340 5"]:
    """What the two networks are shown of a pair of pictures that follow each other.

    Args:
        pair: RGB of any size; the two must be whole pictures, since they are resized without regard to their shape.

    Returns:
        Blue, green, red of the later picture, and the flow to the right and down from the earlier to it, see `quantise`.

    Raises:
        ParameterError: if OpenCV with its contributed modules is not installed.

    Source:
        RegNet's extract_rgb_flow.py (arXiv 2008.00820), which made the released features. Flow is computed on pictures that were not yet
        compressed; both go through JPEG before the networks see them. The loop there writes the second picture over the first, so that
        the picture beside a flow is the one it leads to; the published models have learnt it so.
    """
    cv2 = _opencv()
    small = [cv2.cvtColor(cv2.resize(picture, (WIDTH, HEIGHT)), cv2.COLOR_RGB2BGR) for picture in pair]
    flow = quantise(optical_flow(*(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY) for picture in small)))
    return np.dstack([_through_jpeg(small[1]), *(_through_jpeg(flow[..., axis]) for axis in (0, 1))])


def optical_flow(
    earlier: UInt8[np.ndarray, "height width"], later: UInt8[np.ndarray, "height width"]
) -> Float[np.ndarray, "height width 2"]:
    """How far each pixel of a gray picture has moved, in pixels to the right and down.

    Takes a fraction of a second for pictures that hardly move and seconds where much does (benchmarks/flow.py), on all cores by itself.

    Raises:
        ParameterError: if OpenCV with its contributed modules is not installed.

    Source:
        TV-L1 (Zach, Pock and Bischof 2007), OpenCV's implementation with its own parameters, as released.
    """
    return _opencv().optflow.createOptFlow_DualTVL1().calc(earlier, later, None)


def quantise(flow: Float[np.ndarray, "height width 2"]) -> UInt8[np.ndarray, "height width 2"]:
    """Flow as grey levels: 0 is `BOUND` pixels or more to the left or up, 128 no motion, 255 `BOUND` pixels or more to the right or down.

    Source:
        RegNet's extract_rgb_flow.py; no motion is 127.5, which OpenCV rounds to the even level when it writes a picture.
    """
    return np.rint((np.clip(flow, -BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))).astype(np.uint8)


def _through_jpeg(picture: UInt8[np.ndarray, "height width *colours"]) -> UInt8[np.ndarray, "height width *colours"]:
    """A picture as it comes back from a JPEG file of OpenCV's default quality."""
    cv2 = _opencv()
    return cv2.imdecode(cv2.imencode(".jpg", picture)[1], cv2.IMREAD_UNCHANGED)


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError:
        cv2 = None
    if not hasattr(cv2, "optflow"):  # without the contributed modules there is no TV-L1
        found = "is not installed" if cv2 is None else f"{cv2.__version__} is installed without them"
        raise ParameterError(f"two-stream features need OpenCV with its contributed modules, and OpenCV {found}; {how_to_install('flow')}.")
    return cv2
