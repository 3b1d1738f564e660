"""Weight files of the authors are read; nothing in a file is executed."""

import argparse
import gzip
import io
import os
import pickle
import sys
import tarfile
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from unsilent.errors import CheckpointError
from unsilent.published.containers import read_container, read_settings, read_weights

WEIGHTS = OrderedDict(first=torch.arange(6.0).reshape(2, 3), second=torch.tensor([7]))
PROJECT = "model:\n  target: specvqgan.models.vqgan.VQModel\n  params:\n    n_embed: 1024\n"


@pytest.fixture
def lightning(monkeypatch):
    """A checkpoint of Lightning 1.2: weights and the trainer's bookkeeping, with a callback class as a key."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    callback = type("ModelCheckpoint", (), {"__module__": name})
    packages = ("pytorch_lightning", "pytorch_lightning.callbacks", name)
    for package in packages:
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    sys.modules[name].ModelCheckpoint = callback
    return {
        "epoch": 39,
        "global_step": 299_999,
        "pytorch-lightning_version": "1.2.10",
        "callbacks": {callback: {"best_model_score": torch.tensor(0.5), "dirpath": "logs"}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}],
        "state_dict": WEIGHTS,
    }


def saved(value, path: Path) -> Path:
    torch.save(value, path)
    return path


def archive(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def as_bytes(value) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def assert_weights(found):
    assert list(found) == list(WEIGHTS)
    assert all(torch.equal(found[name], value) for name, value in WEIGHTS.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: weights,
        lambda weights: {"model": weights, "optimizer": {"state": {}}, "loss": 1.5, "epoch": 3, "metrics": {"accuracy": 0.4}},
        lambda weights: {"state_dict": weights, "epoch": 1},
    ],
    ids=["bare", "classifier's", "Lightning's"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old pickle"])
def test_read_weights_unwraps_them(tmp_path, wrap, zipped):
    torch.save(wrap(WEIGHTS), tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert_weights(read_weights(tmp_path / "a.pt"))


def test_read_weights_ignores_numpy_metrics(tmp_path):
    """The classifiers' files have NumPy metrics beside the weights."""
    import numpy as np

    path = saved({"model": WEIGHTS, "metrics": {"mAP": np.float64(0.47), "per_class": np.arange(3)}}, tmp_path / "a.pt")
    assert_weights(read_weights(path))


def test_read_weights_ignores_callback_classes(tmp_path, lightning, monkeypatch):
    path = saved(lightning, tmp_path / "last.ckpt")
    monkeypatch.undo()  # the class does not exist when it is read
    assert_weights(read_weights(path))


def test_read_container_takes_the_last_checkpoint_and_the_settings(tmp_path, lightning):
    older = {**lightning, "state_dict": {"wrong": torch.zeros(1)}}
    path = archive(
        tmp_path / "2021-07-30T21-34-25_vggsound_transformer.tar.gz",
        {
            "2021-07-30T21-34-25_vggsound_transformer/checkpoints/last.ckpt": as_bytes(lightning),
            "2021-07-30T21-34-25_vggsound_transformer/checkpoints/epoch_000039.ckpt": as_bytes(older),
            "2021-07-30T21-34-25_vggsound_transformer/configs/2021-07-30T21-34-25-lightning.yaml": b"lightning: {}\n",
            "2021-07-30T21-34-25_vggsound_transformer/configs/2021-07-30T21-34-25-project.yaml": PROJECT.encode(),
        },
    )
    (tmp_path / "scratch").mkdir()
    container = read_container(path, tmp_path / "scratch")
    assert_weights(container.weights)
    assert container.stem == "2021-07-30T21-34-25_vggsound_transformer"
    assert container.settings["model"]["params"]["n_embed"] == 1024
    assert sorted(file.name for file in (tmp_path / "scratch").iterdir()) == ["2021-07-30T21-34-25-project.yaml", "last.ckpt"]


def test_read_container_takes_the_last_name_without_a_last_checkpoint(tmp_path):
    members = {f"run/checkpoints/epoch_{n:03}.ckpt": as_bytes({"state_dict": {"n": torch.tensor(n)}}) for n in (9, 39, 12)}
    path = archive(tmp_path / "run.tar.gz", members)
    assert read_container(path, tmp_path).weights["n"] == 39


