"""The report: a page that needs only the sounds it plays, JSON, CSV; identical bytes for identical results."""

import csv
import dataclasses
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from datetime import datetime
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile

from unsilent.errors import DataError, ParameterError
from unsilent.evaluation.cache import ResultCache
from unsilent.evaluation.classifier import load_classifier
from unsilent.evaluation.classify import classify_all
from unsilent.evaluation.inputs import find_inputs
from unsilent.evaluation.page import write_report
from unsilent.evaluation.plots import mean_line, thumbnail
from unsilent.evaluation.results import compute_metrics
from unsilent.evaluation.scores import Estimate
from unsilent.evaluation.tables import format_value

COMMAND, DATE = "unsilent evaluate --reference '<real> sounds'", datetime(2026, 1, 2, 3, 4)


@pytest.fixture(scope="module")
def evaluation(tiny_sounds, tiny_classifier, tmp_path_factory):
    """Two systems of a sweep over top-k, and one with an unreadable file and names that need escaping."""
    root = tmp_path_factory.mktemp("evaluation")
    for kind, k in (("made", 8), ("worse", 64)):
        (root / f"top-k={k}").symlink_to(tiny_sounds / kind)
    odd = root / "odd <b>&"
    odd.mkdir()
    soundfile.write(odd / "low0 $x$ 'é\".wav", 0.1 * np.sin(np.arange(9000)), 22050)
    (odd / "high1.wav").write_bytes((tiny_sounds / "made/high1/0.wav").read_bytes())
    (odd / "low1.wav").write_bytes(b"")
    inputs = find_inputs(tiny_sounds / "real", [root / "top-k=8", root / "top-k=64", odd], "folders")
    cache = ResultCache(root / "cache", load_classifier(str(tiny_classifier), "cpu"))
    return compute_metrics(inputs, cache, classify_all(cache, inputs.keys))


