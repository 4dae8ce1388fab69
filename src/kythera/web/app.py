"""The server of the page: `kythera serve`. It reads studies and never imports JAX."""

import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kythera import errors
from kythera.runs.store import Store

if TYPE_CHECKING:
    from fastapi import FastAPI

MOST_PORTS = 65535


def make_app(
    store_url: str | Path | Store,
    *,
    user: str | None = None,
    files: str | Path | None = None,
    token: str | None = None,
    read_only: bool = True,
    root_path: str = "",
) -> "FastAPI":
    """The page as an ASGI application, for a server of your own.

    Args:
        store_url: a store, or what `Store` takes.
        user: whose studies are shown, with those shared with the user; by default the
            login name.
        files: folder of the store's files, where it is not beside the database.
        token: what a caller must know; without one only this machine is answered.
        read_only: whether studies can be neither deleted nor shared.
        root_path: prefix of a proxy that does not take it away.

    Raises:
        StoreError: there is no such store.
        InputError: the token is too short.
        UnsupportedError: FastAPI is not installed.
    """
    try:
        from fastapi import FastAPI
        from starlette.middleware.gzip import GZipMiddleware
    except ImportError as error:
        raise errors.UnsupportedError(
            "The page needs FastAPI and uvicorn, which are not installed. "
            "`pip install 'kythera[web]'`."
        ) from error
    from kythera.web import guard, routes
    from kythera.web.desk import Desk

    guard.check_token(token)
    store = (
        store_url
        if isinstance(store_url, Store)
        else Store(store_url, user=user, files=files, create=False)
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        store.close()

    # Its own pages of documentation would fetch scripts from elsewhere.
    app = FastAPI(
        title="kythera",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.desk, app.state.read_only = Desk(store), read_only
    routes.add_to(app)
    app.add_middleware(GZipMiddleware, minimum_size=2000, compresslevel=4)
    app.add_middleware(guard.Guard, token=token, root_path=root_path)  # type: ignore[arg-type]
    return app


def serve(
    store: str | Path | Store,
    host: str = "127.0.0.1",
    port: int = 8765,
    token: str | None = None,
    write: bool = False,
) -> None:
    """Serve the page until it is interrupted.

    Args:
        store: a store, or what `Store` takes.
        host: where it listens; beyond this machine only with a token.
        port: 0 for any that is free.
        token: what a caller must know.
        write: whether studies can be deleted and shared.

    Raises:
        InputError: the address needs a token, or is not to be had.
        StoreError: there is no such store.
        UnsupportedError: FastAPI or uvicorn is not installed.
    """
    app = make_app(store, token=token, read_only=not write)
    import uvicorn

    from kythera.web import guard

    if token is None and not guard.is_loopback(host):
        raise errors.InputError(
            f"Without a token the page is for this machine alone, but {host!r} is reached "
            "from others. Keep 127.0.0.1 and use a tunnel (ssh -L), or give a --token: "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'` makes one."
        )
    with _listen(host, port) as place:
        found = place.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        more = ", then sign in with the token" if token else ""
        rights = "studies may be shared and deleted" if write else "read-only"
        sys.stdout.write(f"{app.state.desk.store!r}, {rights}\n")
        sys.stdout.write(f"Open http://{name}:{found}/{more}. Ctrl-C ends it.\n")
        sys.stdout.flush()
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, ws="none"
        )
        uvicorn.Server(config).run(sockets=[place])


def _listen(host: str, port: int) -> socket.socket:
    """A socket at that address.

    Raises:
        InputError: another program has the port, or the machine has no such address.
    """
    if not 0 <= port <= MOST_PORTS:
        raise errors.InputError(
            f"A port is a whole number from 0 to {MOST_PORTS}, but is {port}. Give such a "
            "--port; 0 is any that is free."
        )
    try:
        (family, kind, protocol, _, address) = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        place = socket.socket(family, kind, protocol)
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError as error:
        raise _unlistenable(host, port, error) from error
    try:
        place.bind(address)
        place.listen()
    except OSError as error:
        place.close()
        raise _unlistenable(host, port, error) from error
    return place


def _unlistenable(host: str, port: int, error: Exception) -> errors.InputError:
    cause = getattr(error, "strerror", None) or error
    return errors.InputError(
        f"The page cannot listen at {host}:{port}: {cause}. Give another --port (0: any "
        "that is free) or --host."
    )
