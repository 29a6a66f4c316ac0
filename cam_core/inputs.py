"""Checks of what is given to explain: images, or signals and volumes, and how a layer's output becomes a map."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from cam_core.models import check_model

Reshape = Callable[[Tensor], Tensor]
"""Turns a layer's output into a map `(n, c, h, w)`; only rearranges and selects values."""

Reshapes = Reshape | Mapping[str, Reshape] | None
"""One function for all layers, or one by name for the layers that need it; nearly no layer does."""


_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def check_images(images: object) -> Tensor:
    """Checks and returns the images; raises TypeError if they are no tensor, ValueError if they are no float batch."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images must be a torch tensor, got {type(images).__name__}; torch.stack makes one of a list of tensors"
        )
    if not 3 <= images.ndim <= 5 or not images.is_floating_point():
        raise ValueError(
            "images must be a float tensor (n, channels, height, width), (n, channels, length) for signals, or "
            f"(n, channels, depth, height, width) for volumes, got {images.dtype} {tuple(images.shape)}"
            f"{_way_out(images)}"
        )
    if len(images) == 0:
        raise ValueError("images is an empty batch; give at least one image")
    if not images[0].numel():
        raise ValueError(f"images have no pixels, got {tuple(images.shape)}")
    return images


def check_rank(model: nn.Module, images: Tensor) -> None:
    """Checks that a convolution of the model works on inputs with so many axes; raises ValueError if none does."""
    check_model(model)
    ranks = {rank for module in model.modules() for rank, kind in _CONVOLUTIONS.items() if isinstance(module, kind)}
    rank = images.ndim - 2
    if not ranks or rank in ranks:
        return
    way_out = ""
    if rank + 1 in ranks:
        way_out = "; for one image use image[None]"
    elif rank - 1 in ranks:
        way_out = "; for several batches or clips use images.flatten(0, 1)"
    raise ValueError(
        f"images must be a float tensor (n, channels, {axes_of(min(ranks))}) for this model, got "
        f"{images.dtype} {tuple(images.shape)}{way_out}"
    )


def _way_out(images: Tensor) -> str:
    if images.ndim == 2:
        return "; for n signals of one channel use images[:, None]"
    if not images.is_floating_point():
        return "; convert them to what the model was trained with"
    return ""


def reshape_of(reshape: Reshapes, name: str) -> Reshape | None:
    """The function given for this layer, or None."""
    return reshape.get(name) if isinstance(reshape, Mapping) else reshape


def reshaped(name: str, reshape: Reshape, output: Tensor, rank: int) -> Tensor:
    """A layer's output as `reshape` makes it; ValueError if that is no map."""
    try:
        found: object = reshape(output)
    except (RuntimeError, IndexError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"reshape fails on layer {name!r}, a tensor {tuple(output.shape)}: {why}") from None
    got = f"a tensor {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
    if not isinstance(found, Tensor) or found.ndim != 2 + rank:
        raise ValueError(
            f"layer {name!r} gives {got} after reshape, not a map (n, c, {axes_of(rank)}); correct reshape, "
            f"which got a tensor {tuple(output.shape)}"
        )
    if len(found) != len(output):
        raise ValueError(f"reshape of layer {name!r} gives {len(found)} rows for {len(output)} images; correct reshape")
    if not found[0].numel():
        raise ValueError(f"reshape of layer {name!r} gives an empty map {tuple(found.shape)}; correct reshape")
    return found


def axes_of(rank: int) -> str:
    """The names of the axes of positions: `h, w` for images."""
    return ("l", "h, w", "d, h, w")[rank - 1]
