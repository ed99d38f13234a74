"""Group commit: who travels with whom, and that nothing is lost or left waiting when Redis or the asker goes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from node import batch as module
from node.batch import DomainBatcher
from shared_state.config import PoolConfig
from shared_state.errors import TermChangedError
from shared_state.ledger import MAX_BATCH, NOT_SENT, Ask, Code, Outcome, Settlement, Verdict
from tests.unit.node.house import Watch, mesh
from tests.unit.node.scripted import for_ever, pause
from tests.unit.node.virtual_time import in_virtual_time, settle_down

POOL = PoolConfig()
ADMITTED = Verdict(Code.ADMITTED)


class ScriptedLedger:
    """Notes each batch; answers when and how the test says."""

    def __init__(self) -> None:
        self.domain = mesh("a.m").domains["a"]
        self.calls = 0
        self.admissions: list[list[str]] = []
        self.settlements: list[list[str]] = []
        self.flags: list[int] = []
        self.refused: set[str] = set()
        self.errors: list[Exception] = []
        self.wait: Callable[[], Awaitable[object]] | None = None
        self.is_asserted = True
        self.hold_until_ms = 0

    def is_held(self) -> bool:
        return not self.is_asserted or self.hold_until_ms > 0

    async def exchange(
        self, asks: Sequence[Ask], settlements: Sequence[Settlement]
    ) -> tuple[list[Verdict], list[bool]]:
        self.calls += 1
        if asks:
            self.admissions.append([ask.reservation for ask in asks])
        if settlements:
            self._note(settlements)
        await self._answer()
        full = Verdict(Code.AT_LIMIT, 1, "rpm")
        verdicts = [full if ask.reservation in self.refused else ADMITTED for ask in asks]
        return verdicts, [True] * len(settlements)

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        self.calls += 1
        self._note(settlements)
        await self._answer()
        return [True] * len(settlements)

    def _note(self, settlements: Sequence[Settlement]) -> None:
        self.settlements.append([settlement.reservation for settlement in settlements])
        self.flags += [settlement.flags for settlement in settlements]

    async def _answer(self) -> None:
        if self.wait is not None:
            await self.wait()
        if self.errors:
            raise self.errors.pop(0)


class Scene:
    """A batcher and what stands around it."""

    def __init__(self) -> None:
        self.ledger = ScriptedLedger()
        self.watch = Watch()
        self.replies = 0
        self.on_reply: Callable[[], object] | None = None
        self.batcher = DomainBatcher(self.ledger, self.watch, on_reply=self._note)  # type: ignore[arg-type]

    def _note(self, ledger: object) -> None:
        assert ledger is self.ledger
        self.replies += 1
        if self.on_reply is not None:
            self.on_reply()

    def ask(self, name: str) -> asyncio.Task[Verdict]:
        """A caller that waits for admission in a task of its own."""
        return asyncio.get_running_loop().create_task(self.admit(name))

    async def admit(self, name: str) -> Verdict:
        return await self.batcher.admit(Ask(name, "a.m", "chat", 1, 1, 1, 1000), POOL)

    def settle(self, name: str) -> None:
        self.batcher.settle(Settlement(name, "a.m", POOL, Outcome.SUCCESS))


@pytest.fixture
def scene() -> Scene:
    return Scene()


# -- admission


@in_virtual_time
async def test_a_lonely_ask_waits_for_nobody(scene: Scene) -> None:
    """One round trip, at once."""
    assert await scene.admit("r1") == ADMITTED
    assert scene.ledger.admissions == [["r1"]]
    assert scene.replies == 1


@in_virtual_time
async def test_the_next_batch_gathers_while_one_is_under_way(scene: Scene) -> None:
    """Everybody who comes meanwhile travels together, in order."""
    scene.ledger.wait = pause(0.01)
    asks = [scene.ask("r1")]
    await settle_down()
    for number in range(2, 7):
        asks.append(scene.ask(f"r{number}"))
        await settle_down()
    await asyncio.gather(*asks)

    assert scene.ledger.admissions == [["r1"], ["r2", "r3", "r4", "r5", "r6"]]


@in_virtual_time
async def test_a_batch_has_a_largest_size(scene: Scene) -> None:
    """A burst is cut, so that one call never keeps the server busy for long."""
    await asyncio.gather(*(scene.admit(f"r{number}") for number in range(2 * MAX_BATCH + 5)))

    assert [len(names) for names in scene.ledger.admissions] == [MAX_BATCH, MAX_BATCH, 5]


@in_virtual_time
async def test_each_asker_gets_its_own_answer(scene: Scene) -> None:
    """A refusal is for the one that was refused, and is not given back."""
    scene.ledger.refused = {"r2"}
    verdicts = await asyncio.gather(*(scene.admit(f"r{number}") for number in (1, 2, 3)))
    await scene.batcher.flush()

    assert [verdict.code for verdict in verdicts] == [Code.ADMITTED, Code.AT_LIMIT, Code.ADMITTED]
    assert scene.ledger.settlements == []


@in_virtual_time
async def test_without_redis_the_answer_comes_at_once(scene: Scene) -> None:
    """Nobody tries what is known to be away."""
    scene.watch.connected = False

    assert (await scene.admit("r1")).code is Code.STORE_AWAY
    assert scene.ledger.admissions == []


@pytest.mark.parametrize(
    "error", [TimeoutError(), ConnectionResetError(), RedisConnectionError("gone"), ResponseError("OOM")]
)
@in_virtual_time
async def test_redis_that_fails_under_way_may_have_admitted(scene: Scene, error: Exception) -> None:
    """All askers hear STORE_AWAY at once, and what may have been admitted is given back when Redis is there again."""
    scene.ledger.errors = [error]
    verdicts = await asyncio.gather(scene.admit("r1"), scene.admit("r2"))
    assert {verdict.code for verdict in verdicts} == {Code.STORE_AWAY}
    assert scene.watch.failures == [error]
    assert scene.batcher.unsettled == 2

    scene.watch.connected = True
    await scene.batcher.flush()

    assert scene.ledger.settlements == [["r1", "r2"]]
    assert scene.ledger.flags == [NOT_SENT, NOT_SENT]


@in_virtual_time
async def test_who_asked_while_redis_went_away_is_not_kept(scene: Scene) -> None:
    """The batch that had gathered behind the failed one is answered as well."""
    scene.ledger.wait = pause(0.25)
    scene.ledger.errors = [TimeoutError(), TimeoutError()]
    first = scene.ask("r1")
    await settle_down()
    second = scene.ask("r2")

    assert {(await first).code, (await second).code} == {Code.STORE_AWAY}


@in_virtual_time
async def test_an_unexpected_fault_keeps_nobody_waiting(scene: Scene) -> None:
    """A request that cannot even be encoded fails its batch; the next one goes on."""
    scene.ledger.errors = [TypeError("Integer exceeds 64-bit range")]
    async with asyncio.timeout(30):
        outcomes = await asyncio.gather(scene.admit("r1"), scene.admit("r2"), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [TypeError, TypeError]
    assert await scene.admit("r3") == ADMITTED
    assert scene.watch.connected


@in_virtual_time
async def test_an_asker_who_leaves_gives_its_admission_back(scene: Scene) -> None:
    """It was admitted by then; nobody will use it."""
    scene.ledger.wait = pause(0.01)
    gone, stays = scene.ask("r1"), scene.ask("r2")
    await settle_down()
    gone.cancel()

    assert (await stays).code is Code.ADMITTED
    await scene.batcher.flush()
    assert gone.cancelled()
    assert scene.ledger.settlements == [["r1"]]
    assert scene.ledger.flags == [NOT_SENT]


@in_virtual_time
async def test_an_asker_who_leaves_in_the_moment_of_its_admission_gives_it_back(scene: Scene) -> None:
    """Between the verdict and the asker's next step lies one turn of the loop; no reservation falls into it."""
    asker = scene.ask("r1")
    scene.on_reply = asker.cancel
    await asyncio.wait([asker])
    scene.on_reply = None
    await scene.batcher.flush()

    assert asker.cancelled()
    assert scene.ledger.settlements == [["r1"]]
    assert scene.ledger.flags == [NOT_SENT]


