"""The server of a session: a page, tiles, labels and maps over HTTP, on this machine only."""

import asyncio
import base64
import contextlib
import json
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

import numpy as np
import uvicorn
from anyio import to_thread
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from hook.errors import ConfigError, DataError, HookError, SceneError
from hook.explore.session import Session

STATIC = Path(__file__).parent / "static"
MAX_BODY = 1 << 20
"""Bytes of a request; a page sends a few labels, or a polygon."""
_THREADS = 8  # each opens the scene once
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; worker-src 'self' blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self' http://localhost:* http://127.0.0.1:* vscode-webview:"  # notebooks
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}


class Label(BaseModel):
    """The class of a region; None removes it."""

    region: int
    class_id: int | None


class Labels(BaseModel):
    """Labels that are set in one step."""

    labels: Annotated[list[Label], Field(min_length=1, max_length=20_000)]


class Point(BaseModel):
    """A place in columns and rows that gets a class, instead of another point or beside them."""

    at: tuple[float, float]
    class_id: int
    replaced: Annotated[int, Field(ge=1)] | None = None


class NewClass(BaseModel):
    """A class to add."""

    name: str
    color: str


class ChangedClass(BaseModel):
    """What changes of a class."""

    name: str | None = None
    color: str | None = None


class Search(BaseModel):
    """Regions, or a polygon in columns and rows, to search with."""

    regions: Annotated[list[int], Field(min_length=1, max_length=1000)] | None = None
    polygon: Annotated[list[tuple[float, float]], Field(max_length=10_000)] | None = None
    k: Annotated[int, Field(ge=1, le=1000)] = 50


class Saved(BaseModel):
    """What to write."""

    what: Annotated[list[Literal["labels", "regions", "map", "model"]], Field(min_length=1)]


class Events:
    """Server-sent events of all open pages."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def publish(self, event: dict[str, Any] | None) -> None:
        """Send an event to all pages, None for the last; from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._put, event)

    def end(self) -> None:
        """End the streams of all pages."""
        self.publish(None)

    def _put(self, event: dict[str, Any] | None) -> None:
        for queue in self._queues:
            queue.put_nowait(event)

    async def stream(self) -> AsyncIterator[str]:
        """Yield the events from now on."""
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue = asyncio.Queue()
        self._queues.add(queue)
        try:
            yield ": begin\n\n"
            while True:
                try:
                    event = await asyncio.wait_for(queue.get(), 15)
                except TimeoutError:
                    yield ": still here\n\n"  # a page that has gone is noticed when writing
                else:
                    if event is None:
                        return
                    yield f"data: {json.dumps(event)}\n\n"
        finally:
            self._queues.discard(queue)


class Guard:
    """Refuses requests that the page itself would not send, and bounds their size.

    Args:
        app: The application.
        token: What all requests but those of the page's own files carry.
        hosts: Allowed values of the header Host.
    """

    def __init__(self, app: Any, token: str, hosts: list[str]) -> None:
        self.app, self._token, self._hosts = app, token, hosts

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }

        async def send_guarded(message: dict) -> None:
            if message["type"] == "http.response.start":
                given = message["headers"]
                known = {key for key, _ in given}
                extra = [(k.encode(), v.encode()) for k, v in _HEADERS.items()]
                message["headers"] = given + [pair for pair in extra if pair[0] not in known]
            await send(message)

        refused = self._refusal(scope, headers)
        if refused is not None:
            await refused(scope, receive, send_guarded)
            return
        left = MAX_BODY

        async def receive_bounded() -> dict:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, "the request is too large")
            return message

        await self.app(scope, receive_bounded, send_guarded)

    def _refusal(self, scope: dict, headers: dict[str, str]) -> Response | None:
        host, origin, path = headers.get("host", ""), headers.get("origin"), scope["path"]
        if host not in self._hosts or origin not in (None, f"http://{host}"):
            return _refuse(403, "the request is not from this page", " or ".join(self._hosts), host)
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MAX_BODY:
            return _refuse(413, "the request is too large", f"{MAX_BODY} bytes", length)
        if path == "/" or path.startswith("/static/"):
            return None
        token = headers.get("x-hook-token", "")
        if path == "/api/events":  # EventSource sends no headers
            token = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if not secrets.compare_digest(token.encode(), self._token.encode()):
            return _refuse(401, "wrong or missing token", "the address that 'hook explore' printed")
        return None


