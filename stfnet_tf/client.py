r"""Fuses a whole raster through a running TensorFlow Serving, tile by tile.

    python -m stfnet_tf.client --server=grpc://localhost:8500 --card=model_card.json \
        --dataset=configs/cia.toml --data_dir=/data --output_dir=fused

--card is the model card of the export that is served (saved_models/<name>/<version>/assets/):
it holds the bands, the encodings and the halo that a tile needs. The server may speak gRPC
(grpc://host:8500) or REST (http://host:8501); gRPC is many times faster, since REST sends numbers
as text. grpcs:// and https:// go through TLS, and nothing is sent to a server whose certificate
does not prove that it is the one that was named. Calls that fail for a passing reason (refused,
dropped, too slow, overloaded) are tried again with growing pauses; wrong requests are not.
"""

import contextlib
import dataclasses
import json
import os
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from data_prep import entry, errors

if TYPE_CHECKING:
    from data_prep import catalog
    from stfnet_tf import scene

FLAGS = flags.FLAGS
SCHEMES = ("grpc", "grpcs", "http", "https")


class PassingError(Exception):
    """A call failed for a reason that may pass: it is worth another try."""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long a call may take and how often it is tried.

    Attributes:
        timeout: Seconds after which one try has failed.
        tries: Tries in all.
        pause: Most seconds before the second try, doubled before each further one; how long it is
            within them is random.
        longest_pause: No pause is longer.
    """

    timeout: float = 60.0
    tries: int = 6
    pause: float = 0.5
    longest_pause: float = 30.0

    def call(self, server: str, function: Callable[[], Any]) -> Any:
        """Calls until an answer or the last try.

        Raises:
            InputError: The last try failed as well.
        """
        import tenacity

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(PassingError),
            stop=tenacity.stop_after_attempt(self.tries),
            wait=tenacity.wait_random_exponential(self.pause, self.longest_pause),
        )
        try:
            return retrying(function)
        except tenacity.RetryError as error:
            raise errors.InputError(
                f"{server}: expected an answer within {self.tries} tries of {self.timeout:g} s, "
                f"found: {error.last_attempt.exception()}."
            ) from None


class GrpcServer:
    """TensorFlow Serving's PredictionService.

    Args:
        address: host:port.
        model: Name of the served model.
        patience: How often to try.
        version: Version of the model; None for the newest.
        secure: Whether to speak TLS, with a server that proves who it is.
    """

    def __init__(
        self,
        address: str,
        model: str,
        patience: Patience,
        version: int | None = None,
        secure: bool = False,
    ):
        import grpc
        from tensorflow_serving.apis import model_pb2, prediction_service_pb2_grpc

        self._address = address
        self._patience = patience
        self._spec = model_pb2.ModelSpec(name=model)
        if version is not None:
            self._spec.version.value = version
        unlimited = [(f"grpc.max_{k}_message_length", -1) for k in ("send", "receive")]
        if secure:
            trusted = grpc.ssl_channel_credentials(_certificates())
            self._channel = grpc.secure_channel(address, trusted, options=unlimited)
        else:
            self._channel = grpc.insecure_channel(address, options=unlimited)
        self._stub = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)

    def close(self) -> None:
        """Ends the connection."""
        self._channel.close()

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Calls one signature.

        Raises:
            InputError: The server refuses the request, or does not answer at all.
        """
        import grpc
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest(model_spec=self._spec)
        request.model_spec.signature_name = signature
        for name, value in inputs.items():
            request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        passing = {
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.ABORTED,
        }

        def once() -> Any:
            try:
                return self._stub.Predict(request, timeout=self._patience.timeout)
            except grpc.RpcError as error:
                told = f"{error.code().name}, {error.details()}"
                if error.code() in passing:
                    raise PassingError(told) from None
                raise errors.InputError(
                    f"grpc://{self._address}: expected an answer, found: {told}."
                ) from None

        answer = self._patience.call(f"grpc://{self._address}", once)
        return {k: tf.make_ndarray(v) for k, v in answer.outputs.items()}


