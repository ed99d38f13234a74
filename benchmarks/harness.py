"""A run: in each round every subject is started, measured under every scenario, and ended.

Rounds interleave the subjects, so that a slow minute of the machine meets them all. The subject has one core, driver
and mock have another.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain

from benchmarks.driver import Driver, DriverError
from benchmarks.meters import Cores, RedisMeter, assign_cores, cpu_s, pinned, read, rss_bytes
from benchmarks.peers import Peer, open_subject
from benchmarks.samples import Life, Run, Sample, sample
from benchmarks.scenarios import ORDERS, Scenario
from benchmarks.setting import describe
from benchmarks.subjects import Subject, SubjectError
from tests.support.mock import MockProvider
from tests.support.processes import ProcessFailedError

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What to measure, and for how long.

    Attributes:
        seconds: of each window.
        warm_up_s: load before each window that is not measured.
        rest_s: how long a fresh subject is watched without load.
    """

    subjects: Sequence[str]
    scenarios: Sequence[Scenario]
    seconds: float
    rounds: int
    warm_up_s: float = 0.3
    rest_s: float = 0.5


class Harness:
    """One run.

    Args:
        report: told of every step, for a person who waits.
    """

    def __init__(self, options: RunOptions, *, report: Report) -> None:
        self._options = options
        self._report = report
        self._cores = assign_cores()
        self._samples: list[Sample] = []
        self._lives: list[Life] = []
        self._absent: dict[str, str] = {}
        self._valkey: str | None = None
        self._peers: dict[str, str | None] = {}

    async def run(self) -> Run:
        """Measure everything.

        Raises:
            ProcessFailedError: the mock provider does not start.
        """
        setting = describe()
        with pinned(self._cores.load), ExitStack() as stack:
            mock = stack.enter_context(closing(start_mock(self._cores)))
            for number in range(1, self._options.rounds + 1):
                for name in self._options.subjects:
                    if name not in self._absent:
                        await self._live(number, name, mock)
        setting["packages"] |= {"valkey-server": self._valkey, **self._peers}
        setting |= {
            "subjects": list(self._options.subjects),
            "scenarios": [scenario.name for scenario in self._options.scenarios],
            "seconds": self._options.seconds,
            "rounds": self._options.rounds,
            "pinned": {"load": self._cores.load, "mock": self._cores.mock, "subject": self._cores.subject},
        }
        return Run(setting, self._samples, self._lives, self._absent)

    async def _live(self, round_: int, name: str, mock: MockProvider) -> None:
        """One life of a subject."""
        with closing(open_subject(name)) as subject, ExitStack() as stack:
            try:
                with pinned(self._cores.subject):
                    start_s = subject.start(mock.port)
            except (SubjectError, ProcessFailedError) as error:
                self._absent[name] = str(error)
                self._report(f"{name}: left out: {error}")
                return
            if isinstance(subject, Peer):
                self._peers[name.partition("/")[0]] = subject.version()
            meter = None
            if subject.redis_url:
                meter = stack.enter_context(closing(RedisMeter(subject.redis_url)))
                self._valkey = meter.version()
            rest_rss = {part: rss_bytes(*pids) for part, pids in subject.parts.items()}
            rest_cpu_ms = await self._rest(subject)
            for scenario in self._options.scenarios:
                found = await self._measure(round_, subject, scenario, mock=mock, meter=meter)
                self._samples.append(found)
                self._report(_headline(found, rounds=self._options.rounds))
            end_rss = {part: rss_bytes(*pids) for part, pids in subject.parts.items()}
            self._lives.append(Life(round_, name, start_s, rest_rss, end_rss, rest_cpu_ms))

    async def _rest(self, subject: Subject) -> float:
        """CPU of a subject without load, in ms per second."""
        if not subject.parts:
            return 0.0
        pids = list(chain.from_iterable(subject.parts.values()))
        before = cpu_s(*pids)
        started = time.perf_counter()
        await asyncio.sleep(self._options.rest_s)
        used = cpu_s(*pids) - before
        return used / (time.perf_counter() - started) * 1000

    async def _measure(
        self,
        round_: int,
        subject: Subject,
        scenario: Scenario,
        *,
        mock: MockProvider,
        meter: RedisMeter | None,
    ) -> Sample:
        load = [mock.process.pid]
        try:
            async with Driver(subject.target, scenario, counts_events=subject.keeps_events) as driver:
                warm_up = await driver.run(self._options.warm_up_s)
                gc.collect()
                before = read(subject.parts, load=load, redis_meter=meter)
                window = warm_up if warm_up.is_void else await driver.run(self._options.seconds)
                after = read(subject.parts, load=load, redis_meter=meter)
        except DriverError as error:
            return Sample(
                round_,
                subject.name,
                scenario.name,
                0.0,
                0,
                {},
                0.0,
                0.0,
                None,
                None,
                None,
                faults=[str(error)],
            )
        return sample(window, before, after, round_=round_, subject=subject.name, scenario=scenario.name)


def start_mock(cores: Cores) -> MockProvider:
    """The mock provider on its core, with the standing orders of all scenarios."""
    with pinned(cores.mock):
        mock = MockProvider("bench", no_ledger=True, uvloop=True)
    try:
        for model, order in ORDERS.items():
            mock.behave(order, model=model)
    except BaseException:
        mock.close()
        raise
    return mock


def _headline(found: Sample, *, rounds: int) -> str:
    place = f"round {found.round}/{rounds}  {found.subject:<18} {found.scenario:<9}"
    if found.is_void:
        return f"{place} VOID: {'; '.join(found.faults)}"
    rate = found.requests / found.elapsed_s
    cpu = f"{found.cpu_us:9.1f} us/request" if found.cpu_s else ""
    return f"{place} {rate:9.0f}/s {cpu}"
