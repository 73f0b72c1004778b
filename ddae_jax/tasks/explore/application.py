"""What is answered over HTTP, and to whom: to pages that this server has sent."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ddae_jax.errors import UserError
from ddae_jax.tasks.explore import answers
from ddae_jax.tasks.explore.explorer import Explorer
from ddae_jax.tasks.explore.uploads import MOST_BYTES, Uploads

# A page of another origin cannot have this server's name point at itself.
_HOSTS = ("127.0.0.1", "localhost")
_IDLE = 0.5  # seconds without a question
# The page says itself which script may run in it.
_HEADERS = (
    ("content-security-policy", "frame-ancestors 'none'; base-uri 'none'"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("cache-control", "no-store"),
)


def application(explorer: Explorer, uploads: Uploads, page: str) -> Starlette:
    """The ASGI application.

    Args:
      page: what "/" is answered with.
    """
    alone = asyncio.Lock()
    ahead = _Ahead(explorer, lambda level: compute(explorer.prepare, level))

    async def compute(function: Callable, *arguments):
        """One request computes at a time, and the others are answered meanwhile."""
        async with alone:
            return await run_in_threadpool(function, *arguments)

    def look(source: str, number: int, level: int, tap: str) -> dict:
        if source == "upload":
            image = uploads.get(number)
        else:
            image = explorer.chosen.source.read([number])[0]
        return answers.of_explored(
            explorer, explorer.explored(image, level, tap), level
        )

    def keep(content: bytes) -> dict:
        number = uploads.add(content)
        return {"number": number, "image": answers.png(uploads.get(number))}

    async def show(request: Request) -> Response:
        return HTMLResponse(page)

    async def view(request: Request) -> Response:
        asked = request.query_params
        source, tap = asked.get("source", ""), asked.get("tap", "")
        _check(source in ("chosen", "upload"), "source: chosen or upload")
        _check(tap in explorer.taps, "tap: none of those that are shown")
        most = len(explorer.chosen.names) - 1 if source == "chosen" else 10**9
        number = _whole(asked.get("number"), "number", most)
        level = _whole(asked.get("level"), "level", len(explorer.levels) - 1)
        found = await compute(look, source, number, level, tap)
        ahead.asked(level)
        return JSONResponse(found)

    async def upload(request: Request) -> Response:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > MOST_BYTES:
                raise UserError(f"your image: at most {MOST_BYTES >> 20} MiB are read")
        return JSONResponse(await compute(keep, bytes(content)))

    return Starlette(
        routes=[
            Route("/", show),
            Route("/view", view),
            Route("/upload", upload, methods=["POST"]),
        ],
        middleware=[
            Middleware(_WithHeaders),
            Middleware(
                TrustedHostMiddleware, allowed_hosts=list(_HOSTS), www_redirect=False
            ),
            Middleware(_OwnPagesAlone),
        ],
        exception_handlers={UserError: _one_line},
    )


class _Ahead:
    """Prepares noise levels while nothing is asked, from the last one outwards."""

    def __init__(self, explorer: Explorer, prepare: Callable[[int], Awaitable[None]]):
        self._explorer, self._prepare = explorer, prepare
        self._level, self._time = 0, 0.0
        self._task: asyncio.Task | None = None

    def asked(self, level: int) -> None:
        """A question has been answered."""
        self._level, self._time = level, time.monotonic()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._go_on())

    async def _go_on(self) -> None:
        while (level := self._explorer.to_prepare(self._level)) is not None:
            if time.monotonic() - self._time < _IDLE:
                await asyncio.sleep(_IDLE)
            else:
                await self._prepare(level)


async def _one_line(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": " ".join(str(error).split())}, 400)


def _check(holds: bool, line: str) -> None:
    if not holds:
        raise UserError(line)


def _whole(text: str | None, name: str, most: int) -> int:
    digits = text is not None and text.isascii() and text.isdecimal()
    _check(digits and len(text) < 10 and int(text) <= most, f"{name}: 0 to {most}")
    return int(text)


class _OwnPagesAlone:
    """Refuses what pages of other origins ask for or send."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_own(Request(scope)):
            refused = PlainTextResponse("refused: a page of another origin", 403)
            await refused(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _is_own(request: Request) -> bool:
    """Browsers say where a request comes from; the port may be that of a tunnel."""
    headers = request.headers
    origin = headers.get("origin")
    if origin is None and request.method not in ("GET", "HEAD"):
        return False
    if origin is not None and origin != f"http://{headers.get('host')}":
        return False
    # A link to "/" itself may lead here from anywhere.
    site = headers.get("sec-fetch-site", "none")
    return site in ("none", "same-origin") or request.url.path == "/"


class _WithHeaders:
    """Gives every answer the headers that keep it to this origin."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.encode(), value.encode()) for name, value in _HEADERS]
                message = {**message, "headers": [*message["headers"], *ours]}
            await send(message)

        await self._app(scope, receive, with_headers)
