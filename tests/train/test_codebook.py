"""Training of the codebook with a perceptual distance, a discriminator, and averaged codes."""

import math
import statistics

import lightning_fabric
import pytest
import torch
from safetensors.torch import load_file

from unsilent.checkpoints.store import load_checkpoint, save_checkpoint
from unsilent.clip import Clip
from unsilent.data.datasets import generators
from unsilent.errors import CheckpointError, ParameterError
from unsilent.models.band_statistics import BandStatistics
from unsilent.models.configs import CodebookConfig
from unsilent.models.perceptual import Perceptual
from unsilent.models.quantizer import as_vectors, closest
from unsilent.train.codebook import CodebookTrainer, load_distance
from unsilent.train.config import CodebookRun
from unsilent.train.loop import fit, update_average
from unsilent.train.steps import StepContext
from unsilent.train.trainer import StepResult

CONFIG = CodebookConfig(clip=Clip(frames=64), n_codes=8, dim=8, channels=8, multipliers=(1, 1, 1, 1, 2), n_blocks=1)
ADVERSARIAL = {"adversarial_weight": 0.8, "discriminator_width": 4}


@pytest.fixture
def classifier(write_classifier, tmp_path):
    write_classifier(tmp_path / "vggishish")
    return tmp_path / "vggishish"


def build(shards, out, steps=4, precision="32-true", **settings):
    settings = {"warmup_steps": 0, "learning_rate": 3e-3, "batch": 2, "save_every": 1, "crop_columns": 2, "revive_every": 2} | settings
    run = CodebookRun(kind="codebook", preset="everyday", shards=shards, out=out, steps=steps, **settings)
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1, precision=precision)
    fabric.seed_everything(0, verbose=False)
    return run, CodebookTrainer(run, CONFIG, fabric), fabric


@pytest.fixture
def train(fit_recorded):
    def train(shards, out, resume=False, stop_at=None, metrics=None, **settings):
        run, trainer, fabric = build(shards, out, **settings)
        return load_file(fit_recorded(run, trainer, fabric, resume, stop_at, metrics) / "model.safetensors")

    return train


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("adaptive_weight", [(1.0, 1.0), (0.0, 10.0)], ids=["fixed", "adaptive"])
def test_losses_fall_with_all_losses(train, shards, classifier, tmp_path, adaptive_weight):
    seen = []
    everything = {"perceptual": classifier, "perceptual_weight": 1.0, "adaptive_weight": adaptive_weight, "adversarial_start": 10}
    train(
        shards, tmp_path / "out", metrics=seen, steps=40, batch=4, save_every=40, **ADVERSARIAL | everything | {"adversarial_weight": 0.02}
    )
    assert set(seen[0]) == {"reconstruction", "codebook", "commitment", "perceptual", "codes_used", "perplexity"}
    assert set(seen[-1]) == set(seen[0]) | {"adversarial", "discriminator", "adaptive_weight"}
    assert {one["adaptive_weight"] == 1.0 for one in seen[10:]} == {adaptive_weight == (1.0, 1.0)}
    for names, since in ((("reconstruction", "perceptual"), 0), (("discriminator",), 10)):
        first, last = (sum(one[name] for one in part for name in names) for part in (seen[since : since + 5], seen[-5:]))
        assert last < 0.95 * first, (names, first, last)
    assert 1 <= seen[-1]["perplexity"] <= 8


