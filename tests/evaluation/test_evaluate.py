"""Whole evaluations of made-up sounds: figures are those of the metrics, and depend on files, classifier and seed only."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unsilent import metrics
from unsilent.errors import DataError, ParameterError
from unsilent.evaluation.cache import ResultCache
from unsilent.evaluation.classifier import load_classifier
from unsilent.evaluation.classify import classify_all
from unsilent.evaluation.evaluate import evaluate, find, sweeps
from unsilent.evaluation.scores import Figure, Judged, fidelity
from unsilent.evaluation.sounds import Sound
from unsilent.evaluation.tables import as_json
from unsilent.jobs.parallel import Parallel


@pytest.fixture
def run(tiny_classifier, tmp_path):
    """`run(reference, folder, …)` judges and counts; the judge's memory is new each time."""
    numbers = iter(range(99))

    def call(reference, *generated, labels="folders", workers=None, seed=0):
        study = find(reference, list(generated), labels)
        hearing = ResultCache(tmp_path / f"heard{next(numbers)}", load_classifier(str(tiny_classifier), "cpu"))
        bad = classify_all(hearing, study.keys, Parallel(workers))
        return evaluate(study, hearing, bad, seed)

    return call


@pytest.fixture
def sounds(tiny_sounds, tmp_path):
    """A copy to change."""
    return shutil.copytree(tiny_sounds, tmp_path / "sounds")


def rows(judge, folder):
    heard = [judge.classify(judge.read(sound)) for sound in find(folder, [folder]).folders[0].sounds]
    return [np.stack(part) for part in zip(*heard, strict=True)]


def test_figures_are_those_of_the_metrics(run, tiny_sounds, tiny_classifier):
    evaluation = run(tiny_sounds / "real", tiny_sounds / "made")
    figures, judge = evaluation.systems[0].figures, load_classifier(str(tiny_classifier), "cpu")
    (real, real_logits), (made, made_logits) = rows(judge, tiny_sounds / "real"), rows(judge, tiny_sounds / "made")
    assert figures["fid"].value == metrics.fid(real, made)
    assert figures["kid"].value == metrics.kid(real, made).value
    assert figures["inception_score"].value == metrics.inception_score(judge.unbiased(made_logits)).value
    assert figures["mkl"].value == pytest.approx(metrics.mkl(real_logits, made_logits), rel=1e-9)
    classes = np.repeat([0] * 4 + [1] * 4, 2)  # high, low
    assert figures["top1"].value == (made_logits.argmax(1) == classes).mean()
    assert (figures["mkl"].samples, figures["mkl"].clips, figures["mkl"].real) == (16, 8, 8)
    assert (figures["fid"].samples, figures["fid"].clips, figures["fid"].real) == (16, 8, 8)


def test_classes_share_out_the_whole(run, tiny_sounds):
    system = run(tiny_sounds / "real", tiny_sounds / "made").systems[0]
    assert [row.label for row in system.classes] == ["high", "low"]
    for name in ("mkl", "top1", "top5"):
        assert np.mean([row.figures[name].value for row in system.classes]) == pytest.approx(system.figures[name].value)
    each = [sample.mkl for sample in system.samples if sample.clip.startswith("high/")]
    assert system.classes[0].figures["mkl"].value == pytest.approx(np.mean(each))


def test_worse_sounds_score_worse_and_copies_of_the_real_ones_perfectly(run, tiny_sounds):
    made, worse, same = run(*(tiny_sounds / name for name in ("real", "made", "worse", "real"))).systems
    assert same.figures["fid"].value == pytest.approx(0, abs=1e-9)
    assert abs(same.figures["mkl"].value) < 1e-4
    for name in ("fid", "mkl"):
        assert worse.figures[name].value > made.figures[name].value


def test_nothing_depends_on_workers_or_the_order_of_files(run, tiny_sounds, tmp_path, monkeypatch):
    """Also with files that were written in another order, in other folders, under the names that takes of videos have."""
    expected = as_json(run(tiny_sounds / "real", tiny_sounds / "made"))
    other = tmp_path / "made"
    for path in sorted((tiny_sounds / "made").rglob("*.wav"), reverse=True):
        target = other / f"{path.parent.name}.take{int(path.stem) + 1}.wav"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)
    found = run(tiny_sounds / "real", other, workers=2)
    assert as_json(found) == expected


