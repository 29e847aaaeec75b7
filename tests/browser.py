"""A real headless Chromium for tests of pages, spoken to by its DevTools protocol through tornado (Jupyter has it)."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from tornado.websocket import websocket_connect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
LOADED = """
while (location.href === 'about:blank' || document.readyState !== 'complete') await new Promise(r => setTimeout(r, 20));
"""
PATIENCE = 60  # seconds for the browser to start or a script to end; only a hang reaches it


class Browser:
    """`with Browser(folder) as browser`: pages are opened offline; folder is the browser's own, a temporary one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Browser:
        switches = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run",
                    "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={self.folder}"]  # fmt: skip
        self.process = subprocess.Popen(
            [CHROMIUM, *switches, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        told, deadline = self.folder / "DevToolsActivePort", time.monotonic() + PATIENCE
        while not (told.is_file() and told.read_text().count("\n")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise RuntimeError(f"{CHROMIUM} did not start")
            time.sleep(0.05)
        self.port = int(told.read_text().split()[0])
        return self

    def __exit__(self, *_) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def evaluate(self, page: Path, script: str, width: int, height: int = 800) -> Any:
        """What the body of an async function gives in the page, loaded at that size (CSS pixels)."""
        return asyncio.run(self._evaluate(page.absolute().as_uri(), script, width, height))

    async def _evaluate(self, address: str, script: str, width: int, height: int) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/json/list", timeout=PATIENCE) as answer:
            target = next(target for target in json.load(answer) if target["type"] == "page")
        socket, numbers = (
            await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=2**28),
            itertools.count(),
        )

        async def call(method: str, **params) -> dict:
            number = next(numbers)
            await socket.write_message(json.dumps({"id": number, "method": method, "params": params}))
            while (message := json.loads(await socket.read_message())).get("id") != number:
                pass
            if "error" in message:
                raise RuntimeError(f"{method}: {message['error']}")
            return message["result"]

        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await call("Emulation.setDeviceMetricsOverride", **size)
        await call("Page.navigate", url=address)
        body = f"(async () => {{ {LOADED} {script} }})()"
        found = await asyncio.wait_for(
            call("Runtime.evaluate", expression=body, awaitPromise=True, returnByValue=True), PATIENCE
        )
        socket.close()
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"].get("description", "the page's script failed"))
        return found["result"].get("value")
