"""Methods by name, as written here and as others write them."""

import pytest
import torch
from torch import nn

from cam_core import ALL_METHODS, METHODS, cams_of_methods, spec_of
from cam_core.names import specs_of
from cam_core.perturbation import PERTURBATION_METHODS


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("GradCAM", "gradcam"),
        ("Grad-CAM++", "gradcam++"),
        ("GradCAMPlusPlus", "gradcam++"),
        ("HiResCAM", "hirescam"),
        ("XGradCAM", "xgradcam"),
        ("LayerCAM", "layercam"),
        ("GradCAMElementWise", "elementwise"),
        ("EigenCAM", "eigencam"),
        ("EigenGradCAM", "eigengradcam"),
        ("ScoreCAM", "scorecam"),
        ("AblationCAM", "ablationcam"),
        ("aug_smooth", "gradcam:aug_smooth"),
        ("eigen_smooth", "gradcam:eigen_smooth"),
        (" gradcam : eigen_smooth : aug_smooth", "gradcam:aug_smooth:eigen_smooth"),
        ("ScoreCAM:eigen_smooth", "scorecam:eigen_smooth"),
    ],
)
def test_every_way_to_write_a_method_means_one_name(written: str, name: str) -> None:
    assert spec_of(written).name == name
    assert spec_of(name).name == name


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("gradkam", "method 'gradkam' is unknown .did you mean 'gradcam'"),
        ("", "method '' is unknown; use one of gradcam,"),
        ("gradcam:smooth", "method 'gradcam:smooth': 'smooth' is not a smoothing; use one of aug_smooth, eigen_smooth"),
        ("eigencam:eigen_smooth", "eigencam is already a first component; leave out :eigen_smooth"),
        ("eigengradcam:eigen_smooth", "eigengradcam is already a first component"),
    ],
)
def test_what_is_no_method_is_refused_in_one_line(written: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        spec_of(written)
    assert "\n" not in str(error.value)


def test_a_text_in_the_place_of_a_list_is_told_so() -> None:
    with pytest.raises(
        ValueError, match=r"methods must be a list of names, got the text 'gradcam'; write \['gradcam'\]"
    ):
        specs_of("gradcam")


def test_one_method_under_two_names_is_refused() -> None:
    with pytest.raises(ValueError, match="methods names 'gradcam' twice"):
        specs_of(["gradcam", "GradCAM"])


def test_every_method_works_with_every_smoothing_it_allows() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    smoothed = [f"{name}:eigen_smooth" for name in ALL_METHODS if not name.startswith("eigen")]
    names = [*ALL_METHODS, *smoothed, *(f"{name}:aug_smooth" for name in (*ALL_METHODS, *smoothed))]
    names = [spec_of(name).name for name in names]
    found = cams_of_methods(model, torch.rand(2, 3, 6, 6), ["1"], torch.tensor([0, 1]), methods=names)
    assert list(found) == [maps.method for maps in found.values()] == names
    assert set(ALL_METHODS) == {*METHODS, *PERTURBATION_METHODS}
    for name, maps in found.items():
        assert maps.maps.isfinite().all(), name
        assert 0 <= maps.maps.min() <= maps.maps.max() <= 1, name
    tops = {name: maps.maps.amax((2, 3)) for name, maps in found.items() if ":aug_smooth" not in name}
    assert all(((top == 1) | (top == 0)).all() for top in tops.values())