def test_unpaired_sounds_count_for_the_crowd_only(run, sounds):
    alone = run(sounds / "real", sounds / "made").systems[0]
    shutil.copy(sounds / "worse/low0/0.wav", sounds / "made/unknown.wav")
    shutil.rmtree(sounds / "made/high2")
    system = run(sounds / "real", sounds / "made").systems[0]
    assert (system.unpaired, system.missing) == (["unknown"], ["high/high2"])
    assert system.figures["fid"].samples == 15
    assert (system.figures["mkl"].samples, system.figures["mkl"].clips) == (14, 7)
    assert "1 sounds without a pair are left out" in system.figures["mkl"].warnings
    assert system.figures["fid"].value != alone.figures["fid"].value


def test_bad_files_are_named_and_left_out(run, sounds):
    expected = run(sounds / "real", sounds / "made")
    (sounds / "made/low0/7.wav").write_bytes(b"RIFF nothing here")
    (sounds / "real/low/low9.wav").write_bytes(b"")
    soundfile.write(sounds / "made/low0/8.wav", np.zeros(22050), 22050)
    soundfile.write(sounds / "made/low0/9.wav", np.ones(100) / 2, 22050)
    found = run(sounds / "real", sounds / "made")
    system = found.systems[0]
    assert [(sample.sound.name, sample.clip) for sample in system.bad] == [(f"low0/{n}", "low/low0") for n in (7, 8, 9)]
    for sample, said in zip(system.bad, ("is truncated or damaged", "is silent", "has 0.00 s of sound"), strict=True):
        assert said in sample.why
    assert [sample.sound.name for sample in found.real.bad] == ["low/low9"]
    assert system.warnings == ["3 of 19 files could not be judged and are left out, which flatters a system that fails"]
    assert system.figures == expected.systems[0].figures


