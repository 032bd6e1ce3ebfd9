-- Machines known to provisioning, by hardware address, and the nonces of their
-- boots. Times are 0 for never.
CREATE TABLE provision_nodes (
    name        TEXT   NOT NULL PRIMARY KEY,
    hwaddr      TEXT   NOT NULL UNIQUE,
    grp         TEXT   NOT NULL,
    vnfs        TEXT   NOT NULL,
    enabled     BIGINT NOT NULL,
    debug       BIGINT NOT NULL,
    boot        TEXT   NOT NULL,
    description TEXT   NOT NULL,
    created_ms  BIGINT NOT NULL,
    source      TEXT   NOT NULL,
    approved_ms BIGINT NOT NULL,
    approved_by TEXT   NOT NULL,
    address     TEXT   NOT NULL,
    state       TEXT   NOT NULL,
    contact_ms  BIGINT NOT NULL,
    script      BYTEA  NOT NULL,
    failure     TEXT   NOT NULL,
    claim       TEXT   NOT NULL,
    claim_ms    BIGINT NOT NULL,
    ended_state TEXT   NOT NULL,
    ended_ms    BIGINT NOT NULL,
    ended_exit  BIGINT NOT NULL,
    ended_took  BIGINT NOT NULL,
    ended_detail TEXT  NOT NULL
);
CREATE INDEX provision_nodes_held ON provision_nodes (approved_ms, source);

CREATE TABLE provision_nonces (
    node       TEXT   NOT NULL PRIMARY KEY,
    hash       BYTEA  NOT NULL UNIQUE,
    source     TEXT   NOT NULL,
    created_ms BIGINT NOT NULL,
    expires_ms BIGINT NOT NULL,
    claimed_ms BIGINT NOT NULL,
    token      TEXT   NOT NULL,
    used_ms    BIGINT NOT NULL
);
