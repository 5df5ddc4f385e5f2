//! The tables of the memory.

use crate::database::Migration;

/// Released steps never change.
pub(super) const STEPS: &[Migration] = &[Migration::sql(
    "
    CREATE TABLE memory_entry (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace TEXT NOT NULL,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        -- For the search alone; memory_tag is what counts.
        tags TEXT NOT NULL,
        bytes INTEGER NOT NULL,
        created_ms INTEGER NOT NULL,
        updated_ms INTEGER NOT NULL,
        UNIQUE (namespace, key)
    ) STRICT;
    -- Answers how full a namespace is without reading its entries.
    CREATE INDEX memory_entry_size ON memory_entry (namespace, bytes);

    CREATE TABLE memory_tag (
        tag TEXT NOT NULL,
        entry_id INTEGER NOT NULL REFERENCES memory_entry ON DELETE CASCADE,
        PRIMARY KEY (tag, entry_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX memory_tag_of_entry ON memory_tag (entry_id);

    CREATE VIRTUAL TABLE memory_fts USING fts5 (
        key, value, tags, content = 'memory_entry', content_rowid = 'id',
        tokenize = 'unicode61 remove_diacritics 2'
    );
    INSERT INTO memory_fts (memory_fts, rank) VALUES ('secure-delete', 1);

    CREATE TRIGGER memory_entry_added AFTER INSERT ON memory_entry BEGIN
        INSERT INTO memory_fts (rowid, key, value, tags)
        VALUES (new.id, new.key, new.value, new.tags);
    END;
    CREATE TRIGGER memory_entry_changed AFTER UPDATE ON memory_entry BEGIN
        INSERT INTO memory_fts (memory_fts, rowid, key, value, tags)
        VALUES ('delete', old.id, old.key, old.value, old.tags);
        INSERT INTO memory_fts (rowid, key, value, tags)
        VALUES (new.id, new.key, new.value, new.tags);
    END;
    CREATE TRIGGER memory_entry_removed AFTER DELETE ON memory_entry BEGIN
        INSERT INTO memory_fts (memory_fts, rowid, key, value, tags)
        VALUES ('delete', old.id, old.key, old.value, old.tags);
    END;
    ",
)];
