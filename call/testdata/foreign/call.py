"""The base frames of docs/protocol.md, section "Call", on a bare TLS connection.

    call.py client HOST PORT PEER CERT KEY   calls math/add, math/count and more
    call.py server CERT KEY                  serves x/echo, x/count and x/slow
    call.py worker HOST PORT PEER CERT KEY   dials PEER and serves the same there

PEER is the server's public key in hexadecimal. Python's standard library only.
"""
import json
import socket
import ssl
import struct
import sys
import threading
import time

ALPN = "alknet/call"
SPKI_ED25519 = bytes.fromhex("302a300506032b6570032100")  # RFC 8410


def write(conn, lock, kind, call, payload):
    body = json.dumps({"type": kind, "id": call, "payload": payload}).encode()
    with lock:
        conn.sendall(struct.pack(">I", len(body)) + body)


def read_exactly(conn, n):
    data = b""
    while len(data) < n:
        more = conn.recv(n - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def read(conn):
    (n,) = struct.unpack(">I", read_exactly(conn, 4))
    return json.loads(read_exactly(conn, n))


class CallError(Exception):
    pass


class Client:
    def __init__(self, host, port, peer, cert, key):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # the key is the identity, not a name
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([ALPN])
        context.load_cert_chain(cert, key)
        self.conn = context.wrap_socket(socket.create_connection((host, port)))
        at = self.conn.getpeercert(True).find(SPKI_ED25519 + bytes.fromhex(peer))
        if at < 0 or self.conn.selected_alpn_protocol() != ALPN:
            raise ssl.SSLError("somebody else answered")
        self.lock = threading.Lock()
        self.next = 0

    def start(self, operation, given):
        self.next += 1
        call = "py-%d" % self.next
        write(self.conn, self.lock, "call.requested", call, {"operationId": operation, "input": given})
        return call

    def events(self, call):
        while True:
            event = read(self.conn)
            if event["id"] == call:
                yield event["type"], event["payload"]

    def call(self, operation, given):
        for kind, payload in self.events(self.start(operation, given)):
            if kind == "call.responded":
                return payload.get("output")
            if kind == "call.error":
                raise CallError(payload["code"])

    def subscribe(self, operation, given):
        for kind, payload in self.events(self.start(operation, given)):
            if kind == "call.responded":
                yield payload.get("output")
            elif kind == "call.completed":
                return
            elif kind == "call.error":
                raise CallError(payload["code"])

    def abort(self, call):
        write(self.conn, self.lock, "call.aborted", call, {})


def client(host, port, peer, cert, key):
    c = Client(host, int(port), peer, cert, key)
    print("sum", c.call("/math/add", {"a": 2, "b": 3}))
    print("items", list(c.subscribe("math/count", 3)))
    for operation, given in (("/math/none", None), ("/math/add", {"a": "2", "b": 3})):
        try:
            c.call(operation, given)
        except CallError as e:
            print("error", e)
    c.abort(c.start("/test/sleep", {"ms": 60000}))
    print("unicode", c.call("test/echo", {"text": "héllo \U0001f600"})["text"])
    print("names", [o["name"] for o in c.call("/services/list", {})["operations"] if o["name"].startswith("math/")])
    c.conn.close()


KINDS = {"x/echo": "query", "x/count": "subscription", "x/slow": "query"}


def described(name):
    return {"name": name, "namespace": "x", "op_type": KINDS[name], "visibility": "external", "input_schema": None, "output_schema": None,
            "error_schemas": [], "access_control": {"required_scopes": [], "required_scopes_any": None, "resource_type": None, "resource_action": None}}


def serve(conn):
    lock, aborted = threading.Lock(), set()

    def answer(event):
        call, payload = event["id"], event["payload"]
        operation, given = payload["operationId"].lstrip("/"), payload.get("input")
        if operation == "x/echo":
            write(conn, lock, "call.responded", call, {"output": given})
        elif operation == "x/count":
            for i in range(given):
                write(conn, lock, "call.responded", call, {"output": i + 1})
            write(conn, lock, "call.completed", call, {})
        elif operation == "x/slow":
            while call not in aborted:
                time.sleep(0.01)
            print("aborted", flush=True)
        elif operation == "services/list":
            write(conn, lock, "call.responded", call, {"output": {"operations": [
                {"name": n, "namespace": "x", "op_type": KINDS[n]} for n in sorted(KINDS)]}})
        elif operation == "services/schema" and given.get("name") in KINDS:
            write(conn, lock, "call.responded", call, {"output": described(given["name"])})
        else:
            write(conn, lock, "call.error", call,
                  {"code": "NOT_FOUND", "message": "operation not found: " + operation, "retryable": False})

    try:
        while True:
            event = read(conn)
            if event["type"] == "call.requested":
                threading.Thread(target=answer, args=(event,), daemon=True).start()
            elif event["type"] == "call.aborted":
                aborted.add(event["id"])
    except (EOFError, OSError):
        conn.close()


def server(cert, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([ALPN])
    context.load_cert_chain(cert, key)
    listener = socket.create_server(("127.0.0.1", 0))
    print("port", listener.getsockname()[1], flush=True)
    while True:
        serve(context.wrap_socket(listener.accept()[0], server_side=True))


def worker(host, port, peer, cert, key):
    serve(Client(host, int(port), peer, cert, key).conn)


if __name__ == "__main__":
    {"client": client, "server": server, "worker": worker}[sys.argv[1]](*sys.argv[2:])
