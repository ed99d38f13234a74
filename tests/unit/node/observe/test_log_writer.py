"""Log files: full ones are put aside, nobody waits for the disk, and what is lost is counted."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from node.observe.log_writer import LogWriter
from shared_state.log_files import LogFile


def test_full_files_are_put_aside(tmp_path: Path) -> None:
    """The latest is .1, as many are kept as is said, and no line is torn."""
    file = LogFile(tmp_path / "x.log", max_size=10, keep=2)
    for number in range(1, 6):
        file.append(b"line %d..\n" % number)

    assert (tmp_path / "x.log").read_bytes() == b"line 5..\n"
    assert (tmp_path / "x.log.1").read_bytes() == b"line 4..\n"
    assert (tmp_path / "x.log.2").read_bytes() == b"line 3..\n"
    assert not (tmp_path / "x.log.3").exists()


def test_many_writers_lose_nothing_to_each_other(tmp_path: Path) -> None:
    """Nodes of one machine share a file: every line is in it, or in one that was put aside."""
    files = [LogFile(tmp_path / "x.log", max_size=200, keep=90) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: files[n % 4].append(b"line %03d\n" % n), range(400)))
    lines = [line for path in tmp_path.glob("x.log*") for line in path.read_text().splitlines()]

    assert sorted(lines) == [f"line {n:03d}" for n in range(400)]


class SlowFile(LogFile):
    """A disk that takes nothing until it is told."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may_write = threading.Event()

    def append(self, data: bytes, *, is_durable: bool = False) -> None:
        self.may_write.wait(10)
        super().append(data, is_durable=is_durable)


def test_a_disk_that_does_not_keep_up_holds_up_nobody(tmp_path: Path) -> None:
    """What is too much is dropped and counted; the rest is written in order."""
    file = SlowFile(tmp_path / "x.log")
    writer = LogWriter(file, most_bytes=6)
    for _ in range(5):
        writer.write(b"ab\n")
    file.may_write.set()
    writer.close(within_s=10)

    assert writer.dropped == 3
    assert file.path.read_bytes() == b"ab\nab\n"


def test_a_disk_that_fails_is_counted_and_tried_again(tmp_path: Path) -> None:
    """The thread lives on."""
    folder = tmp_path / "x"
    folder.write_text("in the way")
    writer = LogWriter(LogFile(folder / "y.log"))
    writer.write(b"lost\n")
    writer.close(within_s=10)
    folder.unlink()
    writer.write(b"kept\n")
    writer.close(within_s=10)

    assert writer.dropped == 1
    assert (folder / "y.log").read_bytes() == b"kept\n"
