"""TensorFlow Serving for tests: its own binary where there is one, else a stand-in.

The stand-in speaks the real protocols over the loopback network and runs the real SavedModel;
`Faults` makes it misbehave.
"""

import contextlib
import dataclasses
import http.server
import json
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

BINARY = "tensorflow_model_server"


@dataclasses.dataclass
class Faults:
    """How the next calls go wrong: one entry a call, popped from the front; then all is well.

    "slow" answers late, "refuse" is overloaded, "drop" closes the connection without an answer,
    "shape" answers with too small an image.
    """

    plan: list[str] = dataclasses.field(default_factory=list)
    calls: int = 0
    delay: float = 1.0

    def next(self) -> str:
        self.calls += 1
        fault = self.plan.pop(0) if self.plan else ""
        if fault == "slow":
            time.sleep(self.delay)
        return fault


@dataclasses.dataclass(frozen=True)
class Server:
    """Where a server is and which kind it is."""

    grpc: str
    rest: str
    kind: str
    faults: Faults


class Model:
    """A SavedModel whose signatures take and give arrays."""

    def __init__(self, folder: Path):
        self.loaded = tf.saved_model.load(str(folder))

    def run(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        function = self.loaded.signatures[signature]
        specs = function.structured_input_signature[1]
        if set(inputs) != set(specs):
            raise ValueError(f"inputs: expected {sorted(specs)}, found {sorted(inputs)}")
        tensors = {k: tf.constant(v, specs[k].dtype) for k, v in inputs.items()}
        return {k: v.numpy() for k, v in function(**tensors).items()}


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, model: Model, faults: Faults):
        self.model, self.faults = model, faults

    def Predict(self, request, context):  # noqa: N802, the protocol's name
        fault = self.faults.next()
        if fault == "refuse":
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
        try:
            outputs = self.model.run(request.model_spec.signature_name, inputs)
        except (tf.errors.InvalidArgumentError, ValueError, KeyError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if fault == "shape":
            outputs = {k: v[:, 1:] for k, v in outputs.items()}
        answer = predict_pb2.PredictResponse(model_spec=request.model_spec)
        for k, v in outputs.items():
            answer.outputs[k].CopyFrom(tf.make_tensor_proto(v))
        return answer


class Dropping(socketserver.BaseRequestHandler):
    """Passes bytes on to the gRPC server, and cuts the connection where "drop" is planned."""

    def handle(self):
        with socket.create_connection(self.server.target) as upstream:
            back = threading.Thread(target=self.copy, args=(upstream, self.request), daemon=True)
            back.start()
            self.copy(self.request, upstream, self.server.faults)

    @staticmethod
    def copy(source, sink, faults=None):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if faults and faults.plan[:1] == ["drop"]:
                    faults.plan.pop(0)
                    break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


class Proxy(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, target: tuple[str, int], faults: Faults):
        super().__init__(("127.0.0.1", 0), Dropping)
        self.target, self.faults = target, faults


def rest_handler(model: Model, faults: Faults) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            fault = faults.next()
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if fault == "drop":
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault == "refuse":
                self.answer(503, {"error": "overloaded"})
                return
            try:
                inputs = {k: np.asarray(v) for k, v in body["inputs"].items()}
                outputs = model.run(body["signature_name"], inputs)
            except (tf.errors.InvalidArgumentError, ValueError, KeyError) as error:
                self.answer(400, {"error": str(error)})
                return
            if fault == "shape":
                outputs = {k: v[:, 1:] for k, v in outputs.items()}
            self.answer(200, {"outputs": {k: v.tolist() for k, v in outputs.items()}})

        def answer(self, code, content):
            text = json.dumps(content).encode()
            # A client that has given up on a slow answer is no longer there.
            with contextlib.suppress(ConnectionError):
                self.send_response(code)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        def log_message(self, *_):
            pass

    return Handler


@contextlib.contextmanager
def stand_in(version: Path) -> Iterator[Server]:
    """Serves one version of a model by a server of our own."""
    model, faults = Model(version), Faults()
    unlimited = [(f"grpc.max_{k}_message_length", -1) for k in ("send", "receive")]
    rpc = grpc.server(futures.ThreadPoolExecutor(2), options=unlimited)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(model, faults), rpc
    )
    port = rpc.add_insecure_port("127.0.0.1:0")
    rpc.start()
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), rest_handler(model, faults))
    proxy = Proxy(("127.0.0.1", port), faults)
    threads = [threading.Thread(target=k.serve_forever, daemon=True) for k in (web, proxy)]
    for thread in threads:
        thread.start()
    try:
        yield Server(
            f"grpc://127.0.0.1:{proxy.server_address[1]}",
            f"http://127.0.0.1:{web.server_port}",
            "stand-in",
            faults,
        )
    finally:
        rpc.stop(None).wait()
        for server in (web, proxy):
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextlib.contextmanager
def tensorflow_serving(version: Path) -> Iterator[Server]:
    """Serves the model by TensorFlow Serving's own binary."""
    ports = free_port(), free_port()
    command = [
        BINARY,
        f"--port={ports[0]}",
        f"--rest_api_port={ports[1]}",
        f"--model_name={version.parent.name}",
        f"--model_base_path={version.parent}",
    ]
    process = subprocess.Popen(command)
    try:
        channel = grpc.insecure_channel(f"127.0.0.1:{ports[0]}")
        grpc.channel_ready_future(channel).result(timeout=60)
        channel.close()
        yield Server(
            f"grpc://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}", BINARY, Faults()
        )
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def serve(version: Path) -> Iterator[Server]:
    """TensorFlow Serving where its binary is on the path, else the stand-in."""
    start = tensorflow_serving if shutil.which(BINARY) else stand_in
    with start(version) as server:
        yield server
