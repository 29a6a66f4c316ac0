"""Typed, strict settings of every entry point, and the command line made from them.

Options are spelled exactly like the `-P` names of `MLproject`. This module imports neither torch nor mlflow, so that
`--help` answers at once.
"""

import argparse
import inspect
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, NoReturn, TypeVar, get_args

import annotated_types
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from experiments.notation import hole_ranges, rising_epochs, side_shares
from experiments.recipes import RECIPES, RecipeError, Values, did_you_mean, find, with_steps_for

AUTO = "auto"
NONE = "none"
S = TypeVar("S", bound="Settings")  # beartype, which checks types under pytest, does not take typing.Self here


class SettingsError(ValueError):
    """Every problem found in the settings, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class _ByRecipe:
    """Marks an option whose value comes from the recipe unless given by hand."""


BY_RECIPE = _ByRecipe()


def _read_by(parse: Callable[[str], object]) -> AfterValidator:
    """Keeps a text as it is where `parse` reads it."""

    def checked(text: str) -> str:
        parse(text)
        return text

    return AfterValidator(checked)


def _recipe_name(text: str) -> str:
    """`text` unchanged where it names a recipe, or a file that holds one."""
    find(text)
    return text


def _dataset_name(text: str) -> str:
    """`text` unchanged where it names a data set."""
    known = ("auto", "cifar10", "scenes")
    if text in known or (text.startswith("folder:") and len(text) > len("folder:")):
        return text
    raise ValueError(f"must be auto, cifar10, scenes or folder:PATH{did_you_mean(text, known)}")


class Settings(BaseModel):
    """The options of one entry point, read only; unknown options are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    command: ClassVar[str]

    @classmethod
    def of(cls: type[S], **given: object) -> S:
        """The settings that follow from `given`: what is not given, or `auto`, is as the recipe or the default says.

        Raises:
            SettingsError: with every problem, one line each.
        """
        known = {name: value for name, value in given.items() if name in cls.model_fields}
        problems = [
            f"unknown option {name!r}{did_you_mean(name, list(cls.model_fields))}"
            for name in given.keys() - known.keys()
        ]
        values = cls._recipe_values(given) | {k: v for k, v in known.items() if not cls._left_to_recipe(k, v)}
        try:
            settings = cls(**values)
        except ValidationError as error:
            sentences = [_sentence(cls, detail) for detail in error.errors()]
            raise SettingsError([*problems, *dict.fromkeys(sentences)]) from None
        if problems:
            raise SettingsError(problems)
        return settings

    @classmethod
    def from_argv(cls: type[S], argv: Sequence[str] | None = None) -> S:
        """The settings given on the command line; prints every problem, one line each, and exits with 2."""
        given = cls.given(argv)
        try:
            settings = cls.of(**given)
            if problems := settings.without_effect(given):
                raise SettingsError(problems)
        except SettingsError as error:
            fail(cls.command, error.problems)
        return settings

    @classmethod
    def given(cls, argv: Sequence[str] | None = None) -> dict[str, str]:
        """The options of the command line as typed, `auto` ones left out; unknown ones are kept for `of` to refuse."""
        parser = _parser(cls)
        known, rest = parser.parse_known_args(argv)
        given = {name: value for name, value in vars(known).items() if value != AUTO}
        return given | {word.removeprefix("--").split("=")[0]: "" for word in rest if word.startswith("-")}

    @classmethod
    def default_text(cls, name: str) -> str:
        """The default as it is spelled on the command line and in `MLproject`."""
        field = cls.model_fields[name]
        return AUTO if BY_RECIPE in field.metadata else _spelled(field.default)

    def as_params(self) -> dict[str, str]:
        """Every option with its value, spelled as on the command line."""
        return {name: _spelled(getattr(self, name)) for name in type(self).model_fields}

    def without_effect(self, given: Mapping[str, object]) -> list[str]:
        """One line for each option in `given` that the others make meaningless: a slip that would go unnoticed."""
        return []

    @classmethod
    def shown(cls, name: str, value: object) -> str:
        """The value of an option as messages tell it."""
        return str(value)

    @classmethod
    def _left_to_recipe(cls, name: str, value: object) -> bool:
        return value == AUTO and BY_RECIPE in cls.model_fields[name].metadata

    @classmethod
    def _recipe_values(cls, given: Mapping[str, object]) -> dict[str, object]:
        try:
            values = find(str(given.get("recipe", cls.model_fields["recipe"].default))).values
        except RecipeError:
            # Reported by the field of its own; the other options are still checked against some recipe.
            values = RECIPES["fast"].values
        return (
            dict(values) if given.get("lr_steps", AUTO) != AUTO else dict(with_steps_for(given.get("epochs"), values))
        )


