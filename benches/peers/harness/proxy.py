"""Counts requests and bytes between one worker and its servers: `proxy.py NAME=URL... [--tls CERTIFICATE KEY]`.

A process of its own, so that its CPU time is not the worker's. Nothing that passes is changed. It prints the URL for each
name as a line of JSON; then, for each line that it reads, what it has counted; it ends when its input ends. With --tls it
speaks TLS to the worker and HTTP to the servers.
"""

import json
import socket
import ssl
import sys
import threading
import time
from urllib.parse import urlsplit

PIECE = 1 << 18


class Counts:
    """By service and operation: requests, bytes there and back, and when the first request came."""

    def __init__(self):
        self.lock, self.found = threading.Lock(), {}

    def add(self, key, requests=0, sent=0, received=0):
        with self.lock:
            counts = self.found.setdefault(key, {"requests": 0, "sent": 0, "received": 0, "first": time.time()})
            counts["requests"] += requests
            counts["sent"] += sent
            counts["received"] += received

    def report(self):
        with self.lock:
            return [{"service": service, "operation": operation, **counts}
                    for (service, operation), counts in sorted(self.found.items())]  # fmt: skip


class Side:
    """What comes from one side: heads, and bodies that are handed on piece by piece."""

    def __init__(self, connection):
        self.connection, self.buffer = connection, b""
        self.space = bytearray(PIECE)

    def read(self):
        size = self.connection.recv_into(self.space)
        return memoryview(self.space)[:size]

    def until(self, mark):
        """All up to and with the mark; nothing at the end of the connection."""
        while (at := self.buffer.find(mark)) < 0:
            piece = self.read()
            if not piece:
                return None
            self.buffer += piece
        taken, self.buffer = self.buffer[: at + len(mark)], self.buffer[at + len(mark) :]
        return taken

    def pass_on(self, size, to):
        """Hands on so many bytes; answers how many that were."""
        left = size
        if self.buffer:
            piece, self.buffer = self.buffer[:left], self.buffer[left:]
            to.sendall(piece)
            left -= len(piece)
        while left > 0:
            piece = memoryview(self.space)[: self.connection.recv_into(self.space, min(left, PIECE))]
            if not piece:
                raise ConnectionError("the body ended early")
            to.sendall(piece)
            left -= len(piece)
        return size

    def pass_chunks(self, to):
        passed = 0
        while True:
            line = self.until(b"\r\n")
            if line is None:
                raise ConnectionError("the body ended early")
            to.sendall(line)
            size = int(line.split(b";")[0], 16)
            passed += len(line) + self.pass_on(size, to)
            tail = self.until(b"\r\n")
            to.sendall(tail)
            if size == 0:
                return passed

    def pass_rest(self, to):
        passed = len(self.buffer)
        to.sendall(self.buffer)
        self.buffer = b""
        while piece := self.read():
            to.sendall(piece)
            passed += len(piece)
        return passed


def fields(head):
    lines = head.decode("latin-1").split("\r\n")
    found = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip().lower()] = value.strip()
    return lines[0], found


def pass_body(side, found, to):
    if "chunked" in found.get("transfer-encoding", ""):
        return side.pass_chunks(to)
    return side.pass_on(int(found.get("content-length", 0)), to)


def exchange(client, server, service, counts):
    """One request and its response; nothing once the client has ended."""
    head = client.until(b"\r\n\r\n")
    if head is None:
        return False
    line, found = fields(head)
    method = line.split(" ")[0]
    operation = found.get("x-amz-target", method).rpartition(".")[2]
    key = service, operation
    counts.add(key, requests=1)
    server.connection.sendall(head)
    if "expect" not in found:
        counts.add(key, sent=len(head) + pass_body(client, found, server.connection))
    while True:
        answer = server.until(b"\r\n\r\n")
        if answer is None:
            return False
        status_line, said = fields(answer)
        status = int(status_line.split(" ")[1])
        client.connection.sendall(answer)
        if status != 100:
            break
        counts.add(key, sent=len(head) + pass_body(client, found, server.connection))
    received = len(answer)
    if method == "HEAD" or status in (204, 304):
        pass
    elif "content-length" in said or "transfer-encoding" in said:
        received += pass_body(server, said, client.connection)
    else:
        counts.add(key, received=received + server.pass_rest(client.connection))
        return False
    counts.add(key, received=received)
    return said.get("connection", "").lower() != "close"


def serve(connection, target, service, counts, context):
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context:
            connection = context.wrap_socket(connection, server_side=True)
        with connection, socket.create_connection(target) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            near, far = Side(connection), Side(server)
            while exchange(near, far, service, counts):
                pass
    except OSError:
        # A worker that was stopped, or a server that was.
        pass


def listen(service, url, counts, context):
    target = urlsplit(url)
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def accept():
        while True:
            connection, _ = listener.accept()
            arguments = connection, (target.hostname, target.port), service, counts, context
            threading.Thread(target=serve, args=arguments, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    port = listener.getsockname()[1]
    # The certificate of the tests names the host.
    return f"https://localhost:{port}" if context else f"http://127.0.0.1:{port}"


def main(arguments):
    context = None
    if "--tls" in arguments:
        at = arguments.index("--tls")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*arguments[at + 1 : at + 3])
        del arguments[at : at + 3]
    counts = Counts()
    named = [argument.split("=", 1) for argument in arguments]
    print(json.dumps({name: listen(name, url, counts, context) for name, url in named}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(counts.report()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
