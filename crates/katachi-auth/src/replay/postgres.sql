-- The replay store. All tables are UNLOGGED: they are empty after a crash, on a
-- promoted replica and in a restored backup, that is exactly where a logged table
-- might lack its last entries. An empty `state` begins a new epoch.
CREATE SCHEMA IF NOT EXISTS katachi_replay;

CREATE UNLOGGED TABLE IF NOT EXISTS katachi_replay.state (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch bytea NOT NULL,
    life text NOT NULL,     -- of the server process that the epoch began in
    width bigint NOT NULL,  -- seconds of a bucket
    floor bigint NOT NULL,  -- nothing created before this is fresh; never falls
    head bigint NOT NULL    -- the newest bucket that has a place
);

CREATE TABLE IF NOT EXISTS katachi_replay.entry (
    place int NOT NULL, nonce bytea NOT NULL, PRIMARY KEY (place, nonce)
) PARTITION BY LIST (place);
CREATE TABLE IF NOT EXISTS katachi_replay.client (
    place int NOT NULL, client bytea NOT NULL, entries int NOT NULL, PRIMARY KEY (place, client)
) PARTITION BY LIST (place);
DO $$ BEGIN FOR place IN 0..7 LOOP
    EXECUTE format('CREATE UNLOGGED TABLE IF NOT EXISTS katachi_replay.entry_%s PARTITION OF katachi_replay.entry FOR VALUES IN (%s)', place, place);
    EXECUTE format('CREATE UNLOGGED TABLE IF NOT EXISTS katachi_replay.client_%s PARTITION OF katachi_replay.client FOR VALUES IN (%s)', place, place);
END LOOP; END $$;

-- Differs after every start of the server and every promotion. Fails on a replica.
CREATE OR REPLACE FUNCTION katachi_replay.life() RETURNS text
LANGUAGE sql VOLATILE SET search_path = pg_catalog AS $$
    SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || ':' || extract(epoch FROM pg_postmaster_start_time())
$$;

CREATE OR REPLACE FUNCTION katachi_replay.seconds() RETURNS bigint
LANGUAGE sql VOLATILE SET search_path = pg_catalog AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()))::bigint
$$;

-- Spending holds the lock together with others, everything that changes `state` or
-- empties a place holds it alone. Each statement in here sees what was committed
-- before it began, so what is read after the lock is true until the end.
CREATE OR REPLACE FUNCTION katachi_replay.spend(
    of_epoch bytea, of_nonce bytea, of_client bytea, created bigint,
    of_width bigint, most_bytes bigint, most_of_client int
) RETURNS text LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog AS $$
DECLARE
    seen katachi_replay.state;
    now bigint;
    home int;
BEGIN
    PERFORM pg_advisory_xact_lock_shared(7310877420);
    SELECT * INTO seen FROM katachi_replay.state;
    IF NOT FOUND OR seen.life <> katachi_replay.life() THEN RETURN 'epoch'; END IF;
    IF seen.width <> of_width THEN RETURN 'window'; END IF;
    IF seen.epoch <> of_epoch THEN RETURN 'stale'; END IF;
    now := katachi_replay.seconds();
    IF now < seen.floor THEN RETURN 'epoch'; END IF;
    IF created < greatest(seen.floor, now - 2 * of_width) OR created > now + 2 * of_width THEN
        RETURN 'replayed';
    END IF;
    IF created / of_width > seen.head THEN RETURN 'room'; END IF;
    home := (created / of_width) % 8;
    IF EXISTS (SELECT FROM katachi_replay.entry WHERE nonce = of_nonce) THEN RETURN 'replayed'; END IF;
    IF pg_relation_size(format('katachi_replay.entry_%s', home)::regclass) >= most_bytes THEN
        RETURN 'full';
    END IF;
    INSERT INTO katachi_replay.entry VALUES (home, of_nonce) ON CONFLICT DO NOTHING;
    IF NOT FOUND THEN RETURN 'replayed'; END IF;
    INSERT INTO katachi_replay.client AS c VALUES (home, of_client, 1)
    ON CONFLICT (place, client) DO UPDATE SET entries = c.entries + 1 WHERE c.entries < most_of_client;
    IF NOT FOUND THEN
        DELETE FROM katachi_replay.entry WHERE place = home AND nonce = of_nonce;
        RETURN 'full';
    END IF;
    RETURN 'fresh';
END $$;

-- Empties the places that the next buckets need.
CREATE OR REPLACE FUNCTION katachi_replay.make_room() RETURNS void
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog AS $$
DECLARE
    seen katachi_replay.state;
    wanted bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7310877420);
    SELECT * INTO seen FROM katachi_replay.state;
    IF NOT FOUND THEN RETURN; END IF;
    wanted := katachi_replay.seconds() / seen.width + 3;
    IF wanted <= seen.head THEN RETURN; END IF;
    FOR bucket IN greatest(seen.head + 1, wanted - 7) .. wanted LOOP
        EXECUTE format('TRUNCATE katachi_replay.entry_%s, katachi_replay.client_%s', bucket % 8, bucket % 8);
    END LOOP;
    UPDATE katachi_replay.state SET head = wanted, floor = greatest(seen.floor, (wanted - 7) * seen.width);
END $$;

-- The epoch, or a new one if there is none, if something may have been forgotten, if
-- the clock stepped back below the floor, or if the epoch is the one to `replace`.
CREATE OR REPLACE FUNCTION katachi_replay.epoch(fresh bytea, replace bytea, of_width bigint) RETURNS bytea
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog AS $$
DECLARE
    seen katachi_replay.state;
    now bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7310877420);
    now := katachi_replay.seconds();
    SELECT * INTO seen FROM katachi_replay.state;
    IF FOUND AND seen.life = katachi_replay.life() AND now >= seen.floor
        AND seen.epoch IS DISTINCT FROM replace THEN
        RETURN seen.epoch;
    END IF;
    TRUNCATE katachi_replay.entry, katachi_replay.client, katachi_replay.state;
    INSERT INTO katachi_replay.state (epoch, life, width, floor, head)
    VALUES (fresh, katachi_replay.life(), of_width, (now / of_width - 4) * of_width, now / of_width + 3);
    RETURN fresh;
END $$;

-- The epoch alone, without waiting for anybody; null if there is none in force.
CREATE OR REPLACE FUNCTION katachi_replay.current_epoch() RETURNS bytea
LANGUAGE sql VOLATILE SET search_path = pg_catalog AS $$
    SELECT epoch FROM katachi_replay.state
    WHERE life = katachi_replay.life() AND katachi_replay.seconds() >= floor
$$;
