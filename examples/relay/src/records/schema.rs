//! The tables.

use katachi_store::database::Migration;

/// Released steps never change.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration::sql(
        "-- `password` is an Argon2id record; `tenant_key` wraps the key under which
    -- everything secret of this account is sealed.
    CREATE TABLE users (
        id          TEXT PRIMARY KEY,
        email       TEXT NOT NULL UNIQUE,
        password    TEXT NOT NULL,
        tenant_key  BLOB NOT NULL,
        created_at  INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- Only digests: whoever reads this table cannot take over a session.
    CREATE TABLE sessions (
        digest      BLOB PRIMARY KEY,
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        created_ms  INTEGER NOT NULL,
        seen_ms     INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX sessions_by_user ON sessions (user_id);

    CREATE TABLE agents (
        id          TEXT PRIMARY KEY,
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        host_name   TEXT NOT NULL,
        os          TEXT NOT NULL,
        version     TEXT NOT NULL,
        approved_at INTEGER NOT NULL,
        seen_at     INTEGER,
        state       TEXT NOT NULL DEFAULT 'idle'
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX agents_by_user ON agents (user_id);

    -- `sealed` is a KTC1 column envelope over 32 bytes. A key outlives its
    -- agent as revoked, so that its holder, and nobody else, can be told.
    CREATE TABLE agent_keys (
        id          TEXT PRIMARY KEY,
        agent_id    TEXT NOT NULL,
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        version     INTEGER NOT NULL,
        sealed      BLOB NOT NULL,
        revoked     INTEGER NOT NULL DEFAULT 0
    ) STRICT, WITHOUT ROWID;

    -- Device authorizations under way: digests of the codes, and the record
    -- as JSON.
    CREATE TABLE device_grants (
        device_code BLOB PRIMARY KEY,
        user_code   BLOB NOT NULL UNIQUE,
        expires_ms  INTEGER NOT NULL,
        record      TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE mcp_configs (
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        name        TEXT NOT NULL,
        command     TEXT NOT NULL,
        env         TEXT NOT NULL,
        released_to TEXT NOT NULL,
        version     INTEGER NOT NULL,
        updated_at  INTEGER NOT NULL,
        PRIMARY KEY (user_id, name)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE mcp_secrets (
        user_id     TEXT NOT NULL,
        config      TEXT NOT NULL,
        name        TEXT NOT NULL,
        version     INTEGER NOT NULL,
        sealed      BLOB NOT NULL,
        PRIMARY KEY (user_id, config, name),
        FOREIGN KEY (user_id, config) REFERENCES mcp_configs (user_id, name) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE audit (
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        sequence    INTEGER NOT NULL,
        at          INTEGER NOT NULL,
        agent_id    TEXT,
        action      TEXT NOT NULL,
        detail      TEXT NOT NULL,
        hash        BLOB NOT NULL,
        PRIMARY KEY (user_id, sequence)
    ) STRICT, WITHOUT ROWID;",
    ),
    // What an account is found by, and what is shown of it, differ where the
    // first is a tag.
    Migration::sql(
        "ALTER TABLE users ADD COLUMN address TEXT NOT NULL DEFAULT '';
         UPDATE users SET address = email;",
    ),
    Migration::sql(
        "-- When somebody showed that they read the address's mail. An account without a
    -- password has an empty one, which is no record.
    ALTER TABLE users ADD COLUMN verified_at INTEGER;

    -- Accounts elsewhere that open one here: `key` is issuer and subject.
    CREATE TABLE identities (
        key         TEXT PRIMARY KEY,
        id          TEXT NOT NULL UNIQUE,
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        issuer      TEXT NOT NULL,
        label       TEXT NOT NULL,
        linked_at   INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX identities_by_user ON identities (user_id);

    -- Sign-ins under way at a provider: digests, and the record as JSON.
    CREATE TABLE sign_ins (
        state       BLOB PRIMARY KEY,
        expires_ms  INTEGER NOT NULL,
        record      TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- Links in mail: digests alone, one for each account and purpose.
    CREATE TABLE mail_tokens (
        digest      BLOB PRIMARY KEY,
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        purpose     TEXT NOT NULL,
        address     TEXT NOT NULL,
        created_ms  INTEGER NOT NULL,
        expires_ms  INTEGER NOT NULL,
        UNIQUE (user_id, purpose)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE throttles (
        who         TEXT PRIMARY KEY,
        full_ms     INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX throttles_by_time ON throttles (full_ms);",
    ),
    Migration::sql(super::cloudflare::TABLE),
    Migration::sql(
        "-- How often the agent's vault was saved, as far as it said.
    ALTER TABLE agents ADD COLUMN vault_generation INTEGER NOT NULL DEFAULT 0;",
    ),
    Migration::sql(
        "-- When `tenant_key` was made: with the account, until it is rotated.
    ALTER TABLE users ADD COLUMN key_made_ms INTEGER NOT NULL DEFAULT 0;
    UPDATE users SET key_made_ms = created_at * 1000;
    CREATE INDEX users_by_key ON users (key_made_ms, id);
    CREATE INDEX agent_keys_by_user ON agent_keys (user_id);

    -- The rotation of all accounts' keys that has not come to its end.
    CREATE TABLE key_rotation (
        id          INTEGER PRIMARY KEY CHECK (id = 1),
        begun_ms    INTEGER NOT NULL,
        before_ms   INTEGER NOT NULL
    ) STRICT;",
    ),
    Migration::sql(QUARANTINE),
];

/// The same tables in PostgreSQL. Released steps never change.
pub(super) const POSTGRES: &[&str] = &[
    "-- One row: which relay has the database, and the key for what belongs to no
    -- account, which its vault wrapped.
    CREATE TABLE service (
        id          BOOLEAN PRIMARY KEY CHECK (id),
        generation  BIGINT NOT NULL,
        wrapped_key BYTEA NOT NULL,
        proof       BYTEA NOT NULL
    );

    -- `email` is a keyed tag of the address. `address` and `password`, an
    -- Argon2id record, are sealed, as is every BYTEA below that is neither a
    -- digest nor a wrapped key. `tenant_key` wraps the key under which
    -- everything secret of this account is sealed.
    CREATE TABLE users (
        id          TEXT PRIMARY KEY,
        email       BYTEA NOT NULL UNIQUE,
        address     BYTEA NOT NULL,
        password    BYTEA NOT NULL,
        tenant_key  BYTEA NOT NULL,
        created_at  BIGINT NOT NULL
    );

    -- Only digests: whoever reads this table cannot take over a session.
    CREATE TABLE sessions (
        digest      BYTEA PRIMARY KEY,
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        created_ms  BIGINT NOT NULL,
        seen_ms     BIGINT NOT NULL
    );
    CREATE INDEX sessions_by_user ON sessions (user_id);

    CREATE TABLE agents (
        id          TEXT PRIMARY KEY,
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        host_name   BYTEA NOT NULL,
        os          BYTEA NOT NULL,
        version     BYTEA NOT NULL,
        approved_at BIGINT NOT NULL,
        seen_at     BIGINT,
        state       TEXT NOT NULL DEFAULT 'idle'
    );
    CREATE INDEX agents_by_user ON agents (user_id);

    -- `sealed` is a KTC1 column envelope over 32 bytes. A key outlives its
    -- agent as revoked, so that its holder, and nobody else, can be told.
    CREATE TABLE agent_keys (
        id          TEXT PRIMARY KEY,
        agent_id    TEXT NOT NULL,
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        version     BIGINT NOT NULL,
        sealed      BYTEA NOT NULL,
        revoked     BOOLEAN NOT NULL
    );

    -- Device authorizations under way: digests of the codes, and the record.
    CREATE TABLE device_grants (
        device_code BYTEA PRIMARY KEY,
        user_code   BYTEA NOT NULL UNIQUE,
        expires_ms  BIGINT NOT NULL,
        record      BYTEA NOT NULL
    );

    CREATE TABLE mcp_configs (
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        name        TEXT NOT NULL,
        command     BYTEA NOT NULL,
        env         BYTEA NOT NULL,
        released_to BYTEA NOT NULL,
        version     BIGINT NOT NULL,
        updated_at  BIGINT NOT NULL,
        PRIMARY KEY (user_id, name)
    );

    CREATE TABLE mcp_secrets (
        user_id     TEXT NOT NULL,
        config      TEXT NOT NULL,
        name        TEXT NOT NULL,
        version     BIGINT NOT NULL,
        sealed      BYTEA NOT NULL,
        PRIMARY KEY (user_id, config, name),
        FOREIGN KEY (user_id, config) REFERENCES mcp_configs (user_id, name) ON DELETE CASCADE
    );

    CREATE TABLE audit (
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        sequence    BIGINT NOT NULL,
        at          BIGINT NOT NULL,
        agent_id    TEXT,
        action      TEXT NOT NULL,
        detail      TEXT NOT NULL,
        hash        BYTEA NOT NULL,
        PRIMARY KEY (user_id, sequence)
    );",
    "-- When somebody showed that they read the address's mail. An account without a
    -- password has an empty one, which is no record.
    ALTER TABLE users ADD COLUMN verified_at BIGINT;

    -- Accounts elsewhere that open one here: `key` is a keyed tag of issuer and
    -- subject, `label` is sealed.
    CREATE TABLE identities (
        key         BYTEA PRIMARY KEY,
        id          TEXT NOT NULL UNIQUE,
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        issuer      TEXT NOT NULL,
        label       BYTEA NOT NULL,
        linked_at   BIGINT NOT NULL
    );
    CREATE INDEX identities_by_user ON identities (user_id);

    -- Sign-ins under way at a provider: digests, and the sealed record.
    CREATE TABLE sign_ins (
        state       BYTEA PRIMARY KEY,
        expires_ms  BIGINT NOT NULL,
        record      BYTEA NOT NULL
    );

    -- Links in mail: digests alone, one for each account and purpose.
    CREATE TABLE mail_tokens (
        digest      BYTEA PRIMARY KEY,
        user_id     TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
        purpose     TEXT NOT NULL,
        address     BYTEA NOT NULL,
        created_ms  BIGINT NOT NULL,
        expires_ms  BIGINT NOT NULL,
        UNIQUE (user_id, purpose)
    );

    -- `who` is a keyed tag.
    CREATE TABLE throttles (
        who         BYTEA PRIMARY KEY,
        full_ms     BIGINT NOT NULL
    );
    CREATE INDEX throttles_by_time ON throttles (full_ms);",
    // Several relays that share the service; see `cluster`.
    "-- Which cluster has the database; none: a relay that is alone. `endings` counts
    -- up whenever sessions end.
    ALTER TABLE service ADD COLUMN cluster TEXT, ADD COLUMN endings BIGINT NOT NULL DEFAULT 0;

    -- `keyset` is a copy of the cluster's keys that this node alone can open. A node
    -- is there while `expires` lies ahead, by the clock of this server.
    CREATE TABLE nodes (
        name        TEXT PRIMARY KEY,
        public_key  BYTEA NOT NULL UNIQUE,
        keyset      BYTEA NOT NULL,
        address     TEXT NOT NULL DEFAULT '',
        incarnation BYTEA,
        expires     TIMESTAMPTZ NOT NULL DEFAULT '-infinity'
    ) WITH (fillfactor = 50);

    -- Which node has the tunnel of an agent. The highest generation is the newest.
    CREATE SEQUENCE tunnel_generations;
    CREATE TABLE tunnels (
        agent_id    TEXT PRIMARY KEY REFERENCES agents (id) ON DELETE CASCADE,
        node        TEXT NOT NULL REFERENCES nodes (name) ON DELETE CASCADE,
        generation  BIGINT NOT NULL
    );
    CREATE INDEX tunnels_by_node ON tunnels (node);

    -- Wrong guesses at user codes: `subject` is a keyed tag.
    CREATE TABLE guesses (
        subject     BYTEA PRIMARY KEY,
        wrong       BIGINT NOT NULL,
        since_ms    BIGINT NOT NULL
    );",
    super::cloudflare::POSTGRES_TABLE,
    "-- How often the agent's vault was saved, as far as it said.
    ALTER TABLE agents ADD COLUMN vault_generation BIGINT NOT NULL DEFAULT 0;",
    "-- When `tenant_key` was made: with the account, until it is rotated.
    ALTER TABLE users ADD COLUMN key_made_ms BIGINT NOT NULL DEFAULT 0;
    UPDATE users SET key_made_ms = created_at * 1000;
    CREATE INDEX users_by_key ON users (key_made_ms, id);
    CREATE INDEX agent_keys_by_user ON agent_keys (user_id);

    -- The rotation of all accounts' keys that has not come to its end.
    CREATE TABLE key_rotation (
        id          BIGINT PRIMARY KEY CHECK (id = 1),
        begun_ms    BIGINT NOT NULL,
        before_ms   BIGINT NOT NULL
    );

    -- `key_id` is the key that a row names, out of the header of what is sealed in it.
    -- No row names another one than its account has: whoever writes under a key that
    -- was rotated away is refused, were it a relay of an older version. NOT VALID: a row that
    -- was damaged before is found when its account is rotated, and keeps nobody from
    -- starting.
    ALTER TABLE users
        ADD COLUMN key_id BYTEA GENERATED ALWAYS AS (substring(address FROM 9 FOR 8)) STORED,
        ADD CONSTRAINT users_one_key
            CHECK (substring(password FROM 9 FOR 8) = substring(address FROM 9 FOR 8)) NOT VALID,
        ADD CONSTRAINT users_key UNIQUE (id, key_id);
    ALTER TABLE agents
        ADD COLUMN key_id BYTEA GENERATED ALWAYS AS (substring(host_name FROM 9 FOR 8)) STORED,
        ADD CONSTRAINT agents_one_key
            CHECK (substring(os FROM 9 FOR 8) = substring(host_name FROM 9 FOR 8)
                AND substring(version FROM 9 FOR 8) = substring(host_name FROM 9 FOR 8)) NOT VALID,
        ADD CONSTRAINT agents_account_key FOREIGN KEY (user_id, key_id)
            REFERENCES users (id, key_id) ON DELETE CASCADE DEFERRABLE NOT VALID;
    ALTER TABLE agent_keys
        ADD COLUMN key_id BYTEA GENERATED ALWAYS AS (substring(sealed FROM 9 FOR 8)) STORED,
        ADD CONSTRAINT agent_keys_account_key FOREIGN KEY (user_id, key_id)
            REFERENCES users (id, key_id) ON DELETE CASCADE DEFERRABLE NOT VALID;
    ALTER TABLE mcp_configs
        ADD COLUMN key_id BYTEA GENERATED ALWAYS AS (substring(command FROM 9 FOR 8)) STORED,
        ADD CONSTRAINT mcp_configs_one_key
            CHECK (substring(env FROM 9 FOR 8) = substring(command FROM 9 FOR 8)
                AND substring(released_to FROM 9 FOR 8) = substring(command FROM 9 FOR 8)) NOT VALID,
        ADD CONSTRAINT mcp_configs_account_key FOREIGN KEY (user_id, key_id)
            REFERENCES users (id, key_id) ON DELETE CASCADE DEFERRABLE NOT VALID;
    ALTER TABLE mcp_secrets
        ADD COLUMN key_id BYTEA GENERATED ALWAYS AS (substring(sealed FROM 9 FOR 8)) STORED,
        ADD CONSTRAINT mcp_secrets_account_key FOREIGN KEY (user_id, key_id)
            REFERENCES users (id, key_id) ON DELETE CASCADE DEFERRABLE NOT VALID;
    ALTER TABLE identities
        ADD COLUMN key_id BYTEA GENERATED ALWAYS AS (substring(label FROM 9 FOR 8)) STORED,
        ADD CONSTRAINT identities_account_key FOREIGN KEY (user_id, key_id)
            REFERENCES users (id, key_id) ON DELETE CASCADE DEFERRABLE NOT VALID;
    ALTER TABLE mail_tokens
        ADD COLUMN key_id BYTEA GENERATED ALWAYS AS (substring(address FROM 9 FOR 8)) STORED,
        ADD CONSTRAINT mail_tokens_account_key FOREIGN KEY (user_id, key_id)
            REFERENCES users (id, key_id) ON DELETE CASCADE DEFERRABLE NOT VALID;",
    QUARANTINE_POSTGRES,
];

/// When an agent's key was found in two places, until its owner lets it in again.
const QUARANTINE: &str = "ALTER TABLE agents ADD COLUMN quarantined_at INTEGER;";
const QUARANTINE_POSTGRES: &str = "ALTER TABLE agents ADD COLUMN quarantined_at BIGINT;";
