"""What is explained: classes, contrasts and functions of the logits, from one and the same pass."""

import pytest
import torch
from torch import Tensor, nn

from cam_core import Contrast, cams, capture, class_numbers, predicted
from cam_core.targets import as_target, scores, settled, take

LOGITS = torch.tensor([[1.0, 5.0, 3.0], [4.0, 0.0, 2.0]])


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)
    )


def test_scores_by_hand() -> None:
    classes, others = torch.tensor([2, 0]), torch.tensor([0, 1])
    assert scores(classes, LOGITS).tolist() == [3, 4]
    assert scores(Contrast(classes, others), LOGITS).tolist() == [2, 4]
    assert scores(predicted, LOGITS).tolist() == [5, 4]
    assert scores(lambda logits: logits.sum(1), LOGITS).tolist() == [9, 6]


def test_the_predicted_class_is_the_one_class_that_predicted_explains_even_in_a_tie() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(scores(predicted, logits).sum(), logits)
    assert gradient.sum(1).tolist() == [1, 1]
    assert gradient.count_nonzero() == 2


def test_take_gives_the_target_of_some_images_in_their_order() -> None:
    indices = torch.tensor([1, 1, 0])
    taken = take(Contrast(torch.tensor([2, 0]), torch.tensor([0, 1])), indices)
    assert isinstance(taken, Contrast)
    assert (taken.classes.tolist(), taken.others.tolist()) == ([0, 0, 2], [1, 1, 0])
    assert take(predicted, indices) is predicted


def test_the_evidence_of_a_contrast_is_the_difference_of_its_classes_evidence() -> None:
    images, classes, others = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 2])
    model = net()
    contrast = capture(model, images, ["1"], Contrast(classes, others)).gradients["1"]
    apart = [capture(model, images, ["1"], target).gradients["1"] for target in (classes, others)]
    torch.testing.assert_close(contrast, apart[0] - apart[1])


@pytest.mark.parametrize(
    "method", ["gradcam", "scorecam", "ablationcam", "gradcam:aug_smooth", "hirescam:eigen_smooth"]
)
def test_predicted_is_the_class_with_the_highest_logit_of_the_image_itself(method: str) -> None:
    images, model = torch.randn(5, 3, 8, 8), net()
    found = cams(model, images, ["1"], predicted, method=method, chunk=2)
    named = cams(model, images, ["1"], model(images).argmax(1), method=method)
    torch.testing.assert_close(found.maps, named.maps, atol=1e-5, rtol=0)


def test_a_function_of_the_logits_may_be_a_probability() -> None:
    images, model = torch.randn(3, 3, 8, 8), net()
    evidence = capture(model, images, ["1"], lambda logits: logits.softmax(1)[:, 1])
    activations = model[1](model[0](images)).detach().requires_grad_()
    (expected,) = torch.autograd.grad(model[2:](activations).softmax(1)[:, 1].sum(), activations)
    torch.testing.assert_close(evidence.gradients["1"], expected)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, 1]), r"target must be 3 whole numbers, one class per image, got torch.int64 \(2,\)"),
        (torch.tensor([True, False, True]), "target must be 3 whole numbers, .* got torch.bool"),
        (Contrast(torch.tensor([0, 1]), torch.tensor([1, 0])), r"target.classes must be 3 whole numbers.*\(2,\)"),
    ],
)
def test_targets_of_another_number_are_refused(target: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_target(target, 3)


@pytest.mark.parametrize("target", [1.5, "cat", True, object()])
def test_what_is_no_target_is_refused_with_what_is(target: object) -> None:
    with pytest.raises(TypeError, match=f"target must be a class, a list .* or None .* got {type(target).__name__}"):
        as_target(target, 2)


@pytest.mark.parametrize(
    ("function", "got"),
    [(lambda logits: logits, r"shape \(2, 3\)"), (lambda logits: logits.sum(), r"shape \(\)"), (len, "int")],
)
def test_functions_that_do_not_give_one_number_each_are_refused(function: object, got: str) -> None:
    with pytest.raises(ValueError, match=rf"target must turn logits \(2, 3\) into \(2,\), one each, got {got}"):
        scores(function, LOGITS)  # type: ignore[arg-type]


def test_a_class_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match="target contains class 3, but the model has 3 classes: 0 to 2"):
        scores(torch.tensor([0, 3]), LOGITS)
    with pytest.raises(ValueError, match="target contains class -1"):
        scores(Contrast(torch.tensor([0, 1]), torch.tensor([0, -1])), LOGITS)


