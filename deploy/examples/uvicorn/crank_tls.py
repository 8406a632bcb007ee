"""TLS for uvicorn by the files of crank-agent: each handshake takes what is published by then, without a reload."""

import logging
import os
import ssl
import time

log = logging.getLogger("uvicorn.error")


def read(directory):
    """A context of one generation: certificate, key, roots and CRLs that belong together."""
    generation = os.open(os.path.join(directory, "..data"), os.O_RDONLY | os.O_DIRECTORY)
    try:
        here = f"/proc/self/fd/{generation}"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_mode = ssl.CERT_REQUIRED
        # A resumed session would outlive the certificate.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.load_verify_locations(f"{here}/ca.crt")
        if os.path.exists(f"{here}/ca.crl"):
            context.load_verify_locations(f"{here}/ca.crl")
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        context.load_cert_chain(f"{here}/client.crt", f"{here}/client.key")
        return context
    finally:
        os.close(generation)


def follow(directory):
    """A context for a server, which has each handshake go by the newest generation."""
    link = os.path.join(directory, "..data")
    outer = read(directory)
    current, known, again_at = outer, None, 0.0

    def choose(connection, _server_name, _context):
        nonlocal current, known, again_at
        try:
            now = os.readlink(link)
            if now != known and time.monotonic() >= again_at:
                current, known = read(directory), now
                # The flags of a connection are those of the context that it began with.
                outer.verify_flags = current.verify_flags
        except OSError as error:
            # What was in use stays in use. An ssl.SSLError is one of these, too.
            again_at = time.monotonic() + 1
            log.error("cannot read the certificate: %s", error)
        connection.context = current

    # Called with each ClientHello, whether it names a server or not.
    outer.sni_callback = choose
    return outer


def context_factory(config, _default):
    """For `uvicorn.run(…, ssl_context_factory=context_factory)`."""
    return follow(os.environ.get("CERT_DIR", "/etc/certs"))
