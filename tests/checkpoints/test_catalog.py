"""The catalog of published files: complete, and consistent with its sources."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from unsilent import presets
from unsilent.checkpoints import catalog
from unsilent.errors import ParameterError

FACTS = Path(__file__).parents[3] / "shared/original.md"
ROWS = [catalog.find(name) for name in catalog.names()]
SAMPLERS = [row for row in ROWS if row.kind == "sampler"]
PAPER = [name for name in presets.names() if name != "everyday"]


@pytest.fixture(scope="module")
def facts() -> str:
    if not FACTS.exists():
        pytest.skip("needs the collected facts of the released system (shared/original.md)")
    return FACTS.read_text(encoding="utf-8")


def test_catalog_has_every_checkpoint_of_the_released_system(facts):
    """Pairs of date and MD5 in the facts' section on checkpoints."""
    section = facts[facts.index("## A8") : facts.index("## A9")]
    settings = dict(re.findall(r"\((a|b|c)\) (.*)", section))
    wanted = {"nofeat": "nofeats", "1BN": "1-bninception", "1RN": "1-resnet50", "5BN": "5-bninception", "5RN": "5-resnet50",
              "212BN": "212-bninception", "212RN": "212-resnet50", "class": "class"}  # fmt: skip
    n_found = 0
    for letter, data, suffix in (("a", "vggsound", ""), ("b", "vas", "-vggsound-codebook"), ("c", "vas", "")):
        for short, began, md5 in re.findall(r"(\w+) (?:2021-)?(\d\d-\d\dT\d\d-\d\d-\d\d)(?:_\w+)? ([0-9a-f]{32})", settings[letter]):
            row = catalog.find(f"{data}-{wanted[short]}{suffix}")
            assert (row.md5, row.stem) == (md5, f"2021-{began}_{data}_transformer")
            n_found += 1
    assert n_found == 24
    known = {row.md5 for row in ROWS}
    assert set(re.findall(r"\b[0-9a-f]{32}\b", section)) <= known
    assert set(re.findall(r"\d\d-\d\dT\d\d-\d\d-\d\d", section)) <= {
        found for row in ROWS for found in re.findall(r"\d\d-\d\dT[\d-]{8}", row.url)
    }
    generator, discriminator = re.search(r"netG ([0-9a-f]{32}), netD ([0-9a-f]{32})", facts).groups()
    assert (catalog.find("melgan").md5, catalog.find("melgan-discriminator").md5) == (generator, discriminator)


def test_catalog_has_every_released_sampler():
    """Those of table 4 with features and a class, and those of coordinates, were not released."""
    released = [name for name in PAPER if not name.endswith(("n-class", "coordinates")) and "n-class-" not in name]
    assert sorted(row.name for row in SAMPLERS) == sorted(released)
    assert all(row.presets == (row.name,) for row in SAMPLERS)
    assert len(SAMPLERS) == 24


def test_catalog_has_the_other_networks():
    others = {row.name: row.kind for row in ROWS if row.kind != "sampler"}
    assert others == {
        "vggsound-codebook": "codebook",
        "vas-codebook": "codebook",
        "vggishish": "vggishish",
        "melception": "melception",
        "melgan": "melgan",
        "melgan-discriminator": "melgan_discriminator",
        "resnet50": "resnet50",
        "bninception": "bninception",
    }


def test_presets_of_rows_agree_with_the_table_of_presets():
    """The catalog does not import the table."""
    for name in PAPER:
        row = presets.get(name)
        serving = {other.name for other in ROWS if name in other.presets} - {name}
        book = "vggsound-codebook" if row.codebook == presets.VGGSOUND_CODEBOOK else "vas-codebook"
        assert serving == {book, "melgan"} | ({row.backbone} if row.backbone else set())
    assert all(set(row.presets) <= set(PAPER) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row_is_valid(row):
    assert row.url.startswith("https://")
    assert re.fullmatch(r"[\w.-]+", row.file_name)
    assert row.file_name.removeprefix(row.stem) in (".tar.gz", ".pt", ".pth")
    assert (row.md5 is None) != (row.sha256 is None)
    assert re.fullmatch(r"[0-9a-f]{32}", row.md5 or "0" * 32)
    assert re.fullmatch(r"[0-9a-f]{8,64}", row.sha256 or "0" * 64)
    assert row.licence
    assert row.source
    assert row.size is None or row.approximate_size is None


def test_digests_files_and_stems_are_unique():
    for values in ([row.digest for row in ROWS], [row.file_name for row in ROWS], [row.stem for row in ROWS]):
        assert len(set(values)) == len(ROWS)


def test_digests_of_imagenet_files_begin_with_the_digits_in_their_names():
    """Other programs check only these digits."""
    for name in ("resnet50", "bninception"):
        row = catalog.find(name)
        assert row.sha256.startswith(row.stem.split("-")[1])


def test_find_by_stem_ignores_suffixes():
    assert catalog.find_by_stem("2021-07-30T21-34-25_vggsound_transformer").name == "vggsound-5-resnet50"
    assert catalog.find_by_stem("resnet50-0676ba61").name == "resnet50"
    assert catalog.find_by_stem("2021-07-30T21-34-25") is None


def test_find_suggests_similar_names():
    with pytest.raises(
        ParameterError,
        match=r"there is no published file 'vas-5-resnet5'; did you mean vas-5-resnet50 or .*\? `unsilent models` lists all\.$",
    ):
        catalog.find("vas-5-resnet5")
    with pytest.raises(ParameterError, match="'!'; `unsilent models` lists all"):
        catalog.find("!")


def test_catalog_and_downloads_do_not_import_torch():
    code = "import sys, unsilent.published.fetch; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
