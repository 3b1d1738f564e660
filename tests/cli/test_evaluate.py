"""`unsilent evaluate`: exit codes, output, files, resuming."""

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


def test_evaluate_compares_systems_with_real_sounds(ask, tmp_path):
    code, out, err = ask("--generated", "sounds/made", "--generated", "sounds/worse", "--labels", "folders")
    assert (code, err) == (0, ["unsilent: 40 sounds, 40 of them newly classified."])
    assert re.search(r"sounds +FID +MKL +KID +inception score +top-1 % +top-5 % +mAP % +mAUC %", out)
    assert re.search(r"^made +16 +[\d.]+ ", out, re.MULTILINE)
    assert out.splitlines()[-1] == "out/report.html"
    assert names(tmp_path / "out") == ["heard", "report.csv", "report.html", "report.json"]
    assert json.loads((tmp_path / "out/report.json").read_text())["seed"] == 0


def test_evaluate_tests_a_classifier_with_labels(ask, tmp_path):
    code, out, _ = ask("--labels", "folders")
    assert code == 0
    assert re.search(r"^reference +8 ", out, re.MULTILINE)
    scores = json.loads((tmp_path / "out/report.json").read_text())["reference"]["figures"]
    assert set(scores) == {"top1", "top5", "map", "mauc"}
    assert "Report of a sound classifier" in (tmp_path / "out/report.html").read_text()


def test_evaluate_says_how_many_sounds_have_a_known_label(ask, tmp_path):
    (tmp_path / "labels.csv").write_text("path,label\n" + "".join(f"high/high{i}.wav,high\nlow/low{i}.wav,rumble\n" for i in range(4)))
    code, _, err = ask("--generated", "sounds/made", "--labels", "labels.csv")
    assert code == 0
    others = "the others have no label among the classifier's classes"
    assert err[1:] == [
        f"unsilent: reference: the accuracy covers 4 of 8 sounds; {others}.",
        f"unsilent: made: the accuracy covers 8 of 16 sounds; {others}.",
    ]


def test_evaluate_names_unreadable_files_and_continues(ask, folders):
    (folders / "made/low0/2.wav").write_bytes(b"")
    soundfile.write(folders / "made/low0/3.wav", np.zeros(9000), 22050)
    code, out, err = ask("--generated", "sounds/made")
    assert code == 3
    assert err[:2] == ["unsilent: sounds/made/low0/2.wav is empty (0 bytes).", "unsilent: sounds/made/low0/3.wav is silent."]
    assert re.search(r"^made +16 ", out, re.MULTILINE)


def test_an_interrupted_evaluation_resumes(ask, tmp_path, monkeypatch):
    """Interrupted at the eleventh sound, the second run classifies the other fourteen, with the results of an uninterrupted run."""
    classify, inputs = Classifier.classify, []

    def stopping(classifier, mel01):
        inputs.append(mel01)
        if len(inputs) == 11:
            raise KeyboardInterrupt
        return classify(classifier, mel01)

    def report():
        files = {name: (tmp_path / "out" / name).read_text() for name in ("report.json", "report.csv", "report.html")}
        return files | {"report.html": re.sub("<time>.*</time>", "", files["report.html"])}

    monkeypatch.setattr(Classifier, "classify", stopping)
    code, _, err = ask("--generated", "sounds/made")
    assert (code, err) == (130, ["unsilent: interrupted; finished results are kept."])
    assert names(tmp_path / "out") == ["heard"]
    code, _, err = ask("--generated", "sounds/made")
    assert (code, err) == (0, ["unsilent: 24 sounds, 14 of them newly classified."])
    resumed = report()
    shutil.rmtree(tmp_path / "out")
    ask("--generated", "sounds/made")
    assert resumed == report()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is nothing to evaluate"),
        (("--generated", "sounds/none"), "sounds/none does not exist"),
        (("--labels", "none.csv"), "none.csv does not exist"),
        (("--manifest", "none.parquet"), "none.parquet does not exist"),
        (("--generated", "sounds/made", "--workers", "0"), "--workers is 0, but must be 1 or more"),
    ],
)
def test_evaluate_refuses_wrong_requests(ask, tmp_path, arguments, message):
    code, out, err = ask(*arguments)
    assert (code, out, len(err)) == (2, "", 1)
    assert message in err[0]
    assert not (tmp_path / "out").exists()


def test_evaluate_needs_a_classifier(unsilent, folders):
    code, out, err = unsilent("evaluate", "--reference", "sounds/real", "--generated", "sounds/made", "-o", "out")
    assert (code, out, len(err)) == (2, "", 1)
    assert "give --classifier with the checkpoint folder of a VGGish-ish or Melception" in err[0]