class RestServer:
    """TensorFlow Serving's REST interface.

    Args:
        url: http://host:port.
        model: Name of the served model.
        patience: How often to try.
        version: Version of the model; None for the newest.
    """

    def __init__(self, url: str, model: str, patience: Patience, version: int | None = None):
        import requests

        chosen = "" if version is None else f"/versions/{version}"
        self._url = f"{url.rstrip('/')}/v1/models/{model}{chosen}:predict"
        self._patience = patience
        self._session = requests.Session()

    def close(self) -> None:
        """Ends the connection."""
        self._session.close()

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Calls one signature; numbers travel as JSON, NaN as NaN.

        Raises:
            InputError: The server refuses the request, or does not answer at all.
        """
        import requests

        body = json.dumps(
            {"signature_name": signature, "inputs": {k: v.tolist() for k, v in inputs.items()}}
        )

        def once() -> Any:
            try:
                answer = self._session.post(self._url, data=body, timeout=self._patience.timeout)
                if answer.status_code in (408, 429) or answer.status_code >= 500:
                    raise PassingError(f"{answer.status_code}, {answer.text[:500]}")
                if answer.status_code != 200:
                    raise errors.InputError(
                        f"{self._url}: expected an answer, found: {answer.status_code}, "
                        f"{answer.text[:500]}."
                    )
                return answer.json()["outputs"]
            except requests.exceptions.SSLError as error:
                raise errors.InputError(
                    f"{self._url}: expected a server whose certificate can be verified, found: "
                    f"{error}."
                ) from None
            except (requests.ConnectionError, requests.Timeout) as error:
                raise PassingError(str(error)) from None
            except (ValueError, KeyError) as error:
                raise PassingError(f"an answer that was cut off or is no JSON: {error}") from None

        outputs = self._patience.call(self._url, once)
        return {k: np.asarray(v) for k, v in outputs.items()}


def _certificates() -> bytes | None:
    """The authorities to trust, of the file that requests trusts as well; None for gRPC's own."""
    named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    if not named:
        return None
    try:
        return Path(named).read_bytes()
    except OSError as error:
        raise errors.InputError(
            f"REQUESTS_CA_BUNDLE: expected a file of certificates, found {named}: {error.strerror}."
        ) from None


@contextlib.contextmanager
def connect(
    server: str, model: str, patience: Patience, version: int | None = None
) -> Iterator[GrpcServer | RestServer]:
    """A server by its address.

    Args:
        server: grpc://host:port, http://host:port, or grpcs:// and https:// for TLS.
        model: Name of the served model.
        patience: How often to try.
        version: Version of the model; None for the newest.

    Raises:
        InputError: Another kind of address.
    """
    address = urllib.parse.urlsplit(server)
    if address.scheme not in SCHEMES or not address.netloc:
        raise errors.InputError(
            f"--server: expected grpc://host:8500 or http://host:8501, found '{server}'."
        )
    try:
        connected: GrpcServer | RestServer
        if address.scheme.startswith("grpc"):
            secure = address.scheme == "grpcs"
            connected = GrpcServer(address.netloc, model, patience, version, secure)
        else:
            connected = RestServer(server, model, patience, version)
    except ImportError as error:
        raise errors.InputError(
            f"--server: talking to a server needs the extra 'serving' "
            f"(pip install 'stfnet-tf[serving]'), found: {error}."
        ) from None
    with contextlib.closing(connected):
        yield connected


