"""The options of a training."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ..errors import did_you_mean
from .base import AUTO, BY_RECIPE, Settings, read_by
from .notation import hole_ranges, rising_epochs, side_shares
from .parts import AUGMENTERS, DATA_SETS, NETWORKS, OPTIMISERS, SCHEDULES, OneOf
from .recipes import RECIPES, Values, find


def _recipe_name(text: str) -> str:
    """`text` unchanged where it names a recipe, or a file that holds one."""
    find(text)
    return text


def _dataset_name(text: str) -> str:
    """`text` unchanged where it names a data set."""
    known = ("auto", *(name for name in DATA_SETS if name != "folder"))
    if text in known or (text.startswith("folder:") and len(text) > len("folder:")):
        return text
    raise ValueError(f"must be {', '.join(known)} or folder:PATH{did_you_mean(text, known)}")


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
    model: Annotated[str, OneOf(tuple(NETWORKS)), BY_RECIPE] = Field(description="network")
    dropout: Annotated[float, BY_RECIPE] = Field(
        ge=0, lt=1, description="share of features dropped before the classifier"
    )

    # Optimisation
    epochs: Annotated[int, BY_RECIPE] = Field(ge=1, le=10_000, description="passes over the training images")
    batch_size: Annotated[int, BY_RECIPE] = Field(ge=2, le=65_536, description="images per step")
    lr: Annotated[float, BY_RECIPE] = Field(
        gt=0, le=100, description="peak learning rate, of Muon where it is the optimizer"
    )
    optimizer: Annotated[str, OneOf(tuple(OPTIMISERS)), BY_RECIPE] = Field(
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
    schedule: Annotated[str, OneOf(tuple(SCHEDULES)), BY_RECIPE] = Field(description="how the learning rate moves")
    lr_warmup: Annotated[float, BY_RECIPE] = Field(
        ge=0, lt=1, description="onecycle: share of the training until the peak"
    )
    lr_steps: Annotated[str, BeforeValidator(str), read_by(rising_epochs), BY_RECIPE] = Field(
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
    sides: Annotated[str, BeforeValidator(str), read_by(side_shares), BY_RECIPE] = Field(
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
    cutout_size: Annotated[str, BeforeValidator(str), read_by(hole_ranges), BY_RECIPE] = Field(
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
    augment: Annotated[str, OneOf((AUTO, *AUGMENTERS))] = Field(
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

    def without_effect(self) -> dict[str, str]:
        return {
            name: f"{name}={self.given[name]}: has no effect while {why}; add {cure} or leave {name} out"
            for name, (why, cure) in self.idle().items()
            if name in self.given
        }

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
