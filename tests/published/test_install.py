"""From published files on a local server to a model that generates sound, through the command line."""

import dataclasses
import hashlib
import json
import tarfile
import threading
from pathlib import Path

import av
import pytest
import torch
from parity import published_shapes, sampler_shapes

from unsilent.checkpoints import catalog
from unsilent.checkpoints.bundle import load_backbone, load_parts
from unsilent.checkpoints.folders import find_bundle, models_folder, read_config
from unsilent.checkpoints.store import load_checkpoint
from unsilent.cli.main import run
from unsilent.errors import CheckpointError, ParameterError
from unsilent.published import install
from unsilent.published.fetch import needed
from unsilent.published.install import convert_file, preset_of
from unsilent.request import Request

ORDER = torch.arange(265).reshape(5, 53).T.flatten()
STEM = "2021-07-30T21-34-25_vggsound_transformer"


def project(data="vggsound", codes=1024, pictures="feature_resnet50_dim2048_21.5fps", n=5, key="feature", random=False):
    """Settings of the released trainer, as far as they are read."""
    flow = f"    flow_feats_dir_path: ./data/{data}/feature_flow_bninception_dim1024_21.5fps\n" if "bninception" in pictures else ""
    return (
        "model:\n  target: specvqgan.models.cond_transformer.Net2NetTransformer\n  params:\n"
        f"    cond_stage_key: {key}\n    first_stage_config:\n      params:\n        n_embed: {codes}\n"
        f"data:\n  params:\n    spec_dir_path: ./data/{data}/melspec_10s_22050hz\n    feat_crop_len: 212\n"
        f"    rgb_feats_dir_path: ./data/{data}/{pictures}\n{flow}"
        f"    replace_feats_with_random: {random}\n    feat_sampler_cfg:\n      params:\n        feat_sample_size: {n}\n"
    )


def flat(name, shape):
    """One number expanded to the shape, so that a whole model has a few kilobytes."""
    if name.endswith("shuffle_idx"):
        return ORDER if name.endswith("forward_shuffle_idx") else ORDER.argsort()
    if name.endswith("mask"):
        return torch.ones(shape).tril()
    return torch.zeros((), dtype=torch.int64 if name.endswith("num_batches_tracked") else torch.float32).expand(shape)


