"""Classifier inputs, lookup of classifiers, unreadable files, and the cache of results."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

from unsilent.checkpoints import folders
from unsilent.checkpoints.store import save_checkpoint
from unsilent.clip import Clip
from unsilent.errors import CheckpointError, MediaError, ParameterError
from unsilent.evaluation.cache import ResultCache
from unsilent.evaluation.classifier import load_classifier
from unsilent.evaluation.classify import classify_all
from unsilent.evaluation.sounds import find_sounds
from unsilent.models.melception import Melception, MelceptionConfig
from unsilent.signal.mel import log_mel01


@pytest.fixture
def classifier(tiny_classifier):
    return load_classifier(str(tiny_classifier), "cpu")


def sound(folder, name, waveform):
    if name.endswith(".npy"):
        np.save(folder / name, waveform)
    else:
        soundfile.write(folder / name, waveform, 22050)
    return find_sounds(folder)[-1]


def chirp(samples):
    return 0.3 * np.sin(np.linspace(0, 60, samples) ** 2)


class TestInput:
    def test_read_mel01_without_preprocessing_is_the_middle_of_the_mel(self, classifier, tmp_path):
        """The input of published classifiers."""
        classifier = dataclasses.replace(classifier, preprocesses=False)
        waveform = np.round(chirp(256 * 200) * 32768) / 32768
        mel01 = classifier.read_mel01(sound(tmp_path, "a.wav", waveform))
        full = log_mel01(torch.from_numpy(waveform.astype(np.float32))[None], Clip())[0]
        assert mel01.shape == (80, 64)
        torch.testing.assert_close(mel01, full[:, 68:132])

    def test_read_mel01_repeats_a_short_sound(self, classifier, tmp_path):
        mel01 = classifier.read_mel01(sound(tmp_path, "a.wav", chirp(256 * 20)))
        torch.testing.assert_close(mel01[:, 25:35], mel01[:, 45:55], atol=0.05, rtol=0)

    def test_read_mel01_with_preprocessing_ignores_level_and_silent_ends(self, classifier, tmp_path):
        noise = 0.2 * np.random.default_rng(0).standard_normal(20000)
        sounds = (("a.wav", noise), ("b.wav", np.pad(0.1 * noise, (7000, 3000))))
        one, other = (classifier.read_mel01(sound(tmp_path, name, waveform)) for name, waveform in sounds)
        assert (one - other).abs().mean() < 0.01

    def test_read_mel01_keeps_the_silence_around_a_click(self, classifier, tmp_path):
        click = np.zeros(30000)
        click[9000:9005] = 0.5
        mel01 = classifier.read_mel01(sound(tmp_path, "a.wav", click))
        assert (mel01.amax(0) > mel01.max() / 2).float().mean() < 0.2

    def test_read_mel01_cuts_and_repeats_mels_at_their_level(self, classifier, tmp_path):
        mel = np.linspace(-1.2, 1, 80 * 100).reshape(80, 100).astype(np.float16)
        mel01 = classifier.read_mel01(sound(tmp_path, "a.mel.npy", mel))
        np.testing.assert_allclose(mel01, (mel[:, 18:82].astype(np.float32).clip(-1) + 1) / 2, atol=1e-6)
        short = classifier.read_mel01(sound(tmp_path, "b.mel.npy", mel[:, :40]))
        assert torch.equal(short[:, :24], short[:, 40:])

    def test_mels_for_a_classifier_of_unchanged_sounds_are_not_clipped(self, classifier, tmp_path):
        classifier = dataclasses.replace(classifier, preprocesses=False)
        mel = np.linspace(-1.2, 1.1, 80 * 64).reshape(80, 64).astype(np.float32)
        np.testing.assert_allclose(classifier.read_mel01(sound(tmp_path, "a.mel.npy", mel)), (mel + 1) / 2, atol=1e-6)

    @pytest.mark.parametrize("name", ["a.wav", "a.mel.npy"])
    def test_silence_is_heard_where_asked(self, classifier, tmp_path, name):
        silent = sound(tmp_path, name, np.zeros(30000) if name == "a.wav" else np.full((80, 90), -1.0, np.float32))
        assert not dataclasses.replace(classifier, keeps_silence=True).read_mel01(silent).any()

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.wav", np.zeros(30000), "a.wav is silent"),
            ("a.wav", chirp(2000), "has 0.09 s of sound, but 0.19 s are needed"),
            ("a.mel.npy", np.zeros((80, 90), np.float32) - 1, "a.mel.npy is silent"),
            (
                "a.mel.npy",
                np.zeros((79, 90), np.float32),
                r"is float32 of shape \[79, 90\]; a mel must be floating point of shape \[80, frames\]",
            ),
            ("a.mel.npy", np.zeros((80, 90), int), r"is int64 of shape \[80, 90\]"),
            ("a.mel.npy", np.full((80, 90), np.nan, np.float16), "contains NaN or infinity"),
            ("a.mel.npy", np.array([{}]), "cannot be read as an array"),
        ],
    )
    def test_read_mel01_refuses_unusable_files(self, classifier, tmp_path, name, content, message):
        with pytest.raises(MediaError, match=message):
            classifier.read_mel01(sound(tmp_path, name, content))

    def test_read_mel01_refuses_damaged_mels(self, classifier, tmp_path):
        (tmp_path / "a.mel.npy").write_bytes(b"\x93NUMPY")
        with pytest.raises(MediaError, match=r"a.mel.npy cannot be read as an array"):
            classifier.read_mel01(find_sounds(tmp_path)[0])


class TestLoading:
    def test_load_classifier_reads_kind_classes_and_sizes(self, classifier):
        assert (classifier.kind, classifier.classes) == ("vggishish", ("high", "low", "noise"))
        assert (classifier.feature_dim, classifier.frames, classifier.preprocesses) == (12, 64, True)
        assert len(classifier.digest) == 16

    def test_results_with_silence_have_a_digest_of_their_own(self, classifier, tiny_classifier):
        assert load_classifier(str(tiny_classifier), "cpu", keeps_silence=True).digest != classifier.digest

    def test_digest_depends_on_weights_and_settings(self, classifier, tiny_classifier, tmp_path):
        changed = shutil.copytree(tiny_classifier, tmp_path / "changed")
        assert load_classifier(str(changed)).digest == classifier.digest
        about = json.loads((changed / "config.json").read_text())
        about["record"]["run"]["crop_frames"] = 96
        (changed / "config.json").write_text(json.dumps(about))
        assert load_classifier(str(changed)).digest != classifier.digest
        other = dict(classifier.module.state_dict(), **{"classifier.4.bias": torch.ones(3)})
        save_checkpoint(tmp_path / "other", "vggishish", "everyday", classifier.module.config, other, {**about["record"]})
        assert load_classifier(str(tmp_path / "other")).digest != load_classifier(str(changed)).digest

    def test_load_classifier_finds_the_one_of_a_bundle(self, tiny_classifier, tiny_bundle, tmp_path, monkeypatch):
        monkeypatch.setattr(folders, "SHIPPED", tmp_path)
        monkeypatch.setattr("unsilent.evaluation.inputs.SHIPPED", tmp_path)
        model = shutil.copytree(tiny_bundle, tmp_path / "tiny")
        with pytest.raises(CheckpointError, match="the model 'tiny' has no classifier; give a checkpoint of a vggishish"):
            load_classifier("tiny")
        shutil.copytree(tiny_classifier, model / "classifier")
        assert load_classifier("tiny").folder == load_classifier(str(model)).folder == model / "classifier"

    @pytest.mark.slow
    def test_load_classifier_gives_a_published_one_the_classes_of_vggsound(self, tmp_path):
        torch.manual_seed(0)
        network = Melception(MelceptionConfig()).eval()
        save_checkpoint(tmp_path / "m", "melception", "", network.config, network.state_dict(), {"converted_from": "melception"})
        classifier = load_classifier(str(tmp_path / "m"))
        assert (len(classifier.classes), classifier.feature_dim, classifier.frames, classifier.preprocesses) == (309, 2048, 848, False)
        mel01 = torch.rand(80, 848, generator=torch.Generator().manual_seed(0))
        features, logits = classifier.classify(mel01)
        np.testing.assert_allclose(logits, network(mel01[None])[0].detach(), rtol=1e-4, atol=1e-5)
        without_bias = features @ network.fc.weight.detach().numpy().T
        np.testing.assert_allclose(classifier.without_bias(logits[None])[0], without_bias, rtol=1e-4, atol=1e-5)

    def test_load_classifier_refuses_missing_and_unsuitable_ones(self, tiny_parts, tiny_classifier, tmp_path, monkeypatch):
        with pytest.raises(ParameterError, match="the metrics need a classifier: give --classifier with the checkpoint folder"):
            load_classifier(None)
        with pytest.raises(CheckpointError, match="'melception' is not installed; fetch it with: unsilent models fetch melception"):
            load_classifier("melception")
        with pytest.raises(CheckpointError, match="there is no classifier 'nowhere'"):
            load_classifier("nowhere")
        with pytest.raises(CheckpointError, match="is a codebook, but a classifier must be a vggishish or a melception"):
            load_classifier(str(tiny_parts["codebook"]))
        if not torch.cuda.is_available():
            with pytest.raises(ParameterError, match="device is cuda, but this machine has no CUDA device"):
                load_classifier(str(tiny_classifier), "cuda")
        nameless = shutil.copytree(tiny_classifier, tmp_path / "nameless")
        about = json.loads((nameless / "config.json").read_text())
        del about["record"]["classes"]
        (nameless / "config.json").write_text(json.dumps(about))
        with pytest.raises(CheckpointError, match="has 3 classes, but 0 class names; it must name all"):
            load_classifier(str(nameless))


class TestCache:
    @pytest.fixture
    def keys(self, tiny_sounds):
        return {sound: sound.content_key() for sound in find_sounds(tiny_sounds / "made")}

    def test_classify_all_reuses_cached_results(self, classifier, keys, tmp_path):
        first = ResultCache(tmp_path, classifier)
        assert classify_all(first, keys) == {}
        again = ResultCache(tmp_path, classifier)
        assert again.missing(keys) == []
        assert classify_all(again, keys, progress=lambda *_: pytest.fail("classified twice")) == {}
        for one, other in zip(first.get(list(keys.values())), again.get(list(keys.values())), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_missing_lists_equal_contents_once(self, classifier, keys, tmp_path):
        copy = dict.fromkeys(keys, b"same content....."[:16])
        assert ResultCache(tmp_path, classifier).missing(copy) == list(copy)[:1]

    def test_cache_drops_an_incomplete_last_row(self, classifier, keys, tmp_path):
        full = ResultCache(tmp_path / "full", classifier)
        classify_all(full, keys)
        cut = ResultCache(tmp_path / "cut", classifier)
        classify_all(cut, dict(list(keys.items())[:3]))
        with cut.path.open("r+b") as file:
            file.truncate(cut.path.stat().st_size - 5)
        resumed = ResultCache(tmp_path / "cut", classifier)
        assert len(resumed.missing(keys)) == len(keys) - 2
        classify_all(resumed, keys)
        assert resumed.path.read_bytes() == full.path.read_bytes()

    def test_cache_is_separate_for_each_classifier(self, classifier, keys, tmp_path):
        first = ResultCache(tmp_path, classifier)
        classify_all(first, keys)
        assert len(ResultCache(tmp_path, dataclasses.replace(classifier, digest="0" * 16)).missing(keys)) == len(keys)


def test_likeliest_classes_are_those_of_the_logits(classifier, tmp_path):
    made = sound(tmp_path, "a.wav", chirp(30000))
    _, logits = classifier.classify(classifier.read_mel01(made))
    found = classifier.likeliest(made.path, 2)
    assert [name for name, _ in found] == [classifier.classes[index] for index in np.argsort(-logits)[:2]]
    assert found[0][1] == pytest.approx(np.exp(logits).max() / np.exp(logits).sum(), rel=1e-5)


def test_classify_prints_and_draws_what_is_heard(tiny_classifier, tmp_path, capsys):
    from unsilent.cli.main import run

    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, chirp(30000), 22050)
    soundfile.write(tmp_path / "silent.wav", np.zeros(30000), 22050)
    files = [str(tmp_path / name) for name in ("a.wav", "b.wav", "silent.wav")]
    assert run(["classify", *files, "--classifier", str(tiny_classifier), "--json", "--picture", str(tmp_path / "heard.png")]) == 3
    out, err = capsys.readouterr()
    assert [len(json.loads(line)["classes"]) for line in out.splitlines()] == [3, 3]
    assert "silent.wav is silent" in err
    assert (tmp_path / "heard.png").stat().st_size > 1000
