-- Reports the result of wrk as one line of JSON; sends a POST if a JSON body is the first argument.
function init(args)
   if args[1] then
      wrk.method = "POST"
      wrk.headers["Content-Type"] = "application/json"
      wrk.body = args[1]
   end
end

function done(summary, latency, requests)
   local errors = summary.errors
   io.write(string.format(
      '\n{"requests":%d,"microseconds":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
      summary.requests, summary.duration, errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
