"""Training of the sampler: all conditions, dropout of conditions, conflicting settings."""

import json

import lightning_fabric
import numpy as np
import pytest
import torch

from unsilent.checkpoints.assemble import assemble
from unsilent.checkpoints.store import load_checkpoint, save_checkpoint
from unsilent.clip import Clip
from unsilent.data.datasets import generators
from unsilent.data.rows import CodesRow
from unsilent.data.shards import Shard, write_shard
from unsilent.errors import DataError, ParameterError
from unsilent.loading import load
from unsilent.models.codebook import Codebook
from unsilent.models.condition import Sight
from unsilent.models.configs import (
    CodebookConfig,
    ConditionConfig,
    ResidualCodebookConfig,
    ResidualSamplerConfig,
    SamplerConfig,
    SightConfig,
    TransformerConfig,
    VocosConfig,
)
from unsilent.models.residual_codebook import ResidualCodebook
from unsilent.models.sampler import Sampler
from unsilent.train.config import SamplerRun
from unsilent.train.loop import fit
from unsilent.train.losses import next_code_loss
from unsilent.train.sampler import SamplerTrainer

CONDITIONS = {
    "features": {"n_features": 2, "feature_dim": 6},
    "class": {"n_classes": 2},
    "features+class": {"n_features": 4, "feature_dim": 6, "n_classes": 2},
    "none": {"n_features": 1, "feature_dim": 6},
    "coordinates": {},
    "columns": {"n_features": 2, "feature_dim": 6, "motion": 8},
}


def build(kind, shards, out, steps=3, n_classes=None, n_features=None, **settings):
    sizes = CONDITIONS[kind] | {name: n for name, n in (("n_classes", n_classes), ("n_features", n_features)) if n}
    transformer = TransformerConfig(layers=1, heads=2, width=16)
    config = SamplerConfig(clip=Clip(frames=64), codes=8, transformer=transformer, condition=ConditionConfig(kind=kind, **sizes))
    settings = {"warmup_steps": 0, "learning_rate": 1e-2, "batch": 4, "real_share": 0.0, "cut_share": 0.0, "average": 0.0} | settings
    run = SamplerRun(kind="sampler", preset="everyday", shards=shards, out=out, steps=steps, **settings)
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
    fabric.seed_everything(0, verbose=False)
    return run, SamplerTrainer(run, config, fabric), fabric


@pytest.mark.parametrize("kind", CONDITIONS)
def test_every_condition_is_trained(fit_recorded, kind, shards, tmp_path):
    losses = []
    folder = fit_recorded(*build(kind, shards, tmp_path / "out", steps=40), metrics=losses)
    assert losses[-1]["next_code"] < 0.5 * losses[0]["next_code"]
    assert load_checkpoint(folder, "sampler").config.condition.kind == kind


def test_codes_follow_the_class(shards, tmp_path):
    """Codes of a label are its number, so given the class the first code is nearly certain."""
    run, trainer, fabric = build("class", shards, tmp_path, steps=80)
    sampler = load_checkpoint(fit(run, trainer, fabric, resume=False), "sampler")
    codes = torch.ones(1, sampler.config.clip.n_codes, dtype=torch.long)
    for label in (0, 1):
        condition = sampler.condition(labels=torch.tensor([label]))
        assert sampler.logits(codes, condition)[0, 0].softmax(0)[label] > 0.9


def test_code_noise_changes_inputs_not_targets(shards, tmp_path, monkeypatch):
    run, trainer, fabric = build("class", shards, tmp_path, steps=1, batch=64, code_noise=0.25)
    module, inputs, targets = trainer.module.module, [], []
    forward = module.forward
    monkeypatch.setattr(
        module, "forward", lambda *others, context=None, **more: inputs.append(context) or forward(*others, context=context, **more)
    )

    def loss(logits, codes):
        targets.append(codes)
        return next_code_loss(logits, codes)

    monkeypatch.setattr("unsilent.train.sampler.next_code_loss", loss)
    fit(run, trainer, fabric, resume=False)
    assert torch.equal(targets[0], trainer.draw(generators(run.seed, 0, range(64))).codes)
    assert (inputs[0] != targets[0]).float().mean() == pytest.approx(0.25 * 7 / 8, abs=0.03)
    assert inputs[0].unique().tolist() == list(range(8))


