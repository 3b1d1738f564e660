"""Documents: commands parse, paths and links exist, Python examples run, sentences are short."""

import argparse
import dataclasses
import importlib.util
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from unsilent import presets
from unsilent.cli.main import app
from unsilent.data.manifest import Row
from unsilent.data.rows import ROW_TYPES
from unsilent.version import __version__

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path for pattern in ("*.md", "docs/*.md", "runs/*/README.md", "unsilent/weights/*/MODEL_CARD.md") for path in ROOT.glob(pattern)
)
SCRIPTS = sorted(
    path
    for folder in ("benchmarks", "demo", "runs/everyday", "runs/paper", "runs/smoke")
    for path in (ROOT / folder).glob("*.py")
    if "ArgumentParser(" in path.read_text(encoding="utf-8")
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# A new host is added here after its address has been opened in a browser.
HOSTS = {"arxiv.org", "creativecommons.org", "github.com", "keepachangelog.com", "semver.org"}
SENTENCE_WORDS = 30  # at most, in a document
README_LINES, README_MEAN_WORDS = 100, 15

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?:\.ci|benchmarks|demo|docs|runs|tests|unsilent)/[\w./-]+|[A-Z_]+\.(?:md|cff)|\w+\.toml")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(text: str, language: str) -> list[str]:
    """Contents of the fenced code blocks of one language."""
    return [body for found, body in _FENCE.findall(text) if found == language]


