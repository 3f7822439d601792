"""Dashboards that answer everybody are refused, whether something is deployed by them or their cluster joined."""

import http.server
import threading

import pytest

from cnnray.cluster import dashboard_url
from cnnray.errors import OptionError
from cnnray.serve.dashboard import check_dashboard, check_joined


@pytest.fixture
def open_dashboard():
    """Something that answers everybody, reached by an address that is not loopback's."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_a_dashboard_that_answers_everybody_is_refused(open_dashboard):
    address = f"http://0.0.0.0:{open_dashboard}"
    with pytest.raises(OptionError, match="runs programs for whoever reaches it: .*RAY_AUTH_MODE=token"):
        check_dashboard(address)
    check_dashboard(address, trust=True)
    check_dashboard(f"http://127.0.0.1:{open_dashboard}")
    with pytest.raises(OptionError, match="or say --allow-unauthenticated where"):
        check_joined(address)
    check_joined(address, trust=True)


def test_a_cluster_without_a_dashboard_that_answers_here_may_be_joined():
    check_joined("")
    check_joined("http://0.0.0.0:1")
    assert dashboard_url() == ""


@pytest.mark.parametrize("address", ["127.0.0.1:8265", "ray://127.0.0.1:10001", "http://", "http://127.0.0.1:1"])
def test_an_address_without_a_dashboard_is_said(address):
    with pytest.raises(OptionError, match="expected .*dashboard"):
        check_dashboard(address)