def _spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


class TrainSettings(Settings):
    """Train one variant, explain it with Grad-CAM and log everything to MLflow."""

    command: ClassVar[str] = "python -m experiments.train"

    recipe: Annotated[str, AfterValidator(_recipe_name)] = Field(
        "fast",
        description=f"settings to start from, by name ({', '.join(RECIPES)}) or a FILE.toml; "
        "a value given by hand wins over them",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="of everything random in the training")

    # Data
    dataset: Annotated[str, AfterValidator(_dataset_name)] = Field(
        "auto",
        description="cifar10, scenes (built in) or folder:PATH; auto: cifar10 where it can be had, else scenes",
    )
    data_dir: str = Field(
        "data", min_length=1, description="folder for data sets (CIFAR10_ROOT, where set, wins for CIFAR-10)"
    )
    background_bias: float = Field(
        0.5, ge=0, le=1, description="scenes: probability that a class's own texture lies behind it"
    )
    image_size: Annotated[int, Field(ge=16, le=256)] | Literal["auto"] = Field(
        "auto", description="side of the images, pixels; auto: 32"
    )
    train_images: Annotated[int, Field(ge=1)] | Literal["all"] = Field("all", description="train on this many images")

    # Network
    model: Annotated[Literal["fastnet", "fastnet_wide", "resnet18"], BY_RECIPE] = Field(description="network")
    dropout: Annotated[float, BY_RECIPE] = Field(
        ge=0, lt=1, description="share of features dropped before the classifier"
    )

    # Optimisation
    epochs: Annotated[int, BY_RECIPE] = Field(ge=1, le=10_000, description="passes over the training images")
    batch_size: Annotated[int, BY_RECIPE] = Field(ge=2, le=65_536, description="images per step")
    lr: Annotated[float, BY_RECIPE] = Field(
        gt=0, le=100, description="peak learning rate, of Muon where it is the optimizer"
    )
    optimizer: Annotated[Literal["sgd", "muon"], BY_RECIPE] = Field(
        description="muon: orthogonalised steps for the kernels of convolutions, SGD for the rest"
    )
    momentum: Annotated[float, BY_RECIPE] = Field(ge=0, lt=1, description="momentum, of Muon where it is the optimizer")
    momentum_swing: Annotated[float, BY_RECIPE] = Field(
        ge=0,
        le=0.1,
        description="onecycle: how far momentum is above its value at either end and below it at the peak of the rate; "
        "PyTorch's OneCycleLR has 0.05 about 0.9",
    )
    nesterov: Annotated[bool, BY_RECIPE] = Field(description="Nesterov momentum")
    weight_decay: Annotated[float, BY_RECIPE] = Field(
        ge=0, le=1, description="weight decay; of Muon: the share that a step takes off the rest"
    )
    schedule: Annotated[Literal["constant", "step", "onecycle", "cosine", "linear"], BY_RECIPE] = Field(
        description="how the learning rate moves"
    )
    lr_warmup: Annotated[float, BY_RECIPE] = Field(
        ge=0, lt=1, description="onecycle: share of the training until the peak"
    )
    lr_steps: Annotated[str, BeforeValidator(str), _read_by(rising_epochs), BY_RECIPE] = Field(
        description="step: epochs at whose end the rate is multiplied by lr_gamma, such as 60,120,160, or none; "
        "those of a recipe keep their share of the training where epochs is given alone"
    )
    lr_gamma: Annotated[float, BY_RECIPE] = Field(gt=0, le=1, description="step: factor at each of lr_steps")
    label_smoothing: Annotated[float, BY_RECIPE] = Field(
        ge=0, lt=1, description="share of the target spread over all classes"
    )
    l1: Annotated[float, BY_RECIPE] = Field(ge=0, le=1, description="weight of the sum of |parameters| in the loss")
    l2_norm: Annotated[float, BY_RECIPE] = Field(
        ge=0,
        le=1,
        description="weight of the 2-norm of all parameters together (not squared) in the loss; weight_decay is the "
        "usual form",
    )
    sides: Annotated[str, BeforeValidator(str), _read_by(side_shares), BY_RECIPE] = Field(
        description="shrink the images of equal parts of the training to these sides, such as 20,24,32 (of 32), or none"
    )
    test_flip: Annotated[bool, BY_RECIPE] = Field(
        description="log beside each final accuracy that of the mean logits of every image and its mirror image"
    )
    track_test: Annotated[bool, BY_RECIPE] = Field(
        description="evaluate the test images after every epoch, for the curves only"
    )
    holdout: Annotated[bool, BY_RECIPE] = Field(
        description="keep validation images apart; false: train on them too, as most published accuracies did"
    )

    # Augmentation
    hflip: Annotated[float, BY_RECIPE] = Field(ge=0, le=1, description="probability of a horizontal flip")
    hflip_mode: Annotated[Literal["random", "alternating"], BY_RECIPE] = Field(
        description="random: drawn anew in every epoch; alternating: drawn once, then every other epoch (airbench)"
    )
    affine_p: Annotated[float, BY_RECIPE] = Field(
        ge=0, le=1, description="probability that an image is shifted, scaled and rotated"
    )
    shift: Annotated[float, BY_RECIPE] = Field(ge=0, le=1, description="largest shift, as a share of the side")
    scale: Annotated[float, BY_RECIPE] = Field(ge=0, lt=1, description="largest change of size: 0.1 is 0.9 to 1.1")
    rotate: Annotated[float, BY_RECIPE] = Field(ge=0, le=180, description="largest rotation, degrees either way")
    crop_padding: Annotated[int, BY_RECIPE] = Field(
        ge=0, le=64, description="pad by this many pixels, then crop at random; 0: off"
    )
    border: Annotated[Literal["black", "reflect"], BY_RECIPE] = Field(
        description="what crops and rotations show beyond the image"
    )
    hsv_p: Annotated[float, BY_RECIPE] = Field(
        ge=0, le=1, description="probability that hue, saturation and value are shifted"
    )
    hue: Annotated[int, BY_RECIPE] = Field(
        ge=0, le=90, description="largest shift of the hue, of 180 around the circle"
    )
    saturation: Annotated[int, BY_RECIPE] = Field(ge=0, le=255, description="largest shift of the saturation, of 255")
    value: Annotated[int, BY_RECIPE] = Field(ge=0, le=255, description="largest shift of the value (lightness), of 255")
    cutout: Annotated[bool, BY_RECIPE] = Field(description="erase holes in the training images (DeVries & Taylor 2017)")
    cutout_holes: Annotated[int, BY_RECIPE] = Field(ge=1, le=64, description="holes per image")
    cutout_size: Annotated[str, BeforeValidator(str), _read_by(hole_ranges), BY_RECIPE] = Field(
        description="side of a hole, pixels, or a range such as 8-20; or height x width such as 12x20 or 8-12x16-20"
    )
    cutout_p: Annotated[float, BY_RECIPE] = Field(ge=0, le=1, description="probability that an image gets its holes")
    cutout_fill: Annotated[Literal["mean", "black", "random", "noise"], BY_RECIPE] = Field(
        description="mean: of the training images (zero after normalisation); random: a colour a hole; noise: per pixel"
    )
    cutout_placement: Annotated[Literal["published", "inside"], BY_RECIPE] = Field(
        description="published: centre anywhere, clipped at the border; inside: whole hole in the image (CoarseDropout)"
    )

    # Pictures
    cam_method: str = Field(
        "gradcam",
        min_length=1,
        description="class activation map of the pictures and measures, such as gradcam, hirescam, gradcam:aug_smooth; "
        "scorecam and ablationcam ask the network once per channel, which takes minutes or more",
    )
    cam_methods: str = Field(
        "auto",
        min_length=1,
        description="methods in the picture that compares methods, such as GradCAM,ScoreCAM,eigen_smooth; "
        "auto: all of one pass",
    )
    cam_layers: str = Field(
        "auto", min_length=1, description="layers explained, such as layer3,layer4; auto: the network's own, all stages"
    )
    gallery_size: int = Field(10, ge=1, le=25, description="images in each gallery")

    # Machine
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda, else mps, else cpu")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 where the hardware has it, else fp32"
    )
    channels_last: Literal["auto", "true", "false"] = Field(
        "auto", description="memory format of images and weights; auto: true on cpu and cuda"
    )
    compile: bool = Field(
        False, description="torch.compile the network; needs a C++ compiler, pays in long runs on a GPU"
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        "auto", description="CPU threads; auto: all cores"
    )
    augment: Literal["auto", "batch", "albumentations"] = Field(
        "auto",
        description="what augments: batch: whole batches on the device, as albumentations declares; "
        "albumentations: itself, image by image; auto: batch",
    )
    checkpoint: str = Field(
        "auto",
        min_length=1,
        description="FILE: the state after the last epoch, which stays; auto: in data_dir/checkpoints about "
        "once a minute, removed at the end; none",
    )
    resume: str = Field(
        "auto",
        min_length=1,
        description="FILE: carry on from this checkpoint; auto: from the one of this training, where there is one; "
        "none: start over",
    )

    @property
    def side(self) -> int:
        """Side of the images, pixels."""
        return 32 if self.image_size == "auto" else self.image_size

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainSettings":
        if self.cutout and max(largest for _, largest in self.cutout_sizes) > self.side:
            raise ValueError(f"cutout_size={self.cutout_size}: must be at most the images' side of {self.side} pixels")
        if self.nesterov and not self.momentum:
            raise ValueError("momentum=0: nesterov needs a momentum; add nesterov=false, or a momentum above 0")
        if self.schedule == "onecycle" and not self.momentum_swing <= self.momentum < 1 - self.momentum_swing:
            raise ValueError(
                f"momentum_swing={self.momentum_swing}: takes momentum={self.momentum} out of 0 to 1; "
                "give a smaller one, or another momentum"
            )
        if self.schedule == "step" and not self.lr_step_epochs:
            raise ValueError("schedule=step: needs lr_steps, such as lr_steps=60,120,160")
        if self.schedule == "step" and self.lr_step_epochs[-1] >= self.epochs:
            raise ValueError(f"lr_steps={self.lr_steps}: must all lie before the last epoch, epochs={self.epochs}")
        return self

    def idle(self) -> dict[str, tuple[str, str]]:
        """The options that the others make meaningless, each with the reason and with what would give it a meaning."""
        idle = {}
        for name in type(self).model_fields:
            if name.startswith("cutout_") and not self.cutout:
                idle[name] = ("cutout is false", "cutout=true")
        of_schedules = {"lr_steps": "step", "lr_gamma": "step", "lr_warmup": "onecycle", "momentum_swing": "onecycle"}
        for name, schedule in of_schedules.items():
            if self.schedule != schedule:
                idle[name] = (f"schedule is {self.schedule}", f"schedule={schedule}")
        if not self.hflip:
            idle["hflip_mode"] = ("hflip is 0", "hflip=0.5")
        for name in ("shift", "scale", "rotate"):
            if not self.affine_p:
                idle[name] = ("affine_p is 0", "affine_p=0.5")
        for name in ("hue", "saturation", "value"):
            if not self.hsv_p:
                idle[name] = ("hsv_p is 0", "hsv_p=0.5")
        if not self.crop_padding and not self.affine_p:
            idle["border"] = ("nothing beyond the image is shown", "crop_padding=4")
        if self.dataset not in ("auto", "scenes"):
            idle["background_bias"] = (f"dataset is {self.dataset}", "dataset=scenes")
        return idle

    def without_effect(self, given: Mapping[str, object]) -> list[str]:
        return [
            f"{name}={given[name]}: has no effect while {why}; add {cure} or leave {name} out"
            for name, (why, cure) in self.idle().items()
            if name in given and str(given[name]) != self.default_text(name)
        ]

    @property
    def recipe_values(self) -> Values:
        """What a recipe would have to decide for these settings to follow from it alone."""
        return {
            name: getattr(self, name) for name, field in type(self).model_fields.items() if BY_RECIPE in field.metadata
        }

    @property
    def augment_path(self) -> str:
        """What augments, `batch` or `albumentations`."""
        return "batch" if self.augment == AUTO else self.augment

    @property
    def side_shares(self) -> tuple[float, ...]:
        """The sides of `sides` as shares of the whole side, one for each part of the training."""
        return side_shares(self.sides)

    @property
    def cutout_sizes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Smallest and largest height, smallest and largest width of a hole, pixels."""
        ranges = hole_ranges(self.cutout_size)
        return ranges[0], ranges[-1]

    @property
    def cutout_square(self) -> bool:
        """Whether holes of `published` placement are squares: `cutout_size` has one part for both sides."""
        return len(hole_ranges(self.cutout_size)) == 1

    @property
    def lr_step_epochs(self) -> tuple[int, ...]:
        """The epochs of `lr_steps`."""
        return rising_epochs(self.lr_steps)


VARIANTS: dict[str, dict[str, object]] = {"baseline": {"cutout": False}, "cutout": {"cutout": True}}


OWN = "own setting"
"""What the baseline of a study is called: the training that would be done without it."""
CHOOSING = ("runs", "filter", "study")
"""Options of which each chooses finished runs."""


def study_name(text: str) -> str:
    """The name of a study of `tune`, as it was given.

    Raises:
        ValueError: it has other signs than MLflow's filters and file names can take.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", text):
        raise ValueError("must be a name of letters, digits, _ . -, up to 100")
    return text


