"""Every key in Redis is built here; this module is the schema document.

All keys of a quota domain share one hash tag, so that every script touches a single slot and the same code
runs on one server, under Sentinel and on a cluster. The ``1`` is the version of the stored records: a release
that changes their meaning raises it, and both releases can run side by side.
"""

from __future__ import annotations

SCHEMA = "1"


class Keys:
    """Names of all keys under one namespace."""

    __slots__ = ("_prefix",)

    def __init__(self, namespace: str) -> None:
        self._prefix = f"{namespace}:{SCHEMA}:"

    # -- a quota domain: written by exchange, abandon, set_state, recover; read by nodes and reports

    def domain(self, domain: str) -> str:
        """Hash ``epoch`` (int, +1 with every change of state), ``minute`` (last one with statistics), ``fence``.

        Of its term, written by whoever opens it: ``run`` (id of the server), ``term`` (only ever grows), ``cause`` (first, restart,
        failover, empty), ``hold`` (ms: until then nobody is plainly admitted), ``waiting`` (nodes that have not asserted; -1 unknown), ``base`` (the
        epoch that the server had kept), ``wants_copy`` (ms: until then assertions wait for a durable copy; a restore deletes it, and so does the first
        assertion after that time). Of durable copies: ``copying`` (server ms of the latest that was begun), ``copied`` (of the latest that is stored).
        """
        return f"{self._prefix}{{{domain}}}"

    def model(self, domain: str, model: str) -> str:
        """Hash: status, reason, mode, phase, since, until, trigger, maintained, fails, cooldowns, trial, trial_until, step, step_ok, step_at, spent, latency, ttft, peak, measured."""
        return f"{self.domain(domain)}:model:{model}"

    def provider(self, domain: str, provider: str) -> str:
        """Hash with the fields of a model's state; ``reason`` tells credentials, quota and outage apart."""
        return f"{self.domain(domain)}:provider:{provider}"

    def windows(self, domain: str, scope: str) -> str:
        """Hash of all windows of a model (``m:<id>``) or of the account (``a``); expires after its longest window."""
        return f"{self.domain(domain)}:win:{scope}"

    def flight(self, domain: str) -> str:
        """Sorted set ``model TAB reservation`` -> expiry (unix ms): everything in flight on the account."""
        return f"{self.domain(domain)}:flight"

    def reservations(self, domain: str, model: str) -> str:
        """Hash reservation -> admitted ms, tokens in, tokens out, cost nano-USD (big-endian 8, 4, 4, 8 bytes), then pool TAB provider."""
        return f"{self.domain(domain)}:res:{model}"

    def sequences(self, domain: str) -> str:
        """Hash ``node TAB a|s|l`` -> sequence of the node's last batch of admissions, settlements, renewals; ``node TAB t`` -> the term that it
        has asserted, -1 when it has left. Read when a term opens; part of the copies; the scheduler forgets nodes that are gone.
        """
        return f"{self.domain(domain)}:seq"

    def leases(self, domain: str) -> str:
        """Hash ``node TAB model`` -> sequence and five amounts (big-endian, 8 bytes each); ``:ends`` behind it: sorted set of their ends."""
        return f"{self.domain(domain)}:lease"

    def done(self, domain: str) -> str:
        """Hash of attempts admitted out of leases that were booked; expires an hour after the last."""
        return f"{self.domain(domain)}:done"

    def books(self, domain: str) -> str:
        """Hash ``model TAB pool TAB admitted|settled|abandoned`` -> count since the beginning."""
        return f"{self.domain(domain)}:books"

    def statistics(self, domain: str, minute: int) -> str:
        """Hash ``model TAB pool`` -> sums over one minute of server time (msgpack, a list in the order of ``statistics.py``); expires an hour after the flush."""
        return f"{self.domain(domain)}:stat:{minute}"

    def minutes(self, domain: str) -> str:
        """Sorted set of the minutes whose statistics were not stored durably yet; trimmed by the flush."""
        return f"{self.domain(domain)}:minutes"

    def due(self, domain: str) -> str:
        """Sorted set ``m:<model>`` or ``p:<provider>`` -> time (unix ms) at which its recovery may begin."""
        return f"{self.domain(domain)}:due"

    def news(self, domain: str) -> str:
        """List of the latest events, newest first, as they were published."""
        return f"{self.domain(domain)}:news"

    def listing(self, domain: str, provider: str) -> str:
        """Hash ``version`` (+1 with each list), ``time`` (server ms), ``models`` (JSON): what a provider listed last, ``mismatches`` (JSON): configured
        models whose sizes are listed otherwise; by the leading scheduler, expires without it.
        """
        return f"{self.domain(domain)}:list:{provider}"

    def health(self, domain: str) -> str:
        """Hash ``round``, ``p:<provider>`` and ``m:<model>`` (JSON: how available each is), ``o:<provider>`` (``since`` of the standby that
        failed probes have brought about); by the leading scheduler, read by nodes, expires without it.
        """
        return f"{self.domain(domain)}:health"

    def waits(self, domain: str, model: str) -> str:
        """Sorted set ``reservation TAB ms`` -> server ms: how long the latest attempts waited for their first content, two hundred at most; by nodes
        whose pools hedge by it, once a second; expires ten minutes after the last. ``usual`` in place of ``waits:<model>``: hash model -> server ms
        and what 19 of 20 of them stayed below then.
        """
        return f"{self.domain(domain)}:waits:{model}"

    # -- the cluster

    @property
    def channel(self) -> str:
        """Pub/sub channel of all events; an event is only a hint."""
        return f"{self._prefix}news"

    @property
    def nodes(self) -> str:
        """Hash node -> JSON description; with ``:seen`` behind it, a sorted set node -> last heartbeat (unix ms)."""
        return f"{self._prefix}{{cluster}}:nodes"

    @property
    def versions(self) -> str:
        """Hash ``current`` (number of the configuration's version in force), ``last`` (largest number given out), ``proposed`` and ``ticket``
        (the version that nodes are asked about), of each version ``m:<number>`` (JSON author, comment, digest) and ``t:<number>`` (ms).

        Behind it ``:documents``, hash number -> JSON document, references unresolved: no secret; ``:news``, list of the latest events. Written by whoever pushes, by a node
        when the store has forgotten what it runs, and by a scheduler out of its durable copy; read by nodes and schedulers once a second. The last 50 numbers are kept.
        """
        return f"{self._prefix}{{cluster}}:config"

    @property
    def leader(self) -> str:
        """Hash owner, token, until, since: the scheduler's lease. The token only ever grows. ``config`` and ``fault``: the version of the
        configuration that its holder runs, and why it cannot run the one in force; ``judged`` and ``verdict``: the proposed version that it has judged
        last, and why it cannot run that.
        """
        return f"{self._prefix}{{cluster}}:leader"

    @property
    def jobs(self) -> str:
        """Hash job -> JSON report of its last run; written by the leading scheduler."""
        return f"{self._prefix}{{cluster}}:jobs"

    @property
    def audit(self) -> str:
        """JSON ``time``, ``differences`` by cause: the last audit of all books; by the leading scheduler, expires without one."""
        return f"{self._prefix}{{cluster}}:audit"

    @property
    def known(self) -> str:
        """Hash ``domain|provider|model TAB domain TAB id`` -> server ms at which a leading scheduler had it in its configuration last; a field goes
        with what it stands for.
        """
        return f"{self._prefix}{{cluster}}:known"

    @property
    def targets(self) -> str:
        """Hash ``t:<name>`` -> JSON mark of a target of events: how far it was told in each list of news, how many events it took; ``fence``. By the
        leading scheduler, read by nodes. A target that is configured no more keeps its mark, some hundred bytes, for the day it comes back.
        """
        return f"{self._prefix}{{cluster}}:targets"

    @property
    def report(self) -> str:
        """String: JSON report of the store's self-test; written by the leading scheduler, read by nodes; expires after three hours."""
        return f"{self._prefix}{{cluster}}:store"

    def request(self, request_id: str) -> str:
        """String: why a request went where it did (JSON, deflated). Written by its node, read by the operators' API; dies by itself. Has a slot of its own."""
        return f"{self._prefix}{{request:{request_id}}}"

    @property
    def client_keys(self) -> str:
        """Hash id -> JSON record of a client key, written and revoked by operators, never changed.

        Behind it ``:digests`` (hash keyed digest of the text -> id), ``:revoked`` (hash id -> unix ms), ``:version``
        (counter of changes) and ``:news`` (list of the latest events); read by nodes.
        """
        return f"{self._prefix}{{cluster}}:clients"

    # -- a pool: cursors and sessions, beside the quota domain ``pool:<id>`` if it has limits

    def turns(self, pool: str) -> str:
        """Counter of round-robin turns given out, in blocks."""
        return f"{self._prefix}{{pool:{pool}}}:turns"

    def current(self, pool: str) -> str:
        """String: the model that a sticky pool points at."""
        return f"{self._prefix}{{pool:{pool}}}:current"

    def retries(self, pool: str) -> str:
        """Hash of the retry budget: ``q:<second>`` requests, ``t:<second>`` retries and ``g:<second>`` good answers of the last seconds,
        ``n:<node>`` the part given to a node; written by nodes once a second while they send, expires a minute after the last.
        """
        return f"{self._prefix}{{pool:{pool}}}:retries"

    def panic(self, domain: str) -> str:
        """Hash of a pool's panic, in the domain of its gate: ``since`` and ``over`` (server ms), ``asked``, ``answered``, ``n:<node>`` (sequence of
        its last report); by nodes that have asked on faith, read by operators, deleted at its end, expires a minute after the last report.
        """
        return f"{self.domain(domain)}:panic"

    def claim(self, digest: str) -> str:
        """Hash of an idempotency key: state (running, kept, lost), owner, print (fingerprint of the request), head and body of the answer.

        Running, it dies ten seconds after its owner's last sign of life; else after ``idempotency.ttl``. Has a slot of its own.
        """
        return f"{self._prefix}{{claim:{digest}}}"

    def session(self, pool: str, digest: str) -> str:
        """String: the model that a session belongs to; dies when the session falls silent. Has a slot of its own."""
        return f"{self._prefix}{{session:{pool}:{digest}}}"
