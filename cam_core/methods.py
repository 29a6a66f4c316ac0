"""The Grad-CAM family as pure functions of one layer's activations and gradients.

Each function takes activations A and gradients g = dy/dA, both `(n, c, h, w)`, and returns each channel's contribution
to the map, `(n, c, h, w)`. `METHODS` contains the methods that make maps from them, `(n, h, w)` at the resolution of
the layer: the sum over channels, or the first principal component. `cam_core.maps.finish` then applies ReLU, resize and
scaling.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

ROUNDING = 1e-6
"""A sum below this share of the sum of absolute values shows the rounding of float32, not the network."""

STEPS = 12
"""The steps of Lanczos that look for the first principal component."""

DIRECTION = 1e-5
"""The largest error of a first principal component that is accepted without computing all components."""

Contributions = Callable[[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]], Float[Tensor, "n c h w"]]
Method = Callable[[Float[Tensor, "n c h w"], Float[Tensor, "n c h w"]], Float[Tensor, "n h w"]]


def gradcam(activations: Float[Tensor, "n c h w"], gradients: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """mean(g) A, the mean over positions (Selvaraju et al., ICCV 2017)."""
    return gradients.mean((2, 3), keepdim=True) * activations


def gradcam_plus_plus(
    activations: Float[Tensor, "n c h w"], gradients: Float[Tensor, "n c h w"]
) -> Float[Tensor, "n c h w"]:
    """w A, w the sum over positions of alpha relu(g), alpha = g^2 / (2 g^2 + S g^3), S the sum of A over positions.

    Equation 19 of Chattopadhay et al., WACV 2018, which simplifies to relu(g) / (2 + S relu(g)), without powers and
    epsilon. A position counts 0 if a negative S makes the denominator zero or negative. Unlike all other methods here,
    this map depends on the scale of the logits, so be careful when you compare models of different confidence.
    """
    positive = gradients.relu()
    # Infinite if it is not positive, so that the position counts 0.
    denominator = F.threshold(2 + activations.sum((2, 3), keepdim=True) * positive, 0.0, math.inf)
    return (positive / denominator).sum((2, 3), keepdim=True) * activations


def hirescam(activations: Float[Tensor, "n c h w"], gradients: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """g A, without an average (Draelos and Carin, 2020, arXiv:2011.08891)."""
    return gradients * activations


def xgradcam(activations: Float[Tensor, "n c h w"], gradients: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """w A, w = sum(g A) / sum(A) over positions, 0 where sum(A) is 0 (Fu et al., BMVC 2020).

    Use it for layers after the activation: if A has both signs, sum(A) can be close to 0, and the weight very large.
    """
    total = activations.sum((2, 3), keepdim=True)
    share = (gradients * activations).sum((2, 3), keepdim=True) / total
    return torch.where(total != 0, share, 0.0) * activations


def layercam(activations: Float[Tensor, "n c h w"], gradients: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """relu(g) A (Jiang et al., IEEE TIP 2021)."""
    return gradients.relu() * activations


def elementwise(activations: Float[Tensor, "n c h w"], gradients: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """relu(g A): HiResCAM of the positive terms only (GradCAMElementWise of grad-cam)."""
    return (gradients * activations).relu()


def summed(contributions: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
    """The sum over all channels; without positive values where they are nothing but rounding.

    A map whose maximum is below `ROUNDING` of its bound, the largest sum of absolute contributions at one position, has
    no positive evidence. Before a LayerNorm, for example, gradient times activation sums to 0 at every position.
    """
    total = contributions.sum(1)
    bound = contributions.abs().sum(1).amax((1, 2), keepdim=True)
    nothing = total.amax((1, 2), keepdim=True) < ROUNDING * bound
    return torch.where(nothing, total.clamp(max=0), total)


def eigen_smoothed(contributions: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
    """The first principal component, on which most channels agree, with the sign of its correlation with the sum.

    This is `eigen_smooth` of grad-cam, where the sign is random. The component is centred, so its mean is 0.
    """
    component = first_component(contributions)
    agreement = (component * summed(contributions)).sum((1, 2), keepdim=True)
    return torch.where(agreement < 0, -component, component)


def first_component(contributions: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
    """The first principal component over positions, centred per channel; its largest magnitude is positive.

    grad-cam finds this projection with one singular value decomposition per image (Muhammad and Yeasin, EigenCAM, IJCNN
    2020). Here it is the first eigenvector of the smaller of the two Gram matrices. It scales with its argument.
    """
    table = contributions.flatten(2)
    top = torch.maximum(table.amax((1, 2), keepdim=True), -table.amin((1, 2), keepdim=True))
    # Scaled to [-1, 1] first, where the squares of small gradients do not underflow.
    centred = table / torch.where(top > 0, top, 1.0)
    centred -= centred.mean(2, keepdim=True)
    channels, positions = centred.shape[1:]
    if channels <= positions:
        direction = _leading(centred @ centred.mT)[0]
        component = (direction[:, None] @ centred)[:, 0]
    else:
        direction, value = _leading(centred.mT @ centred)
        component = direction * value[:, None].clamp(min=0).sqrt()
    peak = component.gather(1, component.abs().argmax(1, keepdim=True))
    signed = torch.where(peak < 0, -component, component) * top[:, 0]
    return signed.view(len(contributions), *contributions.shape[2:])


def _leading(matrices: Float[Tensor, "n d d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
    """The eigenvector of the largest eigenvalue of each symmetric matrix, and that eigenvalue.

    Some steps of Lanczos for all matrices at once, much faster than all eigenvectors. Where the residual says that the
    direction may be further off than `DIRECTION`, which happens if two eigenvalues are close, all are computed.
    """
    if matrices.shape[1] <= 4 * STEPS:
        return _of_all(matrices)
    basis, small, beyond = _krylov(matrices)
    values, vectors = torch.linalg.eigh(small)
    found = (basis.mT @ vectors[:, :, -1:])[:, :, 0]
    # The direction is off by at most the residual divided by the distance to the next eigenvalue.
    residual = beyond * vectors[:, -1, -1].abs()
    unsure = ~(residual <= DIRECTION * (values[:, -1] - values[:, -2]))
    value = values[:, -1]
    if unsure.any():
        found[unsure], value[unsure] = _of_all(matrices[unsure])
    return found, value


def _of_all(matrices: Float[Tensor, "n d d"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, " n"]]:
    values, vectors = torch.linalg.eigh(matrices)
    return vectors[:, :, -1], values[:, -1]


def _krylov(
    matrices: Float[Tensor, "n d d"],
) -> tuple[Float[Tensor, "n steps d"], Float[Tensor, "n steps steps"], Float[Tensor, " n"]]:
    """An orthonormal basis of the Krylov space, the matrices on it, and the length of the step beyond it."""
    # The column of the largest diagonal value is close to the direction, and is never orthogonal to it by accident.
    largest = matrices.diagonal(dim1=1, dim2=2).argmax(1)
    start = matrices[torch.arange(len(matrices), device=matrices.device), largest]
    vector = torch.nn.functional.normalize(start, dim=1)
    basis, images = [], []
    for _ in range(STEPS):
        basis.append(vector)
        images.append((matrices @ vector[:, :, None])[:, :, 0])
        known = torch.stack(basis, 1)
        rest = images[-1]
        for _ in range(2):  # twice, because once leaves rounding
            rest = rest - (known.mT @ (known @ rest[:, :, None]))[:, :, 0]
        length = rest.norm(dim=1)
        vector = torch.where(length[:, None] > 0, rest / length[:, None], 0.0)
    known = torch.stack(basis, 1)
    small = known @ torch.stack(images, 1).mT
    return known, (small + small.mT) / 2, length


def _summed(of: Contributions, activations: Tensor, gradients: Tensor) -> Tensor:
    return summed(of(activations, gradients))


def _eigen_smoothed(of: Contributions, activations: Tensor, gradients: Tensor) -> Tensor:
    return eigen_smoothed(of(activations, gradients))


def eigencam(activations: Float[Tensor, "n c h w"], gradients: Float[Tensor, "n c h w"]) -> Float[Tensor, "n h w"]:
    """The first component of A (Muhammad and Yeasin, IJCNN 2020); the same for every class."""
    return first_component(activations)


CONTRIBUTIONS: Mapping[str, Contributions] = MappingProxyType(
    {
        "gradcam": gradcam,
        "gradcam++": gradcam_plus_plus,
        "hirescam": hirescam,
        "xgradcam": xgradcam,
        "layercam": layercam,
        "elementwise": elementwise,
    }
)
"""The contributions of the channels, by name of the method."""

METHODS: Mapping[str, Method] = MappingProxyType(
    {name: partial(_summed, of) for name, of in CONTRIBUTIONS.items()}
    # By its definition, EigenGradCAM is HiResCAM with the first component instead of the sum.
    | {"eigencam": eigencam, "eigengradcam": partial(_eigen_smoothed, hirescam)}
)
"""The methods that need only one pass, `(activations, gradients) -> map`, by the names that `cams` takes."""

WITHOUT_GRADIENTS = frozenset({"eigencam"})
"""The methods in `METHODS` that do not use the gradients."""

EIGEN_SMOOTHED: Mapping[str, Method] = MappingProxyType(
    {name: partial(_eigen_smoothed, of) for name, of in CONTRIBUTIONS.items()}
)
"""The same methods with the first component instead of the sum over channels."""