class CompareSettings(TrainSettings):
    """Train what is missing of several variants, then compare them side by side.

    Every option of a training may be given too and then holds for all variants.
    """

    command: ClassVar[str] = "python -m experiments.compare"

    variants: str = Field(
        "baseline,cutout",
        description="two to ten, separated by ; or ,: baseline, cutout, or 'name: option=value option=value'",
    )
    seeds: int = Field(
        1, ge=1, le=100, description="seeds per variant, counted from seed; 3 or more for a statement about the method"
    )
    runs: Annotated[str, _read_by(lambda text: parse_runs(text))] = Field(
        NONE,
        description="finished runs to compare, with no training: MLflow run ids or their first digits, six or more, "
        "such as '1a2b3c 77aa01', or with a name for each variant, 'plain=1a2b3c+9f8e7d cutout=77aa01+c0ffee'",
    )
    filter: str = Field(
        NONE,
        min_length=1,
        description="finished runs to compare, with no training: those that MLflow's search finds with this, such as "
        "\"params.`resolved.epochs` = '6' AND tags.`camparison.dataset` = 'scenes'\"",
    )
    study: Annotated[str, AfterValidator(study_name)] = Field(
        NONE, description="finished runs to compare, with no training: the confirmed ones of this study of `tune`"
    )
    allow_same: bool = Field(
        False, description="allow one training under two names: a comparison in which there is nothing to find (A/A)"
    )
    quiet: bool = Field(False, description="no progress and no table, for scripts, which read comparison.json")

    @property
    def finished_by(self) -> str:
        """The option that chooses finished runs, one of `CHOOSING`; empty where variants are trained."""
        return next((name for name in CHOOSING if getattr(self, name) != NONE), "")

    @model_validator(mode="after")
    def _chooses_once(self) -> "CompareSettings":
        chosen = [f"{name}={getattr(self, name)}" for name in CHOOSING if getattr(self, name) != NONE]
        if len(chosen) > 1:
            raise ValueError(f"{chosen[1]}: {chosen[0]} chooses the runs already; leave one of them out")
        for name in ("checkpoint", "resume"):
            if getattr(self, name) not in (AUTO, NONE):
                raise ValueError(f"{name}={getattr(self, name)}: a comparison trains several; take auto or none")
        return self

    def without_effect(self, given: Mapping[str, object]) -> list[str]:
        """One line for each option of a training, where finished runs are compared.

        Otherwise none: what is idle in one variant may matter in another.
        """
        if not self.finished_by:
            return []
        by_hand = (name for name in given if getattr(self, name) != type(self).model_fields[name].default)
        return [
            f"{name}={given[name]}: has no effect on finished runs; leave out {name} or {self.finished_by}"
            for name in by_hand
            if name not in (*CHOOSING, "allow_same", "quiet", "data_dir")
        ]


