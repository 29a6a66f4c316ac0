"""One question to a server, with MLflow's own variables; all but MLflow's own answer is one line with the cure."""

import base64
import os
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import mlflow
import pytest

from experiments.tracking import server
from experiments.tracking.locations import TrackingError
from experiments.tracking.store import prepare_store
from tests.conftest import free_port
from tests.toys.answers_of_servers import Answer, Answers, certificate, serving

PASSWORD = "s3cret/of@the-test"
LOGIN = Answer(body=b"<!doctype html><html><title>Log in</title></html>", headers={"Content-Type": "text/html"})


def always(answer: Answer | None) -> Answers:
    return lambda request: answer


def mlflows(request: BaseHTTPRequestHandler) -> Answer:
    """What MLflow answers to a user who is known."""
    return Answer(body=b"3.17.2") if request.path == "/version" else Answer()


def asking_for(authorization: str) -> Answers:
    def answers(request: BaseHTTPRequestHandler) -> Answer:
        known = request.headers.get("Authorization") == authorization
        return mlflows(request) if known else Answer(401, b"You are not authenticated.")

    return answers


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@contextmanager
def address_of(answers: Answers) -> Iterator[str]:
    with serving(answers) as port:
        yield f"http://127.0.0.1:{port}"


def test_a_server_that_answers_as_mlflow_does_is_good() -> None:
    with address_of(mlflows) as address:
        assert server.trouble(address) == ""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(401, b"no"), "asks who you are (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or"),
        (Answer(403, b"Permission denied"), "refuses you (403: Permission denied): ask its owner for permission, or"),
        (Answer(403, LOGIN.body), "refuses you (403): ask"),
        (Answer(404, b"{}"), "(404): add the path if it is below one, as in MLFLOW_TRACKING_URI=http://127.0.0.1:"),
        (Answer(500, b'{"message": "no disk"}'), "does not work (it answers 500: no disk): restart it, or unset"),
        (Answer(503, b""), "does not work (it answers 503): restart it"),
        (LOGIN, "answers with a web page, probably to log in: set MLFLOW_TRACKING_TOKEN, or give the address of"),
        (
            Answer(302, b"", {"Location": "https://login.example/start?x=1"}),
            "sends programs to https://login.example/start",
        ),
        (
            Answer(301, b"", {"Location": f"https://new.example/mlflow{server._SEARCH}?max_results=1"}),
            "has moved (301): set MLFLOW_TRACKING_URI=https://new.example/mlflow",
        ),
        (Answer(body=b""), "answers with nothing: check the address and the proxy"),
        (Answer(body=b'{"status": "ok"}'), 'is not MLflow (it answers {"status": "ok"}): give the address of an'),
        (None, "the connection is closed without an answer): write https:// if it uses TLS, or unset"),
    ],
)
def test_every_other_answer_is_one_line_with_the_cure(answer: Answer | None, said: str) -> None:
    with address_of(always(answer)) as address:
        found = server.trouble(address)
    assert said in found
    assert "\n" not in found
    assert address in found


def test_a_path_that_is_too_much_is_named() -> None:
    with address_of(always(Answer(404, b"{}"))) as address:
        said = f"no MLflow at {address}/ui (404): leave out /ui, as in MLFLOW_TRACKING_URI={address}, or correct it"
        assert server.trouble(f"{address}/ui") == said


def test_a_server_of_an_older_mlflow_is_named() -> None:
    def answers(request: BaseHTTPRequestHandler) -> Answer:
        return Answer(body=b"2.9.2") if request.path == "/version" else Answer()

    with address_of(answers) as address:
        assert f"{address} runs MLflow 2.9.2: this suite needs 3.0 or newer" in server.trouble(address)


