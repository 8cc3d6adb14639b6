"""Files as streams that grow: found by pattern, opened plain or compressed, known by their content."""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Any

from anomaly_service.errors import SourceError
from pipelines.records import Json

CHUNK = 1 << 23
"""Bytes read at a time, 8 MiB: large enough for a parser, small enough for a batch."""

LONGEST_LINE = 1 << 26
"""Bytes, 64 MiB: more without a line break is no text file."""

SETTLED_SECONDS = 60.0
"""A last line without a line break is taken as whole once nobody wrote to the file for so long."""

RACY_SECONDS = 2.0
"""A file changed so shortly before it was read may change again within one tick of its clock."""

Stream = gzip.GzipFile | BufferedReader

BROKEN = (EOFError, gzip.BadGzipFile, zlib.error)
"""What reading gzip raises where the file breaks off or is damaged."""

SUFFIXES = (".csv", ".csv.gz", ".parquet", ".pq", ".tsv", ".tsv.gz")
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
        stat = os.stat(path)
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)

    def to_json(self) -> list[int]:
        return [self.size, self.mtime_ns, self.ctime_ns, self.inode]

    def is_old(self, at: float, seconds: float) -> bool:
        """True where nothing changed for so long before ``at``, wall-clock epoch seconds.

        The wall clock and not the clock that is passed in: file systems know no other.
        """
        return at - max(self.mtime_ns, self.ctime_ns) / 1e9 >= seconds


def find(patterns: Iterable[str]) -> list[Path]:
    """Return the files of files, folders and patterns, those written first first.

    So what was written last wins where two files hold the same point.

    Raises:
        SourceError: a file named without a pattern does not exist.
    """
    found: dict[str, int] = {}
    for pattern in patterns:
        for name in _matches(pattern):
            try:
                found[name] = os.stat(name).st_mtime_ns
            except FileNotFoundError:
                continue  # gone since it was listed
    return [Path(name) for name in sorted(found, key=lambda name: (found[name], name))]


def _matches(pattern: str) -> list[str]:
    if os.path.isdir(pattern):
        names = [os.path.join(pattern, name) for name in os.listdir(pattern)]
        wanted = [n for n in names if n.endswith(SUFFIXES) and not os.path.basename(n).startswith(".")]
        return [name for name in wanted if os.path.isfile(name)]
    if glob.has_magic(pattern):
        return [name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name)]
    if not os.path.exists(pattern):
        raise SourceError(f"{pattern}: no such file; correct `path`, or use a pattern such as drop/*.csv")
    if not os.path.isfile(pattern):
        # A pipe or a device would be waited for, for ever.
        raise SourceError(f"{pattern}: expected a regular file or a folder; correct `path`")
    return [pattern]


def stem(path: Path) -> str:
    """Return a file's name without the endings that say how it is written.

    >>> stem(Path("drop/ccu.kr-1.csv.gz"))
    'ccu.kr-1'
    """
    name = path.name
    for ending in (".gz", ".csv", ".tsv", ".txt", ".parquet", ".pq"):
        name = name.removesuffix(ending)
    return name or path.name


def is_parquet(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PAR1"


@contextmanager
def open_bytes(path: Path) -> Iterator[Stream]:
    """Open a file's bytes as a stream, decompressed where it is gzip, whatever its name."""
    with open(path, "rb") as file:
        magic = file.read(2)
        file.seek(0)
        if magic != b"\x1f\x8b":
            yield file
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield unpacked


def digest_of(seed: str, data: bytes = b"") -> Any:
    """Return the running digest of content; ``seed`` is what else decides what the content means."""
    return hashlib.blake2b(data, digest_size=16, key=hashlib.sha256(seed.encode()).digest())


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

    def longest(self, stream: Stream, seed: str) -> tuple[int, Any]:
        """Return the length and running digest of the longest of them that a stream begins with."""
        head = stream.read(HEAD)
        stream.seek(0)
        ends: set[int] = set()
        for length in self.lengths:
            if length <= len(head):
                ends |= self.ends.get(digest_of(seed, head[:length]).hexdigest(), set())
        digest, at = digest_of(seed), 0
        best: tuple[int, Any] = (0, digest.copy())
        for end in sorted(ends):
            while at < end and (chunk := stream.read(min(CHUNK, end - at))):
                digest.update(chunk)
                at += len(chunk)
            if at == end and digest.hexdigest() in self.digests:
                best = (end, digest.copy())
        return best


def blocks(stream: Stream, path: Path) -> Iterator[bytes]:
    """Yield the rest of a stream in blocks of whole lines, and last what has no line break yet.

    Raises:
        SourceError: a line longer than 64 MiB; gzip that is damaged or breaks off, after what
            stands before the damage was yielded.
    """
    rest, problem = b"", ""
    while not problem:
        chunk, problem = _read(stream)
        if not chunk:
            break
        end = chunk.rfind(b"\n") + 1
        if end:
            yield rest + chunk[:end]
        rest = chunk[end:] if end else rest + chunk
        if len(rest) > LONGEST_LINE:
            raise SourceError(f"{path}: no line break within 64 MiB; expected CSV text")
    if problem:
        raise SourceError(f"{path}: {problem}; what stands before that is read")
    if rest:
        yield rest


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


def unchanged(record: Json | None, state: State) -> bool:
    """True where a file is as it was when all there was of it was read."""
    return record is not None and record.get("state") == state.to_json()