def _refuse(status: int, message: str, expected: str | None, found: str | None = None) -> Response:
    remedy = "open the address that 'hook explore' printed"
    content = dict(message=message, expected=expected, found=found, remedy=remedy)
    return JSONResponse(content, status)


def _known(error: HookError, status: int) -> Response:
    parts = (error.expected, error.found, error.remedy)
    expected, found, remedy = (None if part is None else str(part) for part in parts)
    content = dict(message=error.what, expected=expected, found=found, remedy=remedy)
    return JSONResponse(content, status)


def make_app(session: Session, events: Events, token: str, hosts: list[str]) -> Any:
    """Return the application of a session, for any ASGI server."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = _THREADS
        yield

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    _add_errors(app)
    _add_page(app)
    _add_scene(app, session)
    _add_labels(app, session)
    _add_results(app, session, events)
    return Guard(app, token, hosts)


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(HookError)
    def _hook(request: Request, error: HookError) -> Response:
        return _known(error, 500 if isinstance(error, SceneError) else 400)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = " ".join(map(str, first["loc"]))
        found = str(first.get("input"))[:80]
        remedy = "load the page again"
        return _known(ConfigError(f"{place}: {first['msg']}", found=found, remedy=remedy), 422)

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        return _refuse(error.status_code, str(error.detail), None)


def _add_page(app: FastAPI) -> None:
    @app.get("/")
    def page() -> Response:
        return _static("index.html")

    @app.get("/static/{name:path}")
    def static(name: str) -> Response:
        return _static(name)


def _static(name: str) -> Response:
    """Return a file of the page, chosen among those of the package."""
    files = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*.*")}
    path = files.get(name)
    if path is None or path.suffix not in _TYPES:
        raise HTTPException(404, "no such file")
    return Response(path.read_bytes(), media_type=_TYPES[path.suffix])


def _add_scene(app: FastAPI, session: Session) -> None:
    Bands = Annotated[str | None, Query(max_length=40, pattern=r"^\d+(,\d+)*$")]

    @app.get("/api/session")
    def describe() -> dict:
        return session.describe()

    @app.get("/api/tiles/scene/{z}/{x}/{y}.png")
    def scene_tile(z: int, x: int, y: int, bands: Bands = None) -> Response:
        tile = session.picture.tile(z, x, y, _numbers(bands))
        return Response(status_code=204) if tile is None else _picture(tile)

    @app.get("/api/tiles/regions/{z}/{x}/{y}.ids")
    def region_tile(z: int, x: int, y: int) -> Response:
        tile = session.region_tile(z, x, y)
        if not tile:
            return Response(status_code=204)
        headers = {**_CACHED, "content-encoding": "gzip"}
        return Response(tile, media_type="application/octet-stream", headers=headers)

    @app.get("/api/thumbnail/{region}.png")
    def thumbnail(
        region: int, size: Annotated[int, Query(ge=16, le=512)] = 96, bands: Bands = None
    ) -> Response:
        bounds = session.ready.pixels[session.check_region(region)].tolist()
        rings = session.outline(region)
        return _picture(session.picture.thumbnail(bounds, size, _numbers(bands), rings))

    @app.get("/api/regions/{region}")
    def describe_region(region: int) -> dict:
        return session.describe_region(region)

    @app.post("/api/similar")
    def similar(search: Search) -> dict:
        if (search.regions is None) == (search.polygon is None):
            raise ConfigError("a search needs regions or a polygon", remedy="pass one of them")
        return {"found": session.similar(search.regions, search.polygon, search.k)}


# Another session on this port has another token.
_CACHED = {"cache-control": "private, max-age=3600", "vary": "x-hook-token"}


def _picture(content: bytes) -> Response:
    return Response(content, media_type="image/png", headers=_CACHED)


def _numbers(bands: str | None) -> list[int] | None:
    return None if bands is None else [int(band) for band in bands.split(",")]


def _add_labels(app: FastAPI, session: Session) -> None:
    @app.post("/api/classes")
    def add_class(given: NewClass) -> dict:
        found = session.journal.add_class(given.name, given.color)
        return {**found._asdict(), "revision": session.changed()}

    @app.patch("/api/classes/{number}")
    def change_class(number: int, given: ChangedClass) -> dict:
        found = session.journal.change_class(number, given.name, given.color)
        return {**found._asdict(), "revision": session.changed()}

    @app.delete("/api/classes/{number}")
    def delete_class(number: int) -> dict:
        session.journal.delete_class(number)
        return {"revision": session.changed()}

    @app.post("/api/labels")
    def set_labels(given: Labels) -> dict:
        labels = {session.check_region(one.region): one.class_id for one in given.labels}
        session.journal.set_labels(labels)
        return {"revision": session.changed()}

    @app.post("/api/points")
    def add_point(given: Point) -> dict:
        point = session.add_point(given.at, given.class_id, given.replaced)
        return {"id": point, "revision": session.changed()}

    @app.delete("/api/points/{point}")
    def remove_point(point: int) -> dict:
        session.journal.remove_point(point)
        return {"revision": session.changed()}

    @app.post("/api/undo")
    def undo() -> dict:
        labels = session.journal.undo()
        return {"revision": session.changed(), "labels": labels}


def _add_results(app: FastAPI, session: Session, events: Events) -> None:
    @app.get("/api/map")
    def class_map() -> Response:
        try:
            found = session.map()
        except DataError as error:
            return _known(error, 409)
        shares = np.rint(255 * found.probability).astype(np.uint8)
        content = {
            "revision": found.revision,
            "classes": base64.b64encode(found.classes.tobytes()).decode(),
            "probability": base64.b64encode(shares.tobytes()).decode(),
            "uncertain": found.uncertain,
            "areas_m2": session.areas_m2(found),
        }
        return JSONResponse(content)

    @app.post("/api/save")
    def save(given: Saved) -> dict:
        return {"job": session.save(given.what)}

    @app.get("/api/jobs/{job}")
    def job_state(job: str) -> dict:
        return session.jobs.state(job)

    @app.get("/api/events")
    async def stream() -> StreamingResponse:
        return StreamingResponse(events.stream(), media_type="text/event-stream")


def serve(
    session: Session,
    events: Events,
    listener: socket.socket,
    opened: Callable[[str], object] | None,
) -> None:
    """Serve a session until interrupted, and print its address.

    Args:
        session: The session.
        events: Where it publishes.
        listener: See :func:`listening`.
        opened: Called with the address, in a thread; None: nothing is.
    """
    port, token = listener.getsockname()[1], secrets.token_urlsafe(32)
    app = make_app(session, events, token, [f"127.0.0.1:{port}", f"localhost:{port}"])
    address = f"http://127.0.0.1:{port}/?token={token}"
    print(address, flush=True)
    if opened is not None:
        threading.Thread(target=opened, args=(address,), daemon=True).start()
    PageServer(app, events).run(sockets=[listener])


class PageServer(uvicorn.Server):
    """A server of an application, which ends streams of events when it is told to stop.

    Being told again changes nothing: uvicorn would cancel what runs, and print how.

    Args:
        app: The application.
        events: Its events.
    """

    def __init__(self, app: Any, events: Events) -> None:
        quiet = dict(log_level="warning", server_header=False)
        super().__init__(uvicorn.Config(app, timeout_graceful_shutdown=1, **quiet))
        self._events = events

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop, on a signal."""
        self._events.end()
        if not self.should_exit:
            super().handle_exit(sig, frame)


def listening(port: int) -> socket.socket:
    """Return a socket that listens on a port of this machine, not of its network.

    Raises:
        ConfigError: The port is taken.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"port {port} cannot be used",
            expected="a free port",
            found=error.strerror,
            remedy="choose another one (--port), or omit it for any that is free",
        ) from error
    listener.listen(64)
    return listener