def predictor(
    server: GrpcServer | RestServer, card_path: Path, images: "catalog.Catalog"
) -> "scene.Predictor":
    """The served model as `scene.fuse` needs it.

    Args:
        server: Where the calls go.
        card_path: The model card of the served export.
        images: What is to be fused.

    Raises:
        InputError: The card cannot be read or does not fit the images.
    """
    from stfnet_tf import model_card, scene

    try:
        card = model_card.read(card_path)
    except (OSError, ValueError) as error:
        raise errors.InputError(
            f"{card_path}: expected the model card of an export, found: {errors.reason(error)}."
        ) from None

    def remote(signature: str) -> Callable[..., dict[str, np.ndarray]]:
        specs = card["signatures"][signature]["outputs"]

        def call(**inputs: np.ndarray) -> dict[str, np.ndarray]:
            found = server.predict(signature, inputs)
            _check_answer(card["name"], signature, specs, inputs, found)
            return {k: v.astype(specs[k]["dtype"]) for k, v in found.items()}

        return call

    return scene.Predictor.from_card(card, f"{card['name']} (served)", images, remote)


def _check_answer(
    name: str,
    signature: str,
    specs: Mapping[str, Any],
    inputs: Mapping[str, np.ndarray],
    found: Mapping[str, np.ndarray],
) -> None:
    """No answer of another shape may get into a raster."""
    for key, spec in specs.items():
        shape = tuple(np.shape(found.get(key, ())))
        expected = [*inputs["f1"].shape[: len(spec["shape"]) - 1], spec["shape"][-1]]
        if key not in found or shape != tuple(expected):
            raise errors.InputError(
                f"{name}: expected '{key}' of {signature} as {tuple(expected)}, found "
                f"{shape if key in found else 'no such output'}; is --card that of the served "
                f"version?"
            )


def main(argv: Sequence[str]) -> None:
    """Fuses the chosen dates."""
    wanted = {
        "server": "an address",
        "card": "a model card",
        "dataset": "a .toml",
        "output_dir": "a folder",
    }
    for name, what in wanted.items():
        if not FLAGS[name].value:
            raise errors.InputError(f"--{name}: expected {what}, found nothing.")
    from data_prep import catalog, corrections, dataset
    from stfnet_tf import fuse, scene

    described = dataset.load(FLAGS.dataset, FLAGS.data_dir)
    plain = catalog.Catalog(described)
    chosen = fuse.choose(plain, FLAGS.dates)
    images = corrections.corrected(plain, dates={date for t in chosen for date in t.all_dates})
    model = FLAGS.model_name or described.name
    patience = Patience(timeout=FLAGS.timeout, tries=FLAGS.tries)
    print(f"Fusing {len(chosen)} dates of '{described.name}' at {FLAGS.server}", flush=True)
    with connect(FLAGS.server, model, patience, FLAGS.model_version) as server:
        served = predictor(server, Path(FLAGS.card), images)
        for triplet in chosen:
            with scene.alone(Path(FLAGS.output_dir), triplet):
                fused = scene.fuse(served, images, triplet, FLAGS.output_dir, FLAGS.window)
            print(fuse.summary(fused, described), flush=True)


def define_flags() -> None:
    """Defines this program's flags."""
    flags.DEFINE_string(
        "server",
        None,
        "Where the model is served: grpc://host:8500 or http://host:8501; grpcs:// or https:// "
        "for TLS.",
    )
    flags.DEFINE_string("model_name", None, "Name of the served model (default: the data set's).")
    flags.DEFINE_integer("model_version", None, "Its version (default: the newest).")
    flags.DEFINE_string("card", None, "model_card.json of the served export.")
    flags.DEFINE_string("dataset", None, "Description of the rasters, a .toml.")
    flags.DEFINE_string(
        "data_dir", None, "Where the rasters lie, in place of the description's own root."
    )
    flags.DEFINE_string("output_dir", None, "Folder that receives the rasters.")
    flags.DEFINE_list("dates", None, "Dates to fuse, or 'all' (default: the test dates).")
    flags.DEFINE_integer(
        "window", 256, "Height and width of a tile, without its halo.", lower_bound=32
    )
    flags.DEFINE_float("timeout", 60.0, "Seconds that one try may take.", lower_bound=0.01)
    flags.DEFINE_integer("tries", 6, "Tries of one call.", lower_bound=1)


def cli() -> None:
    """The console script."""
    define_flags()
    entry.run(main)


if __name__ == "__main__":
    cli()
