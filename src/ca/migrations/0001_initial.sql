-- One schema for both databases: on PostgreSQL the types INTEGER and BLOB are BIGINT and BYTEA.
-- Times are seconds since 1970 (UTC). Names are JSON arrays of subject alternative names. Serials are as 4a:3b:2c:1d.

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
    -- The client's address; empty for a caller in the CA's process.
    source TEXT NOT NULL,
    decision_id TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    reserved_at INTEGER NOT NULL,
    issued_at INTEGER,
    CHECK ((purpose = 'worker') = (worker_id IS NOT NULL)),
    CHECK ((status = 'issued') = (der IS NOT NULL AND issued_at IS NOT NULL))
);

CREATE INDEX certificates_by_key ON certificates (key_digest);
CREATE INDEX certificates_by_worker ON certificates (worker_id, not_after);
CREATE INDEX certificates_by_end ON certificates (not_after);
CREATE INDEX certificates_by_time ON certificates (reserved_at);

-- The names that do not follow from the worker id, as DNS:…, IP:… or URI:…: by them a certificate is found exactly. Every
-- worker has its own id, localhost and its SPIFFE id, and is found by the first.
CREATE TABLE certificate_names (
    name TEXT NOT NULL,
    serial TEXT NOT NULL,
    PRIMARY KEY (name, serial)
);

CREATE INDEX certificate_names_by_serial ON certificate_names (serial);

-- Whose a public key is: that of the first who had it certified, as long as a certificate for it is recorded. Empty for the
-- CA itself; `!`, which is nobody's name, for ever once a certificate for it has been revoked.
CREATE TABLE keys (
    key_digest BLOB PRIMARY KEY NOT NULL CHECK (length(key_digest) = 32),
    owner TEXT NOT NULL
);

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
    used_serial TEXT,
    revoked_at INTEGER,
    CHECK ((used_at IS NULL) = (used_serial IS NULL))
);

CREATE INDEX tokens_by_creation ON tokens (created_at);
CREATE INDEX tokens_by_end ON tokens (expires_at);

-- The workers that have had a certificate, with their newest.
CREATE TABLE identities (
    worker_id TEXT PRIMARY KEY NOT NULL,
    first_issued_at INTEGER NOT NULL,
    last_issued_at INTEGER NOT NULL,
    last_serial TEXT NOT NULL,
    last_not_after INTEGER NOT NULL,
    certificates INTEGER NOT NULL
);

-- What the policy hooks decided, denials too; an allowed one beside its certificate.
CREATE TABLE decisions (
    id TEXT PRIMARY KEY NOT NULL,
    hook TEXT NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('allow', 'deny')),
    reason TEXT NOT NULL,
    -- What it rests on, as the engine says; none for the default rules.
    basis TEXT,
    worker_id TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    decided_at INTEGER NOT NULL
);

CREATE INDEX decisions_by_time ON decisions (decided_at);
CREATE INDEX decisions_denied ON decisions (decided_at) WHERE outcome = 'deny';

-- Counts the changes of what is below: revocations, CRLs, orders to renew. Whoever makes one counts first, which locks the
-- row: so changes become visible in the order of their numbers, whichever process makes them.
CREATE TABLE changes (
    id INTEGER PRIMARY KEY NOT NULL CHECK (id = 1),
    revision INTEGER NOT NULL
);

INSERT INTO changes (id, revision) VALUES (1, 0);

CREATE TABLE revocations (
    serial TEXT PRIMARY KEY NOT NULL,
    issuer_digest BLOB NOT NULL CHECK (length(issuer_digest) = 32),
    -- The reason code of RFC 5280, section 5.3.1.
    reason INTEGER NOT NULL,
    -- Who asked: worker:ID, admin:NAME or operator.
    actor TEXT NOT NULL,
    decision_id TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    not_after INTEGER NOT NULL,
    revoked_at INTEGER NOT NULL,
    revision INTEGER NOT NULL
);

CREATE INDEX revocations_by_issuer ON revocations (issuer_digest, not_after);
CREATE INDEX revocations_by_revision ON revocations (revision);

-- Every CRL that was signed and has not been forgotten. Numbers only grow, for each issuer. A row is written before its
-- CRL is signed, so that no number is on two.
CREATE TABLE crls (
    issuer_digest BLOB NOT NULL CHECK (length(issuer_digest) = 32),
    number INTEGER NOT NULL,
    -- It has every revocation up to this one.
    revision INTEGER NOT NULL,
    this_update INTEGER NOT NULL,
    next_update INTEGER NOT NULL,
    der BLOB,
    PRIMARY KEY (issuer_digest, number)
);

-- Orders to renew early: certificates that match and were issued before renew within the window.
CREATE TABLE renewal_orders (
    id TEXT PRIMARY KEY NOT NULL,
    -- JSON, as src/ca/renewal_info/selector.rs has it.
    selector TEXT NOT NULL,
    explanation TEXT NOT NULL,
    actor TEXT NOT NULL,
    window_start INTEGER NOT NULL,
    window_end INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    -- When the last certificate that it is for ends.
    expires_at INTEGER NOT NULL,
    cancelled_at INTEGER
);

CREATE INDEX renewal_orders_by_creation ON renewal_orders (created_at);
