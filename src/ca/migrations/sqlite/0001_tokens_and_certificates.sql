-- Times are seconds since 1970 (UTC). Names are JSON arrays of subject alternative names.

-- A row is written before its certificate is signed, so that no certificate exists without a record.
CREATE TABLE certificates (
    serial TEXT PRIMARY KEY NOT NULL,
    purpose TEXT NOT NULL CHECK (purpose IN ('worker', 'server')),
    status TEXT NOT NULL CHECK (status IN ('reserved', 'issued')),
    worker_id TEXT,
    names TEXT NOT NULL,
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    -- SHA-256 of the SubjectPublicKeyInfo.
    key_digest BLOB NOT NULL CHECK (length(key_digest) = 32),
    -- SHA-256 of the issuing certificate.
    issuer_digest BLOB NOT NULL CHECK (length(issuer_digest) = 32),
    der BLOB,
    -- How the request was authenticated, and by which token id or certificate serial.
    authentication TEXT NOT NULL,
    credential TEXT NOT NULL,
    decision_id TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    reserved_at INTEGER NOT NULL,
    issued_at INTEGER,
    CHECK ((purpose = 'worker') = (worker_id IS NOT NULL)),
    CHECK ((status = 'issued') = (der IS NOT NULL AND issued_at IS NOT NULL))
) STRICT;

CREATE INDEX certificates_by_key ON certificates (key_digest);
CREATE INDEX certificates_by_worker ON certificates (worker_id, not_after);

CREATE TABLE tokens (
    id TEXT PRIMARY KEY NOT NULL,
    -- SHA-256 of the token. The token itself is nowhere.
    token_digest BLOB NOT NULL UNIQUE CHECK (length(token_digest) = 32),
    worker_id TEXT NOT NULL,
    -- Names permitted beside the worker's own.
    names TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at INTEGER,
    used_serial TEXT REFERENCES certificates (serial),
    revoked_at INTEGER,
    CHECK ((used_at IS NULL) = (used_serial IS NULL))
) STRICT;