def test_read_container_reads_an_unpacked_folder(tmp_path):
    folder = tmp_path / "2021-05-19T22-16-54_vggsound_codebook"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "configs").mkdir()
    saved({"state_dict": WEIGHTS}, folder / "checkpoints/last.ckpt")
    (folder / "configs/2021-05-19T22-16-54-project.yaml").write_text(PROJECT)
    for path in (folder, folder / "checkpoints/last.ckpt"):
        container = read_container(path, tmp_path)
        assert_weights(container.weights)
        assert container.settings["model"]["params"]["n_embed"] == 1024
    assert read_container(folder, tmp_path).stem == folder.name


@pytest.mark.parametrize("name", ["../outside.ckpt", "a/../../outside.ckpt", "/tmp/outside.ckpt", "a\\..\\outside.ckpt"])
def test_read_container_refuses_members_outside_the_folder(tmp_path, name):
    path = archive(tmp_path / "a.tar.gz", {"run/checkpoints/last.ckpt": as_bytes(WEIGHTS), name: b"x"})
    (tmp_path / "scratch").mkdir()
    with pytest.raises(CheckpointError, match=r"a\.tar\.gz has a member outside its folder \('.*outside\.ckpt'\); it was not unpacked"):
        read_container(path, tmp_path / "scratch")
    assert not list(tmp_path.parent.glob("outside.ckpt"))
    assert not Path("/tmp/outside.ckpt").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_read_container_ignores_links_and_devices(tmp_path, kind):
    """`last.ckpt` may be a link to another checkpoint."""
    info = tarfile.TarInfo("run/checkpoints/last.ckpt")
    info.type, info.linkname = kind, "run/checkpoints/epoch_39.ckpt"
    path = archive(tmp_path / "a.tar.gz", {"run/checkpoints/epoch_39.ckpt": as_bytes({"state_dict": WEIGHTS}), info.name: info})
    (tmp_path / "scratch").mkdir()
    assert_weights(read_container(path, tmp_path / "scratch").weights)
    assert [one.name for one in (tmp_path / "scratch").iterdir()] == ["epoch_39.ckpt"]


def test_read_container_ignores_files_of_macos(tmp_path):
    members = {"run/checkpoints/last.ckpt": as_bytes(WEIGHTS), "run/configs/1-project.yaml": PROJECT.encode()}
    hidden = {f"{Path(name).parent}/._{Path(name).name}": b"\0\5\x16\7" for name in members}
    container = read_container(archive(tmp_path / "a.tar.gz", members | hidden), tmp_path)
    assert_weights(container.weights)
    assert container.settings["model"]["params"]["n_embed"] == 1024


@pytest.mark.parametrize("where", [-3, 0.5])
def test_read_container_verifies_the_checksum_of_an_archive(tmp_path, where):
    """Without the last bytes, or with one byte changed in the middle, which tar does not notice."""
    weights = {"noise": torch.randn(200_000, generator=torch.Generator().manual_seed(0))}
    path = archive(tmp_path / "a.tar.gz", {"run/checkpoints/last.ckpt": as_bytes(weights)})
    content = bytearray(path.read_bytes())
    if where == 0.5:
        content[len(content) // 2] ^= 1
    path.write_bytes(content if where == 0.5 else content[:where])
    with pytest.raises(CheckpointError, match=r"a\.tar\.gz is cut off or damaged"):
        read_container(path, tmp_path)


def test_read_container_verifies_the_checksums_of_a_checkpoint(tmp_path):
    path = saved({"noise": torch.randn(200_000, generator=torch.Generator().manual_seed(0))}, tmp_path / "a.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged: its part '.*data/0' does not match its checksum"):
        read_container(path, tmp_path / "scratch")


@pytest.mark.parametrize(
    "value",
    [torch.zeros(2, device="meta"), torch.zeros(2, 2).to_sparse(), torch.zeros(2, dtype=torch.complex64)],
    ids=["without numbers", "sparse", "complex"],
)
def test_read_weights_refuses_other_tensors(tmp_path, value):
    with pytest.raises(CheckpointError, match=r"(holds 'odd', which is not a dense array of real numbers|is damaged or not a file)"):
        read_weights(saved({"odd": value}, tmp_path / "a.pt"))


def test_read_container_accepts_relative_paths(tmp_path, monkeypatch):
    folder = tmp_path / "2021-05-19T22-16-54_vggsound_codebook"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "configs").mkdir()
    saved(WEIGHTS, folder / "checkpoints/last.ckpt")
    (folder / "configs/x-project.yaml").write_text(PROJECT)
    for where, path in ((folder, "."), (folder / "checkpoints", "last.ckpt")):
        monkeypatch.chdir(where)
        container = read_container(Path(path), tmp_path)
        assert container.stem == folder.name
        assert container.settings["model"]["params"]["n_embed"] == 1024


