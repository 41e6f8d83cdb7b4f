"""Runs a command that reaches nothing but loopback: what it needs is there, or it fails.

offline.py COMMAND...   in a network of its own; where the kernel does not allow that, with proxies that nobody listens on
offline.py              looks for a server of this machine by its outward address: found from outside, not from inside
"""

import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
import urllib.request

NOWHERE = "http://127.0.0.1:9"
PROXIES = {f"{kind}_proxy": NOWHERE for kind in ("http", "https", "all")} | {"no_proxy": "127.0.0.1,localhost", "PIP_NO_INDEX": "1"}


def own_network():
    """The start of a command that has one, or None."""
    if not shutil.which("unshare") or not shutil.which("ip"):
        return None
    # Root may; others may where the kernel lets them be root of a namespace.
    for more in ([], ["--map-root-user"]):
        start = ["unshare", "--net", *more, "sh", "-c", 'ip link set lo up && exec "$@"', "offline"]
        if subprocess.run([*start, "true"], stderr=subprocess.DEVNULL).returncode == 0:
            return start
    return None


def replaced_by(command):
    start = own_network()
    if start is None:
        proxies = PROXIES | {name.upper(): value for name, value in PROXIES.items()}
        os.environ.update(proxies, MAVEN_OPTS="-Dhttps.proxyHost=127.0.0.1 -Dhttps.proxyPort=9")
    os.execvp((start or command)[0], [*(start or []), *command])


def outward_address():
    """Of this machine; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        return probe.getsockname()[0]


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


def control():
    try:
        address = outward_address()
    except OSError:
        print("offline: SKIPPED, this machine has no network that could be refused")
        return
    server = http.server.HTTPServer((address, 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://{address}:{server.server_address[1]}/"
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10).close()
    code = f"import urllib.request; urllib.request.urlopen({url!r}, timeout=10)"
    inside = subprocess.run([sys.executable, __file__, sys.executable, "-c", code], capture_output=True, text=True)
    if inside.returncode == 0 or "URLError" not in inside.stderr:
        raise SystemExit(f"a connection that goes outward is not refused: {inside.stderr[-500:]}")
    print(f"offline: a connection outward is refused ({'own network' if own_network() else 'proxies'})")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        replaced_by(sys.argv[1:])
    control()
