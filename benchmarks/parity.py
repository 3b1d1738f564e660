"""Compare unsilent numerically with the authors' implementation.

    python benchmarks/parity.py [REFERENCE]

Every network of the paper, at full size, gets weights that depend only on their published names and shapes. It is converted by
`unsilent.published.convert.convert` and gets the same inputs as the released implementation. REFERENCE is a folder with `expected/*.npz`
and `original_features/`. Without it, the numbers in tests/fixtures are used; there, long arrays are subsampled, and the sampler with 212
features is missing.

The exit code is 1 if anything differs by more than its limit. The reference numbers come from the released implementation at commit
33c601d, in float32 on a CPU, for the VGGSound clip -Qowmc0P9ic_34000_44000.
"""

import json
import sys
import zlib
from collections.abc import Callable, Collection, Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unsilent import metrics
from unsilent.clip import Clip
from unsilent.data.released import read_features, read_mel
from unsilent.models.band_statistics import VGGSOUND_MEAN, VGGSOUND_STD
from unsilent.models.code_order import to_sequence
from unsilent.models.condition import pick_rows
from unsilent.models.transformer import Attention, weights_of
from unsilent.published.convert import convert
from unsilent.signal.mel import from_mel01, log_mel01
from unsilent.train.losses import codebook_loss, hinge_discriminator_loss, hinge_generator_loss, next_code_loss, vqgan_loss
from unsilent.vision.features import find_backbone

FIXTURES = Path(__file__).parents[1] / "tests/fixtures"
CLIP = Clip()
LONG = 4096  # fixtures subsample arrays with more values
KNOWN, GREEDY = 25, 15  # number of given codes, and of greedily sampled codes after them

METRICS = {  # from the authors' names to those in the fixture
    "fake_features": "generated_features",
    "fake_logits": "generated_logits",
    "frechet_inception_distance": "fid",
    "kernel_inception_distance_mean": "kid",
    "kernel_inception_distance_std": "kid_std",
    "inception_score_mean": "inception_score",
    "inception_score_std": "inception_score_std",
    "kullback_leibler_divergence": "mkl",
}


class Row(NamedTuple):
    """One comparison: the difference, relative to the largest expected value, and its limit."""

    file: str
    what: str
    difference: float
    limit: float
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the limit; NaN is not."""
        return self.difference <= self.limit


class Numbers:
    """The authors' numbers and their inputs.

    Args:
        reference: folder of the complete numbers; None takes the fixtures.
    """

    def __init__(self, reference: Path | None = None) -> None:
        self.reference = reference
        self._stored = None if reference else dict(np.load(FIXTURES / "parity.npz"))

    def expected(self, file: str, what: str) -> np.ndarray:
        """Return an array of `expected/FILE.npz`; from the fixtures, it may be subsampled."""
        if file == "metrics_a3" and self._stored is not None:
            return np.load(FIXTURES / "metrics.npz")[METRICS.get(what, what)]
        return np.load(self.reference / f"expected/{file}.npz")[what] if self.reference else self._stored[f"{file}/{what}"]

    def near(self, file: str, what: str, found: Tensor | np.ndarray | float, limit: float) -> Row:
        """Compare numbers by their largest relative difference."""
        expected, found = self.expected(file, what).astype(np.float64), np.asarray(found, dtype=np.float64)
        if found.size != expected.size:
            found = thin(found)
        if found.size != expected.size:
            return Row(file, what, np.inf, limit, f"{found.size} values, but {expected.size} are expected")
        difference = np.abs(found.ravel() - expected.ravel()).max() / max(np.abs(expected).max(), 1e-12)
        return Row(file, what, float(difference), limit)

    def same(self, file: str, what: str, found: Tensor | np.ndarray) -> Row:
        """Compare integers by the fraction that differs, which must be 0."""
        expected, found = self.expected(file, what).ravel(), np.asarray(found).ravel()
        equal = int((expected == found).sum()) if expected.shape == found.shape else 0
        return Row(file, what, 1 - equal / expected.size, 0.0, f"{equal} of {expected.size}")

    @cached_property
    def mel01(self) -> Tensor:
        """The clip's mel from the published data set, cropped: `[1, mels, frames]` in [0, 1]."""
        if self.reference is None:
            return torch.from_numpy(self._stored["mel01"])[None]
        clip = self.expected("codebook_a", "clip")
        return torch.as_tensor(read_mel(self.reference / f"original_features/{clip}_mel.npy", CLIP))[None]

    @property
    def mel(self) -> Tensor:
        """The clip's mel in [-1, 1], `[1, mels, frames]`."""
        return from_mel01(self.mel01)

    def features(self, n_features: int) -> Tensor:
        """Return the feature rows that a sampler with `n_features` picks, `[1, features, 2048]`."""
        rows = pick_rows(n_features, CLIP.n_features)
        if self.reference is None:
            stored = self._stored["feature_rows"].tolist()
            return torch.from_numpy(self._stored["features"][[stored.index(row) for row in rows]])[None]
        clip = str(self.expected("codebook_a", "clip"))
        return torch.as_tensor(read_features(self.reference / "original_features", clip, "resnet50", CLIP)[rows])[None]


