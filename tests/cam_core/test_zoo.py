"""The networks of torchvision and timm: the layers that `auto_layers` takes, and maps of them that need no `reshape`.

Most names are what `auto_layers` took when the table was made. Each was then compared with the code of the network: the
end of each stage, and at the last resolution what the head reads. So the table notices changes. Independent of it is
timm's own list of stages (`feature_info`), which gives the resolutions that exist.
"""

import pytest
import timm
import torch
from torch import nn
from torchvision import models

from cam_core import auto_layers, capture

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


def stages(count: int, *around: str, last: str = "stages", name: str = "stages") -> tuple[str, ...]:
    """`around` the stem, all stages but the last, and the end."""
    return (*around, *(f"{name}.{index}" for index in range(count - 1)), last)


RESNET = ("layer1", "layer2", "layer3", "layer4")
TORCHVISION: dict[str, tuple[int, tuple[str, ...]]] = {
    "alexnet": (128, ("features.1", "features.4", "features.11")),
    "vgg11": (64, ("features.1", "features.4", "features.9", "features.14", "features.19")),
    "vgg11_bn": (64, ("features.2", "features.6", "features.13", "features.20", "features.27")),
    "resnet18": (64, ("relu", *RESNET)),
    "resnet50": (64, ("relu", *RESNET)),
    "resnext50_32x4d": (64, ("relu", *RESNET)),
    "wide_resnet50_2": (64, ("relu", *RESNET)),
    "densenet121": (
        64,
        ("features.relu0", "features.denseblock1", "features.denseblock2", "features.denseblock3", "features"),
    ),
    "googlenet": (64, ("conv1", "conv3", "inception3b", "inception4e", "inception5b")),
    "inception_v3": (128, ("Conv2d_2b_3x3", "Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")),
    "squeezenet1_0": (128, ("features.1", "features.5", "features.10", "features")),
    "squeezenet1_1": (128, ("features.1", "features.4", "features.7", "features")),
    "mnasnet0_5": (64, ("layers.7", "layers.8", "layers.9", "layers.11", "layers")),
    "mobilenet_v2": (64, ("features.1", "features.3", "features.6", "features.13", "features")),
    "mobilenet_v3_small": (64, ("features.0", "features.1", "features.3", "features.8", "features")),
    "shufflenet_v2_x0_5": (64, ("conv1", "stage2", "stage3", "conv5")),
    "efficientnet_b0": (64, ("features.1", "features.2", "features.3", "features.5", "features")),
    "efficientnet_v2_s": (64, ("features.1", "features.2", "features.3", "features.5", "features")),
    "regnet_x_400mf": (
        64,
        ("stem", "trunk_output.block1", "trunk_output.block2", "trunk_output.block3", "trunk_output"),
    ),
    "regnet_y_400mf": (
        64,
        ("stem", "trunk_output.block1", "trunk_output.block2", "trunk_output.block3", "trunk_output"),
    ),
    "convnext_tiny": (64, ("features.1", "features.3", "features.5", "features")),
    "maxvit_t": (224, ("stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3")),
    "swin_t": (64, ("features.1", "features.3", "features.5", "norm")),
    "swin_v2_t": (64, ("features.1", "features.3", "features.5", "norm")),
    # Behind the last attention the head reads the class token alone.
    "vit_b_32": (224, ("encoder.layers.encoder_layer_10",)),
}

