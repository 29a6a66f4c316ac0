"""`mlflow run .` works as typed, without conda, and hands every option over exactly."""

import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.utils.conda import _get_conda_env_name

from tests.conftest import PATIENCE_S, REPOSITORY, copy_project, run_mlflow
from tests.toys.scenes import TINY

CONDA = REPOSITORY / "experiments" / "system" / "conda.sh"
PROJECT = yaml.safe_load((REPOSITORY / "MLproject").read_text())
# One module of each kind of entry point, and an option of it that MLproject declares.
KINDS = {"cutout": "recipe", "compare": "variants", "tune": "study"}
# It stands for experiments.train, compare and tune: nothing is trained.
STUB = "import json, pathlib, sys\npathlib.Path('argv.json').write_text(json.dumps(sys.argv[1:]))\n"
TEXTS = (
    "two  words ",
    """both 'single' and "double" quotes""",
    "$HOME `id` $(id) ${x} !x",
    "a; b & c | d > e < f # g * ? [h] ~ (i)",
    "\\ \\n \\\\ {recipe} {} %s",
    "",
    "ünïcode 漢字 – “x” 🙂",
    "a=b,c=d",
)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """The stand-in where `make setup` puts it, in a project that has nothing else but conda.yaml."""
    return put_stand_in(tmp_path / "project")


def put_stand_in(project: Path) -> Path:
    bin_ = project / ".venv" / "bin"
    bin_.mkdir(parents=True)
    shutil.copy(REPOSITORY / "conda.yaml", project)
    (bin_ / "python").symlink_to(sys.executable)
    return executable(bin_ / "conda", CONDA.read_text())


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def path_without_conda() -> str:
    return ":".join(folder for folder in os.environ["PATH"].split(":") if not (Path(folder) / "conda").exists())


def conda(*words: str, path: list[Path]) -> subprocess.CompletedProcess[str]:
    """What `conda` answers, found on the PATH."""
    environment = os.environ | {"PATH": ":".join([*map(str, path), path_without_conda()])}
    return subprocess.run(["conda", *words], env=environment, capture_output=True, text=True, timeout=PATIENCE_S)


def test_the_stand_in_names_the_environment_as_mlflow_does(stand_in: Path) -> None:
    file = stand_in.parents[2] / "conda.yaml"
    for text in (file.read_text(), file.read_text() + "# changed ü\n", "a\r\nb\n"):
        file.write_bytes(text.encode())
        done = conda("env", "list", "--json", path=[stand_in.parent])
        (environment,) = json.loads(done.stdout)["envs"]
        assert Path(environment).name == _get_conda_env_name(str(file))


@pytest.mark.parametrize("words", [(), ("--help",), ("env", "create", "-n", "x"), ("env", "list"), ("activate", "x")])
def test_the_stand_in_refuses_everything_else_in_one_line(words: tuple[str, ...], stand_in: Path) -> None:
    done = conda(*words, path=[stand_in.parent])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"conda: 'conda {' '.join(words)}' needs a real conda")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("env", "list", "--json"), ("run", "two  words", "", "*", "$HOME", "a:b", "'")])
def test_a_real_conda_gets_everything_as_it_was_typed(words: tuple[str, ...], stand_in: Path, tmp_path: Path) -> None:
    program = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv))\nsys.exit(7)\n"
    real = executable(tmp_path / "a real one" / "conda", program)
    (tmp_path / "folder" / "conda").mkdir(parents=True)  # a folder of that name is no program
    done = conda(*words, path=[stand_in.parent, tmp_path / "folder", real.parent])
    assert json.loads(done.stdout) == [str(real), *words]
    assert done.returncode == 7


def test_two_stand_ins_do_not_start_each_other(stand_in: Path, tmp_path: Path) -> None:
    other = put_stand_in(tmp_path / "other")
    linked = tmp_path / "linked"
    linked.symlink_to(stand_in.parent)
    other.write_text(other.read_text() + "# of another version\n")
    done = conda("env", "list", "--json", path=[stand_in.parent, linked, other.parent])
    assert json.loads(done.stdout)["envs"][0].startswith(f"{stand_in.parents[2]}/")


