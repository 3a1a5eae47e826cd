"""How long from the start of the server to a first GLB on the page? `python -m benchmarks.first_glb`.

Starts `instant3d serve`, as `make serve` does, with an empty folder of jobs; opens its page in a headless Chromium as
soon as the address is printed, sends a prompt as soon as the page can, and waits for the mesh on the canvas. Prints
when each step was reached, in seconds after the start. Needs playwright and Chromium.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.server_process import ServerProcess

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

COMMAND = (sys.executable, "-m", "instant3d.cli.main", "serve", "--port", "0", "--data")
PROMPT = "a red fire hydrant"
TIMEOUT_MS = 600_000
POLL_MS = 20
VIEWS = "document.querySelector('#image').naturalWidth > 0"
MESH = "document.querySelector('model-viewer')?.modelIsVisible"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the seconds of each step, of each round."""
    options = _parser().parse_args(arguments)
    rounds = []
    with _chromium() as browser:
        for _ in range(options.rounds):
            with tempfile.TemporaryDirectory(prefix="first-glb-") as data:
                rounds.append(first_glb(Path(data), browser, options.prompt, options.steps))
            print(json.dumps(rounds[-1]), flush=True)
    if options.out:
        options.out.write_text(json.dumps(rounds, indent=2) + "\n")
    return 0


def first_glb(data: Path, browser: Browser, prompt: str, steps: int | None = None) -> dict[str, float]:
    """Start a server, send a prompt through its page, and end the server.

    Args:
        data: Empty folder for its jobs.
        browser: Where the page is opened.
        prompt: What is generated.
        steps: Of denoising; None: the page's default.

    Returns:
        Seconds from the start of the server's process until it prints its address, the page is ready, the prompt is
        taken, the views are shown, the GLB can be downloaded, the mesh is on the canvas, the job is done.
    """
    start, seconds = time.perf_counter(), {}

    def reached(name: str) -> None:
        seconds[name] = round(time.perf_counter() - start, 2)

    server = ServerProcess([*COMMAND, str(data)], data / "server.log")
    page = browser.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    try:
        reached("address")
        page.goto(server.url)
        page.locator("#formats input").first.wait_for(state="attached")  # from the server's answer
        reached("page")
        _send(page, prompt, steps)
        reached("sent")
        _steps_of_the_job(page, reached)
    finally:
        page.close()
        server.end()
    return seconds


def _send(page: Page, prompt: str, steps: int | None) -> None:
    page.fill("#prompt", prompt)
    if steps is not None:
        page.fill("[name=steps]", str(steps))
    with page.expect_response(lambda answer: answer.request.method == "POST" and answer.status == 202):
        page.press("#prompt", "Enter")


def _steps_of_the_job(page: Page, reached: Callable[[str], None]) -> None:
    _until(page, VIEWS)
    reached("views")
    page.locator("#downloads a:has-text('mesh.glb')").wait_for()
    reached("glb")
    _until(page, MESH)
    reached("shown")
    page.locator("#remove:visible").wait_for()
    reached("done")


def _until(page: Page, condition: str) -> None:
    while not page.evaluate(condition):  # the page's policy forbids playwright's own way to wait
        page.wait_for_timeout(POLL_MS)


@contextmanager
def _chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader"]
        )
        yield browser
        browser.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_glb", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--prompt", default=PROMPT, help="what to generate (default %(default)r)")
    parser.add_argument("--steps", type=int, help="of denoising (default: the page's)")
    parser.add_argument("--rounds", type=int, default=1, help="servers that are started (default 1)")
    parser.add_argument("--out", type=Path, help="file for the seconds, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
