-- Versions of the cluster data that candidates serve, and the key that their
-- answers are signed with.
CREATE TABLE cluster_versions (
    serial  BIGINT NOT NULL PRIMARY KEY,
    record  BIGINT NOT NULL,
    made_ms BIGINT NOT NULL,
    header  BYTEA  NOT NULL,
    data    BYTEA  NOT NULL
);
CREATE TABLE cluster_key (
    id      BIGINT NOT NULL PRIMARY KEY,
    made_ms BIGINT NOT NULL,
    key     BYTEA  NOT NULL
);
