"""Transforms of other people for one image: from a file of one's own, or the published policies of torchvision."""

import hashlib
import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import albumentations as A
import numpy as np
import torch
import yaml
from jaxtyping import UInt8
from PIL import Image
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..errors import CannotStart
from ..settings.base import NONE, SettingsError
from ..settings.train import TrainSettings
from ..system.files import open_file, user_path
from ..system.own_code import OwnCode, is_own, own_code, strict, told
from .declared import by_albumentations
from .image_by_image import Foreign, ImageByImage, ImageFailed, OneImage, seed_all

Pixels = UInt8[np.ndarray, "h w 3"]

_LONGEST = 2000  # characters of a description; MLflow takes 6,000
_KINDS = "an albumentations or torchvision transform, or a function without arguments that returns one"
_OF_IMAGES = "of a function of images A.Lambda(image=function, p=1) makes a transform"
_UINT8 = "leave out what normalises, or makes floats, tensors or one channel; the network normalises"


class _Unusable(Exception):
    """The file, or what it defines, is nothing that can be used; the message says why."""


def of_settings(settings: TrainSettings, side: int) -> list[Foreign]:
    """The transforms for one image that the settings ask for: one's own, or torchvision's policies.

    Raises:
        SettingsError: the file or what it defines cannot be used; one line with the reason.
    """
    if settings.augmentation != NONE:
        return [own(settings.augmentation, side)]
    policies: dict[str, Callable[[Any], nn.Module]] = {
        "trivial_augment": lambda on: v2.TrivialAugmentWide(),
        "rand_augment": lambda magnitude: v2.RandAugment(magnitude=magnitude),
        "auto_augment": lambda policy: v2.AutoAugment(v2.AutoAugmentPolicy(policy)),
        "augmix": lambda severity: v2.AugMix(severity=severity),
    }
    given = {name: getattr(settings, name) for name in policies}
    made = {name: policies[name](value) for name, value in given.items() if value not in (0, NONE)}
    return [Foreign(name, partial(_from_pillow, policy), str(policy), {}) for name, policy in made.items()]


def own(spec: str, side: int) -> Foreign:
    """The transform that `FILE.py:NAME` or `FILE.yaml` names, tried on images of this side.

    Raises:
        CannotStart: it cannot be used; one line with the reason.
    """
    try:
        code = own_code("augmentation", spec) if spec.rpartition(":")[0].endswith(".py") else _from_yaml(spec)
        with strict():
            found = _called(code.found)
            apply = partial(_checked, spec, _as_one_image(found))
            try_out(spec, apply, side)
    except CannotStart:
        raise
    except ImageFailed as error:
        raise SettingsError(error.problems) from error
    except (Exception, SystemExit) as error:
        why = str(error) if isinstance(error, _Unusable) else told(error)
        raise SettingsError([f"augmentation={spec}: {why}"]) from error
    digest = hashlib.sha256(repr(sorted(code.sources.items())).encode()).hexdigest()[:8]
    return Foreign("own", apply, f"{spec} ({digest}): {_words(found)}", code.sources)


def _words(found: object) -> str:
    try:
        words = str(found)
    except ValueError:  # a Lambda without a name inside an A.Compose
        words = str(getattr(found, "transforms", type(found).__name__))
    return " ".join(re.sub(" at 0x[0-9a-f]+", "", words).split())[:_LONGEST]


def try_out(spec: str, apply: OneImage, side: int) -> None:
    """Checks the transform on a black image and on noise, twice with the same seed.

    Raises:
        ImageFailed: it fails, changes the size or the type, or does not repeat itself.
    """
    images = np.random.default_rng(0).integers(0, 256, (4, side, side, 3), np.uint8)
    images[0] = 0
    tried = ImageByImage({"own": apply}, images, 0)
    first, second = (list(tried.batches(0, np.arange(4).repeat(4), 16, workers=0)) for _ in range(2))
    if not torch.equal(first[0], second[0]):
        raise ImageFailed(
            f"augmentation={spec}: gives another image with the same seed; draw random numbers from random, np.random "
            "or torch, without a seed or a generator of its own"
        )


