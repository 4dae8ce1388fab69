"""A new instrument as a small package that runs as it is."""

import importlib.resources
import keyword
import os
import re
import sys
from pathlib import Path

from kythera import errors

# File of the package, with {name} for its name -> template beside this module.
FILES = {
    "pyproject.toml": "pyproject.toml.txt",
    "README.md": "README.md.txt",
    "reference.md": "reference.md.txt",
    "src/{name}/__init__.py": "__init__.py.txt",
    "src/{name}/design.py": "design.py.txt",
    "src/{name}/simulator.py": "simulator.py.txt",
    "src/{name}/reconstruction.py": "reconstruction.py.txt",
    "src/{name}/problem.py": "problem.py.txt",
    "tests/test_laws.py": "test_laws.py.txt",
}


def write(name: str, parent: Path) -> Path:
    """Write the skeleton of an instrument.

    Args:
        name: a Python name, lower case: "my_counter".
        parent: where the folder of that name is made.

    Returns:
        the new folder.

    Raises:
        InputError: no usable name.
        StoreError: something of that name exists, or the folder cannot be written.
    """
    usable = re.fullmatch(r"[a-z][a-z0-9_]*", name) and not keyword.iskeyword(name)
    if not usable or name in sys.stdlib_module_names or name in ("kythera", "tests"):
        raise errors.InputError(
            "The name of an instrument must be a Python name in lower case that no "
            f"other module has, but is {name!r}. Try my_counter."
        )
    folder = parent / name
    if os.path.lexists(folder):
        raise errors.StoreError(
            f"Nothing is overwritten, but '{folder}' exists. Give another name, or move "
            "that one away."
        )
    words = name.strip("_").split("_")
    parts = {
        "name": name,
        "project": name.strip("_").replace("_", "-"),
        "class": "".join(word.capitalize() for word in words),
        "title": " ".join(words).capitalize(),
    }
    root = importlib.resources.files("kythera.runs") / "skeleton_files"
    try:
        for path, template in FILES.items():
            text = (root / template).read_text("utf-8")
            for key, value in parts.items():
                text = text.replace("{{%s}}" % key, value)  # noqa: UP031 (braces)
            file = folder / path.format(name=name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise errors.StoreError(
            f"The skeleton must be writable, but '{folder}' is not: {error.strerror}. "
            "Change to another folder."
        ) from error
    return folder
