"""The one call of an evaluation."""

import json

import pytest

from unsilent.errors import DataError
from unsilent.evaluation import evaluate
from unsilent.files import locked


def test_evaluate_writes_the_report_of_its_result(tiny_sounds, tiny_classifier, tmp_path):
    steps = []
    evaluation = evaluate(
        tiny_sounds / "real",
        [tiny_sounds / "made"],
        tmp_path / "out",
        str(tiny_classifier),
        labels="folders",
        device="cpu",
        progress=lambda step, share: steps.append((step, share)),
    )
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["systems"][0]["figures"]["fid"]["value"] == evaluation.systems[0].scores["fid"].value
    assert (evaluation.n_classified, len(evaluation.real.samples)) == (24, 8)
    shares = [share for _, share in steps]
    assert shares == sorted(shares)
    assert 0 < shares[0] < shares[-1] < 1
    assert steps[-1][0] == "metrics of made"
    command = f"--reference {tiny_sounds}/real --generated {tiny_sounds}/made --classifier {tiny_classifier} --labels folders --out"
    assert command in (tmp_path / "out/report.html").read_text()


def test_the_page_shows_clips_of_each_class_where_asked(tiny_sounds, tiny_classifier, tmp_path):
    """Two classes of four clips each; the page has two of each, with their samples and players."""
    places = (tiny_sounds / "real", [tiny_sounds / "made"], tmp_path / "out", str(tiny_classifier))
    evaluate(*places, labels="folders", device="cpu", per_class=2)
    page = (tmp_path / "out/report.html").read_text()
    assert [f"<summary>{label}: 2 of 4 clips" in page for label in ("high", "low")] == [True, True]
    assert page.count("<audio") == 2 * 2 * (1 + 2)
    assert "--per-class 2" in page


def test_two_evaluations_into_one_folder_are_refused(tiny_sounds, tiny_classifier, tmp_path):
    """They would exchange their rows of results."""
    places = (tiny_sounds / "real", [tiny_sounds / "made"], tmp_path, str(tiny_classifier))
    with (
        locked(tmp_path / "heard" / ".lock", DataError),
        pytest.raises(DataError, match=r"another process is writing .*heard; wait for it"),
    ):
        evaluate(*places, labels="folders", device="cpu")
    assert not (tmp_path / "report.json").exists()
