"""Methods with more forward passes: Score-CAM and occlusion hide parts of the image, Ablation-CAM removes channels.

Score-CAM and Ablation-CAM weigh each channel of a layer by the change of the explained score, without gradients; the
map is the sum over channels of weight times activation. They need one forward pass per image and channel, in batches of
`chunk`, so use them for pictures, not for whole data sets. Differences to other packages:

- ScoreCAM of grad-cam 1.5.7 resizes its masks with aligned corners; that of torchcam 0.5.0 scales them to [0, 1] before
  the resize. Here masks are resized like maps and scaled afterwards, so every mask reaches 0 and 1.
- AblationCAM of grad-cam divides the weights by the score, which changes every sign if the score is negative. It sets a
  channel to the layer's minimum minus ten million unless that minimum is 0, and to even less in further copies of one
  pass. Here weights are differences, and the channel is set to 0.
- For a ViT, grad-cam removes a channel from the class token too; here only the part that `reshape` puts into the map.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from types import MappingProxyType
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn

from cam_core.capture import Evidence, checked_logits
from cam_core.faithfulness import Remove, mean_fill
from cam_core.inputs import Reshape, check_images
from cam_core.maps import resize
from cam_core.models import call_of, device_of, find_layers, plain
from cam_core.outputs import Output, logits_in, map_in, with_tensor
from cam_core.state import undisturbed
from cam_core.targets import Contrast, PerImage, PlainTarget, Target, as_target, scores, settled, take

SAME = 0.01
"""Two ways to compute the logits agree if their difference is below this share of the effect of the whole layer."""


Network = Callable[[Tensor], Tensor]
"""The model as a function that gives the logits."""


class Weigh(Protocol):
    """A function that gives the weight of each channel by layer, from the evidence and the model."""

    def __call__(
        self,
        model: nn.Module,
        images: Float[Tensor, "n channels *size"],
        evidence: Evidence,
        target: Target,
        *,
        chunk: int = 32,
    ) -> dict[str, Float32[Tensor, "n _"]]: ...


def score_weights(
    model: nn.Module,
    images: Float[Tensor, "n channels *size"],
    evidence: Evidence,
    target: Target,
    *,
    chunk: int = 32,
) -> dict[str, Float32[Tensor, "n _"]]:
    """The weights `(n, c)` of Score-CAM by layer; they are positive with sum 1 (Wang et al., CVPR workshops 2020).

    The softmax over channels of the target's score for the image times the channel. The channel is first resized to the
    image and scaled to [0, 1]. The paper subtracts the score of a baseline image, which cancels. A constant channel
    hides the whole image. The weights depend on the scale of the logits: if the scores are close together, all channels
    have about the same weight, and the map is close to the mean activation. `effective_channels` measures this.

    `images` and `target` must be those of the evidence; the model is left as `capture` leaves it. One pass takes
    `chunk` pairs of image and channel; all constant channels share one pass of one row. Raises ValueError for a chunk
    below 1 and a target that does not accept batches of any size.
    """
    images, goal, network = _prepared(model, images, evidence, target, chunk)
    with undisturbed(model, images.device), torch.no_grad():
        hidden = network(torch.zeros_like(images[:1])).float()
        return {
            name: _masked_scores(network, images, activations, goal, hidden, chunk).softmax(1)
            for name, activations in evidence.activations.items()
        }


def effective_channels(weights: Float[Tensor, "n c"]) -> Float[Tensor, " n"]:
    """The effective number of channels of positive weights with sum 1: 1 / sum(w^2), from 1 to c."""
    return 1 / weights.square().sum(1)


def ablation_weights(
    model: nn.Module,
    images: Float[Tensor, "n channels *size"],
    evidence: Evidence,
    target: Target,
    *,
    chunk: int = 32,
) -> dict[str, Float32[Tensor, "n _"]]:
    """The weights `(n, c)` of Ablation-CAM by layer: how much the target's score falls when a channel is set to 0.

    Ramaswamy and Desai, WACV 2020, without their division by the score. The unit is that of the logit; a channel in
    favour of the target is positive for either sign of the score, and a channel without effect is 0.

    `images` and `target` must be those of the evidence; the model is left as `capture` leaves it. One pass takes
    `chunk` channels of one image and the intact image. Up to the layer it computes one row, and the copies only after
    it, if the network allows this (`_goes_on_with_copies`). Raises ValueError for a chunk below 1, a target that does
    not accept batches of any size, and a `reshape` that computes new values.
    """
    images, goal, network = _prepared(model, images, evidence, target, chunk)
    with undisturbed(model, images.device), torch.no_grad():
        return {
            name: _score_drops(network, name, module, images, goal, chunk, evidence.reshapes[name])
            for name, module in find_layers(model, list(evidence.activations)).items()
        }


def occlusion(
    model: nn.Module,
    images: Float[Tensor, "n channels h w"],
    target: Target,
    *,
    window: int,
    stride: int | None = None,
    remove: Remove = mean_fill,
    chunk: int = 64,
    output: Output | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float32[Tensor, "n h w"]:
    """How much the target's score falls when a square window hides the pixel: a reference without layer and gradient.

    The mean over all windows that hide the pixel, in units of the target; negative where hiding raises the score
    (Zeiler and Fergus, ECCV 2014). The windows have a side of `window` pixels and begin every `stride` pixels (by
    default half of the side); at the right and lower edge they may be cut off. `remove` fills them, as in `deletion`:
    by default with the mean colour of the image. `found.relu()` is a map for all measures and pictures.

    Takes one forward pass per image and window, `chunk` rows at a time, and calls `progress(done, all)` with the number
    of windows. The result is on the device of the images; the model is left as `capture` leaves it. Raises ValueError
    for no images, and for a window, stride or chunk that does not fit.
    """
    if check_images(images).ndim != 4:
        raise ValueError(f"images must be (n, channels, height, width) for occlusion, got {tuple(images.shape)}")
    height, width = images.shape[2:]
    step = stride or max(1, window // 2)
    if not (1 <= window <= max(height, width) and 1 <= step <= window and chunk >= 1):
        raise ValueError(
            f"window must be 1 to {max(height, width)} pixels, stride 1 to window, and chunk 1 or more, "
            f"got window={window}, stride={stride}, chunk={chunk}"
        )
    device, goal = device_of(model, images), as_target(target, len(images))
    given, windows = images.detach().to(device), _windows(height, width, window, step).to(device)

    def logits_of(rows: Tensor) -> Tensor:
        parts = (
            checked_logits(logits_in(plain(model)(some.clone()), output), len(some))
            for some in torch.split(rows, chunk)
        )
        return torch.cat([part.float() for part in parts])

    drops, done = torch.zeros(len(images), height, width, device=device), 0
    with undisturbed(model, device), torch.no_grad():
        logits = logits_of(given)
        goal = settled(goal, logits)
        full = scores(goal, logits)[:, None]
        for some in torch.split(windows, max(1, chunk // len(images))):
            rows = remove(given.repeat(len(some), 1, 1, 1), some.repeat_interleave(len(images), 0))
            table = logits_of(rows).view(len(some), len(images), -1).transpose(0, 1)
            drops += torch.einsum("nw,whx->nhx", full - _scores_of_table(goal, table), some.float())
            done += len(some)
            if progress is not None:
                progress(done, len(windows))
    return (drops / windows.sum(0)).to(images.device)


def _windows(height: int, width: int, window: int, step: int) -> Bool[Tensor, "windows h w"]:
    """The pixels of each window, as few windows as reach all pixels."""
    starts = [range(0, max(side - window, 0) + step, step) for side in (height, width)]
    found = torch.zeros(len(starts[0]) * len(starts[1]), height, width, dtype=torch.bool)
    for pixels, (top, left) in zip(found, product(*starts), strict=True):
        pixels[top : top + window, left : left + window] = True
    return found


PERTURBATION_METHODS: Mapping[str, Weigh] = MappingProxyType(
    {"scorecam": score_weights, "ablationcam": ablation_weights}
)
"""The methods that need more forward passes, by the names that `cams` takes: they give the channel weights."""


def _prepared(
    model: nn.Module, images: Tensor, evidence: Evidence, target: Target, chunk: int
) -> tuple[Tensor, PlainTarget, Network]:
    """The images on the model's device, the target fixed by the prediction for the whole image, and the model."""
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 row, got {chunk}")
    goal = settled(as_target(target, len(images)), evidence.logits)

    def network(images: Tensor) -> Tensor:
        # A copy, because some models change their input in place.
        logits = logits_in(plain(model)(images.clone()), evidence.output)
        assert isinstance(logits, Tensor)
        return logits if logits.ndim > 1 else logits[:, None]

    return images.detach().to(device_of(model, images)), goal, network


