"""The composition in real containers: requests, and what may happen to nodes and Redis under them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from openai import AsyncOpenAI

from tests.containers.composition import NODES, Composition
from tests.containers.engine import open_engine
from tests.support.processes import wait_until

pytestmark = [pytest.mark.containers, pytest.mark.timeout(900)]

_FROZEN_S = 3.0
_WORKERS = 8
_MESSAGES = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def composition() -> Iterator[Composition]:
    """The composition, up for all tests of this module; each leaves it whole."""
    with open_engine() as engine:
        composition = Composition(engine).up()
        try:
            yield composition
        finally:
            composition.down()


@pytest.fixture
async def client(composition: Composition) -> AsyncIterator[AsyncOpenAI]:
    """The official client, once every node serves."""
    await composition.await_nodes()
    async with composition.client() as client:
        yield client


async def ask(client: AsyncOpenAI, model: str = "chat") -> str:
    """Sends one request; the mode in which it was admitted."""
    answer = await client.chat.completions.with_raw_response.create(model=model, messages=_MESSAGES)
    assert answer.parse().choices[0].message.content
    return answer.headers["x-modelmesh-mode"]


class Traffic:
    """Callers that ask without a pause, until told to stop."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self.outcomes: Counter[str] = Counter()
        self._client = client
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Traffic:
        self._workers = [asyncio.create_task(self._ask()) for _ in range(_WORKERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._workers)

    async def served(self, count: int, *, within_s: float = 60.0) -> None:
        """Returns when so many more were answered."""
        goal = self.outcomes["ok"] + count
        await wait_until(lambda: self.outcomes["ok"] >= goal, within_s, what=lambda: f"{self.outcomes}")

    async def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                await ask(self._client)
            except openai.APIError as error:
                self.outcomes[f"{type(error).__name__}: {error}"] += 1
            else:
                self.outcomes["ok"] += 1


async def test_answers_and_streams_come_through_nginx(client: AsyncOpenAI) -> None:
    """A whole answer and a stream, through nginx, a node and a mock provider."""
    mode = await ask(client)
    stream = await client.chat.completions.create(model="chat", messages=_MESSAGES, stream=True)
    chunks = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]

    assert mode == "exact"
    assert len([text for text in chunks if text]) == 20


async def test_nobody_comes_in_without_the_token(composition: Composition, client: AsyncOpenAI) -> None:
    """The nodes listen beyond loopback, so both APIs ask for their tokens."""
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.AuthenticationError):
        await client.with_options(base_url=f"{composition.base_url}/ops").get("/books", cast_to=object)


async def test_requests_go_on_when_a_node_is_killed(composition: Composition, client: AsyncOpenAI) -> None:
    """Two of three nodes serve what comes after a crash; the third comes back at its old address."""
    await asyncio.to_thread(composition.compose, "kill", "-s", "SIGKILL", "node2")
    modes = Counter([await ask(client) for _ in range(30)])
    await asyncio.to_thread(composition.compose, "start", "node2")
    await composition.await_nodes()

    assert modes == {"exact": 30}


async def test_a_drained_node_comes_back_and_nobody_notices(
    composition: Composition, client: AsyncOpenAI
) -> None:
    """Each node in turn drains under load, ends with 0, is started again by the restart policy: no request fails."""
    async with Traffic(client) as traffic:
        for node in NODES:
            before = composition.state(node)
            await asyncio.to_thread(composition.signal, node, "SIGTERM")
            await wait_until(
                lambda node=node, before=before: _came_back(composition, node, before),
                60,
                interval=0.5,
                what=f"{node} to come back",
            )
            await traffic.served(50)

    assert set(traffic.outcomes) == {"ok"}


def _came_back(composition: Composition, node: str, before: dict) -> bool:
    now = composition.state(node)
    has_restarted = now["RestartCount"] > before["RestartCount"]
    return has_restarted and now["State"]["Health"]["Status"] == "healthy"


async def test_a_frozen_redis_does_not_stop_the_answers(
    composition: Composition, client: AsyncOpenAI
) -> None:
    """While Redis is frozen a model without limits is served in another mode; afterwards the mode is exact again."""
    await asyncio.to_thread(composition.compose, "pause", "redis")
    try:
        until = asyncio.get_running_loop().time() + _FROZEN_S
        frozen = Counter[str]()
        while asyncio.get_running_loop().time() < until:
            frozen[await ask(client, "steady.chat")] += 1
    finally:
        await asyncio.to_thread(composition.compose, "unpause", "redis")
    await composition.await_nodes()

    assert frozen["leased"] > frozen["exact"]
    assert await ask(client, "steady.chat") == "exact"


async def test_the_books_balance_and_outlive_redis(composition: Composition, client: AsyncOpenAI) -> None:
    """After all that every balance is right, and a restart of Redis forgets nothing."""
    await ask(client)
    before = await composition.settled_books()
    await asyncio.to_thread(composition.compose, "restart", "redis")
    await composition.await_nodes()
    after = await composition.settled_books()
    await asyncio.to_thread(composition.compose, "exec", "-T", "node1", "modelmesh", "audit")

    assert before["totals"]["admitted"] > 0
    assert after["totals"] == before["totals"]
