"""The files of the page that are the same for everybody."""

import importlib.resources
from pathlib import Path

PLOTLY = "plotly.min.js"


def find(name: str) -> Path | None:
    """A file by its name, plotly.js being that of the installed package; None: unknown."""
    if name == PLOTLY:
        return Path(str(importlib.resources.files("plotly") / "package_data" / PLOTLY))
    own = Path(str(importlib.resources.files("kythera.web") / "static"))
    known = {file.name: file for file in own.iterdir() if file.suffix != ".html"}
    return known.get(name)