@dataclass(frozen=True)
class Variant:
    """A name and the options that make it differ from the others."""

    name: str
    options: Mapping[str, object]


_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")  # what MLflow takes as part of a metric's name


def parse_variants(text: str) -> list[Variant]:
    """The variants named in `text`, the first being the one the others are compared with.

    `"baseline,cutout"` or `"baseline; cutout; mixed: cutout=true cutout_holes=2"`.

    Raises:
        SettingsError: unknown or repeated names, malformed options, fewer than two or more than ten variants.
    """
    variants = named_options(text, "variants")
    if not 2 <= len(variants) <= 10:
        raise SettingsError([f"variants: {text!r} names {len(variants)}; a comparison takes two to ten"])
    return variants


def named_options(text: str, option: str) -> list[Variant]:
    """The names in `text`, the value of `option`, each with the options that follow it or that `VARIANTS` knows.

    Raises:
        SettingsError: unknown or repeated names, malformed options.
    """
    separator = ";" if ";" in text or ":" in text else ","
    variants, problems = [], []
    for part in filter(None, (part.strip() for part in text.split(separator))):
        name, colon, options = (piece.strip() for piece in part.partition(":"))
        if not _NAME.fullmatch(name):
            problems.append(f"{option}: {name!r} is no name; use letters, digits, _ . -, then a colon and the options")
        elif colon:
            words = options.split()
            problems += [f"{option}: {word!r} of {name!r} is not option=value" for word in words if "=" not in word]
            variants.append(Variant(name, dict(word.split("=", 1) for word in words if "=" in word)))
        elif name in VARIANTS:
            variants.append(Variant(name, VARIANTS[name]))
        else:
            hint = did_you_mean(name, list(VARIANTS))
            problems.append(f"{option}: unknown variant {name!r}{hint} Named variants: {', '.join(VARIANTS)}")
    names = [variant.name for variant in variants]
    problems += [f"{option}: {name!r} is named twice" for name in sorted({n for n in names if names.count(n) > 1})]
    if problems:
        raise SettingsError(problems)
    return variants