@pytest.fixture
def environment(store: Path) -> Path:
    """A fresh copy of the project; its .venv is a real one, with the packages of the Python that runs the tests."""
    copy_project(store)
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(REPOSITORY / name, store)
    venv = store / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    (packages,) = venv.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    executable(venv / "bin" / "mlflow", '#!/bin/sh\nexec python -m mlflow "$@"\n')
    (venv / "ready").write_text(f"{store.resolve()}\n")
    return venv


@pytest.mark.slow
def test_the_first_command_works_word_for_word_without_conda(environment: Path) -> None:
    options = TINY | {"train_images": "100", "cutout_size": "8", "label_smoothing": "0.1"}  # most of them undeclared
    given = " ".join(f"-P {name}={value}" for name, value in options.items())
    lines = f"set -e\nmake setup\n. .venv/bin/activate\nmlflow run . -P cutout=true {given}\n"
    kept = {name: os.environ[name] for name in os.environ if not name.startswith(("CONDA", "MAKE", "MFLAGS", "PYTHON"))}
    kept["PATH"] = path_without_conda()
    done = subprocess.run(["bash", "-c", lines], cwd=environment.parent, env=kept, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test accuracy" in done.stdout
    (run,) = MlflowClient(f"sqlite:///{environment.parent}/mlflow.db").search_runs(["0"])
    assert run.info.status == "FINISHED"
    assert (run.data.tags["camparison.kind"], run.data.tags["camparison.status"]) == ("train", "completed")
    assert run.data.tags["mlflow.project.env"] == "conda"
    resolved = {name: run.data.params[f"resolved.{name}"] for name in ("cutout", "label_smoothing")}
    assert resolved == {"cutout": "true", "label_smoothing": "0.1"}


def handed_over(entry: str, given: dict[str, str], folder: Path) -> None:
    """Launches the entry point, a stub, and checks its words: the declared options with what was given, no others."""
    (folder / "experiments").mkdir()
    for name in ("__init__", "train", "compare", "tune"):
        (folder / "experiments" / f"{name}.py").write_text("" if name == "__init__" else STUB)
    for name in ("MLproject", "conda.yaml"):
        shutil.copy(REPOSITORY / name, folder)
    mlflow = str(Path(sys.executable).with_name("mlflow"))
    typed = [f"-P{name}={text}" for name, text in given.items()]
    done = run_mlflow([mlflow, "run", ".", "--env-manager=local", "-e", entry, *typed], folder)
    assert done.returncode == 0, done.stderr
    words = json.loads((folder / "argv.json").read_text())
    declared = {name: str(value["default"]) for name, value in PROJECT["entry_points"][entry]["parameters"].items()}
    assert dict(zip(words[::2], words[1::2], strict=True)) == {f"--{k}": v for k, v in (declared | given).items()}


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "declared"), KINDS.items())
def test_every_text_arrives_exactly(entry: str, declared: str, store: Path) -> None:
    given = {declared: " ".join(TEXTS), "seed": "", "label_smoothing": "0.1"}
    handed_over(entry, given | {f"text_{i}": text for i, text in enumerate(TEXTS)}, store)


@pytest.mark.slow
@pytest.mark.wild
@pytest.mark.parametrize("seed", range(10))
def test_random_texts_arrive_exactly(seed: int, store: Path) -> None:
    draw = random.Random(seed)
    letters = [chr(code) for code in [*range(32, 127), *range(160, 0x2FF), *range(0x4E00, 0x4E20), 9, 10]]
    texts = ["".join(draw.choices(letters, k=draw.randrange(40))) for _ in range(90)]  # MLflow logs 100 at most
    handed_over("main", {f"text_{i}": text for i, text in enumerate(texts)}, store)
