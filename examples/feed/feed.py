"""Reads the relay's feed of events, for a program that cannot be called. Python 3.8 or newer, standard library only:

    RELAY_URL=https://relay.example.com RELAY_KEY=… python3 feed.py [feed-next]

feed-next is the file that keeps where we are.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

NEXT = sys.argv[1] if len(sys.argv) > 1 else "feed-next"


def handle(event):
    """Your part: store the event if its `sequence` is above that of its `subject`: docs/receiving.md has the statement.

    It gets the events of an order in their order. If the program ends before `next` is stored, they come again.
    """
    if event["type"].startswith("audatex.parts.order."):
        order = event["data"]["order"]
        print(event["type"], event["site"], order.get("OrderReference"), order.get("Status"), flush=True)


def read(after):
    """Returns the next page. It waits for half a minute if there is no event yet."""
    query = {"waitSeconds": 30, **({"after": after} if after else {})}
    request = urllib.request.Request(
        os.environ["RELAY_URL"] + "/v1/events?" + urllib.parse.urlencode(query),
        headers={"Authorization": "Bearer " + os.environ["RELAY_KEY"]})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


def load():
    try:
        with open(NEXT) as file:
            return file.read()
    except FileNotFoundError:
        return ""  # the oldest event that is kept


def save(after):
    with open(NEXT + ".new", "w") as file:
        file.write(after)
        file.flush()
        os.fsync(file.fileno())
    os.replace(NEXT + ".new", NEXT)


def main():
    after = load()
    while True:
        try:
            page = read(after)
            for event in page["items"]:
                handle(event)
            after = page["next"]
            save(after)
            continue
        except urllib.error.HTTPError as error:
            print(error.code, error.read().decode(errors="replace"), file=sys.stderr, flush=True)
            if error.code in (401, 403):
                sys.exit("the key is wrong, revoked or expired")
            if error.code == 410:  # the log no longer has what follows: read GET /v1/orders as well
                after = ""
            seconds = error.headers.get("Retry-After") or ""
            wait = int(seconds) if seconds.isdecimal() else 5
        except Exception as error:  # no answer, or an event that could not be handled: the same page again
            print(repr(error), file=sys.stderr, flush=True)
            wait = 5
        time.sleep(wait)


if __name__ == "__main__":
    main()
