"""Variables without a value count as absent; a value that MLflow cannot read is named at the start."""

import os
import subprocess
import sys

import pytest
from mlflow import MlflowClient

from experiments.tracking.environment import forget_blank, unreadable
from experiments.tracking.lifetime import open_run
from experiments.tracking.locations import TrackingError
from experiments.tracking.store import prepare_store
from tests.conftest import clean_environment

READ = (
    *(
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_RUN_ID",
        "MLFLOW_TRACKING_TOKEN",
    ),
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_REGISTRY_URI"),
    *("MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_ENABLE_ASYNC_LOGGING", "_MLFLOW_SERVER_ARTIFACT_ROOT", "CAMPARISON_UI"),
    *("REQUESTS_CA_BUNDLE", "https_proxy", "SSL_CERT_FILE"),
)


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_variables_without_a_value_count_as_absent(blank: str, store: object, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in READ:
        monkeypatch.setenv(name, blank)
    prepare_store()
    with open_run(kind="train", name="baseline") as run:
        pass
    assert MlflowClient().get_run(run.id).info.status == "FINISHED"
    assert run.experiment_id == "0"


def test_a_value_that_says_something_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", " my experiment ")
    monkeypatch.setenv("HOME_OF_MLFLOW", "")
    forget_blank()
    assert os.environ["MLFLOW_EXPERIMENT_NAME"] == " my experiment "
    assert os.environ["HOME_OF_MLFLOW"] == ""


@pytest.mark.parametrize(
    ("name", "value"), [("MLFLOW_HTTP_REQUEST_TIMEOUT", "soon"), ("MLFLOW_TRACKING_INSECURE_TLS", "perhaps")]
)
def test_a_value_that_mlflow_cannot_read_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unreadable() == ""
    monkeypatch.setenv(name, value)
    with pytest.raises(TrackingError, match=rf"^{name}={value}: .*; correct or unset the variable$"):
        prepare_store()


@pytest.mark.slow
def test_a_machine_without_git_is_no_news() -> None:
    code = (
        "from experiments.tracking.environment import set_environment; set_environment()\n"
        "from mlflow.tracking.context.registry import resolve_tags; resolve_tags()\n"
        "from experiments.tracking.lifetime import _commit; assert _commit() == {}"
    )
    environment = clean_environment() | {"PATH": "/nowhere"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
