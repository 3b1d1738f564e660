"""What people are shown: a page that stands alone but for its sounds, tables of what was found, the same bytes every time."""

import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile

from unsilent.errors import DataError, ParameterError
from unsilent.evaluation.cache import ResultCache
from unsilent.evaluation.classifier import load_classifier
from unsilent.evaluation.classify import classify_all
from unsilent.evaluation.evaluate import evaluate, find
from unsilent.evaluation.page import write_report
from unsilent.evaluation.plots import thumbnail
from unsilent.evaluation.tables import shown


@pytest.fixture(scope="module")
def evaluated(tiny_sounds, tiny_classifier, tmp_path_factory):
    """Two systems, swept by name, one of them with a bad file and names that are hard to write."""
    root = tmp_path_factory.mktemp("evaluated")
    for kind, k in (("made", 8), ("worse", 64)):
        (root / f"top-k={k}").symlink_to(tiny_sounds / kind)
    odd = root / "odd <b>&"
    odd.mkdir()
    soundfile.write(odd / "low0 $x$ 'é\".wav", 0.1 * np.sin(np.arange(9000)), 22050)
    (odd / "high1.wav").write_bytes((tiny_sounds / "made/high1/0.wav").read_bytes())
    (odd / "low1.wav").write_bytes(b"")
    study = find(tiny_sounds / "real", [root / "top-k=8", root / "top-k=64", odd], "folders")
    hearing = ResultCache(root / "heard", load_classifier(str(tiny_classifier), "cpu"))
    return evaluate(study, hearing, classify_all(hearing, study.keys))


@pytest.fixture(scope="module")
def report(evaluated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "new" / "report"
    assert write_report(evaluated, folder) == folder / "report.html"
    return folder


class Links(HTMLParser):
    """Everything that a page asks for, and whether its tags close."""

    def __init__(self, text):
        super().__init__()
        self.asked, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.asked += [value for name, value in attributes if name in ("src", "href") and not (tag == "use" or tag == "a")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_asks_for_nothing_but_sounds_that_are_there(report):
    page = (report / "report.html").read_text()
    asked = [link for link in Links(page).asked if not link.startswith("data:image/png")]
    assert len(asked) == 8 * 5 + 1  # two samples by two systems beside each real one, and one odd one
    for link in asked:
        assert (report / unquote(link)).is_file(), link
    assert "<script" not in page
    assert "http" not in re.sub(r"http://www\.w3\.org[^\"]*|http://purl\.org[^\"]*|http://creativecommons\.org[^\"]*", "", page)


def test_names_are_shown_as_they_are(report):
    page = (report / "report.html").read_text()
    assert "odd &lt;b&gt;&amp;" in page
    assert "<b>" not in page
    assert "low0 $x$ &#x27;é&quot;" in page


def test_figures_stand_with_interval_counts_and_notes(report, evaluated):
    text = " ".join(" ".join(Links((report / "report.html").read_text()).text).split())
    figure = evaluated.systems[0].figures["mkl"]
    low, high = (shown("mkl", end) for end in figure.interval)
    assert re.search(rf"{re.escape(shown('mkl', figure.value))} \[{re.escape(low)}, {re.escape(high)}\] n 16 of 8, real 8", text)
    assert "8 rows for 12 numbers in a feature: much of this FID is the small sample's" in text
    assert "1 of 3 files could not be judged and are left out" in text
    assert f"digest {evaluated.judge.digest}" in text
    assert "the middle 64 mel frames (0.74 s); a shorter one is repeated" in text


def test_the_plots_are_drawings_that_parse(report):
    drawings = re.findall(r"<svg.*?</svg>", (report / "report.html").read_text(), flags=re.DOTALL)
    assert len(drawings) == 2  # over top-k, and by class
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_json_has_all_figures(report, evaluated):
    facts = json.loads((report / "report.json").read_text())
    assert [system["name"] for system in facts["systems"]] == ["top-k=8", "top-k=64", "odd <b>&"]
    assert facts["classifier"]["digest"] == evaluated.judge.digest
    first = facts["systems"][0]
    assert first["figures"]["fid"]["value"] == evaluated.systems[0].figures["fid"].value
    assert first["settings"] == {"top_k": 8}
    assert set(first["classes"]) == {"high", "low"}
    assert facts["systems"][2]["counts"] == {"files": 3, "judged": 2, "judged_by_mel": 0, "unpaired": 1, "clips_without_sample": 7}
    assert list(facts["systems"][2]["bad"]) == ["low1"]
    assert set(facts["reference_halves"]) == {"fid", "kid"}


def test_csv_has_a_row_for_each_file(report, evaluated):
    rows = list(csv.DictReader(io.StringIO((report / "report.csv").read_text())))
    assert len(rows) == 8 + 16 + 16 + 3
    made = [row for row in rows if row["system"] == "top-k=8"]
    assert np.mean([float(row["mkl"]) for row in made]) == pytest.approx(evaluated.systems[0].figures["mkl"].value, rel=1e-4)
    assert np.mean([int(row["top1"]) for row in made]) == evaluated.systems[0].figures["top1"].value
    bad = next(row for row in rows if row["why not"])
    assert (bad["sample"], bad["heard as"], bad["mkl"]) == ("low1", "", "")
    assert (report / made[0]["file"]).is_file()
    assert {row["labels"] for row in made} == {"high", "low"}


def test_the_same_bytes_again(report, evaluated):
    before = {path.name: path.read_bytes() for path in report.iterdir()}
    write_report(evaluated, report)
    assert {path.name: path.read_bytes() for path in report.iterdir()} == before


def test_a_folder_that_cannot_be_made(evaluated, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot make the folder .*file/out: Not a directory"):
        write_report(evaluated, tmp_path / "file/out")


def test_without_matplotlib(evaluated, tmp_path, monkeypatch):
    monkeypatch.setattr("unsilent.generation.figure.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ParameterError, match="drawing needs matplotlib"):
        write_report(evaluated, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_low_bands_are_below():
    import base64

    from PIL import Image

    mel01 = np.zeros((80, 64), np.float32)
    mel01[:20] = 1
    picture = Image.open(io.BytesIO(base64.b64decode(thumbnail(mel01).partition(",")[2])))
    brightness = np.asarray(picture.convert("L")).mean(1)
    assert brightness[-1] > brightness[0] + 100


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("fid", 1038.9, "1039"), ("fid", 10.486, "10.49"), ("kid", 0.00316, "0.0032"), ("kid", -3040.81, "-3040.8"), ("top1", 0.4449, "44.5")],
)
def test_numbers_as_people_read_them(name, value, said):
    assert shown(name, value) == said