def test_a_folder_of_bad_files_only_is_refused(run, sounds):
    (sounds / "empty").mkdir()
    (sounds / "empty/low0.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"none of the 1 sounds in .*empty can be judged; of the first: .* is empty"):
        run(sounds / "real", sounds / "empty")


def test_mels_stand_for_sounds(run, sounds, tiny_classifier):
    judge = load_classifier(str(tiny_classifier), "cpu")
    for sound in find(sounds / "made", [sounds / "made"]).folders[0].sounds:
        np.save(sound.path.with_suffix(".mel.npy"), judge.read(sound).numpy() * 2 - 1)
    found, expected = run(sounds / "real", sounds / "made"), None
    assert found.systems[0].warnings == ["judged by mels, the reference by sounds"]
    for path in sounds.rglob("*.npy"):
        path.unlink()
    expected = run(sounds / "real", sounds / "made")
    assert found.systems[0].figures["fid"].value == pytest.approx(expected.systems[0].figures["fid"].value, rel=1e-4)
    assert found.systems[0].figures["mkl"].value == pytest.approx(expected.systems[0].figures["mkl"].value, rel=1e-4)


def judged(rng, count, dim=8):
    """Rows of noise, each of a clip of its own."""
    names = [str(number) for number in range(count)]
    return Judged([Sound(name, Path(name), None) for name in names], names, rng.standard_normal((count, dim)), np.zeros((count, 3)))


def test_small_samples_are_warned_of(monkeypatch):
    monkeypatch.setattr("unsilent.evaluation.scores.KID_SUBSET", 20)
    rng = np.random.default_rng(0)
    few = fidelity(judged(rng, 6), judged(rng, 9), seed=0)["fid"]
    assert few.warnings == (
        "6 rows for 8 numbers in a feature: much of this FID is the small sample's",
        "the sets differ in size (6 real, 9 generated), and few rows make FID large",
    )
    enough = fidelity(judged(rng, 21), judged(rng, 21), seed=0)
    assert enough["fid"].warnings == enough["kid"].warnings == ()
    assert enough["kid"].spread > 0
    assert fidelity(judged(rng, 1), judged(rng, 9), seed=0) == {}
    assert fidelity(judged(rng, 3), judged(rng, 9), seed=0)["fid"].interval is None


def test_the_interval_of_fid_holds_what_other_clips_give():
    """Of two crowds of one distribution, FID of most fresh draws lies within the interval of the first."""
    rng = np.random.default_rng(0)
    low, high = fidelity(judged(rng, 300, 4), judged(rng, 300, 4), seed=0)["fid"].interval
    inside = [low <= metrics.fid(judged(rng, 300, 4).features, judged(rng, 300, 4).features) <= high for _ in range(40)]
    assert 0.75 < np.mean(inside) <= 1
    assert high - low < 0.3


def test_seeds_decide_intervals_and_nothing_else(run, tiny_sounds):
    one, same, other = (run(tiny_sounds / "real", tiny_sounds / "made", seed=seed).systems[0].figures for seed in (0, 0, 1))
    assert one == same
    assert {name: figure.value for name, figure in one.items()} == {name: figure.value for name, figure in other.items()}
    assert one["mkl"].interval != other["mkl"].interval


class TestSettings:
    """What folders say of how they were made, and which of it was swept."""

    @pytest.fixture
    def swept(self, run, tiny_sounds, tmp_path):
        def call(*names, **about):
            for name in names:
                shutil.copytree(tiny_sounds / "made", tmp_path / name)
                if name in about:
                    (tmp_path / name / "samples.json").write_text(json.dumps(about[name]))
            return sweeps(run(tiny_sounds / "real", *(tmp_path / name for name in names)).systems)

        return call

    def test_names_of_folders(self, swept):
        found = swept("ours-top-k=512", "ours-top-k=64", "else")
        assert {setting: {line: [x for x, _ in points] for line, points in lines.items()} for setting, lines in found.items()} == {
            "top_k": {"ours": [64, 512]}
        }

    def test_samples_json(self, swept):
        rows = {f"{model}{k}": {"model": model, "seed": k, "top_k": k, "temperature": 1.0} for model in "ab" for k in (1, 8)}
        found = swept(*rows, **rows)
        assert list(found) == ["top_k"]
        assert {line: [x for x, _ in points] for line, points in found["top_k"].items()} == {
            "a, temperature 1": [1, 8],
            "b, temperature 1": [1, 8],
        }

    def test_damaged_samples_json(self, sounds):
        (sounds / "made/samples.json").write_text("{")
        with pytest.raises(DataError, match=r"samples.json cannot be read as JSON"):
            find(sounds / "real", [sounds / "made"])
        (sounds / "made/samples.json").write_text("[]")
        with pytest.raises(DataError, match=r"samples.json must hold an object with model, seed, top_k, temperature"):
            find(sounds / "real", [sounds / "made"])


class TestRequests:
    """What makes no sense is refused before any work."""

    def test_nothing_to_evaluate(self, tiny_sounds):
        with pytest.raises(ParameterError, match="there is nothing to evaluate: give folders with --generated, or labels"):
            find(tiny_sounds / "real", [])

    def test_labels_twice_and_splits_without_a_manifest(self, tiny_sounds, tmp_path):
        with pytest.raises(ParameterError, match=r"labels are given twice, by folders and by .*m\.parquet; leave out one"):
            find(tiny_sounds / "real", [], "folders", tmp_path / "m.parquet")
        with pytest.raises(ParameterError, match="the split 'valid' was asked for, but no manifest tells splits"):
            find(tiny_sounds / "real", [], "folders", split="valid")

    def test_systems_of_one_name_are_told_apart(self, tiny_sounds, sounds):
        folders = [tiny_sounds / "made", sounds / "made"]
        assert [folder.name for folder in find(tiny_sounds / "real", folders).folders] == [
            "reference", f"{tiny_sounds.name}/made", "sounds/made",
        ]  # fmt: skip
        with pytest.raises(ParameterError, match="made is given more than once"):
            find(tiny_sounds / "real", [tiny_sounds / "made", tiny_sounds / "made"])


def test_a_figure_of_one_clip_has_no_interval(run, tiny_sounds, sounds):
    for path in (sounds / "made").rglob("*.wav"):
        if path.parent.name != "low0":
            path.unlink()
    figure = run(sounds / "real", sounds / "made").systems[0].figures["mkl"]
    assert isinstance(figure, Figure)
    assert (figure.samples, figure.clips, figure.interval) == (2, 1, None)
