"""The SHA-256 of a file."""

import hashlib
from pathlib import Path


def hash_file(path: Path) -> str:
    """In hexadecimal digits, read in pieces. Errors: `OSError` as the disk gives it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
