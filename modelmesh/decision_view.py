"""Decisions in a terminal: the stages as a tree, the ranking with its reasons, the room of each candidate, the attempts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from modelmesh.drawing import BAD, FAIR, GOOD, QUIET, Fitting, amount, bar, clean, span, table, text, until
from shared_state.shapes.decision import (
    DecisionView,
    ExplainView,
    HeadroomView,
    HeadroomWindow,
    PlanView,
    RankingView,
    ReplayView,
    StageView,
    StepView,
    WaitingView,
)

#: What a stage's reason is called where the bare word says too little.
_REASONS = {
    "capability": "does not serve this API",
    "delivery": "does not deliver in this mode",
    "strategy": "not wanted by the strategy",
    "score": "no score",
    "provider": "not among x-modelmesh-allow-providers",
    "region": "not in x-modelmesh-regions",
    "max_price": "dearer than x-modelmesh-max-price",
    "unpriced": "has no price, and the key's money is limited",
}
_SPEEDS = (
    ("latency_ms", "latency", "ms"),
    ("first_token_ms", "first token", "ms"),
    ("peak_ms", "peak", "ms"),
)


def explain_view(explained: ExplainView, *, now: float) -> RenderableType:
    """What would be chosen."""
    return Group(
        _verdict(explained),
        *_waiting(explained.waiting),
        *(_plan(plan) for plan in explained.plans),
        Text(),
        _headroom(explained.headroom, now=now),
    )


def decision_view(decision: DecisionView) -> RenderableType:
    """What was chosen."""
    plans = (_plan(plan) for plan in decision.plans)
    return Group(_headline(decision), *plans, Text(), _steps(decision.steps, decision))


def replay_view(again: ReplayView) -> RenderableType:
    """What was chosen, and what comes out when it is decided again."""
    lines: list[RenderableType] = [decision_view(again.decision), Text()]
    if again.recorded_version != again.config_version:
        lines.append(
            Text(
                f"recorded on configuration {again.recorded_version}, replayed on {again.config_version}",
                style=FAIR,
            )
        )
    if again.same:
        mark = Text("✔ ", style=GOOD)
        lines.append(
            mark.append(f"replayed to the same pick: {clean(again.replayed or 'nobody')}", style="bold")
        )
        return Group(*lines)
    lines += [Text(f"✘ not in the record: {clean(what)}", style=BAD) for what in again.missing]
    for found in again.differences:
        lines.append(Text(f"✘ {clean(found.what)} differs", style=BAD))
        lines.append(Text(f"    recorded  {clean(found.recorded)}"))
        lines.append(Text(f"    replayed  {clean(found.replayed)}"))
    return Group(*lines)


def _verdict(explained: ExplainView) -> Text:
    asked = f"{clean(explained.asked)} by {clean(explained.api)}" + (
        ", streamed" if explained.is_stream else ""
    )
    if explained.key:
        asked += f", with client key {clean(explained.key.id)}"
    if explained.error:
        return Text.assemble(
            (f"✘ {clean(explained.error)}", BAD),
            f"  {clean(explained.message or '')}",
            (f"  ({asked})", QUIET),
        )
    if explained.picked is None:
        return Text.assemble(("✘ nobody would admit it now", BAD), (f"  ({asked})", QUIET))
    return Text.assemble(("➜ ", GOOD), (clean(explained.picked), f"bold {GOOD}"), (f"  for {asked}", QUIET))


_HELD = {
    "near_limit": "it would be held: the preferred model is near its limit",
    "no_room": "it would be held: nobody has room",
    "queue": "it would be held: others came earlier",
    "queue_full": "it would be refused: the queue is full",
}


def _waiting(waiting: WaitingView | None) -> Iterable[Text]:
    """What the pool does instead of switching models."""
    if waiting is None:
        return
    told = _HELD.get(waiting.because, "it would not be held")
    line = Text.assemble(
        (clean(f"{waiting.pool} rather waits ({waiting.action}, at most {waiting.max_wait_s:g} s): "), QUIET),
        (told, FAIR if waiting.because else ""),
    )
    if waiting.size is not None:
        line.append(f"  {waiting.length} of {waiting.size} wait on this node", style=QUIET)
    yield line


def _headline(decision: DecisionView) -> Table:
    grid = Table.grid(padding=(0, 2))
    is_ok = decision.outcome == "ok"
    asked = f"{decision.asked} by {decision.api}" + (", streamed" if decision.is_stream else "")
    when = datetime.fromtimestamp(decision.time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    grid.add_row("request", text(decision.request_id))
    grid.add_row("asked for", text(asked))
    grid.add_row(
        "came to", Text(clean(f"{decision.outcome} ({decision.status})"), style=GOOD if is_ok else BAD)
    )
    grid.add_row("picked", Text.assemble((clean(decision.picked or "nobody"), "bold"), _served(decision)))
    for name, value in _particulars(decision):
        grid.add_row(name, text(value))
    grid.add_row("ended", text(f"{when} after {decision.ms:.0f} ms on {decision.node}"))
    grid.add_row("config", text(f"{decision.config_version}, mode {decision.mode}"))
    return grid


def _served(decision: DecisionView) -> str:
    if decision.served is None or decision.served == decision.picked:
        return ""
    return f", served by {clean(decision.served)}"


def _particulars(decision: DecisionView) -> Iterable[tuple[str, str]]:
    caps = decision.caps
    if decision.session:
        yield "session", decision.session
    if decision.provider:
        yield "prefers", decision.provider
    if decision.key:
        yield "key", decision.key.id
    if caps and caps.max_price_usd is not None:
        yield "at most", amount(caps.max_price_usd, is_money=True)
    if caps and (caps.providers or caps.regions):
        yield "only", " ".join([*caps.providers, *caps.regions])


# -- a plan


def _plan(plan: PlanView) -> Tree:
    name = Text.assemble(("\n", ""), (clean(plan.asked), "bold"))
    if plan.because:
        name.append(f"  fallback: {clean(plan.because)}", style=FAIR)
    if needs := _needs(plan):
        name.append(f"  needs {needs}", style=QUIET)
    tree = Tree(name, guide_style=QUIET)
    for stage in plan.stages:
        branch = tree.add(_stage(stage))
        if stage.name == "SelectionStrategy":
            for ranking in plan.rankings:
                branch.add(_ranking(ranking))
            for target in plan.targets:
                if target.role != "ranked":
                    branch.add(Text(clean(f"{target.model}: {target.role}"), style=FAIR))
        for skip in stage.skipped:
            reason = _REASONS.get(skip.reason, skip.reason.replace("_", " "))
            branch.add(Text.assemble(("✘ ", BAD), clean(skip.model), (f"  {clean(reason)}", FAIR)))
    if plan.error:
        tree.add(Text(f"✘ {clean(plan.error)}", style=BAD))
    return tree


def _needs(plan: PlanView) -> str:
    needs = plan.needs
    told = [name.replace("_", " ") for name in needs.features]
    if needs.input_most:
        told.append(f"{amount(needs.input_least)} to {amount(needs.input_most)} tokens of context")
    if needs.output:
        told.append(f"{amount(needs.output)} tokens of answer")
    if needs.images:
        told.append(f"{needs.images} images")
    return ", ".join(told)


def _stage(stage: StageView) -> Text:
    count = len(stage.left)
    line = Text.assemble((f"{stage.name:<19}", ""), (f"{count} left", GOOD if count else BAD))
    if stage.name == "SelectionStrategy" and stage.left:
        line.append(f"  {' > '.join(map(clean, stage.left))}", style="bold")
    return line


def _ranking(ranking: RankingView) -> Text:
    line = Text.assemble((clean(ranking.pool), "bold"), f"  {clean(ranking.strategy)}")
    for told in _hints(ranking):
        line.append(f"  {told}", style=QUIET)
    for model, signal in ranking.signals.items():
        speeds = [f"{label} {signal[name]:.0f} {unit}" for name, label, unit in _SPEEDS if name in signal]
        if "headroom" in signal:
            speeds.append(f"{signal['headroom']:.0%} left")
        line.append(f"\n  {clean(model)}: {signal.get('in_flight', 0):g} in flight", style=QUIET)
        line.append("".join(f", {speed}" for speed in speeds), style=QUIET)
    return line


def _hints(ranking: RankingView) -> Iterable[str]:
    if ranking.turn:
        yield f"turn {ranking.turn}"
    if ranking.current:
        yield f"points at {clean(ranking.current)}"
    if ranking.held:
        yield f"session on {clean(ranking.held)}" + (", strictly" if ranking.is_exclusive else "")
    if ranking.draw is not None and ranking.strategy.endswith("power-of-two.v1"):
        yield f"draw {ranking.draw:.3f}"


# -- room


def _headroom(rows: Sequence[HeadroomView], *, now: float) -> Fitting:
    view = table(
        "Room", "#", "model", "pool", "admits", "#tokens", "#costs at most", "tightest window", "taken"
    )
    for row in rows:
        tightest = min(row.windows, key=_ease, default=None)
        view.add_row(
            "" if row.place is None else str(row.place + 1),
            Text(clean(row.model), style=QUIET if row.place is None else "bold"),
            text(row.pool),
            _admits(row, now=now),
            amount(row.tokens_in + row.tokens_out),
            "" if row.cost_usd is None else amount(row.cost_usd, is_money=True),
            _tightest(tightest),
            bar(1 - tightest.remaining / tightest.limit if tightest.limit else 1.0) if tightest else Text(),
        )
    return Fitting(view, "taken", "pool", "tokens")


def _ease(window: HeadroomWindow) -> tuple[bool, float]:
    return window.fits, window.remaining / window.limit if window.limit else 0.0


def _admits(row: HeadroomView, *, now: float) -> Text:
    if row.place is None:
        return Text("not asked", style=QUIET)
    if row.admits:
        return Text("now", style=GOOD)
    if row.never:
        return Text("never: too large", style=BAD)
    return Text(until(row.opens, now=now) or "not now", style=FAIR)


def _tightest(window: HeadroomWindow | None) -> Text:
    if window is None:
        return Text("no limits", style=QUIET)
    is_money = "usd" in window.name
    left, most, takes = (amount(n, is_money=is_money) for n in (window.remaining, window.limit, window.takes))
    told = f"{window.name}: takes {takes}, {left} of {most} left"
    return Text(clean(told), style="" if window.fits else BAD)


# -- attempts


def _steps(steps: Sequence[StepView], decision: DecisionView) -> Fitting:
    view = table(
        "Attempts",
        "#",
        "model",
        "admission",
        "outcome",
        "#asked at",
        "#took",
        "#first",
        "#in",
        "#out",
        "#cost",
        "reservation",
    )
    for number, step in enumerate(steps, 1):
        view.add_row(str(number), *_step(step, decision))
    return Fitting(view, "reservation", "first", "asked at", "in", "out")


def _step(step: StepView, decision: DecisionView) -> list[Text | str]:
    return [
        Text(clean(step.model), style="bold" if step.model == decision.served else ""),
        _admission(step, decision.time),
        _outcome(step),
        f"{step.asked_ms:.0f} ms",
        "" if step.ms is None else f"{step.ms} ms",
        "" if step.first_content_ms is None else f"{step.first_content_ms} ms",
        _count(step.tokens_in),
        _count(step.tokens_out),
        "" if step.cost_usd is None else amount(step.cost_usd, is_money=True),
        text(step.reservation),
    ]


def _admission(step: StepView, ended: float) -> Text:
    if step.verdict == "admitted":
        return Text("admitted", style=GOOD)
    told = step.verdict.replace("_", " ") + (f" {step.window}" if step.window else "")
    opens = f", open {span(step.at - ended)} later" if step.at and step.at > ended else ""
    return Text(clean(told + opens), style=FAIR)


def _outcome(step: StepView) -> Text:
    if step.outcome is None:
        return Text("")
    told = step.outcome.replace("_", " ")
    if step.error:
        told += f": {step.error}" + (f" ({step.status})" if step.status else "")
    return Text(clean(told), style=GOOD if step.outcome == "success" else BAD)


def _count(number: int | None) -> str:
    return "" if number is None else amount(number)