def parse_runs(text: str) -> dict[str | None, tuple[str, ...]]:
    """The run ids, or beginnings of them, in `text` by the variant's name; all under None where none has a name.

    `"1a2b3c 77aa01"` or `"plain=1a2b3c+9f8e7d, cutout=77aa01"`: words separated by spaces or commas, each an id, or
    each a name with its ids joined by +. Empty for `none`.

    Raises:
        ValueError: with every problem, in one line.
    """
    words = [] if text == NONE else list(filter(None, re.split(r"[\s,]+", text)))
    pairs = [(name, tuple(ids.split("+"))) for name, _, ids in (word.rpartition("=") for word in words if "=" in word)]
    bare = tuple(word for word in words if "=" not in word)
    problems = [f"{id_!r} is no run id: 6 to 32 of 0-9 and a-f" for id_ in _no_ids([bare, *(ids for _, ids in pairs)])]
    names = [name for name, _ in pairs]
    problems += [f"{name!r} is no name; use letters, digits, _ . -" for name in names if not _NAME.fullmatch(name)]
    problems += [
        f"{name!r} is named twice; join its run ids with +" for name in sorted({n for n in names if names.count(n) > 1})
    ]
    if pairs and bare:
        problems.append(f"{bare[0]!r} has no name; give every run one (name=id+id), or none")
    if not words and text != NONE:
        problems.append("must be none, or run ids")
    if problems:
        raise ValueError("; ".join(problems))
    named: dict[str | None, tuple[str, ...]] = dict(pairs)
    return {None: bare} if bare else named


