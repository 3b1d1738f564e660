"""The ComfyUI node: the contract of a node, and sounds as long as the pictures."""

import importlib.util
import inspect
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"


@pytest.fixture
def package(monkeypatch, pipeline):
    """The package, imported as ComfyUI does, with the tiny model."""
    spec = importlib.util.spec_from_file_location("comfyui_unsilent", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)])
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "comfyui_unsilent", module)
    spec.loader.exec_module(module)
    nodes = sys.modules["comfyui_unsilent.nodes"]
    monkeypatch.setattr(nodes, "pipeline", lambda model: pipeline)
    yield module
    sys.modules.pop("comfyui_unsilent.nodes")


def pictures(n, height=48, width=64):
    return torch.rand((n, height, width, 3), generator=torch.Generator().manual_seed(0))


def test_it_is_a_node(package):
    assert package.NODE_CLASS_MAPPINGS.keys() == package.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in package.NODE_CLASS_MAPPINGS.values():
        inputs = node.INPUT_TYPES()
        assert inputs.keys() <= {"required", "optional", "hidden"}
        parameters = inspect.signature(getattr(node, node.FUNCTION)).parameters
        assert list(parameters)[1:] == [*inputs["required"], *inputs["optional"]]
        assert [name for name in inputs["required"] if parameters[name].default is not inspect.Parameter.empty] == []
        for name, (_, about) in inputs["optional"].items():
            assert parameters[name].default == about["default"]
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
        assert node.CATEGORY


@pytest.mark.parametrize(("n", "fps"), [(1, 24.0), (7, 16.0), (80, 16.0), (31, 29.97), (50, 60.0)])
def test_the_sound_is_as_long_as_the_pictures(package, n, fps):
    node = package.NODE_CLASS_MAPPINGS["UnsilentSound"]()
    audio, _ = node.make(pictures(n), fps, seed=1, takes=1, rate="22050")
    assert audio["sample_rate"] == 22050
    assert tuple(audio["waveform"].shape) == (1, 1, round(n / fps * 22050))
    assert audio["waveform"].dtype == torch.float32


def test_takes_rate_channels_and_cues(package):
    node = package.NODE_CLASS_MAPPINGS["UnsilentSound"]()
    audio, _ = node.make(pictures(20, 33, 47), 10.0, seed=0, takes=2, rate="48000", stereo=True, cues="0.5\n1.2,0.5\n")
    assert tuple(audio["waveform"].shape) == (2, 2, 96000)
    assert not torch.equal(*audio["waveform"])


def test_pictures_are_kept(package):
    nodes = sys.modules["comfyui_unsilent.nodes"]
    import tempfile

    from unsilent.media.video import stream_frames

    images = (pictures(5) * 255).round() / 255
    with tempfile.TemporaryDirectory() as folder:
        read = [frame for _, frame in stream_frames(nodes.write_video(Path(folder) / "a.nut", images, 12.5), 12.5)]
    assert len(read) == 5
    assert all(torch.equal(torch.from_numpy(frame) / 255, image) for frame, image in zip(read, images, strict=True))