def test_codebooks_of_other_sizes_and_with_initial_weights_are_refused(shards, tmp_path):
    config = CodebookConfig(clip=Clip(frames=64), n_codes=16, dim=8, channels=8, multipliers=(1, 1, 1, 1, 2), n_blocks=1)
    save_checkpoint(tmp_path / "codebook", "codebook", "everyday", config, Codebook(config).state_dict(), {})
    with pytest.raises(ParameterError, match="the codebook has 16 codes, the sampler 8; take both from one preset"):
        build("class", shards, tmp_path, codebook=tmp_path / "codebook")
    with pytest.raises(ParameterError, match="codebook has no effect on a training that starts from initial"):
        build("class", shards, tmp_path, codebook=tmp_path / "codebook", initial=tmp_path)


def test_a_dropped_condition_has_no_effect():
    transformer = TransformerConfig(layers=1, heads=2, width=16)
    condition = ConditionConfig(kind="class", n_classes=2)
    torch.manual_seed(0)
    sampler = Sampler(SamplerConfig(clip=Clip(frames=64), codes=8, transformer=transformer, condition=condition))
    codes = torch.zeros(2, 20, dtype=torch.long)
    conditioned = sampler(codes, labels=torch.tensor([0, 1]))
    assert not torch.allclose(conditioned[0], conditioned[1])
    dropped = sampler(codes, labels=torch.tensor([0, 1]), keep=torch.tensor([False, False]))
    assert torch.equal(dropped[0], dropped[1])
    mixed = sampler(codes, labels=torch.tensor([0, 1]), keep=torch.tensor([True, False]))
    torch.testing.assert_close(mixed[0], conditioned[0])
    torch.testing.assert_close(mixed[1], dropped[1])


def test_condition_dropout_trains_unconditional_logits(shards, tmp_path):
    run, trainer, fabric = build("class", shards, tmp_path, steps=80, condition_dropout=0.5)
    sampler = load_checkpoint(fit(run, trainer, fabric, resume=False), "sampler")
    codes = torch.ones(1, sampler.config.clip.n_codes, dtype=torch.long)
    condition = sampler.condition(labels=torch.tensor([1]))
    conditional, unconditional = (float(sampler.logits(codes, one)[0, 0].softmax(0)[1]) for one in (condition, torch.zeros_like(condition)))
    assert conditional > 0.85
    assert 0.3 < unconditional < 0.7  # the share of sequences that start so; without dropout, zeros mean the other class


def test_motion_dropout_drops_whole_sequences(shards, tmp_path):
    """Some synthetic motion is 0 without dropout; motion that is kept is unchanged by noise of features."""
    rngs = [np.random.default_rng(n) for n in range(200)]
    _, trainer, _ = build("columns", shards, tmp_path, feature_noise=0.1, condition_dropout=0.2, motion_dropout=0.5)
    complete = trainer.pairs.batch([np.random.default_rng(n) for n in range(200)])
    batch = trainer.draw(rngs)
    moves, moved = (motion.flatten(1).any(1) for motion in (complete.motion, batch.motion))
    assert not (moved & ~moves).any()
    assert 0.35 < moved.sum() / moves.sum() < 0.65
    assert torch.equal(batch.motion[moved], complete.motion[moved])
    assert not torch.equal(batch.features, complete.features[:, [1, 3]])
    assert 0.1 < (~batch.keep).float().mean() < 0.3


def test_motion_dropout_without_motion_is_refused(shards, tmp_path):
    with pytest.raises(ParameterError, match=r"'everyday' is not conditioned on motion, but motion_dropout is 0.5; leave it out"):
        build("features", shards, tmp_path, motion_dropout=0.5)


def test_a_missing_motion_shard_is_named(shards, tmp_path):
    (shards / "motion.json").unlink()
    with pytest.raises(DataError, match=r"there is no shard 'motion' in .*; make it with `unsilent data extract`"):
        build("columns", shards, tmp_path)


def test_checkpoint_has_class_names(shards, tmp_path):
    run, trainer, fabric = build("class", shards, tmp_path, steps=1)
    folder = fit(run, trainer, fabric, resume=False)
    assert json.loads((folder / "config.json").read_text())["record"]["classes"] == ["a", "b"]


def test_too_few_features_are_named(shards, tmp_path):
    with pytest.raises(ParameterError, match=r"'everyday' needs 5 features, but a clip of .* has 4"):
        build("features", shards, tmp_path, n_features=5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"cut_share": 0.3}, "one label for the whole clip, but cut_share is 0.3; set it to 0"),
        ({"n_classes": 309}, "'everyday' has 309 classes, but the shards .* have 2 labels"),
    ],
)
def test_settings_that_do_not_fit_classes_are_named(shards, tmp_path, settings, words):
    with pytest.raises(ParameterError, match=words):
        build("class", shards, tmp_path, **settings)


