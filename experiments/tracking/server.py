"""An MLflow server: asks whether it is there and is what this suite needs, with all of MLflow's own settings.

MLflow's own functions make the request. So user, password, token, certificates, headers and proxies are those that all
later calls use, whichever variable or file they come from.
"""

import contextlib
import json
import os
import re
import warnings
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from urllib3.exceptions import InsecureRequestWarning, NameResolutionError, ReadTimeoutError

from ..system.secrets import hidden, remember
from .locations import TrackingError

ANSWER_S = 5  # for the server to connect, and as long again to answer
_SEARCH = "/api/2.0/mlflow/experiments/search"
_OLDEST = 3  # the first MLflow whose server takes models that belong to a run
_UNSET = "or unset MLFLOW_TRACKING_URI to use this folder"


def is_server(uri: str) -> bool:
    """Whether the address is that of a server."""
    return uri.lower().startswith(("http://", "https://"))


def without_login(uri: str) -> str:
    """The address alone. A user and password in it become MLflow's variables, so that nothing shows them later.

    Raises:
        TrackingError: it has no host, or a user without a password.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:  # of [::1
        raise TrackingError(f"MLFLOW_TRACKING_URI={hidden(uri)}: {error}; write http://HOST:PORT") from error
    host = parts.netloc.rpartition("@")[2]
    if not parts.hostname:
        raise TrackingError(f"MLFLOW_TRACKING_URI={hidden(uri)}: has no host; write http://HOST:PORT")
    if parts.username:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(parts.username)
    if parts.password:
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(parts.password)
        remember(uri)
    elif parts.username and not os.environ.get("MLFLOW_TRACKING_PASSWORD"):
        raise TrackingError(
            f"MLFLOW_TRACKING_URI={uri}: has a user without a password; "
            "put the password in MLFLOW_TRACKING_PASSWORD, or a token in MLFLOW_TRACKING_TOKEN"
        )
    return urlunsplit((parts.scheme.lower(), host, parts.path.rstrip("/"), "", ""))


def check(uri: str) -> None:
    """Asks the server once whether it is an MLflow server that this user may use.

    Raises:
        TrackingError: it is not, or does not answer within seconds; the message is one line with the way out.
    """
    if found := trouble(uri):
        raise TrackingError(found)


def trouble(uri: str) -> str:
    """What `check` raises, as a sentence; "" if the server is good."""
    try:
        answer = _get(uri, _SEARCH, max_results=1)
    except MlflowException as error:
        return _no_answer(uri, error.__cause__ or error.__context__ or error)
    except (OSError, ValueError) as error:
        return _no_answer(uri, error)
    return _refusal(uri, answer) or _too_old(uri)


def _get(uri: str, path: str, **query: int) -> requests.Response:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InsecureRequestWarning)  # the user has asked for it
        answer: requests.Response = http_request(  # type: ignore[no-untyped-call]
            get_default_host_creds(uri),  # type: ignore[no-untyped-call]
            path,
            "GET",
            params=query,
            max_retries=0,
            timeout=ANSWER_S,
            raise_on_status=False,
            allow_redirects=False,  # a POST that is redirected arrives as a GET
        )
        return answer


# Without an answer


def _no_answer(uri: str, error: BaseException) -> str:
    host, why = urlsplit(uri).hostname, _innermost(error)
    if isinstance(error, requests.exceptions.SSLError):
        return _no_tls(uri, why)
    if isinstance(error, requests.exceptions.ProxyError):
        return f"the proxy for {uri} does not answer ({why}): correct HTTPS_PROXY or HTTP_PROXY, or set NO_PROXY={host}"
    if isinstance(error, requests.exceptions.Timeout) or isinstance(_cause(error), ReadTimeoutError):
        return f"the MLflow server {uri} does not answer within {ANSWER_S} seconds: start it again, {_UNSET}"
    if isinstance(_cause(error), NameResolutionError):
        return f"no machine is called {host!r}, as in MLFLOW_TRACKING_URI={uri}: correct the name, or check the network"
    if isinstance(error, requests.exceptions.ConnectionError) and re.search("closed connection|aborted|reset", why):
        cure = "write https:// if it uses TLS" if uri.startswith("http:") else "write http:// if it does not use TLS"
        return f"no MLflow server answers at {uri} (the connection is closed without an answer): {cure}, {_UNSET}"
    if isinstance(error, requests.exceptions.ConnectionError):
        return f"no MLflow server answers at {uri} ({why}): start it, {_UNSET}"
    return f"the MLflow server {uri} cannot be asked ({why}): correct the variable or file that this names"


def _no_tls(uri: str, why: str) -> str:
    if "wrong version number" in why.lower() or "record layer" in why.lower():
        return f"the server at {uri} does not use TLS: write http:// instead of https:// in MLFLOW_TRACKING_URI"
    if re.search("certificate required|handshake failure|eof occurred|unexpected eof", why.lower()):
        return (
            f"the server {uri} ends the TLS connection ({why}): if it asks for a certificate, give your file in "
            "MLFLOW_TRACKING_CLIENT_CERT_PATH"
        )
    return (
        f"the certificate of {uri} is not trusted ({why}): give the file of its authority in "
        "MLFLOW_TRACKING_SERVER_CERT_PATH"
    )


def _cause(error: BaseException) -> BaseException | None:
    """What urllib3 says, below what requests says."""
    below = error.args[0] if error.args else None
    return getattr(below, "reason", below) if isinstance(below, BaseException) else None


def _innermost(error: BaseException) -> str:
    """The reason in one line, without addresses of objects and without secrets."""
    cause = _cause(error)
    text = " ".join(str(cause or error).split()) or type(error).__name__
    text = re.sub(r"^.*?\[(?:Errno|SSL)[^]]*\] ?|^<[^>]*>:? ?|^\w+\(host=[^)]*\):? ?", "", text)
    return hidden(text.strip("()' "))[:200]


# With an answer that is not MLflow's


def _refusal(uri: str, answer: requests.Response) -> str:
    code, user = answer.status_code, os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    if code == 401:
        return _not_known(uri, answer)
    if code == 403:
        who = f"user {user}" if user else "you"
        return f"the server {uri} refuses {who} (403{_said(answer)}): ask its owner for permission, {_UNSET}"
    if code == 404:
        return _not_there(uri)
    if 300 <= code < 400:
        return _elsewhere(uri, answer)
    if code >= 500:
        return f"the MLflow server {uri} does not work (it answers {code}{_said(answer)}): restart it, {_UNSET}"
    if code != 200:
        return f"the server {uri} does not answer as MLflow does (it answers {code}{_said(answer)}): check the address"
    return "" if _is_mlflows(answer) else _something_else(uri, answer)


def _not_known(uri: str, answer: requests.Response) -> str:
    sent = str(answer.request.headers.get("Authorization", ""))
    if sent.startswith("Bearer"):
        return f"the server {uri} does not accept the token in MLFLOW_TRACKING_TOKEN (401): give a valid one"
    if sent:
        user = os.environ.get("MLFLOW_TRACKING_USERNAME", "in ~/.mlflow/credentials")
        return f"the server {uri} does not accept the password of user {user} (401): correct MLFLOW_TRACKING_PASSWORD"
    return (
        f"the server {uri} asks who you are (401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
        "or MLFLOW_TRACKING_TOKEN"
    )


def _not_there(uri: str) -> str:
    parts = urlsplit(uri)
    root = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
    if parts.path:
        return f"no MLflow at {uri} (404): leave out {parts.path}, as in MLFLOW_TRACKING_URI={root}, or correct it"
    return f"no MLflow at {uri} (404): add the path if it is below one, as in MLFLOW_TRACKING_URI={root}/mlflow"


def _elsewhere(uri: str, answer: requests.Response) -> str:
    target = urlsplit(answer.headers.get("Location", ""))
    place = urlunsplit((target.scheme, target.netloc.rpartition("@")[2], target.path, "", ""))
    moved = target.path.removesuffix(_SEARCH)
    if target.netloc and target.path.endswith(_SEARCH):
        address = urlunsplit((target.scheme, target.netloc.rpartition("@")[2], moved, "", ""))
        return f"the server {uri} has moved ({answer.status_code}): set MLFLOW_TRACKING_URI={address}"
    return (
        f"the server {uri} sends programs to {place or 'another page'} ({answer.status_code}), probably to log in: "
        "set MLFLOW_TRACKING_TOKEN, or ask its owner how programs log in"
    )


def _is_mlflows(answer: requests.Response) -> bool:
    try:
        found = json.loads(answer.content)
    except ValueError:
        return False
    return isinstance(found, dict) and found.keys() <= {"experiments", "next_page_token"}


def _something_else(uri: str, answer: requests.Response) -> str:
    if not answer.content.strip():
        return f"the server {uri} answers with nothing: check the address and the proxy in front of the server"
    if b"<html" in answer.content[:1000].lower() or "html" in answer.headers.get("Content-Type", ""):
        return (
            f"the server {uri} answers with a web page, probably to log in: "
            "set MLFLOW_TRACKING_TOKEN, or give the address of MLflow itself"
        )
    return f"the server {uri} is not MLflow (it answers {_first_words(answer)}): give the address of an MLflow server"


def _said(answer: requests.Response) -> str:
    """What a server that refuses says, as in `: Permission denied`; "" for a web page."""
    words = _first_words(answer)
    return f": {words}" if words and not words.startswith("<") else ""


def _first_words(answer: requests.Response) -> str:
    text = answer.text
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["message"]
    return hidden(" ".join(str(text).split()))[:80]


def _too_old(uri: str) -> str:
    """Of a server that is older than the first one that stores what this suite writes; "" if it does not tell."""
    try:
        version = _get(uri, "/version")
    except (MlflowException, OSError, ValueError):
        return ""
    found = re.fullmatch(r"(\d+)\.\d+\.\d+\S*", version.text.strip()) if version.status_code == 200 else None
    if found and int(found[1]) < _OLDEST:
        return f"the server {uri} runs MLflow {found[0]}: this suite needs {_OLDEST}.0 or newer; upgrade the server"
    return ""
