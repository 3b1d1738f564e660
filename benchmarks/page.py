"""Compare the web page in Chromium with the command: seconds from the button to the result, and whether a long job delays another tab.

    python benchmarks/page.py --runs 3

Needs playwright and Chromium, as `tests/server/test_browser.py`. The page generates two takes with all files, the command one sound.
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from server_load import CLIP, Server

FLAGS = ["--no-sandbox", "--disable-gpu"]
LONG_TAKES = 16  # takes of the long job


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(Path(folder) / "served")
        server.wait_until_warm()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium") or shutil.which("chromium-browser"), args=FLAGS)
        page = opened(browser.new_context().new_page(), server.address)
        page.set_input_files("#file", str(CLIP))
        page.wait_for_selector("#stage:not([hidden])")
        by_page = [by_button(page, run) for run in range(options.runs)]
        by_command = [command(Path(folder) / f"{run}.mp4", run) for run in range(options.runs)]
        print(f"page: {statistics.median(by_page):.2f} s for two takes, command: {statistics.median(by_command):.2f} s for one sound")
        page.fill("#takes-wanted", str(LONG_TAKES))
        page.get_by_role("button", name="Generate sound").click()
        page.wait_for_timeout(300)
        began = time.perf_counter()
        other = opened(browser.new_context().new_page(), server.address)
        seconds, (state, n_theirs) = time.perf_counter() - began, (jobs(page)[0]["state"], len(jobs(other)))
        print(f"another tab opened in {seconds:.2f} s and saw {n_theirs} jobs; the job of {LONG_TAKES} takes was {state}")
        browser.close()
        server.kill()


def opened(page: Page, address: str) -> Page:
    """Open the page and wait until it is ready."""
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    return page


def jobs(page: Page) -> list:
    """Return the jobs that a tab sees, newest first."""
    return page.evaluate("fetch('api/jobs').then((answer) => answer.json())")


def by_button(page: Page, seed: int) -> float:
    """Generate a sound with the page, and return the seconds from the button to the result."""
    page.fill("#seed", str(seed))
    n_before, began = len(jobs(page)), time.perf_counter()
    page.get_by_role("button", name="Generate sound").click()
    while len(found := jobs(page)) == n_before or found[0]["state"] != "done":
        page.wait_for_timeout(10)
    page.wait_for_selector("#outcome:not([hidden])")
    return time.perf_counter() - began


def command(out: Path, seed: int) -> float:
    """Generate a sound with the command, and return its seconds."""
    began = time.perf_counter()
    asked = [sys.executable, "-m", "unsilent", "generate", str(CLIP), "-o", str(out), "--wav", "--seed", str(seed)]
    subprocess.run(asked, check=True, capture_output=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
