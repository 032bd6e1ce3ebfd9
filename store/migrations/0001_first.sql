CREATE TABLE meta (
    name  TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);

-- The audit log: leaves with their hashes, the nodes of level 8 and above, and
-- what was signed over them.
CREATE TABLE records (
    idx  BIGINT NOT NULL PRIMARY KEY,
    hash BYTEA  NOT NULL,
    leaf BYTEA  NOT NULL
);
CREATE TABLE nodes (
    level  BIGINT NOT NULL,
    number BIGINT NOT NULL,
    hash   BYTEA  NOT NULL,
    PRIMARY KEY (level, number)
);
CREATE TABLE checkpoints (
    size  BIGINT NOT NULL PRIMARY KEY,
    epoch BIGINT NOT NULL,
    note  BYTEA  NOT NULL
);
CREATE TABLE recoveries (
    epoch     BIGINT NOT NULL PRIMARY KEY,
    restored  BIGINT NOT NULL,
    abandoned BIGINT NOT NULL,
    statement BYTEA  NOT NULL
);

CREATE TABLE jobs (
    num           BIGINT NOT NULL PRIMARY KEY,
    id            BYTEA  NOT NULL UNIQUE,
    record        BIGINT NOT NULL,
    operator      TEXT   NOT NULL,
    method        TEXT   NOT NULL,
    order_bytes   BYTEA  NOT NULL,
    signature     BYTEA  NOT NULL,
    operator_cert BYTEA  NOT NULL,
    args          BYTEA,
    salt          BYTEA,
    target        TEXT   NOT NULL,
    names         TEXT   NOT NULL,
    unknown_names TEXT   NOT NULL,
    created_ms    BIGINT NOT NULL,
    expires_ms    BIGINT NOT NULL,
    closed_ms     BIGINT NOT NULL,
    targeted      BIGINT NOT NULL,
    answered      BIGINT NOT NULL,
    failed        BIGINT NOT NULL,
    unreachable   BIGINT NOT NULL,
    skipped       BIGINT NOT NULL,
    reason        TEXT   NOT NULL,
    output_bytes  BIGINT NOT NULL,
    dropped       BIGINT NOT NULL
);
CREATE INDEX jobs_closed ON jobs (closed_ms);

-- id is the job's number times 1048576 plus the group's number.
CREATE TABLE results (
    id      BIGINT NOT NULL PRIMARY KEY,
    record  BIGINT NOT NULL,
    machines BIGINT NOT NULL,
    status  BIGINT NOT NULL,
    code    BIGINT NOT NULL,
    cut     BIGINT NOT NULL,
    dropped BIGINT NOT NULL,
    sum     BYTEA  NOT NULL,
    names   TEXT   NOT NULL,
    detail  TEXT   NOT NULL,
    took    BYTEA  NOT NULL,
    output  BYTEA
);

CREATE TABLE minions (
    name          TEXT   NOT NULL PRIMARY KEY,
    fingerprint   TEXT   NOT NULL,
    first_seen_ms BIGINT NOT NULL,
    last_seen_ms  BIGINT NOT NULL,
    agent_version TEXT   NOT NULL,
    address       TEXT   NOT NULL,
    dial_address  TEXT   NOT NULL,
    facts_ms      BIGINT NOT NULL,
    facts_digest  BYTEA  NOT NULL,
    facts         BYTEA
);

CREATE TABLE certs (
    serial        TEXT   NOT NULL PRIMARY KEY,
    role          TEXT   NOT NULL,
    name          TEXT   NOT NULL,
    fingerprint   TEXT   NOT NULL,
    der           BYTEA  NOT NULL,
    not_before_ms BIGINT NOT NULL,
    not_after_ms  BIGINT NOT NULL,
    granted_by    TEXT   NOT NULL,
    granted_ms    BIGINT NOT NULL,
    revoked_ms    BIGINT NOT NULL,
    reason        TEXT   NOT NULL
);
CREATE INDEX certs_name ON certs (role, name);

CREATE TABLE pending (
    role        TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    fingerprint TEXT   NOT NULL,
    csr         BYTEA  NOT NULL,
    source      TEXT   NOT NULL,
    first_ms    BIGINT NOT NULL,
    last_ms     BIGINT NOT NULL,
    conflict    TEXT   NOT NULL,
    rejected    BIGINT NOT NULL,
    PRIMARY KEY (role, name, fingerprint)
);

CREATE TABLE tokens (
    id         TEXT   NOT NULL PRIMARY KEY,
    hash       BYTEA  NOT NULL,
    pattern    TEXT   NOT NULL,
    role       TEXT   NOT NULL,
    uses       BIGINT NOT NULL,
    used       BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    replaces   BIGINT NOT NULL,
    networks   TEXT   NOT NULL,
    created_by TEXT   NOT NULL,
    created_ms BIGINT NOT NULL
);
CREATE TABLE token_uses (
    token       TEXT   NOT NULL,
    name        TEXT   NOT NULL,
    fingerprint TEXT   NOT NULL,
    serial      TEXT   NOT NULL,
    used_ms     BIGINT NOT NULL,
    PRIMARY KEY (token, name, fingerprint)
);

CREATE TABLE machine_groups (
    name    TEXT NOT NULL PRIMARY KEY,
    members TEXT NOT NULL
);

CREATE TABLE revocations (
    number    BIGINT NOT NULL PRIMARY KEY,
    signed    BYTEA  NOT NULL,
    issued_ms BIGINT NOT NULL
);
