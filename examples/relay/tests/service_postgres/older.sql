-- Makes of the schema the one before accounts' keys had an age, whose last step was 5.
SET search_path = katachi_relay;
ALTER TABLE agents DROP CONSTRAINT agents_one_key, DROP COLUMN key_id;
ALTER TABLE agent_keys DROP COLUMN key_id;
ALTER TABLE mcp_configs DROP CONSTRAINT mcp_configs_one_key, DROP COLUMN key_id;
ALTER TABLE mcp_secrets DROP COLUMN key_id;
ALTER TABLE identities DROP COLUMN key_id;
ALTER TABLE mail_tokens DROP COLUMN key_id;
ALTER TABLE users DROP CONSTRAINT users_one_key, DROP COLUMN key_id, DROP COLUMN key_made_ms;
DROP INDEX agent_keys_by_user;
DROP TABLE key_rotation;
ALTER TABLE agents DROP COLUMN quarantined_at;
DELETE FROM migrations WHERE step >= 5;