def thin(values: np.ndarray) -> np.ndarray:
    """Flatten an array, and subsample it evenly if it has more than `LONG` values."""
    flat = np.asarray(values).ravel()
    return flat if flat.size <= LONG else flat[:: -(-flat.size // LONG)]


def fill(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Fill a published weight from its name and shape alone, as for the authors' numbers."""
    numbers, leaf = np.random.default_rng(zlib.crc32(name.encode())), name.split(".")[-1]
    if leaf in ("running_var", "weight_g"):
        return numbers.uniform(0.5, 1.5, shape).astype(np.float32)
    normal = numbers.standard_normal(shape)
    if leaf == "running_mean":
        normal = 0.1 * normal
    elif leaf == "pos_emb":
        normal = 0.02 * normal
    elif len(shape) > 1:
        normal = normal / np.sqrt(np.prod(shape[1:]))
    else:
        normal = 0.1 * normal + (leaf == "weight")
    return normal.astype(np.float32)


_SCALING = {"shift": [2 * mean - 1 for mean in VGGSOUND_MEAN], "scale": [2 * std for std in VGGSOUND_STD]}
_FILLED: dict[tuple[str, tuple[int, ...]], Tensor] = {}  # cache, because samplers of all conditions share nearly all weights


def filled(shapes: dict[str, list[int]], keep: bool = False) -> dict[str, Tensor]:
    """Fill a state dict with the published names; counters, masks and input statistics get their fixed values."""
    state = {}
    for name, shape in shapes.items():
        leaf, key = name.split(".")[-1], (name, tuple(shape))
        if leaf == "num_batches_tracked":
            state[name] = torch.zeros((), dtype=torch.int64)
        elif leaf == "mask":
            state[name] = torch.ones(shape).tril()
        elif leaf in ("shift", "scale"):
            state[name] = torch.tensor(_SCALING[leaf]).reshape(shape)
        elif key in _FILLED:
            state[name] = _FILLED[key]
        else:
            state[name] = torch.from_numpy(fill(name, tuple(shape)))
            if keep:
                _FILLED[key] = state[name]
    return state


def published_shapes(kind: str) -> dict[str, list[int]]:
    """Return names and shapes of a published state dict, relative to its network. They were read from instances of the released classes."""
    return json.loads((FIXTURES / "published_shapes.json").read_text())[kind]


def sampler_shapes(n_features: int, n_classes: int) -> dict[str, list[int]]:
    """Return names and shapes of a released transformer; `n_features` or `n_classes` may be 0."""
    shapes, block = published_shapes("transformer"), n_features + bool(n_classes) + CLIP.n_codes
    for name in [name for name in shapes if name.endswith("mask")]:
        shapes[name] = [1, 1, block, block]
    shapes["pos_emb"] = [1, block, 1024]
    features = {"weight": shapes.pop("embedder.weight"), "bias": shapes.pop("embedder.bias")}
    both = bool(n_features and n_classes)
    if n_features:
        shapes |= {f"{'feat_' if both else ''}embedder.{leaf}": shape for leaf, shape in features.items()}
    if n_classes:
        shapes[f"{'cls_' if both else ''}embedder.weight"] = [n_classes, 1024]
    return shapes


def compare_mel(numbers: Numbers) -> Iterator[Row]:
    """Compare the mel of a tone and, with a reference folder, that of the clip's sound."""
    if numbers.reference is None:
        tone = dict(np.load(FIXTURES / "mel_of_tone.npz"))
        difference = np.abs(log_mel01(torch.from_numpy(tone["tone"])[None], CLIP)[0].numpy() - tone["tone_mel"][:, :117]).max()
        yield Row("mel_a", "tone_mel", float(difference), 1e-4)
        return
    for sound, mel in (("tone", "tone_mel"), ("waveform_i16", "mel")):
        waveform = numbers.expected("mel_a", sound)
        waveform = waveform.astype(np.float32) / (32768 if waveform.dtype == np.int16 else 1)
        found, expected = log_mel01(torch.from_numpy(waveform)[None], CLIP)[0].numpy(), numbers.expected("mel_a", mel)
        frames = min(found.shape[1], expected.shape[1])
        yield Row("mel_a", mel, float(np.abs(found[:, :frames] - expected[:, :frames]).max()), 1e-4)


def compare_codebook(numbers: Numbers) -> Iterator[Row]:
    """Compare the codebook, its losses, the perceptual distance and the discriminator."""
    file, mel = "codebook_a", numbers.mel
    codebook = convert("codebook", filled(published_shapes("codebook")))
    latents = codebook.latents(mel)
    grid = codebook.encode(mel)
    result = codebook(mel)
    yield numbers.near(file, "latent", latents[0], 1e-3)
    yield numbers.same(file, "codes_row_major", grid[0])
    yield numbers.same(file, "tokens", to_sequence(grid)[0])
    yield numbers.near(file, "reconstruction", codebook.decode_codes(grid)[0], 1e-3)
    terms = codebook_loss(mel, result, beta_on_codebook=True)
    yield numbers.near(file, "codebook_loss", terms["codebook"] + terms["commitment"], 1e-4)
    usage = torch.bincount(grid.flatten(), minlength=codebook.config.n_codes) / grid.numel()
    yield numbers.near(file, "perplexity", torch.exp(-(usage * torch.log(usage + 1e-10)).sum()), 1e-4)

    perceptual = convert("perceptual", filled(published_shapes("perceptual")))
    flipped = 0.7 * mel + 0.3 * mel.flip(2)
    yield Row("lpaps_a", "d_self", float(perceptual(mel, mel).abs()), 0.0)
    yield numbers.near("lpaps_a", "d_flipmix", perceptual(mel, flipped), 1e-4)
    yield numbers.near("lpaps_a", "d_recon", perceptual(mel, result.mel), 1e-4)

    file = "codebook_loss_a"
    state = filled(published_shapes("codebook_loss"))
    judge, distance = convert("discriminator", state), convert("perceptual", state)
    real, fake = judge(mel), judge(result.mel)
    yield numbers.near(file, "disc_logits_real", real[0], 1e-4)
    for step, factor in ((0, 0.0), (40000, 1.0)):
        terms = vqgan_loss(mel, result, distance(mel, result.mel), fake, 0.8 * factor, beta_on_codebook=True)
        found = {  # released logs some of them under a second name, and settings, which prove nothing
            "gen": sum(terms.values()),
            **({"disc": factor * hinge_discriminator_loss(real, fake)} if factor else {}),
            "train_quant_loss": terms["codebook"] + terms["commitment"],
            "train_nll_loss": terms["reconstruction"] + terms["perceptual"],
            "train_p_loss": terms["perceptual"],
            "train_g_loss": hinge_generator_loss(fake),
            "train_logits_real": real.mean(),
            "train_logits_fake": fake.mean(),
        }
        for what, value in found.items():
            yield numbers.near(file, f"{what}_{step}", value, 1e-4)


def compare_classifiers(numbers: Numbers) -> Iterator[Row]:
    """Compare VGGish-ish and Melception."""
    vggishish = convert("vggishish", filled(published_shapes("vggishish")))
    yield numbers.near("classifiers_a", "vggishish_logits", vggishish(numbers.mel01)[0], 1e-4)
    for what in ("mean", "std"):
        yield numbers.near("classifiers_a", what, np.array(getattr(vggishish.config.bands, what)), 1e-6)
    melception = convert("melception", filled(published_shapes("melception")))
    yield numbers.near("classifiers_a", "melception_logits", melception(numbers.mel01)[0], 1e-4)
    yield numbers.near("classifiers_a", "melception_2048", melception.features(numbers.mel01)[0], 1e-4)


def compare_vocoder(numbers: Numbers) -> Iterator[Row]:
    """Compare MelGAN and its discriminator."""
    vocoder = convert("melgan", filled(published_shapes("melgan")))
    waveform = vocoder(numbers.mel01)
    yield numbers.near("melgan_a", "waveform_first_4096", waveform[0, :4096], 1e-3)
    yield numbers.near("melgan_a", "waveform_every_64", waveform[0, ::64], 1e-3)
    yield numbers.near("melgan_a", "n_samples", waveform.shape[1], 0.0)
    judge = convert("melgan_discriminator", filled(published_shapes("melgan_discriminator")))
    maps = judge(waveform[:, :8192])
    yield numbers.near("melgan_a", "disc_last", torch.cat([scale[-1].flatten() for scale in maps]), 1e-3)
    yield numbers.near("melgan_a", "disc_feature_means", torch.stack([one.mean() for scale in maps for one in scale]), 1e-3)


def compare_backbones(numbers: Numbers) -> Iterator[Row]:
    """Compare the image networks."""
    pictures = torch.from_numpy(np.random.default_rng(11).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)).permute(0, 3, 1, 2).float()
    row = find_backbone("resnet50")
    mean, std = (torch.tensor(values)[:, None, None] for values in (row.mean, row.std))
    resnet50 = convert("resnet50", filled(published_shapes("resnet50")))
    yield numbers.near("backbones_a", "resnet50", resnet50((pictures / 255 - mean) / std), 1e-4)
    middle = 255 * torch.tensor(find_backbone("bninception").mean[:3])[:, None, None]
    bninception = convert("bninception", filled(published_shapes("bninception")))
    yield numbers.near("backbones_a", "bninception_rgb", bninception(pictures.flip(1) - middle), 1e-4)


def compare_samplers(numbers: Numbers, files: Collection[str] = ()) -> Iterator[Row]:
    """Compare the transformer with every kind of condition, or with those of the named files."""
    label = torch.tensor([7])
    nothing = torch.from_numpy(np.random.default_rng(7).random((1, 1, 2048)).astype(np.float32))
    conditioned = {
        "transformer_1_a": (1, 0, lambda: {"features": numbers.features(1)}),
        "transformer_5_a": (5, 0, lambda: {"features": numbers.features(5)}),
        "transformer_212_a": (212, 0, lambda: {"features": numbers.features(212)}),
        "transformer_nofeats_a": (1, 0, lambda: {"features": nothing}),
        "transformer_class_a": (0, 309, lambda: {"labels": label}),
        "transformer_cls5_a": (5, 309, lambda: {"features": numbers.features(5), "labels": label}),
    }
    for file, (n_features, n_classes, condition) in conditioned.items():
        if (files and file not in files) or (n_features == CLIP.n_features and numbers.reference is None):
            continue
        yield from _compare_sampler(numbers, file, n_features, n_classes, condition)
    _FILLED.clear()


def _heads(layer: Attention, x: Tensor) -> Tensor:
    """The causal attention weights of each head, given the input of its layer."""
    query, key = (project(x).unflatten(2, (layer.heads, -1)).transpose(1, 2) for project in (layer.query, layer.key))
    return weights_of(query, key, torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril())


def _compare_sampler(
    numbers: Numbers, file: str, n_features: int, n_classes: int, condition: Callable[[], dict[str, Tensor]]
) -> Iterator[Row]:
    sampler = convert("sampler", filled(sampler_shapes(n_features, n_classes), keep=True))
    embedded = sampler.condition(**condition())
    codes = torch.from_numpy(numbers.expected("codebook_a", "tokens"))[None]
    if file not in ("transformer_class_a", "transformer_nofeats_a"):
        yield numbers.same(file, "feature_index", np.array(pick_rows(n_features, CLIP.n_features)))
    seen: list[Tensor] = []
    attention = sampler.transformer.blocks[-1].attn
    hook = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = sampler.logits(codes, embedded)
    hook.remove()
    yield numbers.near(file, "attention_last_layer_last_query", _heads(attention, seen[0])[0, :, -1], 1e-3)
    yield numbers.near(file, "logits_every_16", logits[0, ::16], 1e-3)
    yield numbers.near(file, "cross_entropy", next_code_loss(logits, codes), 1e-4)
    scores, cache = sampler.start(codes[:, :KNOWN], embedded)
    greedy = [scores.argmax(1)]
    while len(greedy) < GREEDY:
        greedy.append(sampler.step(greedy[-1], cache).argmax(1))
    yield numbers.same(file, "greedy_after_25", torch.cat(greedy))


def compare_metrics(numbers: Numbers) -> Iterator[Row]:
    """Compare FID, KID, inception score and MKL of given features and logits, with two generated rows per real row."""
    inputs = ("real_features", "fake_features", "real_logits", "fake_logits")
    real, made, real_logits, made_logits = (numbers.expected("metrics_a3", name) for name in inputs)
    kid = metrics.kid(real, made, subset_size=100)  # as for the authors' numbers
    score = metrics.inception_score(made_logits)
    found = {
        "frechet_inception_distance": metrics.fid(real, made),
        "kernel_inception_distance_mean": kid.value,
        "kernel_inception_distance_std": kid.std,
        "inception_score_mean": score.value,
        "inception_score_std": score.std,
        "kullback_leibler_divergence": metrics.mkl(np.repeat(real_logits, 2, axis=0), made_logits),
    }
    for what, value in found.items():
        yield numbers.near("metrics_a3", what, value, 1e-4)


SECTIONS = (compare_mel, compare_codebook, compare_classifiers, compare_vocoder, compare_backbones, compare_samplers, compare_metrics)


@torch.inference_mode()
def compare(numbers: Numbers) -> Iterator[Row]:
    """Run all comparisons."""
    for section in SECTIONS:
        yield from section(numbers)


def main() -> int:
    """Print the table. Returns 1 if a difference exceeds its limit."""
    numbers = Numbers(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    print(f"{'file':22} {'what':34} {'difference':>11} {'limit':>8}")
    failed = total = 0
    for row in compare(numbers):
        total, failed = total + 1, failed + (not row.passed)
        print(f"{row.file:22} {row.what:34} {row.difference:11.2e} {row.limit:8.0e}  {'ok' if row.passed else 'DIFFERS'} {row.detail}")
    print(f"{total - failed} of {total} agree; numbers from {numbers.reference or 'tests/fixtures'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