def _called(found: Any) -> object:
    kinds = (A.BasicTransform, A.BaseCompose, nn.Module)
    if not inspect.isroutine(found) and not (inspect.isclass(found) and issubclass(found, kinds)):
        return found
    if inspect.isroutine(found) and any(
        one.default is one.empty for one in inspect.signature(found).parameters.values()
    ):
        raise _Unusable(f"{found.__name__}{inspect.signature(found)} takes arguments; must be {_KINDS}; {_OF_IMAGES}")
    return found()


def _from_yaml(spec: str) -> OwnCode:
    path = user_path(spec)
    try:
        with open_file(path) as file:
            text = file.read().decode("utf-8-sig")
        content = yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _Unusable(f"cannot be read as YAML ({told(error)})") from error
    if not isinstance(content, dict) or not isinstance(content.get("transform"), dict):
        raise _Unusable("has no `transform`; write the file with albumentations' A.save(..., data_format='yaml')")
    if unknown := content.keys() - {"__version__", "transform"}:
        raise _Unusable(f"{', '.join(map(str, unknown))}: not part of albumentations' format")
    try:
        with strict():
            return OwnCode(A.from_dict(content), {path.name: text})
    except KeyError as error:
        raise _Unusable(f"albumentations {A.__version__} has no {error}") from error


def _as_one_image(found: Any) -> OneImage:
    if isinstance(found, A.BasicTransform | A.BaseCompose):
        return partial(by_albumentations, found if isinstance(found, A.Compose) else A.Compose([found]))
    if isinstance(found, nn.Module) or type(found).__module__.startswith("torchvision."):
        return partial(_by_torchvision, found)
    raise _Unusable(f"is a {type(found).__name__}; must be {_KINDS}; {_OF_IMAGES}")


def _by_torchvision(transform: Callable[[Any], Any], image: Pixels, rng: np.random.Generator) -> object:
    found = transform(tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)))
    return found.permute(1, 2, 0).numpy() if isinstance(found, torch.Tensor) and found.ndim == 3 else found


def _from_pillow(transform: Callable[[Any], Any], image: Pixels, rng: np.random.Generator) -> Pixels:
    """torchvision's policies are several times as fast on images of Pillow as on tensors this small."""
    seed_all(rng)
    return np.array(transform(Image.fromarray(image)))


def _checked(spec: str, apply: Callable[..., object], image: Pixels, rng: np.random.Generator) -> Pixels:
    """What `apply` makes of the image.

    Raises:
        ImageFailed: an error in `apply`, or its result is not an image like the one before.
    """
    seed_all(rng)
    try:
        found: Any = apply(image, rng)
    except (Exception, SystemExit) as error:
        nan = isinstance(error, RuntimeWarning)
        why = f"makes pixels of NaN: {error}" if nan else told(error) + ("" if is_own(error) else f"; {_UINT8}")
        raise ImageFailed(f"augmentation={spec}: {why}") from error
    found = np.asarray(found) if isinstance(found, Image.Image | torch.Tensor) else found
    if isinstance(found, np.ndarray) and found.dtype == np.uint8 and found.shape == image.shape:
        return found
    if not isinstance(found, np.ndarray):
        raise ImageFailed(f"augmentation={spec}: gives a {type(found).__name__} instead of an image; {_UINT8}")
    if found.dtype.kind == "f" and np.isnan(found).any():
        raise ImageFailed(f"augmentation={spec}: gives pixels that are not numbers (NaN); {_UINT8}")
    resized = f"let it end with images of {image.shape[0]} x {image.shape[1]} pixels"
    changed = f"gives {found.dtype} {found.shape} instead of uint8 {image.shape}"
    is_image = found.dtype == np.uint8 and found.shape[2:] == (3,)
    raise ImageFailed(f"augmentation={spec}: {changed}; {resized if is_image else _UINT8}")
