"""The benchmark of the maps runs, and those it compares compute the same."""

import math
import re
from collections.abc import Iterator

import pytest
import torch
from threadpoolctl import threadpool_limits

from benchmarks import cam, cam_runs


@pytest.fixture(scope="module")
def tiny(one_thread: None) -> Iterator[cam_runs.Case]:
    with threadpool_limits(1):
        yield cam_runs.case("fastnet", 2, torch.device("cpu"))


@pytest.mark.slow
def test_every_run_and_every_aim_has_a_row_with_finite_ratios(tiny: cam_runs.Case) -> None:
    lines = list(cam.report(tiny, 1, (2, 3)))
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}
    for runs in (cam_runs.one_pass(tiny), cam_runs.one_object_each(tiny), cam_runs.eigen(tiny)):
        assert runs.keys() <= rows.keys()
    assert {"one of 2 images", "one of 3 images"} <= rows.keys()
    aims = [aim for aims in cam.AIMS.values() for aim in aims]
    assert {f"{aim.run} / {aim.base}" for aim in aims} <= rows.keys()
    for name, row in rows.items():
        if name not in ("run", "ratio"):
            ratios = [float(re.sub(r" .*", "", cell)) for cell in row.strip("| ").split(" | ")[-2:]]
            assert all(math.isfinite(ratio) and ratio > 0 for ratio in ratios), row


def test_the_network_of_the_benchmark_has_maps(tiny: cam_runs.Case) -> None:
    for name, found in cam_runs.ours(tiny.of(32), cam_runs.EIGHT).items():
        assert (found.strength > 0).float().mean(1).min() > 0.5, f"{name}: most maps of a layer are dead"


def test_torchcam_and_captum_compute_the_same_maps(tiny: cam_runs.Case) -> None:
    expected = cam_runs.ours(tiny, list(cam_runs.TORCHCAM_FOUR))
    torch.testing.assert_close(cam_runs.captum_maps(tiny), expected["gradcam"].maps, atol=1e-4, rtol=0)
    found = cam_runs.torchcam_maps(tiny, ["GradCAM", "LayerCAM"])
    torch.testing.assert_close(found["GradCAM"], expected["gradcam"].maps, atol=1e-4, rtol=0)
    torch.testing.assert_close(found["LayerCAM"], expected["layercam"].maps, atol=1e-4, rtol=0)


def test_grad_cam_makes_one_map_per_method_and_layer(tiny: cam_runs.Case) -> None:
    found = cam_runs.grad_cam_maps(tiny, cam_runs.GRAD_CAM_SIX)
    assert [maps.shape for maps in found] == [(2, 32, 32)] * (6 * len(tiny.layers))


def test_the_bare_limit_is_the_gradient_that_the_engine_sees(tiny: cam_runs.Case) -> None:
    evidence = cam_runs.cam_core.capture(tiny.model, tiny.images, tiny.layers, tiny.classes)
    torch.testing.assert_close(cam_runs.bare_limit(tiny), evidence.gradients["stem"])


def test_a_ratio_is_the_median_of_the_ratios_within_the_rounds() -> None:
    run, base = cam.Timing([2.0, 9.0, 4.0], [1.0, 1.0, 1.0]), cam.Timing([1.0, 3.0, 1.0], [2.0, 4.0, 8.0])
    assert cam.ratio(run, base) == (3.0, 0.25)


@pytest.mark.slow
def test_runs_take_turns_and_the_order_is_reversed_every_other_round() -> None:
    calls: list[str] = []
    runs: dict[str, cam_runs.Run] = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    timings = cam.interleaved(runs, rounds=2, warm_up=1)
    assert "".join(calls) == "cba" + "abc" + "cba"
    assert [len(timing.wall) for timing in timings.values()] == [2, 2, 2]


@pytest.mark.parametrize(
    ("aim", "met", "missed"),
    [(cam.Aim("a", "b", at_most=1.35), 1.35, 1.36), (cam.Aim("a", "b", at_least=25), 25.0, 24.9)],
)
def test_a_missed_aim_is_called_missed(aim: cam.Aim, met: float, missed: float) -> None:
    base = cam.Timing([1.0], [1.0])
    assert cam.aim_row(aim, {"a": cam.Timing([met], [missed]), "b": base}).count("(missed)") == 1
    assert aim.met(met)
    assert not aim.met(missed)
