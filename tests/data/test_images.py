"""Image files are read in a few formats only, decided by what is in them; whatever else a file is, it is one line."""

import io
import os
import random
import struct
import sys
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from experiments.data import images
from experiments.data.dataset import DataError, Dataset, Request
from experiments.data.folder import load_folder
from experiments.data.images import FORMATS, image_in, warnings_named
from experiments.errors import visible

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(buffer, kind, **options)
    return buffer.getvalue()


def saved(folder: Path, content: bytes, name: str = "it.png") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def decoded(path: Path) -> np.ndarray:
    with image_in(path) as (image, _):
        return np.asarray(image.convert("RGB"))


def problem(path: Path) -> str:
    """What reading the file says, which is one line that names it."""
    with pytest.raises(DataError) as error:
        decoded(path)
    said = str(error.value)
    assert said.startswith(f"image {visible(str(path))} cannot be used (")
    assert "\n" not in said
    return said


READABLE = [kind for kind in FORMATS if kind != "HEIF" and (kind != "AVIF" or features.check("avif"))]


@pytest.mark.parametrize("kind", READABLE)
@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_the_content_decides_the_format(kind: str, ending: str, tmp_path: Path) -> None:
    exact = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "AVIF" else {}
    found = decoded(saved(tmp_path, encoded(kind, **exact), f"it.{ending}"))
    assert found.shape == PIXELS.shape
    if kind in ("PNG", "BMP", "TIFF", "PPM", "WEBP"):
        assert np.array_equal(found, PIXELS)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 24\n(x) run\n"
OTHERS = {
    "PostScript": POSTSCRIPT,
    "PDF": b"%PDF-1.7",
    "SVG": b'<?xml version="1.0"?>\n<!-- a -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "a web page": b"\n<!DOCTYPE html><title>log in</title>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\n",
    "JPEG XL": b"\xff\x0a\xfa\x7f",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "Photoshop": b"8BPS\0\1",
    "DICOM": bytes(128) + b"DICM",
    "a raw photo": b"II*\0\x10\0\0\0CR\2\0",
    "a video": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2",
    "an icon": b"\0\0\1\0\1\0",
    "an archive": b"PK\3\4",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_format_that_is_not_read_is_named(kind: str, tmp_path: Path) -> None:
    assert f"it is {kind}, which is not read here (" in problem(saved(tmp_path, OTHERS[kind]))


def test_nothing_is_started_by_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow by itself gives PostScript to Ghostscript, whatever the name of the file says."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for content in (POSTSCRIPT, b"\xc5\xd0\xd3\xc6" + bytes(28) + POSTSCRIPT, b"\x04" + POSTSCRIPT):
        for name in ("it.png", "it.eps", "it.jpg"):
            problem(saved(tmp_path, content, name))
    assert not (tmp_path / "started").exists()


def heic(major: bytes = b"heic") -> bytes:
    return b"\0\0\0\x18ftyp" + major + b"\0\0\0\0mif1heic"


@pytest.mark.parametrize("major", [b"heic", b"mif1", b"hevc"])
def test_heic_names_the_package_that_reads_it(major: bytes, tmp_path: Path) -> None:
    if images.find_spec("pillow_heif"):
        pytest.skip("pillow-heif is installed")
    assert "it is HEIC, which needs a plug-in: pip install pillow-heif" in problem(
        saved(tmp_path, heic(major), "a.heic")
    )


def test_heic_is_read_where_its_plug_in_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in made up for this test, because the real one is no part of the project."""

    def register() -> None:
        monkeypatch.setitem(Image.OPEN, "HEIF", (lambda file, name: Image.fromarray(PIXELS), lambda head: True))

    monkeypatch.setitem(sys.modules, "pillow_heif", SimpleNamespace(register_heif_opener=register))
    monkeypatch.setattr(images, "find_spec", lambda name: True)
    assert np.array_equal(decoded(saved(tmp_path, heic(), "a.heic")), PIXELS)


def test_a_pillow_that_was_built_without_a_format_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    said = problem(saved(tmp_path, encoded("WEBP")))
    assert "it is WEBP, which this Pillow was built without: pip install --upgrade pillow" in said


def test_avif_is_told_from_heic_by_its_brands() -> None:
    assert images._format(b"\0\0\0\x1cftypmif1\0\0\0\0miafMA1Bavif" + bytes(90), "avif") == "AVIF"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"this is text", "it does not begin like any image format that is read"),
        (encoded("PNG")[:300], "truncated"),
        (encoded("JPEG")[:300], "Truncated File Read"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "it is damaged at its beginning"),
        (b"GIF89a", "damaged at its beginning"),
    ],
)
def test_a_damaged_image_is_named(content: bytes, reason: str, tmp_path: Path) -> None:
    assert reason in problem(saved(tmp_path, content))


def claiming(width: int, height: int) -> bytes:
    """A PNG that says it has this size, and has no pixel."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def test_an_image_that_claims_too_much_is_not_decoded(tmp_path: Path) -> None:
    assert "it claims more pixels than 178,956,970" in problem(saved(tmp_path, claiming(60_000, 60_000)))


def test_a_file_that_is_too_long_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MOST_BYTES", 1 << 20)
    with open(saved(tmp_path, encoded("PNG")), "r+b") as file:
        file.truncate(1 << 40)  # a hole, which takes no room on the disk
    assert "it has more than 1 MiB" in problem(tmp_path / "it.png")


def test_of_many_frames_only_the_first_is_decoded(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), shade, np.uint8)) for shade in range(0, 250, 5)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        path = saved(tmp_path, encoded(kind, frames[0], save_all=True, append_images=frames[1:]))
        assert decoded(path).max() <= 2