def inline_code(text: str) -> list[str]:
    """Text between single backticks, outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", text))


def shell_lines(text: str) -> list[list[str]]:
    """The words of each command in the `sh` blocks of a document, without comments and variables before the program."""
    found = []
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words:
                end = words.index("&&") if "&&" in words else len(words)
                command, words = words[:end], words[end + 1 :]
                while command and re.fullmatch(r"[A-Z_]+=\S*", command[0]):
                    command.pop(0)
                found.append(command)
    return found


def inline_commands(text: str) -> list[list[str]]:
    """Whole commands in running text; one with an ellipsis is not whole."""
    shown = [code for code in inline_code(text) if "…" not in code and "..." not in code]
    commands = [shlex.split(code) for code in shown if re.match(r"(unsilent|make|python|torchrun) ", code)]
    return [words for words in commands if words[1] not in ("-m", "-c")]


COMMANDS = [
    pytest.param(words, inline, id=f"{name_of(path)}: {' '.join(words)}")
    for path in DOCUMENTS
    for text in [path.read_text(encoding="utf-8")]
    for inline, found in ((False, shell_lines(text)), (True, inline_commands(text)))
    for words in found
    if words and path.name != "LOG.md"  # whose commands are those of the time
]


class ParsedError(Exception):
    """Raised after a script has parsed its options, instead of its work."""


def check_unsilent(words: list[str], inline: bool) -> None:
    """Parse the options of a subcommand; in running text, its name alone is valid."""
    command, name = typer.main.get_command(app), "unsilent"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name, *words = words
        assert name in command.commands, f"there is no command {name!r}"
        command = command.commands[name]
    if words or not (inline or hasattr(command, "commands")):
        command.make_context(name, list(words), resilient_parsing=words == ["--help"])


def check_script(script: str, words: list[str], monkeypatch) -> None:
    path = ROOT / script
    assert path.is_file(), f"there is no {script}"
    if "argparse" not in path.read_text(encoding="utf-8"):
        return
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self, args=None, namespace=None):
        parse(self, args, namespace)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    monkeypatch.setattr(sys, "argv", [script, *words])
    monkeypatch.syspath_prepend(path.parent)
    with pytest.raises(ParsedError):
        runpy.run_path(str(path), run_name="shown")["main"]()


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        variable, given, _ = word.partition("=")
        wanted = rf"\$\({re.escape(variable)}\)" if given else rf"^{re.escape(word)}:"
        assert re.search(wanted, makefile, re.M), f"the Makefile has no {variable}"


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    for extra in re.findall(r"\[([\w,]+)\]", " ".join(words)):
        assert set(extra.split(",")) <= PROJECT["optional-dependencies"].keys()


@pytest.mark.parametrize(("words", "inline"), COMMANDS)
def test_shown_commands_parse(words, inline, monkeypatch):
    program, *rest = words
    if program == "torchrun":  # its own options come first
        start = next(number for number, word in enumerate(rest) if word.endswith("unsilent"))
        program, rest = "unsilent", rest[start + 1 :]
    if program == "unsilent":
        check_unsilent(rest, inline)
    elif program == "python" and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]), f"there is no module {rest[1]}"
    elif program == "python":
        check_script(rest[0], rest[1:], monkeypatch)
    elif program == "make":
        check_make(rest)
    elif program == "pip":
        check_pip(rest)
    else:
        assert program in ("git", "source", "pytest", "cp", "mkdir"), f"the test does not know the program {program!r}"


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_scripts_show_their_usage(path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [path.name, "--help"])
    monkeypatch.syspath_prepend(path.parent)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path), run_name="shown")["main"]()
    assert not ended.value.code
    assert "usage: " in capsys.readouterr().out


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links_and_paths_resolve(path):
    text = path.read_text(encoding="utf-8")
    for link in _LINK.findall(text):
        target, _, anchor = link.partition("#")
        if "://" in link:
            continue
        there = path if not target else path.parent / target
        assert there.exists(), f"{name_of(path)} links to {link}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{name_of(path)} links to {link}"
    if path.name in ("LOG.md", "CHANGELOG.md"):
        return  # they name files that were there at the time
    shown = [*inline_code(text), *(word for words in shell_lines(text) for word in words)]
    for word in (word for code in shown for word in code.split()):
        if _PATH.fullmatch(word):
            places = (ROOT, path.parent, ROOT / "unsilent")
            assert any((place / word).exists() for place in places), f"{name_of(path)} names {word}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_addresses_are_of_known_hosts_and_no_machine(path):
    text = path.read_text(encoding="utf-8")
    assert set(re.findall(r"https?://([^/\s)>\"'`]+)", text)) <= HOSTS
    assert not re.findall(r"(?<![\w.])/(?:home|mnt|root|tmp|Users|work)/\S*", text)


def test_addresses_of_the_package_are_of_known_hosts():
    assert {address.split("/")[2] for address in PROJECT["urls"].values()} <= HOSTS


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_python_examples_compile(path):
    for block in blocks(path.read_text(encoding="utf-8"), "python"):
        compile(block, name_of(path), "exec")


@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_python_examples_run(name, make_clip, monkeypatch):
    clip = make_clip("clip.mp4")
    monkeypatch.chdir(clip.parent)
    names = {}
    for block in blocks((ROOT / name).read_text(encoding="utf-8"), "python"):
        exec(compile(block, name, "exec"), names)


def sentences(text: str) -> list[list[str]]:
    """Words of each sentence of a document, without code blocks, tables, headings and addresses."""
    text = re.sub(r"<!--.*?-->", "", _FENCE.sub("\n\n", text), flags=re.S)
    text = _LINK.sub(lambda link: link[0].partition("](")[0].lstrip("!["), text)
    text = re.sub(r"`[^`\n]+`", "code", text)
    lines = ["" if re.match(r"\s*(#|\||!|<)", line) else re.sub(r"^\s*([-*]|\d+\.) ", "\n", line) for line in text.splitlines()]
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines))
    found = [sentence for paragraph in paragraphs for sentence in re.split(r"(?<=[.!?])\s+", paragraph.strip())]
    return [words for words in (re.findall(r"[^\s\w]*\w\S*", sentence) for sentence in found) if words]


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_sentences_are_short(path):
    long = [" ".join(words) for words in sentences(path.read_text(encoding="utf-8")) if len(words) > SENTENCE_WORDS]
    assert not long


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= README_LINES
    lengths = [len(words) for words in sentences(text)]
    assert sum(lengths) / len(lengths) < README_MEAN_WORDS


def test_media_of_the_readme_are_small():
    for path in (ROOT / "docs/demo").iterdir():
        assert path.stat().st_size < (700_000 if path.suffix == ".gif" else 320_000), path.name


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_entries_of_the_log_are_dated_and_ordered():
    text = (ROOT / "LOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", text, re.M)
    dates = [re.fullmatch(r"(\d{4}-\d\d-\d\d) · .+ · (?:kept|rejected|kept in part|open)", heading) for heading in headings]
    assert all(dates), [heading for heading, date in zip(headings, dates, strict=True) if not date]
    days = [date[1] for date in dates]
    assert days == sorted(days, reverse=True)
    for heading, entry in zip(headings, re.split(r"^## .*$", text, flags=re.M)[1:], strict=True):
        for part in ("Question", "Setup", "Result", "Decision"):
            assert f"**{part}.**" in entry, f"{heading!r} has no {part}"


def test_the_table_of_modules_has_the_levels_of_test_house():
    spec = importlib.util.spec_from_file_location("house", Path(__file__).with_name("test_house.py"))
    house = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(house)
    rows = re.findall(r"^\| (\d+) \| (.+?) \|", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.M)
    levels = {name.removesuffix(".py").rstrip("/"): int(level) for level, cell in rows for name in re.findall(r"`([\w./]+)`", cell)}
    assert levels == house.LEVELS


def test_the_table_of_models_is_that_of_the_presets():
    text = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    for name, fid, mkl in re.findall(r"^\| `([\w-]+)` \|[^|]*\| ([\d.]*) ?\| ([\d.]*) ?\|", text, re.M):
        preset = presets.get(name)
        assert (fid, mkl) == (str(preset.fid or ""), str(preset.mkl or "")), name
    conditions, fids, mkls = (re.search(rf"^\| {row} \|(.*)\|$", text, re.M)[1].split("|") for row in ("condition", "FID", "MKL"))
    for condition, fid, mkl in zip(conditions, fids, mkls, strict=True):
        preset = presets.get(f"vas-{condition.strip()}-vggsound-codebook")
        assert (float(fid), float(mkl)) == (preset.fid, preset.mkl)
        assert f"`vas-{condition.strip()}`" in text
    shown = set(re.findall(r"^\| `([\w-]+)` \|", text, re.M))
    assert shown == {name for name in presets.names() if not name.endswith("-vggsound-codebook")}


def test_the_columns_of_manifests_and_shards_are_those_of_the_code():
    manifest, _, rest = (ROOT / "docs/data.md").read_text(encoding="utf-8").partition("## Shards")
    columns = [re.findall(r"^\| (`[\w`, ]+`) \|", part, re.M) for part in (manifest, rest.partition("### The index")[2])]
    shown = [[name for cell in cells for name in re.findall(r"\w+", cell)] for cells in columns]
    assert shown[0] == [field.name for field in dataclasses.fields(Row)]
    assert shown[1] == list(dict.fromkeys(field.name for kind in ROW_TYPES.values() for field in dataclasses.fields(kind)))


def test_the_readme_names_every_module():
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = [path.name for path in (ROOT / "unsilent").iterdir() if (path / "__init__.py").exists()]
    assert [name for name in folders if f"{name}/" not in shown] == []


def test_the_index_names_what_its_files_define():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    index = text[text.index("## Where to find") : text.index("## Other data flows")]
    found = re.findall(r"`(unsilent/[\w/]+\.py)`: `(\w+)`", index)
    assert len(found) > 10
    assert [name for path, name in found if not re.search(rf"^(?:def|class) {name}\b", (ROOT / path).read_text(), re.M)] == []