def test_validation_of_0_items_is_of_every_clip_once(tmp_path):
    """Three clips in batches of two: the loss is the mean of those of the clips alone."""
    place = {"item": 0, "variant": 0, "speed": 1.0, "shift_samples": 0, "start_column": 0}
    names = [(name, split) for split in ("train", "valid") for name in "abc"]
    codes = [(np.full((4, 5), n, np.int16), CodesRow(name, "clip", "", split, 22050, **place)) for n, (name, split) in enumerate(names)]
    write_shard(tmp_path, "codes", codes, {})
    _, trainer, fabric = build("coordinates", tmp_path, tmp_path / "out", batch=2, real_share=1.0, valid_every=1, valid_items=0)
    alone = [batch.codes for batch in trainer.valid.in_order(1)]
    losses = [next_code_loss(trainer.module.module(one), one).item() for one in alone]
    assert len(losses) == 3
    assert trainer.validate(fabric)["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    with pytest.raises(
        ParameterError, match=r"valid_items 0 uses each real clip once, but real_share is 0\.5; set valid_items to a number"
    ):
        build("coordinates", tmp_path, tmp_path / "out", real_share=0.5, valid_every=1, valid_items=0)


def test_embedders_start_as_in_the_released_code_where_asked(shards, tmp_path):
    for released in (False, True):
        _, trainer, _ = build("features+class", shards, tmp_path, n_classes=2, released_start=released)
        embedder = trainer.module.module.embedder
        bound = 6**-0.5  # of a convolution of six values
        assert embedder.feature_embedder.weight.std().item() == pytest.approx(bound / 3**0.5 if released else 0.02, rel=0.2)
        assert bool(embedder.feature_embedder.bias.any()) == released
        assert embedder.class_embedder.weight.std().item() == pytest.approx(1.0 if released else 0.02, rel=0.3)


@pytest.mark.parametrize("kind", ["class", "features+class", "features", "coordinates", "none"])
def test_a_run_may_choose_another_condition_with_the_labels_at_hand(shards, tmp_path, kind):
    """Of a preset of columns; two labels are there, whatever the preset says."""
    _, trainer, _ = build("columns", shards, tmp_path, condition=kind)
    found = trainer.config.condition
    assert (found.kind, found.n_classes, found.motion) == (kind, 2 if "class" in kind else 0, 0)
    assert trainer.draw(generators(0, 0, range(2))).motion is None
    folder = tmp_path / "saved"
    trainer.save(folder, trainer.module.module.state_dict(), {})
    assert load_checkpoint(folder, "sampler").config == trainer.config


def test_a_model_of_coordinates_is_trained_assembled_and_generates(fit_recorded, shards, tmp_path, write_part, make_clip):
    """As its preset, which has no image network; the sound follows the seed, not the pictures."""
    run, trainer, fabric = build("coordinates", shards, tmp_path / "out", steps=2)
    trainer.run = run = run.model_copy(update={"preset": "vggsound-coordinates"})
    trained = fit_recorded(run, trainer, fabric)
    clip = Clip(frames=64)
    book = CodebookConfig(clip=clip, n_codes=8, dim=8, channels=8, multipliers=(1, 1, 1, 1, 2), n_blocks=1)
    parts = {"codebook": write_part(tmp_path / "codebook", "codebook", book), "sampler": trained}
    parts["vocoder"] = write_part(tmp_path / "vocoder", "vocoder", VocosConfig(clip=clip, width=16, hidden=32, n_blocks=1, rounds=1))
    assemble(tmp_path / "model", {role: str(folder) for role, folder in parts.items()}, defaults={"top_k": 8})
    model = load(str(tmp_path / "model"), device="cpu")
    assert (model.parts.name, model.parts.backbone) == ("vggsound-coordinates", None)
    clips = [make_clip(f"{number}.mp4", first=number) for number in range(2)]
    first, second = (model.generate(one, seed=3, seconds=0.7) for one in clips)
    assert np.array_equal(first.waveform, second.waveform)
    assert first.waveform.std() > 0
    assert not np.array_equal(first.codes, model.generate(clips[0], seed=4, seconds=0.7).codes)


