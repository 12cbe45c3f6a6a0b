"""Between the HDF5 library and the disk.

No file that is read makes the library crash, hang or fill the memory, and no full disk makes it crash.

`open_file`, `member`, `dataset` and `Source.value` check what the library would believe, `Sink` holds back errors that
it cannot take.
"""

from __future__ import annotations

import io
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nsllm_nir.errors import GraphError

DEFLATE_LIMIT = 1032  # HDF5's compression never packs tighter than 1032:1
TEXT = np.dtype(
    [("bytes", "<u4"), ("heap", "<u8"), ("object", "<u4")]
)  # how an element of a data set of texts is stored
HEADER = 16  # bytes in front of a collection of texts, and of each object in it
SMALLEST_COLLECTION = 4096  # bytes
MOST_CHILDREN = 32  # of a B-tree node, the default of HDF5, which NIR files never change
NO_BLOCK = 1  # the end of a list of free blocks
# What the library and its users raise on a damaged file; this project's own errors are among them.
FAILURES = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError)


class Source(io.FileIO):
    """A file for the HDF5 library, which trusts three of its structures so far that a corrupt one hangs or crashes it.

    The library reads each structure from its first byte on (it collects no metadata reads for a file object), so its
    signature comes first. An unsound one ends the reading with an OSError: a collection of texts ("global heap") in
    which an object has no size, a loop of free blocks in a "local heap", a B-tree of a group with a loop. Layouts: HDF5
    File Format Specification 3.0, sections III.A, III.D and III.E. What the newest layout has instead carries
    checksums, which tell corruption but no malice.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self.size = os.fstat(self.fileno()).st_size
        self.sound: set[int] = set()  # addresses of what was walked
        self.heaps = 0  # bytes of all heaps, which do not overlap
        self.children: set[int] = set()  # addresses that the nodes of B-trees hold
        self.file: h5py.File  # set by `open_file`

    def value(self, group: h5py.Group, name: str) -> Any:
        """The content of a data set: a number, str or array; raises GraphError as `dataset`."""
        data = dataset(group, name)
        if data.dtype.kind == "O" and data.size:
            # The library allocates what an element claims; and all elements of a hostile file may be the same long
            # text.
            at = data.id.get_offset()
            stored = b"" if at is None or data.chunks else self._bytes(at, TEXT.itemsize * data.size)
            if (
                len(stored) < TEXT.itemsize * data.size
                or np.frombuffer(stored, TEXT)["bytes"].sum(dtype=np.uint64) > self.size
            ):
                raise GraphError(f"{data.name} claims more text than this file can hold; it is corrupt")
        found = data[()]
        return found.decode("utf8") if isinstance(found, bytes) else found

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase.readinto`."""
        view, start = memoryview(buffer).cast("B"), self.tell()
        done = 0
        while done < len(view) and (count := super().readinto(view[done:])):
            done += count
        view[done:] = bytes(len(view) - done)  # what lies behind the end reads as zeros
        self._check(bytes(view[:5]), start)
        return len(view)

    def _bytes(self, at: int, size: int) -> bytes:
        return os.pread(self.fileno(), size, at)

    def _check(self, signature: bytes, at: int) -> None:
        """``signature``: with the version, or for a B-tree the type."""
        walk = {b"GCOL\x01": self._texts, b"HEAP\x00": self._names, b"TREE\x00": self._tree}.get(signature)
        if walk is None or at in self.sound:
            return
        if not walk(at) or self.heaps > self.size:
            raise OSError(f"the structure {signature[:4].decode()} at byte {at} is corrupt")
        self.sound.add(at)

    def is_usual(self) -> bool:
        """Whether the superblock (section II) has what the walks rely on.

        Addresses of 8 bytes that count from 0, B-trees of the default size.
        """
        head = self._bytes(0, 36)
        if not head.startswith(b"\x89HDF"):
            return False
        if head[8] < 2:
            base = 24 + 4 * head[8]
            return head[13:15] + head[16:20] + head[base : base + 8] == b"\x08\x08\x04\x00" + bytes(
                [MOST_CHILDREN // 2]
            ) + bytes(9)
        return (
            head[9:11] + head[12:28] == b"\x08\x08" + bytes(8) + b"\xff" * 8
        )  # without an extension, which could change the size of B-trees

    def _texts(self, at: int) -> bool:
        """Whether the objects of a collection of texts fill it, one behind the other."""
        size = int.from_bytes(self._bytes(at, HEADER)[8:], "little")
        if not SMALLEST_COLLECTION <= size <= self.size - at:
            return True  # the library refuses it itself, if it is one at all
        self.heaps += size
        data, position = self._bytes(at, size), HEADER
        while position + HEADER <= size:
            index, length = struct.unpack_from("<H6xQ", data, position)
            step = HEADER + (length + 7) // 8 * 8 if index else length  # object 0 is the free space, with its header
            if not HEADER <= step <= size - position:
                return False
            position += step
        return True

    def _names(self, at: int) -> bool:
        """Whether the list of free blocks of a local heap, which holds names, ends."""
        header = self._bytes(at + 8, 24)
        if len(header) < 24:
            return True
        size, block, address = struct.unpack("<QQQ", header)
        if address > self.size or size > self.size - address:
            return True  # refused by the library
        self.heaps += size
        data, met = self._bytes(address, size), set()
        while block != NO_BLOCK:
            if block in met or block + 16 > size:
                return False
            met.add(block)
            block = int.from_bytes(data[block : block + 8], "little")
        return True

    def _tree(self, at: int) -> bool:
        """Whether the children of a node lie one level below it and belong to no other node."""
        level, entries = struct.unpack("<BH", self._bytes(at + 5, 3).ljust(3, b"\0"))
        if entries > MOST_CHILDREN:
            return True  # refused by the library
        keys = self._bytes(at + 24, 8 + 16 * entries)
        for (child,) in struct.iter_unpack("<8xQ", keys[: len(keys) // 16 * 16]):
            below = b"TREE\x00" + bytes([level - 1]) if level else b"SNOD\x01"
            if child in self.children or child >= self.size or self._bytes(child, len(below)) != below:
                return False
            self.children.add(child)
        return True


class Sink(io.FileIO):
    """A file for the HDF5 library, which crashes when a write fails.

    What the disk refuses stays in memory until `close`.
    """

    def __init__(self, handle: int) -> None:
        super().__init__(handle, "r+")
        self.error: OSError | None = None
        self.refused: list[tuple[int, bytes]] = []  # offset, data

    def write(self, data: Any) -> int:
        """As `io.RawIOBase.write`."""
        view, start, done = memoryview(data).cast("B"), self.tell(), 0
        while done < len(view) and self.error is None:
            try:
                done += super().write(view[done:])
            except OSError as error:
                self.error = error
        if done < len(view):
            self.refused.append((start + done, bytes(view[done:])))
            self.seek(start + len(view))
        return len(view)

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase.readinto`."""
        view, start = memoryview(buffer).cast("B"), self.tell()
        view[:] = super().read(len(view)).ljust(len(view), b"\0")
        for offset, data in self.refused:
            first, last = max(offset, start), min(offset + len(data), start + len(view))
            if first < last:
                view[first - start : last - start] = data[first - offset : last - offset]
        self.seek(start + len(view))
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """As `io.IOBase.truncate`."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def close(self) -> OSError | None:  # type: ignore[override] # of io.FileIO, which returns None
        """Close the file; returns the first error."""
        super().close()
        return self.error


@contextmanager
def open_file(path: Path) -> Iterator[Source]:
    """Open for reading; the file is ``source.file``.

    Raises:
        GraphError: sizes of addresses and B-trees that NIR files never have.
        OSError, RuntimeError: as h5py does for a corrupt file.
    """
    with Source(path) as source, h5py.File(source, "r") as file:
        if not source.is_usual():
            raise GraphError(
                f"{path}: its addresses or B-trees have sizes that no NIR file has; it is corrupt, export it again"
            )
        source.file = file
        yield source


def member(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset:
    """An object of a group.

    Raises:
        GraphError: it is a link by name, which may lead to another file or nowhere.
        KeyError, TypeError: there is none, or ``group`` is none.
    """
    if not isinstance(group, h5py.Group):
        raise TypeError(f"{group.name} is a data set, expected a group")
    link = group.get(name, getlink=True)
    if link is not None and not isinstance(link, h5py.HardLink):
        raise GraphError(f"{group.name}/{name} is a link to another place, expected the object itself")
    return group[name]


def dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """A data set of numbers or text whose claimed size the file can hold.

    The HDF5 library trusts a corrupt header and allocates.

    Raises:
        GraphError: another kind of object or element, numbers in other files, or a claim beyond what is stored.
    """
    data = member(group, name)
    if not isinstance(data, h5py.Dataset):
        raise GraphError(f"{data.name} is a group, expected numbers or text")
    if data.shape is None or (data.dtype.kind not in "biuf" and h5py.check_string_dtype(data.dtype) is None):
        raise GraphError(
            f"{data.name} holds {'nothing' if data.shape is None else data.dtype}, expected numbers or text"
        )
    if data.is_virtual or data.external:
        raise GraphError(f"{data.name} keeps its numbers in other files; export them into one file")
    # The stored size of chunks is not asked for: the library follows a looped B-tree of chunks for it until it crashes.
    stored = min(data.id.get_storage_size() if data.chunks is None else math.inf, data.file.id.get_filesize())
    claim = max(data.nbytes, math.prod(data.chunks or (0,)) * data.dtype.itemsize)
    if claim > DEFLATE_LIMIT * stored:
        raise GraphError(f"{data.name} claims {claim:,} bytes, more than this file can hold; it is corrupt")
    return data
