"""What the Python tools do at the start of a worker: wait for the CA, make key and CSR here, have it signed, write three
files. As they do, it verifies nothing and shows no credential.

Arguments: URL of the CA, worker id, certificate directory.
"""

import json
import pathlib
import ssl
import subprocess
import sys
import urllib.error
import urllib.request


def call(path, body=None):
    context = ssl._create_unverified_context()
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    request = urllib.request.Request(sys.argv[1] + path, data=body, headers={"Content-Type": "application/json"})
    try:
        with opener.open(request, timeout=30) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        sys.exit(f"{error.code}: {json.load(error)['detail']}")


worker, directory = sys.argv[2], pathlib.Path(sys.argv[3])
directory.mkdir(parents=True, exist_ok=True)
assert call("/health")["status"] == "healthy"
subprocess.run(
    [
        *["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", directory / "client.key"],
        *["-out", directory / "client.csr", "-subj", f"/CN={worker}/O=Crank Platform/OU=Worker Services"],
        *["-addext", f"subjectAltName=DNS:{worker},DNS:localhost"],
    ],
    check=True,
    capture_output=True,
)
csr = (directory / "client.csr").read_text()
reply = call("/certificates/csr", json.dumps({"csr": csr, "service_name": worker}).encode())
assert reply["status"] == "success"
(directory / "client.csr").unlink()
(directory / "client.crt").write_text(reply["certificate"])
(directory / "ca.crt").write_text(reply["ca_certificate"])
