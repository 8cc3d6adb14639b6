"""Files as streams that grow: found by pattern, opened plain or compressed, known by their content."""

from __future__ import annotations

import errno
import glob
import gzip
import hashlib
import os
import stat
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from enum import Enum, auto
from io import BufferedReader
from pathlib import Path
from typing import Any, TextIO

from anomaly_service.errors import SourceError

CHUNK = 1 << 23
"""Bytes read at a time, 8 MiB: large enough for a parser, small enough for a batch."""

LONGEST_LINE = 1 << 20
"""Bytes, 1 MiB: a longer line is no row."""

NO_TEXT = 1 << 30
"""Bytes, 1 GiB: more without a line break is no text file."""

MOST_LINES = 1 << 19
"""Lines of one block, half a million."""

SETTLED_SECONDS = 60.0
"""A last line without a line break is taken as whole once nobody wrote to the file for so long."""

RACY_SECONDS = 2.0
"""A file changed so shortly before it was read may change again within one tick of its clock."""

Stream = gzip.GzipFile | BufferedReader

BROKEN = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading gzip raises where the file breaks off or is damaged."""

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq", ".tsv", ".tsv.gz", ".xlsx", ".zip", ".jsonl", ".jsonl.gz",
            ".ndjson", ".ndjson.gz")  # fmt: skip
"""What is taken of a folder that is named without a pattern."""


@dataclass(frozen=True)
class State:
    """What the file system says of a file: while it stays the same, so does the content.

    The change time is part of it, which no program can set back; the inode tells a file that was
    moved into place.
    """

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> State:
        found = os.stat(path)
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)

    def to_json(self) -> list[int]:
        return [self.size, self.mtime_ns, self.ctime_ns, self.inode]

    def is_old(self, at: float, seconds: float) -> bool:
        """True where nothing changed for so long before ``at``, wall-clock epoch seconds.

        The wall clock and not the clock that is passed in: file systems know no other.
        """
        return at - max(self.mtime_ns, self.ctime_ns) / 1e9 >= seconds


@dataclass(frozen=True)
class Found:
    """What files, folders and patterns come to.

    Attributes:
        paths: of the files, those written first first, so that what was written last wins where two
            hold the same point.
        roots: by path, the folder that was named, as it really is; not of files that were named themselves.
        unmatched: patterns and folders without a file.
        irregular: what is named as a file of data and is a folder, a pipe, a device or a link to nothing.
        problems: what cannot be looked into.
    """

    paths: list[Path]
    roots: dict[Path, str]
    unmatched: list[str]
    irregular: list[str]
    problems: list[str]

    def leads_away(self, path: Path) -> bool:
        """True for a link out of the folder that was named: who put it there may not read what it names."""
        root = self.roots.get(path)
        return root is not None and os.path.commonpath([root, os.path.realpath(path)]) != root


def find(patterns: Iterable[str]) -> Found:
    """Return the files of files, folders and patterns."""
    times: dict[str, int] = {}
    found = Found([], {}, [], [], [])
    for pattern in patterns:
        try:
            matched = _matches(pattern)
        except (SourceError, OSError) as error:
            found.problems.append(_told(pattern, error))
            continue
        names = [name for name in matched if os.path.isfile(name)]
        found.irregular.extend(
            name
            for name in matched
            if name.endswith(SUFFIXES) and os.path.lexists(name) and not os.path.isfile(name)
        )
        if not names:
            found.unmatched.append(pattern)
        root = _root(pattern)
        for name in names:
            try:
                times[name] = os.stat(name).st_mtime_ns
            except FileNotFoundError:
                continue  # gone since it was listed
            except OSError as error:
                found.problems.append(_told(name, error))
                continue
            if root is not None:
                found.roots[Path(name)] = root
    found.paths.extend(Path(name) for name in sorted(times, key=lambda name: (times[name], name)))
    return found


def _told(name: str, error: Exception) -> str:
    return f"{name}: cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


def _root(pattern: str) -> str | None:
    """Return the folder that a pattern names, as it really is; None where it names a file."""
    if os.path.isfile(pattern):
        return None
    while glob.has_magic(pattern):
        pattern = os.path.dirname(pattern)
    return os.path.realpath(pattern)


def _matches(pattern: str) -> list[str]:
    if os.path.isdir(pattern):
        names = [os.path.join(pattern, name) for name in os.listdir(pattern)]
        return [n for n in names if n.endswith(SUFFIXES) and not os.path.basename(n).startswith(".")]
    if glob.has_magic(pattern):
        return glob.glob(pattern, recursive=True)
    if not os.path.exists(pattern):
        raise SourceError(f"{pattern}: no such file; correct `path`, or use a pattern such as drop/*.csv")
    if not os.path.isfile(pattern):
        # A pipe or a device would be waited for, for ever.
        raise SourceError(f"{pattern}: expected a regular file or a folder; correct `path`")
    return [pattern]


def is_gone(path: str) -> bool:
    """True where a file was taken away from a folder that is there and holds others."""
    if os.path.lexists(path):
        return False
    folder = Path(path).parent
    while not folder.is_dir():
        folder = folder.parent
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def stem(path: Path) -> str:
    """Return a file's name without the endings that say how it is written.

    >>> stem(Path("drop/ccu.kr-1.csv.gz"))
    'ccu.kr-1'
    """
    name = path.name
    for ending in (
        ".zip",
        ".gz",
        ".csv",
        ".tsv",
        ".txt",
        ".parquet",
        ".pq",
        ".xlsx",
        ".jsonl",
        ".ndjson",
        ".json",
    ):
        name = name.removesuffix(ending)
    return name or path.name


@contextmanager
def open_file(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file; whatever else stands there by now is never waited for.

    Raises:
        SourceError: it is none.
    """
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise SourceError(f"{path}: expected a regular file")
        yield file