@in_virtual_time
async def test_an_asker_who_was_refused_gives_nothing_back(scene: Scene) -> None:
    """A refused request has consumed nothing."""
    scene.ledger.refused = {"r1"}
    scene.ledger.wait = pause(0.01)
    asker = scene.ask("r1")
    await settle_down()
    asker.cancel()
    await asyncio.sleep(1)

    assert scene.ledger.settlements == []


# -- settlement


@in_virtual_time
async def test_settlements_gather_like_admissions(scene: Scene) -> None:
    """In order, and in batches of a largest size."""
    for number in range(MAX_BATCH + 3):
        scene.settle(f"r{number}")
    await scene.batcher.flush()

    assert [len(names) for names in scene.ledger.settlements] == [MAX_BATCH, 3]
    assert sum(scene.ledger.settlements, []) == [f"r{number}" for number in range(MAX_BATCH + 3)]
    assert scene.batcher.unsettled == 0
    assert scene.replies == 2


@in_virtual_time
async def test_a_settlement_outlives_the_task_that_handed_it_over(scene: Scene) -> None:
    """A cancelled request is settled all the same."""
    scene.ledger.wait = pause(0.01)

    async def serve() -> None:
        try:
            await for_ever()
        finally:
            scene.settle("r1")

    task = asyncio.create_task(serve())
    await settle_down()
    task.cancel()
    await asyncio.wait([task])
    await scene.batcher.flush()

    assert scene.ledger.settlements == [["r1"]]