def test_a_target_that_does_not_depend_on_the_layer_is_named() -> None:
    def constant(logits: Tensor) -> Tensor:
        return logits.detach()[:, 0]

    with pytest.raises(ValueError, match="the target does not depend on layer '1'"):
        capture(net(), torch.randn(2, 3, 8, 8), ["1"], constant)


def test_a_contrast_with_several_classes_is_the_mean_of_the_contrasts_with_each() -> None:
    images, classes, others = torch.randn(2, 3, 8, 8), torch.tensor([0, 1]), torch.tensor([[1, 2], [2, 0]])
    model = net()
    found = capture(model, images, ["1"], Contrast(classes, others)).gradients["1"]
    apart = [capture(model, images, ["1"], Contrast(classes, other)).gradients["1"] for other in others.unbind(1)]
    torch.testing.assert_close(found, torch.stack(apart).mean(0))
    without = capture(model, images, ["1"], Contrast(classes, others, strength=0.0)).gradients["1"]
    torch.testing.assert_close(without, capture(model, images, ["1"], classes).gradients["1"])


def test_the_nearest_classes_by_hand() -> None:
    logits = torch.tensor([[1.0, 5.0, 3.0, 4.5], [4.0, 0.0, 2.0, 7.0]])
    assert scores(Contrast(near=1), logits).tolist() == [0.5, 3.0]
    assert scores(Contrast(near=2, strength=0.5), logits).tolist() == [5 - 0.5 * 3.75, 7 - 0.5 * 3]
    # From both sides, and never the class itself; more than there are means all.
    of_three = as_target(Contrast(torch.tensor([2, 0]), near=9), 2)
    chosen = settled(of_three, logits)
    assert isinstance(chosen, Contrast)
    others = chosen.others
    assert others is not None
    assert others.sort(1).values.tolist() == [[0, 1, 3], [1, 2, 3]]


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam", "gradcam:aug_smooth"])
def test_near_classes_are_those_of_the_image_itself(method: str) -> None:
    images, model = torch.randn(5, 3, 8, 8), net()
    logits = model(images).detach()
    found = cams(model, images, ["1"], Contrast(near=1), method=method, chunk=2)
    order = logits.argsort(1, descending=True)
    named = cams(model, images, ["1"], Contrast(order[:, 0], order[:, 1]), method=method)
    torch.testing.assert_close(found.maps, named.maps, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Contrast(near=0), "target.near must be 1 class or more, got 0"),
        (Contrast(torch.tensor([0, 1]), torch.tensor([[1, 2]])), r"target.others must be 2 whole numbers.*\(1, 2\)"),
        (Contrast(others=torch.zeros(2, 0, dtype=torch.long)), r"target.others must be 2 whole .*\(2, 0\)"),
    ],
)
def test_contrasts_that_fit_no_batch_are_refused(target: Contrast, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_target(target, 2)


def test_one_logit_has_no_nearest_class() -> None:
    with pytest.raises(ValueError, match="Contrast needs a model of two classes or more"):
        scores(Contrast(), torch.zeros(2, 1))


def test_classes_by_name() -> None:
    names = ["tench", "tiger cat", "crane", "crane"]
    assert class_numbers("tiger cat", names) == 1
    assert class_numbers(["tiger cat", "tench"], names) == [1, 0]
    with pytest.raises(
        ValueError, match=r"class 'tigercat' is unknown \(did you mean 'tiger cat'\?\); the model has 4"
    ):
        class_numbers("tigercat", names)
    with pytest.raises(ValueError, match=r"'crane' is the name of several classes; give one of the numbers \[2, 3\]"):
        class_numbers(["tench", "crane"], names)
    with pytest.raises(TypeError, match="class_numbers makes numbers of names"):
        as_target("tench", 2)