def test_without_an_answer_it_is_one_line_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    nobody = server.trouble(f"http://127.0.0.1:{port}")
    assert nobody.startswith(f"no MLflow server answers at http://127.0.0.1:{port} (")
    assert nobody.endswith("refused): start it, or unset MLFLOW_TRACKING_URI to use this folder")
    assert "no machine is called 'nowhere.invalid', as in MLFLOW_TRACKING_URI=http" in server.trouble(
        "http://nowhere.invalid:5000"
    )
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    assert "the proxy for http://far.example does not answer (" in server.trouble("http://far.example")
    monkeypatch.delenv("http_proxy")
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", "nowhere.pem")
    assert "nowhere.pem" in server.trouble("https://127.0.0.1:1")


def test_a_silent_server_is_named_after_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "ANSWER_S", 0.1)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        said = f"the MLflow server {address} does not answer within 0.1 seconds: start it again"
        assert said in server.trouble(address)


def test_user_password_and_token_are_those_of_mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    with address_of(asking_for(basic("me", PASSWORD))) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-one")
        assert server.trouble(address) == (
            f"the server {address} does not accept the password of user me (401): correct MLFLOW_TRACKING_PASSWORD"
        )
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
        assert server.trouble(address) == ""
    with address_of(asking_for("Bearer a-token")) as address:
        monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "another")
        assert "does not accept the token in MLFLOW_TRACKING_TOKEN (401)" in server.trouble(address)
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "a-token")
        assert server.trouble(address) == ""


def test_a_user_and_password_in_the_address_are_used_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with address_of(asking_for(basic("me", PASSWORD))) as address:
        login = address.replace("//", "//me:s3cret%2Fof%40the-test@")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", login)
        assert prepare_store() == address == mlflow.get_tracking_uri()
        assert os.environ["MLFLOW_TRACKING_URI"] == address
        monkeypatch.setenv("MLFLOW_TRACKING_URI", login.replace("s3cret", "gu3ss"))
        with pytest.raises(TrackingError, match="does not accept the password of user me") as refused:
            prepare_store()
        assert "gu3ss" not in str(refused.value)
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    with pytest.raises(TrackingError, match="has a user without a password; put the password in MLFLOW_TRACKING_PASS"):
        server.without_login("http://me@host:5000")
    with pytest.raises(TrackingError, match="has no host; write http://HOST:PORT"):
        server.without_login("http://")


def test_certificates_are_those_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, trusted = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, key)
    with serving(mlflows, context) as port:
        address = f"https://127.0.0.1:{port}"
        said = server.trouble(address)
        assert said.startswith(f"the certificate of {address} is not trusted (certificate verify failed")
        assert said.endswith("give the file of its authority in MLFLOW_TRACKING_SERVER_CERT_PATH")
        monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(trusted))
        assert server.trouble(address) == ""
        assert "write https:// if it uses TLS" in server.trouble(f"http://127.0.0.1:{port}")
        monkeypatch.delenv("MLFLOW_TRACKING_SERVER_CERT_PATH")
        monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "true")
        assert server.trouble(address) == ""
    with serving(mlflows) as port:
        assert "does not use TLS: write http:// instead of https://" in server.trouble(f"https://127.0.0.1:{port}")


def test_a_server_that_asks_for_a_certificate_gets_that_of_mlflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, trusted = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, key)
    context.load_verify_locations(trusted)
    context.verify_mode = ssl.CERT_REQUIRED
    monkeypatch.setenv("MLFLOW_TRACKING_SERVER_CERT_PATH", str(trusted))
    both = tmp_path / "both.pem"
    both.write_bytes(key.read_bytes() + trusted.read_bytes())
    with serving(mlflows, context) as port:
        address = f"https://127.0.0.1:{port}"
        assert "MLFLOW_TRACKING_CLIENT_CERT_PATH" in server.trouble(address)
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(both))
        assert server.trouble(address) == ""


def test_a_server_that_is_not_good_is_refused_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    with address_of(always(Answer(401, b"no"))) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        with pytest.raises(TrackingError, match=rf"the server {address} asks who you are \(401\)"):
            prepare_store()
