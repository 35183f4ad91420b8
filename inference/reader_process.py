"""The other end of `readers.py`: a process that reads one case after the other and hands over memory.

It speaks JSON over a socket pair; a volume goes as the descriptor of a file without a name (in memory
where the system has such files), so nothing is copied through a pipe, and nothing stays behind
whoever dies. It imports no network library, so it starts fast and is small.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import mmap
import os
import signal
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import numpy as np

from renalplan.errors import RenalplanError
from renalplan.images import Volume
from renalplan.inference.failures import explain
from renalplan.inference.scans import ScanFiles
from renalplan.vitals import die_with

LENGTH = struct.Struct("<Q")  # before every message


def main(descriptor: int, parent: int, function: str) -> None:
    """Answer requests until the other end is closed.

    Args:
        descriptor: The socket.
        parent: The process that asks; without it there is nothing to live for.
        function: `module:function`, (ScanFiles) -> Volume.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asks
    faulthandler.enable()
    die_with(parent)  # where the system cannot do that, the socket's end does
    module, _, name = function.partition(":")
    read: Callable[[ScanFiles], Volume] = getattr(importlib.import_module(module), name)
    with socket.socket(fileno=descriptor) as channel, suppress(ConnectionError):
        while (request := receive(channel)[0]) is not None:
            answer(channel, read, ScanFiles.from_json(request))


def answer(channel: socket.socket, read: Callable[[ScanFiles], Volume], scan: ScanFiles) -> None:
    """Read a case and send it, or why it cannot be read."""
    try:
        volume = read(scan)
        descriptor = nameless_file(volume.array.nbytes)
        with os.fdopen(descriptor, "rb+", buffering=0, closefd=True):
            with closing(mmap.mmap(descriptor, volume.array.nbytes)) as memory:
                target = np.frombuffer(memory, volume.array.dtype).reshape(volume.array.shape)
                np.copyto(target, volume.array)
                del target
            message = {
                "shape": volume.array.shape,
                "type": volume.array.dtype.str,
                "spacing": volume.spacing,
                "grid": vars(volume.grid),
            }
            send(channel, message, [descriptor])
    except ConnectionError:
        raise
    except RenalplanError as problem:
        send(channel, {"wrong": str(problem)})
    except MemoryError as problem:
        send(channel, {"no_memory": str(problem) or "not enough memory"})
    except Exception as problem:
        failure = explain(problem)
        send(channel, {"defect": failure.reason, "traceback": failure.traceback})


def nameless_file(size: int) -> int:
    """A descriptor of a file of this size that nobody else can open and that nobody has to remove.

    Raises:
        MemoryError: there is no room for it.
    """
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("renalplan")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, size)  # now, not as a bus error in the middle
        else:
            os.ftruncate(descriptor, size)
    except OSError as problem:
        os.close(descriptor)
        raise MemoryError(f"no room for {size / 2**30:.2f} GiB: {problem.strerror}") from None
    return descriptor


def send(channel: socket.socket, message: Any, descriptors: list[int] | None = None) -> None:
    """Send JSON, and descriptors with it."""
    text = json.dumps(message).encode()
    socket.send_fds(channel, [LENGTH.pack(len(text))], descriptors or [])
    channel.sendall(text)


def receive(channel: socket.socket) -> tuple[Any, list[int]]:
    """Wait for a message: its JSON and descriptors; (None, []) if the other end is closed.

    Raises:
        TimeoutError: the channel has a time limit and nothing came.
    """
    head, descriptors, _, _ = socket.recv_fds(channel, LENGTH.size, 1)
    if not head:
        return None, []
    head += _exactly(channel, LENGTH.size - len(head))
    return json.loads(_exactly(channel, LENGTH.unpack(head)[0])), list(descriptors)


def _exactly(channel: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = channel.recv(min(size, 1 << 20))
        if not part:
            raise ConnectionResetError("the other end closed in the middle of a message")
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
