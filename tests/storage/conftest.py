"""A PostgreSQL server and a store that speaks S3 for the whole run; each test has a database and a bucket of its own."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import closing

import pytest

from scheduler.sinks import Sink, make_sink
from shared_state.config.storage import StorageConfig
from tests.support.postgres import PostgresServer, find_programs

_numbers = itertools.count(1)
OpenSink = Callable[..., Awaitable[Sink]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    if find_programs() is None:
        pytest.skip(
            "*** PostgreSQL is not installed, or root cannot step down: storages in it are NOT tested"
        )
    with closing(PostgresServer()) as server:
        yield server.start()


@pytest.fixture
def database(postgres: PostgresServer) -> str:
    """The name of a new one."""
    psycopg = pytest.importorskip("psycopg")
    name = f"d{next(_numbers)}"
    with psycopg.connect(postgres.url().replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return name


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Its address."""
    server_module = pytest.importorskip("moto.server", reason="*** moto is not installed: S3 is NOT tested")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "mesh")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "canary-key")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
        server.stop()


@pytest.fixture
def bucket(s3: str) -> str:
    """The name of a new one."""
    import boto3

    name = f"bucket-{next(_numbers)}-{os.getpid()}"
    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
    client.create_bucket(Bucket=name)
    client.close()
    return name


@pytest.fixture
async def opened() -> AsyncIterator[OpenSink]:
    """Opens the sink of a configuration; closes it at the end."""
    sinks: list[Sink] = []

    async def open_sink(**document: object) -> Sink:
        sinks.append(make_sink(StorageConfig.model_validate(document)))
        await sinks[-1].open()
        return sinks[-1]

    yield open_sink
    for sink in sinks:
        await sink.aclose()
