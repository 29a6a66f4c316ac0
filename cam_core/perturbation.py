"""The methods that ask the network again: Score-CAM hides parts of the image, Ablation-CAM takes channels away.

Both weigh each channel of a layer by what happens to the explained score, without gradients; the map is the sum over
channels of weight times activation. They cost one forward pass per image and channel, in batches of `chunk`: meant for
pictures, not for whole data sets. What others do otherwise:

- grad-cam 1.5.7's ScoreCAM resizes its masks with aligned corners; torchcam 0.5.0's scales them to [0, 1] before the
  resize. Here masks are resized as maps are and scaled afterwards, so that every mask reaches 0 and 1.
- grad-cam's AblationCAM divides the weights by the score, which turns every sign where the score is negative, and puts
  a channel to the layer's minimum less ten million unless that minimum is 0; further copies of one pass get less still.
  Here weights are differences, and the channel is put to 0.
- For a ViT grad-cam takes a channel away from the class token too; here only from what `reshape` puts into the map.
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
"""Two ways to compute the logits agree if they differ by less than this share of what the whole layer does to them."""


class Weigh(Protocol):
    """A function from the evidence, and the model that gave it, to the weight of each channel by layer."""

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
    """By layer the weights `(n, c)` of Score-CAM: positive, of sum 1 (Wang et al., CVPR workshops 2020).

    The softmax over channels of the target's score for the image times the channel, that resized to the image and
    scaled to [0, 1]. The score of a baseline image, which the paper subtracts, cancels. A constant channel shows
    nothing of the image. Depends on the scale of the logits; where the scores spread little, all channels weigh about
    the same and the map is hardly more than the mean activation: `effective_channels` tells.

    `images` and `target` are those of the evidence (`reshape` is in it already); the model is left as `capture` leaves
    it. `chunk` pairs of image and channel share a pass; one pass of one row serves all constant channels. Raises
    ValueError for a chunk below 1 and a target that does not take batches of any size.
    """
    _check_chunk(chunk)
    images = images.detach().to(device_of(model, images))
    target = settled(target, evidence.logits)  # as the whole image is seen
    with undisturbed(model, images.device), torch.no_grad():
        hidden = model(torch.zeros_like(images[:1])).float().expand(len(images), -1)
        return {
            name: _masked_scores(model, images, activations, target, scores(target, hidden), chunk).softmax(1)
            for name, activations in evidence.activations.items()
        }


def effective_channels(weights: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """Over how many channels weights that are positive and of sum 1 are spread in effect: 1 / sum(w^2), from 1 to c."""
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
    """By layer the weights `(n, c)` of Ablation-CAM: how much the target's score falls when a channel is put to 0.

    Ramaswamy and Desai, WACV 2020, without their division by the score: in units of the logit, positive for a channel
    that speaks for the target whatever the score's sign, and 0 for one that changes nothing.

    `images`, `target` and `reshape` are those of the evidence; the model is left as `capture` leaves it. `chunk`
    channels of one image share a pass, with the intact image beside them. Up to the layer a pass computes one row, and
    all copies only from there on, if the network can go on like that (`_goes_on_with_copies`). Raises ValueError for a
    chunk below 1, a target that does not take batches of any size, and a `reshape` that computes.
    """
    _check_chunk(chunk)
    images = images.detach().to(device_of(model, images))
    target = settled(target, evidence.logits)  # as the whole image is seen
    with undisturbed(model, images.device), torch.no_grad():
        return {
            name: _score_drops(model, module, images, target, chunk, reshape)
            for name, module in find_layers(model, list(evidence.activations)).items()
        }


PERTURBATION_METHODS: Mapping[str, Weigh] = MappingProxyType(
    {"scorecam": score_weights, "ablationcam": ablation_weights}
)
"""The methods that need further forward passes, by the names that `cams` takes: the weights of the channels."""


def _check_chunk(chunk: int) -> None:
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 row, got {chunk}")


def _masked_scores(
    model: nn.Module, images: Tensor, activations: Tensor, target: Target, hidden: Tensor, chunk: int
) -> Float32[Tensor, "n c"]:
    """The score of each image seen through each channel; `hidden` is that of each image when nothing is seen."""
    # Told before the resize, whose rounding would make a pattern of a constant.
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
    """The channels resized, then scaled from their own minimum and maximum to 0 and 1; 0 for a constant one."""
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
            # From the intact copy in the same pass, because passes of another size round otherwise.
            drops[index, channels] = found[0] - found[1:]
    return drops


def _channels(
    model: nn.Module, module: nn.Module, image: Tensor, reshape: Reshape | None
) -> tuple[torch.Size, Int[Tensor, "c positions"]]:
    """The shape of the module's output for one image, and where in it, flattened, each channel of the map is."""
    outputs: list[Tensor] = []
    with module.register_forward_hook(lambda module, args, output: outputs.append(output.clone())):
        model(image.clone())
    (output,) = outputs
    indices = torch.arange(output.numel()).view(output.shape)
    values = output
    if reshape is not None:
        # As floats, which a `reshape` that computes takes as well, to be found out by what it makes of them.
        indices = reshape(indices.double()).long().clamp(0, output.numel() - 1)
        values = reshape(output)
    places = indices.to(output.device)
    if not torch.equal(output.flatten()[places].to(values.dtype), values):
        raise ValueError(
            "reshape must only rearrange and select values, for a channel to be found in the layer's output"
        )
    return output.shape[1:], places[0].flatten(1)


def _gone(places: Int[Tensor, "c positions"], shape: torch.Size) -> Bool[Tensor, "copies *shape"]:
    """What each copy of a layer's output loses: the first nothing, then each one channel."""
    gone = torch.zeros(1 + len(places), shape.numel(), dtype=torch.bool, device=places.device)
    gone[1:].scatter_(1, places, True)
    return gone.view(-1, *shape)


def _goes_on_with_copies(model: nn.Module, module: nn.Module, image: Tensor, shape: torch.Size) -> bool:
    """Whether the network may compute one row up to the module's output and go on with several copies of that.

    That saves most of the work, but is wrong where the copies later meet something of one row that does not broadcast:
    in `torch.cat` (DenseNet), in a sum in place into the one row, in `view` or `expand` by the batch size of the image.
    Most such nets raise or give one row of logits; a `view` that takes copies for positions may do neither. So both
    ways are tried and compared, on copies as different as can be: one intact, two that lost everything.
    """
    gone = torch.zeros(3, *shape, dtype=torch.bool, device=image.device)
    gone[1:] = True
    expected = _logits_without(gone, model, module, _copies(image, len(gone)))
    try:
        found = _logits_without(gone, model, module, image)
    except Exception:  # whatever the network raises for rows that do not match
        return False
    effect = (expected[1:] - expected[0]).abs().max()
    return found.shape == expected.shape and bool((found - expected).abs().max() <= SAME * effect)


def _logits_without(
    gone: Bool[Tensor, "copies *shape"], model: nn.Module, module: nn.Module, images: Float[Tensor, "rows c h w"]
) -> Float[Tensor, "_ k"]:
    """The logits where the module puts out copies of what it would, each without its part; of one image or as many."""
    with module.register_forward_hook(lambda module, args, output: output.masked_fill(gone, 0)):
        return model(images.clone())  # a copy, for some models change their input in place


def _copies(image: Float[Tensor, "1 c h w"], count: int) -> Float[Tensor, "{count} c h w"]:
    return image.expand(count, -1, -1, -1)
