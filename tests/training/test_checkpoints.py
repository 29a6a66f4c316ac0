"""A checkpoint is whole or not there, and belongs to one training."""

import os
from pathlib import Path

import pytest
import torch

from experiments.system import files
from experiments.training.checkpoints import (
    Checkpoint,
    CheckpointError,
    Keeper,
    check_place,
    of_this_training,
    read,
    write,
)

FINGERPRINT = "0123456789abcdef0123"


def checkpoint(epochs: int = 2) -> Checkpoint:
    return Checkpoint(
        fingerprint=FINGERPRINT,
        settings={"epochs": "6", "lr": "0.1", "resume": "auto"},
        history={epoch: {"train/loss": 1 / epoch} for epoch in range(1, epochs + 1)},
        clock={"wall": {"train": 3.5}, "cpu": {"train": 7.0}},
        state={"epochs": epochs, "model": {"weight": torch.randn(3, 2)}, "random": {"cpu": torch.get_rng_state()}},
    )


def test_what_was_written_is_read_bit_for_bit(tmp_path: Path) -> None:
    written = checkpoint()
    write(tmp_path / "folder" / "run.pt", written)
    found = read(tmp_path / "folder" / "run.pt")
    assert torch.equal(found.state["model"]["weight"], written.state["model"]["weight"])
    assert torch.equal(found.state["random"]["cpu"], written.state["random"]["cpu"])
    assert (found.fingerprint, found.settings, found.history) == (FINGERPRINT, written.settings, written.history)
    assert (found.clock, found.epochs) == (written.clock, 2)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.pt"
    write(path, checkpoint(1))

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(path, checkpoint(2))
    assert read(path).epochs == 1
    assert os.listdir(tmp_path) == ["run.pt"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for attempt in (lambda path: write(path, checkpoint()), check_place):
        with pytest.raises(CheckpointError, match=r"checkpoint=.*run\.pt: cannot be written .*checkpoint=none"):
            attempt(tmp_path / "file" / "run.pt")
    with pytest.raises(CheckpointError, match="is a folder; name a FILE in it"):
        check_place(tmp_path)


def test_a_file_that_is_no_checkpoint_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(
        CheckpointError, match=r"notes\.txt: exists and is no whole checkpoint; name another FILE, delete this one"
    ):
        check_place(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_place_that_can_be_written_is_left_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "run.pt", checkpoint(1))
    check_place(tmp_path / "run.pt")
    check_place(tmp_path / "new" / "run.pt")
    assert read(tmp_path / "run.pt").epochs == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "run.pt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.pt"
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"resume=.*run\.pt: is damaged or not a checkpoint.*resume=none"
    ) as error:
        read(path)
    assert "\n" not in str(error.value)


def test_other_files_of_torch_are_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"is damaged or not a checkpoint \(it does not end with a digest"):
        read(tmp_path / "model.pt")
    with files.sealed(tmp_path / "sealed.pt") as file:
        torch.save({"weight": torch.ones(2)}, file)
    with pytest.raises(CheckpointError, match="is not a checkpoint of a training"):
        read(tmp_path / "sealed.pt")


def test_a_flipped_bit_is_no_checkpoint(tmp_path: Path) -> None:
    """Of a tensor's own bytes, which torch reads without any check."""
    path = tmp_path / "run.pt"
    written = checkpoint()
    write(path, written)
    content, weight = path.read_bytes(), written.state["model"]["weight"].numpy().tobytes()
    at = content.index(weight) + 3
    path.write_bytes(bytes([*content[:at], content[at] ^ 64, *content[at + 1 :]]))
    with pytest.raises(CheckpointError, match=r"run\.pt: is damaged .*\(its content does not match its digest\)"):
        read(path)
    with pytest.raises(CheckpointError, match="exists and is no whole checkpoint"):
        check_place(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"resume=.*none\.pt: cannot be read \(No such file"):
        read(tmp_path / "none.pt")


def test_another_training_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "run.pt"
    write(path, checkpoint())
    assert of_this_training(path, FINGERPRINT, {"epochs": "6", "lr": "0.1", "resume": str(path)}).epochs == 2
    with pytest.raises(CheckpointError, match=r"of another training \(lr=0\.1 there, 0\.2 here\)"):
        of_this_training(path, "f" * 20, {"epochs": "6", "lr": "0.2", "resume": str(path)})
    with pytest.raises(CheckpointError, match=r"of another training \(other data, another number format"):
        of_this_training(path, "f" * 20, {"epochs": "6", "lr": "0.1", "resume": "auto"})


def test_a_keeper_writes_at_its_pace_and_removes_what_is_passing(tmp_path: Path) -> None:
    patient, eager = tmp_path / "patient.pt", tmp_path / "eager.pt"
    Keeper(patient, every_s=3600.0, passing=True).keep(checkpoint())
    assert not patient.exists()
    for passing, left in ((True, False), (False, True)):
        keeper = Keeper(eager, every_s=0.0, passing=passing)
        keeper.keep(checkpoint())
        assert eager.exists()
        keeper.finish()
        assert eager.exists() == left
    Keeper(patient, every_s=3600.0, passing=True).finish()  # none was written
