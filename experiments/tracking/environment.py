"""The environment variables of MLflow, set before it is imported."""

import os


def set_environment() -> None:
    """Sets the variables of MLflow that this suite needs, unless the user has set them."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # our own links open the view
    os.environ.setdefault("MLFLOW_TRUNCATE_LONG_VALUES", "false")  # MLflow then raises an error instead
    os.environ.setdefault(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"
    )  # the default, seven, means minutes of silence per call
