"""A folder for what is too large for a database: files by the hash of what they hold."""

import hashlib
import re
from pathlib import Path
from typing import Any

from kythera import errors
from kythera.runs import folder as folders


class Volume:
    """Contents by their SHA-256, on a disk or wherever fsspec reaches.

    Args:
        url: a folder, or an fsspec URL such as "s3://bucket/kythera".
    """

    def __init__(self, url: str | Path):
        self.url = str(url).removeprefix("file://")

    @property
    def name(self) -> str:
        """Its address, without a password."""
        return re.sub(r"(?<=://)[^/@]*@", "", self.url)

    def put(self, data: bytes) -> str:
        """Keep contents; what is there already, whole, is not written again.

        Returns:
            their SHA-256.

        Raises:
            StoreError: the volume cannot be written.
        """
        digest = hashlib.sha256(data).hexdigest()
        if "://" not in self.url:
            path = Path(self._place(digest))
            if not path.exists() or path.stat().st_size != len(data):
                folders.make(path.parent)
                folders.write_atomically(path, data)
            return digest
        system, place = self._remote(digest)
        try:
            # objects appear whole or not at all, but files of some protocols grow
            if not system.exists(place) or system.size(place) != len(data):
                system.makedirs(place.rpartition("/")[0], exist_ok=True)
                system.pipe_file(place, data)
        except OSError as error:
            raise errors.StoreError(
                f"The volume '{self.name}' cannot be written: {error}. Check that it is "
                "there and has room."
            ) from error
        return digest

    def get(self, digest: str, name: str) -> bytes:
        """Contents by their hash.

        Args:
            digest: their SHA-256.
            name: what to call them in messages.

        Raises:
            StoreError: they are missing, cannot be read, or were altered.
        """
        try:
            if "://" not in self.url:
                data = Path(self._place(digest)).read_bytes()
            else:
                system, place = self._remote(digest)
                data = system.cat_file(place)
        except OSError as error:
            raise errors.StoreError(
                f"'{name}' must be in the volume '{self.name}' as {digest[:12]}..., but "
                f"cannot be read: {error.strerror or error}. Bring the volume back; "
                "the trials do not need it."
            ) from error
        found = hashlib.sha256(data).hexdigest()
        if found != digest:
            raise errors.StoreError(
                f"'{name}' in the volume '{self.name}' must have the hash {digest[:12]}..., "
                f"but has {found[:12]}...: it was cut short or altered. Bring back its "
                "copy; the trials do not need it."
            )
        return data

    def drop(self, digest: str) -> None:
        """Remove contents that nothing refers to any more."""
        if "://" not in self.url:
            Path(self._place(digest)).unlink(missing_ok=True)
            return
        system, place = self._remote(digest)
        if system.exists(place):
            system.rm_file(place)

    def _place(self, digest: str) -> str:
        return f"{self.url}/{digest[:2]}/{digest}"

    def _remote(self, digest: str) -> tuple[Any, str]:
        import fsspec

        try:
            return fsspec.core.url_to_fs(self._place(digest))
        except (ImportError, ValueError) as error:
            raise errors.StoreError(
                f"The volume '{self.name}' cannot be reached: {error}. Install what its "
                "protocol needs, or give a folder."
            ) from error