def test_a_condition_with_features_needs_a_preset_with_features(shards, tmp_path):
    with pytest.raises(ParameterError, match="'everyday' has no features, which a condition of kind 'features' needs"):
        build("class", shards, tmp_path, condition="features")


@pytest.fixture
def sees(shards, tmp_path):
    """Trainer of a sampler over columns that sees: a codebook of two levels, and a classifier of the shards' features."""
    clip = Clip(frames=64, levels=2)
    config = ResidualCodebookConfig(clip=clip, levels=2, n_codes=8, dim=4)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "codebook", "residual_codebook", "everyday", config, ResidualCodebook(config).state_dict(), {})
    sight = Sight(SightConfig(feature_dim=6, n_classes=2))
    views = torch.cat([torch.from_numpy(Shard(shards, "features")[item].astype(np.float32)) for item in range(2)])
    sight.weight.copy_((torch.linalg.pinv(views) @ (20 * torch.eye(2).repeat_interleave(3, dim=0))).T)  # all six views are classified
    save_checkpoint(tmp_path / "sight", "sight", "", sight.config, sight.state_dict(), {"classes": ["a", "b"]})
    condition = ConditionConfig(kind="sight", n_features=2, feature_dim=6, n_classes=2)
    transformer = TransformerConfig(layers=1, heads=2, width=16)
    sizes = ResidualSamplerConfig(clip=clip, codes=8, dim=4, transformer=transformer, inner=16, inner_blocks=1, condition=condition)
    rows = Shard(shards, "codes")
    write_shard(shards, "codes", [(rows[i][:, :2], entry.row) for i, entry in enumerate(rows.entries)], {})

    def make(**settings):
        common = {"warmup_steps": 0, "learning_rate": 1e-2, "batch": 4, "real_share": 0.0, "cut_share": 0.0, "average": 0.0, "steps": 150}
        paths = {"codebook": tmp_path / "codebook", "sight": tmp_path / "sight", "shards": shards, "out": tmp_path / "out"}
        run = SamplerRun(kind="sampler", preset="everyday", **common | paths | settings)
        fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
        fabric.seed_everything(0, verbose=False)
        return run, SamplerTrainer(run, sizes, fabric), fabric

    return make


@pytest.mark.parametrize("label_share", [0.0, 1.0])
def test_sampler_that_sees_follows_label_and_picture(sees, shards, label_share):
    """Codes of a label are its number, so given the label, named or seen, the first code is nearly certain."""
    run, trainer, fabric = sees(label_share=label_share)
    sampler = load_checkpoint(fit(run, trainer, fabric, resume=False), "residual_sampler")
    codes = torch.ones(1, sampler.config.clip.n_codes, dtype=torch.long)
    for label in (0, 1):
        named = torch.tensor([label]) if label_share else None
        views = torch.from_numpy(Shard(shards, "features")[label][:2].astype(np.float32))
        assert sampler.logits(codes, sampler.condition(views[None], named))[0, 0].softmax(0)[label] > 0.9


def test_fine_tuning_takes_sight_and_classes_from_the_first_sampler(sees):
    run, trainer, fabric = sees(steps=2)
    folder = fit(run, trainer, fabric, resume=False)
    _, tuned, _ = sees(sight=None, codebook=None, initial=folder, steps=2, out=run.out / "tuned")
    assert tuned.pairs.labels == ["a", "b"]
    first, second = (one.module.module.embedder.sight.weight for one in (trainer, tuned))
    assert torch.equal(first, second)


def test_a_sampler_over_columns_keeps_its_kind_of_condition(sees):
    with pytest.raises(ParameterError, match="a sampler over columns, whose condition cannot be changed"):
        sees(condition="class")


def test_silence_of_pauses_is_that_of_the_codebook(sees):
    _, trainer, _ = sees(pause_share=0.5)
    assert trainer.pairs.silence.shape == (2,)
    assert trainer.pairs.pause_share == 0.5


def test_settings_of_sight_and_pauses_that_do_not_fit_are_refused(sees, shards, tmp_path):
    with pytest.raises(ParameterError, match="'everyday' needs a feature classifier; set sight"):
        sees(sight=None)
    with pytest.raises(ParameterError, match="does not use a feature classifier"):
        build("class", shards, tmp_path, sight=tmp_path / "sight")
    with pytest.raises(ParameterError, match="pause_share needs a codebook"):
        build("class", shards, tmp_path, pause_share=0.5)
