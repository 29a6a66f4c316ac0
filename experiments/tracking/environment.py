"""What MLflow reads from the environment, set before it is imported."""

import os


def set_environment() -> None:
    """Gives every variable of MLflow that this suite needs its value, unless the user has set it."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # our links open the view
    os.environ.setdefault("MLFLOW_TRUNCATE_LONG_VALUES", "false")  # an error instead
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # seven, the default, are minutes of silence per call
