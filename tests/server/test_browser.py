"""The whole way in a real Chromium: upload, progress, play, another take, range, download, reload. Skipped where it is missing."""

import io
import os
import shutil
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from unsilent.media.probe import probe

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required"]  # fmt: skip
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")]
SHOTS = os.environ.get("UNSILENT_SHOTS")  # folder for screenshots of each state
AXE = os.environ.get("UNSILENT_AXE")  # axe.min.js of axe-core, which is not part of the repository
PATIENCE = 400_000  # milliseconds, on a busy machine


@pytest.fixture
def address(listen):
    return listen(model="everyday")


@pytest.fixture
def page(address):
    """The page, and what its console said."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True).new_page()
        page.set_default_timeout(PATIENCE)
        page.said = []
        page.on("console", lambda message: page.said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        yield page
        browser.close()


def until(page, holds: str) -> None:
    """Wait for a condition in JavaScript; the page's own rules forbid Playwright's way of asking again and again."""
    end = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(holds):
        assert time.monotonic() < end, holds
        page.wait_for_timeout(50)


def outcome(page) -> None:
    """Wait for the result of a job."""
    page.wait_for_selector("#outcome:not([hidden]), #trouble:not([hidden])")
    assert page.locator("#trouble").is_hidden(), page.inner_text("#trouble")


def look(page, state: str) -> None:
    """At both widths, light and dark: nothing is wider than the window, axe finds nothing serious; a screenshot where one is wanted."""
    for width, scheme in ((390, "light"), (390, "dark"), (1280, "dark"), (1280, "light")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{state} is wider than {width}"
        if AXE:
            page.evaluate(Path(AXE).read_text(encoding="utf-8"))
            found = page.evaluate("axe.run().then((result) => result.violations)")
            serious = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found if one["impact"] in ("serious", "critical")]
            assert not serious, (state, width, scheme, serious)
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/{state}-{width}-{scheme}.png", full_page=True)


def download(page, text: str) -> bytes:
    with page.expect_download() as waiting:
        page.get_by_role("link", name=text).click()
    return Path(waiting.value.path()).read_bytes()


def test_the_whole_way(page, tmp_path):
    look(page, "start")
    page.set_input_files("#file", "demo/cat.mp4")
    page.wait_for_selector("#stage:not([hidden])")
    until(page, "document.querySelector('#player').readyState >= 2")
    assert "234 classes" in page.inner_text("#knows")
    page.focus("#tracks")
    page.keyboard.press("PageUp")
    until(page, "Math.abs(document.querySelector('#player').currentTime - 1) < 0.05")
    page.get_by_role("button", name="Cue at the playhead").click()
    page.locator(".cue").focus()
    page.keyboard.press("ArrowRight")
    assert "Cue at 1.02 s" in page.locator(".cue").get_attribute("aria-label")
    mark = page.locator(".cue").bounding_box()
    page.mouse.move(mark["x"] + mark["width"] / 2, mark["y"] + 5)
    page.mouse.down()
    page.mouse.move(mark["x"] + mark["width"] / 2 + page.locator("#marks").bounding_box()["width"] * 0.3, mark["y"] + 5, steps=4)
    page.mouse.up()
    page.fill("#takes-wanted", "2")
    page.get_by_role("button", name="Generate sound").click()
    until(page, "!document.querySelector('#growing').hidden")
    look(page, "working")
    outcome(page)
    until(page, "document.querySelector('#player').readyState >= 2")
    [cue] = page.evaluate("fetch('api/jobs').then((answer) => answer.json())")[0]["ask"]["request"]["cues"]
    assert abs(cue["seconds"] - 4.02) < 0.1
    takes = page.locator("#takes button")
    assert takes.count() == 2
    assert page.locator("#heard li").count() == 10
    first = download(page, "Sound (WAV)")
    assert download(page, "FLAC")[:4] == b"fLaC"
    with zipfile.ZipFile(io.BytesIO(download(page, "Everything (ZIP)"))) as bundle:
        assert {"take1.mp4", "take2.wav", "project.rpp", "video/cat.mp4"} <= set(bundle.namelist())
    page.get_by_text("For other programs").click()
    assert download(page, "Reaper (RPP)").startswith(b"<REAPER_PROJECT")
    page.get_by_text("For other programs").click()
    takes.nth(1).click()
    second = download(page, "Sound (WAV)")
    assert first != second
    sound, rate = soundfile.read(io.BytesIO(second))
    assert (rate, len(sound)) == (22050, 220_500)
    assert abs(sound).max() > 0.01
    (tmp_path / "made.mp4").write_bytes(download(page, "Video"))
    assert probe(tmp_path / "made.mp4").has_audio

    page.evaluate("document.querySelector('#player').muted = true; document.querySelector('#player').play()")
    until(page, "document.querySelector('#player').currentTime > 0.3")
    page.evaluate("document.querySelector('#player').pause()")
    page.focus("#tracks")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    until(page, "Math.abs(document.querySelector('#player').currentTime - 0.1) < 0.05")
    page.locator("#mel").scroll_into_view_if_needed()
    box = page.locator("#mel").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 20, steps=4)
    page.mouse.up()
    assert abs(float(page.input_value("#from")) - 2) < 0.1
    assert abs(float(page.input_value("#to")) - 5) < 0.1
    look(page, "result")
    page.get_by_role("button", name="Retake").click()
    page.wait_for_selector("#list li:nth-child(2)")
    outcome(page)
    again, _ = soundfile.read(io.BytesIO(download(page, "Sound (WAV)")), dtype="int16")
    before, _ = soundfile.read(io.BytesIO(second), dtype="int16")
    changed = (again != before).nonzero()[0]
    assert 1.9 * rate < changed.min() < changed.max() < 5.1 * rate

    page.reload()
    outcome(page)
    assert page.locator("#takes button").count() == 2
    assert page.locator("#list li").count() == 2
    page.get_by_role("button", name="Reconstruct own sound").is_disabled()
    page.set_input_files("#file", {"name": "text.mp4", "mimeType": "video/mp4", "buffer": b"no media"})
    page.wait_for_selector("#trouble:not([hidden])")
    assert "is not a media file" in page.inner_text("#trouble")
    look(page, "refused")
    assert not [text for text in page.said if "415" not in text]


def drawn(page, canvas: str) -> str:
    return page.evaluate(f"document.querySelector('{canvas}').toDataURL()")


def test_what_the_paper_shows_and_stopping(page, make_clip):
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)[None]
    page.set_input_files("#file", str(make_clip("clip.mp4", sound=tone)))
    page.wait_for_selector("#stage:not([hidden])")
    page.select_option("#model", "tiny")
    page.get_by_text("More options").click()
    page.check("#want-attention")
    page.check("#want-own")
    page.get_by_role("button", name="Generate sound").click()
    outcome(page)
    names = page.locator("#takes button").all_inner_texts()
    assert [name.split(" · ")[0] for name in names] == ["take 1", "take 2", "own", "reconstruction"]
    until(page, "!document.querySelector('#attention').hidden")
    page.get_by_text("Details: features").click()
    until(page, "document.querySelector('#features').width > 1")
    whole = drawn(page, "#attention")
    page.check("#less-prior")
    page.wait_for_timeout(500)
    assert drawn(page, "#attention") != whole
    page.get_by_role("button", name="reconstruction", exact=True).click()
    until(page, "document.querySelector('#attention').hidden")
    page.uncheck("#want-attention")
    page.fill("#seconds", "20")
    page.fill("#takes-wanted", "1")
    page.uncheck("#want-own")
    page.evaluate("document.querySelector('#growing').hidden = true")
    page.get_by_role("button", name="Generate sound").click()
    until(page, "!document.querySelector('#growing').hidden")
    page.get_by_role("button", name="Stop and keep the sound so far").click()
    outcome(page)
    assert page.inner_text("#outcome-title") == "Sounds, stopped early"
    assert " of 20.0 s" in page.locator("#takes button").first.inner_text()
    assert "Stopped: each take was sampled for" in page.inner_text("#outcome-note")
    look(page, "stopped")
    page.get_by_role("button", name="Generate sound").click()
    page.get_by_role("button", name="Stop and keep the sound so far").click()
    page.wait_for_selector("#trouble:not([hidden])")
    page.wait_for_timeout(500)  # in which the list of results is read again
    assert "stopped before" in page.inner_text("#trouble")
    assert not page.said
