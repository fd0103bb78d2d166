"""Start `hyla serve` with a tiny random model, call it with OpenAI's client (pip install openai), stop it."""

import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from openai import OpenAI
from tiny_folder import write_tiny_folder


def free_port() -> int:
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        return own.getsockname()[1]


def wait_until_ready(url: str, server: subprocess.Popen, seconds: float = 120) -> None:
    """/ready answers 200 once every model is loaded."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/ready", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit("the server did not become ready")


def call(url: str) -> None:
    # Any client of OpenAI's API works: chat, completions, responses, embeddings. This model has no chat template.
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    print("models: ", [model.id for model in client.models.list()])
    asked = {"model": "tiny", "prompt": "def read(path):", "max_tokens": 16, "temperature": 0}

    whole = client.completions.create(**asked)
    print("whole:  ", repr(whole.choices[0].text), whole.usage.completion_tokens, "tokens")

    pieces = [event.choices[0].text for event in client.completions.create(**asked, stream=True) if event.choices]
    print("stream: ", len(pieces), "events")
    assert "".join(pieces) == whole.choices[0].text, "a stream says the same"


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder, port = write_tiny_folder(Path(temporary) / "model"), free_port()
        # On the command line: hyla serve tiny=FOLDER --port PORT
        command = [sys.executable, "-m", "hyla.cli", "serve", f"tiny={folder}", "--port", str(port)]
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_ready(url, server)
            call(url)
        finally:
            server.terminate()  # answers that are under way end first
            server.wait(60)
        print("stopped")


if __name__ == "__main__":
    main()
