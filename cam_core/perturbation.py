"""Methods with more forward passes: Score-CAM hides parts of the image, Ablation-CAM removes channels.

Both weigh each channel of a layer by the change of the explained score, without gradients; the map is the sum over
channels of weight times activation. They need one forward pass per image and channel, in batches of `chunk`, so use
them for pictures, not for whole data sets. Differences to other packages:

- ScoreCAM of grad-cam 1.5.7 resizes its masks with aligned corners; that of torchcam 0.5.0 scales them to [0, 1] before
  the resize. Here masks are resized like maps and scaled afterwards, so every mask reaches 0 and 1.
- AblationCAM of grad-cam divides the weights by the score, which changes every sign if the score is negative. It sets a
  channel to the layer's minimum minus ten million unless that minimum is 0, and to even less in further copies of one
  pass. Here weights are differences, and the channel is set to 0.
- For a ViT, grad-cam removes a channel from the class token too; here only the part that `reshape` puts into the map.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn

from cam_core.capture import Evidence, Reshape, device_of, find_layers, undisturbed
from cam_core.maps import resize
from cam_core.targets import Target, scores, settled, take

SAME = 0.01
"""Two ways to compute the logits agree if their difference is below this share of the effect of the whole layer."""


class Weigh(Protocol):
    """A function that gives the weight of each channel by layer, from the evidence and the model."""

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "n channels height width"],
        evidence: Evidence,
        target: Target,
        *,
        chunk: int = 32,
        reshape: Reshape | None = None,
    ) -> dict[str, Float32[Tensor, "n _"]]: ...


def score_weights(
    model: nn.Module,
    images: Float[Tensor, "n channels height width"],
    evidence: Evidence,
    target: Target,
    *,
    chunk: int = 32,
    reshape: Reshape | None = None,
) -> dict[str, Float32[Tensor, "n _"]]:
    """The weights `(n, c)` of Score-CAM by layer; they are positive with sum 1 (Wang et al., CVPR workshops 2020).

    The softmax over channels of the target's score for the image times the channel. The channel is first resized to the
    image and scaled to [0, 1]. The paper subtracts the score of a baseline image, which cancels. A constant channel
    hides the whole image. The weights depend on the scale of the logits: if the scores are close together, all channels
    have about the same weight, and the map is close to the mean activation. `effective_channels` measures this.

    `images` and `target` must be those of the evidence, which already includes `reshape`; the model is left as
    `capture` leaves it. One pass takes `chunk` pairs of image and channel; all constant channels share one pass of one
    row. Raises ValueError for a chunk below 1 and a target that does not accept batches of any size.
    """
    _check_chunk(chunk)
    images = images.detach().to(device_of(model, images))
    target = settled(target, evidence.logits)  # fixed by the prediction for the whole image
    with undisturbed(model, images.device), torch.no_grad():
        hidden = model(torch.zeros_like(images[:1])).float().expand(len(images), -1)
        return {
            name: _masked_scores(model, images, activations, target, scores(target, hidden), chunk).softmax(1)
            for name, activations in evidence.activations.items()
        }


def effective_channels(weights: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """The effective number of channels of positive weights with sum 1: 1 / sum(w^2), from 1 to c."""
    return 1 / weights.square().sum(1)


def ablation_weights(
    model: nn.Module,
    images: Float[Tensor, "n channels height width"],
    evidence: Evidence,
    target: Target,
    *,
    chunk: int = 32,
    reshape: Reshape | None = None,
) -> dict[str, Float32[Tensor, "n _"]]:
    """The weights `(n, c)` of Ablation-CAM by layer: how much the target's score falls when a channel is set to 0.

    Ramaswamy and Desai, WACV 2020, without their division by the score. The unit is that of the logit; a channel in
    favour of the target is positive for either sign of the score, and a channel without effect is 0.

    `images`, `target` and `reshape` must be those of the evidence; the model is left as `capture` leaves it. One pass
    takes `chunk` channels of one image and the intact image. Up to the layer it computes one row, and the copies only
    after it, if the network allows this (`_goes_on_with_copies`). Raises ValueError for a chunk below 1, a target that
    does not accept batches of any size, and a `reshape` that computes new values.
    """
    _check_chunk(chunk)
    images = images.detach().to(device_of(model, images))
    target = settled(target, evidence.logits)  # fixed by the prediction for the whole image
    with undisturbed(model, images.device), torch.no_grad():
        return {
            name: _score_drops(model, module, images, target, chunk, reshape)
            for name, module in find_layers(model, list(evidence.activations)).items()
        }


PERTURBATION_METHODS: Mapping[str, Weigh] = MappingProxyType(
    {"scorecam": score_weights, "ablationcam": ablation_weights}
)
"""The methods that need more forward passes, by the names that `cams` takes: they give the channel weights."""


def _check_chunk(chunk: int) -> None:
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 row, got {chunk}")


def _masked_scores(
    model: nn.Module, images: Tensor, activations: Tensor, target: Target, hidden: Tensor, chunk: int
) -> Float32[Tensor, "n c"]:
    """The score of each image masked by each channel; `hidden` is the score of each image when all of it is masked."""
    # Found before the resize, because its rounding would turn a constant into a pattern.
    uneven = activations.amax((2, 3)) > activations.amin((2, 3))
    pairs = uneven.nonzero()
    found = hidden[:, None].repeat(1, activations.shape[1])
    for start in range(0, len(pairs), chunk):
        rows, channels = pairs[start : start + chunk].unbind(1)
        masks = _masks(activations[rows, channels], (images.shape[2], images.shape[3]))
        logits = model(images[rows] * masks[:, None].to(images.dtype))
        found[rows, channels] = scores(take(target, rows), logits.float())
    return found


def _masks(channels: Float32[Tensor, "n h w"], size: tuple[int, int]) -> Float32[Tensor, "n height width"]:
    """The channels, resized and then scaled from their own minimum and maximum to 0 and 1; 0 for a constant channel."""
    large = resize(channels, size)
    low, high = large.amin((1, 2), keepdim=True), large.amax((1, 2), keepdim=True)
    return torch.where(high > low, (large - low) / (high - low), 0.0)


def _score_drops(
    model: nn.Module, module: nn.Module, images: Tensor, target: Target, chunk: int, reshape: Reshape | None
) -> Float32[Tensor, "n c"]:
    """How much the score of each image falls without each channel of the module's map."""
    shape, places = _channels(model, module, images[:1], reshape)
    copied_late = _goes_on_with_copies(model, module, images[:1], shape)
    drops = torch.zeros(len(images), len(places), device=images.device)
    for channels in torch.split(torch.arange(len(places), device=images.device), chunk):
        gone = _gone(places[channels], shape)
        for index, image in enumerate(torch.split(images, 1)):
            logits = _logits_without(gone, model, module, image if copied_late else _copies(image, len(gone)))
            found = scores(take(target, torch.full((len(gone),), index)), logits.float())
            # From the intact copy in the same pass, because a pass with another batch size rounds differently.
            drops[index, channels] = found[0] - found[1:]
    return drops


