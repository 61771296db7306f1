"""A scripted server on loopback that speaks OpenAI's protocol, well or badly."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(text, finish="stop", prompt_tokens=10, output_tokens=20, chat=True):
    said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    return {
        "choices": [{"index": 0, "finish_reason": finish, **said}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens},
    }


def words_of(said: dict) -> str:
    """Text that depends on the prompt and the seed alone, and repeats nothing."""
    prompt = said.get("prompt") or said["messages"][0]["content"]
    state = hashlib.sha256(f"{prompt}/{said['seed']}".encode()).hexdigest()
    return " ".join(state[i : i + 4] for i in range(0, 64, 4))


@contextmanager
def serving(answer):
    """Serves with `answer(path, said, number) -> body`: a dict (JSON, 200), bytes (HTML, 200), or
    (status, dict or bytes, headers). Yields (address up to /v1, requests so far as a list of
    (path, said, headers))."""
    asked = []
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet

        def do_POST(self):
            said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                asked.append((self.path, said, dict(self.headers)))
                number = len(asked)
            found = answer(self.path, said, number)
            status, body, headers = found if isinstance(found, tuple) else (200, found, {})
            data = json.dumps(body).encode() if isinstance(body, dict) else body
            kind = "application/json" if isinstance(body, dict) else "text/html"
            self.send_response(status)
            self.send_header("Content-Type", kind)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            if "Content-Length" in headers:  # a lie: break off
                self.close_connection = True

        def log_message(self, *words):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass  # a client that gave up

    server = Quiet(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