def _masked_scores(
    network: Network, images: Tensor, activations: Tensor, target: PlainTarget, hidden: Tensor, chunk: int
) -> Float32[Tensor, "n c"]:
    """The score of each image masked by each channel; `hidden` are the logits of an image of which all is masked."""
    # Found before the resize, because its rounding would turn a constant into a pattern.
    values = activations.flatten(2)
    pairs = (values.amax(2) > values.amin(2)).nonzero()
    table = hidden.expand(*activations.shape[:2], -1).clone()
    for start in range(0, len(pairs), chunk):
        rows, channels = pairs[start : start + chunk].unbind(1)
        masks = _masks(activations[rows, channels], tuple(images.shape[2:]))
        table[rows, channels] = network(images[rows] * masks[:, None].to(images.dtype)).float()
    return _scores_of_table(target, table)


def _scores_of_table(target: PlainTarget, logits: Float32[Tensor, "n c k"]) -> Float32[Tensor, "n c"]:
    """The score of each image and channel; a function of the logits always sees all images, in their order."""
    if isinstance(target, Tensor | Contrast | PerImage):
        rows = torch.arange(len(logits)).repeat_interleave(logits.shape[1])
        return scores(take(target, rows), logits.flatten(0, 1)).view(logits.shape[:2])
    return torch.stack([scores(target, of_channel) for of_channel in logits.unbind(1)], 1)


