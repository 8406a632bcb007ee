"""Calls a server over mTLS every two seconds, each time with the certificate that is published by then.

usage: client.py [--once] URL
"""

import http.client
import json
import os
import ssl
import sys
import time
import urllib.parse

CERTIFICATES = "/etc/certs"


def identity():
    """One generation of the agent's files: key, chain, roots and CRL that belong together."""
    generation = os.open(f"{CERTIFICATES}/..data", os.O_RDONLY | os.O_DIRECTORY)
    try:
        here = f"/proc/self/fd/{generation}"
        context = ssl.create_default_context(cafile=f"{here}/ca.crt")
        if os.path.exists(f"{here}/ca.crl"):
            context.load_verify_locations(f"{here}/ca.crl")
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        context.load_cert_chain(f"{here}/client.crt", f"{here}/client.key")
    finally:
        os.close(generation)
    return context


def call(url):
    """The server's answer, and the serial number of the certificate that it showed."""
    parts = urllib.parse.urlsplit(url)
    connection = http.client.HTTPSConnection(parts.hostname, parts.port, context=identity(), timeout=5)
    try:
        connection.request("GET", parts.path or "/")
        serial = connection.sock.getpeercert()["serialNumber"]
        response = connection.getresponse()
        return {"status": response.status, "answer": response.read(1000).decode().strip(), "server_serial": serial.lower()}
    finally:
        connection.close()


def main():
    once = "--once" in sys.argv
    url = sys.argv[-1]
    while True:
        try:
            result = call(url)
        except (OSError, http.client.HTTPException) as error:
            result = {"status": None, "error": str(error)}
        print(json.dumps(result))
        if once:
            sys.exit(0 if result["status"] == 200 else 1)
        time.sleep(2)


if __name__ == "__main__":
    main()
