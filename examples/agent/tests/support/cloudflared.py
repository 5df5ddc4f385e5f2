#!/usr/bin/python3 -I
"""Stands in for cloudflared: called as it, it writes down how it was called, answers
/ready and /metrics, ends TLS and forwards the bytes to the unix socket of its configuration."""

import hashlib, http.server, itertools, json, os, signal, socket, ssl, stat, sys, threading, time

here = os.path.dirname(os.path.abspath(__file__))
setting = json.load(open(os.path.join(here, "setting.json")))
if sys.argv[1:] == ["--version"]:
    print("cloudflared version " + setting["version"] + " (built stand-in)")
    sys.exit(0)

argv = sys.argv[1:]
after = lambda flag: argv[argv.index(flag) + 1]
mode = lambda path: stat.S_IMODE(os.stat(path).st_mode)
token = open(after("--token-file")).read().strip()
config = json.load(open(after("--config")))
service = config["ingress"][0]["service"]
origin = service.removeprefix("unix:")


def report(what):
    with open(os.path.join(here, "report.jsonl"), "a") as file:
        file.write(json.dumps(what) + "\n")


report({
    "pid": os.getpid(),
    "at": time.monotonic(),
    "argv": argv,
    "stdin_is_pipe": stat.S_ISFIFO(os.fstat(0).st_mode),
    "descriptors": len(os.listdir("/proc/self/fd")) - 1,
    "token_sha256": hashlib.sha256(token.encode()).hexdigest(),
    "ingress": config["ingress"],
    "metrics": config["metrics"],
    "modes": [mode(os.path.dirname(origin)), mode(origin), mode(after("--config"))],
})
if setting["does"] == "crash":
    print(json.dumps({"level": "error", "message": "bad token " + token}), file=sys.stderr)
    sys.exit(3)


# As the real one writes them.
METRICS = """# HELP cloudflared_tunnel_ha_connections Number of active ha connections
# TYPE cloudflared_tunnel_ha_connections gauge
cloudflared_tunnel_ha_connections {}
# HELP cloudflared_tunnel_request_errors Count of error proxying to origin
# TYPE cloudflared_tunnel_request_errors counter
cloudflared_tunnel_request_errors 2
# HELP cloudflared_tunnel_total_requests Amount of requests proxied through all the tunnels
# TYPE cloudflared_tunnel_total_requests counter
cloudflared_tunnel_total_requests 17
"""


wavers = itertools.cycle([False, True])


class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        lost = os.path.exists(os.path.join(here, "lost"))
        well = setting["does"] == "serve" and not lost
        counts = self.path == "/metrics"
        if self.path == "/ready" and os.path.exists(os.path.join(here, "wavering")):
            # Not twice in a row.
            well = next(wavers)
        self.send_response(200 if counts or self.path == "/ready" and well else 503)
        self.end_headers()
        if counts:
            self.wfile.write(METRICS.format(4 if well else 0).encode())

    def log_message(self, *_):
        pass


def pump(source, target):
    try:
        while piece := source.recv(65536):
            target.sendall(piece)
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def forward(plain, context):
    try:
        outside = context.wrap_socket(plain, server_side=True)
        assert outside.version() == "TLSv1.3"
        first = outside.recv(65536)
        line, rest = first.split(b"\r\n", 1)
        # As the network in between does.
        first = line + b"\r\nCF-Connecting-IP: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n" + rest
        with open(os.path.join(here, "request.bin"), "wb") as file:
            file.write(first)
        inside = socket.socket(socket.AF_UNIX)
        inside.connect(origin)
        inside.sendall(first)
    except OSError:
        return
    threading.Thread(target=pump, args=(inside, outside), daemon=True).start()
    pump(outside, inside)


def edge():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(here, "edge.pem"))
    listener = socket.create_server(("127.0.0.1", setting["port"]))
    while True:
        plain, _ = listener.accept()
        threading.Thread(target=forward, args=(plain, context), daemon=True).start()


def end(*_):
    report({"ended": os.getpid()})
    os._exit(0)


signal.signal(signal.SIGTERM, end)
if setting["does"] == "serve":
    threading.Thread(target=edge, daemon=True).start()
host, port = after("--metrics").rsplit(":", 1)
http.server.ThreadingHTTPServer((host, int(port)), Ready).serve_forever()