def test_adaptive_factor_is_that_of_vqgan(shards, classifier, tmp_path):
    """Compared with gradients of the decoder's last weight by autograd."""
    options = {"perceptual": classifier, "perceptual_weight": 1.0, "adaptive_weight": (0.0, 1e9)}
    _, trainer, fabric = build(shards, tmp_path / "out", **ADVERSARIAL | options)
    mel = torch.rand(2, 80, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    result = trainer.module(mel)
    result = result._replace(mel=result.mel.view_as(result.mel))
    distance, fake = trainer.distance(mel, result.mel), trainer.others["discriminator"].module.eval()(result.mel)
    found = trainer.adaptive_factor(fabric, mel, result, distance, fake)
    codebook, last = trainer.module.module, trainer.module.module.decoder.conv_out.weight
    made = codebook(mel).mel
    likelihood = (mel - made).abs().mean() + trainer.distance(mel, made).mean()
    norms = [
        torch.autograd.grad(term, last, retain_graph=True)[0].norm()
        for term in (likelihood, -trainer.others["discriminator"].module(made).mean())
    ]
    torch.testing.assert_close(found, norms[0] / (norms[1] + 1e-4), rtol=1e-4, atol=0)


def test_bfloat16_learns_with_all_losses(train, shards, classifier, tmp_path):
    everything = {"perceptual": classifier, "perceptual_weight": 1.0, "adaptive_weight": (0.0, 10.0), "precision": "bf16-mixed"}
    seen = []
    train(shards, tmp_path / "out", metrics=seen, steps=60, batch=4, save_every=60, **ADVERSARIAL | everything | {"adversarial_start": 15})
    assert all(math.isfinite(value) for one in seen for value in one.values())
    distances = [one["perceptual"] for one in seen]
    assert sum(distances[10:15]) < 0.5 * sum(distances[:5])
    # the discriminator makes single steps vary by a factor of four, in float32 as well
    assert statistics.median(distances[15:]) < 0.95 * statistics.mean(distances[:5])


def test_codes_used_forgets_early_steps(shards, tmp_path):
    """A codebook that collapses after 150 steps without revival."""
    run, trainer, fabric = build(shards, tmp_path / "out", revive_every=10_000)
    context, grid = StepContext(fabric, run), torch.arange(8).reshape(1, 1, 8)
    quantized = trainer.module(torch.zeros(1, 80, 32)).quantized
    inputs = torch.zeros(1, 8, 1, 8)
    for step, used in ((0, grid), (150, torch.full_like(grid, 3))):
        context.step = step
        metrics, _ = trainer.codes.update(context, quantized._replace(inputs=inputs, grid=used), latents=lambda: torch.zeros(1, 8))
    assert metrics["codes_used"] == 1 / 8


def test_average_of_replaced_codes_restarts(shards, tmp_path):
    _, trainer, _ = build(shards, tmp_path / "out")
    average = {name: torch.zeros_like(value) for name, value in trainer.module.state_dict().items()}
    replaced = torch.tensor([2, 5])
    trainer.codes.place(replaced, torch.full((2, 8), 7.0))
    result = StepResult({}, {"quantize.embedding.weight": [replaced]})
    update_average(average, trainer.module, decay=0.999, step=100_000, results=[result])
    codes = average["quantize.embedding.weight"]
    assert torch.equal(codes[[2, 5]], torch.full((2, 8), 7.0))
    assert codes[[0, 1, 3, 4, 6, 7]].abs().max() < 0.1


def test_step_returns_replaced_codes(shards, tmp_path):
    run, trainer, fabric = build(shards, tmp_path, steps=9, revive_every=1)
    result = trainer.step(StepContext(fabric, run), trainer.draw(generators(0, 0, range(2))))
    first, *revived = result.replaced["quantize.embedding.weight"]
    assert first.tolist() == list(range(8))
    assert len(revived) == 1


def test_untrained_and_negative_distances_are_refused(classifier, tmp_path):
    trained = load_checkpoint(classifier, "vggishish")
    save_checkpoint(tmp_path / "random", "vggishish", "", trained.config, trained.state_dict(), {"steps": 0})
    with pytest.raises(ParameterError, match="was never trained, so its distance is meaningless"):
        load_distance(tmp_path / "random", 80)
    assert load_distance(tmp_path / "random", 80, may_be_untrained=True)
    signed = Perceptual.from_classifier(trained)
    for layer in signed.linear:
        torch.nn.init.constant_(layer.weight, -1.0)
    save_checkpoint(tmp_path / "signed", "perceptual", "", signed.config, signed.state_dict(), {"steps": 1})
    with pytest.raises(ParameterError, match=r"linear weights of .* are negative, which would reward differences"):
        load_distance(tmp_path / "signed", 80)


def test_resuming_equals_never_stopping_with_all_losses(train, shards, classifier, tmp_path):
    everything = {"perceptual": classifier, "perceptual_weight": 1.0, **ADVERSARIAL, "adversarial_start": 1}
    whole = train(shards, tmp_path / "whole", **everything)
    with pytest.raises(KeyboardInterrupt):
        train(shards, tmp_path / "parts", stop_at=2, **everything)
    assert same(whole, train(shards, tmp_path / "parts", resume=True, **everything))


AVERAGED = {"codes": "average", "initialise": "k-means"}


def test_averaged_codes_lower_the_loss(train, shards, tmp_path):
    seen = []
    train(shards, tmp_path, steps=30, batch=2, save_every=30, metrics=seen, **AVERAGED)
    first, last = (sum(one["reconstruction"] for one in part) for part in (seen[:5], seen[-5:]))
    assert last < 0.9 * first
    assert "codebook" not in seen[0], "averaged codes have no codebook loss"


def test_averaged_codes_resume_to_the_same_bits(train, shards, tmp_path):
    whole = train(shards, tmp_path / "whole", steps=6, **AVERAGED)
    with pytest.raises(KeyboardInterrupt):
        train(shards, tmp_path / "parts", steps=6, stop_at=3, **AVERAGED)
    assert same(whole, train(shards, tmp_path / "parts", resume=True, steps=6, **AVERAGED))


def test_averaged_codes_are_means_of_their_latents(shards, tmp_path):
    """VQ-VAE-2's equation 2, with a decay so small that only the last batch counts."""
    run, trainer, fabric = build(shards, tmp_path, codes_decay=1e-6, revive_every=99, learning_rate=1e-12, **AVERAGED)
    batch = trainer.draw(generators(0, 1, range(2)))
    trainer.step(StepContext(fabric, run), batch)
    with torch.no_grad():
        before = trainer.module.quantize.embedding.weight.clone()
        vectors = as_vectors(trainer.module.latents(trainer.mel_of(batch)))
    trainer.step(StepContext(fabric, run), batch)
    chosen = closest(vectors, before)
    for number in chosen.unique():
        expected = vectors[chosen == number].mean(0)
        torch.testing.assert_close(trainer.module.quantize.embedding.weight[number].detach(), expected, rtol=1e-3, atol=1e-4)


def test_codes_start_on_latents_or_on_their_centres(shards, tmp_path):
    distance = {}
    for start in ("latents", "k-means"):
        _, trainer, _ = build(shards, tmp_path, initialise=start, batch=4)
        with torch.no_grad():
            vectors = as_vectors(trainer.module.latents(trainer.mel_of(trainer.draw(generators(0, 0, range(4))))))
        trainer.codes.initialise(vectors)
        codes = trainer.module.quantize.embedding.weight.detach()
        distance[start] = (vectors - codes[closest(vectors, codes)]).square().mean().item()
        if start == "latents":
            assert all((vectors == code).all(1).any() for code in codes)
    assert distance["k-means"] < distance["latents"]


def test_discriminator_changes_nothing_before_its_start(train, shards, tmp_path):
    without = train(shards, tmp_path / "without", steps=3)
    assert same(without, train(shards, tmp_path / "late", stop_at=None, steps=3, adversarial_start=2, **ADVERSARIAL)) is False
    seen = []
    with pytest.raises(KeyboardInterrupt):
        train(shards, tmp_path / "waits", stop_at=3, steps=9, adversarial_start=5, metrics=seen, **ADVERSARIAL)
    plain = []
    with pytest.raises(KeyboardInterrupt):
        train(shards, tmp_path / "plain", stop_at=3, steps=9, metrics=plain)
    assert seen == plain


def test_distance_has_the_weights_of_the_classifier(write_classifier, classifier, tmp_path):
    """Not random ones, as in the released training."""
    distance, trained = load_distance(classifier, 80), write_classifier(tmp_path / "again")
    for name, value in trained.features.state_dict().items():
        assert torch.equal(distance.features.state_dict()[name], value)
    mels = torch.rand(2, 1, 80, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.manual_seed(6)
    assert not torch.allclose(distance(*mels), Perceptual(distance.config)(*mels), rtol=1e-2)
    save_checkpoint(tmp_path / "distance", "perceptual", "", distance.config, distance.state_dict(), {"steps": 1})
    assert torch.equal(load_distance(tmp_path / "distance", 80)(*mels), distance(*mels))


def test_crops_too_small_for_the_discriminator_are_refused(shards, tmp_path):
    with pytest.raises(ParameterError, match="80 bands and 16 frames is too small for the discriminator"):
        build(shards, tmp_path, crop_columns=1, **ADVERSARIAL | {"adversarial_start": 3})


def test_record_has_no_paths(train, shards, classifier, tmp_path):
    train(shards, tmp_path / "out", steps=1, perceptual=classifier, perceptual_weight=1.0)
    text = (tmp_path / "out/checkpoint/config.json").read_text()
    assert "perceptual_weight" in text
    assert str(tmp_path) not in text


def test_distance_is_not_trained(shards, classifier, tmp_path):
    run, trainer, fabric = build(shards, tmp_path / "out", perceptual=classifier, perceptual_weight=1.0)
    before = {name: value.clone() for name, value in trainer.distance.state_dict().items()}
    fit(run, trainer, fabric, resume=False)
    assert same(before, trainer.distance.state_dict())


def test_missing_or_unfit_distances_are_refused(train, write_classifier, shards, tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read .*nowhere/config\.json"):
        build(shards, tmp_path / "out", perceptual=tmp_path / "nowhere", perceptual_weight=1.0)
    train(shards, tmp_path / "out", steps=1)
    with pytest.raises(CheckpointError, match="holds a codebook instead of a perceptual"):
        build(shards, tmp_path / "other", perceptual=tmp_path / "out/checkpoint", perceptual_weight=1.0)
    write_classifier(tmp_path / "narrow", BandStatistics(mean=(0.5,) * 64, std=(0.1,) * 64))
    with pytest.raises(ParameterError, match="has 64 mel bands, but the codebook 80; use one of the same preset"):
        build(shards, tmp_path / "other", perceptual=tmp_path / "narrow", perceptual_weight=1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"perceptual_weight": 1.0}, "perceptual_weight is 1.0 and perceptual is not given; a distance needs both"),
        ({"perceptual": "somewhere"}, "perceptual_weight is 0.0 and perceptual is somewhere; a distance needs both"),
        ({"adversarial_weight": 0.8, "adversarial_start": 9}, "adversarial_start 9 is not below steps 4"),
        ({"codes_decay": 0.9}, "codes_decay has no effect on codes that learn by gradient"),
        ({"codes": "average", "beta_on_codebook": True}, "beta_on_codebook weighs a loss that averaged codes do not have"),
        ({"adaptive_weight": (2.0, 1.0)}, r"adaptive_weight is \[2.0, 1.0\], but must be a range of 0 or more, the lower value first"),
    ],
)
def test_conflicting_settings_are_named(shards, tmp_path, settings, words):
    with pytest.raises(ParameterError, match=words):
        build(shards, tmp_path, **settings)


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ({}, ADVERSARIAL, "was trained with nothing besides its network, but the run has discriminator"),
        (ADVERSARIAL, {}, "was trained with discriminator besides its network, but the run has nothing"),
    ],
)
def test_resuming_with_other_networks_is_refused(train, shards, tmp_path, first, then, words):
    train(shards, tmp_path, steps=1, **first)
    with pytest.raises(CheckpointError, match=words):
        train(shards, tmp_path, resume=True, steps=2, **then)
