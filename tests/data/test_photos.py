"""Folders and tables of photographs as people have them: read, or refused with the reason."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.data.csv_file import load_csv
from experiments.data.dataset import DataError, Dataset, Request, subset, without_val
from experiments.data.folder import load_folder
from experiments.data.load import usual_side
from experiments.settings.base import SettingsError
from experiments.settings.train import TrainSettings

SIDE = 16
SQUARE = np.zeros((SIDE, SIDE), bool)
SQUARE[4:12, 4:12] = True


def loaded(place: Path, lines: list[str] | None = None, *, skip_bad: bool = False) -> Dataset:
    """The data set of a folder or a CSV file."""
    load = load_csv if place.is_file() else load_folder
    return load(Request("data", SIDE, 0.5, (lines if lines is not None else []).append, str(place), skip_bad))


def photo(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    return path


def filled(root: Path, parts: tuple[str, ...] = ("",), below: str = "", count: int = 4) -> Path:
    """Images of the classes `cat` and `dog` in each part."""
    for p, part in enumerate(parts):
        for c, name in enumerate(("cat", "dog")):
            for i in range(count):
                photo(root / part / name / below / f"{i}.png", 1000 * p + 100 * c + i)
    return root


def sizes(dataset: Dataset) -> dict[str, int]:
    return {name: len(split) for name, split in dataset.splits.items()}


# ---- folders -------------------------------------------------------------------------------------------------------


def test_images_in_folders_inside_a_class_are_of_that_class(tmp_path: Path) -> None:
    flat, nested = filled(tmp_path / "flat"), filled(tmp_path / "nested", below="session 1/left")
    assert loaded(nested).digest == loaded(flat).digest


def test_a_link_to_the_folder_around_it_is_named(tmp_path: Path) -> None:
    (filled(tmp_path) / "cat" / "again").symlink_to(tmp_path / "cat")
    with pytest.raises(DataError, match="cat/again is a link to a folder that contains it: remove the link"):
        loaded(tmp_path)


def test_masks_inside_a_class_are_no_images(tmp_path: Path) -> None:
    photo(filled(tmp_path) / "cat" / "masks" / "0.png", 0)
    with pytest.raises(DataError, match="cat/masks is inside a class: put masks into the folder masks beside"):
        loaded(tmp_path)


@pytest.mark.parametrize("name", ["valid", "validation", "dev"])
def test_other_names_of_val_are_understood_and_told(name: str, tmp_path: Path) -> None:
    lines: list[str] = []
    dataset = loaded(filled(tmp_path, ("train", name, "test")), lines)
    assert sizes(dataset) == {"train": 8, "val": 8, "test": 8}
    assert f"{tmp_path}: {name} is read as val" in lines


def test_two_folders_for_val_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has both val and valid: both are val; keep one of them"):
        loaded(filled(tmp_path, ("train", "val", "valid")))


def test_without_train_these_names_are_classes(tmp_path: Path) -> None:
    for i in range(4):
        photo(tmp_path / "dev" / f"{i}.png", i)
        photo(tmp_path / "ops" / f"{i}.png", 10 + i)
    assert loaded(tmp_path).classes == ("dev", "ops")


def test_what_other_programs_leave_is_no_image_no_class_and_not_counted(tmp_path: Path) -> None:
    digest = loaded(filled(tmp_path)).digest
    for name in ("cat/Thumbs.db", "cat/.DS_Store", "dog/desktop.ini", "dog/.hidden.png", "__MACOSX/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    lines: list[str] = []
    assert loaded(tmp_path, lines).digest == digest
    assert lines[-1].endswith("; 0 other files skipped")


def test_a_bad_file_is_refused_or_left_out_and_listed(tmp_path: Path) -> None:
    digest = loaded(filled(tmp_path, count=6)).digest
    (tmp_path / "cat" / "half.png").write_bytes((tmp_path / "cat" / "0.png").read_bytes()[:60])
    (tmp_path / "dog" / "page.jpg").write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"half\.png cannot .*1 more files cannot .*; or leave .* out with on_bad=skip"):
        loaded(tmp_path)
    lines: list[str] = []
    dataset = loaded(tmp_path, lines, skip_bad=True)
    assert dataset.digest == digest
    assert [text.split(" cannot")[0] for text in dataset.left_out] == [
        f"image {tmp_path}/cat/half.png",
        f"image {tmp_path}/dog/page.jpg",
    ]
    assert any(line.endswith("2 files left out, because they cannot be used") for line in lines)


def test_a_class_of_which_nothing_is_left_is_named(tmp_path: Path) -> None:
    filled(tmp_path, ("train", "val", "test"), count=1)
    (tmp_path / "val" / "dog" / "0.png").write_text("no image")
    with pytest.raises(DataError, match="val has no image of class 'dog'"):
        loaded(tmp_path, skip_bad=True)


def test_images_that_are_in_train_and_in_test_are_counted(tmp_path: Path) -> None:
    filled(tmp_path, ("train", "val", "test"))
    shutil.copy(tmp_path / "train" / "cat" / "0.png", tmp_path / "test" / "cat" / "copy.png")
    lines: list[str] = []
    loaded(tmp_path, lines)
    assert f"{tmp_path}: 1 images are in train and in test; test looks too good" in lines


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("/data/pets", "folder:/data/pets"), ("./pets", "folder:./pets"), ("pets/all.csv", "csv:pets/all.csv")],
)
def test_a_place_without_its_kind_is_named_as_it_should_be(typed: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=rf"dataset={typed}: must be .*did you mean {meant}\?"):
        TrainSettings.of(dataset=typed)


def test_on_bad_needs_own_images() -> None:
    settings = TrainSettings.of(dataset="scenes", on_bad="skip")
    assert settings.without_effect()["on_bad"].startswith("on_bad=skip: has no effect while dataset is scenes")
    assert not TrainSettings.of(dataset="csv:x.csv", on_bad="skip").without_effect()


# ---- masks ---------------------------------------------------------------------------------------------------------


def palette(inside: int) -> Image.Image:
    image = Image.fromarray(np.where(SQUARE, inside, 0).astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    return image


def soft() -> Image.Image:
    """Edges of a brush: from 255 inside the square to 0 in 17 steps."""
    edge = 255 * (1 - np.arange(SIDE) / (SIDE - 1))
    values = np.where(SQUARE, 255, 0).astype(np.uint8)
    values[0] = (edge * 120 / 255).astype(np.uint8)
    return Image.fromarray(values)


def cut_out(colour: int) -> Image.Image:
    """The object itself on a transparent ground."""
    pixels = np.full((SIDE, SIDE, 4), colour, np.uint8)
    pixels[..., 3] = np.where(SQUARE, 255, 0)
    return Image.fromarray(pixels)


FORMS: dict[str, Callable[[], Image.Image]] = {
    "0 and 1": lambda: Image.fromarray(SQUARE.astype(np.uint8)),
    "0 and 255": lambda: Image.fromarray(SQUARE.astype(np.uint8) * 255),
    "1 bit": lambda: Image.fromarray(SQUARE),
    "16 bits": lambda: Image.fromarray(SQUARE.astype(np.uint16)),
    "colour": lambda: Image.fromarray(np.where(SQUARE[..., None], (0, 0, 200), (0, 0, 0)).astype(np.uint8)),
    "palette": lambda: palette(2),
    "soft edges": soft,
    "black on transparent": lambda: cut_out(0),
    "white on transparent": lambda: cut_out(255),
    "opaque": lambda: Image.fromarray(SQUARE.astype(np.uint8) * 255).convert("RGBA"),
    "black on white": lambda: Image.fromarray((~SQUARE).astype(np.uint8) * 255),
}


def with_masks(root: Path, mask: Image.Image) -> Path:
    """The same mask for each image."""
    filled(root)
    for path in root.glob("*/*.png"):
        place = root / "masks" / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        mask.save(place)
    return root


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_mask_shows_the_same_object(form: str, tmp_path: Path) -> None:
    lines: list[str] = []
    for split in loaded(with_masks(tmp_path, FORMS[form]()), lines).splits.values():
        assert split.masks is not None
        assert (split.masks == SQUARE).all()
    assert any("what is black is taken as object" in line for line in lines) == (form == "black on white")


@pytest.mark.parametrize("values", [(1, 2), (0, 0), (255, 255)])
def test_masks_that_do_not_tell_what_is_object_are_refused(values: tuple[int, int], tmp_path: Path) -> None:
    mask = Image.fromarray(np.where(SQUARE, *values).astype(np.uint8))
    with pytest.raises(DataError, match=r"of 8 masks \d are all object and \d have none, so it is not clear"):
        loaded(with_masks(tmp_path, mask))


def test_a_single_mask_without_object_is_told(tmp_path: Path) -> None:
    with_masks(tmp_path, Image.fromarray(SQUARE))
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "masks" / "cat" / "0.png")
    lines: list[str] = []
    loaded(tmp_path, lines)
    assert f"{tmp_path}: 1 masks have no object, 0 are all object" in lines


def test_a_mask_taken_sideways_is_turned_as_its_image_is(tmp_path: Path) -> None:
    """Orientation 6: a viewer turns what is stored clockwise by a quarter."""
    upper = np.zeros((SIDE, SIDE), np.uint8)
    upper[:5, 3:13] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    with_masks(tmp_path, Image.fromarray(upper))
    for path in (tmp_path / "masks").rglob("*.png"):
        Image.fromarray(np.rot90(upper).copy()).save(path, exif=exif.tobytes())
    masks = loaded(tmp_path).splits["train"].masks
    assert masks is not None
    assert (masks == (upper > 0)).all()


# ---- tables --------------------------------------------------------------------------------------------------------


def table(root: Path, text: str) -> Path:
    file = root / "all.csv"
    file.write_text(text, encoding="utf-8")
    return file


def rows(root: Path, last: str = "", mark: str = ",") -> str:
    """A line for each image below `root`."""
    paths = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    return "".join(f"{mark.join([str(path), path.parent.name, *last.split()])}\n" for path in paths)


@pytest.mark.parametrize(("head", "mark"), [("path,label", ","), ("\ufeffPath ; LABEL", ";"), ("path\tlabel", "\t")])
def test_a_table_is_the_folder_that_it_lists(head: str, mark: str, tmp_path: Path) -> None:
    filled(tmp_path)
    file = table(tmp_path, f"{head}\n{rows(tmp_path, mark=mark)}\n")
    assert loaded(file).digest == loaded(tmp_path).digest
    assert (loaded(file).name, loaded(file).source) == ("csv:all", str(file))


def test_a_table_can_give_the_parts_and_lie_elsewhere(tmp_path: Path) -> None:
    filled(tmp_path, ("train", "validation", "test"))
    lines = [f"note,{path},{path.parent.name},{path.parent.parent.name}" for path in sorted(tmp_path.rglob("*.png"))]
    digest = loaded(tmp_path).digest
    (tmp_path / "elsewhere").mkdir()
    file = table(tmp_path / "elsewhere", "\n".join(["remark,path,label,split", *lines]))
    assert loaded(file).digest == digest


def test_masks_beside_a_table_are_those_of_the_folder(tmp_path: Path) -> None:
    with_masks(tmp_path, Image.fromarray(SQUARE))
    digest = loaded(tmp_path).digest
    lines = rows(tmp_path).splitlines(keepends=True)
    file = table(tmp_path, "path,label\n" + "".join(line for line in lines if not line.startswith("masks")))
    assert loaded(file).digest == digest


def test_classes_that_are_numbers_come_in_their_order(tmp_path: Path) -> None:
    lines = [f"{photo(tmp_path / f'{i}.png', i).name},{(2, 10)[i % 2]}" for i in range(8)]
    assert loaded(table(tmp_path, "\n".join(["path,label", *lines]))).classes == ("2", "10")


@pytest.mark.parametrize(
    ("named", "groups"),
    [
        ("{0}", ("cat, land", "cat, water", "dog, land", "dog, water")),
        ("{0} {1}", ("l cat", "w cat", "l dog", "w dog")),
    ],
)
def test_groups_of_a_table_are_the_images_of_a_label_with_a_value(
    named: str, groups: tuple[str, ...], tmp_path: Path
) -> None:
    """The bird's class and its background, as in Waterbirds; here the brightness of an image is its background."""
    lines = ["path,label,group"]
    for i, (label, value) in enumerate([("cat", "land"), ("cat", "water"), ("dog", "land"), ("dog", "water")] * 4):
        pixels = np.full((SIDE, SIDE, 3), 200 * (value == "water") + i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{label},{named.format(value if named == '{0}' else value[0], label)}")
    dataset = loaded(table(tmp_path, "\n".join(lines)))
    assert dataset.groups == groups
    for split in (
        *dataset.splits.values(),
        *without_val(dataset).splits.values(),
        subset(dataset.splits["train"], np.array([2])),
    ):
        assert split.groups is not None
        assert split.groups.tolist() == (2 * split.labels + (split.images[:, 0, 0, 0] >= 200)).tolist()
    file = table(tmp_path, "\n".join(line.rpartition(",")[0] for line in lines))
    assert loaded(file).digest != dataset.digest
    assert loaded(file).groups == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no column 'path'"),
        ("file,label\nx,a\n", "has no column 'path'.*: its first line must name path, label"),
        ("path,class\nx,a\n", "has no column 'label'"),
        ("path,label\ncat/0.png\n", "line 2: has 1 values, the first line has 2"),
        ("path,label\ncat/0.png,\n", "line 2: has no label"),
        ("path,label,split\ncat/0.png,cat,holdout\n", "line 2: split 'holdout' must be train, val, test"),
        ("path,label\ncat/0.png,cat\n\ncat/0.png,dog\n", "line 4: cat/0.png is in line 2 too"),
        ("path,label\ncat/0.png,cat\n", "has 1 different labels"),
        ("path,label,group\ncat/0.png,cat,\n", "line 2: has no group"),
        ("path,label,split\ncat/0.png,cat,test\ndog/0.png,dog,test\n", "has no row with split train"),
        ('path,label\n"cat/0.png,cat\n', "is no CSV file"),
        ("path,label\ncat/9.png,cat\ndog/0.png,dog\n", r"cat/9\.png cannot be used \(No such file"),
    ],
)
def test_a_table_with_a_fault_is_refused_with_its_line(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=problem):
        loaded(table(filled(tmp_path), text))


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    photo(tmp_path / "all.csv.png", 0).rename(tmp_path / "all.csv")
    with pytest.raises(DataError, match=r"all\.csv is not UTF-8 text"):
        loaded(tmp_path / "all.csv")
    with pytest.raises(DataError, match=r"nowhere\.csv cannot be read \(No such file or directory\)"):
        load_csv(Request("data", SIDE, 0.5, [].append, str(tmp_path / "nowhere.csv")))


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sides", "expected"),
    [([(300, 70)], 64), ([(90, 81)], 96), ([(9, 9)], 32), ([(4000, 30), (500, 400), (999, 999)], 224)],
)
def test_the_usual_side_is_that_of_the_images(sides: list[tuple[int, int]], expected: int, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i, side in enumerate(sides):
            Image.new("RGB", side).save(tmp_path / name / f"{i}.png")
    assert usual_side(f"folder:{tmp_path}") == expected
    (tmp_path / "cat" / "broken.png").write_bytes(b"no image")
    assert usual_side(f"folder:{tmp_path}") == expected
    assert usual_side("cifar10") == usual_side("scenes") == 32


def test_images_are_cut_and_resized_as_torchvision_does_it_for_its_weights(tmp_path: Path) -> None:
    from torchvision.models import ResNet18_Weights
    from torchvision.transforms.functional import center_crop, resize

    preset = ResNet18_Weights.DEFAULT.transforms()
    smooth = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    image = Image.fromarray(smooth).resize((640, 512), Image.Resampling.BICUBIC)
    for name in ("cat", "dog"):
        for i in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            image.save(tmp_path / name / f"{i}.png")
            image = image.rotate(7)
    share = preset.crop_size[0] / preset.resize_size[0]
    request = Request("data", 224, 0.5, lambda line: None, str(tmp_path), False, "bilinear", share)
    ours = {image.tobytes(): image for split in load_folder(request).splits.values() for image in split.images}
    theirs = [
        np.array(center_crop(resize(Image.open(path), preset.resize_size), preset.crop_size))
        for path in tmp_path.rglob("*.png")
    ]
    for expected in theirs:  # two roundings there, one here
        nearest = min(np.abs(image.astype(int) - expected).mean() for image in ours.values())
        assert nearest < 0.5
