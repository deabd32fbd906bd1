"""The content-addressed file store: immutable bytes under their SHA-256, in a folder or any fsspec URL.

Bytes are written to a temporary name and renamed, so that an object is whole or not there. Whatever fails on
the way (a full disk, a broken-off upload, a limit) leaves nothing behind; what a killed process leaves is swept.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast
from uuid import uuid4

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from .clock import now
from .errors import FileMissing, StoreUnreachable, UploadBroken, UploadTooLarge
from .space import as_store_full, require_free

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "az", "oss"}  # which have no folders, and would make a bucket
LONGEST_PAUSE_SECONDS = 15.0
AWAY = (errno.EIO, errno.EBUSY, errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)  # EIO: "internal error" of S3
AWAY_KINDS = (  # what the stores' libraries raise that are not the system's own errors
    "botocore.exceptions.ConnectionError",
    "botocore.exceptions.HTTPClientError",
    "aiohttp.client_exceptions.ClientConnectionError",
    "requests.exceptions.ConnectionError",
    "requests.exceptions.Timeout",
    "azure.core.exceptions.ServiceRequestError",
)
CHUNK_BYTES = 1 << 17  # which stay in a core's cache while they are hashed and written
LOOK_EVERY_BYTES = 64 << 20  # while bytes of unknown number stream in, the free space is looked at this often


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _WatchedStream:
    """A stream that remembers whether it was the one that failed."""

    def __init__(self, stream: Readable) -> None:
        self._stream, self.failed = stream, False

    def read(self, size: int, /) -> bytes:
        try:
            return self._stream.read(size)
        except BaseException:
            self.failed = True
            raise


class FileStore:
    """`cache` is where objects of a remote store are kept once they were needed as a local path.

    A remote store that does not answer is waited for, `patience_seconds` at most. Raises StoreUnreachable then, and for
    a URL of which nothing can be made.
    """

    def __init__(
        self, url: str, cache: Path | None = None, min_free_bytes: int = 0, patience_seconds: float = 0.0
    ) -> None:
        self._url, self._cache, self._min_free_bytes = url, cache, min_free_bytes
        self._patience_seconds = patience_seconds
        try:
            # a listing that is kept would hide what other processes have stored since
            self._fs, root = url_to_fs(url, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise StoreUnreachable(f"The store {url} cannot be used: {error}. Check files_url.") from error
        self._root = str(root).rstrip("/")
        self._folder = Path(self._root) if isinstance(self._fs, LocalFileSystem) else None
        self._has_folders = not OBJECT_STORES & set(_protocols(self._fs.protocol))
        if self._folder:
            self._make_folder("drafts")

    def check(self) -> None:
        """Raises StoreUnreachable, with what is wrong, unless a file can be written, read and removed."""
        draft = f"{self._root}/drafts/{uuid4().hex}"
        try:
            self._make_folder("drafts")
            self._fs.pipe_file(draft, b"pare")
            if self._fs.cat_file(draft) != b"pare":
                raise OSError("it gives other bytes back than were written")
            self._fs.rm_file(draft)
        except Exception as error:  # each store's library raises its own
            raise StoreUnreachable(self._unusable(error)) from error

    def put(self, path: Path, move: bool = False) -> str:
        """Keeps a copy of the file and returns its digest. With `move` the file itself goes into the store.

        Raises StoreFull.
        """
        with as_store_full(self._root):
            return self._put(path, move)

    def _put(self, path: Path, move: bool) -> str:
        digest = digest_of(path)
        target = self._at(digest)
        if self._folder and Path(target).exists():
            os.utime(target)  # young again: a sweep that runs meanwhile must not take it
            if move:
                path.unlink()
        elif self._folder and move and path.stat().st_dev == self._folder.stat().st_dev:
            _flush(path)
            self._keep(str(path), digest)
        else:
            self.require_free(path.stat().st_size)
            self._ask(lambda: self._write_file(path))
            if move:
                path.unlink()
        return digest

    def put_folder(self, folder: Path) -> dict[str, Any]:
        """Moves all files of the folder into the store: {path: {"digest", "size_bytes"}}."""
        kept = {}
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            size_bytes = path.stat().st_size
            kept[path.relative_to(folder).as_posix()] = {"digest": self.put(path, move=True), "size_bytes": size_bytes}
        return kept

    def receive(self, stream: Readable, limit_bytes: int, expected_bytes: int | None = None) -> tuple[str, int]:
        """Streams an upload in, hashed on the way: its digest and size in bytes.

        Raises UploadTooLarge, UploadBroken when fewer than `expected_bytes` came, StoreFull, or what `stream` raises.
        """
        if expected_bytes is not None and expected_bytes > limit_bytes:
            raise UploadTooLarge(_too_large(limit_bytes))
        self.require_free(expected_bytes or 0)
        watched = _WatchedStream(stream)
        try:
            return self._write(self._checked(watched, limit_bytes, expected_bytes))
        except Exception as error:
            if watched.failed or not self._away(error):
                raise
            raise StoreUnreachable(self._unusable(error)) from error

    def open(self, digest: str) -> BinaryIO:
        """Raises FileMissing."""
        try:
            return cast(BinaryIO, self._ask(lambda: self._fs.open(self._at(digest), "rb")))
        except FileNotFoundError as error:
            raise FileMissing(f"The file {digest[:12]}… is not in the store.") from error

    def path(self, digest: str) -> Path:
        """A local path of the object, to be read only. Remote stores: downloaded into `cache`, and checked.

        Raises FileMissing.
        """
        if self._folder:
            if not (path := Path(self._at(digest))).exists():
                raise FileMissing(f"The file {digest[:12]}… is not in the store.")
            return path
        if self._cache is None:
            raise FileMissing(
                f"The file {digest[:12]}… is not on this machine, and the store was given no cache folder."
            )
        cached = self._cache / digest
        if not cached.exists():
            self._ask(lambda: self._download(digest, cached))
        os.utime(cached)
        return cached

    def materialise(self, files: Mapping[str, Any], folder: Path) -> Path:
        """Lays {path: {"digest"}} out below the folder, as hard links where that is possible. Returns the folder.

        Raises ValueError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name, entry in files.items():
            target = folder / name
            if not target.resolve().is_relative_to(folder.resolve()):
                raise ValueError(f"{name} lies outside the folder {folder}")
            target.parent.mkdir(parents=True, exist_ok=True)
            source = self.path(entry["digest"])
            try:
                os.link(source, target)
            except OSError:  # another disk, or one without hard links
                with as_store_full(folder):
                    shutil.copyfile(source, target)
        return folder

    def size(self, digest: str) -> int:
        """In bytes. Raises FileMissing."""
        try:
            return int(self._ask(lambda: self._fs.size(self._at(digest))))
        except FileNotFoundError as error:
            raise FileMissing(f"The file {digest[:12]}… is not in the store.") from error

    def exists(self, digest: str) -> bool:
        return bool(self._ask(lambda: self._fs.exists(self._at(digest))))

    def modified(self, digest: str) -> datetime:
        """When the object was last put, in UTC. Raises FileMissing."""
        try:
            return _aware(self._ask(lambda: self._fs.modified(self._at(digest))))
        except FileNotFoundError as error:
            raise FileMissing(f"The file {digest[:12]}… is not in the store.") from error

    def delete(self, digest: str) -> None:
        """Removes the object; none is needed to be there."""
        self._ask(lambda: self._remove(self._at(digest)))

    def sweep(self, named: Collection[str], older_than_seconds: float = 86400.0) -> int:
        """Deletes drafts and objects that are not `named` and older than that, and cached copies. Returns how many."""
        age = timedelta(seconds=older_than_seconds)
        until = (datetime.now(UTC) if self._folder else now()) - age  # a remote store's clock is not this machine's
        swept = 0
        for path in self._fs.find(self._root):
            name = str(path).rsplit("/", 1)[-1]
            with suppress(FileNotFoundError):  # another process was faster
                if name not in named and _aware(self._fs.modified(path)) <= until:
                    self._fs.rm_file(path)
                    swept += 1
        for cached in self._cache.iterdir() if self._cache and self._cache.exists() else ():
            with suppress(FileNotFoundError):  # another process was faster
                if datetime.fromtimestamp(cached.stat().st_mtime, UTC) <= datetime.now(UTC) - age:
                    cached.unlink()
        return swept

    def free_bytes(self) -> int | None:
        """What is free where the files are kept; None for a remote store."""
        return shutil.disk_usage(self._folder).free if self._folder else None

    def _at(self, digest: str) -> str:
        return f"{self._root}/objects/{digest[:2]}/{digest}"

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        """What the store answers, asked again while it is away."""
        until, pause = time.monotonic() + self._patience_seconds, 0.5
        while True:
            try:
                return question()
            except Exception as error:
                if not self._away(error):
                    raise
                if (left := until - time.monotonic()) <= 0:
                    raise StoreUnreachable(self._unusable(error)) from error
                log.warning("%s Asked again in %.1f s.", self._unusable(error), pause)
            time.sleep(min(pause, left))
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _away(self, error: Exception) -> bool:
        """Whether a remote store does not answer now, and may later."""
        if self._folder is not None:
            return False
        passing = isinstance(error, ConnectionError | TimeoutError) or getattr(error, "errno", None) in AWAY
        return passing or any(f"{kind.__module__}.{kind.__name__}" in AWAY_KINDS for kind in type(error).__mro__)

    def _unusable(self, error: Exception) -> str:
        first = (str(error).splitlines() or [""])[0] or type(error).__name__
        return f"The store {self._url} cannot be used: {first}. Check files_url, its endpoint and its credentials."

    def _make_folder(self, name: str) -> None:
        if self._has_folders:
            self._fs.makedirs(f"{self._root}/{name}", exist_ok=True)

    def _write_file(self, path: Path) -> None:
        with path.open("rb") as file:
            self._write(_chunks(file))

    def require_free(self, size_bytes: int) -> None:
        """Raises StoreFull where so many bytes more would leave too little free; of a remote store nothing is known."""
        if self._folder:
            require_free(self._folder, size_bytes, self._min_free_bytes)

    def _write(self, chunks: Iterable[bytes]) -> tuple[str, int]:
        draft = f"{self._root}/drafts/{uuid4().hex}"
        hashed, size_bytes = hashlib.sha256(), 0
        try:
            self._make_folder("drafts")
            with as_store_full(self._root):
                with self._fs.open(draft, "wb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                        hashed.update(chunk)
                        size_bytes += len(chunk)
                if self._folder:
                    _flush(Path(draft))
                self._keep(draft, hashed.hexdigest())
        except BaseException:
            with suppress(Exception):  # a store that is away: the draft is swept later
                self._remove(draft)
            raise
        return hashed.hexdigest(), size_bytes

    def _keep(self, draft: str, digest: str) -> None:
        target = self._at(digest)
        self._make_folder(f"objects/{digest[:2]}")
        if self._folder:
            os.chmod(draft, 0o444)
            os.utime(draft)
            os.replace(draft, target)
        else:
            self._fs.mv(draft, target)

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError):  # another process was faster
            self._fs.rm_file(path)

    def _checked(self, stream: Readable, limit_bytes: int, expected_bytes: int | None) -> Iterator[bytes]:
        came, looked_at = 0, 0
        for chunk in _chunks(stream):
            came += len(chunk)
            if came > limit_bytes:
                raise UploadTooLarge(_too_large(limit_bytes))
            if came - looked_at > LOOK_EVERY_BYTES:
                looked_at = came
                self.require_free(0)
            yield chunk
        if expected_bytes is not None and came < expected_bytes:
            raise UploadBroken(f"The upload broke off after {came} of {expected_bytes} bytes; send it again.")

    def _download(self, digest: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{uuid4().hex}.draft")
        try:
            with as_store_full(target.parent), self.open(digest) as remote, draft.open("wb") as file:
                shutil.copyfileobj(remote, file, CHUNK_BYTES)
            if digest_of(draft) != digest:
                raise FileMissing(
                    f"The file {digest[:12]}… in the store is damaged: its content does not match its name."
                )
            draft.chmod(0o444)
            draft.replace(target)
        finally:
            draft.unlink(missing_ok=True)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chunks(stream: Readable) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _protocols(named: str | tuple[str, ...]) -> tuple[str, ...]:
    return (named,) if isinstance(named, str) else named


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _too_large(limit_bytes: int) -> str:
    return f"The upload is larger than {limit_bytes} bytes, the most that is allowed (max_upload_bytes)."
