"""The code on the pages runs: what a reader copies works."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FENCE = re.compile(
    r"^(?P<indent>[ ]*)```python[ ]*(?P<flags>[^\n]*)\n(?P<code>.*?)^(?P=indent)```",
    re.DOTALL | re.MULTILINE,
)


@dataclass
class Block:
    """One piece of Python on a page, and where it stands."""

    line: int
    runs: bool
    code: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        indent = len(match["indent"])
        code = "\n".join(line[indent:] for line in match["code"].splitlines())
        line = text.count("\n", 0, match.start("code"))
        found.append(Block(line, "no-run" not in match["flags"], code))
    return found


PAGES = {
    str(page.relative_to(ROOT)): found
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if (found := blocks(page))
}


@pytest.mark.parametrize("page", PAGES)
def test_code_on_the_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "page"}
    for block in PAGES[page]:
        # Blank lines in front make a traceback name the page's own line.
        code = compile("\n" * block.line + block.code, str(ROOT / page), "exec")
        if block.runs:
            exec(code, namespace)


def test_blocks_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "A\n```python\nx = 1\n```\n1. B\n    ```python no-run\n    y = x\n    ```\n"
        "```sh\nls\n```\n"
    )
    assert blocks(page) == [Block(2, True, "x = 1"), Block(6, False, "y = x")]