def _no_ids(groups: Iterable[Sequence[str]]) -> list[str]:
    return [word for group in groups for word in group if not re.fullmatch("[0-9a-f]{6,32}", word)]


# Options that all variants of a comparison must share, or they would not be judged on the same images.
SHARED = (
    "dataset",
    "data_dir",
    "background_bias",
    "image_size",
    "train_images",
    "holdout",
    "seed",
    "cam_method",
    "cam_methods",
    "cam_layers",
)


@dataclass(frozen=True)
class Training:
    """One training of a comparison: a variant with one seed."""

    variant: str
    settings: TrainSettings
    given: Mapping[str, object]

    @property
    def name(self) -> str:
        """What its run is called."""
        return f"{self.variant}, seed {self.settings.seed}"


def plan(settings: CompareSettings, given: Mapping[str, object]) -> list[Training]:
    """Every training that the comparison needs, variant by variant, seed by seed.

    Raises:
        SettingsError: with the problems of all variants; also where a variant changes what all must share.
    """
    common = {name: value for name, value in given.items() if name in TrainSettings.model_fields}
    problems, trainings = [], []
    for variant in parse_variants(settings.variants):
        shared = [name for name in variant.options if name in SHARED]
        problems += [f"variants: {variant.name}: {name} must be the same in all variants" for name in shared]
        for seed in range(settings.seed, settings.seed + settings.seeds):
            options = common | dict(variant.options) | {"seed": seed}
            try:
                trainings.append(Training(variant.name, TrainSettings.of(**options), options))
            except SettingsError as error:
                problems += [f"variants: {variant.name}: {problem}" for problem in error.problems]
    for name in SHARED:
        found = {str(getattr(training.settings, name)).lower(): training.variant for training in trainings}
        if name != "seed" and len(found) > 1:
            words = ", ".join(f"{value} in {variant}" for value, variant in found.items())
            problems.append(f"variants: {name} must be the same in all variants, not {words}; give {name}=... for all")
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))
    return trainings


