"""A live server in this process."""

import threading

import httpx

from hyla.server.listening import DrainingServer, listen


class Live:
    """uvicorn on a free port, on a thread."""

    def __init__(self, app):
        self.app = app
        self.socket = listen("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.server = DrainingServer(app)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})

    @property
    def service(self):
        return self.app.state.service

    @property
    def served(self):
        return next(iter(self.service.models.values()))

    @property
    def engine(self):
        return self.served.worker.engine

    def __enter__(self):
        self.thread.start()
        with httpx.Client(transport=httpx.HTTPTransport(retries=20)) as client:
            client.get(self.url + "/health", timeout=60)
        return self

    def __exit__(self, *failure):
        self.server.should_exit = True
        self.thread.join()
        self.socket.close()
