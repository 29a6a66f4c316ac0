"""Reads image files. Their content decides the format, which must be one of a list, before any decoder runs.

Pillow by itself tries every decoder that it has, and one of them starts Ghostscript for whatever looks like PostScript.
"""

import ctypes
import io
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from ..system.files import open_file
from .dataset import DataError

if TYPE_CHECKING:
    from PIL import Image as PillowImage

MOST_BYTES = 1 << 30
MOST_PIXELS = 178_956_970
"""The largest image that is decoded, which is Pillow's limit: a damaged or forged file can claim any size."""

_HEAD = 512  # bytes from which every format is known
_SHOWN = 5  # warnings of one kind of work that are printed; the others are counted

# Pillow's name of each format that is read, and how its files begin.
FORMATS: Mapping[str, bytes] = MappingProxyType(
    {
        "JPEG": rb"\xff\xd8\xff",
        "PNG": rb"\x89PNG\r\n\x1a\n",
        "WEBP": rb"RIFF....WEBP",
        "GIF": rb"GIF8[79]a",
        "TIFF": rb"(II[*+]\0|MM\0[*+])(?!....CR)",
        "BMP": rb"BM",
        "PPM": rb"P[1-6]\s",
        "AVIF": rb"....ftyp(avi[fs]|m[is]f1.{4}(.{4}){0,8}?avi[fs])",
        "HEIF": rb"....ftyp(hei[cmsx]|hev[cmsx]|m[is]f1)",
    }
)

# Other files that lie among images: how they begin, and what to do. None of them reaches a decoder.
_OTHERS: Mapping[str, tuple[bytes, str]] = MappingProxyType(
    {
        "PostScript": (rb"%!|\xc5\xd0\xd3\xc6|\x04%!", "a program that draws, which is never run here"),
        "PDF": (rb"%PDF", "pdf2image reads it"),
        "SVG": (rb"\s*(<svg|<[?!].*<svg)", "cairosvg reads it"),
        "a web page": (rb"\s*(<!doctype html|<html|<head|<!--.*<html)", "a download that failed looks like this"),
        "a pointer of Git LFS": (rb"version https://git-lfs", "`git lfs pull` gets the image"),
        "JPEG XL": (rb"\xff\x0a|\0\0\0\x0cJXL ", "pillow-jxl-plugin reads it"),
        "JPEG 2000": (rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51", "Pillow reads it"),
        "Photoshop": (rb"8BPS", "psd-tools reads it"),
        "DICOM": (rb".{128}DICM", "pydicom reads it"),
        "OpenEXR": (rb"\x76\x2f\x31\x01", "the package OpenEXR reads it"),
        "a raw photo": (rb"II\*\0....CR|....ftypcrx|FUJIFILM|II(RO|RS|U\0)|MMOR", "rawpy reads it"),
        "a video": (rb"....ftyp|\x1a\x45\xdf\xa3|RIFF....AVI ", "PyAV reads it"),
        "an icon": (rb"\0\0[\x01\x02]\0", "Pillow reads it"),
        "NumPy": (rb"\x93NUMPY", "numpy.load reads it"),
        "HDF5": (rb"\x89HDF\r\n", "h5py reads it"),
        "an archive": (rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!", "unpack it"),
    }
)

_READ = "jpg jpeg jpe jfif png apng webp gif tif tiff bmp dib ppm pgm pbm pnm avif avifs heic heif hif"
_NOT_READ = "eps ps svg jxl jp2 j2k psd dcm exr ico tga pcx"
_RAW = "cr2 cr3 nef arw dng raf orf rw2"
ENDINGS = frozenset(f"{_READ} {_NOT_READ} {_RAW}".split())
"""The endings of files that are meant as images. Those that cannot be read are errors, so that none is left out."""


def ending_of(path: Path) -> str:
    """The ending of a file's name, such as `jpg`."""
    return path.suffix.lower().removeprefix(".")


@contextmanager
def image_in(path: Path) -> Iterator[tuple["PillowImage.Image", bytes]]:
    """The first image in the file, and the content of the file. Decode it in the block: errors there name the file.

    Raises:
        DataError: it is no file, too large, damaged, or in none of the `FORMATS`; the message is one line.
    """
    from PIL import Image

    _reading.path = path
    with _naming(path):
        with open_file(path) as file:
            kind = _format(file.read(_HEAD), ending_of(path))
            file.seek(0)
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES >> 20:,} MiB")
        with Image.open(io.BytesIO(content), formats=[kind]) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"it claims {image.width} x {image.height} pixels; the most are {MOST_PIXELS:,}")
            yield image, content


