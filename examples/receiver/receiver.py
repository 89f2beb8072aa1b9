"""A complete receiver of the relay's callbacks in Python 3.8 or newer, with nothing but the standard library:

    WEBHOOK_SECRET=whsec_… python3 receiver.py [127.0.0.1:3000 [receiver.db]]

WEBHOOK_SECRET may hold several secrets, separated by spaces: the new and the old one while they are exchanged.
`application` is a WSGI application; in production run it with your WSGI server, behind your HTTPS proxy.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import os
import re
import sqlite3
import sys
import threading
import time
import traceback
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

PATH = "/hooks/audatex"
LARGEST_BODY = 16 * 1024 * 1024
TOLERANCE = 5 * 60  # seconds between the time of the attempt and our clock

SECRETS = [base64.b64decode(text[len("whsec_"):], validate=True)
           for text in os.environ.get("WEBHOOK_SECRET", "").split() if text.startswith("whsec_")]
DATABASE = sys.argv[2] if len(sys.argv) > 2 else "receiver.db"

SCHEMA = """
    CREATE TABLE IF NOT EXISTS orders (
        subject  TEXT PRIMARY KEY,            -- the order
        sequence TEXT NOT NULL,               -- of its newest event; sixteen digits, so they compare as text
        event    TEXT NOT NULL,               -- that event
        worked   TEXT NOT NULL DEFAULT '');   -- the sequence of the last event that was worked on
    CREATE INDEX IF NOT EXISTS waiting ON orders (subject) WHERE worked < sequence;
"""

# The whole rule against repeats, late arrivals and replays: it changes one row, or none.
STORE_IF_NEWER = """
    INSERT INTO orders (subject, sequence, event) VALUES (?, ?, ?)
    ON CONFLICT (subject) DO UPDATE SET sequence = excluded.sequence, event = excluded.event
    WHERE excluded.sequence > orders.sequence
"""

to_do = threading.Event()


def application(environ, start_response):
    try:
        status = receive(environ)
    except Exception:  # the database, for example: the relay sends the event again
        traceback.print_exc()
        status = "503 Service Unavailable"
    start_response(status, [("Content-Type", "text/plain")])
    return [b""]


def receive(environ):
    """Verifies a delivery, stores it if it is new, and returns the status to answer with."""
    if environ["PATH_INFO"] != PATH:
        return "404 Not Found"
    if environ["REQUEST_METHOD"] != "POST":
        return "405 Method Not Allowed"
    length = environ.get("CONTENT_LENGTH") or ""
    if not re.fullmatch("[0-9]{1,12}", length):
        return "411 Length Required"
    if int(length) > LARGEST_BODY:
        return "413 Content Too Large"
    body = environ["wsgi.input"].read(int(length))  # the bytes as they came: the signature is of these
    if not verify(environ, body):
        return "401 Unauthorized"
    try:
        event = json.loads(body.decode())
        kind, subject, sequence = str(event["type"]), str(event["subject"]), str(event["sequence"])
    except (ValueError, TypeError, KeyError):
        return "400 Bad Request"
    if event.get("test"):
        return "200 OK"  # a test of the callback: nothing happened to an order
    if not kind.startswith("audatex.parts.order."):
        print(kind, subject, file=sys.stderr)  # what the relay reports of itself, if the callback asks for it
        return "200 OK"
    if not re.fullmatch("[0-9]{16}", sequence):
        return "400 Bad Request"
    with database() as db, db:
        db.execute(STORE_IF_NEWER, (subject, sequence, body.decode()))
    to_do.set()
    return "200 OK"  # stored, or known already. The work comes later: the relay waits for this answer


def verify(environ, body):
    """Reports whether one of the signatures was made with one of our secrets, a short time ago."""
    name, timestamp = environ.get("HTTP_WEBHOOK_ID", ""), environ.get("HTTP_WEBHOOK_TIMESTAMP", "")
    if not re.fullmatch("[0-9]{1,12}", timestamp) or abs(time.time() - int(timestamp)) > TOLERANCE:
        return False
    signed = f"{name}.{timestamp}.".encode("latin-1") + body
    for secret in SECRETS:
        digest = hmac.new(secret, signed, hashlib.sha256).digest()
        expected = b"v1," + base64.b64encode(digest)
        for signature in environ.get("HTTP_WEBHOOK_SIGNATURE", "").split(" "):
            if hmac.compare_digest(signature.encode("latin-1"), expected):
                return True
    return False


def work():
    """Works on the newest event of each order that has one waiting, also on those from before a restart."""
    while True:
        to_do.wait(60)
        to_do.clear()
        try:
            with database() as db:
                waiting = db.execute("SELECT subject, sequence, event FROM orders WHERE worked < sequence").fetchall()
                for order in waiting:
                    work_on(db, *order)
        except sqlite3.Error:
            traceback.print_exc()


def work_on(db, subject, sequence, event):
    try:
        handle(json.loads(event))
    except Exception:
        traceback.print_exc()  # this order is worked on again later; the others go on
        return
    with db:  # if a newer event has come meanwhile, it still waits
        db.execute("UPDATE orders SET worked = ? WHERE subject = ?", (sequence, subject))


def handle(event):
    """Your part: bring the order in your system to this state. It may be called twice for one event."""
    order = event["data"]["order"]
    print(event["type"], event["site"], order.get("OrderReference"), order.get("Status"), flush=True)


def database():
    return contextlib.closing(sqlite3.connect(DATABASE, timeout=10))


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Handler(WSGIRequestHandler):
    timeout = 30  # seconds for a sender that says nothing

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    if not SECRETS:
        sys.exit("WEBHOOK_SECRET has no secret: whsec_…, as shown when the callback was made")
    with database() as setup:
        setup.executescript("PRAGMA journal_mode = WAL;" + SCHEMA)
    to_do.set()
    threading.Thread(target=work, daemon=True).start()
    host, port = (sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:3000").rsplit(":", 1)
    with make_server(host, int(port), application, Server, Handler) as server:
        print(f"listening on http://{host}:{server.server_port}{PATH}", file=sys.stderr, flush=True)
        server.serve_forever()
