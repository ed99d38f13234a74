"""The contract of sinks on a store that speaks S3, and what happens when that is away or refuses."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest

from scheduler.sinks import SinkAwayError, SinkError, make_sink
from shared_state.config.storage import StorageConfig
from tests.storage.conftest import OpenSink
from tests.support.sink_contract import MakeSink, SinkContract, attempts, row
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.storage


def document(endpoint: str, bucket: str, **further: Any) -> dict[str, Any]:
    place = {"bucket": bucket, "key": "team/mesh", "region": "us-east-1", "endpoint": endpoint}
    return {"connector": "aws.s3.v1", **place, **further}


class TestContract(SinkContract):
    @pytest.fixture
    def open_sink(self, s3: str, bucket: str, opened: OpenSink) -> MakeSink:
        return partial(opened, **document(s3, bucket, persistence={"compression": True}))


async def names(s3: str, bucket: str) -> list[str]:
    import boto3

    client = boto3.client("s3", endpoint_url=s3, region_name="us-east-1")
    listed = await asyncio.to_thread(client.list_objects_v2, Bucket=bucket)
    client.close()
    return [entry["Key"] for entry in listed.get("Contents", [])]


async def test_objects_lie_under_the_key_and_are_few(s3: str, bucket: str, opened: OpenSink) -> None:
    """What is written again takes no room, and of the copies two are kept."""
    sink = await opened(**document(s3, bucket))
    for taken_ms in range(4):
        await sink.write([row(attempts=1)])
        await sink.save_copy("d", taken_ms, b"x")

    found = await names(s3, bucket)
    assert len(found) == 4
    assert all(name.startswith("team/mesh/") for name in found)


async def test_an_outage_delays_and_loses_nothing(s3: str, bucket: str) -> None:
    """Refused at the start, then there; the answer to a write is lost; each call ends, and is made good by repeating it."""
    async with TcpProxy(("127.0.0.1", urlsplit(s3).port or 0)) as proxy:
        proxy.refuse()
        sink = make_sink(StorageConfig.model_validate(document(proxy.http_url, bucket)))
        with pytest.raises(SinkAwayError):
            await sink.open()
        await proxy.resume()
        await sink.write([row(attempts=3)])
        proxy.pause()
        sink.objects._call_s = 0.3  # type: ignore[attr-defined]
        with pytest.raises(SinkAwayError, match="no answer within"):
            await sink.write([row(11, attempts=1)])
        await proxy.resume()
        sink.objects._call_s = 15  # type: ignore[attr-defined]
        await sink.write([row(11, attempts=1)])

        assert await attempts(sink) == {"m": 4}
        await sink.aclose()


async def test_a_bucket_that_is_not_there_is_no_outage(s3: str, opened: OpenSink) -> None:
    """The scheduler ends with the name of it."""
    with pytest.raises(SinkError, match=r"the bucket at nobody-has-it/team/mesh cannot be") as caught:
        await opened(**document(s3, "nobody-has-it"))

    assert not isinstance(caught.value, SinkAwayError)


async def test_a_store_without_exclusive_writes_will_do(s3: str, bucket: str, opened: OpenSink) -> None:
    """What has the name has the content, or was taken at the same moment."""
    sink = await opened(**document(s3, bucket))
    files = sink.objects._files  # type: ignore[attr-defined]
    whole = files.pipe_file

    def pipe_file(path: str, data: bytes, **options: Any) -> None:
        if "mode" in options:
            raise OSError(38, "A header you provided implies functionality that is not implemented")
        whole(path, data)

    files.pipe_file = pipe_file
    await sink.write([row(attempts=3)])
    await sink.write([row(attempts=3)])

    assert await attempts(sink) == {"m": 3}