def grown(name, shape):
    """Periodic noise of a usable scale, quick to make and to compress."""
    value = flat(name, shape)
    if value.dtype != torch.float32 or name.endswith("mask"):
        return value
    if value.ndim < 2:
        return torch.ones(shape) if name.endswith(("weight", "running_var")) else torch.zeros(shape)
    pattern = torch.randn(4099, generator=torch.Generator().manual_seed(len(name)))
    scale = (value[0].numel()) ** -0.5
    return (scale * pattern).repeat(-(-value.numel() // len(pattern)))[: value.numel()].reshape(shape)


def sampler_state(make=flat, n_features=5, n_classes=0):
    orders = {f"first_stage_permuter.{way}_shuffle_idx": [265] for way in ("forward", "backward")}
    return {
        **{f"first_stage_model.{name}": make(name, shape) for name, shape in published_shapes("codebook").items()},
        **{name: make(name, shape) for name, shape in orders.items()},
        **{f"transformer.{name}": make(name, shape) for name, shape in sampler_shapes(n_features, n_classes).items()},
    }


def state_of(kind, make=flat):
    return {name: make(name, shape) for name, shape in published_shapes(kind).items()}


def pack(folder, name, state, settings):
    """An archive as published: a Lightning checkpoint and its settings."""
    stem = name.removesuffix(".tar.gz")
    torch.save({"epoch": 9, "global_step": 1, "optimizer_states": [], "state_dict": state}, folder / "last.ckpt")
    (folder / "project.yaml").write_text(settings)
    with tarfile.open(folder / name, "w:gz", compresslevel=1) as tar:
        tar.add(folder / "last.ckpt", f"{stem}/checkpoints/last.ckpt")
        tar.add(folder / "project.yaml", f"{stem}/configs/{stem[:19]}-project.yaml")
    (folder / "last.ckpt").unlink()
    return folder / name


@pytest.fixture
def serve(server, monkeypatch):
    """Serve a file under its published name, with its digest in the catalog."""

    def put(name, content):
        row = catalog.find(name)
        digest = {"md5": hashlib.md5(content).hexdigest(), "sha256": None, "size": len(content)}
        monkeypatch.setitem(catalog._ROWS, name, dataclasses.replace(row, **digest))
        server.files[f"/{row.file_name}"] = content

    return put


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("UNSILENT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_published_files_of_full_size_generate_a_sound(serve, server, cache, tmp_path, make_clip, capsys):
    """All 379 M weights of a sampler, the vocoder and the image network: fetched, converted, loaded, sampled."""
    folder = tmp_path / "published"
    folder.mkdir()
    serve("vggsound-5-resnet50", pack(folder, f"{STEM}.tar.gz", sampler_state(grown), project()).read_bytes())
    for name, kind in (("melgan", "melgan"), ("resnet50", "resnet50")):
        torch.save(state_of(kind, grown), folder / "a.pt")
        serve(name, (folder / "a.pt").read_bytes())

    assert run(["models", "fetch", "vggsound-5-resnet50", "--mirror", server.url]) == 0
    assert str(cache / "models/vggsound-5-resnet50") in capsys.readouterr().out
    assert not [path for path in (cache / "downloads").iterdir() if path.is_file()]  # removed after the conversion
    assert find_bundle("vggsound-5-resnet50") == cache / "models/vggsound-5-resnet50"
    asked = len(server.requests)
    assert run(["models", "fetch", "vggsound-5-resnet50", "--mirror", server.url]) == 0
    assert "already installed" in capsys.readouterr().out
    assert len(server.requests) == asked == 3

    assert run(["models", "show", "vggsound-5-resnet50"]) == 0
    shown = capsys.readouterr().out
    assert "paper: FID 11.3, MKL 7.0" in shown
    assert "resnet50: BSD-3-Clause" in shown

    make_clip("a.mp4", n_frames=13)
    code = run(["generate", str(tmp_path / "a.mp4"), "--model", "vggsound-5-resnet50", "--json"])
    record = json.loads(capsys.readouterr().out)
    assert (code, record["status"], record["model"]) == (0, "made", "vggsound-5-resnet50")
    with av.open(record["out"]) as container:
        stream = container.streams.audio[0]
        assert float(stream.duration * stream.time_base) == pytest.approx(13 / 25, abs=1024 / stream.rate)
        assert max(abs(frame.to_ndarray()).max() for frame in container.decode(stream)) > 0.01


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda state: state.update({"transformer.ln_g.bias": state.pop("transformer.ln_f.bias")}), "transformer.ln_g.bias is not known"),
        (lambda state: state.update({"transformer.head.weight": torch.zeros(1024, 7)}), r"transformer.head.weight has shape \[1024, 7\]"),
        (lambda state: state.pop("first_stage_model.quant_conv.bias"), "first_stage_model.quant_conv.bias is missing"),
        (lambda state: state.update({"transformer.pos_emb": torch.zeros(1, 271, 1024)}), r"transformer.pos_emb has shape \[1, 271, 1024\]"),
    ],
    ids=["renamed", "misshapen", "missing", "of another length"],
)
def test_convert_refuses_a_damaged_checkpoint_and_leaves_nothing(cache, tmp_path, capsys, spoil, words):
    state = sampler_state()
    spoil(state)
    path = pack(tmp_path, f"{STEM}.tar.gz", state, project())
    assert run(["models", "convert", str(path), "-o", str(tmp_path / "out")]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    with pytest.raises(CheckpointError, match=f"{STEM}.tar.gz: .*{words}"):
        convert_file(path, tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([path.name, "project.yaml"])


def test_convert_refuses_truncated_and_unsafe_archives(tmp_path, capsys):
    path = pack(tmp_path, f"{STEM}.tar.gz", sampler_state(), project())
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert run(["models", "convert", str(path), "-o", str(tmp_path / "out")]) == 2
    assert f"{STEM}.tar.gz is cut off or damaged" in capsys.readouterr().err
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tmp_path / "project.yaml", "../evil.ckpt")
    assert run(["models", "convert", str(path), "-o", str(tmp_path / "out")]) == 2
    assert "has a member outside its folder ('../evil.ckpt')" in capsys.readouterr().err
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([path.name, "project.yaml"])


def test_fetch_refuses_wrong_bytes(serve, server, cache, capsys):
    serve("melgan", b"what was published")
    server.files["/netG.pt"] = b"what somebody put there"
    assert run(["models", "fetch", "melgan", "--mirror", server.url]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "netG.pt" in err
    assert not (cache / "models/melgan").exists()


def test_fetch_installs_a_single_network(serve, server, cache, tmp_path, capsys):
    torch.save({"model": state_of("melception"), "optimizer": {}, "epoch": 3, "loss": 1.0, "metrics": {}}, tmp_path / "a.pt")
    serve("melception", (tmp_path / "a.pt").read_bytes())
    assert run(["models", "fetch", "melception", "--mirror", server.url, "--numbers", "float16"]) == 0
    assert load_checkpoint(cache / "models/melception", "melception").config.labels == 309
    assert (cache / "models/melception/model.safetensors").stat().st_size < 1.01 * 2 * 25_250_000
    capsys.readouterr()
    assert run(["models"]) == 0
    assert "fetched" in next(line for line in capsys.readouterr().out.splitlines() if line.startswith("melception"))


def test_load_backbone_makes_two_streams_of_one_file(serve, server, cache, tmp_path):
    state = {name: value for name, value in state_of("bninception", grown).items() if not name.endswith("num_batches_tracked")}
    state = {name: value[None] if value.ndim == 1 else value for name, value in state.items()} | {"fc.weight": torch.zeros(1000, 1024)}
    torch.save(state, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    serve("bninception", (tmp_path / "a.pth").read_bytes())
    assert run(["models", "fetch", "bninception", "--mirror", server.url]) == 0
    module, row = load_backbone("bninception")
    assert row.pairs
    assert module(torch.zeros(1, 5, 224, 224)).shape == (1, 2048)
    assert module.flow.get_submodule("conv1_7x7_s2").weight.shape == (64, 2, 7, 7)


def test_load_backbone_names_the_command_that_fetches_it(cache):
    with pytest.raises(CheckpointError, match="'resnet50' is not installed; fetch it with: unsilent models fetch resnet50"):
        load_backbone("resnet50")


def test_needed_lists_files_in_the_order_of_installation(cache):
    assert [row.name for row in needed("vggsound-5-resnet50")] == ["melgan", "resnet50", "vggsound-5-resnet50"]
    assert [row.name for row in needed("vas-class")] == ["melgan", "vas-class"]
    assert [row.name for row in needed("vggishish")] == ["vggishish"]
    (models_folder() / "melgan").mkdir(parents=True)
    (models_folder() / "melgan/config.json").touch()
    assert [row.name for row in needed("vas-class")] == ["vas-class"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("everyday", "nothing to fetch: 'everyday' comes with the package"),
        ("vas-212-bninception-class", "nothing to fetch: 'vas-212-bninception-class' was never published"),
        ("vgishish", "there is no published file 'vgishish'; did you mean vggishish"),
    ],
)
def test_needed_says_why_nothing_can_be_fetched(name, words):
    with pytest.raises(ParameterError, match=words):
        needed(name)


def test_convert_makes_a_bundle_of_a_sampler(cache, tmp_path, capsys):
    """With the default model's vocoder if no published one is installed, and with class names."""
    path = pack(tmp_path, "renamed.tar.gz", sampler_state(n_features=0, n_classes=309), project(key="target"))
    assert run(["models", "convert", str(path), "-o", str(tmp_path / "out"), "--numbers", "float16"]) == 0
    assert "the model vggsound-class" in capsys.readouterr().err
    parts = load_parts(tmp_path / "out")
    assert len(parts.classes) == 309
    assert Request(label="Dog Barking").resolve(parts.defaults).label == "dog barking"
    assert read_config(tmp_path / "out/vocoder")["kind"] == "vocos"
    size = (tmp_path / "out/sampler/model.safetensors").stat().st_size
    assert size == pytest.approx(304_997_376 * 2, rel=1e-3)


def test_convert_uses_a_given_vocoder(cache, tmp_path):
    path = pack(tmp_path, f"{STEM}.tar.gz", sampler_state(), project())
    torch.save(state_of("melgan"), tmp_path / "best_netG.pt")
    (tmp_path / "args.yml").write_text("!!python/object:argparse.Namespace\nngf: 32\n")
    convert_file(path, tmp_path / "out", vocoder=tmp_path / "best_netG.pt", dtype=torch.float16)
    about = read_config(tmp_path / "out/vocoder")
    assert (about["kind"], about["record"]) == ("melgan", {"converted_from": "best_netG"})


@pytest.mark.parametrize(
    ("kind", "made"), [(None, "codebook"), ("perceptual", "perceptual"), ("discriminator", "discriminator"), ("codebook", "codebook")]
)
def test_convert_takes_each_network_of_a_codebook_file(tmp_path, kind, made):
    loss = {f"loss.{name}": flat(name, shape) for name, shape in published_shapes("codebook_loss").items()}
    loss |= {f"loss.perceptual_loss.scaling_layer.{name}": torch.ones(1, 1, 80, 1) for name in ("shift", "scale")}
    path = pack(tmp_path, "2021-05-19T22-16-54_vggsound_codebook.tar.gz", state_of("codebook") | loss, project())
    summary = convert_file(path, tmp_path / "out", kind=kind, dtype=torch.float16)
    assert summary.startswith(made)
    assert load_checkpoint(tmp_path / "out", made).config is not None


def test_convert_makes_a_checkpoint_of_a_bare_transformer(tmp_path):
    torch.save({name: flat(name, shape) for name, shape in sampler_shapes(5, 309).items()}, tmp_path / "t.pt")
    with pytest.raises(CheckpointError, match=r"t\.pt: no published sampler has these sizes"):
        convert_file(tmp_path / "t.pt", tmp_path / "out")
    torch.save({name: flat(name, shape) for name, shape in sampler_shapes(5, 0).items()}, tmp_path / "t.pt")
    summary = convert_file(tmp_path / "t.pt", tmp_path / "out", preset="vggsound-5-bninception", dtype=torch.float16)
    assert summary == "sampler of 306.8 M parameters for vggsound-5-bninception, without a codebook"
    assert load_checkpoint(tmp_path / "out", "sampler").config.condition.n_features == 5


def test_convert_needs_the_preset_of_an_ambiguous_sampler(tmp_path):
    torch.save({name: flat(name, shape) for name, shape in sampler_shapes(1, 0).items()}, tmp_path / "t.pt")
    with pytest.raises(ParameterError, match=r"t could be any of vggsound-nofeats, vggsound-1-resnet50, .*; choose one with --preset"):
        convert_file(tmp_path / "t.pt", tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "vas-class"}, "the preset 'vas-class' was given, but a melgan has none"),
        ({"vocoder": "v.pt"}, "a vocoder is for a sampler with its codebook, but this is a melgan alone"),
        ({"kind": "melception"}, "not a published melception"),
        ({"kind": "hat"}, "there is no published kind 'hat'"),
    ],
)
def test_convert_refuses_options_that_do_not_fit_the_file(tmp_path, options, words):
    torch.save(state_of("melgan"), tmp_path / "netG.pt")
    options = {name: tmp_path / value if name == "vocoder" else value for name, value in options.items()}
    with pytest.raises((CheckpointError, ParameterError), match=words):
        convert_file(tmp_path / "netG.pt", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_convert_does_not_overwrite(tmp_path):
    torch.save(state_of("melgan"), tmp_path / "netG.pt")
    (tmp_path / "out").mkdir()
    convert_file(tmp_path / "netG.pt", tmp_path / "out")  # an empty folder is used
    with pytest.raises(CheckpointError, match="out exists already; choose a new folder"):
        convert_file(tmp_path / "netG.pt", tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({}, "vggsound-5-resnet50"),
        ({"n": 212, "pictures": "feature_rgb_bninception_dim1024_21.5fps"}, "vggsound-212-bninception"),
        ({"data": "vas", "codes": 128, "n": 1}, "vas-1-resnet50"),
        ({"data": "vas", "n": 1}, "vas-1-resnet50-vggsound-codebook"),
        ({"random": True, "n": 1}, "vggsound-nofeats"),
        ({"key": "target"}, "vggsound-class"),
        ({"data": "vas", "codes": 128, "key": "[feature, target]", "n": 212, "pictures": "feature_rgb_bninception_dim1024_21.5fps"},
         "vas-212-bninception-class"),
    ],
)  # fmt: skip
def test_preset_of_reads_settings(tmp_path, settings, name):
    from unsilent import presets
    from unsilent.published.containers import read_settings

    (tmp_path / "p.yaml").write_text(project(**settings))
    assert preset_of(read_settings(tmp_path / "p.yaml")) == name
    assert name in presets.names()


