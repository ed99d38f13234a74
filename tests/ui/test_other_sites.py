"""What pages of other websites can do to a node that requires no token, in a real browser: nothing."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from tests.cluster.cluster import Cluster, Node
from tests.cluster.mesh import mesh, pool
from tests.ui.conftest import OTHER_SITE

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as Tab

pytestmark = pytest.mark.browser

ORDER = "/ops/models/chat.alpha/deactivate"
CALL = "/v1/chat/completions"
BODY = '{"model": "chat", "messages": [{"role": "user", "content": "hello"}]}'
#: What a page may send anywhere without asking first.
SEND = "([url, body]) => fetch(url, {method: 'POST', mode: 'no-cors', body}).then(answer => answer.type)"
STATUS = "([url, body]) => fetch(url, {method: 'POST', body}).then(answer => answer.status)"


class _Empty(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def cluster(browser: Browser) -> Iterator[Cluster]:
    """One node that requires nothing."""
    one = Cluster(mesh(pool("chat", "alpha")), mocks={"alpha": {}}, nodes=1, schedulers=0)
    with mock.patch.dict(os.environ, {"MODELMESH_ADMIN_TOKEN": ""}), closing(one):
        yield one.start()


@pytest.fixture
def node(cluster: Cluster) -> Node:
    return cluster.nodes[0]


@pytest.fixture
def tab(browser: Browser) -> Iterator[Tab]:
    with closing(browser.new_context()) as context:
        yield context.new_page()


@pytest.fixture
def website() -> Iterator[str]:
    """The origin of another site's page."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Empty) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{OTHER_SITE}:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_page_of_another_site_sends_in_vain(tab: Tab, node: Node, cluster: Cluster, website: str):
    """Its requests arrive without a question, and are refused: nothing is spent, nobody is taken out."""
    tab.goto(website)
    sent = [tab.evaluate(SEND, [node.base_url + path, BODY]) for path in (CALL, ORDER)]
    node.process.wait_line_blocking('"outcome":"origin_not_allowed"', 30.0)
    (model,) = tab.request.get(f"{node.base_url}/ops/models").json()["models"]

    assert sent == ["opaque", "opaque"]
    assert model["status"] == "active"
    assert cluster.seen("chat.alpha") == []


def test_a_site_that_points_its_name_here_is_not_answered(tab: Tab, node: Node):
    """To the browser it and the node are one site; so it is the name that tells."""
    answer = tab.goto(f"http://{OTHER_SITE}:{node.port}/ui")
    alive = tab.goto(f"http://{OTHER_SITE}:{node.port}/health")
    statuses = [tab.evaluate(STATUS, [path, BODY]) for path in (CALL, ORDER)]

    assert answer is not None
    assert alive is not None
    assert (answer.status, alive.status) == (403, 200)
    assert statuses == [403, 403]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_the_page_of_the_node_itself_gives_orders(tab: Tab, node: Node, name: str):
    """By either name of this machine."""
    answer = tab.goto(f"http://{name}:{node.port}/ui")
    status = tab.evaluate(STATUS, ["/ops/models/chat.alpha/activate", "{}"])

    assert answer is not None
    assert (answer.status, status) == (200, 200)