@contextmanager
def open_to_append(path: Path) -> Iterator[TextIO]:
    """Open a regular file of our own to write at its end; no link leads elsewhere.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    with os.fdopen(descriptor, "a", encoding="utf-8", newline="") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        yield file


def is_parquet(path: Path) -> bool:
    with open_file(path) as file:
        return file.read(4) == b"PAR1"


@contextmanager
def open_bytes(path: Path) -> Iterator[Stream]:
    """Open a file's bytes as a stream, decompressed where it is gzip, whatever its name."""
    with open_file(path) as file:
        magic = file.read(2)
        file.seek(0)
        if magic != b"\x1f\x8b":
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield unpacked


def _key(seed: str) -> bytes:
    return hashlib.sha256(seed.encode()).digest()


def digest_of(seed: str, data: bytes = b"") -> Any:
    """Return the running digest of content; ``seed`` is what else decides what the content means."""
    return hashlib.blake2b(data, digest_size=16, key=_key(seed))


LINK = 1 << 20
"""Bytes of one link of a chain, 1 MiB."""


class Chain:
    """The running digest of content that grows: it can go on from its last whole link without what is before.

    A link is the digest of the one before it and of the bytes since; of less than one link the digest is
    that of the bytes alone.

    Args:
        seed: what else decides what the content means.
        link: the last whole link, as hexadecimal digits; empty where there is none.
    """

    def __init__(self, seed: str, link: str = "") -> None:
        self._key = _key(seed)
        self.link = link
        self._open(bytes.fromhex(link))

    def _open(self, link: bytes) -> None:
        self._part = hashlib.blake2b(link, digest_size=16, key=self._key)
        self._room = LINK

    def update(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view):
            piece, view = view[: self._room], view[self._room :]
            self._part.update(piece)
            self._room -= len(piece)
            if not self._room:
                self.link = self._part.hexdigest()
                self._open(bytes.fromhex(self.link))

    def hexdigest(self) -> str:
        return self._part.hexdigest()

    def copy(self) -> Chain:
        other = copy(self)
        other._part = self._part.copy()
        return other


HEAD = 4096
"""Bytes by which contents are told apart before anything longer is compared."""