def _masks(channels: Float32[Tensor, "n *grid"], size: tuple[int, ...]) -> Float32[Tensor, "n *size"]:
    """The channels, resized and then scaled from their own minimum and maximum to 0 and 1; 0 for a constant channel."""
    large = resize(channels, size)
    axes = tuple(range(1, large.ndim))
    low, high = large.amin(axes, keepdim=True), large.amax(axes, keepdim=True)
    return torch.where(high > low, (large - low) / (high - low), 0.0)


def _score_drops(
    network: Network,
    name: str,
    module: nn.Module,
    images: Tensor,
    target: PlainTarget,
    chunk: int,
    reshape: Reshape,
) -> Float32[Tensor, "n c"]:
    """How much the score of each image falls without each channel of the module's map."""
    shape, places, call = _channels(network, name, module, images[:1], reshape)
    copied_late = _goes_on_with_copies(network, module, call, images[:1], shape)
    intact, without = [], []
    for channels in torch.split(torch.arange(len(places), device=images.device), chunk):
        gone = _gone(places[channels], shape)
        rows = (image if copied_late else _copies(image, len(gone)) for image in torch.split(images, 1))
        logits = torch.stack([_logits_without(gone, network, module, call, some).float() for some in rows])
        # From the intact copy in the same pass, because a pass with another batch size rounds differently.
        intact.append(logits[:, :1].expand(-1, len(channels), -1))
        without.append(logits[:, 1:])
    return _scores_of_table(target, torch.cat(intact, 1)) - _scores_of_table(target, torch.cat(without, 1))


def _channels(
    network: Network, name: str, module: nn.Module, image: Tensor, reshape: Reshape
) -> tuple[torch.Size, Int[Tensor, "c positions"], int]:
    """The shape of the module's output for one image, the flat positions of each map channel in it, and its call."""
    outputs: list[Tensor] = []

    def note(module: nn.Module, args: object, given: object) -> None:
        tensor = map_in(given, 1)
        assert tensor is not None
        outputs.append(tensor.clone())

    with module.register_forward_hook(note):
        network(image)
    call = call_of(name, len(outputs)) % len(outputs)
    output = outputs[call]
    # As floats, so that a `reshape` that computes new values also runs and is detected by its result.
    indices = reshape(torch.arange(output.numel()).view(output.shape).double()).long().clamp(0, output.numel() - 1)
    values = reshape(output)
    places = indices.to(output.device)
    if not torch.equal(output.flatten()[places].to(values.dtype), values):
        raise ValueError(
            "reshape must only rearrange and select values, so that a channel can be found in the layer's output"
        )
    return output.shape[1:], places[0].flatten(1), call


def _gone(places: Int[Tensor, "c positions"], shape: torch.Size) -> Bool[Tensor, "copies *shape"]:
    """The part that each copy of a layer's output loses: the first copy nothing, every other copy one channel."""
    gone = torch.zeros(1 + len(places), shape.numel(), dtype=torch.bool, device=places.device)
    gone[1:].scatter_(1, places, True)
    return gone.view(-1, *shape)


def _goes_on_with_copies(network: Network, module: nn.Module, call: int, image: Tensor, shape: torch.Size) -> bool:
    """Whether the network may compute one row up to the module's output and continue with several copies of it.

    This saves most of the work. It is wrong if the copies later meet a tensor of one row that does not broadcast: in
    `torch.cat` (DenseNet), in an in-place sum into the one row, in `view` or `expand` with the batch size of the image.
    Most such networks raise or give one row of logits, but a `view` that mistakes copies for positions may do neither.
    So both ways are tried and compared, on copies that are as different as possible: one intact, two that lost all.
    """
    gone = torch.zeros(3, *shape, dtype=torch.bool, device=image.device)
    gone[1:] = True
    expected = _logits_without(gone, network, module, call, _copies(image, len(gone)))
    try:
        found = _logits_without(gone, network, module, call, image)
    except Exception:  # a network may raise anything for rows that do not match
        return False
    effect = (expected[1:] - expected[0]).abs().max()
    return found.shape == expected.shape and bool((found - expected).abs().max() <= SAME * effect)


def _logits_without(
    gone: Bool[Tensor, "copies *shape"],
    network: Network,
    module: nn.Module,
    call: int,
    images: Float[Tensor, "rows c *size"],
) -> Float[Tensor, "_ k"]:
    """The logits if copies replace the module's output, each without its part; for one image, or one per copy."""
    with _replaced(module, call, lambda output: output.masked_fill(gone, 0), len(images)):
        return network(images)


@contextmanager
def _replaced(module: nn.Module, call: int, change: Callable[[Tensor], Tensor], count: int) -> Iterator[None]:
    """Within the context, the output of this call of the module is changed."""
    calls = 0

    def replace(module: nn.Module, args: object, given: object) -> object:
        nonlocal calls
        calls += 1
        tensor = map_in(given, count)
        return None if tensor is None or calls - 1 != call else with_tensor(given, tensor, change(tensor))

    with module.register_forward_hook(replace):
        yield


def _copies(image: Float[Tensor, "1 c *size"], count: int) -> Float[Tensor, "{count} c *size"]:
    return image.expand(count, *(-1 for _ in image.shape[1:]))
