"""The settings of a training: its options, and what they mean together."""

from collections.abc import Mapping
from typing import ClassVar, TypeVar

from pydantic import model_validator

from .base import AUTO, BY_RECIPE, NONE
from .idle import POLICIES, idle
from .notation import arguments, hole_ranges, padding_pixels, rising_epochs, side_shares
from .parts import WITH, is_foreign
from .recipes import Values
from .train_options import AllOptions

OF_MACHINE = frozenset(
    [
        *("device", "channels_last", "compile", "threads", "augment_workers", "checkpoint", "resume"),
        *("offline", "outbox", "wait_for_tracking"),
    ]
)
"""Options that change where or how fast something is computed and recorded, but not what is trained."""

T = TypeVar("T", bound="TrainSettings")


class TrainSettings(AllOptions):
    """Train one variant, explain it with Grad-CAM and log everything to MLflow."""

    command: ClassVar[str] = "python -m experiments.train"
    former: ClassVar[Mapping[str, str]] = {"augment": "augment_by"}

    @property
    def side(self) -> int:
        """Height and width of the images, in pixels."""
        return 32 if self.image_size == "auto" else self.image_size

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainSettings":
        ours = not is_foreign(self.model) and self.weights == NONE
        known = self.image_size != AUTO or ours  # otherwise weights or images decide the size
        if self.cutout and known and max(largest for _, largest in self.cutout_sizes) > self.side:
            raise ValueError(f"cutout_size={self.cutout_size}: must be at most the images' side of {self.side} pixels")
        if known and self.padding > self.side:
            raise ValueError(
                f"crop_padding={self.crop_padding}: must be at most the images' side of {self.side} pixels"
            )
        if self.nesterov and not self.momentum and self.optimizer in WITH["nesterov"]:
            raise ValueError("momentum=0: nesterov needs a momentum; add nesterov=false, or a momentum above 0")
        swings = self.schedule == "onecycle" and self.optimizer in WITH["momentum"]
        if swings and not self.momentum_swing <= self.momentum < 1 - self.momentum_swing:
            raise ValueError(
                f"momentum_swing={self.momentum_swing}: moves momentum={self.momentum} out of the range 0 to 1; "
                "give a smaller momentum_swing, or another momentum"
            )
        if self.schedule == "step" and not self.lr_step_epochs:
            raise ValueError("schedule=step: needs lr_steps, such as lr_steps=60,120,160")
        if self.schedule == "step" and self.lr_step_epochs[-1] >= self.epochs:
            raise ValueError(f"lr_steps={self.lr_steps}: all must be before the last epoch, epochs={self.epochs}")
        return self

    def idle(self) -> dict[str, tuple[str, str]]:
        """The options that have no effect, each with the reason and with an option that gives it an effect."""
        return idle(self)

    def without_effect(self) -> dict[str, str]:
        return {
            name: f"{name}={self.given[name]}: has no effect while {why}; add {cure} or leave {name} out"
            for name, (why, cure) in self.idle().items()
            if name in self.given
        }

    def with_values(self: T, **values: object) -> T:
        """The same settings with other values, checked again; `given` stays.

        Raises:
            SettingsError: the new values do not fit.
        """
        changed = type(self).of(**self.as_params() | values)
        changed._given = self._given
        return changed

    @property
    def recipe_values(self) -> Values:
        """The values of all options that a recipe decides. A recipe with these values gives these settings."""
        return {
            name: getattr(self, name) for name, field in type(self).model_fields.items() if BY_RECIPE in field.metadata
        }

    @property
    def image_by_image(self) -> bool:
        """Whether some transforms take one image at a time."""
        return any(getattr(self, name) not in (0, NONE) for name in ("augmentation", *POLICIES))

    @property
    def augment_path(self) -> str:
        """How the augmentation is computed, `batch` or `albumentations`."""
        return "batch" if self.augment_by == AUTO else self.augment_by

    @property
    def step_images(self) -> int:
        """The images of each step of the optimizer."""
        return self.batch_size * self.accumulate

    @property
    def head_rate(self) -> float:
        """The peak learning rate of the classifier."""
        return self.lr if self.lr_head == NONE else float(self.lr_head)

    @property
    def optimizer_arguments(self) -> dict[str, bool | int | float | tuple[float, ...]]:
        """The arguments in `optimizer_args`."""
        return arguments(self.optimizer_args)

    @property
    def side_shares(self) -> tuple[float, ...]:
        """The values of `sides` as shares of the full side, one for each part of the training."""
        return side_shares(self.sides)

    @property
    def cutout_sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Smallest and largest height, and smallest and largest width, of a hole in pixels."""
        ranges = hole_ranges(self.cutout_size, self.side)
        return ranges[0], ranges[-1]

    @property
    def padding(self) -> int:
        """`crop_padding` in pixels."""
        return padding_pixels(self.crop_padding, self.side)

    @property
    def in_pixels(self) -> dict[str, str]:
        """The options that may be a share of the side, in pixels, spelled as on the command line."""
        holes = [str(low) if low == high else f"{low}-{high}" for low, high in hole_ranges(self.cutout_size, self.side)]
        return {"cutout_size": "x".join(holes), "crop_padding": str(self.padding)}

    @property
    def cutout_square(self) -> bool:
        """Whether holes with placement `published` are squares, because `cutout_size` has one part for both sides."""
        return len(hole_ranges(self.cutout_size)) == 1

    @property
    def lr_step_epochs(self) -> tuple[int, ...]:
        """The epochs in `lr_steps`."""
        return rising_epochs(self.lr_steps)
