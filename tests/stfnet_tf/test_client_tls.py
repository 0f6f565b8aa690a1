"""The client sends images only to a server that proves who it is."""

import http.server
import json
import shutil
import ssl
import subprocess
import threading
from concurrent import futures

import numpy as np
import pytest

from data_prep import errors
from stfnet_tf import client

grpc = pytest.importorskip("grpc", reason="the extra 'serving' is not installed")
pytest.importorskip("tensorflow_serving.apis", reason="the extra 'serving' is not installed")

ONCE = client.Patience(timeout=10.0, tries=1, pause=0.05, longest_pause=0.1)
INPUTS = {"f1": np.ones((1, 1, 1, 1), np.int16)}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that nobody trusts, and its key."""
    if not shutil.which("openssl"):
        pytest.skip("a certificate of one's own: openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    names = [folder / "cert.pem", folder / "key.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-out", str(names[0]), "-keyout", str(names[1])]
    subprocess.run(command, check=True, capture_output=True)
    return names


@pytest.fixture
def trusting(certificate, monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate[0]))


@pytest.fixture
def rest(certificate):
    """An HTTPS server that remembers what it was sent."""
    sent = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            sent.append(self.rfile.read(int(self.headers["Content-Length"])))
            answer = json.dumps({"outputs": {"f2": [[[[7]]]]}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_):
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with http.server.ThreadingHTTPServer(("localhost", 0), Handler) as server:
        server.handle_error = lambda *_: None
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://localhost:{server.server_port}", sent
        server.shutdown()


def test_https_to_a_stranger_sends_nothing(rest):
    address, sent = rest
    with client.connect(address, "made", ONCE) as server:
        with pytest.raises(errors.InputError, match="certificate"):
            server.predict("fuse_tile", INPUTS)
    assert not sent


def test_https_to_a_server_that_is_trusted(rest, trusting):
    address, sent = rest
    with client.connect(address, "made", ONCE) as server:
        assert server.predict("fuse_tile", INPUTS)["f2"].item() == 7
    assert len(sent) == 1
    # The certificate is localhost's, and no other name's.
    with client.connect(address.replace("localhost", "127.0.0.1"), "made", ONCE) as server:
        with pytest.raises(errors.InputError, match="certificate"):
            server.predict("fuse_tile", INPUTS)
    assert len(sent) == 1


@pytest.fixture
def grpcs(certificate):
    """A gRPC server with TLS that knows no method."""
    cert, key = (k.read_bytes() for k in certificate)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_secure_port("localhost:0", grpc.ssl_server_credentials([(key, cert)]))
    server.start()
    yield f"grpcs://localhost:{port}"
    server.stop(None)


def test_grpcs_to_a_stranger_is_no_connection(grpcs):
    with client.connect(grpcs, "made", ONCE) as server:
        with pytest.raises(errors.InputError, match="UNAVAILABLE"):
            server.predict("fuse_tile", INPUTS)


def test_grpcs_to_a_server_that_is_trusted(grpcs, trusting):
    with client.connect(grpcs, "made", ONCE) as server:
        with pytest.raises(errors.InputError, match="UNIMPLEMENTED"):
            server.predict("fuse_tile", INPUTS)


def test_authorities_that_are_not_there(monkeypatch):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    with pytest.raises(errors.InputError, match=r"REQUESTS_CA_BUNDLE.*nowhere\.pem"):
        with client.connect("grpcs://localhost:1", "made", ONCE):
            pass
