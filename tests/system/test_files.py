"""What is read back is what was written, or is refused; nothing that is no file makes the program wait."""

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.system.files import Damaged, check_writable, open_file, sealed, unsealed, user_path

CONTENT = bytes(range(256)) * 5


def put(path: Path, content: bytes = CONTENT) -> bytes:
    """Writes a sealed file and returns its bytes."""
    with sealed(path) as file:
        file.write(content)
    return path.read_bytes()


def content_of(path: Path) -> bytes:
    with unsealed(path) as file:
        return file.read()


@given(content=st.binary(max_size=300))
def test_what_was_written_is_read(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("sealed") / "folder" / "file"
    whole = put(path, content)
    assert whole.startswith(content)
    assert content_of(path) == whole
    assert os.listdir(path.parent) == ["file"]


def test_a_flipped_bit_anywhere_and_every_cut_is_noticed(tmp_path: Path) -> None:
    """A bit of each byte of a short file, and all its beginnings."""
    path = tmp_path / "file"
    whole = put(path, b"content")
    damaged = [bytes([*whole[:at], whole[at] ^ 1 << at % 8, *whole[at + 1 :]]) for at in range(len(whole))]
    for other in [*damaged, *(whole[:length] for length in range(len(whole))), whole + b"\0", b"\0" + whole]:
        path.write_bytes(other)
        with pytest.raises(Damaged):
            content_of(path)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_on_the_way_leaves_the_old_file_alone(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    whole = put(path)

    def fail_half_way() -> None:
        with sealed(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        fail_half_way()
    assert path.read_bytes() == whole
    assert os.listdir(tmp_path) == ["file"]


def test_the_place_of_a_file_is_tried_without_a_trace(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "file")
    assert os.listdir(tmp_path / "new") == []
    put(tmp_path / "file")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        check_writable(tmp_path / "file" / "file")
    with pytest.raises(OSError, match="too long"):
        check_writable(tmp_path / ("x" * 300))


def pipe(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (Path.mkdir, "not a file, but a folder, a pipe or a device"),
        (pipe, "not a file, but a folder, a pipe or a device"),
        (lambda path: path.symlink_to("/dev/zero"), "not a file, but a folder, a pipe or a device"),
        (loop, "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
    ],
)
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None], problem: str) -> None:
    make(tmp_path / "it")
    with pytest.raises(OSError, match=problem):
        open_file(tmp_path / "it")


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    put(tmp_path / "file")
    (tmp_path / "link").symlink_to("file")
    assert content_of(tmp_path / "link").startswith(CONTENT)


def test_the_home_of_nobody_is_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert user_path("~/data") == Path("/home/me/data")
    assert user_path("~no-such-user/data") == Path("~no-such-user/data")


@pytest.mark.wild
def test_a_thousand_random_damages_are_noticed(tmp_path: Path) -> None:
    chance = random.Random(0)
    path = tmp_path / "file"
    whole = put(path, chance.randbytes(100_000))
    for _ in range(1000):
        at = chance.randrange(len(whole))
        flipped = bytes([*whole[:at], whole[at] ^ 1 << chance.randrange(8), *whole[at + 1 :]])
        path.write_bytes(flipped if chance.random() < 0.7 else whole[:at])
        with pytest.raises(Damaged):
            content_of(path)
