"""`unsilent evaluate`: exit codes, what is printed, what lies on the disk, and going on after a stop."""

import json
import re
import shutil

import numpy as np
import pytest
import soundfile

from unsilent.evaluation.classifier import Classifier


@pytest.fixture
def folders(tiny_sounds, tmp_path):
    return shutil.copytree(tiny_sounds, tmp_path / "sounds", copy_function=shutil.copy)


@pytest.fixture
def ask(unsilent, tiny_classifier, folders):
    """`ask("--generated", "sounds/made")` with reference, classifier and output given."""
    return lambda *more: unsilent("evaluate", "--reference", "sounds/real", "--classifier", tiny_classifier, "-o", "out", *more)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_systems_against_real_sounds(ask, tmp_path):
    code, out, err = ask("--generated", "sounds/made", "--generated", "sounds/worse", "--labels", "folders")
    assert (code, err) == (0, ["unsilent: 40 sounds judged, 40 of them now; counting figures."])
    assert re.search(r"sounds +FID +MKL +KID +inception score +top-1 % +top-5 % +mAP % +mAUC %", out)
    assert re.search(r"^made +16 +[\d.]+ ", out, re.MULTILINE)
    assert out.splitlines()[-1] == "out/report.html"
    assert names(tmp_path / "out") == ["heard", "report.csv", "report.html", "report.json"]
    assert json.loads((tmp_path / "out/report.json").read_text())["seed"] == 0


def test_a_classifier_against_labels(ask, tmp_path):
    code, out, _ = ask("--labels", "folders")
    assert code == 0
    assert re.search(r"^reference +8 ", out, re.MULTILINE)
    figures = json.loads((tmp_path / "out/report.json").read_text())["reference"]["figures"]
    assert set(figures) == {"top1", "top5", "map", "mauc"}
    assert "Report of a sound classifier" in (tmp_path / "out/report.html").read_text()


def test_a_bad_file_is_named_and_the_rest_is_done(ask, folders):
    (folders / "made/low0/2.wav").write_bytes(b"")
    soundfile.write(folders / "made/low0/3.wav", np.zeros(9000), 22050)
    code, out, err = ask("--generated", "sounds/made")
    assert code == 3
    assert err[1:] == ["unsilent: sounds/made/low0/2.wav is empty (0 bytes).", "unsilent: sounds/made/low0/3.wav is silent."]
    assert re.search(r"^made +16 ", out, re.MULTILINE)


def test_a_stopped_evaluation_goes_on(ask, tmp_path, monkeypatch):
    """Stopped at the eleventh sound, the second run judges the other fourteen, and nothing differs from a run that never stopped."""
    hear, heard = Classifier.classify, []

    def stopping(judge, mel01):
        heard.append(mel01)
        if len(heard) == 11:
            raise KeyboardInterrupt
        return hear(judge, mel01)

    monkeypatch.setattr(Classifier, "classify", stopping)
    code, _, err = ask("--generated", "sounds/made")
    assert (code, err) == (130, ["unsilent: interrupted; what was finished is kept."])
    assert names(tmp_path / "out") == ["heard"]
    code, _, err = ask("--generated", "sounds/made")
    assert (code, err) == (0, ["unsilent: 24 sounds judged, 14 of them now; counting figures."])
    resumed = {name: (tmp_path / "out" / name).read_bytes() for name in ("report.json", "report.csv", "report.html")}
    shutil.rmtree(tmp_path / "out")
    ask("--generated", "sounds/made")
    assert resumed == {name: (tmp_path / "out" / name).read_bytes() for name in resumed}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "there is nothing to evaluate"),
        (("--generated", "sounds/none"), "sounds/none is not a folder"),
        (("--labels", "none.csv"), "there is no table of labels none.csv"),
        (("--manifest", "none.parquet"), "there is no manifest none.parquet"),
        (("--generated", "sounds/made", "--workers", "0"), "Invalid value for '--workers'"),
    ],
)
def test_wrong_requests(ask, tmp_path, arguments, said):
    code, out, err = ask(*arguments)
    assert (code, out, len(err)) == (2, "", 1)
    assert said in err[0]
    assert not (tmp_path / "out").exists()


def test_without_a_classifier(unsilent, folders):
    code, out, err = unsilent("evaluate", "--reference", "sounds/real", "--generated", "sounds/made", "-o", "out")
    assert (code, out, len(err)) == (2, "", 1)
    assert "give --classifier with the checkpoint folder of a VGGish-ish or Melception" in err[0]
