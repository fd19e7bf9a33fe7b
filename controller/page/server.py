"""Serves the live page, its WebSocket and `/metrics` from a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from controller.config import HttpTable
from controller.metrics import Metrics
from controller.page.feed import PageFeed
from ingest.endpoints import is_loopback
from ingest.errors import TwinbeamError, UsageRefused

STATIC = Path(__file__).parent / "static"
REFRESH_S = 0.15
_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "connect-src 'self' ws: wss:",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


class PageServer:
    """The HTTP side of a daemon. `url` is where it listens; `check` raises when it has died."""

    def __init__(self, table: HttpTable, feed: PageFeed, metrics: Metrics) -> None:
        self._socket = listen(table)
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        config = uvicorn.Config(
            _application(feed, metrics, table),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="websockets-sansio",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="page", daemon=True)

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def _serve(self) -> None:
        asyncio.run(self._server.serve(sockets=[self._socket]))

    def check(self) -> None:
        """Raise `TwinbeamError` when the server has stopped by itself."""
        if not self._thread.is_alive():
            raise TwinbeamError("the page server has died", where=self.url)

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(timeout=5.0)
        self._socket.close()


def listen(table: HttpTable) -> socket.socket:
    """A socket bound to the configured address; `UsageRefused` when the port is taken."""
    family = socket.AF_INET6 if ":" in table.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((table.host, table.port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise UsageRefused(
            f"cannot listen: {error.strerror}",
            where=f"http://{table.host}:{table.port}",
            mend="stop the other program, or choose another port in [http] or by --port",
        ) from None
    return listener


def _application(feed: PageFeed, metrics: Metrics, table: HttpTable) -> Starlette:
    async def index(request: Request) -> Response:
        return FileResponse(STATIC / "index.html", headers=_HEADERS)

    async def prometheus(request: Request) -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    async def health(request: Request) -> Response:
        twin = feed.twin or {}
        stale = f"twin stale: {twin['why']}\n" if twin.get("state") == "stale" else ""
        return Response(f"ok\n{stale}", media_type="text/plain")

    async def site(request: Request) -> Response:
        return Response(feed.plan, media_type="application/json", headers=_HEADERS)

    async def live(websocket: WebSocket) -> None:
        if not _is_ours(websocket, table):
            await websocket.close(code=1008)
            return
        await websocket.accept()
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await _until_left(websocket, feed)

    return Starlette(
        routes=[
            Route("/", index),
            Route("/metrics", prometheus),
            Route("/health", health),
            Route("/site", site),
            WebSocketRoute("/live", live),
            Mount("/static", StaticFiles(directory=STATIC)),
        ]
    )


def _is_ours(websocket: WebSocket, table: HttpTable) -> bool:
    """Whether a browser's WebSocket comes from our own page; other clients send no origin.

    Its host must be one of ours as well, or another site whose name leads here (DNS rebinding) would pass for us.
    """
    origin, host = websocket.headers.get("origin"), websocket.headers.get("host", "")
    name = urlsplit(f"//{host}").hostname or ""
    ours = table.remote or is_loopback(name) or name == table.host
    return origin is None or (ours and origin.split("://", 1)[-1] == host)


async def _until_left(websocket: WebSocket, feed: PageFeed) -> None:
    """A snapshot whenever there is a new decision, `REFRESH_S` apart at least, until the other side closes."""
    sent = -1
    while True:
        if feed.decisions != sent:
            sent = feed.decisions
            await websocket.send_text(feed.snapshot().decode())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(REFRESH_S):
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    return
