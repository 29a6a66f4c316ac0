"""What an error of MLflow's client means."""

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from experiments.tracking.failures import is_answer, is_away, reason


def by_http(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    return requests.HTTPError(f"{status} for url", response=response)


@pytest.mark.parametrize(
    ("error", "refuses", "away"),
    [
        (RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "too long"}), True, False),
        (RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}), True, False),
        (RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "locked"}), False, True),
        (MlflowException("connection already closed", error_code=BAD_REQUEST), False, False),
        (MlflowException("API request to http://x failed with error code 404 != 200"), False, True),
        (MlflowException("API request to http://x failed with exception: refused"), False, True),
        (requests.ConnectionError("refused"), False, True),
        (by_http(503), False, True),
        (by_http(404), False, False),
        (OSError("no such file"), False, False),
    ],
)
def test_only_what_mlflow_itself_refuses_is_given_up(error: Exception, refuses: bool, away: bool) -> None:
    assert (is_answer(error), is_away(error)) == (refuses, away)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("API request to http://me:secret@x/api failed with error code 401 != 200", "status 401"),
        ("HTTPConnectionPool(host='x'): Max retries exceeded (Caused by [Errno 111] Connection refused)", "nothing"),
        ("failed: HTTPConnectionPool(host='x', port=1): Read timed out. (read timeout=20)", "no answer in time"),
        ("something at http://me:secret@x/api", "MlflowException: something at http://x/api"),
        ("x" * 1000, "MlflowException: xxx"),
    ],
)
def test_a_reason_is_short_and_holds_no_password(text: str, short: str) -> None:
    said = reason(MlflowException(text))
    assert said.startswith(short)
    assert "secret" not in said
    assert len(said) < 170
