"""A real PostgreSQL on this machine, from the system's package, for as long as a test session lasts."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import free_port

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), default=Path("/nowhere/pg_ctl")).parent
USER, PASSWORD = "camparison", "s3cret-of-the-test"


@dataclass(frozen=True)
class Postgres:
    """A server that runs; it asks for a password."""

    port: int
    folder: Path

    def address(self, database: str) -> str:
        """Where a new, empty database of that name is."""
        url = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}"
        # Not with `with`, which would open a transaction, in which no database can be made.
        import psycopg

        connection = psycopg.connect(f"{url}/postgres", autocommit=True)
        try:
            connection.execute(f'CREATE DATABASE "{database}"'.encode())
        finally:
            connection.close()
        return f"{url}/{database}"

    def restart(self) -> None:
        """Every connection breaks, as in a crash; it answers again when this returns."""
        self._control("-m", "immediate", "restart")

    def stop(self) -> None:
        """Every connection breaks, and nothing answers any more."""
        self._control("-m", "immediate", "stop")

    def start(self) -> None:
        """It answers again when this returns."""
        options = (self.folder / "options").read_text()
        self._control("-l", str(self.folder / "log"), "-o", options, "start")

    def _control(self, *words: str) -> None:
        _as_owner([str(PROGRAMS / "pg_ctl"), "-D", str(self.folder / "data"), "-w", *words])


@contextmanager
def running() -> Iterator[Postgres]:
    """A server on a free port of 127.0.0.1, stopped with the block.

    Its folder lies outside pytest's own, which only the user who runs the tests may enter: it refuses to run as root.
    """
    folder = Path(tempfile.mkdtemp(prefix="camparison-postgres-"))
    port = free_port()
    data = ["-D", str(folder / "data")]
    try:
        (folder / "password").write_text(PASSWORD)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
            shutil.chown(folder / "password", "postgres")
        login = ["-U", USER, "--auth=scram-sha-256", f"--pwfile={folder / 'password'}"]
        _as_owner([str(PROGRAMS / "initdb"), *data, *login, "--encoding=UTF8", "--no-sync"])
        options = f"-h 127.0.0.1 -p {port} -k {folder} -c fsync=off -c max_connections=400"
        (folder / "options").write_text(options)
        server = Postgres(port, folder)
        server.start()
        try:
            yield server
        finally:
            _as_owner([str(PROGRAMS / "pg_ctl"), *data, "-m", "immediate", "-w", "stop"])
    finally:
        shutil.rmtree(folder)


def _as_owner(command: list[str]) -> None:
    """PostgreSQL does not run as root."""
    words = ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else command
    # A server keeps what it is given for output open: with a pipe this would wait for its end.
    with tempfile.TemporaryFile() as said:
        code = subprocess.run(words, cwd="/", stdout=said, stderr=subprocess.STDOUT).returncode
        said.seek(0)
        assert code == 0, said.read().decode()