MOBILE = ("blocks.0", "blocks.1", "blocks.2", "blocks.4")
BEFORE_THE_LAST_BLOCK = ("blocks.10",)
TIMM: dict[str, tuple[int, tuple[str, ...]]] = {
    "resnet26": (64, ("act1", *RESNET)),
    "resnet26d": (64, ("act1", *RESNET)),
    "seresnet18": (64, ("act1", *RESNET)),
    "res2net50_14w_8s": (64, ("act1", *RESNET)),
    "resnest14d": (64, ("act1", *RESNET)),
    "ecaresnet26t": (64, ("act1", *RESNET)),
    "resnext26ts": (64, stages(4, "stem.conv3")),
    "resnetv2_50": (64, stages(4, "stem.conv", last="norm")),
    "nf_resnet50": (64, stages(4, "stem.conv", last="final_act")),
    "eca_nfnet_l0": (64, stages(4, "stem.act4", last="final_act")),
    "densenet121": (
        64,
        ("features.norm0", "features.denseblock1", "features.denseblock2", "features.denseblock3", "features"),
    ),
    "vgg11_bn": (64, ("features.2", "features.6", "features.13", "features.20", "features.27")),
    "inception_v4": (128, ("features.2", "features.4", "features.9", "features.17", "features")),
    "inception_resnet_v2": (128, ("conv2d_2b", "conv2d_4a", "repeat", "repeat_1", "conv2d_7b")),
    "efficientnet_b0": (64, (*MOBILE, "bn2")),
    "efficientnet_lite0": (64, (*MOBILE, "bn2")),
    "tf_efficientnetv2_b0": (64, (*MOBILE, "bn2")),
    "mobilenetv2_050": (64, (*MOBILE, "bn2")),
    "mixnet_s": (64, (*MOBILE, "bn2")),
    "fbnetc_100": (64, (*MOBILE, "bn2")),
    "lcnet_035": (64, (*MOBILE, "blocks")),
    "hardcorenas_a": (64, (*MOBILE, "blocks")),
    "mobilenetv3_small_050": (64, ("bn1", "blocks.0", "blocks.1", "blocks.3", "blocks")),
    "mobilenetv4_conv_small_035": (64, ("bn1", "blocks.0", "blocks.1", "blocks.2", "blocks")),
    "ghostnet_050": (64, ("blocks.0", "blocks.2", "blocks.4", "blocks.6", "blocks")),
    "repghostnet_050": (64, ("blocks.0", "blocks.2", "blocks.4", "blocks.6", "blocks")),
    "rexnet_100": (64, ("features.0", "features.2", "features.4", "features.10", "features")),
    "regnetx_002": (64, ("stem", "s1", "s2", "s3", "s4")),
    "regnety_002": (64, ("stem", "s1", "s2", "s3", "s4")),
    "repvgg_a0": (64, stages(4, "stem")),
    "mobileone_s0": (64, stages(4, "stem")),
    "convnext_atto": (64, stages(4)),
    "convnextv2_atto": (64, stages(4)),
    "inception_next_atto": (64, stages(4)),
    "fasternet_t0": (64, stages(4)),
    "edgenext_xx_small": (64, stages(4)),
    "poolformer_s12": (64, stages(4)),
    "caformer_s18": (64, stages(4)),
    "starnet_s1": (64, stages(4, "stem", last="norm")),
    "hgnetv2_b0": (64, stages(4, "stem.stem1")),
    "dla34": (64, ("level0", "level1", "level2", "level3", "level4", "level5")),
    "ese_vovnet19b_slim": (64, stages(4, "stem.1")),
    "cspresnet50": (64, stages(4, "stem.conv1")),
    "cspdarknet53": (64, stages(5, "stem")),
    "darknet53": (64, stages(5, "stem")),
    "tresnet_m": (64, ("body.layer1", "body.layer2", "body.layer3", "body")),
    "convmixer_768_32": (64, ("blocks",)),
    # The branches of different resolution meet only at the end.
    "hrnet_w18_small": (64, ("act1", "layer1", "final_layer")),
    "vit_tiny_patch16_224": (224, BEFORE_THE_LAST_BLOCK),
    "deit_tiny_distilled_patch16_224": (224, BEFORE_THE_LAST_BLOCK),
    "convit_tiny": (224, BEFORE_THE_LAST_BLOCK),
    "eva02_tiny_patch14_224": (224, ("blocks.11",)),
    "beit_base_patch16_224": (224, ("blocks.11",)),
    "vit_small_patch16_dinov3": (256, ("norm",)),
    "vit_tiny_r_s16_p8_224": (224, ("patch_embed.backbone.norm", "blocks.10")),
    "cait_xxs24_224": (224, ("blocks",)),
    "xcit_nano_12_p16_224": (
        224,
        ("patch_embed.proj.1", "patch_embed.proj.3", "patch_embed.proj.5", "cls_attn_blocks.0"),
    ),
    "mixer_s32_224": (224, ("norm",)),
    "resmlp_12_224": (224, ("norm",)),
    "gmlp_ti16_224": (224, ("norm",)),
    "swin_tiny_patch4_window7_224": (224, stages(4, last="norm", name="layers")),
    "swinv2_tiny_window8_256": (256, stages(4, last="norm", name="layers")),
    "swinv2_cr_tiny_ns_224": (224, stages(4)),
    "maxvit_rmlp_pico_rw_256": (256, stages(4, "stem", last="norm")),
    "coatnet_pico_rw_224": (224, stages(4, "stem", last="norm")),
    "pvt_v2_b0": (224, stages(4)),
    "twins_svt_small": (224, ("blocks.0.1", "blocks.1.1", "blocks.2.9", "norm")),
    "coat_lite_tiny": (224, ("serial_blocks1.1", "serial_blocks2.1", "serial_blocks3.1", "serial_blocks4.0")),
    "pit_ti_224": (224, ("transformers.0.blocks", "transformers.1.blocks", "transformers.2.blocks.2")),
    "mobilevit_xxs": (256, stages(5, last="final_conv")),
    "mvitv2_tiny": (224, stages(4, last="norm")),
    "focalnet_tiny_srf": (224, stages(4, last="norm", name="layers")),
    "davit_tiny": (224, stages(4)),
    "gcvit_xxtiny": (224, stages(4, "stem.conv1")),
    "repvit_m0_9": (224, stages(4, "stem.act1")),
    "efficientformer_l1": (224, stages(4, "stem.act1", last="norm")),
    "tiny_vit_5m_224": (224, stages(4, "patch_embed.act")),
    # The names of the next fifteen were written down from the code before `auto_layers` ran. Three were wrong: dpn48b
    # gives one tensor, xception41 ends without an activation, and the last convolution of efficientvit_b0 is in `head`.
    "dpn48b": (64, ("features.conv1_1", "features.conv2_3", "features.conv3_4", "features.conv4_6", "features")),
    "selecsls42b": (128, ("stem", "features.1", "features.3", "features", "head.1", "head")),
    "skresnet18": (64, ("act1", *RESNET)),
    "xception41": (64, ("stem", "blocks.0", "blocks.1", "blocks.10", "blocks")),
    "mambaout_femto": (64, stages(4, "stem.act")),
    "visformer_tiny": (224, ("stem", "stage1", "stage2", "norm")),
    "nest_tiny": (224, ("levels.0", "levels.1", "norm")),
    "sequencer2d_s": (224, ("stages.0", "norm")),
    "fastvit_t8": (64, stages(4, "stem.0", last="final_conv")),
    "efficientvit_b0": (64, stages(4, "stem")),
    "rdnet_tiny": (64, ("dense_stages.0", "dense_stages.1", "dense_stages.5", "dense_stages")),
    "swiftformer_xs": (64, stages(4, "stem.2", last="norm")),
    "lowformer_b0": (64, stages(4, "stem", last="in_conv")),
    # The head reads the tokens of all positions, too.
    "volo_d1_224": (224, ("patch_embed.conv", "network.0", "norm")),
    # A convolution and an MLP follow the stage of `feature_info` at its own resolution, before the step to the next.
    "efficientvit_m0": (
        224,
        (
            *("patch_embed.relu1", "patch_embed.relu2", "patch_embed.relu3"),
            *("stages.1.downsample.res1", "stages.2.downsample.res1", "stages"),
        ),
    ),
    "shvit_s1": (
        224,
        ("patch_embed.1", "patch_embed.3", "patch_embed.5", "stages.1.downsample.1", "stages.2.downsample.1", "stages"),
    ),
    # Attention makes fewer tokens of more, and nothing shows their order. As convolutions they are maps.
    "levit_128s": (224, ("stem.act1", "stem.act2", "stem.act3", "stages.0")),
    "levit_conv_128s": (224, stages(3, "stem.act1", "stem.act2", "stem.act3")),
    # Tokens in the order of windows: nothing behind the patches is a map.
    "hiera_tiny_224": (224, ("patch_embed",)),
    # Two streams of tokens: what both come from.
    "tnt_s_legacy_patch16_224": (224, ("pixel_embed.proj",)),
}
# Without padding, maps of Inception are smaller than their stride says. The list of TResNet also names the pixels, put
# into channels.
FEWER = {"hrnet_w18_small", "hiera_tiny_224", "tnt_s_legacy_patch16_224", "tresnet_m", "inception_v4"}
FEWER |= {"inception_resnet_v2", "levit_128s"}
SAMPLE = {
    *("resnet26", "convnext_atto", "mobilenetv4_conv_small_035", "swin_tiny_patch4_window7_224"),
    *("deit_tiny_distilled_patch16_224", "coat_lite_tiny"),
}


