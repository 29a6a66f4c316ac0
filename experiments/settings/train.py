"""The options of a training."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ..errors import did_you_mean
from .base import AUTO, BY_RECIPE, NONE, Settings, read_by
from .idle import POLICIES, idle
from .notation import hole_ranges, own_part, padding_pixels, rising_epochs, side_shares
from .parts import DATA_SETS, NETWORKS, OPTIMISERS, SCHEDULES, OneOf
from .recipes import RECIPES, Values, find

_NAMED = tuple(name for name in DATA_SETS if name != "folder")


def _recipe_name(text: str) -> str:
    """Checks that `text` names a recipe or a recipe file, and returns it."""
    find(text)
    return text


def _dataset_name(text: str) -> str:
    """Checks that `text` names a data set, and returns it."""
    known = ("auto", *_NAMED)
    if text in known or (text.startswith("folder:") and len(text) > len("folder:")):
        return text
    raise ValueError(f"must be {', '.join(known)} or folder:PATH{did_you_mean(text, known)}")


class TrainSettings(Settings):
    """Train one variant, explain it with Grad-CAM and log everything to MLflow."""

    command: ClassVar[str] = "python -m experiments.train"
    former: ClassVar[Mapping[str, str]] = {"augment": "augment_by"}

    recipe: Annotated[str, AfterValidator(_recipe_name)] = Field(
        "fast",
        description=f"settings to start from: a name ({', '.join(RECIPES)}) or a FILE.toml; "
        "options given by hand override the recipe",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="number that decides everything random in the training")

    # Data
    dataset: Annotated[str, AfterValidator(_dataset_name)] = Field(
        "auto",
        description=f"images to use: {', '.join(_NAMED)} or folder:PATH; auto: cifar10 if it can be found or "
        "downloaded, else scenes, which are built in",
    )
    data_dir: str = Field(
        "data", min_length=1, description="folder for data sets; if CIFAR10_ROOT is set, CIFAR-10 is read from there"
    )
    background_bias: float = Field(
        0.5, ge=0, le=1, description="scenes only: probability that the background is the texture of the object's class"
    )
    image_size: Annotated[int, Field(ge=16, le=256)] | Literal["auto"] = Field(
        "auto", description="height and width of the images in pixels; auto: 32"
    )
    train_images: Annotated[int, Field(ge=1)] | Literal["all"] = Field("all", description="number of training images")

    # Network
    model: Annotated[str, OneOf(tuple(NETWORKS)), BY_RECIPE] = Field(description="network to train")
    dropout: Annotated[float, BY_RECIPE] = Field(
        ge=0, lt=1, description="dropout probability of the features before the classifier"
    )

    # Optimisation
    epochs: Annotated[int, BY_RECIPE] = Field(ge=1, le=10_000, description="number of passes over the training images")
    batch_size: Annotated[int, BY_RECIPE] = Field(ge=2, le=65_536, description="images per training step")
    lr: Annotated[float, BY_RECIPE] = Field(
        gt=0, le=100, description="peak learning rate; with optimizer=muon, that of Muon"
    )
    optimizer: Annotated[str, OneOf(tuple(OPTIMISERS)), BY_RECIPE] = Field(
        description="sgd, or muon: orthogonalised steps for convolution kernels and SGD for the other parameters"
    )
    momentum: Annotated[float, BY_RECIPE] = Field(ge=0, lt=1, description="momentum; with optimizer=muon, that of Muon")
    momentum_swing: Annotated[float, BY_RECIPE] = Field(
        ge=0,
        le=0.1,
        description="onecycle only: momentum is this much higher at the start and the end of the training, and this "
        "much lower at the peak of the learning rate; PyTorch's OneCycleLR uses 0.05 with a momentum of 0.9",
    )
    nesterov: Annotated[bool, BY_RECIPE] = Field(description="use Nesterov momentum")
    weight_decay: Annotated[float, BY_RECIPE] = Field(
        ge=0,
        le=1,
        description="weight decay; with optimizer=muon: the share by which a step at the peak rate shrinks the "
        "parameters that Muon does not train",
    )
    schedule: Annotated[str, OneOf(tuple(SCHEDULES)), BY_RECIPE] = Field(
        description="how the learning rate changes during the training"
    )
    lr_warmup: Annotated[float, BY_RECIPE] = Field(
        ge=0, lt=1, description="onecycle only: share of the training before the peak of the learning rate"
    )
    lr_steps: Annotated[str, BeforeValidator(str), read_by(rising_epochs), BY_RECIPE] = Field(
        description="step only: multiply the learning rate by lr_gamma at the end of these epochs, such as 60,120,160, "
        "or none; if only epochs is given, the steps of the recipe move in proportion"
    )
    lr_gamma: Annotated[float, BY_RECIPE] = Field(
        gt=0, le=1, description="step only: factor for the learning rate at each of lr_steps"
    )
    label_smoothing: Annotated[float, BY_RECIPE] = Field(
        ge=0, lt=1, description="label smoothing: share of the target that is spread evenly over all classes"
    )
    l1: Annotated[float, BY_RECIPE] = Field(
        ge=0, le=1, description="weight of the L1 norm of the parameters in the loss"
    )
    l2_norm: Annotated[float, BY_RECIPE] = Field(
        ge=0,
        le=1,
        description="weight of the 2-norm of all parameters together (not squared) in the loss; weight_decay is more "
        "usual",
    )
    sides: Annotated[str, BeforeValidator(str), read_by(side_shares), BY_RECIPE] = Field(
        description="train on smaller images first: one side for each equal part of the training, such as 20,24,32, "
        "where 32 is the full side; or none"
    )
    test_flip: Annotated[bool, BY_RECIPE] = Field(
        description="also log each final accuracy with the logits averaged over every image and its mirror image"
    )
    track_test: Annotated[bool, BY_RECIPE] = Field(
        description="evaluate the test images after every epoch; used only for the curves"
    )
    holdout: Annotated[bool, BY_RECIPE] = Field(
        description="keep the validation images out of the training; false: train on them too, as most publications do"
    )

    # Augmentation
    augmentation: Annotated[str, read_by(own_part), BY_RECIPE] = Field(
        description="your own in place of geometry and colour: FILE.py:NAME, a transform of albumentations or "
        "torchvision or a function that returns one; FILE.yaml, as albumentations saves it; or none"
    )
    hflip: Annotated[float, BY_RECIPE] = Field(ge=0, le=1, description="probability of a horizontal flip")
    hflip_mode: Annotated[Literal["random", "alternating"], BY_RECIPE] = Field(
        description="random: decide anew in every epoch; alternating: decide once, then flip every other epoch"
    )
    affine_p: Annotated[float, BY_RECIPE] = Field(
        ge=0, le=1, description="probability that an image is shifted, scaled and rotated"
    )
    shift: Annotated[float, BY_RECIPE] = Field(ge=0, le=1, description="largest shift, as a share of the image side")
    scale: Annotated[float, BY_RECIPE] = Field(
        ge=0, lt=1, description="largest change of size; 0.1 means a factor of 0.9 to 1.1"
    )
    rotate: Annotated[float, BY_RECIPE] = Field(
        ge=0, le=180, description="largest rotation in either direction, in degrees"
    )
    crop_padding: Annotated[str, BeforeValidator(str), read_by(padding_pixels), BY_RECIPE] = Field(
        description="pad every side by pixels (4), or by a share of the side (0.125), then crop at random; 0: off"
    )
    random_resized_crop: Annotated[float, BY_RECIPE] = Field(
        ge=0, lt=1, description="enlarge a random part of the image; smallest share of its area, such as 0.08; 0: off"
    )
    border: Annotated[Literal["black", "reflect"], BY_RECIPE] = Field(
        description="what crops, shifts and rotations show outside the image"
    )
    hsv_p: Annotated[float, BY_RECIPE] = Field(
        ge=0, le=1, description="probability that hue, saturation and value are changed"
    )
    hue: Annotated[int, BY_RECIPE] = Field(
        ge=0, le=90, description="largest change of the hue; the full colour circle is 180"
    )
    saturation: Annotated[int, BY_RECIPE] = Field(
        ge=0, le=255, description="largest change of the saturation, out of 255"
    )
    value: Annotated[int, BY_RECIPE] = Field(
        ge=0, le=255, description="largest change of the value (brightness), out of 255"
    )
    grayscale: Annotated[float, BY_RECIPE] = Field(ge=0, le=1, description="probability that an image becomes grey")
    gaussian_noise: Annotated[float, BY_RECIPE] = Field(
        ge=0, le=1, description="standard deviation of normal noise, as a share of the range of values; 0: off"
    )
    trivial_augment: Annotated[bool, BY_RECIPE] = Field(
        description="torchvision's TrivialAugmentWide, image by image, before all other transforms"
    )
    rand_augment: Annotated[int, BY_RECIPE] = Field(
        ge=0, le=30, description="magnitude of torchvision's RandAugment, two operations, such as 9; 0: off"
    )
    auto_augment: Annotated[Literal["none", "cifar10", "imagenet", "svhn"], BY_RECIPE] = Field(
        description="policy of torchvision's AutoAugment"
    )
    augmix: Annotated[int, BY_RECIPE] = Field(
        ge=0, le=10, description="severity of torchvision's AugMix, such as 3; 0: off"
    )
    cutout: Annotated[bool, BY_RECIPE] = Field(description="erase holes in the training images (DeVries & Taylor 2017)")
    cutout_holes: Annotated[int, BY_RECIPE] = Field(ge=1, le=64, description="number of holes per image")
    cutout_size: Annotated[str, BeforeValidator(str), read_by(hole_ranges), BY_RECIPE] = Field(
        description="side of a hole in pixels (16), or with a decimal point as a share of the image side "
        "(0.5; 1.0 is the side), a range such as 8-20, or height x width such as 12x20 or 8-12x16-20"
    )
    cutout_p: Annotated[float, BY_RECIPE] = Field(ge=0, le=1, description="probability that an image gets holes")
    cutout_fill: Annotated[Literal["mean", "black", "random", "noise"], BY_RECIPE] = Field(
        description="what fills a hole; mean: the mean colour of the training images (zero after normalisation); "
        "random: one random colour per hole; noise: a random colour per pixel"
    )
    cutout_placement: Annotated[Literal["published", "inside"], BY_RECIPE] = Field(
        description="published: the centre is anywhere, and the hole is clipped at the border; inside: the whole hole "
        "is in the image, as in CoarseDropout"
    )
    random_erasing: Annotated[float, BY_RECIPE] = Field(
        ge=0, le=1, description="probability that a rectangle of 2 to 33 % of the image gets the mean colour"
    )
    mixup: Annotated[float, BY_RECIPE] = Field(
        ge=0, le=10, description="alpha of MixUp, such as 0.2: two images and their labels are mixed; 0: off"
    )
    cutmix: Annotated[float, BY_RECIPE] = Field(
        ge=0,
        le=10,
        description="alpha of CutMix, such as 1: a box comes from another image; 0: off; with mixup: one of both",
    )

    # Pictures
    cam_method: str = Field(
        "gradcam",
        min_length=1,
        description="method of the class activation maps in pictures and measures, such as gradcam, hirescam, "
        "gradcam:aug_smooth; scorecam and ablationcam run the network once per channel, which takes minutes or more",
    )
    cam_methods: str = Field(
        "auto",
        min_length=1,
        description="methods in the picture that compares methods, such as GradCAM,ScoreCAM,eigen_smooth; "
        "auto: all methods that need only one pass",
    )
    cam_layers: str = Field(
        "auto", min_length=1, description="layers to explain, such as layer3,layer4; auto: all stages of the network"
    )
    gallery_size: int = Field(10, ge=1, le=25, description="number of images in each gallery")

    # Machine
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="device to compute on; auto: cuda if available, else mps, else cpu"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="number format of the training; auto: bf16 if the hardware supports it, else fp32"
    )
    channels_last: Literal["auto", "true", "false"] = Field(
        "auto", description="use the channels-last memory format for images and weights; auto: true on cpu and cuda"
    )
    compile: bool = Field(
        False,
        description="compile the network with torch.compile; needs a C++ compiler, worth it for long runs on a GPU",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        "auto", description="number of CPU threads; auto: one for each core"
    )
    augment_by: Literal["auto", "batch", "albumentations"] = Field(
        "auto",
        description="how to compute the augmentation; batch: for whole batches on the device; albumentations: image by "
        "image on the CPU, with the same distribution; auto: batch",
    )
    augment_workers: Annotated[int, Field(ge=0, le=256)] | Literal["auto"] = Field(
        "auto",
        description="processes for transforms that take one image at a time; 0: the training's own; auto: one for each "
        "of its threads",
    )
    checkpoint: str = Field(
        "auto",
        min_length=1,
        description="FILE: save the state there after every epoch and keep it; auto: save it in data_dir/checkpoints "
        "about once a minute and remove it at the end; none: save nothing",
    )
    resume: str = Field(
        "auto",
        min_length=1,
        description="FILE: continue from this checkpoint; auto: continue from the checkpoint of this training, if "
        "there is one; none: start from the beginning",
    )

    # Tracking
    offline: bool = Field(
        False,
        description="write runs into the outbox only, for a machine without a network; "
        "`python -m experiments.tracking send` brings them to MLflow later; CAMPARISON_OFFLINE=1 does the same",
    )
    outbox: str = Field(
        "auto",
        min_length=1,
        description="folder where runs lie until MLflow has them; auto: CAMPARISON_OUTBOX, else mlruns/outbox",
    )
    wait_for_tracking: float = Field(
        120.0,
        ge=0,
        le=86_400,
        description="seconds that the end of a run waits for an MLflow that is away; after that the run stays in the "
        "outbox",
    )

    @property
    def side(self) -> int:
        """Height and width of the images, in pixels."""
        return 32 if self.image_size == "auto" else self.image_size

    @model_validator(mode="after")
    def _fits_together(self) -> "TrainSettings":
        if self.cutout and max(largest for _, largest in self.cutout_sizes) > self.side:
            raise ValueError(f"cutout_size={self.cutout_size}: must be at most the images' side of {self.side} pixels")
        if self.padding > self.side:
            raise ValueError(
                f"crop_padding={self.crop_padding}: must be at most the images' side of {self.side} pixels"
            )
        if self.nesterov and not self.momentum:
            raise ValueError("momentum=0: nesterov needs a momentum; add nesterov=false, or a momentum above 0")
        if self.schedule == "onecycle" and not self.momentum_swing <= self.momentum < 1 - self.momentum_swing:
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