# The command line


def fail(command: str, problems: Sequence[str]) -> NoReturn:
    """Print the problems, one line each, and exit with 2."""
    for problem in problems:
        print(f"{command}: {problem}", file=sys.stderr)
    print(f"{command}: nothing was started; '{command} --help' lists every option", file=sys.stderr)
    raise SystemExit(2)


# The first option of each group in the help text.
_GROUPS = {
    "dataset": "data",
    "model": "network",
    "epochs": "optimisation",
    "hflip": "augmentation of the training images",
    "cam_method": "pictures",
    "device": "machine",
}


def _parser(cls: type[Settings]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=cls.command,
        usage="%(prog)s [--option value ...]",
        description=inspect.cleandoc(cls.__doc__ or ""),
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=22, width=_width()),
        epilog="auto, where a recipe is named in brackets: as the recipe says.\n\nrecipes:\n" + _recipes_help(),
    )
    group: argparse._ArgumentGroup = parser.add_argument_group("what to run")
    for name, field in sorted(
        cls.model_fields.items(),
        key=lambda item: item[0] not in cls.model_fields.keys() - TrainSettings.model_fields.keys(),
    ):
        if name in _GROUPS:
            group = parser.add_argument_group(_GROUPS[name])
        group.add_argument(f"--{name}", default=argparse.SUPPRESS, metavar="", help=_help(cls, name, field))
    return parser


