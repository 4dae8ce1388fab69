"""The HTML that the server sends: one shell that scripts fill, and pages of one message."""

import html
import importlib.resources
import re

from starlette.requests import Request

from kythera import __version__


def route(request: Request) -> str:
    """The path below the server's root, whether or not a proxy left its prefix there."""
    path, root = request.scope["path"], request.scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def root(request: Request) -> str:
    """The relative address of the front page: "./" or "../" as often as needed."""
    return "../" * (route(request).count("/") - 1) or "./"


def shell(request: Request, view: str, title: str) -> str:
    """An empty page that a script fills.

    Args:
        request: what was asked for.
        view: the script's function: "studies", "study" or "compare".
        title: of the page; it is escaped.
    """
    content = (
        '<noscript><p class="banner">The page needs JavaScript. Without it, use '
        "<code>kythera studies</code> and <code>kythera show</code>.</p></noscript>"
        '<p class="quiet waiting">Reading the store …</p>'
    )
    return _fill(request, title, content, view)


def message(
    request: Request,
    title: str,
    what: str,
    *,
    is_token_asked: bool = False,
    go_on: str = "",
) -> str:
    """A page that says one thing.

    Args:
        request: what was asked for.
        title: its heading; it is escaped.
        what: law, values, remedy; it is escaped.
        is_token_asked: whether there is a field for the token.
        go_on: address of a link; by default the list of studies.
    """
    home = root(request)
    content = f"<h1>{html.escape(title)}</h1><p>{html.escape(what)}</p>"
    if is_token_asked:
        content += (
            f'<form class="sign-in" method="post" action="{home}login">'
            '<label for="token">Token</label>'
            '<input id="token" name="token" type="password" required maxlength="200" '
            'autocomplete="current-password" autofocus><button>Sign in</button></form>'
            '<p class="quiet">It is what <code>kythera serve --token</code> was given; '
            "ask whoever runs it.</p>"
        )
    else:
        words = "Go on" if go_on else "All studies"
        content += f'<p><a href="{html.escape(go_on or home)}">{words}</a></p>'
    return _fill(request, title, content, "")


def _fill(request: Request, title: str, content: str, view: str) -> str:
    template = importlib.resources.files("kythera.web") / "static" / "page.html"
    page = template.read_text("utf-8")
    script = f'<script type="module" src="{root(request)}static/main.js"></script>'
    values = {
        "title": html.escape(f"{title} · kythera"),
        "script": script if view else "",
        "view": view,
        "content": content,
        "version": html.escape(__version__),
        "root": root(request),
    }
    # In one pass, so that a study named "{{content}}" is only a name.
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], page)
