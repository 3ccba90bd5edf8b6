"""A small server that streams as OpenAI's do, in a process of its own, for chats in tests.

By hand: `python tests/serving/streaming_server.py --port 8000 --page`. What it does is told by a
word in the last message:

    think      five keep-alive comments, then a thought as `reasoning`, then the answer
    slow       an answer of a hundred words, twenty a second
    never      keep-alive comments until the client goes away
    long       an answer that ends at the token limit
    nothing    an answer without any text
    markup     text that would be markup, terminal codes, and a line separator
    fail       an error's event in the middle
    cut        the connection ends in the middle
    busy       status 429
    refuse     status 400
    garbage    what is no JSON

and else the answer says how many messages there were and repeats the last.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

MARKUP = "<b>bold</b> <img src=x onerror='window.hacked=1'> \x1b[2J\x07 [red]x[/red] a\u2028b"
THOUGHT = "17 + 25 <i>is</i> 42."


class Server:
    """A server that runs; what it was asked is in `asked()`, what was left early in `left()`."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._log = folder / f"asked_{time.monotonic_ns()}.jsonl"
        self._log.touch()
        command = [sys.executable, __file__, "--log", str(self._log), *words]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url.startswith("http://"), "the server did not start"

    def asked(self) -> list[dict]:
        return [entry["body"] for entry in self._entries() if "body" in entry]

    def left(self) -> list[str]:
        """Last messages of answers that the client did not wait for."""
        return [entry["left"] for entry in self._entries() if "left" in entry]

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _entries(self) -> list[dict]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    words: argparse.Namespace
    lock = threading.Lock()

    def do_GET(self) -> None:
        if self.path == "/" and self.words.page:
            from forethought.serving.http.chat_page import chat_page

            page = chat_page("policy", may_show_thoughts=True, offers_direct=True).encode()
            self.send(200, page, "text/html; charset=utf-8")
        elif not self.allowed():
            self.fail(401, "no such key")
        elif self.path == "/v1/models":
            models = [{"id": name, "object": "model"} for name in self.words.model or ["policy"]]
            if self.words.keeps_thinking:
                models = [model | {"think_off": False} for model in models]
            self.send(200, json.dumps({"object": "list", "data": models}).encode())
        else:
            self.fail(404, "there is nothing")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.write({"body": body})
        last = body["messages"][-1]["content"]
        if not self.allowed():
            self.fail(401, "no such key")
        elif "busy" in last:
            self.fail(429, "too many")
        elif "refuse" in last:
            self.fail(400, "maximum context length\nis 8")
        else:
            self.begin(200, "text/event-stream", {"Connection": "close"})
            self.close_connection = True
            try:
                self.stream(last, len(body["messages"]))
            except (BrokenPipeError, ConnectionResetError):
                self.write({"left": last})

    def stream(self, last: str, count: int) -> None:
        self.chunk(role="assistant", content="")
        reason = "stop"
        if "think" in last or "never" in last:
            for _ in range(5 if "think" in last else 10_000):
                self.put(b": thinking\r\n\r\n")
                time.sleep(0.3 if "think" in last else 0.05)
            self.chunk(reasoning=THOUGHT, reasoning_content=THOUGHT)
            self.chunk(content="It is 42.")
        elif "slow" in last:
            for number in range(100):
                self.chunk(content=f"word{number} ")
                time.sleep(0.05)
        elif "markup" in last:
            self.chunk(content=MARKUP)
        elif "fail" in last:
            self.chunk(content="Half")
            self.put(b'data: {"error": {"message": "out of\\nluck"}}\n\n')
            return
        elif "cut" in last:
            self.chunk(content="Half")
            return
        elif "garbage" in last:
            self.put(b"data: <html>\n\n")
            return
        elif "nothing" not in last:
            reason = "length" if "long" in last else "stop"
            # A character's bytes in two pieces.
            whole = json.dumps(f"{count} messages; you said: é {last}", ensure_ascii=False)
            event = b'data: {"choices": [{"index": 0, "delta": {"content": %s}}]}\r\n\r\n'
            data = event % whole.encode()
            middle = data.index("é".encode()) + 1
            self.put(data[:middle])
            time.sleep(0.05)
            self.put(data[middle:])
        self.chunk(reason)
        cost = {
            "completion_tokens": 3,
            "completion_tokens_details": {"reasoning_tokens": 2 * ("think" in last)},
        }
        self.put(f'data: {{"choices": [], "usage": {json.dumps(cost)}}}\n\n'.encode())
        self.put(b"data: [DONE]\n\n")

    def chunk(self, finish_reason: str | None = None, **delta: str) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        text = json.dumps({"choices": [choice]}, ensure_ascii=False)
        self.put(f"data: {text}\n\n".encode())

    def put(self, data: bytes) -> None:
        self.wfile.write(data)
        self.wfile.flush()

    def allowed(self) -> bool:
        key = self.words.api_key
        return key is None or self.headers.get("Authorization") == f"Bearer {key}"

    def fail(self, status: int, message: str) -> None:
        self.send(status, json.dumps({"error": {"message": message, "type": "x"}}).encode())

    def send(self, status: int, content: bytes, kind: str = "application/json") -> None:
        self.begin(status, kind, {"Content-Length": str(len(content))})
        self.wfile.write(content)

    def begin(self, status: int, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def write(self, entry: dict) -> None:
        with self.lock, Path(self.words.log).open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", default="/dev/null")
    parser.add_argument("--api-key")
    parser.add_argument("--model", action="append")
    parser.add_argument("--keeps-thinking", action="store_true", help="as a server of ours says")
    parser.add_argument("--page", action="store_true", help="serve the web page at /")
    Handler.words = parser.parse_args()
    listener = ThreadingHTTPServer(("127.0.0.1", Handler.words.port), Handler)
    listener.daemon_threads = True
    print(f"http://127.0.0.1:{listener.server_port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        listener.serve_forever(poll_interval=0.02)


if __name__ == "__main__":
    main()