def _width() -> int:
    """Columns of the help text: the terminal's, up to what is pleasant to read."""
    return min(shutil.get_terminal_size().columns - 2, 110)


def _recipes_help() -> str:
    lines = [
        textwrap.fill(
            f"{name:<18} {recipe.summary}; source: {recipe.source}; reported: {recipe.reported}; "
            f"here: {recipe.measured}",
            _width(),
            initial_indent="  ",
            subsequent_indent=" " * 21,
        )
        for name, recipe in RECIPES.items()
    ]
    return "\n".join(lines)


def _help(cls: type[Settings], name: str, field: FieldInfo) -> str:
    allowed = _allowed(field)
    text = f"{field.description}{f'; {allowed}' if allowed else ''} (default: {_default_help(cls, name)})"
    return text.replace("%", "%%")


def _default_help(cls: type[Settings], name: str) -> str:
    if BY_RECIPE not in cls.model_fields[name].metadata:
        return cls.default_text(name)
    recipes: dict[str, list[str]] = {}
    for recipe in RECIPES:
        recipes.setdefault(_spelled(RECIPES[recipe].values[name]), []).append(recipe)
    if len(recipes) == 1:
        return f"{next(iter(recipes))} in every recipe"
    others = max(recipes.values(), key=len)
    words = {value: "other recipes" if names is others else ", ".join(names) for value, names in recipes.items()}
    return "; ".join(f"{names}: {value}" for value, names in sorted(words.items(), key=lambda item: "oth" in item[1]))


def _allowed(field: FieldInfo) -> str:
    """The values a field takes, in words: choices, a range, or nothing where any text will do."""
    kinds = list(_flat(field.annotation))
    words = [kind for kind in kinds if isinstance(kind, str)]
    if len(words) == len(kinds):
        return "one of " + ", ".join(words)
    if bool in kinds:
        return "true or false"
    number = "a whole number" if int in kinds else "a number" if float in kinds else ""
    text = ", ".join(filter(None, (number, *_bounds([*field.metadata, *kinds]))))
    return " or ".join((text, *words)) if text else ""


def _flat(annotation: object) -> Iterator[object]:
    """The types, literal values and constraints that an annotation is made of."""
    parts = get_args(annotation)
    if not parts:
        yield from annotation.metadata if isinstance(annotation, FieldInfo) else (annotation,)
    for part in parts:
        yield from _flat(part)


def _bounds(constraints: Iterable[object]) -> Iterator[str]:
    for kind, phrase in _PHRASES.items():
        for constraint in constraints:
            if isinstance(constraint, kind):
                yield phrase.format(_number(getattr(constraint, kind.__name__.lower())))


_PHRASES = {
    annotated_types.Ge: "{} or more",
    annotated_types.Gt: "above {}",
    annotated_types.Le: "up to {}",
    annotated_types.Lt: "below {}",
}


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _sentence(cls: type[Settings], detail: ErrorDetails) -> str:
    """One line: the option, the value given, what is allowed, and a near miss where there is one."""
    name = str(detail["loc"][0]) if detail["loc"] else "settings"
    value = cls.shown(name, detail["input"])
    if detail["type"] == "value_error":
        error = str(detail["ctx"]["error"])
        return f"{name}={value}: {error}" if detail["loc"] else error
    field = cls.model_fields[name]
    choices = [kind for kind in get_args(field.annotation) if isinstance(kind, str)]
    hint = did_you_mean(value, choices) if isinstance(detail["input"], str) else ""
    allowed = _allowed(field) or detail["msg"]
    return f"{name}={value}: must be {allowed}{hint}"