@pytest.mark.parametrize("name", ["it.png", "line\nbreak.png", "\x1b[31mred.png", "\udcff.png", "\u202egnp.png"])
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "not a file, but a folder, a pipe or a device"),
        (lambda path: os.symlink("/dev/zero", path), "not a file, but a folder, a pipe or a device"),
        (lambda path: os.symlink(path, path), "Too many levels of symbolic links"),
        (lambda path: os.symlink("nowhere", path), "No such file or directory"),
    ],
)
def test_what_is_no_file_is_named(make: Callable[[Path], None], reason: str, name: str, tmp_path: Path) -> None:
    make(tmp_path / name)
    assert reason in problem(tmp_path / name)


def test_a_warning_of_a_decoder_names_the_file(tmp_path: Path) -> None:
    path, lines = saved(tmp_path, encoded("PNG")), []
    with warnings_named(lines.append):
        for i in range(7):
            with image_in(path):
                warnings.warn(f"odd\n{i}", UserWarning, stacklevel=1)
    assert lines == [*(f"image {path}: odd {i}" for i in range(5)), "2 more warnings like these"]


def test_what_libtiff_complains_about_names_the_file_and_is_not_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(encoded("TIFF", compression="tiff_lzw"))
    content[40:80] = b"\xff" * 40
    path, lines = saved(tmp_path, bytes(content)), []
    with warnings_named(lines.append):
        problem(path)
    assert lines == [f"image {path}: Using code not yet in table"]
    assert capfd.readouterr() == ("", "")


def classes_of(root: Path, lines: list[str]) -> Dataset:
    return load_folder(Request(str(root), 16, 0.5, lines.append, str(root)))


def fill(root: Path, *names: str) -> None:
    for place, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for i in range(4):
            saved(root / name, encoded("PNG", Image.fromarray(PIXELS + np.uint8(9 * place + i))), f"{i}.png")


def test_a_class_of_one_odd_file_is_not_called_empty(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    (tmp_path / "b").mkdir()
    saved(tmp_path / "b", OTHERS["JPEG XL"], "it.jxl")
    with pytest.raises(DataError, match=r"it\.jxl cannot be used \(it is JPEG XL, .*pillow-jxl-plugin"):
        classes_of(tmp_path, [])


def test_links_to_files_are_followed_and_links_to_nothing_are_named(tmp_path: Path) -> None:
    fill(tmp_path / "real", "a", "b")
    (tmp_path / "set").mkdir()
    for name in ("a", "b"):
        (tmp_path / "set" / name).symlink_to(tmp_path / "real" / name)
    assert len(classes_of(tmp_path / "set", []).splits["train"]) == 4
    (tmp_path / "set" / "c").symlink_to("c")
    with pytest.raises(DataError, match="set/c is a link that leads nowhere: repair or remove it"):
        classes_of(tmp_path / "set", [])


def test_any_name_can_be_that_of_a_class(tmp_path: Path) -> None:
    """What cannot be shown in a line is an escape from here on, so that every table and page can hold it."""
    names = ["$x$", "<b>&", "Cat", "cat", "a\nb", "\x07", "\udcff", "\u202ex", "שלום", "猫", " ", "x" * 250]
    fill(tmp_path, *names)
    found = classes_of(tmp_path, []).classes
    assert set(found) >= {
        "$x$",
        "<b>&",
        "Cat",
        "cat",
        r"a\nb",
        r"\x07",
        r"\xff",
        r"\u202ex",
        "שלום",
        "猫",
        " ",
        "x" * 250,
    }
    assert all(name == visible(name) for name in found)
    (tmp_path / r"a\nb").mkdir()
    saved(tmp_path / r"a\nb", encoded("PNG"))
    for i in range(3):
        saved(tmp_path / r"a\nb", encoded("PNG", Image.fromarray(PIXELS + np.uint8(99 + i))), f"{i}.png")
    with pytest.raises(DataError, match="has two classes that are both shown as"):
        classes_of(tmp_path, [])


def harmless(path: Path, content: bytes) -> None:
    """Whatever the content is: the file is read, or ends with the one error that is one line."""
    path.write_bytes(content)
    with warnings_named(lambda line: None), suppress(DataError):
        decoded(path)


BEGINNINGS = [encoded(kind)[:16] for kind in READABLE]


@given(beginning=st.sampled_from(BEGINNINGS), content=st.binary(max_size=300))
def test_any_bytes_are_an_image_or_one_line(
    beginning: bytes, content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    harmless(tmp_path_factory.getbasetemp() / "any.png", beginning + content)


def damaged(content: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(content))
    return (
        content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :] if at % 4 else content[:at]
    )


@pytest.mark.parametrize("count", [3, pytest.param(150, marks=pytest.mark.wild)])
@pytest.mark.parametrize("kind", READABLE)
def test_a_damaged_image_is_read_or_is_one_line(kind: str, count: int, tmp_path: Path) -> None:
    chance = random.Random(0)
    for _ in range(count):
        harmless(tmp_path / "it.png", damaged(encoded(kind), chance))