@dataclass
class Known:
    """Beginnings of files that were read before, by digest."""

    digests: set[str] = field(default_factory=set)
    ends: dict[str, set[int]] = field(default_factory=dict)
    lengths: set[int] = field(default_factory=set)

    def add(self, consumed: int, digest: str, head: str) -> None:
        """Remember a beginning of so many bytes; ``head`` is the digest of its first HEAD bytes."""
        self.digests.add(digest)
        self.ends.setdefault(head, set()).add(consumed)
        self.lengths.add(min(consumed, HEAD))

    def longest(self, stream: Stream, seed: str) -> tuple[int, str, Chain]:
        """Return the length of the longest that a stream begins with, its digest and running digest."""
        head = stream.read(HEAD)
        stream.seek(0)
        ends: set[int] = set()
        for length in self.lengths:
            if length <= len(head):
                ends |= self.ends.get(digest_of(seed, head[:length]).hexdigest(), set())
        # Earlier releases remembered contents by a digest without links.
        running, unlinked, at = Chain(seed), digest_of(seed), 0
        best = (0, "", running.copy())
        for end in sorted(ends):
            while at < end and (chunk := stream.read(min(CHUNK, end - at))):
                running.update(chunk)
                unlinked.update(chunk)
                at += len(chunk)
            known = self.digests & {running.hexdigest(), unlinked.hexdigest()}
            if at == end and known:
                best = (end, known.pop(), running.copy())
        return best


class Kind(Enum):
    """What a block of a stream is."""

    LINES = auto()
    """Whole lines."""
    LONG = auto()
    """Part of a line that is too long to be read as one."""
    LONG_END = auto()
    """The last part of such a line, with its line break."""
    OPEN = auto()
    """The end of the stream, which has no line break yet."""


def blocks(stream: Stream, path: Path) -> Iterator[tuple[Kind, bytes]]:
    """Yield the rest of a stream in blocks; none holds more than CHUNK and a line, or very many lines.

    Raises:
        SourceError: no line break within 1 GiB; gzip that is damaged or breaks off, after what
            stands before the damage was yielded.
    """
    rest, problem, long = b"", "", 0
    while not problem:
        chunk, problem = _read(stream)
        if not chunk:
            break
        if long:
            end = chunk.find(b"\n") + 1
            part, chunk = (chunk[:end], chunk[end:]) if end else (chunk, b"")
            long += len(part)
            if long > NO_TEXT:
                raise SourceError(f"{path}: no line break within 1 GiB; expected CSV text")
            yield Kind.LONG_END if end else Kind.LONG, part
            long = 0 if end else long
        end = chunk.rfind(b"\n") + 1
        if end:
            yield from ((Kind.LINES, piece) for piece in _pieces(rest + chunk[:end]))
        rest = chunk[end:] if end else rest + chunk
        if len(rest) > LONGEST_LINE:
            yield Kind.LONG, rest
            rest, long = b"", len(rest)
    if problem:
        raise SourceError(f"{path}: {problem}; what stands before that is read")
    if rest:
        yield Kind.OPEN, rest


def _pieces(lines: bytes) -> Iterator[bytes]:
    """Yield whole lines in pieces of not too many: a row takes far more memory than the shortest line."""
    if lines.count(b"\n") <= MOST_LINES:
        yield lines
        return
    middle = lines.find(b"\n", len(lines) // 2 - 1) + 1
    for half in (lines[:middle], lines[middle:]):
        yield from _pieces(half) if len(half) < len(lines) else (half,)


def what_broke(error: Exception) -> str:
    """Return what is wrong with a gzip file; one that breaks off may still be on its way."""
    return (
        "the gzip file breaks off" if isinstance(error, EOFError) else f"the gzip file is damaged ({error})"
    )


def _read(stream: Stream) -> tuple[bytes, str]:
    """Return up to CHUNK bytes, and what ended them too early."""
    if not isinstance(stream, gzip.GzipFile):
        return stream.read(CHUNK), ""
    parts: list[bytes] = []
    size = 0
    try:
        while size < CHUNK and (part := stream.read1(CHUNK)):
            parts.append(part)
            size += len(part)
    except BROKEN as error:
        return b"".join(parts), what_broke(error)
    return b"".join(parts), ""


def wall_clock() -> float:
    """Return epoch seconds, to compare with times of files and nothing else."""
    return time.time()
