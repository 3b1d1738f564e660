"""What of a sound a classifier is shown, where classifiers are found, and files that cannot be judged."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch

from unsilent.checkpoints import bundle
from unsilent.checkpoints.store import save_checkpoint
from unsilent.clip import Clip
from unsilent.errors import CheckpointError, MediaError, ParameterError
from unsilent.evaluation.cache import ResultCache, digest
from unsilent.evaluation.classifier import load_classifier
from unsilent.evaluation.classify import classify_all
from unsilent.evaluation.sounds import find_sounds
from unsilent.models.melception import Melception, MelceptionConfig
from unsilent.signal.mel import log_mel01


@pytest.fixture
def judge(tiny_classifier):
    return load_classifier(str(tiny_classifier), "cpu")


def sound(folder, name, waveform):
    if name.endswith(".npy"):
        np.save(folder / name, waveform)
    else:
        soundfile.write(folder / name, waveform, 22050)
    return find_sounds(folder)[-1]


def chirp(samples):
    return 0.3 * np.sin(np.linspace(0, 60, samples) ** 2)


class TestReading:
    """Cut, repeated, prepared."""

    def test_the_middle_of_the_mel_of_the_whole(self, judge, tmp_path):
        """As the published ones hear it, without any preparation."""
        judge = dataclasses.replace(judge, prepares=False)
        waveform = np.round(chirp(256 * 200) * 32768) / 32768
        shown = judge.read(sound(tmp_path, "a.wav", waveform))
        whole = log_mel01(torch.from_numpy(waveform.astype(np.float32))[None], Clip())[0]
        assert shown.shape == (80, 64)
        torch.testing.assert_close(shown, whole[:, 68:132])

    def test_a_short_sound_is_repeated(self, judge, tmp_path):
        shown = judge.read(sound(tmp_path, "a.wav", chirp(256 * 20)))
        torch.testing.assert_close(shown[:, 25:35], shown[:, 45:55], atol=0.05, rtol=0)

    def test_level_and_silent_ends_do_not_count_for_one_trained_here(self, judge, tmp_path):
        noise = 0.2 * np.random.default_rng(0).standard_normal(20000)
        sounds = (("a.wav", noise), ("b.wav", np.pad(0.1 * noise, (7000, 3000))))
        shown = [judge.read(sound(tmp_path, name, waveform)) for name, waveform in sounds]
        assert (shown[0] - shown[1]).abs().mean() < 0.01

    def test_a_click_keeps_its_silence(self, judge, tmp_path):
        click = np.zeros(30000)
        click[9000:9005] = 0.5
        shown = judge.read(sound(tmp_path, "a.wav", click))
        assert (shown.amax(0) > shown.max() / 2).float().mean() < 0.2

    def test_mels_are_cut_and_repeated_and_keep_their_level(self, judge, tmp_path):
        mel = np.linspace(-1.2, 1, 80 * 100).reshape(80, 100).astype(np.float16)
        shown = judge.read(sound(tmp_path, "a.mel.npy", mel))
        np.testing.assert_allclose(shown, (mel[:, 18:82].astype(np.float32).clip(-1) + 1) / 2, atol=1e-6)
        short = judge.read(sound(tmp_path, "b.mel.npy", mel[:, :40]))
        assert torch.equal(short[:, :24], short[:, 40:])

    @pytest.mark.parametrize(
        ("name", "content", "said"),
        [
            ("a.wav", np.zeros(30000), "a.wav is silent"),
            ("a.wav", chirp(2000), "has 0.09 s of sound, 0.19 s are needed"),
            ("a.mel.npy", np.zeros((80, 90), np.float32) - 1, "a.mel.npy is silent"),
            ("a.mel.npy", np.zeros((79, 90), np.float32), r"holds float32 of shape \[79, 90\]; a mel has shape \[80, frames\]"),
            ("a.mel.npy", np.zeros((80, 90), int), r"holds int64 of shape \[80, 90\]"),
            ("a.mel.npy", np.full((80, 90), np.nan, np.float16), "holds NaN or infinity"),
            ("a.mel.npy", np.array([{}]), "is no array that can be read"),
        ],
    )
    def test_what_cannot_be_judged_is_named(self, judge, tmp_path, name, content, said):
        with pytest.raises(MediaError, match=said):
            judge.read(sound(tmp_path, name, content))

    def test_damaged_mels_are_named(self, judge, tmp_path):
        (tmp_path / "a.mel.npy").write_bytes(b"\x93NUMPY")
        with pytest.raises(MediaError, match=r"a.mel.npy is no array that can be read"):
            judge.read(find_sounds(tmp_path)[0])


class TestFinding:
    """By folder, by published name, by model."""

    def test_what_a_report_says_of_it(self, judge):
        assert (judge.kind, judge.classes, judge.dim, judge.frames, judge.prepares) == ("vggishish", ("high", "low", "noise"), 12, 64, True)
        assert len(judge.digest) == 16

    def test_weights_and_settings_decide_the_digest(self, judge, tiny_classifier, tmp_path):
        changed = shutil.copytree(tiny_classifier, tmp_path / "changed")
        assert load_classifier(str(changed)).digest == judge.digest
        about = json.loads((changed / "config.json").read_text())
        about["record"]["run"]["crop_frames"] = 96
        (changed / "config.json").write_text(json.dumps(about))
        assert load_classifier(str(changed)).digest != judge.digest
        other = dict(judge.module.state_dict(), **{"classifier.4.bias": torch.ones(3)})
        save_checkpoint(tmp_path / "other", "vggishish", "everyday", judge.module.config, other, {**about["record"]})
        assert load_classifier(str(tmp_path / "other")).digest != load_classifier(str(changed)).digest

    def test_a_model_may_bring_its_own(self, tiny_classifier, tiny_bundle, tmp_path, monkeypatch):
        monkeypatch.setattr(bundle, "SHIPPED", tmp_path)
        monkeypatch.setattr("unsilent.evaluation.classifier.SHIPPED", tmp_path)
        model = shutil.copytree(tiny_bundle, tmp_path / "tiny")
        with pytest.raises(CheckpointError, match="the model 'tiny' has no classifier of its own; name a checkpoint of a vggishish"):
            load_classifier("tiny")
        shutil.copytree(tiny_classifier, model / "classifier")
        assert load_classifier("tiny").folder == load_classifier(str(model)).folder == model / "classifier"

    @pytest.mark.slow
    def test_a_published_one_knows_the_classes_of_vggsound(self, tmp_path):
        torch.manual_seed(0)
        network = Melception(MelceptionConfig()).eval()
        save_checkpoint(tmp_path / "m", "melception", "", network.config, network.state_dict(), {"converted_from": "melception"})
        judge = load_classifier(str(tmp_path / "m"))
        assert (len(judge.classes), judge.dim, judge.frames, judge.prepares) == (309, 2048, 848, False)
        mel01 = torch.rand(80, 848, generator=torch.Generator().manual_seed(0))
        features, logits = judge.classify(mel01)
        np.testing.assert_allclose(logits, network(mel01[None])[0].detach(), rtol=1e-4, atol=1e-5)
        unbiased = features @ network.fc.weight.detach().numpy().T
        np.testing.assert_allclose(judge.unbiased(logits[None])[0], unbiased, rtol=1e-4, atol=1e-5)

    def test_none_and_wrong_ones_are_refused(self, tiny_parts, tiny_classifier, tmp_path, monkeypatch):
        with pytest.raises(ParameterError, match="none is named: give --classifier with the checkpoint folder of a VGGish-ish"):
            load_classifier(None)
        with pytest.raises(CheckpointError, match="'melception' is not here; fetch it with: unsilent models fetch melception"):
            load_classifier("melception")
        with pytest.raises(CheckpointError, match="there is no classifier 'nowhere'"):
            load_classifier("nowhere")
        with pytest.raises(CheckpointError, match="holds a codebook; sounds are judged by a vggishish or a melception"):
            load_classifier(str(tiny_parts["codebook"]))
        if not torch.cuda.is_available():
            with pytest.raises(ParameterError, match="device cuda was asked for, but no CUDA device is here"):
                load_classifier(str(tiny_classifier), "cuda")
        nameless = shutil.copytree(tiny_classifier, tmp_path / "nameless")
        about = json.loads((nameless / "config.json").read_text())
        del about["record"]["classes"]
        (nameless / "config.json").write_text(json.dumps(about))
        with pytest.raises(CheckpointError, match="has 3 classes and names 0 of them; a judge must name all"):
            load_classifier(str(nameless))


class TestHearing:
    """What was judged stays judged, whatever happens in between."""

    @pytest.fixture
    def keys(self, tiny_sounds):
        return {sound: digest(sound) for sound in find_sounds(tiny_sounds / "made")}

    def test_each_content_is_judged_once(self, judge, keys, tmp_path):
        first = ResultCache(tmp_path, judge)
        assert classify_all(first, keys) == {}
        again = ResultCache(tmp_path, judge)
        assert again.missing(keys) == []
        assert classify_all(again, keys, progress=lambda *_: pytest.fail("judged twice")) == {}
        for one, other in zip(first.of(list(keys.values())), again.of(list(keys.values())), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_a_copy_is_not_judged_again(self, judge, keys, tmp_path):
        copy = dict.fromkeys(keys, b"same content....."[:16])
        assert ResultCache(tmp_path, judge).missing(copy) == list(copy)[:1]

    def test_a_row_that_was_cut_off_is_judged_again(self, judge, keys, tmp_path):
        whole = ResultCache(tmp_path / "whole", judge)
        classify_all(whole, keys)
        cut = ResultCache(tmp_path / "cut", judge)
        classify_all(cut, dict(list(keys.items())[:3]))
        with cut.path.open("r+b") as file:
            file.truncate(cut.path.stat().st_size - 5)
        resumed = ResultCache(tmp_path / "cut", judge)
        assert len(resumed.missing(keys)) == len(keys) - 2
        classify_all(resumed, keys)
        assert resumed.path.read_bytes() == whole.path.read_bytes()

    def test_another_classifier_does_not_see_its_rows(self, judge, keys, tmp_path):
        first = ResultCache(tmp_path, judge)
        classify_all(first, keys)
        assert len(ResultCache(tmp_path, dataclasses.replace(judge, digest="0" * 16)).missing(keys)) == len(keys)