@in_virtual_time
async def test_settlements_wait_for_redis_and_arrive_in_order(scene: Scene) -> None:
    """A batch that failed is sent again, the same; then what has come meanwhile."""
    scene.ledger.errors = [TimeoutError()]
    scene.settle("r1")
    await asyncio.sleep(0.01)
    assert not scene.watch.connected
    scene.settle("r2")
    await asyncio.sleep(30)
    assert scene.ledger.settlements == [["r1"]]
    assert scene.batcher.unsettled == 2

    scene.watch.connected = True
    await scene.batcher.flush()

    assert scene.ledger.settlements == [["r1"], ["r1", "r2"]]
    assert scene.batcher.unsettled == 0


@in_virtual_time
async def test_the_outbox_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit is counted; its reservation's lease charges it."""
    monkeypatch.setattr(module, "_OUTBOX", 3)
    scene.watch.connected = False
    for number in range(5):
        scene.settle(f"r{number}")

    assert scene.batcher.unsettled == 3
    assert scene.batcher.lost_settlements == 2

    scene.watch.connected = True
    await scene.batcher.flush()
    assert scene.ledger.settlements == [["r0", "r1", "r2"]]


@in_virtual_time
async def test_flush_waits_for_what_is_under_way(scene: Scene) -> None:
    """Also for what is handed over while it waits; with nothing to do it returns at once."""
    await scene.batcher.flush()
    scene.ledger.wait = pause(1)
    scene.settle("r1")
    loop = asyncio.get_running_loop()
    loop.call_later(0.5, scene.settle, "r2")
    began = loop.time()

    await scene.batcher.flush()

    assert loop.time() - began == 2.0
    assert scene.ledger.settlements == [["r1"], ["r2"]]


@in_virtual_time
async def test_a_flush_can_be_given_up(scene: Scene) -> None:
    """A node that ends without Redis does not wait for ever, and its outbox is still there."""
    scene.watch.connected = False
    scene.settle("r1")

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await scene.batcher.flush()
    assert scene.batcher.unsettled == 1


