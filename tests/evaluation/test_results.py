"""Evaluations of synthetic sounds: results are those of the metrics, and depend only on files, classifier and seed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unsilent import metrics
from unsilent.errors import DataError
from unsilent.evaluation.cache import ResultCache
from unsilent.evaluation.classifier import load_classifier
from unsilent.evaluation.classify import classify_all
from unsilent.evaluation.inputs import find_inputs
from unsilent.evaluation.results import compute_metrics, sweeps
from unsilent.evaluation.scores import Classified, fidelity
from unsilent.evaluation.sounds import Sound, find_sounds
from unsilent.evaluation.tables import as_json
from unsilent.jobs.parallel import Parallel


@pytest.fixture
def run(tiny_classifier, tmp_path):
    """`run(reference, folder, …)` classifies with a new cache and computes the metrics."""
    numbers = iter(range(99))

    def call(reference, *generated, labels="folders", workers=None, seed=0):
        inputs = find_inputs(reference, list(generated), labels)
        cache = ResultCache(tmp_path / f"cache{next(numbers)}", load_classifier(str(tiny_classifier), "cpu"))
        return compute_metrics(inputs, cache, classify_all(cache, inputs.keys, Parallel(workers)), seed)

    return call


def rows(classifier, folder):
    results = [classifier.classify(classifier.read_mel01(sound)) for sound in find_sounds(folder)]
    return [np.stack(part) for part in zip(*results, strict=True)]


def test_scores_are_those_of_the_metrics(run, tiny_sounds, tiny_classifier):
    evaluation = run(tiny_sounds / "real", tiny_sounds / "made")
    scores, classifier = evaluation.systems[0].scores, load_classifier(str(tiny_classifier), "cpu")
    (real, real_logits), (made, made_logits) = rows(classifier, tiny_sounds / "real"), rows(classifier, tiny_sounds / "made")
    assert scores["fid"].value == metrics.fid(real, made)
    assert scores["kid"].value == metrics.kid(real, made).value
    assert scores["inception_score"].value == metrics.inception_score(classifier.without_bias(made_logits)).value
    assert scores["mkl"].value == pytest.approx(metrics.mkl(real_logits, made_logits), rel=1e-9)
    classes = np.repeat([0] * 4 + [1] * 4, 2)  # high, low
    assert scores["top1"].value == (made_logits.argmax(1) == classes).mean()
    assert (scores["mkl"].samples, scores["mkl"].clips, scores["mkl"].real) == (16, 8, 8)
    assert (scores["fid"].samples, scores["fid"].clips, scores["fid"].real) == (16, 8, 8)


def test_scores_of_classes_average_to_those_of_all(run, tiny_sounds):
    system = run(tiny_sounds / "real", tiny_sounds / "made").systems[0]
    assert [row.label for row in system.classes] == ["high", "low"]
    for name in ("mkl", "top1", "top5"):
        assert np.mean([row.scores[name].value for row in system.classes]) == pytest.approx(system.scores[name].value)
    each = [sample.mkl for sample in system.samples if sample.clip.startswith("high/")]
    assert system.classes[0].scores["mkl"].value == pytest.approx(np.mean(each))


def test_scores_rank_copies_before_good_before_worse_sounds(run, tiny_sounds):
    made, worse, same = run(*(tiny_sounds / name for name in ("real", "made", "worse", "real"))).systems
    assert same.scores["fid"].value == pytest.approx(0, abs=1e-9)
    assert abs(same.scores["mkl"].value) < 1e-4
    for name in ("fid", "mkl"):
        assert worse.scores[name].value > made.scores[name].value


def test_results_do_not_depend_on_workers_or_the_order_of_files(run, tiny_sounds, tmp_path):
    """Also for files written in another order, in other folders, with the names of takes of videos."""
    expected = as_json(run(tiny_sounds / "real", tiny_sounds / "made"))
    other = tmp_path / "made"
    for path in sorted((tiny_sounds / "made").rglob("*.wav"), reverse=True):
        target = other / f"{path.parent.name}.take{int(path.stem) + 1}.wav"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    found = run(tiny_sounds / "real", other, workers=2)
    assert as_json(found) == expected


def test_unpaired_sounds_count_for_fid_only(run, sounds):
    alone = run(sounds / "real", sounds / "made").systems[0]
    shutil.copy(sounds / "worse/low0/0.wav", sounds / "made/unknown.wav")
    shutil.rmtree(sounds / "made/high2")
    system = run(sounds / "real", sounds / "made").systems[0]
    assert (system.unpaired, system.missing) == (["unknown"], ["high/high2"])
    assert system.scores["fid"].samples == 15
    assert (system.scores["mkl"].samples, system.scores["mkl"].clips) == (14, 7)
    assert "1 sounds without a pair are left out" in system.scores["mkl"].warnings
    assert system.scores["fid"].value != alone.scores["fid"].value


def test_unreadable_files_are_named_and_left_out(run, sounds):
    expected = run(sounds / "real", sounds / "made")
    (sounds / "made/low0/7.wav").write_bytes(b"RIFF nothing here")
    (sounds / "real/low/low9.wav").write_bytes(b"")
    soundfile.write(sounds / "made/low0/8.wav", np.zeros(22050), 22050)
    soundfile.write(sounds / "made/low0/9.wav", np.ones(100) / 2, 22050)
    found = run(sounds / "real", sounds / "made")
    system = found.systems[0]
    assert [(sample.sound.name, sample.clip) for sample in system.failed] == [(f"low0/{n}", "low/low0") for n in (7, 8, 9)]
    for sample, message in zip(system.failed, ("is truncated or damaged", "is silent", "has 0.00 s of sound"), strict=True):
        assert message in sample.why
    assert [sample.sound.name for sample in found.real.failed] == ["low/low9"]
    assert system.warnings == ["3 of 19 files could not be classified and are left out, which favours a system that fails"]
    assert system.scores == expected.systems[0].scores


def test_a_folder_without_readable_files_is_refused(run, sounds):
    (sounds / "empty").mkdir()
    (sounds / "empty/low0.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 1 sounds in .*empty can be classified; the first one: .* is empty"):
        run(sounds / "real", sounds / "empty")


def test_mels_score_like_their_sounds(run, sounds, tiny_classifier):
    classifier = load_classifier(str(tiny_classifier), "cpu")
    for sound in find_sounds(sounds / "made"):
        np.save(sound.path.with_suffix(".mel.npy"), classifier.read_mel01(sound).numpy() * 2 - 1)
    found = run(sounds / "real", sounds / "made")
    assert found.systems[0].warnings == ["classified as mels, the reference as sounds"]
    for path in sounds.rglob("*.npy"):
        path.unlink()
    expected = run(sounds / "real", sounds / "made")
    assert found.systems[0].scores["fid"].value == pytest.approx(expected.systems[0].scores["fid"].value, rel=1e-4)
    assert found.systems[0].scores["mkl"].value == pytest.approx(expected.systems[0].scores["mkl"].value, rel=1e-4)


def noise(rng, count, dim=8):
    """Features of noise, one row per clip."""
    names = [str(number) for number in range(count)]
    return Classified([Sound(name, Path(name), None) for name in names], names, rng.standard_normal((count, dim)), np.zeros((count, 3)))


def test_fidelity_warns_of_small_samples(monkeypatch):
    monkeypatch.setattr("unsilent.evaluation.scores.KID_SUBSET", 20)
    rng = np.random.default_rng(0)
    few = fidelity(noise(rng, 6), noise(rng, 9), seed=0)["fid"]
    assert few.warnings == (
        "6 rows for 8 feature dimensions: much of this FID is the bias of a small sample",
        "the sets differ in size (6 real, 9 generated), and FID is larger for fewer rows",
    )
    enough = fidelity(noise(rng, 21), noise(rng, 21), seed=0)
    assert enough["fid"].warnings == enough["kid"].warnings == ()
    assert enough["kid"].spread > 0
    assert fidelity(noise(rng, 1), noise(rng, 9), seed=0) == {}
    assert fidelity(noise(rng, 3), noise(rng, 9), seed=0)["fid"].interval is None


def test_interval_of_fid_covers_other_draws():
    """For two sets of one distribution, FID of most new draws lies within the interval of the first draw."""
    rng = np.random.default_rng(0)
    low, high = fidelity(noise(rng, 300, 4), noise(rng, 300, 4), seed=0)["fid"].interval
    inside = [low <= metrics.fid(noise(rng, 300, 4).features, noise(rng, 300, 4).features) <= high for _ in range(40)]
    assert 0.75 < np.mean(inside) <= 1
    assert high - low < 0.3


def test_seed_changes_only_intervals(run, tiny_sounds):
    one, same, other = (run(tiny_sounds / "real", tiny_sounds / "made", seed=seed).systems[0].scores for seed in (0, 0, 1))
    assert one == same
    assert {name: score.value for name, score in one.items()} == {name: score.value for name, score in other.items()}
    assert one["mkl"].interval != other["mkl"].interval


class TestSweeps:
    @pytest.fixture
    def swept(self, run, tiny_sounds, tmp_path):
        def call(*names, **about):
            for name in names:
                shutil.copytree(tiny_sounds / "made", tmp_path / name)
                if name in about:
                    (tmp_path / name / "samples.json").write_text(json.dumps(about[name]))
            return sweeps(run(tiny_sounds / "real", *(tmp_path / name for name in names)).systems)

        return call

    def test_sweeps_reads_settings_from_folder_names(self, swept):
        found = swept("ours-top-k=512", "ours-top-k=64", "else")
        assert {setting: {line: [x for x, _ in points] for line, points in lines.items()} for setting, lines in found.items()} == {
            "top_k": {"ours": [64, 512]}
        }

    def test_sweeps_reads_settings_from_samples_json(self, swept):
        rows = {f"{model}{k}": {"model": model, "seed": k, "top_k": k, "temperature": 1.0} for model in "ab" for k in (1, 8)}
        found = swept(*rows, **rows)
        assert list(found) == ["top_k"]
        assert {line: [x for x, _ in points] for line, points in found["top_k"].items()} == {
            "a, temperature 1": [1, 8],
            "b, temperature 1": [1, 8],
        }


def test_scores_of_one_clip_have_no_interval(run, sounds):
    for path in (sounds / "made").rglob("*.wav"):
        if path.parent.name != "low0":
            path.unlink()
    score = run(sounds / "real", sounds / "made").systems[0].scores["mkl"]
    assert (score.samples, score.clips, score.interval) == (2, 1, None)