@pytest.fixture(scope="module")
def report(evaluation, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "new" / "report"
    assert write_report(evaluation, folder, COMMAND, DATE) == folder / "report.html"
    return folder


class Links(HTMLParser):
    """What a page loads, and its text."""

    def __init__(self, text):
        super().__init__()
        self.links, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href") and not (tag == "use" or tag == "a")]

    def handle_data(self, data):
        self.text.append(data)


def test_page_loads_only_sounds_by_relative_paths(report):
    page = (report / "report.html").read_text()
    links = [link for link in Links(page).links if not link.startswith("data:image/png")]
    assert len(links) == 8 * 5 + 1  # each real sound, its two samples of two systems, and one of the third
    for link in links:
        assert link.startswith("./")
        assert (report / unquote(link)).is_file(), link
    assert "<script" not in page
    assert "http" not in re.sub(r"http://www\.w3\.org[^\"]*|http://purl\.org[^\"]*|http://creativecommons\.org[^\"]*", "", page)


def test_page_escapes_names(report):
    page = (report / "report.html").read_text()
    assert "odd &lt;b&gt;&amp;" in page
    assert "<b>" not in page
    assert "low0 $x$ &#x27;é&quot;" in page


def test_page_has_values_with_interval_counts_and_notes(report, evaluation):
    text = " ".join(" ".join(Links((report / "report.html").read_text()).text).split())
    score = evaluation.systems[0].scores["mkl"]
    low, high = (format_value("mkl", end) for end in score.interval)
    assert re.search(rf"{re.escape(format_value('mkl', score.value))} \[{re.escape(low)}, {re.escape(high)}\] n 16 of 8, real 8", text)
    assert "8 rows for 12 feature dimensions: much of this FID is the bias of a small sample" in text
    assert "1 of 3 files could not be classified and are left out" in text
    assert f"digest {evaluation.classifier.digest}" in text
    assert "the middle 64 mel frames (0.74 s); a shorter sound is repeated" in text


def test_page_has_title_date_and_command(report):
    page = (report / "report.html").read_text()
    assert "<title>Evaluation of top-k=8, top-k=64, odd &lt;b&gt;&amp;</title>" in page
    assert "<time>2026-01-02 03:04</time>" in page
    assert "<code>unsilent evaluate --reference &#x27;&lt;real&gt; sounds&#x27;</code>" in page


def test_page_keeps_a_readable_first_column_on_a_phone(report):
    page = (report / "report.html").read_text()
    for selector in ("th:first-child, td:first-child", ".sounds th:first-child, .sounds td:first-child"):
        assert re.search(rf"\n?{re.escape(selector)} {{[^}}]*min-width: 8rem", page), selector
    assert page.count("<div class=wide><svg") == page.count("<svg")  # plots scroll instead of shrinking


def test_plots_are_valid_svg(report):
    plots = re.findall(r"<svg.*?</svg>", (report / "report.html").read_text(), flags=re.DOTALL)
    assert len(plots) == 2  # over top-k, and by class
    for plot in plots:
        ElementTree.fromstring(plot)


def test_json_has_all_metrics(report, evaluation):
    facts = json.loads((report / "report.json").read_text())
    assert [system["name"] for system in facts["systems"]] == ["top-k=8", "top-k=64", "odd <b>&"]
    assert facts["classifier"]["digest"] == evaluation.classifier.digest
    first = facts["systems"][0]
    assert first["figures"]["fid"]["value"] == evaluation.systems[0].scores["fid"].value
    assert first["settings"] == {"top_k": 8}
    assert set(first["classes"]) == {"high", "low"}
    assert facts["systems"][2]["counts"] == {"files": 3, "judged": 2, "judged_by_mel": 0, "unpaired": 1, "clips_without_sample": 7}
    assert list(facts["systems"][2]["bad"]) == ["low1"]
    assert set(facts["reference_halves"]) == {"fid", "kid"}


def test_csv_has_a_row_for_each_file(report, evaluation):
    rows = list(csv.DictReader(io.StringIO((report / "report.csv").read_text())))
    assert len(rows) == 8 + 16 + 16 + 3
    made = [row for row in rows if row["system"] == "top-k=8"]
    assert np.mean([float(row["mkl"]) for row in made]) == pytest.approx(evaluation.systems[0].scores["mkl"].value, rel=1e-4)
    assert np.mean([int(row["top1"]) for row in made]) == evaluation.systems[0].scores["top1"].value
    bad = next(row for row in rows if row["why not"])
    assert (bad["sample"], bad["heard as"], bad["mkl"]) == ("low1", "", "")
    assert (report / made[0]["file"]).is_file()
    assert {row["labels"] for row in made} == {"high", "low"}


def test_write_report_repeats_its_bytes(report, evaluation):
    before = {path.name: path.read_bytes() for path in report.iterdir()}
    write_report(evaluation, report, COMMAND, DATE)
    assert {path.name: path.read_bytes() for path in report.iterdir()} == before


def test_write_report_refuses_a_folder_that_cannot_be_made(evaluation, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot make the folder .*file/out: Not a directory"):
        write_report(evaluation, tmp_path / "file/out", COMMAND, DATE)


def test_write_report_needs_matplotlib(evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ParameterError, match="drawing needs matplotlib"):
        write_report(evaluation, tmp_path / "out", COMMAND, DATE)
    assert not (tmp_path / "out").exists()


def test_thumbnail_has_low_bands_at_the_bottom():
    import base64

    from PIL import Image

    mel01 = np.zeros((80, 64), np.float32)
    mel01[:20] = 1
    image = Image.open(io.BytesIO(base64.b64decode(thumbnail(mel01).partition(",")[2])))
    brightness = np.asarray(image.convert("L")).mean(1)
    assert brightness[-1] > brightness[0] + 100


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("fid", 1038.9, "1039"), ("fid", 10.486, "10.49"), ("kid", 0.00316, "0.0032"), ("kid", -3040.81, "-3040.8"), ("top1", 0.4449, "44.5")],
)
def test_format_value_has_fewer_digits_for_large_values(name, value, text):
    assert format_value(name, value) == text


def test_the_mean_of_a_sweep_is_over_the_values_that_all_models_have(evaluation):
    def system(value):
        return dataclasses.replace(evaluation.systems[0], scores={"fid": Estimate(value, None, samples=2, clips=2, real=2, seed=0)})

    lines = {"one": [(1.0, system(2.0)), (8.0, system(4.0))], "other": [(8.0, system(8.0)), (64.0, system(9.0))]}
    assert mean_line(lines, "fid") == ([8.0], [6.0])
