"""Who may see the page, and what a browser may do with it."""

import hashlib
import hmac
import ipaddress
import re
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kythera import errors
from kythera.web import pages

SHORTEST = 16  # characters of a token
TOKEN = re.compile(rf"[\x21-\x7e]{{{SHORTEST},200}}")
MOST_BYTES = 10_000  # that a request may send
OWN_HEADER = "x-kythera"  # a form of another site cannot send it
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
# What proxies say of whom they ask for.
FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")
# Scripts and styles come from this server alone. `blob:` and `data:` are the pictures that
# plotly makes for its "download as PNG".
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",
}


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_token(token: str | None) -> str | None:
    """A token as it is, where it cannot be guessed.

    Raises:
        InputError: too short, or of characters that a header cannot carry.
    """
    if token is not None and not TOKEN.fullmatch(token):
        raise errors.InputError(
            f"A token must have {SHORTEST} to 200 letters, digits or signs without "
            f"blanks, but has {len(token)} characters. Take one that chance made: "
            "`python -c 'import secrets; print(secrets.token_urlsafe())'`."
        )
    return token


class Guard:
    """Stands before all routes: hosts, the token, sizes, and headers of all answers.

    Without a token the page is for this machine alone, and answers only to its names: a
    site that points a name of its own at 127.0.0.1 (DNS rebinding) is refused. With a token
    it answers to any name, since a proxy gives it one of its own.

    Args:
        app: what is guarded.
        token: to be given as `Authorization: Bearer ...`, or once as `?token=...` of the
            front page, after which a cookie stands for it.
        root_path: prefix of a proxy that does not take it away.
    """

    def __init__(self, app: ASGIApp, token: str | None = None, root_path: str = ""):
        self.app, self.token, self.root_path = app, token, root_path.rstrip("/")
        if token is not None:
            digest = hashlib.sha256(token.encode()).hexdigest()
            # Cookies do not tell ports apart: two servers need two names.
            self.cookie = f"kythera-{digest[:8]}"
            self.proof = hmac.digest(token.encode(), b"kythera page", "sha256").hex()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.root_path:
            scope = {**scope, "root_path": self.root_path}

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request = Request(scope, receive)
        answer = self._refuse(request) or await self._admit(request)
        await (answer or self.app)(scope, receive, send_guarded)

    def _refuse(self, request: Request) -> Response | None:
        """What no caller may ask for, with a token or without."""
        host = re.sub(r":\d*$", "", request.headers.get("host", ""))
        if self.token is None and host.lower() not in LOOPBACK:
            return _say(
                request,
                403,
                "Without a token this page answers only to localhost, 127.0.0.1 and "
                f"[::1], but was asked for as {host[:100]!r}. Use such an address, or "
                "give `kythera serve` a --token.",
            )
        caller = request.client.host if request.client else "nobody known"
        through = next((h for h in FORWARDED if h in request.headers), None)
        if self.token is None and (through or not is_loopback(caller)):
            return _say(
                request,
                403,
                "Without a token this page answers only callers of this machine, but was "
                f"asked by {through or caller[:100]!r}. Use a tunnel (ssh -L), or give "
                "`kythera serve` a --token.",
            )
        size = request.headers.get("content-length", "0")
        chunked = "transfer-encoding" in request.headers
        if chunked or not size.isdigit() or int(size) > MOST_BYTES:
            return _say(
                request,
                413,
                f"A request may send {MOST_BYTES:,} bytes, with their number before "
                "them. Send less.",
            )
        return None

    async def _admit(self, request: Request) -> Response | None:
        """None where the caller has the token, or none is needed."""
        if self.token is None:
            return None
        path, given = pages.route(request), request.query_params.get("token")
        if request.method == "GET" and path == "/" and given is not None:
            return self._sign_in(request, given)
        if request.method == "POST" and path == "/login":
            form = parse_qs((await request.body()).decode("latin-1"))
            return self._sign_in(request, form.get("token", [""])[0].strip())
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and self._is_token(bearer.strip()):
            return None
        if _same(request.cookies.get(self.cookie, ""), self.proof):
            return None
        if path.startswith("/static/") and not path.endswith("plotly.min.js"):
            return None  # the looks of the sign-in page; nothing of a study is in it
        return _say(request, 401, "This page asks for a token.", is_token_asked=True)

    def _sign_in(self, request: Request, token: str) -> Response:
        """Set the cookie, and go on to the address without the token."""
        if not self._is_token(token):
            return _say(
                request,
                401,
                "That is not the token that `kythera serve` was given.",
                is_token_asked=True,
            )
        # Not a redirect: browsers hold a strict cookie back on one that began elsewhere.
        # The cookie has no path: it is then valid below this address, not for all that a
        # JupyterHub serves beside it.
        done = HTMLResponse(pages.message(request, "Signed in", "", go_on="./"))
        done.headers["refresh"] = "0; url=./"
        done.headers["cache-control"] = "no-store"
        done.set_cookie(
            self.cookie,
            self.proof,
            path=None,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return done

    def _is_token(self, given: str) -> bool:
        return self.token is not None and _same(given, self.token)


def is_from_elsewhere(headers: Headers) -> bool:
    """Whether a request to change something may come from another site's page."""
    if headers.get(OWN_HEADER) != "1":
        return True
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site != "same-origin"
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")


def _same(given: str, right: str) -> bool:
    """In a time that does not tell how much of it was right."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode())


def _say(request: Request, status: int, what: str, **options: Any) -> Response:
    """An error as JSON for programs, as a page for people."""
    if pages.route(request).startswith("/api/"):
        answer = JSONResponse({"error": what}, status)
    else:
        title = "Sign in" if options else "Refused"
        answer = HTMLResponse(pages.message(request, title, what, **options), status)
    if status == 401:
        answer.headers["www-authenticate"] = "Bearer"
    return answer
