-- The store: its data, and each operation on it. An operation is one run of this script, which Redis does not interrupt.
--
-- ARGV is the operation, the prefix, the time in microseconds (empty: the server's own), and the operation's arguments.
-- Redis does not undo the writes of a script that fails later. So no script fails later: if the memory is full, Redis
-- refuses the first command that needs more memory, but none after a command that only removes. Thus a send fails as a
-- whole, and all other operations begin with a ZREM: a full server accepts nothing new, but hands out and settles events.
--
--   event:N      a hash: the event N and all its fields
--   ready:Q      by the time of sending: the events of the queue Q that are due and not leased
--   turn:Q       by place: those of them that are first in their line, so that they can be handed out
--   leased:Q     by the end of the lease: the events that are leased
--   scheduled:Q  by the time when they are due: the events that are scheduled
--   dead:Q       by the tick of their death: the dead letters
--   same:Q       a hash: from source and id to N, of all living events
--   died:Q       a hash: from source, id and content to N, of all dead letters
--   id:I         by number: all living events with the id I
--   line:L:QK    by arrival: all living events of the queue Q, whose name has L bytes, with the ordering key K
--   bell:Q       one entry while turn:Q is not empty; a receiver that waits pops it
--   tick         a growing number: names of events, and places for those that come later

-- Other clients wait while a script runs. So each script has limits; the caller continues with another run.
local CHUNK = 1000  -- maximum of events that are moved, handed out or shown
local BYTES = 16 * 1024 * 1024  -- maximum of bytes of their envelopes and states; the last one may exceed it
local URGENT = 2 ^ 52  -- the place of an urgent event is this much before that of any other

local operation, prefix, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
if not now then
  local time = redis.call('TIME')
  now = time[1] * 1000000 + time[2]
end

local function key(part, name)
  return prefix .. ':' .. part .. ':' .. name
end

local function tick()
  return redis.call('INCR', prefix .. ':tick')
end

-- An event as a table: the fields that decide about it, without its body and its state.
local FIELDS = {'queue', 'same', 'id', 'line', 'urgent', 'sent', 'place', 'attempt', 'lost_leases', 'receipt'}

local function load(number)
  local values = redis.call('HMGET', key('event', number), unpack(FIELDS))
  if not values[1] then return nil end
  local event = {number = number}
  for index, field in ipairs(FIELDS) do event[field] = values[index] end
  return event
end

local function note(event, field, value)
  event[field] = value
  redis.call('HSET', key('event', event.number), field, value)
end

local function line(event)
  return prefix .. ':line:' .. #event.queue .. ':' .. event.queue .. event.line
end

local function new_place(event)
  return event.urgent and tick() - URGENT or tick()
end

-- The state of an event: while it is alive, it is in exactly one of ready, leased and scheduled.

local function leave(queue, number)
  for _, part in ipairs({'ready', 'turn', 'leased', 'scheduled'}) do
    redis.call('ZREM', key(part, queue), number)
  end
end

local function ring(queue)
  if redis.call('EXISTS', key('bell', queue)) == 0 then redis.call('RPUSH', key('bell', queue), 1) end
end

local function take_turn(event)
  if event.line and redis.call('ZRANGE', line(event), 0, 0)[1] ~= event.number then return end
  redis.call('ZADD', key('turn', event.queue), event.place, event.number)
  ring(event.queue)
end

local function be_ready(event, place)
  leave(event.queue, event.number)
  note(event, 'place', place)
  redis.call('ZADD', key('ready', event.queue), event.sent, event.number)
  take_turn(event)
end

local function be_scheduled(event, due)
  leave(event.queue, event.number)
  redis.call('ZADD', key('scheduled', event.queue), due, event.number)
end

-- A counter that another program wrote may not be a number; then it starts again.
local function next_of(counter, least)
  return (tonumber(counter) or least) + 1
end

local function lose(event)
  leave(event.queue, event.number)
  note(event, 'attempt', next_of(event.attempt, 1))
  note(event, 'lost_leases', next_of(event.lost_leases, 0))
  be_ready(event, event.place)
end

local function admit(event, due)
  if event.same then redis.call('HSET', key('same', event.queue), event.same, event.number) end
  if event.id then redis.call('ZADD', key('id', event.id), event.number, event.number) end
  if event.line then redis.call('ZADD', line(event), tick(), event.number) end
  if due > now then be_scheduled(event, due) else be_ready(event, new_place(event)) end
end

local function forget(event)
  leave(event.queue, event.number)
  if event.same then redis.call('HDEL', key('same', event.queue), event.same) end
  if event.id then redis.call('ZREM', key('id', event.id), event.number) end
  if event.line then
    redis.call('ZREM', line(event), event.number)
    local heir = redis.call('ZRANGE', line(event), 0, 0)[1]
    if heir and redis.call('ZSCORE', key('ready', event.queue), heir) then take_turn(load(heir)) end
  end
end

local function delete(event)
  forget(event)
  redis.call('DEL', key('event', event.number))
end

-- Changes by time: leases end, and scheduled events become ready. Each operation applies them to what it reads.

-- A lease that ends later than every lease of relevo is over too: another program wrote it.
local FARTHEST = 2 * 7 * 86400 * 1000000

local function is_over(part, score)
  return tonumber(score) <= now or part == 'leased' and tonumber(score) > now + FARTHEST
end

local function has_come(part, event)
  local score = redis.call('ZSCORE', key(part, event.queue), event.number)
  return score and is_over(part, score)
end

local function pass_time(event)
  if has_come('leased', event) then lose(event) end
  if has_come('scheduled', event) then be_ready(event, new_place(event)) end
end

local function sweep(queue, most)
  local moved = 0
  local ranges = {{'leased', '-inf', now}, {'leased', '(' .. string.format('%.0f', now + FARTHEST), '+inf'}, {'scheduled', '-inf', now}}
  for _, range in ipairs(ranges) do
    local part, from, to = unpack(range)
    for _, number in ipairs(redis.call('ZRANGEBYSCORE', key(part, queue), from, to, 'LIMIT', 0, most - moved)) do
      local event = load(number)
      if event then pass_time(event) else leave(queue, number) end
      moved = moved + 1
    end
  end
  return moved
end

-- A receipt belongs to one delivery, and is valid only during the lease of that delivery.
local function held(number, receipt)
  local event = load(number)
  local score = event and event.receipt == receipt and redis.call('ZSCORE', key('leased', event.queue), number)
  return score and not is_over('leased', score) and event or nil
end

-- Dead letters: separate from all of the above, each found by the tick of its death.

local function envelope_of(number)
  return redis.call('HGET', key('event', number), 'envelope') or ''
end

-- Events with the same source and id, but other contents, are different ones here: none replaces the other.
local function copies(event)
  return event.same .. redis.sha1hex(envelope_of(event.number))
end

local function raise(queue, number)
  redis.call('ZREM', key('dead', queue), number)
  local event = load(number)
  if event and event.same then redis.call('HDEL', key('died', queue), copies(event)) end
  return event
end

local function bury(event)
  local earlier = event.same and redis.call('HGET', key('died', event.queue), copies(event))
  if earlier then
    raise(event.queue, earlier)
    redis.call('DEL', key('event', earlier))
  end
  if event.same then redis.call('HSET', key('died', event.queue), copies(event), event.number) end
  redis.call('ZADD', key('dead', event.queue), tick(), event.number)
end

local function dead_at(queue, at)
  return redis.call('ZRANGEBYSCORE', key('dead', queue), at, at)[1]
end

-- The operations. Those that take several items handle them in order, and answer with the positions, from 0, of the items
-- that do not exist (any more).

local operations = {}

local function weight(...)
  local bytes = 0
  for _, part in ipairs({...}) do bytes = bytes + (part and #part or 0) end
  return bytes
end

local function missing(size, act)
  local positions = {}
  for first = 4, #ARGV, size do
    if not act(unpack(ARGV, first, first + size - 1)) then table.insert(positions, (first - 4) / size) end
  end
  return positions
end

function operations.send()
  local due = now + ARGV[4]
  for first = 5, #ARGV, 6 do
    local queue, same, id, ordering_key, urgent, envelope = unpack(ARGV, first, first + 5)
    if same == '' or redis.call('HEXISTS', key('same', queue), same) == 0 then
      local event = {number = string.format('%.0f', tick()), queue = queue, sent = now}
      local fields = {'queue', queue, 'envelope', envelope, 'sent', now, 'attempt', 1, 'lost_leases', 0, 'state', ''}
      for field, value in pairs({same = same, id = id, line = ordering_key, urgent = urgent}) do
        if value ~= '' then
          event[field] = value
          table.insert(fields, field)
          table.insert(fields, value)
        end
      end
      redis.call('HSET', key('event', event.number), unpack(fields))
      admit(event, due)
    end
  end
end

function operations.receive()
  local receipt, limit, lease = ARGV[4], math.min(tonumber(ARGV[5]), CHUNK), tonumber(ARGV[6])
  local taken, size, moved, change = {}, 0, 0, nil
  for index = 7, #ARGV do
    local queue = ARGV[index]
    moved = moved + sweep(queue, CHUNK - moved)
    for _, number in ipairs(limit > #taken and redis.call('ZRANGE', key('turn', queue), 0, limit - #taken - 1) or {}) do
      if size >= BYTES then break end
      local event = load(number)
      leave(queue, number)
      if event then
        note(event, 'receipt', receipt)
        redis.call('ZADD', key('leased', queue), now + lease, number)
        local rest = redis.call('HMGET', key('event', number), 'envelope', 'state')
        table.insert(taken, {number, queue, event.attempt, event.lost_leases, event.sent, rest[1], rest[2]})
        size = size + weight(rest[1], rest[2])
      end
    end
    if redis.call('EXISTS', key('turn', queue)) == 1 then ring(queue) else redis.call('DEL', key('bell', queue)) end
    for _, part in ipairs({'leased', 'scheduled'}) do
      local first = redis.call('ZRANGE', key(part, queue), 0, 0, 'WITHSCORES')[2]
      if first then change = math.min(change or math.huge, first - now) end
    end
  end
  return {change or -1, moved, taken}
end

local outcomes = {ack = delete, lose = lose}

function outcomes.release(event, delay)
  if tonumber(delay) > 0 then be_scheduled(event, now + delay) else be_ready(event, event.place) end
end

function outcomes.nack(event, delay)
  note(event, 'attempt', next_of(event.attempt, 1))
  if tonumber(delay) > 0 then be_scheduled(event, now + delay) else be_ready(event, new_place(event)) end
end

function outcomes.dead_letter(event, _, reason, error)
  redis.call('HSET', key('event', event.number), 'reason', reason, 'error', error, 'died', now)
  forget(event)
  bury(event)
end

function operations.settle()
  return missing(8, function(number, receipt, outcome, delay, reason, error, says_state, state)
    local event = held(number, receipt)
    if not event then return false end
    leave(event.queue, number)
    if says_state == '1' then note(event, 'state', state) end
    outcomes[outcome](event, delay, reason, error)
    return true
  end)
end

function operations.extend()
  return missing(3, function(number, receipt, lease)
    local event = held(number, receipt)
    if event then redis.call('ZADD', key('leased', event.queue), now + lease, number) end
    return event
  end)
end

function operations.checkpoint()
  return missing(3, function(number, receipt, state)
    local event = held(number, receipt)
    if event then note(event, 'state', state) end
    return event
  end)
end

function operations.stats()
  local queue = ARGV[4]
  local moved = sweep(queue, CHUNK)
  local function count(part) return redis.call('ZCARD', key(part, queue)) end
  local oldest = redis.call('ZRANGE', key('ready', queue), 0, 0, 'WITHSCORES')[2]
  return {moved, count('ready'), count('leased'), count('scheduled'), count('dead'), oldest and math.max(0, now - oldest) or -1}
end

-- Calls act for each living event with the id, after the number where the last script stopped. Returns the number where
-- this one stops, or an empty string at the end. act returns its number of bytes in the answer.
local function each_alike(act)
  local numbers = redis.call('ZRANGEBYSCORE', key('id', ARGV[4]), '(' .. ARGV[5], '+inf', 'LIMIT', 0, CHUNK)
  local size = 0
  for index, number in ipairs(numbers) do
    local event = load(number)
    if event then
      pass_time(event)
      size = size + act(event)
    end
    if size >= BYTES or index == CHUNK then return number end
  end
  return ''
end

function operations.find()
  local found = {}
  local last = each_alike(function(event)
    for _, part in ipairs({'ready', 'leased', 'scheduled'}) do
      local score = redis.call('ZSCORE', key(part, event.queue), event.number)
      if score then
        local rest = redis.call('HMGET', key('event', event.number), 'attempt', 'lost_leases', 'envelope', 'state')
        table.insert(found, {event.queue, part, rest[1], rest[2], event.sent, score, rest[3], rest[4]})
        return weight(rest[3], rest[4])
      end
    end
    return 0
  end)
  return {last, found}
end

function operations.cancel()
  local number_of_them = 0
  local last = each_alike(function(event)
    if not redis.call('ZSCORE', key('leased', event.queue), event.number) then
      delete(event)
      number_of_them = number_of_them + 1
    end
    return 0
  end)
  return {last, number_of_them}
end

function operations.purge()
  local queue, number_of_them = ARGV[4], 0
  sweep(queue, CHUNK)
  for _, part in ipairs({'ready', 'scheduled'}) do
    for _, number in ipairs(redis.call('ZRANGE', key(part, queue), 0, CHUNK - 1)) do
      local event = load(number)
      if event then delete(event) else leave(queue, number) end
      number_of_them = number_of_them + 1
    end
  end
  return number_of_them
end

function operations.dead()
  local queue, after, limit = ARGV[4], ARGV[5], ARGV[6]
  local found, size = {}, 0
  local dead = redis.call('ZRANGEBYSCORE', key('dead', queue), '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, limit)
  for index = 1, #dead, 2 do
    local fields = {'reason', 'error', 'attempt', 'lost_leases', 'sent', 'died', 'envelope', 'state'}
    local values = redis.call('HMGET', key('event', dead[index]), unpack(fields))
    table.insert(found, {dead[index + 1], unpack(values)})
    size = size + weight(unpack(values))
    if size >= BYTES then break end
  end
  return found
end

function operations.revive()
  return missing(3, function(queue, at, state)
    local number = dead_at(queue, at)
    local event = number and load(number)
    local living = event and event.same and redis.call('HGET', key('same', queue), event.same)
    if not number or living and envelope_of(living) ~= envelope_of(number) then return false end
    raise(queue, number)
    if not event then return false end
    if living then
      redis.call('DEL', key('event', number))
    else
      redis.call('HSET', key('event', event.number), 'attempt', 1, 'lost_leases', 0, 'state', state)
      redis.call('HDEL', key('event', event.number), 'reason', 'error', 'died')
      admit(event, now)
    end
    return true
  end)
end

function operations.discard()
  return missing(2, function(queue, at)
    local number = dead_at(queue, at)
    local event = number and raise(queue, number)
    if event then redis.call('DEL', key('event', number)) end
    return event
  end)
end

return operations[operation]()