@in_virtual_time
async def test_a_settlement_that_cannot_be_applied_does_not_hold_up_the_others(scene: Scene) -> None:
    """A fault of ours costs its batch, which is counted and logged; what follows arrives."""
    scene.ledger.errors = [TypeError("Integer exceeds 64-bit range")]
    with capture_logs() as logs:
        scene.settle("r1")
        await scene.batcher.flush()
    scene.settle("r2")
    await scene.batcher.flush()

    assert scene.ledger.settlements == [["r1"], ["r2"]]
    assert (scene.batcher.unsettled, scene.batcher.lost_settlements) == (0, 1)
    assert [entry["event"] for entry in logs] == ["settlements dropped"]
    assert scene.watch.connected


# -- both together


@in_virtual_time
async def test_a_settlement_travels_with_the_next_ask(scene: Scene) -> None:
    """One call for both; nothing is sent for the settlement alone."""
    scene.settle("r1")
    await settle_down()
    assert await scene.admit("r2") == ADMITTED
    await asyncio.sleep(1)

    assert (scene.ledger.settlements, scene.ledger.admissions) == ([["r1"]], [["r2"]])
    assert scene.ledger.calls == 1
    assert scene.batcher.unsettled == 0


@in_virtual_time
async def test_a_settlement_without_company_waits_a_moment_only(scene: Scene) -> None:
    """Other nodes wait for the slot that it gives back."""
    scene.settle("r1")
    await asyncio.sleep(module.COMPANY_S * 1.5)

    assert scene.ledger.settlements == [["r1"]]


@pytest.mark.parametrize(
    ("limits", "most_s"),
    [({}, 0.005), ({"rpm": 1}, 0.005), ({"concurrency": 500}, 0.002), ({"concurrency": 3}, 0.0)],
)
@in_virtual_time
async def test_the_fewer_slots_there_are_the_sooner_one_is_given_back(
    scene: Scene, limits: dict[str, int], most_s: float
) -> None:
    """Who asks next, on another node perhaps, may need the very slot."""
    scene.ledger.domain = mesh("a.m", model={"limits": limits}).domains["a"]
    scene.settle("r1")
    await asyncio.sleep(most_s * 0.9)
    if most_s:
        assert scene.ledger.settlements == []
    await asyncio.sleep(most_s * 0.2 + 0.0001)

    assert scene.ledger.settlements == [["r1"]]


