-- What wrk sends: events of 1,000 signed-in learners, of the demo's kind, each with an id of its own.
-- Arguments: a file with a token a line, events a request, mean pause of a connection in milliseconds.

local tokens, headers, devices, size, pause = {}, {}, {}, 1, 0
local sent, run = 0, ""

local DOCUMENT = {
  one = "mutation ($input: TrackEventInput!) { trackEvent(input: $input) "
    .. "{ accepted rejected receivedAt userErrors { index eventId field code message } } }",
  many = "mutation ($events: [TrackEventInput!]!) { trackEvents(input: {events: $events}) "
    .. "{ accepted rejected receivedAt userErrors { index eventId field code message } } }",
}

function init(arguments)
  for token in io.lines(arguments[1]) do tokens[#tokens + 1] = token end
  size, pause = tonumber(arguments[2]), tonumber(arguments[3])
  math.randomseed(os.time() + size * 7919 + pause)
  run = string.format("%08x-%04x-4%03x", math.random(0, 2^31 - 1), math.random(0, 65535), math.random(0, 4095))
  for index, token in ipairs(tokens) do
    headers[index] = {
      ["Authorization"] = "Bearer " .. token,
      ["Content-Type"] = "application/json",
      ["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    }
    devices[index] = string.format("00000000-0000-4000-8000-%012x", index)
  end
end

local function event(user, time)
  sent = sent + 1
  local kind, site = sent % 20, 546000 + sent * 7 % 300
  local happened = string.format('"pageView":{"loadTimeMs":%d}', 100 + sent * 37 % 2000)
  if kind < 3 then
    happened = string.format('"taskCompleted":{"taskId":"%d"}', site)
  elseif kind == 3 then
    happened = string.format('"questStarted":{"questId":"%d","questTitle":"TMA %d"}', site, site)
  end
  return string.format(
    '{"eventId":"%s-8%03x-%012x","occurredAt":"%s.%03dZ","deviceId":"%s","page":{"path":"/oucontent/%d"},"event":{%s}}',
    run, size, sent, time, sent % 1000, devices[user], site, happened
  )
end

function request()
  local user = math.random(#tokens)
  -- A second back, so that no millisecond lies in the future.
  local time = os.date("!%Y-%m-%dT%H:%M:%S", os.time() - 1)
  local body
  if size == 1 then
    body = '{"query":"' .. DOCUMENT.one .. '","variables":{"input":' .. event(user, time) .. "}}"
  else
    local events = {}
    for index = 1, size do events[index] = event(user, time) end
    body = '{"query":"' .. DOCUMENT.many .. '","variables":{"events":[' .. table.concat(events, ",") .. "]}}"
  end
  return wrk.format("POST", nil, headers[user], body)
end

function delay()
  return pause == 0 and 0 or math.random(0, 2 * pause)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"seconds":%f,"failed":%d,"p50":%f,"p99":%f}\n',
    summary.requests, summary.duration / 1e6,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000
  ))
end
