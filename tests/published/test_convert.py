"""Converters: every published weight is used or dropped for a reason, and mismatches are named."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from parity import published_shapes, sampler_shapes

from unsilent import presets
from unsilent.errors import CheckpointError, ParameterError
from unsilent.published.convert import CONVERTERS, convert, recognise, why_dropped

ORDER = torch.arange(265).reshape(5, 53).T.flatten()  # column by column
REFERENCE = Path(__file__).parents[3] / "shared/reference"
PARAMETERS = {
    "codebook": 72_137_089,
    "perceptual": 14_715_008,
    "discriminator": 2_763_585,
    "melgan": 4_266_050,
    "melgan_discriminator": 16_924_086,
    "vggishish": 137_622_517,
    "melception": 25_213_450,
    "resnet50": 23_508_032,
    "bninception": 10_270_240,
}


def empty(shapes, prefix=""):
    """A state dict on the meta device, except for weights whose values are read."""
    return {prefix + name: _one(name, shape) for name, shape in shapes.items()}


def _one(name, shape):
    if name.endswith("shuffle_idx"):
        return ORDER if name.endswith("forward_shuffle_idx") else ORDER.argsort()
    if "scaling_layer" in name:
        return torch.ones(shape)
    if name.endswith("mask"):
        return torch.ones(shape).tril()
    return torch.empty(shape, device="meta", dtype=torch.int64 if name.endswith("tracked") else torch.float32)


def of(kind):
    return empty(published_shapes({"discriminator": "codebook_loss"}.get(kind, kind)))


def with_loss(shapes):
    return {f"loss.{name}": shape for name, shape in shapes.items()}


def released_sampler():
    """As released: the codebook, the code order, the transformer with its masks."""
    orders = {f"first_stage_permuter.{way}_shuffle_idx": [265] for way in ("forward", "backward")}
    return empty(published_shapes("codebook"), "first_stage_model.") | empty(orders) | empty(sampler_shapes(5, 0), "transformer.")


def unused(kind, state, module):
    """Published names that are neither those of a weight of the module nor dropped for a reason."""
    row = CONVERTERS[kind]
    used = {prefix + name for prefix in row.prefixes for name in row.names(module)}
    return [name for name in state if name not in used and not why_dropped(kind, name)]


@pytest.mark.parametrize(("kind", "total"), PARAMETERS.items())
def test_convert_uses_every_weight_of_every_kind(kind, total):
    state = of(kind)
    module = convert(kind, state)
    assert sum(value.numel() for value in module.parameters()) == total
    assert unused(kind, state, module) == []
    assert not module.training


@pytest.mark.parametrize(
    ("n_features", "n_classes", "kind", "total"),
    [
        (1, 0, "features", 306_779_136), (5, 0, "features", 306_783_232), (53, 0, "features", 306_832_384),
        (212, 0, "features", 306_995_200), (0, 309, "class", 304_997_376), (5, 309, "features+class", 307_100_672),
        (212, 8, "features+class", 307_004_416),
    ],
)  # fmt: skip
def test_convert_infers_the_condition_of_a_sampler(n_features, n_classes, kind, total):
    module = convert("sampler", empty(sampler_shapes(n_features, n_classes)))
    condition = module.config.condition
    assert (condition.kind, condition.n_features, condition.n_classes) == (kind, n_features, n_classes)
    assert sum(value.numel() for value in module.parameters()) == total
    assert module.config.transformer == presets.PAPER_TRANSFORMER


def test_convert_infers_coordinates_without_an_embedder():
    shapes = sampler_shapes(5, 0)
    shapes = {name: shape for name, shape in shapes.items() if not name.startswith("embedder")} | {"pos_emb": [1, 530, 1024]}
    assert convert("sampler", empty(shapes)).config.condition.kind == "coordinates"


def test_convert_infers_the_codebook_size():
    state = of("codebook") | {"quantize.embedding.weight": torch.empty(128, 256)}
    assert convert("codebook", state).config.n_codes == 128


def test_convert_takes_both_networks_of_a_sampler_file():
    state = released_sampler()
    assert recognise(state) == "sampler"
    total = sum(value.numel() for kind in ("sampler", "codebook") for value in convert(kind, state).parameters())
    assert total == 378_920_321  # the 379 M of paper table 4
    for kind in ("sampler", "codebook"):
        assert unused(kind, state, convert(kind, state)) == []


def test_convert_takes_the_losses_of_a_codebook_file():
    state = of("codebook") | empty(published_shapes("codebook_loss"), "loss.")
    assert recognise(state) == "codebook"
    for kind in ("codebook", "discriminator", "perceptual"):
        assert sum(value.numel() for value in convert(kind, state).parameters()) == PARAMETERS[kind]


@pytest.mark.parametrize("kind", PARAMETERS)
def test_recognise_finds_the_kind(kind):
    assert recognise(of(kind)) in (kind, "perceptual")  # a codebook's losses have both a distance and a discriminator


def test_recognise_refuses_unpublished_weights():
    with pytest.raises(CheckpointError, match=r"of no published kind \(sampler, codebook.*first names are 'conv\.weight'"):
        recognise({"conv.weight": torch.empty(1)})


def test_convert_refuses_an_unknown_kind():
    with pytest.raises(ParameterError, match=r"there is no published kind 'vocos'; choose one of sampler"):
        convert("vocos", {})


@pytest.mark.parametrize("kind", PARAMETERS)
def test_convert_names_a_renamed_weight_twice(kind):
    state = of(kind)
    name = next(name for name in reversed(state) if not why_dropped(kind, name) and name.endswith(("weight", "weight_v")))
    state[f"{name}_"] = state.pop(name)
    with pytest.raises(CheckpointError, match=f"not a published {kind}: .*{name}_ is not known and {name} is missing"):
        convert(kind, state)


@pytest.mark.parametrize("kind", PARAMETERS)
def test_convert_names_a_wrong_shape(kind):
    state = of(kind)
    name = next(name for name in reversed(state) if not why_dropped(kind, name) and state[name].ndim > 1)
    state[name] = torch.empty(3, *state[name].shape, device="meta")
    with pytest.raises(CheckpointError, match=rf"{name} has shape \[3, .*\] instead of \["):
        convert(kind, state)


@pytest.mark.parametrize(
    "name",
    ["tok_emb.weight", "pos_emb", "embedder.bias", "embedder.weight", "blocks.7.mlp.0.weight", "blocks.23.attn.key.bias", "head.weight"],
)
@pytest.mark.parametrize("how", ["missing", "renamed", "misshapen"])
def test_convert_names_the_damaged_weight_of_a_sampler(name, how):
    state = empty(sampler_shapes(5, 0), "transformer.")
    value = state.pop(f"transformer.{name}")
    if how == "renamed":
        state[f"transformer.{name}.old"] = value
    elif how == "misshapen":
        state[f"transformer.{name}"] = torch.empty(7, *value.shape, device="meta")
    with pytest.raises(CheckpointError, match=f"not a published sampler: .*transformer.{name}"):
        convert("sampler", state, presets.get("vggsound-5-resnet50").sampler)


def test_convert_names_unknown_weights():
    with pytest.raises(CheckpointError, match=r"not a published codebook: ema\.decay is not known"):
        convert("codebook", released_sampler() | {"ema.decay": torch.ones(1)})


def test_convert_refuses_another_code_order():
    state = released_sampler() | {"first_stage_permuter.forward_shuffle_idx": torch.arange(265)}
    with pytest.raises(CheckpointError, match=r"forward_shuffle_idx is not the code order column by column"):
        convert("sampler", state)


def test_convert_refuses_a_mask_that_is_not_causal():
    state = released_sampler() | {"transformer.blocks.3.attn.mask": torch.ones(1, 1, 270, 270)}
    with pytest.raises(CheckpointError, match=r"transformer.blocks.3.attn.mask attends to later positions"):
        convert("sampler", state)


def test_convert_does_not_copy_weights():
    state = {name: torch.zeros(shape) for name, shape in published_shapes("melgan").items()}
    state["model.1.weight_v"][0, 0, 0] = 5.0
    module = convert("melgan", state)
    assert module.state_dict()["layers.1.parametrizations.weight.original1"].data_ptr() == state["model.1.weight_v"].data_ptr()


def test_convert_accepts_extra_axes_and_missing_counts_of_old_files():
    """In the ImageNet file of BN-Inception, from 2017, norms have shape [1, n] and no batch counts."""
    state = {name: value for name, value in of("bninception").items() if not name.endswith("num_batches_tracked")}
    state = {name: torch.ones(value.shape)[None] if value.ndim == 1 else torch.ones(value.shape) for name, value in state.items()}
    state |= {"fc.weight": torch.ones(1000, 1024), "fc.bias": torch.ones(1000)}
    module = convert("bninception", state)
    assert module.state_dict()["conv1_7x7_s2_bn.weight"].shape == (64,)
    assert why_dropped("bninception", "fc.weight")


def test_convert_reads_band_statistics_of_the_distance():
    state = {name: torch.zeros(shape) for name, shape in published_shapes("perceptual").items()}
    state |= {"scaling_layer.shift": torch.full((1, 1, 80, 1), 0.5), "scaling_layer.scale": torch.full((1, 1, 80, 1), 0.5)}
    bands = convert("perceptual", state).config.bands
    assert bands.mean[0] == 0.75
    assert bands.std[79] == 0.25


def test_convert_accepts_numpy_arrays():
    state = {name: np.zeros(shape, np.float64) for name, shape in published_shapes("melgan").items()}
    assert convert("melgan", state).state_dict()["layers.1.bias"].dtype == torch.float32


def test_convert_ignores_the_prefix_of_several_devices():
    state = {f"module.{name}": value for name, value in of("melgan").items()}
    assert recognise(state) == "melgan"
    assert convert("melgan", state)


def test_convert_names_the_function_that_unwraps():
    with pytest.raises(CheckpointError, match=r"'model' is a dict where a weight is expected; `containers\.read_weights`"):
        convert("vggishish", {"model": of("vggishish")})


def test_convert_names_the_kind_of_other_weights():
    with pytest.raises(CheckpointError, match=r"not a published codebook: .*; they are those of a melgan"):
        convert("codebook", of("melgan"))


def test_convert_names_a_wrong_dtype():
    state = of("melgan") | {"model.1.bias": torch.zeros(512, dtype=torch.int64)}
    with pytest.raises(CheckpointError, match=r"model\.1\.bias has the dtype int64"):
        convert("melgan", state)


def test_convert_ignores_empty_masks():
    state = released_sampler() | {"transformer.blocks.3.attn.mask": torch.zeros(1, 1, 270, 270)}
    assert convert("sampler", state)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan")])
def test_convert_refuses_invalid_statistics(scale):
    state = of("perceptual") | {"scaling_layer.scale": torch.full((1, 1, 80, 1), scale)}
    with pytest.raises(CheckpointError, match=r"scaling_layer\.shift and \.scale are not statistics"):
        convert("perceptual", state)


@pytest.mark.parametrize(
    ("file", "shapes"),
    [
        ("codebook_vggsound", lambda: published_shapes("codebook") | with_loss(published_shapes("codebook_loss"))),
        ("transformer_vggsound_feats5", lambda: sampler_shapes(5, 0)),
        ("transformer_vggsound_feats212", lambda: sampler_shapes(212, 0)),
        ("transformer_vggsound_class309", lambda: sampler_shapes(0, 309)),
        *((file, lambda kind=kind: published_shapes(kind)) for file, kind in {
            "melgan_netG": "melgan", "melgan_netD": "melgan_discriminator", "vggishish_model": "vggishish",
            "melception_model": "melception", "resnet50": "resnet50", "bninception": "bninception",
        }.items()),
    ],
)  # fmt: skip
def test_published_files_have_the_shapes_of_the_fixture(file, shapes):
    """And every weight of them is used or dropped for a reason."""
    path = REFERENCE / f"keys/{file}.json"
    if not path.exists():
        pytest.skip("needs the authors' lists of names")
    theirs = {name: next(part for part in about if isinstance(part, list)) for name, about in json.loads(path.read_text()).items()}
    own = {name.removeprefix("transformer."): shape for name, shape in theirs.items() if not name.startswith("first_stage")}
    assert own == shapes()
    state = empty(theirs)
    for kind in CONVERTERS:
        if recognise(state) == kind:
            assert unused(kind, state, convert(kind, state)) == []