def _format(head: bytes, ending: str) -> str:
    """The format of a file that begins like this. Raises ValueError if it is not read."""
    if not head:
        raise ValueError("it is empty")
    if ending in _RAW.split():  # they begin like TIFF, and what would be read is a small preview
        raise ValueError("it is a raw photo, which is not read here (rawpy reads it); save it as PNG or JPEG")
    for name, beginning in FORMATS.items():
        if re.match(beginning, head, re.DOTALL):
            _check_support(name)
            return name
    for name, (beginning, hint) in _OTHERS.items():
        if re.match(beginning, head, re.DOTALL | re.IGNORECASE):
            raise ValueError(f"it is {name}, which is not read here ({hint}); save it as PNG or JPEG")
    raise ValueError("it does not begin like any image format that is read: JPEG, PNG, WebP, GIF, TIFF, BMP, PPM, AVIF")


def _check_support(name: str) -> None:
    """Makes Pillow ready for the format. Raises ValueError if something must be installed first."""
    from PIL import features

    if name == "HEIF":
        if not find_spec("pillow_heif"):
            raise ValueError("it is HEIC, which needs a plug-in: pip install pillow-heif; or save it as JPEG")
        import_module("pillow_heif").register_heif_opener()
    elif name in ("AVIF", "WEBP") and not features.check(name.lower()):
        raise ValueError(f"it is {name}, which this Pillow was built without: pip install --upgrade pillow")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except DataError:
        raise
    except Exception as error:  # Pillow's readers raise many types of exceptions for a broken file
        reason = str(error) or type(error).__name__
        if isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        elif isinstance(error, UnidentifiedImageError):
            reason = "it is damaged at its beginning"
        elif isinstance(error, Image.DecompressionBombError):
            reason = f"it claims more pixels than {MOST_PIXELS:,}"
        raise DataError(f"image {path} cannot be used ({reason}): repair it or remove it from the folder") from error


_reading = threading.local()
"""The file that each thread reads."""


@contextmanager
def warnings_named(say: Callable[[str], None]) -> Iterator[None]:
    """Inside, the warnings of decoders are collected, in all threads; at the end they are lines that name the file."""
    lines: list[str] = []

    def keep(message: object, *_: object, **__: object) -> None:
        lines.append(f"image {getattr(_reading, 'path', 'of the folder')}: {' '.join(str(message).split())}")

    with warnings.catch_warnings(), _heard_from_libtiff(keep):
        warnings.simplefilter("always")
        warnings.showwarning = keep
        yield
    for line in lines[:_SHOWN]:
        say(line)
    if len(lines) > _SHOWN:
        say(f"{len(lines) - _SHOWN} more warnings like these")


@contextmanager
def _heard_from_libtiff(keep: Callable[[str], None]) -> Iterator[None]:
    """Inside, what libtiff complains about is kept; otherwise it prints it, and calls every file `tempfile.tif`.

    The values that belong into the complaint are not filled in.
    """
    folder = Path(str(find_spec("PIL").origin)).parent  # type: ignore[union-attr]
    found = [*folder.parent.glob("pillow.libs/libtiff*"), *folder.glob(".dylibs/libtiff*")]
    if not found:
        yield
        return
    kind = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p)
    handler = kind(lambda module, text, values: keep((text or b"").decode("ascii", "replace")))
    setters = [getattr(ctypes.CDLL(str(found[0])), f"TIFFSet{what}Handler") for what in ("Error", "Warning")]
    for setter in setters:
        setter.restype, setter.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    before = [setter(ctypes.cast(handler, ctypes.c_void_p)) for setter in setters]
    try:
        yield
    finally:
        for setter, old in zip(setters, before, strict=True):
            setter(old)
