-- The report of wrk as one line of JSON; method, content type and body size of the requests from the arguments.
function init(args)
   if args[1] == "POST" then
      wrk.method = "POST"
      wrk.headers["Content-Type"] = args[2]
      local size = tonumber(args[3])
      wrk.body = size and string.rep("x", size) or args[3]
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '\n{"requests":%d,"microseconds":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,"p50":%d,"p99":%d}\n',
      summary.requests, summary.duration, errors.connect, errors.read, errors.write, errors.status, errors.timeout,
      latency:percentile(50), latency:percentile(99)))
end
