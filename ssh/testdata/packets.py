# packets.py HOST PORT KEYFILE: for each case, logs in with paramiko, misuses the
# connection protocol in one way, and prints "alive: CASE" if the connection then
# still answers, "closed: CASE" if the server has ended it.
import struct, sys
import paramiko

u32 = lambda n: struct.pack(">I", n)
text = lambda b: u32(len(b)) + b

host, port, key = sys.argv[1:]


def send(kind, body):
    m = paramiko.Message()
    m.add_bytes(bytes([kind]) + body)
    try:
        t._send_user_message(m)
    except Exception:
        pass  # it may have been ended already


def running(line):
    c = t.open_session(timeout=30)
    c.exec_command(line)
    return c


def open_with(window, packet):
    send(90, text(b"session") + u32(1000) + u32(window) + u32(packet))


def data_after_eof():
    c = running("sleep 100")  # does not end at EOF, which would close the channel
    send(96, u32(c.remote_chanid))
    for _ in range(100):
        send(94, u32(c.remote_chanid) + text(b"x" * 1000))


def overflow():
    c = running("sleep 100")
    for _ in range(80):  # 2.5 MiB into a window of 2 MiB
        send(94, u32(c.remote_chanid) + text(b"x" * 32768))


def adjust():
    c = running("sleep 100")
    send(93, u32(c.remote_chanid) + u32(0xFFFFFFFF))
    send(93, u32(c.remote_chanid) + u32(0xFFFFFFFF))


def twice():
    c = running("sleep 100")
    for kind in (96, 96, 97, 97, 96):
        send(kind, u32(c.remote_chanid))


def replies(kinds, channel):
    for _ in range(10000):
        for kind in kinds:
            send(kind, channel)


def extended():
    c = running("cat")
    for code in (0, 1, 2, 0xFFFFFFFF):
        send(95, u32(c.remote_chanid) + u32(code) + text(b"x" * 1000))


def cut_off():
    c = running("cat")
    send(94, u32(c.remote_chanid) + u32(0xFFFFFFFF) + b"x")


def unsolicited_on_channel():
    c = running("sleep 100")
    replies((99, 100), u32(c.remote_chanid))


cases = {
    "packet size 0": lambda: open_with(1 << 20, 0),
    "packet size 2^32-1": lambda: open_with(1 << 20, 0xFFFFFFFF),
    "window 2^32-1": lambda: open_with(0xFFFFFFFF, 32768),
    "data after EOF": data_after_eof,
    "window overflow": overflow,
    "window adjusted beyond 2^32": adjust,
    "EOF and close twice": twice,
    "unsolicited replies": lambda: replies((81, 82), b""),
    "unsolicited replies on a channel": unsolicited_on_channel,
    "data on a channel that is not open": lambda: send(94, u32(77) + text(b"x")),
    "channel 2^31": lambda: send(94, u32(1 << 31) + text(b"x")),
    "channel 2^32-1": lambda: send(97, u32(0xFFFFFFFF)),
    "confirmation of nothing": lambda: send(91, u32(5) + u32(5) + u32(1 << 20) + u32(32768)),
    "failure of nothing": lambda: send(92, u32(5) + u32(1) + text(b"") + text(b"")),
    "extended data of any kind": extended,
    "data cut off": cut_off,
    "open cut off": lambda: send(90, text(b"session") + b"\0"),
    "unknown message": lambda: send(200, b"x" * 100),
    "login again": lambda: send(50, text(b"root") + text(b"ssh-connection") + text(b"none")),
}
for name, case in cases.items():
    t = paramiko.Transport((host, int(port)))
    t.start_client(timeout=30)
    t.auth_publickey("bob", paramiko.Ed25519Key.from_private_key_file(key))
    case()
    try:
        c = t.open_session(timeout=30)
        c.exec_command("echo alive")
        got = c.recv(100) == b"alive\n"
    except Exception:
        got = False
    print("alive" if got else "closed", name, sep=": ")
    t.close()
