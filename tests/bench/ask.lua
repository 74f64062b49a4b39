-- What wrk asks: one question, each time with the next of the tokens.
-- Arguments: a file with a token a line, a file with the request's body.

local requests, asked = {}, 0
local threads = {}
refused = 0

function setup(thread) threads[#threads + 1] = thread end

function init(arguments)
  local file = io.open(arguments[2])
  local body = file:read("*a")
  file:close()
  for token in io.lines(arguments[1]) do
    local headers = { ["Authorization"] = "Bearer " .. token, ["Content-Type"] = "application/json" }
    requests[#requests + 1] = wrk.format("POST", nil, headers, body)
  end
end

function request()
  asked = asked + 1
  return requests[asked % #requests + 1]
end

function response(status, headers, body)
  if status ~= 200 or body:find('"errors":', 1, true) then refused = refused + 1 end
end

function done(summary, latency)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.timeout
  for _, thread in ipairs(threads) do failed = failed + thread:get("refused") end
  io.write(string.format(
    '\n{"requests":%d,"seconds":%f,"failed":%d,"p50":%f,"p99":%f}\n',
    summary.requests, summary.duration / 1e6, failed, latency:percentile(50) / 1000, latency:percentile(99) / 1000
  ))
end
