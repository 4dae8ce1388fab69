"""A browser without a screen: it asks the application, without a network."""

import asyncio
from typing import Any

import httpx

from kythera.web.app import make_app


class Client:
    """Keeps its cookies from request to request.

    Args:
        store: what the page shows.
        base: address as which the page is asked for.
        options: of `make_app`.
    """

    def __init__(self, store: Any, base: str = "http://localhost:8765", **options: Any):
        self.app, self.base = make_app(store, **options), base
        self.cookies = httpx.Cookies()
        self.caller = "127.0.0.1"

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask for something."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(
                self.app, raise_app_exceptions=False, client=(self.caller, 4711)
            )
            async with httpx.AsyncClient(
                transport=transport, base_url=self.base, cookies=self.cookies
            ) as client:
                found = await client.request(method, path, **options)
                self.cookies = client.cookies
                return found

        return asyncio.run(ask())

    def get(self, path: str, **options: Any) -> httpx.Response:
        """Read something."""
        return self.request("GET", path, **options)

    def json(self, path: str, status: int = 200, **query: Any) -> Any:
        """Read JSON, with that status."""
        answer = self.get(path, params=query)
        assert answer.status_code == status, answer.text
        return answer.json()