def test_read_container_reads_settings_lazily(tmp_path):
    (tmp_path / "args.yml").write_text("a: [1")
    container = read_container(saved(WEIGHTS, tmp_path / "a.pt"), tmp_path)
    assert_weights(container.weights)
    with pytest.raises(CheckpointError, match=r"the settings args\.yml cannot be read"):
        _ = container.settings


@pytest.mark.parametrize("share", [0.01, 0.5, 0.95])
def test_read_container_names_a_truncated_archive(tmp_path, share):
    weights = {"noise": torch.randn(50_000, generator=torch.Generator().manual_seed(0))}
    path = archive(tmp_path / "a.tar.gz", {"run/checkpoints/last.ckpt": as_bytes(weights)})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"a\.tar\.gz is (cut off or damaged|an archive without)"):
        read_container(path, tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.99])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old pickle"])
def test_read_weights_names_a_truncated_checkpoint(tmp_path, share, zipped):
    torch.save(WEIGHTS, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=r"a\.pt is damaged or not a file of weights"):
        read_weights(tmp_path / "a.pt")


def test_read_container_refuses_an_archive_without_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"a\.tar\.gz is an archive without a checkpoint"):
        read_container(archive(tmp_path / "a.tar.gz", {"readme.txt": b"hello"}), tmp_path)


@pytest.mark.parametrize(
    ("value", "words"), [([1, 2], "has no dictionary of weights"), ({"a": "b"}, "holds 'a', which is a str where a weight is expected")]
)
def test_read_weights_refuses_other_content(tmp_path, value, words):
    with pytest.raises(CheckpointError, match=words):
        read_weights(saved(value, tmp_path / "a.pt"))