def cases(table: dict[str, tuple[int, tuple[str, ...]]]) -> list[object]:
    return [
        pytest.param(name, size, layers, id=name, marks=() if name in SAMPLE else pytest.mark.wild)
        for name, (size, layers) in table.items()
    ]


def assert_maps_of(model: nn.Module, images: torch.Tensor, layers: tuple[str, ...]) -> set[int]:
    """Captures the layers without a word about their layout; gives the rows of their grids."""
    evidence = capture(model, images, layers, 1)
    rows = set()
    for layer in layers:
        activations, gradients = evidence.activations[layer], evidence.gradients[layer]
        assert activations.shape == gradients.shape
        assert activations.shape[2] == activations.shape[3]  # the images are square
        assert gradients.isfinite().all()
        rows.add(activations.shape[2])
    assert len(rows) == len(layers)
    return rows


@pytest.mark.parametrize(("name", "size", "layers"), cases(TORCHVISION))
def test_torchvision(name: str, size: int, layers: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model, images = models.get_model(name, weights=None, **options).eval(), torch.rand(1, 3, size, size)
    assert auto_layers(model, images) == layers
    assert_maps_of(model, images, layers)


@pytest.mark.parametrize(("name", "size", "layers"), cases(TIMM))
def test_timm(name: str, size: int, layers: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model, images = timm.create_model(name).eval(), torch.rand(1, 3, size, size)
    assert auto_layers(model, images) == layers
    rows = assert_maps_of(model, images, layers)
    if name not in FEWER:
        stages_of_timm = {-(-size // info["reduction"]) for info in model.feature_info}
        missing = {side for side in stages_of_timm if not any(abs(side - one) <= side / 4 for one in rows)}
        assert missing <= {1, 2, 3}  # so small that they are one position or a pooling


@pytest.mark.wild
def test_a_network_whose_branches_meet_in_class_tokens_alone_has_no_layer_for_all() -> None:
    model, images = timm.create_model("crossvit_9_240").eval(), torch.rand(1, 3, 240, 240)
    with pytest.raises(ValueError, match=r"no layer of the model gives a map .* that all paths to the logits share"):
        auto_layers(model, images)
    assert capture(model, images, ["norm.0"], 1).activations["norm.0"].shape == (1, 128, 20, 20)
