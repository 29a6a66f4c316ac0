"""The options of a training, in the order of the help text. `train.TrainSettings` knows what they mean together."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..errors import did_you_mean
from .base import BY_RECIPE, Settings, read_by
from .notation import (
    IMAGENET,
    arguments,
    channel_numbers,
    frozen_layer,
    hole_ranges,
    own_part,
    padding_pixels,
    rising_epochs,
    side_shares,
)
from .parts import DATA_DOORS, DATA_SETS, NETWORK_DOORS, NETWORKS, OPTIMISERS, SCHEDULES, OneOf, data_set
from .recipes import RECIPES, find

_NAMED = tuple(name for name in DATA_SETS if name not in DATA_DOORS)
LARGEST_SIDE = 1024


def _recipe_name(text: str) -> str:
    """Checks that `text` names a recipe or a recipe file, and returns it."""
    find(text)
    return text


def _dataset_name(text: str) -> str:
    """Checks that `text` names a data set, and returns it."""
    known, (kind, place) = ("auto", *_NAMED), data_set(text)
    if text in known or (place and kind in DATA_DOORS):
        return text
    own = f"csv:{text}" if text.lower().endswith(".csv") else f"folder:{text}"
    hint = f"; did you mean {own}?" if {"/", "\\", "."} & set(text) else did_you_mean(text, known)
    *most, last = (*known, *DATA_DOORS.values())
    raise ValueError(f"must be {', '.join(most)} or {last}{hint}")


class TrainingOptions(Settings):
    """What is trained, on which images, and how."""

    recipe: Annotated[str, AfterValidator(_recipe_name)] = Field(
        "fast",
        description=f"settings to start from: a name ({', '.join(RECIPES)}) or a FILE.toml; "
        "options given by hand override the recipe",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="number that decides everything random in the training")

    # Data
    dataset: Annotated[str, AfterValidator(_dataset_name)] = Field(
        "auto",
        description=f"images to use: {', '.join([*_NAMED, *DATA_DOORS.values()])}; auto: cifar10 if it can be "
        "found or downloaded, else scenes, which are built in",
    )
    data_dir: str = Field(
        "data", min_length=1, description="folder for data sets; if CIFAR10_ROOT is set, CIFAR-10 is read from there"
    )
    background_bias: float = Field(
        0.5, ge=0, le=1, description="scenes only: probability that the background is the texture of the object's class"
    )
    on_bad: Literal["refuse", "skip"] = Field(
        "refuse", description="own images only: files that cannot be used are an error, or they are left out and listed"
    )
    image_size: Annotated[Annotated[int, Field(ge=16, le=LARGEST_SIDE)] | Literal["auto"], BY_RECIPE] = Field(
        description="height and width of the images in pixels; auto: the size that the weights were made for; else, "
        "for networks of others, that of your own images, at most 224; else 32"
    )
    interpolation: Literal["auto", "bilinear", "bicubic"] = Field(
        "auto", description="how images are resized; auto: as the weights were made for, else bicubic"
    )
    centre_crop: Annotated[float, Field(ge=0.5, le=1)] | Literal["auto"] = Field(
        "auto",
        description="own images only: share of the short side that the square in the middle takes; auto: as the "
        "weights were made for, else 1",
    )
    train_images: Annotated[int, Field(ge=1)] | Literal["all"] = Field("all", description="number of training images")

    # Network
    model: Annotated[str, OneOf(tuple(NETWORKS), NETWORK_DOORS), BY_RECIPE] = Field(
        description="network to train; a function of your own takes the number of classes and returns an nn.Module"
    )
    weights: Annotated[str, BY_RECIPE] = Field(
        min_length=1,
        description="weights to start from: none; DEFAULT or another name of torchvision's or timm's; or a FILE of "
        "weights only (.safetensors, .pt)",
    )
    small_stem: Annotated[bool, BY_RECIPE] = Field(
        description="ResNets of torchvision only: begin with a 3x3 convolution of stride 1 and no max-pooling"
    )
    normalise: Annotated[str, read_by(channel_numbers), BY_RECIPE] = Field(
        description="means and standard deviations of the channels by which images are normalised, such as "
        f"{IMAGENET}; imagenet: these; data: those of the training images; auto: those that the weights were made "
        "for, else those of the training images"
    )
    dropout: Annotated[float, BY_RECIPE] = Field(
        ge=0, lt=1, description="dropout probability of the features before the classifier"
    )

    # Optimisation
    epochs: Annotated[int, BY_RECIPE] = Field(ge=1, le=10_000, description="number of passes over the training images")
    batch_size: Annotated[int, BY_RECIPE] = Field(ge=2, le=65_536, description="images per training step")
    lr: Annotated[float, BY_RECIPE] = Field(
        gt=0, le=100, description="peak learning rate; with optimizer=muon, that of Muon"
    )
    lr_head: Annotated[Annotated[float, Field(gt=0, le=100)] | Literal["none"], BY_RECIPE] = Field(
        description="peak learning rate of the classifier; none: the same as that of the other layers"
    )
    optimizer: Annotated[str, OneOf(tuple(OPTIMISERS)), BY_RECIPE] = Field(
        description="an optimizer of torch.optim, or muon: orthogonalised steps for convolution kernels and SGD "
        "for the other parameters"
    )
    optimizer_args: Annotated[str, BeforeValidator(str), read_by(arguments), BY_RECIPE] = Field(
        description="further arguments of the optimizer, such as betas=0.9/0.95 eps=1e-8, or none"
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
    grad_clip: Annotated[float, BY_RECIPE] = Field(
        ge=0, le=1e6, description="largest norm of the gradient of all parameters together; 0: any"
    )
    accumulate: Annotated[int, BY_RECIPE] = Field(
        ge=1,
        le=65_536,
        description="batches whose gradients are added up for one step: as a batch that is so many times as large, "
        "but batch normalisation still sees batch_size images at a time",
    )
    freeze: Annotated[str, read_by(frozen_layer), BY_RECIPE] = Field(
        description="layers that stay as they are, with their batch statistics; none; backbone: all but the "
        "classifier; until:LAYER, such as until:layer2: this layer and all before it"
    )
    ema: Annotated[float, BY_RECIPE] = Field(
        ge=0,
        lt=1,
        description="evaluate, explain and log an exponential moving average of the weights after each step, with this "
        "decay, such as 0.999; 0: the last weights",
    )
    schedule: Annotated[str, OneOf(tuple(SCHEDULES)), BY_RECIPE] = Field(
        description="how the learning rate changes during the training"
    )
    lr_warmup: Annotated[float, BY_RECIPE] = Field(
        ge=0, lt=1, description="onecycle and cosine only: share of the training before the peak of the learning rate"
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
    class_weights: Annotated[Literal["none", "balanced"], BY_RECIPE] = Field(
        description="weights of the classes in the loss; balanced: in inverse proportion to their numbers of images"
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


class AugmentationOptions(TrainingOptions):
    """How training images are changed."""

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


class AllOptions(AugmentationOptions):
    """What is explained and drawn, on which machine, and where it is recorded."""

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
        "auto",
        min_length=1,
        description="layers to explain, such as layer3,layer4; auto: all stages of the network; `train` with list "
        "prints all that can be named",
    )
    gallery_size: int = Field(10, ge=1, le=25, description="number of images in each gallery")

    # Machine
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="device to compute on; auto: cuda if available, else mps, else cpu"
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="number format of the training; fp16: for GPUs without bf16, with a scaled loss; auto: bf16 if the "
        "hardware supports it, else fp32",
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