def test_read_container_names_missing_files_and_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pt does not exist"):
        read_container(tmp_path / "nowhere.pt", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty has no checkpoints/\*\.ckpt"):
        read_container(tmp_path / "empty", tmp_path)


def test_read_container_checks_free_space_first(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.tar.gz", {"run/checkpoints/last.ckpt": as_bytes(WEIGHTS)})
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5})())
    with pytest.raises(CheckpointError, match=r"last\.ckpt of .*a\.tar\.gz needs 0\.00 GB in .*, 0\.00 GB are free"):
        read_container(path, tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full (/dev/full of Linux)")
def test_read_container_names_a_full_disk(tmp_path):
    path = archive(tmp_path / "a.tar.gz", {"run/checkpoints/last.ckpt": as_bytes(WEIGHTS)})
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch/last.ckpt").symlink_to("/dev/full")
    with pytest.raises(CheckpointError, match=r"cannot unpack last\.ckpt of .*a\.tar\.gz into .*scratch: No space left on device"):
        read_container(path, tmp_path / "scratch")


class Harmful:
    """Unpickles to a command that touches a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (os.system, (f"touch {self.target}",))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old pickle"])
def test_read_weights_executes_nothing(tmp_path, zipped):
    torch.save({"state_dict": WEIGHTS, "x": Harmful(tmp_path / "touched")}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"holds '(posix|nt)\.system', neither a weight"):
        read_weights(tmp_path / "a.ckpt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps(Harmful(tmp_path / "touched")))
    with pytest.raises(CheckpointError, match=r"b\.pt"):
        read_weights(tmp_path / "b.pt")
    assert not (tmp_path / "touched").exists()


def test_read_weights_executes_no_functions_of_known_packages(tmp_path):
    """A name of a known package may be a function; it is replaced too."""
    saved({"state_dict": WEIGHTS, "x": ReadsFile()}, tmp_path / "a.ckpt")
    assert_weights(read_weights(tmp_path / "a.ckpt"))


class ReadsFile:
    """Unpickles to a call of `numpy.fromfile`, which reads any file."""

    def __reduce__(self):
        import numpy as np

        return (np.fromfile, ("/etc/hostname",))


def test_read_settings_executes_nothing(tmp_path):
    text = (
        "!!python/object:argparse.Namespace\n"
        "batch_size: 64\n"
        "save_path: !!python/object/apply:pathlib.PosixPath\n- logs\n- vggsound\n"
        f"ratios: !!python/tuple\n- 8\n- 2\nevil: !!python/object/apply:os.system ['touch {tmp_path}/touched']\n"
    )
    (tmp_path / "args.yml").write_text(text)
    settings = read_settings(tmp_path / "args.yml")
    assert settings["batch_size"] == 64
    assert settings["save_path"] == ["logs", "vggsound"]
    assert settings["ratios"] == [8, 2]
    assert not (tmp_path / "touched").exists()
    assert not isinstance(settings, argparse.Namespace)
    saved(WEIGHTS, tmp_path / "netG.pt")
    assert read_container(tmp_path / "netG.pt", tmp_path).settings["batch_size"] == 64


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", r"the settings a\.yaml cannot be read"),
        ("a: 2021-13-45", r"the settings a\.yaml cannot be read: month must be"),
        ("a: !!int x", r"the settings a\.yaml cannot be read"),
        ("[" * 5000, r"the settings a\.yaml cannot be read"),
        ("- 1\n", "is not a YAML mapping of settings"),
    ],
)
def test_read_settings_refuses_other_content(tmp_path, text, words):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=words):
        read_settings(tmp_path / "a.yaml")


def test_read_container_refuses_a_compressed_checkpoint(tmp_path):
    """Mapping it from disk would read other weights."""
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as old, zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match=r"a\.pt is not as it was saved: its part .* is compressed"):
        read_container(tmp_path / "a.pt", tmp_path / "scratch")


@pytest.mark.parametrize("kind", ["pax", "long name", "zeros"])
def test_read_container_refuses_bombs(tmp_path, kind):
    """Small archives with headers or members of hundreds of megabytes."""
    size = 300_000_000
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as file:
        types = {"pax": tarfile.XHDTYPE, "long name": tarfile.GNUTYPE_LONGNAME, "zeros": tarfile.REGTYPE}
        member = tarfile.TarInfo("x")
        member.type, member.size = types[kind], size
        file.write(member.tobuf())
        for _ in range(size // 1_000_000 + 1):
            file.write(bytes(1_000_000))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(CheckpointError, match=r"an extended header of 300000000 bytes|unpacks to more than 50 times its size"):
        read_container(tmp_path / "a.tar.gz", tmp_path / "scratch")


def test_read_container_refuses_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="is a pipe or device; give a file"):
        read_container(tmp_path / "a.pt", tmp_path)


def test_read_container_refuses_files_with_holes(tmp_path):
    """A header of a few hundred bytes that stands for gigabytes."""
    member = tarfile.TarInfo("checkpoints/last.ckpt")
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": "3000000000",
        "GNU.sparse.name": "last.ckpt",
    }
    content = b"0\n".ljust(512, b"\0")
    member.size = len(content)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member, io.BytesIO(content))
    (tmp_path / "scratch").mkdir()
    with pytest.raises(CheckpointError, match=r"has a file with holes \('last.ckpt'\); it was not unpacked"):
        read_container(tmp_path / "a.tar.gz", tmp_path / "scratch")
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("legacy", [False, True])
def test_read_weights_refuses_many_kinds_of_objects(tmp_path, legacy):
    """Each would be found by another attempt to read the file."""
    module = types.ModuleType("train")
    kinds = [type(f"Kind{number}", (dict,), {"__module__": "train"}) for number in range(60)]
    for kind in kinds:
        setattr(module, kind.__name__, kind)
    sys.modules["train"] = module
    try:
        torch.save(
            {"state_dict": WEIGHTS, "more": [kind() for kind in kinds]}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=not legacy
        )
    finally:
        del sys.modules["train"]
    with pytest.raises(CheckpointError, match="holds more than 40 kinds of objects besides weights"):
        read_weights(tmp_path / "a.ckpt")
