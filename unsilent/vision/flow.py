"""Optical flow of frame pairs, the input of the paper's two-stream features. Needs OpenCV, an optional extra."""

from types import ModuleType

import numpy as np
from jaxtyping import Float, UInt8

from unsilent.errors import ParameterError, how_to_install

WIDTH, HEIGHT = 340, 256  # pixels to which every frame is resized, regardless of its aspect ratio
BOUND = 20.0  # pixels per frame; faster flow is clipped


def two_stream_input(pair: UInt8[np.ndarray, "2 height width 3"]) -> UInt8[np.ndarray, "256 340 5"]:
    """Input of the two-stream network: the later frame of a pair, and the flow between both frames.

    Args:
        pair: consecutive RGB frames, uncropped, of any size.

    Returns:
        Channels: blue, green and red of the later frame, then flow to the right and down, see `quantise`.

    Raises:
        ParameterError: if OpenCV with its contributed modules is not installed.

    Source:
        RegNet's extract_rgb_flow.py (arXiv 2008.00820), which made the released features. Flow is computed before JPEG compression; frame
        and flow are both stored as JPEG. Its loop overwrites the first frame with the second, so each flow is paired with the later frame.
        The published models were trained on these pairs.
    """
    cv2 = _opencv()
    small = [cv2.cvtColor(cv2.resize(frame, (WIDTH, HEIGHT)), cv2.COLOR_RGB2BGR) for frame in pair]
    flow = quantise(optical_flow(*(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in small)))
    return np.dstack([_through_jpeg(small[1]), *(_through_jpeg(flow[..., axis]) for axis in (0, 1))])


def optical_flow(
    earlier: UInt8[np.ndarray, "height width"], later: UInt8[np.ndarray, "height width"]
) -> Float[np.ndarray, "height width 2"]:
    """TV-L1 optical flow of grey images, in pixels to the right and down.

    It takes from a fraction of a second to several seconds per pair, depending on the motion (benchmarks/flow.py), on all cores.

    Raises:
        ParameterError: if OpenCV with its contributed modules is not installed.

    Source:
        TV-L1 (Zach, Pock and Bischof 2007), OpenCV's implementation with its default parameters, as in the released features.
    """
    return _opencv().optflow.createOptFlow_DualTVL1().calc(earlier, later, None)


def quantise(flow: Float[np.ndarray, "height width 2"]) -> UInt8[np.ndarray, "height width 2"]:
    """Flow as grey levels: `round(255 (clip(flow, -20, 20) + 20) / 40)`.

    Source:
        RegNet's extract_rgb_flow.py; zero flow is 127.5, which OpenCV rounds to even when it writes an image.
    """
    return np.rint((np.clip(flow, -BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))).astype(np.uint8)


def _through_jpeg(image: UInt8[np.ndarray, "height width *colours"]) -> UInt8[np.ndarray, "height width *colours"]:
    """Encode as JPEG with OpenCV's default quality, and decode."""
    cv2 = _opencv()
    return cv2.imdecode(cv2.imencode(".jpg", image)[1], cv2.IMREAD_UNCHANGED)


def _opencv() -> ModuleType:
    try:
        import cv2
    except ImportError:
        cv2 = None
    if not hasattr(cv2, "optflow"):  # TV-L1 is in the contributed modules
        found = "is not installed" if cv2 is None else f"{cv2.__version__} is installed without them"
        raise ParameterError(f"two-stream features need OpenCV with its contributed modules, and OpenCV {found}; {how_to_install('flow')}.")
    return cv2
