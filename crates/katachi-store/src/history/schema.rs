//! The tables of the history.

use crate::database::Migration;

/// Released steps never change.
pub(super) const STEPS: &[Migration] = &[Migration::sql(
    "
    CREATE TABLE history_workspace (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        name TEXT NOT NULL UNIQUE,
        created_ms INTEGER NOT NULL
    ) STRICT;

    CREATE TABLE history_session (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        workspace_id INTEGER NOT NULL REFERENCES history_workspace ON DELETE CASCADE,
        title TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        updated_ms INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX history_session_of_workspace ON history_session (workspace_id, updated_ms);
    CREATE INDEX history_session_recent ON history_session (updated_ms);

    -- The text of a streaming message lies in history_chunk until it is closed.
    CREATE TABLE history_message (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        session_id INTEGER NOT NULL REFERENCES history_session ON DELETE CASCADE,
        role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant', 'tool')),
        state TEXT NOT NULL CHECK (state IN ('streaming', 'complete', 'interrupted')),
        text TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        touched_ms INTEGER NOT NULL,
        input_tokens INTEGER,
        output_tokens INTEGER
    ) STRICT;
    CREATE INDEX history_message_of_session ON history_message (session_id, id);
    CREATE INDEX history_message_streaming ON history_message (touched_ms) WHERE state = 'streaming';

    CREATE TABLE history_chunk (
        message_id INTEGER NOT NULL REFERENCES history_message ON DELETE CASCADE,
        number INTEGER NOT NULL,
        text TEXT NOT NULL,
        PRIMARY KEY (message_id, number)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE history_tool_call (
        message_id INTEGER NOT NULL REFERENCES history_message ON DELETE CASCADE,
        number INTEGER NOT NULL,
        call_id TEXT NOT NULL,
        name TEXT NOT NULL,
        arguments TEXT NOT NULL,
        result TEXT,
        PRIMARY KEY (message_id, number)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE history_attachment (
        id INTEGER PRIMARY KEY,
        message_id INTEGER NOT NULL REFERENCES history_message ON DELETE CASCADE,
        name TEXT NOT NULL,
        media_type TEXT NOT NULL,
        content BLOB NOT NULL
    ) STRICT;
    CREATE INDEX history_attachment_of_message ON history_attachment (message_id);

    -- Keeps no second copy of the text.
    CREATE VIRTUAL TABLE history_fts USING fts5 (
        text, content = 'history_message', content_rowid = 'id',
        tokenize = 'unicode61 remove_diacritics 2'
    );
    -- Entries of deleted messages are removed at once rather than outweighed.
    INSERT INTO history_fts (history_fts, rank) VALUES ('secure-delete', 1);

    CREATE TRIGGER history_message_added AFTER INSERT ON history_message
    WHEN new.state <> 'streaming' BEGIN
        INSERT INTO history_fts (rowid, text) VALUES (new.id, new.text);
    END;
    CREATE TRIGGER history_message_closed AFTER UPDATE OF state ON history_message
    WHEN old.state = 'streaming' AND new.state <> 'streaming' BEGIN
        INSERT INTO history_fts (rowid, text) VALUES (new.id, new.text);
    END;
    CREATE TRIGGER history_message_deleted AFTER DELETE ON history_message
    WHEN old.state <> 'streaming' BEGIN
        INSERT INTO history_fts (history_fts, rowid, text) VALUES ('delete', old.id, old.text);
    END;
    ",
)];
