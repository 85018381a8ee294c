"""An API of embeddings in memory, with what embedding_sink.py needs of one. To try the example, and for its test:

python examples/embeddings/fake_embeddings.py 8100
"""

import json
import random
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FakeEmbeddings:
    """Serves while it is entered.

    Attributes:
        embedded: Number and text of each input that was embedded, in order: the work that an idempotency key saves.
        calls: How many items each call had.
        busy: Texts that are answered 429.
        away: Whether every call is answered 503.
        lost_answers: How many of the next calls are carried out and not answered.
    """

    def __init__(self, port: int = 0, *, dimensions: int = 8) -> None:
        self.embedded: list[tuple[int, str]] = []
        self.calls: list[int] = []
        self.busy = {"busy"}
        self.away = False
        self.lost_answers = 0
        self._dimensions = dimensions
        self._results: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler_of(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FakeEmbeddings":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @contextmanager
    def outage(self) -> Iterator[None]:
        self.away = True
        yield
        self.away = False

    def vector(self, text: str, model: str = "small") -> list[float]:
        rng = random.Random(json.dumps([model, text]))
        return [rng.uniform(-1, 1) for _ in range(self._dimensions)]

    def embeddings(self, items: list[Any]) -> list[dict[str, Any]]:
        with self._lock:
            self.calls.append(len(items))
            return [self._embed(item) for item in items]

    def results(self, keys: list[str]) -> list[dict[str, Any]]:
        with self._lock:
            return [{"idempotency_key": key, **self._results[key][1]} for key in keys if key in self._results]

    def _embed(self, item: dict[str, Any]) -> dict[str, Any]:
        key, inputs = item["idempotency_key"], item["inputs"]
        if key in self._results:
            first, result = self._results[key]
            return result if first == inputs else {"status": 409, "error": "this key came with other inputs"}
        texts = [one.get("text") for one in inputs]
        if not all(isinstance(text, str) and text for text in texts):
            return {"status": 422, "error": "a text is a string, and not empty"}
        if any(one["model"] not in ("small", "large") or one.keys() - {"model", "text", "number"} for one in inputs):
            return {
                "status": 422,
                "error": "the models are small and large; an input has a text, and may have a number",
            }
        if self.busy.intersection(texts):
            return {"status": 429, "error": "too many of these at the moment"}
        self.embedded += [(one.get("number", -1), one["text"]) for one in inputs]
        vectors = [self.vector(one["text"], one["model"]) for one in inputs]
        result = {"status": 200, "batch": item["batch"], "vectors": vectors}
        self._results[key] = (inputs, result)
        return result


def _handler_of(api: FakeEmbeddings) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            items = json.loads(self.rfile.read(int(self.headers["content-length"])))["items"]
            if api.away:
                return self._answer(503, {})
            answer = api.results(items) if self.path == "/results" else api.embeddings(items)
            if api.lost_answers:
                api.lost_answers -= 1
                self.close_connection = True
                return None
            return self._answer(200, {"items": answer})

        def _answer(self, status: int, answer: dict[str, Any]) -> None:
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:  # a cancelled call hangs up
                self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    return Handler


if __name__ == "__main__":
    with FakeEmbeddings(int(sys.argv[1]), dimensions=1536) as fake:
        print(f"Embeddings at {fake.url}. Ctrl-C stops it.", flush=True)
        threading.Event().wait()
