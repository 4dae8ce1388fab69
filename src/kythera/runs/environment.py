"""Where a run happens: versions of code and libraries, the machine, the device."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
from pathlib import Path
from typing import Any

from kythera import __version__

LIBRARIES = (
    "jax",
    "jaxlib",
    "numpy",
    "scipy",
    "equinox",
    "optax",
    "optimistix",
    "cmaes",
)
# What decides over bits: the same in all of these, the same numbers.
DECIDES = (
    *("kythera", "code", "instrument", "python", "libraries", "processor", "device"),
    *("x64", "xla_flags"),
)


def environment(reference: str = "") -> dict[str, Any]:
    """What a replay needs to know of this place.

    Args:
        reference: of the instrument, "package.module:attribute".
    """
    import jax

    return {
        "reference": reference,
        "kythera": __version__,
        "code": digest("kythera"),
        "instrument": digest(reference.partition(":")[0].partition(".")[0]),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "system": platform.platform(),
        "processor": processor(),
        "device": jax.devices()[0].device_kind,
        "x64": bool(jax.config.read("jax_enable_x64")),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


@functools.cache
def digest(module: str) -> str:
    """Of the sources of a package or a module: it changes where any of them does."""
    try:
        spec = importlib.util.find_spec(module) if module else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        return ""
    if spec.submodule_search_locations:
        root = Path(next(iter(spec.submodule_search_locations)))
        files = sorted(root.rglob("*.py"))
    else:
        root, files = Path(spec.origin).parent, [Path(spec.origin)]
    found = hashlib.sha256()
    for file in files:
        found.update(f"{file.relative_to(root).as_posix()}\n".encode())
        found.update(file.read_bytes())
    return found.hexdigest()[:16]


def processor() -> str:
    """The kind of the processor, whose instructions decide over rounding."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.processor() or platform.machine()


def differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What is different and may change bits, in words."""
    found = []
    for name in DECIDES:
        a, b = then.get(name), now.get(name)
        if a == b:
            continue
        if isinstance(a, dict) and isinstance(b, dict):
            found += [
                f"{key} {a.get(key)} -> {b.get(key)}"
                for key in sorted({*a, *b})
                if a.get(key) != b.get(key)
            ]
        else:
            found.append(f"{name} {a or 'unknown'} -> {b or 'unknown'}")
    return found
