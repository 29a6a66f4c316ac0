"""MLflow's UI: saved views, links to open, and the server."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlparse

import mlflow
from mlflow import MlflowClient

from . import outbox, views
from .locations import TrackingError
from .signals import terminated_by_signal
from .store import prepare_store
from .writing import Run, log_notes

UI_PORT = 5000


def save_view(experiment_id: str, view: views.View) -> str:
    """Saves the view and returns the end of its link, which `ui_address` completes. Replaces a view of the same name.

    The experiment's note, shown above its runs, lists the links to all views of this suite, the newest first; text that
    a person wrote into the note is kept.

    Raises:
        ValueError: the view is too long for MLflow.
    """
    now = int(time.time() * 1000)
    views.pack(view, now)  # raises if it is too long
    colours = {run_id: {views.COLOUR: colour} for run_id, colour in zip(view.run_ids, view.colours, strict=False)}
    columns = [
        {"what": "tags", "of": run_id, "values": {view.column_tag: views.column(index)} | colours.get(run_id, {})}
        for index, run_id in enumerate(view.columns)
    ]
    saved = {"what": "view", "experiment": experiment_id, "tag": view.tag, "name": view.name, "time": now}
    log_notes([*columns, saved | {"state": view.state}])
    return views.fragment(experiment_id, view.key)


def ui_address(fragment: str = "") -> str:
    """The address of the UI: the tracking server if there is one, else CAMPARISON_UI, else that of `make ui`."""
    uri = mlflow.get_tracking_uri()
    local = os.environ.get("CAMPARISON_UI") or f"http://127.0.0.1:{UI_PORT}"
    return f"{(uri if uri.startswith('http') else local).rstrip('/')}/{fragment}"


def ui_hint() -> str:
    """A hint in brackets on how to start the UI; empty if a server runs it."""
    return "" if mlflow.get_tracking_uri().startswith("http") else " (start it with `make ui`)"


def file_address(run: Run, path: str) -> str:
    """The path or link that opens a file of the run: its path on this machine, or its page in the server's UI."""
    if waiting := run.waiting_file(path):
        return str(waiting)
    if not run.artifact_uri:  # MLflow was away when the run began
        return ui_address(f"#/experiments/{run.experiment_id}/runs/{outbox.id_now(run.id)}/artifacts/{path}")
    place = urlparse(run.artifact_uri)
    if place.scheme in ("", "file"):
        return str(Path(unquote(place.path)) / path)
    return ui_address(f"#/experiments/{run.experiment_id}/runs/{run.id}/artifacts/{path}")


def serve_ui(port: int, root: Path | None = None) -> int:
    """Runs MLflow's UI for this project's store, on this machine only, until Ctrl-C; returns the server's exit code.

    Raises:
        TrackingError: the port is in use, or the store is on a server, which has its own UI.
    """
    uri = prepare_store(root)
    if uri.startswith("http"):
        raise TrackingError(f"MLFLOW_TRACKING_URI names a server, which has its own UI: open {uri}")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise TrackingError(
                f"port {port} cannot be used ({error.strerror}): stop the program that uses it, or add --port NUMBER"
            ) from error
    os.environ["CAMPARISON_UI"] = f"http://127.0.0.1:{port}"
    print(f"MLflow UI: {ui_address()} (ready in a few seconds; Ctrl-C stops it)")
    for experiment in MlflowClient().search_experiments():
        for name, address in views.links_of(experiment.experiment_id, experiment.tags):
            print(f"{name}: {ui_address(address)}")
    sys.stdout.flush()
    unset = ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # job workers need 1.5 GB and are not used here
        "PYTHONWARNINGS": "ignore",  # warnings of the server's own packages
        "MLFLOW_BACKEND_STORE_URI": uri,  # everybody can read the options of a process, and it may hold a password
    }
    # Files go to the same place as without a server, also in experiments that are created in the UI.
    files = (root or Path.cwd()).resolve() / "mlruns"
    where = ["--default-artifact-root", str(files), "--host", "127.0.0.1"]
    quiet = ["--uvicorn-opts", "--no-access-log"]  # a line for every picture would push the links off the screen
    server = [sys.executable, "-m", "mlflow", "server", *where, "--port", str(port), "--workers", "1", *quiet]
    return _until_interrupted(server, environment)


def _until_interrupted(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Runs `command` and returns its exit code; 0 if Ctrl-C ended it. It runs in its own session, which is ended whole.

    If MLflow's server received Ctrl-C itself, it would print a traceback.
    """
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        with terminated_by_signal():
            return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()
