-- KEYS: state, eight sets of nonces, eight hashes of counts.
-- ARGV[1]: what to do; see the ends of the branches below.

-- Differs after every start and every promotion. Nil where nothing may be written.
local function life()
  local replication = redis.call('INFO', 'replication')
  if not string.find(replication, 'role:master', 1, true) then return nil end
  return string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
    .. ':' .. string.match(replication, 'master_replid:(%w+)')
end

-- A policy that evicts keys without a time to live would evict nonces.
local function evicts()
  local policy = string.match(redis.call('INFO', 'memory'), 'maxmemory_policy:([%w-]+)') or ''
  return policy ~= 'noeviction' and string.sub(policy, 1, 9) ~= 'volatile-'
end

local now = tonumber(redis.call('TIME')[1])
local here = life()
if not here then return redis.error_reply('READONLY this is a replica') end
local state = redis.call('HMGET', KEYS[1], 'epoch', 'life', 'width', 'floor', 'head')
local epoch, width, floor, head = state[1], tonumber(state[3]), tonumber(state[4]), tonumber(state[5])
local sound = epoch and state[2] == here and now >= floor

if ARGV[1] == 'epoch' then -- fresh, the one to replace or nothing, width
  if evicts() then return redis.error_reply('POLICY maxmemory-policy evicts keys; use noeviction') end
  if sound and epoch ~= ARGV[3] then return epoch end
  redis.call('UNLINK', unpack(KEYS))
  local of_width = tonumber(ARGV[4])
  local bucket = math.floor(now / of_width)
  redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'life', here, 'width', of_width,
    'floor', (bucket - 4) * of_width, 'head', bucket + 3)
  return ARGV[2]
end

-- spend: epoch, nonce, client, created, width, most, most of a client
local created, of_width = tonumber(ARGV[5]), tonumber(ARGV[6])
if not sound then return 'epoch' end
if width ~= of_width then return 'window' end
if epoch ~= ARGV[2] then return 'stale' end
if created < floor or created < now - 2 * width or created > now + 2 * width then return 'replayed' end

-- Empty the places that the next buckets need.
local wanted = math.floor(now / width) + 3
if wanted > head then
  for bucket = math.max(head + 1, wanted - 7), wanted do
    local place = bucket % 8
    redis.call('UNLINK', KEYS[2 + place], KEYS[10 + place])
    redis.call('HSET', KEYS[1], 'n' .. place, 0)
  end
  redis.call('HSET', KEYS[1], 'head', wanted, 'floor', math.max(floor, (wanted - 7) * width))
end

local home = math.floor(created / width) % 8
local count = tonumber(redis.call('HGET', KEYS[1], 'n' .. home) or 0)
-- Somebody deleted nonces: nobody can say which.
if redis.call('SCARD', KEYS[2 + home]) ~= count then
  redis.call('HDEL', KEYS[1], 'epoch')
  return 'epoch'
end
for place = 0, 7 do
  if redis.call('SISMEMBER', KEYS[2 + place], ARGV[3]) == 1 then return 'replayed' end
end
if count >= tonumber(ARGV[7]) then return 'full' end
if tonumber(redis.call('HGET', KEYS[10 + home], ARGV[4]) or 0) >= tonumber(ARGV[8]) then return 'full' end
redis.call('HINCRBY', KEYS[10 + home], ARGV[4], 1)
redis.call('HINCRBY', KEYS[1], 'n' .. home, 1)
redis.call('SADD', KEYS[2 + home], ARGV[3])
return 'fresh'
