"""The files of the page that are the same for everybody."""

import importlib.resources
from pathlib import Path

PLOTLY, LOOK = "plotly.min.js", "template.json"
# What the system calls them may be wrong, and browsers are told not to guess.
KINDS = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}


def find(name: str) -> Path | None:
    """A file by its name; None where there is none.

    plotly.js is that of the installed package, and the look of figures the report's.
    """
    if name == PLOTLY:
        return Path(str(importlib.resources.files("plotly") / "package_data" / PLOTLY))
    if name == LOOK:
        return Path(str(importlib.resources.files("kythera.report") / LOOK))
    own = Path(str(importlib.resources.files("kythera.web") / "static"))
    known = {file.name: file for file in own.iterdir() if file.suffix in KINDS}
    return known.get(name)