def test_preset_of_incomplete_settings_is_empty():
    assert preset_of({}) == ""
    assert preset_of({"model": 3, "data": {"params": None}}) == ""


def test_an_interrupted_conversion_leaves_nothing(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    torch.save(state_of("melgan"), tmp_path / "netG.pt")
    monkeypatch.setattr(install, "save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        convert_file(tmp_path / "netG.pt", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["netG.pt"]


def test_install_in_two_threads_downloads_once(serve, server, cache, tmp_path):
    torch.save(state_of("melgan", grown), tmp_path / "a.pt")
    serve("melgan", (tmp_path / "a.pt").read_bytes())
    row, problems = catalog.find("melgan"), []

    def one():
        try:
            install.install(row, server.url)
        except Exception as error:
            problems.append(error)

    both = [threading.Thread(target=one) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert not problems
    assert len(server.requests) == 1
    assert sorted(path.name for path in (cache / "models").iterdir()) == ["melgan"]


def test_install_removes_remains_of_a_killed_conversion(serve, server, cache, tmp_path):
    torch.save(state_of("melgan"), tmp_path / "a.pt")
    serve("melgan", (tmp_path / "a.pt").read_bytes())
    (cache / "models/.melgan.abc.unsilent-part/part").mkdir(parents=True)
    (cache / "models/.melgan.abc.unsilent-part/lock").touch()
    install.install(catalog.find("melgan"), server.url)
    assert sorted(path.name for path in (cache / "models").iterdir()) == ["melgan"]


def test_needed_ignores_an_incomplete_folder(cache):
    (cache / "models/melgan").mkdir(parents=True)
    assert [row.name for row in needed("melgan")] == ["melgan"]


def test_find_bundle_refuses_a_single_network(cache):
    with pytest.raises(CheckpointError, match="'melgan' is not a model but one network: vocoder; `unsilent models` lists both"):
        find_bundle("melgan")


def test_convert_reads_sizes_in_the_vocoder_s_arguments(tmp_path):
    torch.save(state_of("melgan"), tmp_path / "netG.pt")
    (tmp_path / "args.yml").write_text("!!python/object:argparse.Namespace\nn_mel_channels: 80\nngf: 32\nn_residual_layers: 3\n")
    convert_file(tmp_path / "netG.pt", tmp_path / "out")
    assert read_config(tmp_path / "out")["config"]["residual_blocks"] == 3
    (tmp_path / "args.yml").write_text("!!python/object:argparse.Namespace\nn_mel_channels: 80\nngf: 32\nn_residual_layers: 4\n")
    with pytest.raises(CheckpointError, match=r"netG\.pt: these weights are not a published melgan"):
        convert_file(tmp_path / "netG.pt", tmp_path / "other")


@pytest.mark.parametrize("folder", [".", "sub/folder"])
def test_convert_accepts_relative_folders(tmp_path, monkeypatch, folder):
    torch.save(state_of("melgan"), tmp_path / "netG.pt")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert_file(Path("../netG.pt"), Path(folder))
    assert read_config(tmp_path / "here" / folder)["kind"] == "melgan"


def test_convert_names_an_unwritable_folder(tmp_path):
    torch.save(state_of("melgan"), tmp_path / "netG.pt")
    with pytest.raises(CheckpointError, match=r"cannot write .*netG\.pt/out"):
        convert_file(tmp_path / "netG.pt", tmp_path / "netG.pt" / "out")


@pytest.mark.parametrize("key", ["5", "{a: b}", "[[1], feature]"])
def test_preset_of_accepts_settings_of_any_shape(tmp_path, key):
    from unsilent.published.containers import read_settings

    (tmp_path / "p.yaml").write_text(project(key=key))
    assert preset_of(read_settings(tmp_path / "p.yaml")).startswith("vggsound")


def test_preset_of_is_safe_against_exponential_settings(tmp_path):
    from unsilent.published.containers import read_settings

    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    (tmp_path / "p.yaml").write_text(bomb + "data:\n  params:\n    spec_dir_path: *a59\n    rgb_feats_dir_path: *a59\n")
    assert preset_of(read_settings(tmp_path / "p.yaml")) == ""
