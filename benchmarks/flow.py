"""Time per pair of frames to compute the optical flow of the two-stream features.

    python benchmarks/flow.py VIDEO... [--pairs 5]

Pairs are spread evenly over each video; their frames are 1/21.5 s apart, as in the published features. OpenCV uses all cores.
"""

import argparse
import time
from pathlib import Path
from statistics import median

from unsilent.clip import Clip
from unsilent.media.probe import probe
from unsilent.media.video import stream_frames
from unsilent.models.condition import pick_rows
from unsilent.vision import flow
from unsilent.vision.features import find_backbone, needed_frames, network_inputs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    backbone, fps = find_backbone("bninception"), Clip().feature_fps
    medians, every = [], []
    for path in options.videos:
        rows = pick_rows(options.pairs, int(probe(path).seconds * fps) - 1)
        stream = ((round(seconds * fps), frame) for seconds, frame in stream_frames(path, fps, wanted=needed_frames(rows, backbone)))
        spent = []
        for _row, pair in network_inputs(stream, rows, backbone):
            start = time.perf_counter()
            flow.two_stream_input(pair)
            spent.append(time.perf_counter() - start)
        every += spent
        medians.append(median(spent))
        print(f"{path.name:60} median {medians[-1]:6.2f} s a pair, from {min(spent):.2f} to {max(spent):.2f}")
    print(f"{len(medians)} videos: median of medians {median(medians):.2f} s; pairs took from {min(every):.2f} to {max(every):.2f} s")


if __name__ == "__main__":
    main()
