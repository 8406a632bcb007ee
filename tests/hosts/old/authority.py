"""The certificate authority of the Python tools, as far as its clients see it: it authenticates nobody, copies the
extensions of a CSR and adds none. Only its server certificate is better than theirs, as an agent needs it.

Arguments: a directory to work in, the port, and for how many days it signs. Writes root.crt, and serves until killed.
"""

import http.server
import json
import pathlib
import ssl
import subprocess
import sys

DIRECTORY, PORT, DAYS = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def openssl(*arguments):
    subprocess.run(["openssl", *arguments], cwd=DIRECTORY, check=True, capture_output=True)


def make():
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(
        *["req", "-x509", *key, "-keyout", "root.key", "-out", "root.crt", "-days", DAYS],
        *["-subj", "/CN=Crank Platform CA", "-addext", "keyUsage=critical,keyCertSign,cRLSign"],
    )
    openssl(
        *["req", "-new", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=cert-authority"],
        *["-addext", "subjectAltName=DNS:cert-authority,DNS:localhost"],
    )
    sign("server.csr", "server.crt")


def sign(csr, certificate):
    openssl(
        *["x509", "-req", "-in", csr, "-CA", "root.crt", "-CAkey", "root.key", "-CAcreateserial"],
        *["-copy_extensions", "copyall", "-days", DAYS, "-out", certificate],
    )


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/health":
            self.reply(200, {"status": "healthy", "service": "certificate-authority", "provider": "DevelopmentCA"})
        elif self.path == "/ca/certificate":
            self.reply(200, {"ca_certificate": (DIRECTORY / "root.crt").read_text(), "provider": "DevelopmentCA"})
        else:
            self.reply(404, {"detail": "Not Found"})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/certificates/csr":
            self.reply(404, {"detail": "Not Found"})
            return
        (DIRECTORY / "worker.csr").write_text(body["csr"])
        sign("worker.csr", "worker.crt")
        self.reply(
            200,
            {
                "status": "success",
                "certificate": (DIRECTORY / "worker.crt").read_text(),
                "ca_certificate": (DIRECTORY / "root.crt").read_text(),
                "provider": {"name": "DevelopmentCA"},
            },
        )

    def log_message(self, *_):
        pass


make()
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(DIRECTORY / "server.crt", DIRECTORY / "server.key")
server = http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