@in_virtual_time
async def test_a_settlement_that_somebody_waits_for_goes_at_once(scene: Scene) -> None:
    """After a failure the next step acts on what was learned; also when another batch is under way with asks."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    scene.settle("r1")
    await scene.batcher.until_settled(1.0)
    assert loop.time() == began

    scene.ledger.wait = pause(0.01)
    scene.settle("r2")
    asker = scene.ask("r3")
    await settle_down()
    scene.settle("r4")
    await scene.batcher.until_settled(1.0)
    await asker

    assert loop.time() - began == pytest.approx(0.02)
    assert scene.ledger.settlements == [["r1"], ["r2"], ["r4"]]
    assert scene.ledger.admissions == [["r3"]]


@in_virtual_time
async def test_an_ask_does_not_wait_for_settlements_that_are_under_way_alone(scene: Scene) -> None:
    """They have their own call; what has come meanwhile waits for the next."""
    scene.ledger.wait = pause(1)
    scene.settle("r1")
    await asyncio.sleep(module.COMPANY_S * 2)
    scene.settle("r2")
    asker = scene.ask("r3")
    await settle_down()

    assert scene.ledger.calls == 2
    assert (scene.ledger.settlements, scene.ledger.admissions) == ([["r1"]], [["r3"]])
    await asker
    await scene.batcher.flush()
    assert scene.ledger.settlements == [["r1"], ["r2"]]


@in_virtual_time
async def test_settlements_that_went_alone_find_company_again(scene: Scene) -> None:
    """Under load asks and settlements must not go on side by side, in twice as many calls."""
    scene.ledger.wait = pause(1)
    scene.settle("r1")
    await asyncio.sleep(module.COMPANY_S * 2)
    scene.settle("r2")
    first = scene.ask("r3")
    await asyncio.sleep(0.9)
    second = scene.ask("r4")
    await asyncio.gather(first, second)

    assert (scene.ledger.settlements, scene.ledger.admissions) == ([["r1"], ["r2"]], [["r3"], ["r4"]])
    assert scene.ledger.calls == 3


@in_virtual_time
async def test_what_travelled_with_a_call_that_failed_is_sent_again(scene: Scene) -> None:
    """Redis goes away over both: the ask is given back, and the settlement stays in front of that."""
    scene.ledger.errors = [TimeoutError()]
    scene.settle("r1")
    assert (await scene.admit("r2")).code is Code.STORE_AWAY
    scene.watch.connected = True
    await scene.batcher.flush()

    assert scene.ledger.settlements == [["r1"], ["r1", "r2"]]
    assert scene.ledger.flags == [0, 0, NOT_SENT]


@in_virtual_time
async def test_a_faulty_ask_costs_no_settlement(scene: Scene) -> None:
    """A call that cannot be made fails its asks; the settlements in it go again, apart."""
    scene.ledger.errors = [TypeError("Integer exceeds 64-bit range")]
    scene.settle("r1")
    with pytest.raises(TypeError):
        await scene.admit("r2")
    await scene.batcher.flush()

    assert scene.ledger.settlements == [["r1"], ["r1"]]
    assert (scene.batcher.unsettled, scene.batcher.lost_settlements) == (0, 0)


# -- another term


@in_virtual_time
async def test_a_held_domain_answers_at_once(scene: Scene) -> None:
    """Nobody asks a server that would refuse; the time is when it could succeed."""
    scene.ledger.hold_until_ms = 7

    assert await scene.admit("r1") == Verdict(Code.HELD, 7)
    assert scene.ledger.admissions == []


@in_virtual_time
async def test_settlements_wait_until_the_node_has_asserted(scene: Scene) -> None:
    """Applied before the admission that they end, they would change nothing and be lost."""
    scene.ledger.errors = [TermChangedError("a")]
    scene.settle("r1")
    await asyncio.sleep(0.01)
    scene.ledger.is_asserted = False
    await asyncio.sleep(30)
    assert scene.ledger.settlements == [["r1"]]
    assert scene.watch.connected

    scene.ledger.is_asserted = True
    await scene.batcher.flush()

    assert scene.ledger.settlements == [["r1"], ["r1"]]
    assert (scene.batcher.unsettled, scene.batcher.lost_settlements) == (0, 0)


# -- waiting for what was settled


@in_virtual_time
async def test_whoever_waits_is_told_when_its_settlement_has_arrived(scene: Scene) -> None:
    """Not before, and not for what is handed over later."""
    scene.ledger.wait = pause(0.02)
    loop = asyncio.get_running_loop()
    began = loop.time()
    scene.settle("r1")
    first = asyncio.create_task(scene.batcher.until_settled(1.0))
    await settle_down()
    scene.settle("r2")
    second = asyncio.create_task(scene.batcher.until_settled(1.0))

    await first
    assert loop.time() - began == pytest.approx(0.02)
    await second
    assert loop.time() - began == pytest.approx(0.04)


@in_virtual_time
async def test_nobody_waits_for_nothing(scene: Scene) -> None:
    """Everything has arrived, or Redis is away: then waiting would help nobody."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await scene.batcher.until_settled(1.0)
    scene.settle("r1")
    await scene.batcher.flush()
    await scene.batcher.until_settled(1.0)
    scene.watch.connected = False
    scene.settle("r2")
    await scene.batcher.until_settled(1.0)

    assert loop.time() == began


@in_virtual_time
async def test_the_wait_for_a_settlement_is_bounded(scene: Scene) -> None:
    """A slow Redis costs a failing request a moment; the settlement goes on."""
    scene.ledger.wait = pause(5)
    loop = asyncio.get_running_loop()
    began = loop.time()
    scene.settle("r1")

    await scene.batcher.until_settled(0.1)
    assert loop.time() - began == pytest.approx(0.1)
    await scene.batcher.flush()

    assert scene.batcher.unsettled == 0