def _channels(
    model: nn.Module, module: nn.Module, image: Tensor, reshape: Reshape | None
) -> tuple[torch.Size, Int[Tensor, "c positions"]]:
    """The shape of the module's output for one image, and the flat positions of each map channel in it."""
    outputs: list[Tensor] = []
    with module.register_forward_hook(lambda module, args, output: outputs.append(output.clone())):
        model(image.clone())
    (output,) = outputs
    indices = torch.arange(output.numel()).view(output.shape)
    values = output
    if reshape is not None:
        # As floats, so that a `reshape` that computes new values also runs and is detected by its result.
        indices = reshape(indices.double()).long().clamp(0, output.numel() - 1)
        values = reshape(output)
    places = indices.to(output.device)
    if not torch.equal(output.flatten()[places].to(values.dtype), values):
        raise ValueError(
            "reshape must only rearrange and select values, so that a channel can be found in the layer's output"
        )
    return output.shape[1:], places[0].flatten(1)


def _gone(places: Int[Tensor, "c positions"], shape: torch.Size) -> Bool[Tensor, "copies *shape"]:
    """The part that each copy of a layer's output loses: the first copy nothing, every other copy one channel."""
    gone = torch.zeros(1 + len(places), shape.numel(), dtype=torch.bool, device=places.device)
    gone[1:].scatter_(1, places, True)
    return gone.view(-1, *shape)


def _goes_on_with_copies(model: nn.Module, module: nn.Module, image: Tensor, shape: torch.Size) -> bool:
    """Whether the network may compute one row up to the module's output and continue with several copies of it.

    This saves most of the work. It is wrong if the copies later meet a tensor of one row that does not broadcast: in
    `torch.cat` (DenseNet), in an in-place sum into the one row, in `view` or `expand` with the batch size of the image.
    Most such networks raise or give one row of logits, but a `view` that mistakes copies for positions may do neither.
    So both ways are tried and compared, on copies that are as different as possible: one intact, two that lost all.
    """
    gone = torch.zeros(3, *shape, dtype=torch.bool, device=image.device)
    gone[1:] = True
    expected = _logits_without(gone, model, module, _copies(image, len(gone)))
    try:
        found = _logits_without(gone, model, module, image)
    except Exception:  # a network may raise anything for rows that do not match
        return False
    effect = (expected[1:] - expected[0]).abs().max()
    return found.shape == expected.shape and bool((found - expected).abs().max() <= SAME * effect)


def _logits_without(
    gone: Bool[Tensor, "copies *shape"], model: nn.Module, module: nn.Module, images: Float[Tensor, "rows c h w"]
) -> Float[Tensor, "_ k"]:
    """The logits if copies replace the module's output, each without its part; for one image, or one per copy."""
    with module.register_forward_hook(lambda module, args, output: output.masked_fill(gone, 0)):
        return model(images.clone())  # a copy, because some models change their input in place


def _copies(image: Float[Tensor, "1 c h w"], count: int) -> Float[Tensor, "{count} c h w"]:
    return image.expand(count, -1, -1, -1)
